"""The threshold of the files is a property of their selection, and says from which p_T on it does no harm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from sample_files import delphes_file, nanoaod_file

import hepcal
from hepcal import JetPairs
from hepcal.errors import IncompleteRunError, PairsError
from hepcal.events.features import Features
from hepcal.events.filesets import Fileset
from hepcal.events.threshold import count, threshold_of
from hepcal.methods.card import SourceCard
from hepcal.methods.training.task import truncated_below

EVENTS, CUT = 300, 150.0
PLAIN = Features(inputs=("eta",))
THRESHOLD = ("reco_threshold", "truncated_below", "truncated_below_truth")
Build = Callable[..., Fileset]


def with_cut(content: dict[str, Any]) -> None:
    """Only jets with a corrected p_T of 150 GeV and more, as NanoAOD cuts; raw ones go lower."""
    jets = content["Jet"]
    content["Jet"] = jets[jets["pt" if "pt" in jets.fields else "PT"] > CUT]


def with_soft(**changed: float) -> Callable[[dict[str, Any]], None]:
    """One soft jet far from any truth, in event 5."""

    def edit(content: dict[str, Any]) -> None:
        with_cut(content)
        jets = content["Jet"]
        soft = {name: np.zeros(1) for name in jets.fields} | {"pt": [151.0], "eta": [4.5], "genJetIdx": [-1]}
        soft |= {name: [value] for name, value in changed.items()}
        some = ak.unflatten(ak.zip(soft), (np.arange(len(jets)) == 5).astype(int))
        content["Jet"] = ak.concatenate([jets, some], axis=1)

    return edit


def source(fileset_of: Build, *paths: Path, chunksize: int = 1000, spec: Features = PLAIN) -> dict[str, Any]:
    pairs = JetPairs.from_fileset(fileset_of(*paths), spec, chunksize=chunksize, show=False)
    return {name: pairs.source.get(name) for name in THRESHOLD}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: Any) -> Path:
    return nanoaod_file(tmp_path_factory.mktemp("cut") / "plain.root", EVENTS, edit=with_cut)


def test_the_threshold_is_that_of_the_variable_that_was_cut_on(plain: Path, fileset_of: Build) -> None:
    pairs = JetPairs.from_fileset(fileset_of(plain), PLAIN, show=False)
    # Raw p_T is 0.8 to 1.1 of the corrected one.
    assert pairs.reco.min() < 0.95 * CUT
    assert pairs.source["reco_threshold"] == pytest.approx(0.95 * CUT, rel=0.03)
    assert pairs.source["truncated_below"] == pytest.approx(1.5 * 0.95 * CUT, rel=0.03)
    corrected = source(fileset_of, plain, spec=Features(inputs=("eta",), pt="pt"))
    assert corrected["reco_threshold"] == pytest.approx(CUT, rel=0.02)
    assert corrected["truncated_below"] == pytest.approx(1.5 * CUT, rel=0.02)


@pytest.mark.parametrize("chunksize", [11, 1000])
@pytest.mark.parametrize("raw_factor", [1.0, np.nan, 0.9])
def test_one_soft_jet_without_a_partner_moves_nothing(
    plain: Path, tmp_path: Path, fileset_of: Build, raw_factor: float, chunksize: int
) -> None:
    path = nanoaod_file(tmp_path / "soft.root", EVENTS, edit=with_soft(rawFactor=raw_factor))
    assert source(fileset_of, path, chunksize=chunksize) == source(fileset_of, plain)


def test_a_stray_jet_below_the_cut_moves_nothing(plain: Path, tmp_path: Path, fileset_of: Build) -> None:
    path = nanoaod_file(tmp_path / "stray.root", EVENTS, edit=with_soft(pt=1.6))
    found, expected = source(fileset_of, path), source(fileset_of, plain)
    assert found["reco_threshold"] == pytest.approx(expected["reco_threshold"], rel=0.006)


def test_the_highest_cut_of_several_data_sets_counts(tmp_path: Path) -> None:
    low = delphes_file(tmp_path / "low.root", EVENTS)
    high = delphes_file(tmp_path / "high.root", EVENTS, seed=1, edit=with_cut)
    metadata = {"cross_section": 1.0}
    files = {name: {"files": [str(path)], "metadata": metadata} for name, path in (("low", low), ("high", high))}
    pairs = JetPairs.from_fileset(files, PLAIN, show=False)
    assert pairs.source["reco_threshold"] == pytest.approx(CUT, rel=0.02)


@pytest.mark.parametrize("value", [np.nan, 1.0, np.inf])
def test_a_partner_without_a_raw_momentum_is_refused_with_file_and_entry(
    tmp_path: Path, fileset_of: Build, value: float
) -> None:
    jets_before: list[int] = []

    def edit(content: dict[str, Any]) -> None:
        jets = content["Jet"]
        counts = ak.to_numpy(ak.num(jets))
        event = int(np.flatnonzero(counts == 2)[5])
        jets_before.append(event)
        factor = ak.to_numpy(ak.flatten(jets.rawFactor)).copy()
        factor[counts[:event].sum()] = value
        content["Jet"] = ak.with_field(jets, ak.unflatten(factor, counts), "rawFactor")

    path = nanoaod_file(tmp_path / "raw.root", 60, edit=edit)
    with pytest.raises(IncompleteRunError) as caught:
        JetPairs.from_fileset(fileset_of(path), PLAIN, chunksize=7, show=False)
    assert "detector-level pt" in str(caught.value)
    assert "raw.root [" in str(caught.value)
    assert f"entry {jets_before[0]})" in str(caught.value)


# -- what a threshold does ---------------------------------------------------------------------------------------------


def sample(width: float, n: int, cut: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A falling spectrum, and a Gaussian response of 0.9."""
    rng = np.random.default_rng(seed)
    truth = 0.4 * cut * (1 - rng.random(n)) ** (-1 / 3)
    return truth, truth * rng.normal(0.9, 0.9 * width, n)


