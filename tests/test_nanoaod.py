"""Real NanoAOD of five eras, collision data and PFNano: jets in are jets out, and nothing else is touched or read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from coffea.processor import IterativeExecutor, Runner
from hepcal.processors import DijetProcessor, ResponseProcessor

from hepcal import JetPairs, load_fileset
from hepcal.errors import HepcalError, MissingFieldError, PairsError, ReadError
from hepcal.events.executors import open_executor
from hepcal.events.features import DEFAULT_FEATURES
from hepcal.events.running import run
from hepcal.events.schemas import SCHEMAS, detector_pt, event_field
from hepcal.methods.calibrator import Calibrator

SIMULATION = (
    "nano_dy.root",
    "nano_tt_v12.root",
    "nano_tt_v15.root",
    "nanoAOD_2015_CMS_Open_Data_ttbar.root",
    "pfnano.root",
)
DATA = "nano_dimuon.root"
EMPTY = "nano_dy_empty.root"
ALL = (*SIMULATION, DATA, EMPTY)
COLUMNS = {
    "pt_calib": np.float32,
    "pt_calib_sigma_stoch": np.float32,
    "pt_calib_sigma_pred": np.float32,
    "pt_calib_sigma_tot": np.float32,
    "pt_calib_in_range": np.bool_,
}
DECLARED = {f"Jet_{name}" for name in DEFAULT_FEATURES["nanoaod"].jet_fields} | {"nJet"}

Reader = Callable[[str], ak.Array]


def flat(values: ak.Array) -> np.ndarray:
    return ak.to_numpy(ak.flatten(values))


def schema_of(name: str) -> Any:
    return SCHEMAS["pfnano" if name == "pfnano.root" else "nanoaod"]


class Attach:
    """What an analyst writes: a processor of three lines."""

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator

    def __call__(self, events: ak.Array) -> dict[str, Any]:
        jets = self.calibrator(events.Jet)
        columns = {name: flat(jets[name]).tolist() for name in COLUMNS}
        return {"jets_in": ak.num(events.Jet).to_list(), "jets_out": ak.num(jets).to_list(), **columns}


@pytest.fixture(scope="module")
def attached(shared: Path, nano_calibrator: Calibrator) -> Callable[[str], dict[str, Any]]:
    """The output and metrics of coffea's Runner with a processor that only attaches and reads columns."""

    @functools.cache
    def attach(name: str) -> dict[str, Any]:
        schema = schema_of(name)
        runner = Runner(
            executor=IterativeExecutor(status=False), schema=schema.coffea, savemetrics=True, metadata_cache={}
        )
        fileset = {name: {"files": {str(shared / "data" / "nanoaod" / name): schema.tree}}}
        return runner.run(fileset, Attach(nano_calibrator))

    return attach


@pytest.mark.parametrize("name", ALL)
def test_jets_in_are_jets_out(attached: Callable[[str], dict[str, Any]], name: str) -> None:
    out = attached(name)["out"]
    assert out["jets_in"] == out["jets_out"]
    assert all(len(out[column]) == sum(out["jets_in"]) for column in COLUMNS)
    assert (sum(out["jets_in"]) == 0) == (name == EMPTY)


@pytest.mark.parametrize("name", ALL)
def test_only_the_declared_features_are_read(attached: Callable[[str], dict[str, Any]], name: str) -> None:
    # coffea names what it read as branch and kind of buffer: Jet_pt-data, nJet-offsets.
    branches = {column.rsplit("-", 1)[0] for column in attached(name)["metrics"]["columns"]}
    assert branches == DECLARED


def test_nothing_is_read_until_a_column_is_used(shared: Path, read_events: Any, nano_calibrator: Calibrator) -> None:
    log: list[Any] = []
    events = read_events(shared / "data" / "nanoaod" / "nano_tt_v12.root", "nanoaod", access_log=log)
    jets = nano_calibrator(events.Jet)
    assert {access.branch for access in log} <= {"nJet"}, "attaching reads at most the number of jets"
    ak.materialize(jets.pt_calib)
    assert {access.branch for access in log} == DECLARED


