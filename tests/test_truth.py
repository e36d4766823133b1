"""The truth: which particle-level jets it is, and what is refused because no figure can be made from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from hepcal.processors import DijetProcessor, ResponseProcessor, SurveyProcessor
from hepcal.processors.selection import LeadingPair
from sample_files import delphes_file, nanoaod_file

from hepcal import JetPairs
from hepcal.closure.results import describe_pairs
from hepcal.errors import IncompleteRunError
from hepcal.events.executors import open_executor
from hepcal.events.features import Features
from hepcal.events.filesets import Fileset
from hepcal.events.running import run
from hepcal.methods.calibrator import Calibrator

EVENTS = 60
PLAIN = Features(inputs=("eta",))
Build = Callable[..., Fileset]
Edit = Callable[[dict[str, Any]], None]


def event_with(number: int, content: dict[str, Any]) -> int:
    """An event with exactly so many jets, all matched."""
    return int(np.flatnonzero(ak.to_numpy(ak.num(content["GenJet"])) == number)[5])


def changed(where: list[int], collection: str, field: str, value: float, number: int = 2) -> Edit:
    """The first jet of an event with two, or another number of them, has another value of a field; notes the event."""

    def edit(content: dict[str, Any]) -> None:
        jets, event = content[collection], event_with(number, content)
        counts = ak.to_numpy(ak.num(jets))
        name = field if field in jets.fields else {"pt": "PT", "eta": "Eta", "phi": "Phi", "mass": "Mass"}[field]
        column = ak.to_numpy(ak.flatten(jets[name])).copy()
        column[counts[:event].sum()] = value
        content[collection] = ak.with_field(jets, ak.unflatten(column, counts), name)
        where.append(event)

    return edit


def refusal(job: Callable[[], Any]) -> str:
    with pytest.raises(IncompleteRunError) as caught:
        job()
    return str(caught.value)


def processed(processor: Any, fileset: Fileset) -> Any:
    with open_executor("iterative") as executor:
        return run(fileset, processor, executor, chunksize=13, show=False).output


BAD_TRUTH = [("pt", np.nan), ("pt", -5.0), ("pt", 0.0), ("pt", np.inf), ("eta", np.nan), ("phi", np.inf)]


@pytest.mark.parametrize(("field", "value"), BAD_TRUTH)
def test_truth_that_is_no_number_is_refused_with_file_entry_and_value(
    tmp_path: Path, fileset_of: Build, nano_calibrator: Calibrator, field: str, value: float
) -> None:
    where: list[int] = []
    files = fileset_of(nanoaod_file(tmp_path / "truth.root", EVENTS, edit=changed(where, "GenJet", field, value)))
    jobs = [
        lambda: JetPairs.from_fileset(files, PLAIN, chunksize=13, show=False),
        lambda: processed(DijetProcessor(nano_calibrator), files),
        lambda: processed(ResponseProcessor(nano_calibrator), files),
    ]
    jobs += [lambda: processed(SurveyProcessor(), files)]
    for job in jobs:
        told = refusal(job)
        assert "truth.root [" in told
        if value <= 0 and len(where) == 1:
            assert "positive" in told
        assert f"{field} of GenJet is {value:g} in entry {where[0]} (1 of" in told


@pytest.mark.parametrize("value", [-5.0, 0.0, -np.inf])
@pytest.mark.parametrize("layout", [nanoaod_file, delphes_file])
def test_a_truth_jet_that_lost_its_pt_does_not_leave_its_place_to_the_next_one(
    tmp_path: Path, fileset_of: Build, layout: Callable[..., Path], value: float
) -> None:
    where: list[int] = []
    files = fileset_of(layout(tmp_path / "three.root", EVENTS, edit=changed(where, "GenJet", "pt", value, number=3)))
    for job in (lambda: JetPairs.from_fileset(files, PLAIN, show=False), lambda: processed(SurveyProcessor(), files)):
        assert f"pt of GenJet is {value:g} in entry {where[0]} (1 of" in refusal(job)


@pytest.mark.parametrize("collection", ["GenJet", "Jet"])
def test_a_mass_that_is_no_number_is_refused_where_dijet_masses_are_made(
    tmp_path: Path, fileset_of: Build, rho_calibrator: Calibrator, collection: str
) -> None:
    where: list[int] = []
    files = fileset_of(nanoaod_file(tmp_path / "mass.root", EVENTS, edit=changed(where, collection, "mass", np.nan)))
    told = refusal(lambda: processed(DijetProcessor(rho_calibrator), files))
    assert f"mass of {collection} is nan in entry {where[0]} (1 of" in told
    if collection == "GenJet":
        told = refusal(lambda: processed(SurveyProcessor(), files))
        assert f"mass of GenJet is nan in entry {where[0]} (1 of" in told
    assert len(JetPairs.from_fileset(files, PLAIN, show=False)) > 60, "a table has no masses"


@pytest.mark.parametrize("field", ["eta", "phi"])
def test_a_jet_without_a_direction_is_not_taken_for_unmatched(tmp_path: Path, fileset_of: Build, field: str) -> None:
    where: list[int] = []
    path = delphes_file(tmp_path / "jets.root", EVENTS, edit=changed(where, "Jet", field, np.nan))
    told = refusal(lambda: JetPairs.from_fileset(fileset_of(path), PLAIN, chunksize=13, show=False))
    assert f"{field} of Jet is nan in entry {where[0]} (1 of" in told


def test_momenta_of_data_are_looked_at_as_well(tmp_path: Path, fileset_of: Build, rho_calibrator: Calibrator) -> None:
    where: list[int] = []

    def as_data(content: dict[str, Any]) -> None:
        changed(where, "Jet", "mass", np.nan)(content)
        for name in ("GenJet", "GenPart", "genWeight"):
            del content[name]
        content["Jet"] = ak.without_field(content["Jet"], "genJetIdx")

    files = fileset_of(nanoaod_file(tmp_path / "data.root", EVENTS, edit=as_data))
    assert "mass of Jet is nan" in refusal(lambda: processed(DijetProcessor(rho_calibrator), files))


# -- leptons -----------------------------------------------------------------------------------------------------------

# A Z to two muons, one dressed by a photon, a b jet with a soft muon of a hadron in it, a jet with a prompt muon of a
# third of its p_T, and a tau: p_T, eta, phi.
JETS = [(50.0, 0.0, 0.0), (48.0, 1.0, 1.0), (45.0, -1.0, 2.0), (40.0, 2.0, -1.0), (35.0, -2.0, -2.0), (30.0, 0.5, 3.0)]
MUON, TAU, PROMPT, LAST = 13, 15, 1, 1 << 13
GENPART = [  # p_T, eta, phi, PDG number, status, flags
    (49.0, 0.01, 0.01, MUON, 1, PROMPT),
    (20.0, 1.01, 1.0, -MUON, 1, PROMPT),
    (30.0, -1.0, 2.01, MUON, 1, 0),
    (13.0, 2.0, -1.01, MUON, 1, PROMPT),
    (44.0, -2.0, -2.02, -TAU, 2, PROMPT | LAST),
    (30.0, 0.5, -3.0, MUON, 1, PROMPT),
]
LEPTONS = (0, 1, 4, 5)


def records(names: tuple[str, ...], rows: list[Any], n: int = EVENTS) -> ak.Array:
    columns = np.array(rows, dtype=float).T
    return ak.unflatten(ak.zip(dict(zip(names, (np.tile(c, n) for c in columns), strict=True))), np.full(n, len(rows)))


def with_leptons(content: dict[str, Any]) -> None:
    truth = records(("pt", "eta", "phi"), JETS)
    content["GenJet"] = ak.with_field(truth, truth.pt / 10, "mass")
    jets = {name: ak.zeros_like(truth.pt) for name in content["Jet"].fields}
    jets |= {"pt": 0.9 * truth.pt, "eta": truth.eta, "phi": truth.phi, "mass": truth.pt / 10}
    content["Jet"] = ak.zip({**jets, "genJetIdx": ak.local_index(truth.pt)})
    part = records(("pt", "eta", "phi", "pdgId", "status", "statusFlags"), GENPART)
    for name in ("pdgId", "status", "statusFlags"):
        part = ak.with_field(part, ak.values_astype(part[name], np.int32), name)
    content["GenPart"] = part
    content["GenDressedLepton"] = records(("pt", "eta", "phi"), [(47.0, 1.0, 1.0)])
    content["genWeight"] = np.ones(EVENTS)


@pytest.fixture(scope="module")
def with_muons(tmp_path_factory: Any) -> Path:
    return nanoaod_file(tmp_path_factory.mktemp("leptons") / "muons.root", EVENTS, edit=with_leptons)


def test_leptons_are_left_out_counted_and_reported(with_muons: Path, fileset_of: Build) -> None:
    pairs = JetPairs.from_fileset(fileset_of(with_muons), PLAIN, chunksize=17, show=False)
    np.testing.assert_allclose(np.unique(pairs.truth), [40, 45])
    assert len(pairs) == 2 * EVENTS
    assert pairs.source["leptons"] == 2 * EVENTS
    assert pairs.source["leptons_by"] == ["GenDressedLepton+GenPart"]
    assert dict(describe_pairs(pairs))["leptons"] == (
        "120 leading truth jets are prompt leptons, left out (by GenDressedLepton+GenPart)"
    )
    kept = JetPairs.from_fileset(fileset_of(with_muons), PLAIN, keep_leptons=True, show=False)
    np.testing.assert_allclose(np.unique(kept.truth), [48, 50])
    assert (kept.source["leptons"], kept.source["keep_leptons"]) == (0, True)
    assert dict(describe_pairs(kept))["leptons"] == "truth jets that are prompt leptons are kept"


def dijet_mass_of(jets: list[tuple[float, float, float]]) -> float:
    energy, x, y, z = np.sum(
        [(np.hypot(p * np.cosh(e), p / 10), p * np.cos(f), p * np.sin(f), p * np.sinh(e)) for p, e, f in jets], axis=0
    )
    return float(np.sqrt(energy**2 - x**2 - y**2 - z**2))


@pytest.mark.parametrize(("keep", "chosen"), [(False, [2, 3]), (True, [0, 1])])
def test_a_closure_has_the_same_truth_as_a_training(
    with_muons: Path, fileset_of: Build, read_events: Any, rho_calibrator: Calibrator, keep: bool, chosen: list[int]
) -> None:
    pair = LeadingPair.of(read_events(with_muons, "nanoaod"), (), keep_leptons=keep)
    assert pair.truth.pt.to_list() == EVENTS * [[JETS[i][0] for i in chosen]]
    assert ak.all(pair.matched)
    counts = processed(DijetProcessor(rho_calibrator, keep_leptons=keep), fileset_of(with_muons))["counts"]["QCD"]
    assert (counts["selected"], counts["leptons"]) == (EVENTS, 0 if keep else 2 * EVENTS)
    masses = processed(SurveyProcessor(keep_leptons=keep), fileset_of(with_muons))["masses"]["QCD"]
    assert masses[complex(0, dijet_mass_of([JETS[i] for i in chosen]))].value == EVENTS


def test_files_that_do_not_tell_leptons_say_so(tmp_path: Path, fileset_of: Build) -> None:
    pairs = JetPairs.from_fileset(fileset_of(delphes_file(tmp_path / "plain.root", EVENTS)), PLAIN, show=False)
    assert pairs.source["leptons"] == 0
    assert pairs.source["leptons_by"] == []
    assert "do not tell" in dict(describe_pairs(pairs))["leptons"]


def test_leptons_of_delphes_are_those_without_a_hadron_above_them(tmp_path: Path, fileset_of: Build) -> None:
    particles = [  # PT, Eta, Phi, PID, Status, M1
        (0.0, 0.0, 0.0, 23, 2, -1),
        (49.0, 0.01, 0.01, MUON, 2, 0),
        (49.0, 0.01, 0.01, MUON, 1, 1),
        (48.0, 1.0, 1.0, 511, 2, -1),
        (30.0, 1.0, 1.0, MUON, 1, 3),
        (44.0, -1.0, 2.0, TAU, 2, 0),
        (30.0, -1.0, 2.0, -11, 1, 5),
    ]

    def edit(content: dict[str, Any]) -> None:
        truth = records(("PT", "Eta", "Phi"), JETS)
        content["GenJet"] = ak.with_field(truth, truth.PT / 10, "Mass")
        jets = {name: ak.zeros_like(truth.PT) for name in content["Jet"].fields}
        content["Jet"] = ak.zip(
            {**jets, "PT": 0.9 * truth.PT, "Eta": truth.Eta, "Phi": truth.Phi, "Mass": truth.PT / 10}
        )
        content["Particle"] = records(("PT", "Eta", "Phi", "PID", "Status", "M1"), particles)
        content["Particle"] = ak.with_field(content["Particle"], ak.zeros_like(content["Particle"].PT), "Mass")

    path = delphes_file(tmp_path / "leptons.root", EVENTS, edit=edit)
    pairs = JetPairs.from_fileset(fileset_of(path), PLAIN, show=False)
    np.testing.assert_allclose(np.unique(pairs.truth), [40, 48])
    assert pairs.source["leptons"] == EVENTS
    assert pairs.source["leptons_by"] == ["Particle"]


@pytest.mark.parametrize(("name", "rows", "leptons"), [("nano_dy.root", 27, 56), ("nano_tt_v12.root", 397, 35)])
def test_leptons_of_real_files(shared: Path, fileset_of: Build, name: str, rows: int, leptons: int) -> None:
    pairs = JetPairs.from_fileset(fileset_of(shared / "data" / "nanoaod" / name), PLAIN, show=False)
    assert (len(pairs), pairs.source["leptons"]) == (rows, leptons)
