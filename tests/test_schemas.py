"""One view of jets, truth and weights over NanoAOD, PFNano and Delphes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import NanoEventsFactory

from hepcal.errors import MissingFieldError, SchemaError
from hepcal.events.schemas import SCHEMAS, detect, detector_pt, event_field, event_weight, is_simulation, truth_jets

REAL = {
    "nano_dy.root": "nanoaod",
    "nano_dy_empty.root": "nanoaod",
    "nano_tt_v12.root": "nanoaod",
    "nano_tt_v15.root": "nanoaod",
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": "nanoaod",
    "nano_dimuon.root": "nanoaod",
    "pfnano.root": "pfnano",
}


Reader = Callable[..., ak.Array]
Writer = Callable[..., Path]


@pytest.fixture(scope="module")
def nano_events(tmp_path_factory: Any, write_nanoaod: Writer, read_events: Reader) -> ak.Array:
    return read_events(write_nanoaod(tmp_path_factory.mktemp("nano") / "toy.root"), "nanoaod")


@pytest.fixture(scope="module")
def delphes_events(tmp_path_factory: Any, write_delphes: Writer, read_events: Reader) -> ak.Array:
    return read_events(write_delphes(tmp_path_factory.mktemp("delphes") / "toy.root"), "delphes")


# -- detection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nano_tt_v12.root", "nano_dimuon.root", "pfnano.root"])
def test_the_layout_of_real_nanoaod_is_detected(shared: Path, name: str) -> None:
    path = shared / "data" / "nanoaod" / name
    with uproot.open(path) as file:
        assert detect(str(path), "Events", file["Events"].keys()).name == REAL[name]


def test_the_layout_of_real_delphes_is_detected(demo_files: dict[str, Any]) -> None:
    path = demo_files["test"].paths[0]
    with uproot.open(path) as file:
        found = detect(path, "Delphes", file["Delphes"].keys())
    assert (found.name, found.tree, found.pt) == ("delphes", "Delphes", "pt")


@pytest.mark.parametrize(
    ("tree", "branches", "schema"),
    [
        ("Events", ["nJet", "Jet_pt"], "nanoaod"),
        ("MyTree", ["Jet_pt", "Jet_eta"], "nanoaod"),
        ("Events", ["Jet_pt", "JetPFCands_pFCandsIdx"], "pfnano"),
        ("Events", ["Jet_pt", "JetPFCands_pfCandIdx"], "pfnano"),
        ("Events", ["Jet_pt", "FatJetPFCands_pFCandsIdx"], "pfnano"),
        ("Delphes", ["Jet", "Jet/Jet.PT"], "delphes"),
        ("skim", ["Jet/Jet.PT"], "delphes"),
    ],
)
def test_the_layout_follows_from_the_branches(tree: str, branches: list[str], schema: str) -> None:
    assert detect("file.root", tree, branches) is SCHEMAS[schema]


def test_an_unknown_layout_is_refused_with_what_was_found() -> None:
    with pytest.raises(SchemaError) as caught:
        detect("signal.root", "Tuples", ["muon_pt", "jet_p4"])
    for part in ("signal.root", "'Tuples'", "Jet_pt", "Jet.PT", "jet_p4", "muon_pt"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "missing"),
    [
        ("nanoaod", ["Jet_mass", "Jet_area"]),
        ("pfnano", ["Jet_mass", "Jet_area"]),
        ("delphes", ["Jet.Mass", "Jet.area"]),
    ],
)
def test_missing_fields_are_named_as_branches(schema: str, missing: list[str]) -> None:
    present = ["Jet_pt", "Jet_eta", "Jet/Jet.PT", "Jet/Jet.Eta"]
    assert SCHEMAS[schema].missing(present, "Jet", ("pt", "mass", "eta", "area")) == missing


def test_photons_of_nanoaod_make_no_noise(tmp_path: Path, write_nanoaod: Writer) -> None:
    def with_photons(content: dict[str, Any]) -> None:
        content["Photon"] = ak.zip(dict.fromkeys(("pt", "mass", "charge"), content["GenJet"].pt))

    path, layout = write_nanoaod(tmp_path / "photons.root", edit=with_photons), SCHEMAS["nanoaod"]
    # Warnings are errors in these tests.
    assert "Photon" in NanoEventsFactory.from_root({str(path): "Events"}, schemaclass=layout.coffea).events().fields


# -- jets -------------------------------------------------------------------------------------------------------------


def test_detector_level_pt_of_nanoaod_undoes_the_stored_correction(nano_events: ak.Array) -> None:
    jets = nano_events.Jet
    raw = ak.to_numpy(ak.flatten(detector_pt(jets, "raw")))
    stored, factor = (ak.to_numpy(ak.flatten(jets[name])) for name in ("pt", "rawFactor"))
    np.testing.assert_allclose(raw, stored * (1 - factor), rtol=1e-6)
    assert np.std(raw / stored) > 0.01, "the toy correction is not trivial"
    assert ak.all(detector_pt(jets, "pt") == jets.pt)


def test_delphes_jets_have_no_stored_correction_to_undo(delphes_events: ak.Array) -> None:
    assert ak.all(detector_pt(delphes_events.Jet, "pt") == delphes_events.Jet.PT)
    with pytest.raises(SchemaError, match=r"rawFactor.*Delphes.*Features\(pt='pt'\)"):
        detector_pt(delphes_events.Jet, "raw")


@pytest.mark.parametrize("events", ["nano_events", "delphes_events"])
def test_truth_jets_are_the_particle_level_jets(events: str, request: Any) -> None:
    sample = request.getfixturevalue(events)
    assert is_simulation(sample)
    assert ak.all(truth_jets(sample).pt == sample.GenJet.pt)


def test_collision_data_have_no_truth_and_say_so(tmp_path: Path, write_nanoaod: Writer, read_events: Reader) -> None:
    def as_data(content: dict[str, Any]) -> None:
        for name in ("GenJet", "GenPart", "genWeight"):
            del content[name]
        content["Jet"] = ak.without_field(content["Jet"], "genJetIdx")

    events = read_events(write_nanoaod(tmp_path / "data.root", edit=as_data), "nanoaod")
    assert not is_simulation(events)
    np.testing.assert_array_equal(event_weight(events), np.ones(len(events)))
    with pytest.raises(MissingFieldError, match=r"data\.root.*no GenJet collection.*collision data"):
        truth_jets(events)


def test_simulation_without_the_truth_of_a_closure_is_not_taken_for_data(read_events: Reader) -> None:
    events = read_events(Path(__file__).parent / "data" / "top_demo.root", "delphes")
    with pytest.raises(MissingFieldError, match=r"top_demo\.root.*simulation \(it has GenFatJet\) without a GenJet"):
        is_simulation(events)


# -- weights ----------------------------------------------------------------------------------------------------------


def test_negative_generator_weights_are_kept(nano_events: ak.Array) -> None:
    weight = event_weight(nano_events)
    assert weight.dtype == np.float64
    assert weight.shape == (len(nano_events),)
    assert set(weight) == {-1.0, 2.0}


def test_delphes_weights_come_from_the_event_record(tmp_path: Path, write_delphes: Writer, read_events: Reader) -> None:
    def spread(content: dict[str, Any]) -> None:
        values = np.linspace(-1, 1, len(content["Event"]))
        content["Event"] = ak.with_field(content["Event"], values[:, None], "Weight")

    events = read_events(write_delphes(tmp_path / "weighted.root", edit=spread), "delphes")
    np.testing.assert_allclose(event_weight(events), np.linspace(-1, 1, len(events)), rtol=1e-6)


def test_real_negative_weights_are_kept(shared: Path, real_nanoaod: Reader) -> None:
    path = shared / "data" / "nanoaod" / "nano_dy.root"
    with uproot.open(path) as file:
        stored = file["Events/genWeight"].array(library="np")
    assert (stored < 0).any(), "the sample has weights of both signs"
    np.testing.assert_array_equal(event_weight(real_nanoaod(path.name)), stored.astype(np.float64))


# -- event-level inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_rho_is_found_whatever_the_file_calls_it(shared: Path, real_nanoaod: Reader, name: str) -> None:
    path, events = shared / "data" / "nanoaod" / name, real_nanoaod(name)
    rho = event_field(events, "event_rho")
    assert rho.dtype == np.float32
    assert rho.shape == (len(events),)
    assert np.all((rho > 0) & (rho < 100)), "median p_T density in GeV"
    with uproot.open(path) as file:
        branches = file["Events"].keys(filter_name="*fixedGridRhoFastjetAll")
        np.testing.assert_array_equal(rho, file["Events"][branches[0]].array(library="np"))


@pytest.mark.parametrize("name", ["nano_tt_v12.root", "nano_tt_v15.root", "nanoAOD_2015_CMS_Open_Data_ttbar.root"])
def test_primary_vertices_are_counted(real_nanoaod: Reader, name: str) -> None:
    npv = event_field(real_nanoaod(name), "event_npv")
    assert np.all((npv >= 0) & (npv < 200))
    assert npv.max() > 1


def test_any_number_of_the_event_is_an_event_level_input(nano_events: ak.Array) -> None:
    np.testing.assert_array_equal(event_field(nano_events, "event_genWeight"), event_weight(nano_events))


@pytest.mark.parametrize(
    ("events", "name", "tried"),
    [
        ("delphes_events", "event_rho", "Rho.fixedGridRhoFastjetAll, fixedGridRhoFastjetAll, Rho.Rho"),
        ("nano_events", "event_npv", "PV.npvs"),
        ("nano_events", "event_pileup", "pileup"),
    ],
)
def test_a_missing_event_level_input_says_what_was_looked_for(events: str, name: str, tried: str, request: Any) -> None:
    sample = request.getfixturevalue(events)
    with pytest.raises(MissingFieldError) as caught:
        event_field(sample, name)
    assert repr(name) in str(caught.value)
    assert f"looked for {tried}" in str(caught.value)
    assert "Jet" in str(caught.value), "and what there is"
