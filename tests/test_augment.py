"""Random numbers by jet, changes of constituents, noisy labels: what stays, what moves, and no order matters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import hepcal
from hepcal import augment
from hepcal.augment import four_vectors
from hepcal.errors import PairsError
from hepcal.events.constituents import Constituents
from hepcal.tables import random as identity

# -- random numbers by jet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_words_are_those_of_philox(counter, key, expected):
    """The known answers of Random123, the reference implementation."""
    words = identity._rounds([np.array([[word]], dtype=np.uint64) for word in counter], tuple(map(np.uint64, key)))
    assert tuple(int(word[0, 0]) for word in words) == expected


def test_uniform_numbers_are_uniform_and_normal_ones_normal():
    jets = identity.identity_of(np.arange(50_000), np.full(50_000, 500.0))
    drawn, normal = identity.uniform(7, jets, 4), identity.normal(7, jets, 4)
    assert 0 < drawn.min() < drawn.max() < 1
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01
    assert stats.kstest(normal.ravel(), "norm").pvalue > 0.01
    n = normal.size
    assert normal.mean() == pytest.approx(0, abs=4 / n**0.5)
    assert normal.var() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)
    assert (normal**4).mean() == pytest.approx(3, abs=4 * (96 / n) ** 0.5)
    assert np.abs(normal).max() < identity.LARGEST_NORMAL


def test_places_streams_seeds_and_jets_are_independent():
    jets = identity.identity_of(np.arange(100_000), np.full(100_000, 500.0))
    one = identity.normal(7, jets, 4, stream=1)
    others = [
        identity.normal(7, jets, 4, stream=2)[:, 0],
        identity.normal(8, jets, 4, stream=1)[:, 0],
        np.roll(one[:, 0], 1),
        *one.T[1:],
    ]
    for other in others:
        for left, right in ((one[:, 0], other), (one[:, 0] ** 2, other**2)):
            assert np.corrcoef(left, right)[0, 1] == pytest.approx(0, abs=4 / 100_000**0.5)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**64 - 1), sizes=st.lists(st.integers(0, 9), min_size=2, max_size=2), at=st.integers(0, 99))
def test_a_jet_gets_the_same_numbers_in_any_company(seed, sizes, at):
    jets = identity.identity_of(np.arange(100), np.linspace(400, 500, 100))
    few, many = sorted(sizes)
    for draw in (identity.uniform, identity.normal):
        everything = draw(seed, jets, many, stream=3)
        order = np.random.default_rng(at).permutation(100)
        assert draw(seed, jets[order], many, stream=3).tobytes() == everything[order].tobytes()
        assert draw(seed, jets[at : at + 1], few, stream=3).tobytes() == everything[at : at + 1, :few].tobytes()


def test_many_jets_do_not_depend_on_the_part_they_are_computed_in(monkeypatch):
    jets = identity.identity_of(np.arange(3_000), np.linspace(400, 500, 3_000))
    expected = identity.normal(1, jets, 50)
    monkeypatch.setattr(identity, "_CACHED", 333)
    assert identity.normal(1, jets, 50).tobytes() == expected.tobytes()


def test_jets_are_told_apart_by_event_and_momentum():
    event, reco = np.meshgrid(np.arange(1_000) << 40, np.linspace(400, 401, 200, dtype=np.float32))
    found = identity.identity_of(event.ravel(), reco.ravel())
    assert found.dtype == np.uint64
    assert len(np.unique(found)) == found.size
    assert identity.identity_of(event[0], reco[0].astype(np.float64)).tobytes() == found[: event.shape[1]].tobytes()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="a seed lies between 0 and 2"):
        identity.uniform(seed, np.zeros(1, dtype=np.uint64), 1)
    with pytest.raises(ValueError, match="a stream lies between 0 and 2"):
        identity.uniform(0, np.zeros(1, dtype=np.uint64), 1, stream=seed << 1 if seed > 0 else seed)


# -- changes of constituents ------------------------------------------------------------------------------------------


def columns_of(vectors: np.ndarray) -> np.ndarray:
    """Columns of the layout from (n, count, 4), sorted by p_T."""
    pt = np.hypot(vectors[..., 1], vectors[..., 2])
    order = np.argsort(-pt, axis=1, kind="stable")
    return np.take_along_axis(vectors, order[..., None], axis=1).reshape(len(vectors), -1).astype(np.float32)


def jets_of(seed: int, n: int = 60, count: int = 6, spread: float = 0.4) -> np.ndarray:
    """Jets along +x with up to ``count`` constituents, every second of which is massive, and at least one."""
    rng = np.random.default_rng(seed)
    pt = 50 * rng.exponential(size=(n, count)) + 1
    eta, phi = spread * rng.normal(size=(2, n, count))
    mass = np.where(rng.random((n, count)) < 0.5, 0.5 * pt, 0)
    momentum = pt[..., None] * np.stack([np.cos(phi), np.sin(phi), np.sinh(eta)], axis=-1)
    energy = np.sqrt((momentum**2).sum(-1) + mass**2)
    vectors = np.concatenate([energy[..., None], momentum], axis=-1)
    vectors[np.arange(count) >= rng.integers(1, count + 1, n)[:, None]] = 0
    return columns_of(vectors)


def as_vectors(block: np.ndarray) -> np.ndarray:
    return block.astype(np.float64).reshape(len(block), -1, 4)


def pt_of(vectors: np.ndarray) -> np.ndarray:
    return np.hypot(vectors[..., 1], vectors[..., 2])


def mass_squared(vectors: np.ndarray) -> np.ndarray:
    return vectors[..., 0] ** 2 - (vectors[..., 1:] ** 2).sum(-1)


def axis_of(vectors: np.ndarray) -> np.ndarray:
    """Azimuth and rapidity of the sum."""
    total = vectors.sum(axis=1)
    return np.stack([np.arctan2(total[:, 2], total[:, 1]), np.arctanh(total[:, 3] / total[:, 0])])


def numbers(block: np.ndarray) -> np.ndarray:
    return identity.identity_of(np.arange(len(block)), np.full(len(block), 500.0))


Change = Callable[..., augment.Augmented]
CHANGES: dict[str, Change] = {
    "scale": lambda block, jets, **more: augment.scale_constituents(block, -0.15, **more),
    "leading": lambda block, jets, **more: augment.scale_leading(block, 0.2, **more),
    "noise": lambda block, jets, **more: augment.smear_constituents(block, 0.4, seed=3, identity=jets, **more),
    "pile-up": lambda block, jets, **more: augment.overlay_pileup(
        block, 4, radius=0.8, mean_pt=20, seed=3, identity=jets, **more
    ),
}
NOTHING: dict[str, Change] = {
    "scale": lambda block, jets, **more: augment.scale_constituents(block, 0.0, **more),
    "leading": lambda block, jets, **more: augment.scale_leading(block, 1.0, **more),
    "noise": lambda block, jets, **more: augment.smear_constituents(block, 0.0, seed=3, identity=jets, **more),
    "pile-up": lambda block, jets, **more: augment.overlay_pileup(
        block, 0.0, radius=0.8, seed=3, identity=jets, **more
    ),
}


@pytest.mark.parametrize("frame", ["jet", "lab"])
@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 7))
def test_the_layout_is_rebuilt_and_four_vectors_stay_physical(name, frame, seed, count):
    block = jets_of(seed, 20, count)
    found = CHANGES[name](block, numbers(block), frame=frame)
    Constituents(count=count).check(found.constituents)
    assert found.constituents.dtype == np.float32
    vectors = as_vectors(found.constituents)
    pt = pt_of(vectors)
    assert np.all(pt[:, 1:] <= pt[:, :-1] * (1 + 2e-6))
    there = vectors[..., 0] > 0
    assert np.all(mass_squared(vectors)[there] > -4e-7 * vectors[there][:, 0] ** 2)
    if name != "pile-up":
        assert np.array_equal(there, as_vectors(block)[..., 0] > 0)
        assert np.all(found.left_out == 0)
        before, after = as_vectors(block), vectors
        assert found.ratio == pytest.approx(pt_of(after.sum(axis=1)) / pt_of(before.sum(axis=1)), rel=1e-5)
    if frame == "jet" and not found.left_out.any():
        assert axis_of(vectors) == pytest.approx(axis_of(as_vectors(block)), abs=2e-6)


@pytest.mark.parametrize("name", ["scale", "leading", "noise"])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_mass_scales_with_the_four_vector(name, seed):
    """m / p_T of every constituent is what it was, in the frame of the jet, too: E² - p² = factor² m²."""
    block = jets_of(seed, 20)
    found = CHANGES[name](block, numbers(block))
    before, after = as_vectors(block), as_vectors(found.constituents)
    there = before[..., 0] > 0
    ratios = [
        np.sort(np.where(there, mass_squared(v) / np.where(there, pt_of(v), 1) ** 2, np.inf), axis=1)
        for v in (before, after)
    ]
    assert np.where(there, ratios[0], 0) == pytest.approx(np.where(there, ratios[1], 0), abs=1e-4)


@pytest.mark.parametrize("frame", ["jet", "lab"])
@pytest.mark.parametrize("name", NOTHING)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_change_is_the_identity(name, frame, seed):
    block = jets_of(seed)
    found = NOTHING[name](block, numbers(block), frame=frame)
    assert found.constituents.tobytes() == block.tobytes()
    assert np.array_equal(found.ratio, np.ones(len(block)))
    assert not found.left_out.any()


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), at=st.integers(0, 59))
def test_a_jet_changes_alike_in_any_company(name, seed, at):
    block = jets_of(seed)
    jets, order = numbers(block), np.random.default_rng(seed).permutation(len(block))
    whole = CHANGES[name](block, jets)
    for rows in (order, order[:7], np.array([at])):
        found = CHANGES[name](block[rows], jets[rows])
        assert found.constituents.tobytes() == whole.constituents[rows].tobytes()
        assert found.ratio.tobytes() == whole.ratio[rows].tobytes()
        assert np.array_equal(found.left_out, whole.left_out[rows])


@pytest.mark.parametrize("name", CHANGES)
def test_the_parts_that_are_worked_on_do_not_matter(name, monkeypatch):
    block = jets_of(1)
    whole = CHANGES[name](block, numbers(block))
    monkeypatch.setattr(four_vectors, "JETS_AT_ONCE", 7)
    found = CHANGES[name](block, numbers(block))
    assert found.constituents.tobytes() == whole.constituents.tobytes()


def test_more_slots_change_nothing_but_the_padding():
    block = jets_of(2)
    padded = np.concatenate([block, np.zeros((len(block), 40), dtype=np.float32)], axis=1)
    for name in ("scale", "leading", "noise"):
        found, expected = (CHANGES[name](b, numbers(block)).constituents for b in (padded, block))
        assert found[:, : block.shape[1]].tobytes() == expected.tobytes()
        assert not found[:, block.shape[1] :].any()


def test_a_coherent_scale_scales_everything():
    block = jets_of(3)
    found = augment.scale_constituents(block, 0.1)
    assert found.constituents == pytest.approx(1.1 * block, rel=1e-6, abs=1e-4)
    assert found.ratio == pytest.approx(np.full(len(block), 1.1), rel=1e-12)


def test_a_softer_leading_constituent_leads_no_more():
    vectors = np.array([[[100.0, 100, 0, 0], [60, 0, 60, 0], [0, 0, 0, 0]]])
    found = augment.scale_leading(columns_of(vectors), 0.5, frame="lab")
    assert as_vectors(found.constituents)[0] == pytest.approx(np.array([[60, 0, 60, 0], [50, 50, 0, 0], [0] * 4]))
    assert found.ratio[0] == pytest.approx(np.hypot(50, 60) / np.hypot(100, 60))
    turned = as_vectors(augment.scale_leading(columns_of(vectors), 0.5).constituents)
    assert axis_of(turned)[0] == pytest.approx(np.arctan2(60, 100), abs=1e-6)
    assert pt_of(turned)[0] == pytest.approx([60, 50, 0], rel=1e-6)


@pytest.mark.parametrize(("sigma", "spread"), [(0.1, 0.1), (0.3, 0.2985), (0.4, 0.3818)])
def test_noise_shifts_no_scale_and_keeps_factors_positive(sigma, spread):
    block = np.tile(np.float32([100, 100, 0, 0, 50, 0, 50, 0]), (50_000, 1))
    found = augment.smear_constituents(block, sigma, seed=1, identity=numbers(block), frame="lab").constituents
    vectors = as_vectors(found)
    # The one along x and the one along y, whichever leads.
    factors = np.stack([vectors[..., 1].max(axis=1) / 100, vectors[..., 2].max(axis=1) / 50])
    assert 0 < factors.min() < factors.max() < 2
    n = factors.size
    assert factors.mean() == pytest.approx(1, abs=4 * sigma / n**0.5)
    assert factors.std() == pytest.approx(spread, rel=4 / (2 * n) ** 0.5)
    assert np.corrcoef(factors)[0, 1] == pytest.approx(0, abs=4 / 50_000**0.5)


def test_pileup_is_poisson_in_number_uniform_in_area_and_exponential_in_momentum():
    n, count, mu, radius = 20_000, 30, 5.0, 0.8
    block = np.zeros((n, 4 * count), dtype=np.float32)
    eta, phi = 0.7, -2.0
    block[:, :4] = 1e6 * np.array([np.cosh(eta), np.cos(phi), np.sin(phi), np.sinh(eta)])
    found = augment.overlay_pileup(block, mu, radius=radius, mean_pt=1.5, seed=1, identity=numbers(block), frame="lab")
    assert np.array_equal(found.constituents[:, :4], block[:, :4])
    vectors = as_vectors(found.constituents)[:, 1:]
    there = vectors[..., 0] > 0
    number = there.sum(axis=1)
    assert number.mean() == pytest.approx(mu, abs=4 * (mu / n) ** 0.5)
    assert number.var() == pytest.approx(mu, rel=4 * ((2 + 1 / mu) / n) ** 0.5)
    soft = vectors[there]
    pt = np.hypot(soft[:, 1], soft[:, 2])
    assert mass_squared(soft) == pytest.approx(np.zeros(len(soft)), abs=1e-4)
    assert stats.kstest(pt, "expon", args=(0, 1.5)).pvalue > 0.01
    away = np.stack([np.arcsinh(soft[:, 3] / pt) - eta, np.arctan2(soft[:, 2], soft[:, 1]) - phi])
    away[1] = (away[1] + np.pi) % (2 * np.pi) - np.pi
    assert stats.kstest((away**2).sum(axis=0) / radius**2, "uniform").pvalue > 0.01
    angle = np.arctan2(*away) / (2 * np.pi)
    assert stats.kstest(angle + 0.5, "uniform").pvalue > 0.01


def test_pileup_without_a_slot_is_counted_and_still_part_of_the_jet():
    block = jets_of(5, 200)
    wide = np.concatenate([block, np.zeros((len(block), 4 * 40), dtype=np.float32)], axis=1)
    settings = {"mu": 6, "radius": 0.8, "mean_pt": 20.0, "seed": 1, "identity": numbers(block), "frame": "lab"}
    cut, whole = (augment.overlay_pileup(b, **settings) for b in (block, wide))
    assert not whole.left_out.any()
    assert cut.left_out.any()
    # The hardest of all are kept, and what the jet gains does not depend on the slots.
    assert cut.constituents.tobytes() == whole.constituents[:, : block.shape[1]].tobytes()
    assert np.array_equal(cut.left_out, (as_vectors(whole.constituents)[:, 6:, 0] > 0).sum(axis=1))
    assert cut.ratio.tobytes() == whole.ratio.tobytes()


def test_a_jet_without_constituents_keeps_its_momentum():
    block = np.zeros((3, 12), dtype=np.float32)
    for name, change in CHANGES.items():
        found = change(block, numbers(block))
        assert np.array_equal(found.ratio, np.ones(3))
        assert found.constituents.any() == (name == "pile-up")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b, j: augment.scale_constituents(b, -1.0), "f lies above -1"),
        (lambda b, j: augment.scale_leading(b, 0.0), "a factor on a four-vector is positive"),
        (lambda b, j: augment.smear_constituents(b, -0.1, seed=0, identity=j), "a width is not negative"),
        (lambda b, j: augment.smear_constituents(b, 0.1, seed=0, identity=j[1:]), "expected one identity per jet"),
        (lambda b, j: augment.overlay_pileup(b, -1, radius=1, seed=0, identity=j), "pile-up needs 0 <= mu"),
        (lambda b, j: augment.overlay_pileup(b, 1e6, radius=1, seed=0, identity=j), "pile-up needs 0 <= mu"),
        (lambda b, j: augment.scale_constituents(b[:, 1:], 0.1), r"expected columns E, px, py, pz"),
    ],
)
def test_nonsense_is_refused(change, message):
    block = jets_of(0)
    with pytest.raises(ValueError, match=message):
        change(block, numbers(block))


# -- tables -----------------------------------------------------------------------------------------------------------


def table(n: int = 50, truth_error: np.ndarray | None = None) -> hepcal.JetPairs:
    rng = np.random.default_rng(1)
    block = jets_of(1, n)
    reco = pt_of(as_vectors(block).sum(axis=1))
    return hepcal.JetPairs.from_arrays(
        np.concatenate([rng.normal(size=(n, 1)), block], axis=1),
        ["eta"],
        reco=reco,
        truth=1.1 * reco,
        event=np.arange(n) // 2,
        constituents=Constituents(count=6),
        truth_error=truth_error,
    )


AUGMENTATIONS = [
    augment.ScaleConstituents(fraction=0.1),
    augment.ScaleLeading(factor=0.5),
    augment.SmearConstituents(sigma=0.2, seed=3),
    augment.OverlayPileup(mu=3, radius=0.8, mean_pt=5, seed=3),
]


@pytest.mark.parametrize("change", AUGMENTATIONS, ids=lambda change: change.name)
def test_tables_change_in_constituents_and_momentum_only(change, tmp_path, monkeypatch):
    monkeypatch.setattr(augment.tables, "ROWS_AT_ONCE", 16)
    pairs = table()
    found = change(pairs)
    found.check()
    block, jets = pairs.features[:, 1:], identity.identity_of(pairs.event, pairs.reco)
    expected = change.on_constituents(block, jets, "jet")
    assert found.features[:, 1:].tobytes() == expected.constituents.tobytes()
    assert found.features[:, 0].tobytes() == pairs.features[:, 0].tobytes()
    assert found.reco == pytest.approx(pairs.reco * expected.ratio, rel=1e-7)
    for name in ("truth", "weight", "event"):
        assert np.array_equal(getattr(found, name), getattr(pairs, name))
    done = found.source["augmentations"]
    assert done[0]["name"] == change.name
    assert done[0]["left_out"] == expected.left_out.sum()
    fixed = change.model_copy(update={"update_reco": False})(pairs)
    assert fixed.reco.tobytes() == pairs.reco.tobytes()
    on_disk = change(pairs, tmp_path / "changed")
    assert isinstance(on_disk.features, np.memmap)
    assert on_disk.sha256 == found.sha256
    assert json.loads((tmp_path / "changed" / "table.json").read_text())["source"]["augmentations"] == done
    rows = np.array([30, 4, 17])
    assert change(pairs.take(rows)).sha256 == found.take(rows).sha256


def test_tables_without_constituents_are_refused():
    pairs = hepcal.JetPairs.from_arrays(np.zeros((30, 1)), ["eta"], reco=np.ones(30), truth=np.ones(30))
    with pytest.raises(PairsError, match="scale_constituents changes constituents, and the table has none"):
        augment.ScaleConstituents(fraction=0.1)(pairs)


# -- labels -----------------------------------------------------------------------------------------------------------


def labelled(n: int, **more: np.ndarray) -> hepcal.JetPairs:
    rng = np.random.default_rng(3)
    reco = rng.uniform(400, 1000, n)
    return hepcal.JetPairs.from_arrays(np.zeros((n, 1)), ["x"], reco=reco, truth=1.05 * reco, **more)


def test_labels_are_smeared_by_a_fraction_of_the_truth():
    pairs = labelled(50_000)
    found = augment.smear_labels(pairs, 0.08, seed=1)
    assert stats.kstest((found.truth - pairs.truth) / (0.08 * pairs.truth), "norm").pvalue > 0.01
    assert found.truth_error == pytest.approx(0.08 * pairs.truth, rel=1e-6)
    assert found.truth.dtype == found.truth_error.dtype == np.float32
    assert found.features is pairs.features
    assert augment.smear_labels(pairs, 0.0).truth.tobytes() == pairs.truth.tobytes()


def test_labels_are_smeared_by_their_own_errors():
    error = np.random.default_rng(5).uniform(10, 60, 50_000)
    pairs = labelled(50_000, truth_error=error)
    found = augment.smear_labels(pairs, seed=1)
    assert stats.kstest((found.truth - pairs.truth) / error, "norm").pvalue > 0.01
    other = augment.smear_labels(pairs, seed=2)
    assert np.corrcoef(found.truth - pairs.truth, other.truth - pairs.truth)[0, 1] == pytest.approx(0, abs=0.02)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_jet_keeps_its_label_in_any_company(seed):
    pairs = labelled(100)
    rows = np.random.default_rng(seed).permutation(100)[: 1 + seed % 100]
    assert augment.smear_labels(pairs.take(rows), 0.1).sha256 == augment.smear_labels(pairs, 0.1).take(rows).sha256


def test_labels_that_cannot_be_are_refused():
    pairs = labelled(5_000)
    with pytest.raises(PairsError, match=r"of 5000 smeared labels would not be positive, first in row \d+: its truth"):
        augment.smear_labels(pairs, 0.6)
    with pytest.raises(PairsError, match=r"not negative, found the fraction -0\.1"):
        augment.smear_labels(pairs, -0.1)
    with pytest.raises(PairsError, match="no column 'truth_error'"):
        augment.smear_labels(pairs)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_an_error_of_a_label_that_is_none_is_refused(value):
    error = np.ones(20, dtype=np.float32)
    error[[4, 9]] = value
    # As in a file that something else has written.
    pairs = dataclasses.replace(labelled(20), truth_error=error)
    with pytest.raises(PairsError, match=r"'truth_error' is NaN, infinite or negative in 2 of 20 rows, first in row 4"):
        augment.smear_labels(pairs)


def test_errors_of_labels_travel_with_a_table(tmp_path):
    error = np.linspace(1, 5, 50)
    plain, pairs = table(), table(truth_error=error)
    assert pairs.truth_error is not None
    assert pairs.columns == (*plain.columns, "truth_error")
    assert pairs.sha256 != plain.sha256
    rows = np.array([3, 1])
    assert pairs.take(rows).truth_error == pytest.approx(error[rows])
    first, second = pairs.split(0.5, seed=1)
    assert sorted([*first.truth_error, *second.truth_error]) == pytest.approx(error)
    assert pairs.select(pairs.spec.selected(["eta"])).truth_error is pairs.truth_error
    for one in (plain, pairs):
        one.save(tmp_path / "saved")
        again = hepcal.JetPairs.open(tmp_path / "saved")
        assert again.sha256 == one.sha256
        assert (again.truth_error is None) == (one.truth_error is None)
        assert (tmp_path / "saved" / "truth_error.npy").exists() == (one.truth_error is not None)


def test_a_table_saved_before_there_were_errors_of_labels_opens(tmp_path):
    plain = table()
    plain.save(tmp_path / "old")
    path = tmp_path / "old" / "table.json"
    card = json.loads(path.read_text())
    # Nor hashes.
    card = {name: value for name, value in card.items() if name not in ("columns", "files", "sha256")}
    path.write_text(json.dumps(card))
    assert hepcal.JetPairs.open(tmp_path / "old").sha256 == plain.sha256


def test_a_damaged_table_and_negative_errors_are_refused(tmp_path):
    pairs = table(truth_error=np.ones(50))
    pairs.save(tmp_path / "saved")
    (tmp_path / "saved" / "truth_error.npy").unlink()
    with pytest.raises(PairsError, match=r"truth_error\.npy"):
        hepcal.JetPairs.open(tmp_path / "saved")
    with pytest.raises(PairsError, match="'truth_error' is NaN, infinite or negative in 50 of 50 rows"):
        table(truth_error=-np.ones(50))
    with pytest.raises(PairsError, match=r"truth_error has the shape \(49,\)"):
        table(truth_error=np.ones(49))