@pytest.mark.parametrize(("width", "margin"), [(0.08, 1.5), (0.2, 1.54), (0.3, 2.38)])
def test_above_the_limit_the_threshold_moves_no_median(width: float, margin: float) -> None:
    cut = 10.0
    truth, reco = sample(width, 400_000, cut)
    kept = reco > cut
    found = threshold_of({"": count(reco[kept], truth, kept, reco[kept], reco[kept])})
    assert found.reco == pytest.approx(cut, rel=0.006)
    assert found.truncated_below == pytest.approx(margin * cut, rel=0.12)
    response = np.random.default_rng(2).normal(0.9, 0.9 * width, 400_000) * found.truth
    assert abs(np.median(response[response > cut]) / np.median(response) - 1) < 0.0125


def test_parts_add_up_to_the_whole() -> None:
    truth, reco = sample(0.3, 5_000, 10.0)
    kept = reco > 10

    def counted(part: slice) -> dict[str, np.ndarray]:
        inside = reco[part][kept[part]]
        return count(inside, truth[part], kept[part], inside, inside)

    halves = [counted(slice(0, 1_234)), counted(slice(1_234, None))]
    together = {name: halves[0][name] + halves[1][name] for name in halves[0]}
    assert threshold_of({"": together}) == threshold_of({"": counted(slice(None))})


def test_a_gradual_turn_on_counts_where_half_of_the_truth_finds_a_partner() -> None:
    rng = np.random.default_rng(2)
    truth, reco = sample(0.1, 200_000, 10.0)
    # Soft jets of something else reach far lower than the jets of the truth.
    kept = rng.random(len(truth)) < 1 / (1 + np.exp(-(truth - 30) / 1.5))
    stored = np.concatenate([reco[kept], rng.uniform(5, 20, 100_000)])
    found = threshold_of({"": count(stored, truth, kept, reco[kept], reco[kept])})
    assert found.reco == pytest.approx(0.9 * 30, rel=0.2)


def test_a_sample_without_a_cut_has_no_threshold() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(400, 1000, 20_000)
    reco = truth * rng.normal(0.95, 0.12, len(truth))
    found = threshold_of({"": count(reco, truth, np.ones(len(truth), dtype=bool), reco, reco)})
    assert dataclasses.astuple(found) == (0.0, 0.0, 0.0)


def test_arrays_come_with_a_threshold() -> None:
    truth, reco = sample(0.3, 100_000, 10.0)
    kept = reco > 10
    arrays = {"reco": reco[kept], "truth": truth[kept]}
    features = np.zeros((int(kept.sum()), 0))
    pairs = JetPairs.from_arrays(features, [], **arrays, threshold=10.0)
    assert pairs.source["reco_threshold"] == pytest.approx(10.0)
    assert pairs.source["truncated_below"] == pytest.approx(23.8, rel=0.2)
    assert truncated_below(JetPairs.from_arrays(features, [], **arrays).source) == 0
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(PairsError, match="a threshold is a positive p_T"):
            JetPairs.from_arrays(features, [], **arrays, threshold=bad)


def test_the_limit_is_the_support_of_the_calibrator() -> None:
    truth, reco = sample(0.3, 4_000, 10.0)
    kept = reco > 10
    pairs = JetPairs.from_arrays(np.zeros((int(kept.sum()), 0)), [], reco=reco[kept], truth=truth[kept], threshold=10.0)
    method = hepcal.BNN(hidden=(8,), max_updates=20, patience=20, draws=3)
    calibrator = hepcal.train(pairs, method, seed=1, show=False)
    limit = pairs.source["truncated_below"]
    assert limit > 15
    assert calibrator.card.source.truncated_below == limit
    probe = np.array([0.98 * limit, 1.02 * limit])
    assert calibrator.predict(np.zeros((2, 0)), probe).in_range.tolist() == [False, True]


def test_tables_and_cards_without_a_limit_keep_their_meaning() -> None:
    assert truncated_below({"reco_threshold": 50.0}) == 75.0
    old = {"schema_name": "nanoaod", "files": [], "sha256": "", "jets": 1, "n_eff": 1.0, "validation_jets": 1}
    assert SourceCard.model_validate({**old, "seed": 1, "reco_threshold": 50.0}).truncated_below == 0


def test_real_nanoaod_cuts_at_a_corrected_momentum_of_15_gev(shared: Path, fileset_of: Build) -> None:
    path = shared / "data" / "nanoaod" / "nano_tt_v15.root"
    raw = source(fileset_of, path)
    # The smallest raw p_T is 5.0 GeV; raw jets at the cut are 0.88 of the corrected ones in the median.
    assert raw["reco_threshold"] == pytest.approx(0.88 * 15, rel=0.02)
    assert raw["truncated_below"] > 1.5 * raw["reco_threshold"]
    assert raw["truncated_below_truth"] > 20