@pytest.mark.parametrize("name", ALL)
def test_all_columns_are_attached_with_the_right_types(
    real_nanoaod: Reader, nano_calibrator: Calibrator, name: str
) -> None:
    events = real_nanoaod(name)
    jets = nano_calibrator(events.Jet)
    assert set(jets.fields) - set(events.Jet.fields) == {*COLUMNS, "calib_pred"}
    assert set(events.Jet.fields) <= set(jets.fields)
    assert ak.num(jets).to_list() == ak.num(events.Jet).to_list()
    for column, dtype in COLUMNS.items():
        assert flat(jets[column]).dtype == dtype


@pytest.mark.parametrize("name", [*SIMULATION, DATA])
def test_columns_are_momenta_in_gev(real_nanoaod: Reader, nano_calibrator: Calibrator, name: str) -> None:
    events = real_nanoaod(name)
    jets = nano_calibrator(events.Jet)
    raw = flat(detector_pt(events.Jet, "raw"))
    np.testing.assert_array_equal(flat(nano_calibrator.reco(jets)), raw)
    scale = flat(jets.pt_calib) / raw
    # Trained on toys: the scale is wrong for these jets, the units are not.
    assert np.all((scale > 0.2) & (scale < 5))
    stoch, pred, tot = (flat(jets[f"pt_calib_sigma_{part}"]) for part in ("stoch", "pred", "tot"))
    assert np.all((stoch > 0) & (pred > 0))
    np.testing.assert_allclose(tot, np.hypot(stoch, pred), rtol=1e-5)


@pytest.mark.parametrize("name", SIMULATION)
def test_matched_gen_still_works(real_nanoaod: Reader, nano_calibrator: Calibrator, name: str) -> None:
    events = real_nanoaod(name)
    expected = events.Jet.matched_gen.pt.to_list()
    jets = nano_calibrator(events.Jet)
    assert any(pt is not None for event in expected for pt in event)
    for collection in (jets, jets.calib_pred.up, jets.calib_pred.down, nano_calibrator(events.Jet, replace=True)):
        assert collection.matched_gen.pt.to_list() == expected
    central = np.abs(events.Jet.eta) < 2.5
    assert jets[central].matched_gen.pt.to_list() == events.Jet[central].matched_gen.pt.to_list()


@pytest.mark.parametrize("name", ALL)
def test_systematics_are_jets_shifted_by_sigma_pred(
    real_nanoaod: Reader, nano_calibrator: Calibrator, name: str
) -> None:
    jets = nano_calibrator(real_nanoaod(name).Jet)
    for side, sign in (("up", 1), ("down", -1)):
        varied = jets.calib_pred[side]
        np.testing.assert_array_equal(flat(varied.pt), flat(jets.pt_calib) + sign * flat(jets.pt_calib_sigma_pred))
        ratio = flat(varied.pt).astype(np.float64) / flat(jets.pt)
        np.testing.assert_allclose(flat(varied.mass), flat(jets.mass) * ratio, rtol=1e-6)
        assert varied.px.ndim == 2, "they are still four-vectors"


@pytest.mark.parametrize("name", ALL)
def test_replace_keeps_the_originals_and_scales_the_mass_alike(
    real_nanoaod: Reader, nano_calibrator: Calibrator, name: str
) -> None:
    before = real_nanoaod(name).Jet
    after = nano_calibrator(before, replace=True)
    np.testing.assert_array_equal(flat(after.pt_orig), flat(before.pt))
    np.testing.assert_array_equal(flat(after.mass_orig), flat(before.mass))
    np.testing.assert_array_equal(flat(after.pt), flat(after.pt_calib))
    ratio = flat(after.pt).astype(np.float64) / flat(before.pt)
    np.testing.assert_allclose(flat(after.mass), flat(before.mass) * ratio, rtol=1e-6)
    np.testing.assert_array_equal(flat(after.eta), flat(before.eta))
    assert "pt_orig" not in nano_calibrator(before).fields


@pytest.mark.parametrize("name", ALL)
def test_rho_of_the_event_reaches_its_jets(real_nanoaod: Reader, rho_calibrator: Calibrator, name: str) -> None:
    events = real_nanoaod(name)
    attached = flat(rho_calibrator(events.Jet, event=events).pt_calib)
    rho = np.repeat(event_field(events, "event_rho"), ak.to_numpy(ak.num(events.Jet)))
    table = np.stack([flat(events.Jet.eta), flat(events.Jet.area), rho], axis=1)
    predicted = rho_calibrator.predict(table, flat(detector_pt(events.Jet, "raw")))
    np.testing.assert_array_equal(attached, predicted.mean)


