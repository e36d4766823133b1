"""Columns on awkward jets: lazy, shape-keeping, and the same whatever the layout."""

import awkward as ak
import numpy as np
import pytest
from coffea.nanoevents import DelphesSchema, NanoEventsFactory

import hepcal
from hepcal.demo import demo_fileset
from hepcal.errors import HepcalError, MissingFieldError, SchemaError
from hepcal.events.columns import JetLayoutError


def open_events(stop=300):
    log = []
    path = demo_fileset("test").paths[0]
    events = NanoEventsFactory.from_root(
        {path: "Delphes"}, schemaclass=DelphesSchema, mode="virtual", access_log=log, entry_stop=stop
    ).events()
    return events, log


def test_columns_units_and_types(small_calibrator):
    events, _ = open_events()
    jets = small_calibrator(events.Jet)
    assert ak.all(ak.num(jets) == ak.num(events.Jet))
    for name in small_calibrator.columns:
        kind = "bool" if name.endswith("in_range") else "float32"
        assert str(ak.type(jets[name])) == f"300 * var * {kind}"
    assert ak.mean((jets.pt_calib / jets.pt)[:, :2]) == pytest.approx(1.07, abs=0.03)
    assert np.allclose(
        ak.flatten(jets.pt_calib_sigma_tot) ** 2,
        ak.flatten(jets.pt_calib_sigma_stoch) ** 2 + ak.flatten(jets.pt_calib_sigma_pred) ** 2,
        rtol=1e-5,
    )


def test_attaching_reads_nothing_but_the_number_of_jets(small_calibrator):
    events, log = open_events()
    jets = small_calibrator(events.Jet, replace=True)
    assert {entry.branch for entry in log} == {"Jet_size"}
    _ = ak.to_numpy(ak.flatten(jets.pt_calib))
    read = {entry.branch.split(".")[-1] for entry in log} - {"Jet_size"}
    inputs = small_calibrator.card.features.names
    assert read == {{"eta": "Eta", "mass": "Mass"}.get(name, name) for name in inputs} | {"PT"}


def test_all_columns_come_from_one_prediction(small_calibrator, monkeypatch):
    calls = []
    original = type(small_calibrator)._columns
    spy = lambda self, *a, **options: calls.append(1) or original(self, *a, **options)  # noqa: E731
    monkeypatch.setattr(type(small_calibrator), "_columns", spy)
    events, _ = open_events()
    jets = small_calibrator(events.Jet, replace=True)
    for name in small_calibrator.columns:
        ak.materialize(jets[name])
    ak.materialize(jets.calib_pred.up.pt)
    ak.materialize(jets.mass)
    assert calls == [1]


def test_shifts_are_full_collections_and_scale_the_mass(small_calibrator):
    events, _ = open_events()
    for replace in (False, True):
        jets = small_calibrator(events.Jet, replace=replace)
        up, down = jets.calib_pred.up, jets.calib_pred.down
        assert ak.all(up.pt == jets.pt_calib + jets.pt_calib_sigma_pred)
        assert ak.all(down.pt == jets.pt_calib - jets.pt_calib_sigma_pred)
        assert np.allclose(ak.flatten(up.mass * events.Jet.pt), ak.flatten(up.pt * events.Jet.mass), rtol=1e-5)
        assert type(up).__name__ == "JetArray"
        assert ak.all(up.NCharged == events.Jet.NCharged)
        assert ak.all(up.px**2 + up.py**2 > 0)


def test_replace_keeps_the_originals(small_calibrator):
    events, _ = open_events()
    jets = small_calibrator(events.Jet, replace=True)
    assert ak.all(jets.pt == jets.pt_calib)
    assert ak.all(jets.pt_orig == events.Jet.pt)
    assert ak.all(jets.mass_orig == events.Jet.mass)
    assert np.allclose(ak.flatten(jets.mass * jets.pt_orig), ak.flatten(jets.mass_orig * jets.pt), rtol=1e-5)
    assert np.allclose(ak.flatten(jets.px), ak.flatten(jets.pt_calib * np.cos(jets.phi)), rtol=1e-4)
    plain = small_calibrator(events.Jet)
    assert ak.all(plain.pt == events.Jet.pt)
    assert "pt_orig" not in plain.fields


@pytest.mark.parametrize(
    "select",
    [
        lambda jets: jets[jets.pt > 500],
        lambda jets: jets[ak.argsort(jets.eta, axis=1)],
        lambda jets: jets[:, :2],
        lambda jets: jets[::-1],
        lambda jets: jets[ak.num(jets) > 2],
        lambda jets: jets[:0],
        lambda jets: jets[jets.pt < 0],
        lambda jets: ak.pad_none(jets, 4, clip=True),
        lambda jets: ak.mask(jets, jets.pt > 500),
        lambda jets: ak.mask(jets, ak.num(jets) > 3),
        lambda jets: ak.firsts(jets[jets.pt > 1500]),
        lambda jets: jets[:, 0],
        lambda jets: ak.to_packed(jets),
    ],
    ids=[
        "mask",
        "sort",
        "slice",
        "reverse",
        "events",
        "no_events",
        "no_jets",
        "pad",
        "mask_jets",
        "mask_events",
        "firsts",
        "flat",
        "packed",
    ],
)
def test_selection_and_calibration_commute(small_calibrator, select):
    """Bitwise: calibrating selected jets is selecting calibrated jets, with missing values where they were."""
    events, _ = open_events()
    before, after = small_calibrator(select(events.Jet)), select(small_calibrator(events.Jet))
    assert len(before) == len(after)
    for name in (*small_calibrator.columns, "pt", "mass"):
        assert ak.to_list(before[name]) == ak.to_list(after[name])
    assert ak.to_list(before.calib_pred.down.pt) == ak.to_list(after.calib_pred.down.pt)


