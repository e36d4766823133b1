"""The density of the true dijet mass, and the resonance made from a falling spectrum with it."""

from __future__ import annotations

import functools
import itertools
import operator
import random
from typing import Any

import hist
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from pydantic import ValidationError

from hepcal.errors import PairsError
from hepcal.statistics import longest_run, n_eff
from hepcal.tables.spectra import (
    MASS_BIN,
    MASS_BINS,
    MassDensity,
    Resonance,
    TruthDensity,
    flattening_weights,
    resonance_weights,
)

START, SLOPE = 2000.0, 400.0  # a falling exponential spectrum above a threshold [GeV]


def falling(n: int, seed: int = 1) -> np.ndarray:
    return START + np.random.default_rng(seed).exponential(SLOPE, n)


def masses_hist(mass: np.ndarray, weight: np.ndarray | None = None) -> hist.Hist:
    booked = hist.Hist(MassDensity.axis(), storage=hist.storage.Weight())
    booked.fill(mass, weight=np.ones_like(mass) if weight is None else weight)
    return booked


def density_of(mass: np.ndarray, weight: np.ndarray | None = None) -> MassDensity:
    density = MassDensity.from_hist(masses_hist(mass, weight))
    assert density is not None
    return density


# -- density ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    content=stn.arrays(float, st.integers(2, 40), elements=st.floats(1e-6, 1e6)),
    first=st.integers(0, MASS_BINS - 40),
)
def test_a_density_integrates_to_one_and_covers_all_events(content: np.ndarray, first: int) -> None:
    booked = hist.Hist(MassDensity.axis(), storage=hist.storage.Weight())
    booked.view()["value"][first : first + len(content)] = content
    density = MassDensity.from_hist(booked)
    assert density is not None
    assert sum(density.density) * MASS_BIN == pytest.approx(1, abs=1e-8)
    low, high = density.range
    assert low <= MASS_BIN * (first + 0.5)
    assert high >= MASS_BIN * (first + len(content) - 0.5)


def test_the_interpolated_density_integrates_to_one() -> None:
    density = density_of(falling(200_000))
    mass = np.linspace(*density.range, 50_001)
    # A little is lost at the threshold, where the logarithm is curved within a bin.
    assert np.trapezoid(density(mass), mass) == pytest.approx(1, abs=5e-3)


def test_a_density_is_that_of_the_sample_away_from_the_threshold() -> None:
    density = density_of(falling(500_000))
    mass = np.arange(START + 150, START + 3 * SLOPE, 10.0)
    exact = np.exp(-(mass - START) / SLOPE) / SLOPE
    # Two bins of smoothing: (50 GeV / 400 GeV)² / 2 = 0.8 % too high on an exponential, besides the statistics.
    np.testing.assert_allclose(density(mass), exact, rtol=0.06)
    assert np.mean(density(mass) / exact) == pytest.approx(1, abs=0.015)


def test_a_density_is_interpolated_in_its_logarithm() -> None:
    density = MassDensity(start=100, density=(1e-2, 1e-4, 1e-4))
    centers = 100 + MASS_BIN * np.arange(3)
    np.testing.assert_allclose(density(centers), [1e-2, 1e-4, 1e-4], rtol=1e-12)
    np.testing.assert_allclose(density(np.array([112.5, 106.25])), [1e-3, 10**-2.5], rtol=1e-12)


def test_outside_its_support_a_density_is_not_a_number() -> None:
    density = MassDensity(start=100, density=(1e-2, 1e-2))
    assert density.range == (100, 125)
    mass = np.array([99.9, 100, 125, 125.1, np.nan, -np.inf, np.inf])
    np.testing.assert_array_equal(np.isfinite(density(mass)), [False, True, True, False, False, False, False])


def test_the_support_is_one_run_the_longest() -> None:
    lonely, bulk = np.full(10, 112.0), np.arange(3012.5, 4012.5, MASS_BIN)
    density = density_of(np.concatenate([lonely, bulk]))
    low, high = density.range
    assert 2500 < low <= 3012.5
    assert 3987.5 <= high < 4500
    assert np.isnan(density(lonely)).all()