def test_rho_follows_the_jets_through_a_selection(real_nanoaod: Reader, rho_calibrator: Calibrator) -> None:
    events = real_nanoaod("nano_tt_v12.root")
    chosen = events.Jet.pt > 50
    all_jets = rho_calibrator(events.Jet, event=events).pt_calib
    assert rho_calibrator(events.Jet[chosen], event=events).pt_calib.to_list() == all_jets[chosen].to_list()
    busy = ak.num(events.Jet) > 4
    assert rho_calibrator(events.Jet[busy], event=events[busy]).pt_calib.to_list() == all_jets[busy].to_list()


def test_event_level_inputs_need_the_events_of_the_jets(real_nanoaod: Reader, rho_calibrator: Calibrator) -> None:
    events = real_nanoaod("nano_tt_v12.root")
    with pytest.raises(MissingFieldError, match=r"event_rho.*calibrator\(jets, event=events\)"):
        rho_calibrator(events.Jet)
    with pytest.raises(HepcalError, match="10 lists of jets but 200 events"):
        rho_calibrator(events.Jet[:10], event=events)


# -- collision data ---------------------------------------------------------------------------------------------------


def test_collision_data_fill_spectra_and_leave_truth_histograms_empty(
    shared: Path, nano_calibrator: Calibrator
) -> None:
    fileset = load_fileset({"data": {"files": [str(shared / "data" / "nanoaod" / DATA)]}})
    with open_executor("iterative") as executor:
        output = run(fileset, DijetProcessor(nano_calibrator), executor, show=False).output
    hists, counts = output["hists"], output["counts"]["data"]
    assert counts["events"] == 40
    assert 0 < counts["selected"] <= 40
    for level in ("reco", "calib"):
        assert hists["mjj"][{"level": level}].sum(flow=True).value == counts["selected"]
        assert hists["pt"][{"level": level}].sum(flow=True).value == 2 * counts["selected"]
    filled = {name for name, h in hists.items() if h.values(flow=True).any()}
    assert filled == {"mjj", "pt"}
    assert hists["mjj"][{"level": "truth"}].sum(flow=True).value == 0


def test_collision_data_leave_response_histograms_empty(real_nanoaod: Reader, nano_calibrator: Calibrator) -> None:
    output = ResponseProcessor(nano_calibrator).process(real_nanoaod(DATA))
    assert output["events"] == 40
    assert not any(h.values(flow=True).any() for h in output["hists"]["test"].values())


# -- training tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIMULATION)
def test_training_jets_have_a_sensible_response(shared: Path, name: str) -> None:
    files = {"MC": {"files": [str(shared / "data" / "nanoaod" / name)]}}
    pairs = JetPairs.from_fileset(files, show=False)
    assert pairs.source["schema"] == ("pfnano" if name == "nano_tt_v15.root" else schema_of(name).name)
    assert pairs.spec == DEFAULT_FEATURES["nanoaod"]
    assert len(pairs) + pairs.source["unmatched"] == pairs.source["truth_jets"]
    # Where leptons are left out, softer jets follow, of which more have no partner.
    every = JetPairs.from_fileset(files, keep_leptons=True, show=False)
    assert len(every) > 0.7 * every.source["truth_jets"]
    assert len(pairs) <= len(every)
    # At most the two leading particle-level jets of an event.
    assert np.unique(pairs.event, return_counts=True)[1].max() == 2
    assert len(np.unique(pairs.event)) <= pairs.source["events"]
    # Uncorrected jets, down to 10 GeV in the older samples.
    assert 0.85 < np.median(pairs.reco / pairs.truth) < 1.15


def test_collision_data_cannot_be_trained_on(shared: Path) -> None:
    with pytest.raises((PairsError, ReadError), match=rf"{DATA}.*GenJet"):
        JetPairs.from_fileset({"data": {"files": [str(shared / "data" / "nanoaod" / DATA)]}}, show=False)


def test_a_file_without_events_cannot_be_trained_on(tmp_path: Path, write_nanoaod: Callable[..., Path]) -> None:
    path = write_nanoaod(tmp_path / "empty.root", events=0)
    with pytest.raises(PairsError, match="no matched jets"):
        JetPairs.from_fileset({"empty": {"files": [str(path)]}}, show=False)