def test_missing_fields_are_refused_at_once(small_calibrator):
    events, log = open_events()
    jets = events.Jet[[name for name in events.Jet.fields if name != "NCharged"]]
    with pytest.raises(MissingFieldError, match="no field 'NCharged'"):
        small_calibrator(jets)
    assert not [entry for entry in log if entry.branch != "Jet_size"]


def test_columns_of_two_calibrations_are_not_mixed(small_calibrator):
    events, _ = open_events()
    for replaced in (False, True):
        once = small_calibrator(events.Jet, replace=replaced)
        for jets in (once, once.calib_pred.up):
            with pytest.raises(HepcalError, match=r"pt_calib, pt_calib_sigma_stoch.*calibrator\(jets, prefix="):
                small_calibrator(jets)
            with pytest.raises(HepcalError, match="columns of a calibrator, second_pt_calib"):
                small_calibrator(small_calibrator(jets, prefix="second_"), prefix="second_")


def test_jets_of_another_layout_are_refused(small_calibrator):
    events, _ = open_events()
    with pytest.raises(SchemaError, match="trained on Delphes jets; these are NanoAOD jets"):
        small_calibrator(ak.with_field(events.Jet, events.Jet.pt * 0, "rawFactor"))


def test_events_instead_of_jets_are_told_apart(small_calibrator):
    events, _ = open_events()
    with pytest.raises(MissingFieldError, match=r"pass events\.Jet"):
        small_calibrator(events)


def test_other_shapes_and_other_events_are_refused(small_calibrator):
    events, _ = open_events()
    with pytest.raises(HepcalError, match="expected events"):
        small_calibrator(events.Jet.pt)
    with pytest.raises(HepcalError, match="300 lists of jets but 10 events"):
        small_calibrator(events.Jet, event=events[:10])


# -- replicas ---------------------------------------------------------------------------------------------------------


def test_replicas_are_the_draws_of_every_jet(small_calibrator):
    events, _ = open_events()
    jets = small_calibrator(events.Jet, replicas=True)
    replicas = ak.to_numpy(ak.flatten(jets.pt_calib_replicas))
    assert replicas.dtype == np.float32
    assert replicas.shape == (ak.sum(ak.num(jets)), small_calibrator.replicas)
    assert replicas.mean(axis=1) == pytest.approx(ak.to_numpy(ak.flatten(jets.pt_calib)), rel=1e-6)
    spread = replicas.astype(np.float64).std(axis=1, ddof=1)
    assert spread == pytest.approx(ak.to_numpy(ak.flatten(jets.pt_calib_sigma_pred)), rel=1e-3)
    assert "pt_calib_replicas" not in small_calibrator(events.Jet).fields
    # Those of the central jets would be wrong for shifted ones.
    assert "pt_calib_replicas" not in jets.calib_pred.up.fields


def test_replicas_follow_selections_and_missing_jets(small_calibrator):
    events, _ = open_events()
    whole = small_calibrator(events.Jet, replicas=True)
    padded = small_calibrator(ak.pad_none(events.Jet, 4, clip=True), replicas=True)
    kept = ak.drop_none(padded, axis=1)
    assert ak.all(ak.flatten(kept.pt_calib_replicas == whole[:, :4].pt_calib_replicas, axis=None))
    assert ak.array_equal(whole[:, ::-1].pt_calib_replicas[:, 0], whole.pt_calib_replicas[:, -1])


def test_a_single_network_has_no_replicas(small_calibrator):
    events, _ = open_events(20)
    single = type(small_calibrator)(small_calibrator.card, small_calibrator.tensors)
    single.replicas = 0
    with pytest.raises(HepcalError, match="a single network: it has no replicas"):
        single(events.Jet, replicas=True)


def test_lists_of_jets_of_different_types_are_refused_with_a_way_out():
    jets = ak.Array([[{"pt": 20.0}], [{"pt": 30.0}, {"pt": 40.0}]])
    joined = ak.concatenate([jets, ak.with_field(jets, 1, "extra")])
    with pytest.raises(JetLayoutError, match="give all of them the same fields"):
        hepcal.Identity()(joined)
    kept = ak.concatenate([jets, ak.with_field(jets, 1, "extra")[["pt"]]])
    assert hepcal.Identity()(kept).pt_calib.tolist() == [[20.0], [30.0, 40.0]] * 2