@pytest.mark.parametrize(
    ("mass", "weight"), [([], 1.0), ([13_000.0, 14_000.0], 1.0), ([2000.0, 2500.0], -1.0)], ids=str
)
def test_without_events_of_positive_weight_there_is_no_density(mass: list[float], weight: float) -> None:
    assert MassDensity.from_hist(masses_hist(np.array(mass), np.full(len(mass), weight))) is None


@pytest.mark.parametrize("density", [(), (0.04,), (0.02, 0.0), (0.02, -0.01)])
def test_densities_that_are_none_are_refused(density: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="at least two bins, all positive"):
        MassDensity(start=0, density=density)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e3])
def test_a_density_stays_positive_beside_a_bin_of_negative_content(size: float) -> None:
    mass = falling(20_000)
    density = density_of(np.append(mass, START - 10), np.append(np.ones_like(mass), -size))
    assert min(density.density) > 0
    assert sum(density.density) * MASS_BIN == pytest.approx(1, abs=1e-8)
    assert np.isfinite(density(np.array([2500.0, 2800.0]))).all()


def test_too_few_effective_events_give_no_density() -> None:
    mass = falling(20_000)
    assert MassDensity.from_hist(masses_hist(mass[:40])) is None
    assert MassDensity.from_hist(masses_hist(mass, np.where(np.arange(len(mass)) == 0, 1e5, 1.0))) is None


def chunks_of(mass: np.ndarray, weight: np.ndarray) -> list[hist.Hist]:
    parts = zip(np.array_split(mass, 17), np.array_split(weight, 17), strict=True)
    return [masses_hist(*part) for part in parts]


def merged(chunks: list[hist.Hist], order: int) -> MassDensity:
    shuffled = list(chunks)
    random.Random(order).shuffle(shuffled)  # noqa: S311
    density = MassDensity.from_hist(functools.reduce(operator.add, shuffled))
    assert density is not None
    return density


@pytest.mark.parametrize("weight", ["ones", "tiny, signed"])
def test_the_order_of_merging_does_not_reach_the_hash(weight: str) -> None:
    mass, rng = falling(20_000), np.random.default_rng(5)
    weights = np.ones_like(mass) if weight == "ones" else rng.normal(1, 0.5, len(mass)) * 1e-9
    chunks = chunks_of(mass, weights)
    assert len({merged(chunks, order).sha256 for order in range(10)}) == 1


def test_the_order_of_merging_changes_a_density_by_rounding_only() -> None:
    mass, rng = falling(20_000), np.random.default_rng(6)
    chunks = chunks_of(mass, rng.normal(1, 0.5, len(mass)))
    first, *others = (np.array(merged(chunks, order).density) for order in range(10))
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-9)


def test_the_hash_tells_densities_apart_and_survives_json() -> None:
    densities = [density_of(falling(5_000, seed)) for seed in (1, 2)]
    assert densities[0].sha256 != densities[1].sha256
    assert MassDensity.model_validate_json(densities[0].model_dump_json()).sha256 == densities[0].sha256


# -- resonance --------------------------------------------------------------------------------------------------------


def moments(mass: np.ndarray, weight: np.ndarray) -> tuple[float, float, float, float]:
    """Mean and width of a weighted sample, with their statistical errors for a Gaussian."""
    mean = np.average(mass, weights=weight)
    width = np.sqrt(np.average((mass - mean) ** 2, weights=weight))
    n = n_eff(weight)
    return mean, width, width / np.sqrt(n), width / np.sqrt(2 * n)


@pytest.mark.parametrize(("peak", "width"), [(2800.0, 100.0), (2500.0, 60.0), (2800.0, 10.0)])
def test_a_falling_spectrum_becomes_a_gaussian_resonance(peak: float, width: float) -> None:
    mass = falling(400_000)
    weight, inside = Resonance(mass=peak, width=width).weights(mass, np.ones_like(mass), density_of(mass))
    mean, spread, mean_unc, spread_unc = moments(mass, weight)
    assert mean == pytest.approx(peak, abs=5 * mean_unc)
    assert spread == pytest.approx(width, abs=5 * spread_unc + 1e-3 * width)
    assert inside[np.abs(mass - peak) < 3 * width].all()
    # A Gaussian integrates to one, so the weights of a sample of density p_QCD average to one.
    assert np.mean(weight) == pytest.approx(1, abs=5 / np.sqrt(n_eff(weight)) + 0.01)


def test_the_effective_number_of_events_is_about_the_share_under_the_peak() -> None:
    """n_eff = N p_QCD(M) 2 sqrt(pi) width for a peak that is narrow against the spectrum."""
    mass = falling(400_000)
    weight, _ = Resonance(mass=2500, width=20).weights(mass, np.ones_like(mass), density_of(mass))
    density = np.exp(-(2500 - START) / SLOPE) / SLOPE
    assert n_eff(weight) == pytest.approx(len(mass) * density * 2 * np.sqrt(np.pi) * 20, rel=0.05)


def test_weighted_density_with_weights_and_unweighted_density_without_agree() -> None:
    """The two consistent conventions for a sample of weighted events give the same resonance."""
    rng = np.random.default_rng(3)
    mass = 2000 + rng.uniform(0, 1600, 300_000)  # generated flat, weighted to a falling spectrum
    slice_weight = 1e-9 * np.exp(-(mass - 2000) / SLOPE)
    ones, resonance = np.ones_like(mass), Resonance(mass=2800, width=100)
    weighted, _ = resonance.weights(mass, slice_weight, density_of(mass, slice_weight))
    unweighted, _ = resonance.weights(mass, ones, density_of(mass))
    for weight in (weighted, unweighted):
        mean, width, mean_unc, width_unc = moments(mass, weight)
        assert mean == pytest.approx(2800, abs=5 * mean_unc)
        assert width == pytest.approx(100, abs=5 * width_unc)
    normalised = [weight / weight.sum() for weight in (weighted, unweighted)]
    edges = np.linspace(2550, 3050, 21)
    shapes = [np.histogram(mass, edges, weights=weight)[0] for weight in normalised]
    np.testing.assert_allclose(*shapes, rtol=0.03)


def sliced(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masses of a falling spectrum generated in three slices of pT-hat, n events each, and their slice weights."""
    rng, edges, power = np.random.default_rng(seed), (1000.0, 1400.0, 1800.0, np.inf), 8.0
    masses, weights = [], []
    for low, high in itertools.pairwise(edges):
        above, below = low**-power, high**-power  # cumulative cross sections of pT-hat^-(power + 1)
        pt_hat = (above - (above - below) * rng.random(n)) ** (-1 / power)
        masses.append(2 * pt_hat * (1 + rng.normal(0, 0.08, n) + rng.exponential(0.08, n)))
        weights.append(np.full(n, 1e6 * (above - below) / n))
    return np.concatenate(masses), np.concatenate(weights)


@pytest.mark.parametrize(("peak", "width"), [(2800.0, 100.0), (3600.0, 100.0)])
def test_both_conventions_agree_on_slices_of_very_different_weights(peak: float, width: float) -> None:
    """The peaks lie on the boundaries of slices, whose weights differ by factors of 16 and 6."""
    mass, weight = sliced(150_000, seed=8)
    assert weight.max() / weight.min() > 100
    resonance = Resonance(mass=peak, width=width)
    found = {
        convention: resonance_weights(mass, weight, resonance, convention=convention)
        for convention in ("weighted", "unweighted")
    }
    edges = np.linspace(peak - 2.5 * width, peak + 2.5 * width, 21)
    shapes, errors, means = [], [], []
    for made in found.values():
        mean, spread, mean_unc, spread_unc = moments(mass, made.weight)
        assert mean == pytest.approx(peak, abs=5 * mean_unc)
        assert spread == pytest.approx(width, abs=5 * spread_unc)
        means.append(mean)
        total = made.weight.sum()
        shapes.append(np.histogram(mass, edges, weights=made.weight)[0] / total)
        errors.append(np.sqrt(np.histogram(mass, edges, weights=made.weight**2)[0]) / total)
    pulls = (shapes[0] - shapes[1]) / np.hypot(*errors)
    # The same events fill both shapes: their difference is smaller than that of independent ones.
    assert np.sum(pulls**2) < len(pulls)
    assert means[0] == pytest.approx(means[1], abs=0.02 * width)
    assert found["unweighted"].n_eff > 1.3 * found["weighted"].n_eff


def test_conventions_are_those_of_the_density_and_its_weights() -> None:
    mass, weight = sliced(20_000, seed=9)
    expected, inside = Resonance().weights(mass, weight, density_of(mass, weight))
    found = resonance_weights(mass, weight)
    np.testing.assert_array_equal(found.weight, expected)
    np.testing.assert_array_equal(found.inside, inside)
    assert (found.n_eff, found.outside) == (n_eff(expected), int((~inside).sum()))
    expected, _ = Resonance().weights(mass, np.ones_like(mass), density_of(mass))
    np.testing.assert_array_equal(resonance_weights(mass, weight, convention="unweighted").weight, expected)


def test_dropping_weights_keeps_out_what_had_none_and_refuses_signs() -> None:
    mass = np.append(falling(5_000), np.full(5_000, 2800.0))
    weight = np.append(np.ones(5_000), np.zeros(5_000))
    found = resonance_weights(mass, weight, convention="unweighted")
    assert not found.weight[5_000:].any()
    weight[0] = -1
    assert resonance_weights(mass, weight).weight[0] <= 0
    with pytest.raises(ValueError, match="1 negative weights cannot be dropped"):
        resonance_weights(mass, weight, convention="unweighted")
    with pytest.raises(ValueError, match="too few events for a density"):
        resonance_weights(mass[:10])
    with pytest.raises(ValueError, match="cannot have weights of shape"):
        resonance_weights(mass, weight[:3])


def test_mixed_conventions_do_not_give_the_resonance() -> None:
    """Weighted density without weights: the slope of the weights stays in the peak. Guards the test above."""
    rng = np.random.default_rng(3)
    mass = 2000 + rng.uniform(0, 1600, 300_000)
    slice_weight = np.exp(-(mass - 2000) / SLOPE)
    wrong, _ = Resonance().weights(mass, np.ones_like(mass), density_of(mass, slice_weight))
    assert abs(moments(mass, wrong)[0] - 2800) > 20  # width² / slope = 25 GeV


def test_events_outside_the_density_have_weight_zero_and_are_counted() -> None:
    mass = np.array([2800.0, 50.0, np.nan, 11_990.0])
    weight, inside = Resonance().weights(mass, np.ones(4), density_of(falling(20_000)))
    np.testing.assert_array_equal(inside, [True, False, False, False])
    assert weight[0] > 0
    np.testing.assert_array_equal(weight[1:], 0)


def test_signs_and_scale_of_the_event_weights_are_kept() -> None:
    mass, density = falling(1_000), density_of(falling(20_000))
    sign = np.where(np.arange(1_000) % 7, 1.0, -1.0)
    plain, _ = Resonance().weights(mass, np.ones(1_000), density)
    signed, _ = Resonance().weights(mass, 1e-9 * sign, density)
    np.testing.assert_allclose(signed, 1e-9 * sign * plain, rtol=1e-12)


@settings(deadline=None)
@given(split=st.lists(st.integers(0, 500), max_size=4))
def test_the_weights_of_an_event_do_not_depend_on_its_chunk(split: list[int]) -> None:
    mass, density = falling(500), density_of(falling(20_000))
    whole, _ = Resonance().weights(mass, np.ones(500), density)
    bounds = itertools.pairwise([0, *sorted(split), 500])
    parts = [Resonance().weights(mass[a:b], np.ones(b - a), density)[0] for a, b in bounds]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_default_resonance_is_the_documented_one() -> None:
    assert Resonance() == Resonance(mass=2800.0, width=100.0)


# -- flattening -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["weighted", "unweighted"])
def test_flattened_spectra_are_flat(convention: str) -> None:
    mass, weight = sliced(100_000, seed=3)
    chosen = (mass > 2300) & (mass < 4500)
    mass, weight = mass[chosen], weight[chosen]
    found = flattening_weights(mass, weight, convention=convention)
    edges = np.linspace(2310, 4490, 18)  # not the bins of the density
    content, squares = (np.histogram(mass, edges, weights=found.weight**power)[0] for power in (1, 2))
    # The density is from the same events: a bin of 5 % follows their fluctuations, which leaves less than these errors.
    assert np.sum((content - content.mean()) ** 2 / squares) < 1.5 * len(content)
    np.testing.assert_allclose(content / content.mean(), 1, atol=0.05)
    assert found.outside == 0
    assert 0.02 < found.n_eff / len(mass) < 1
    assert n_eff(weight) < len(mass)


def test_both_conventions_flatten_alike_and_differ_in_effective_number() -> None:
    mass, weight = sliced(100_000, seed=4)
    chosen = (mass > 2300) & (mass < 4500)
    found = [flattening_weights(mass[chosen], weight[chosen], convention=c) for c in ("weighted", "unweighted")]
    shapes = [np.histogram(mass[chosen], 12, weights=f.weight / f.weight.sum())[0] for f in found]
    np.testing.assert_allclose(*shapes, rtol=0.06)
    assert found[1].n_eff > 1.3 * found[0].n_eff


def test_the_truth_density_of_a_power_law_is_one() -> None:
    low, power = 700.0, 5.0
    truth = low * (1 - (np.arange(200_000) + 0.5) / 200_000) ** (-1 / power)
    density = TruthDensity.from_sample(truth)
    at = np.geomspace(710, 2000, 100)
    exact = power / low * (at / low) ** -(power + 1)
    # Bin averages of a power law are 0.4 % above it; half a per cent and more of statistics in the tail.
    np.testing.assert_allclose(density(at), exact, rtol=0.05)
    assert np.mean(density(at) / exact) == pytest.approx(1, abs=0.01)
    fine = np.linspace(*density.range, 20_001)
    assert np.trapezoid(density(fine), fine) == pytest.approx(1, abs=0.01)
    assert TruthDensity.model_validate_json(density.model_dump_json()) == density


def test_jets_outside_the_support_have_weight_zero_and_are_counted() -> None:
    truth = np.append(np.random.default_rng(2).uniform(500, 1000, 10_000), [5.0, 3000.0, 3001.0])
    found = flattening_weights(truth, edges=np.linspace(500, 1000, 11))
    assert found.outside == 3
    np.testing.assert_array_equal(found.weight[-3:], 0)
    assert n_eff(found.weight) == pytest.approx(10_000, rel=0.01)  # it was flat
    # Default bins: a lone jet far away has no density either.
    assert flattening_weights(truth[:-2]).outside >= 1


def test_signs_survive_flattening() -> None:
    truth, rng = falling(20_000), np.random.default_rng(4)
    sign = np.where(rng.random(20_000) < 0.1, -1.0, 1.0)
    found = flattening_weights(truth, 1e-9 * sign)
    np.testing.assert_array_equal(np.sign(found.weight[found.inside]), sign[found.inside])


def test_a_smooth_density_of_ones_own() -> None:
    truth = falling(1_000)
    found = flattening_weights(truth, density=lambda z: np.where(z < 2500, np.exp(-z / SLOPE), np.nan))
    inside = truth < 2500
    np.testing.assert_array_equal(found.inside, inside)
    np.testing.assert_allclose(found.weight[inside], np.exp(truth[inside] / SLOPE))
    with pytest.raises(ValueError, match="edges are those of a density"):
        flattening_weights(truth, density=lambda z: z, edges=(1, 2))


def test_truth_densities_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="too few for a density"):
        TruthDensity.from_sample(np.full(100, 500.0), edges=(400, 600, 800))
    with pytest.raises(ValueError, match="no jets"):
        flattening_weights(np.empty(0))
    with pytest.raises(ValidationError, match="at least two bins"):
        TruthDensity(edges=(1, 2), density=(1.0,))
    with pytest.raises(ValidationError, match="positive and increase"):
        TruthDensity(edges=(0, 1, 2), density=(1.0, 1.0))


# -- effective number of entries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ([], 0),
        ([0.0, 0.0], 0),
        ([2.0] * 7, 7),
        ([1.0, 0.0, 0.0], 1),
        ([3.0, 1.0], 1.6),
        ([1.0, 1.0, -1.0], 1 / 3),
        ([1.0, -1.0], 0),
    ],
)
def test_effective_number_of_entries(weight: list[float], expected: float) -> None:
    assert n_eff(np.array(weight)) == pytest.approx(expected)
    assert n_eff(np.array(weight)) == n_eff(np.array(weight))


def test_effective_number_of_float32_weights_is_that_in_float64() -> None:
    weight = np.random.default_rng(1).uniform(0, 1e-25, 10_000).astype(np.float32)  # squares underflow in float32
    assert n_eff(weight) == n_eff(weight.astype(np.float64)) == pytest.approx(7500, rel=0.02)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], (0, 0)),
        ([False, False], (0, 0)),
        ([True], (0, 1)),
        ([True, False, True, True, False], (2, 4)),
        ([True, True, False, True, True], (0, 2)),
        ([False, True, True, True], (1, 4)),
    ],
)
def test_longest_run_of_flags(flags: list[bool], expected: tuple[int, int]) -> None:
    assert longest_run(flags) == longest_run(np.array(flags, dtype=bool)) == expected


WEIGHT = stn.arrays(float, st.integers(1, 50), elements=st.floats(1e-3, 1e3))


@given(weight=WEIGHT, factor=st.floats(1e-9, 1e9))
def test_effective_number_is_between_one_and_all_and_has_no_scale(weight: np.ndarray, factor: float) -> None:
    assert 1 - 1e-9 <= n_eff(weight) <= len(weight) * (1 + 1e-9)
    assert n_eff(weight * factor) == pytest.approx(n_eff(weight))


@pytest.mark.parametrize(("column", "bad"), [("truth", np.nan), ("truth", 0.0), ("truth", -5.0), ("truth", np.inf),
                                             ("weight", np.nan), ("weight", np.inf)])  # fmt: skip
@pytest.mark.parametrize("convention", ["weighted", "unweighted"])
@pytest.mark.parametrize("density", [None, lambda z: np.exp(-z / SLOPE)], ids=["own", "given"])
def test_flattening_refuses_what_is_no_truth_or_weight(column: str, bad: float, convention: str, density: Any) -> None:
    columns = {"truth": falling(500), "weight": np.ones(500)}
    columns[column][7] = bad
    with pytest.raises(PairsError, match=rf"'{column}' is .* in 1 of 500 rows, first in row 7 \({bad:g}\)"):
        flattening_weights(**columns, convention=convention, density=density)  # type: ignore[arg-type]
    if column == "weight":
        with pytest.raises(PairsError, match="'weight' is NaN or infinite in 1 of 500"):
            resonance_weights(mass=columns["truth"], weight=columns["weight"])


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf])
def test_flattening_refuses_a_density_that_cannot_divide(bad: float) -> None:
    with pytest.raises(PairsError, match="'density' is zero, negative or infinite at a truth in 1 of 3 rows"):
        flattening_weights(np.array([100.0, 200.0, 300.0]), density=lambda z: np.where(z == 200, bad, 1.0))
    # Outside of its support is NaN, and counted.
    found = flattening_weights(np.array([100.0, 200.0]), density=lambda z: np.where(z == 200, np.nan, 2.0))
    assert (found.weight.tolist(), found.outside) == ([0.5, 0.0], 1)


def test_the_effective_number_does_not_depend_on_the_unit_of_the_weights():
    weight = np.random.default_rng(1).normal(1, 2, 1000)
    expected = np.sum(weight) ** 2 / np.sum(weight**2)
    for power in (-900, -600, 0, 300, 600, 1000):
        assert n_eff(np.ldexp(weight, power)) == expected
    assert n_eff(np.zeros(3)) == n_eff(np.empty(0)) == 0
