"""Corrections that are in the files, as calibrators: what the columns say, to float32, and nothing trained."""

import json
import pickle

import awkward as ak
import numpy as np
import pytest
from hepcal.processors.selection import LeadingPair
from typer.testing import CliRunner

import hepcal
from hepcal.cli.commands import app
from hepcal.config import TrainingConfig
from hepcal.errors import CalibratorFileError, HepcalError, MissingFieldError, NonFiniteFeatureError, TrainingError
from hepcal.methods.existing.calibrator import ExistingColumn
from hepcal.methods.registry import offered

NEUTRINOS = ("corr", "neutrino")


def jets_of(counts=(2, 0, 3), **changes):
    """NanoAOD-like jets with two factors, a width and a tagger, float32 as in a file."""
    n, rng = sum(counts), np.random.default_rng(1)
    flat = {
        "pt": rng.uniform(20, 900, n), "eta": rng.uniform(-2, 2, n), "phi": rng.uniform(-3, 3, n),
        "mass": rng.uniform(5, 50, n), "rawFactor": rng.uniform(-0.1, 0.2, n), "corr": rng.uniform(0.8, 1.3, n),
        "neutrino": rng.uniform(1.0, 1.2, n), "res": rng.uniform(0.05, 0.3, n), "tag": rng.uniform(0, 1, n), **changes,
    }  # fmt: skip
    return ak.unflatten(ak.zip({name: values.astype(np.float32) for name, values in flat.items()}), counts)


def raw(jets):
    return jets.pt * (1 - jets.rawFactor)


CASES = {
    "identity": (hepcal.Identity(), lambda j: j.pt),
    "raw": (hepcal.Identity(of="raw"), raw),
    "one": (hepcal.Column("corr"), lambda j: raw(j) * j.corr),
    "two": (hepcal.Column(NEUTRINOS, sigma="res"), lambda j: raw(j) * j.corr * j.neutrino),
    "of pt": (hepcal.Column("corr", of="pt", sigma="res"), lambda j: j.pt * j.corr),
    "tagged": (
        hepcal.Column("corr", tagged=("tag", 0.5, NEUTRINOS)),
        lambda j: raw(j) * ak.where(j.tag > 0.5, j.corr * j.neutrino, j.corr),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_columns_are_the_formula_to_float32(name, tmp_path):
    calibrator, formula = CASES[name]
    jets = jets_of()
    found = calibrator(jets)
    np.testing.assert_allclose(ak.flatten(found.pt_calib), ak.flatten(formula(jets)), rtol=3e-7)
    assert ak.all(found.pt_calib_in_range)
    if "pt_calib_sigma_stoch" in calibrator.columns:
        base = jets.pt if name == "of pt" else raw(jets)
        np.testing.assert_allclose(ak.flatten(found.pt_calib_sigma_stoch), ak.flatten(base * jets.res), rtol=3e-7)
    calibrator.save(tmp_path / "c.safetensors")
    for again in (hepcal.Calibrator.load(tmp_path / "c.safetensors"), pickle.loads(pickle.dumps(calibrator))):  # noqa: S301
        assert type(again) is type(calibrator)
        assert again.columns == calibrator.columns
        assert ak.flatten(again(jets).pt_calib).to_numpy().tobytes() == ak.flatten(found.pt_calib).to_numpy().tobytes()
    assert not calibrator.trained
    assert "jets" not in repr(calibrator)


def test_after_a_correction_the_same_jet_gets_the_same_number():
    jets, column = jets_of(), CASES["one"][0]
    changed = hepcal.Identity(of="raw")(jets, replace=True)
    assert ak.all(column(changed, prefix="second_").second_pt_calib == column(jets).pt_calib)


def test_predictions_of_arrays_are_the_columns():
    jets, (calibrator, _) = jets_of(), CASES["two"]
    flat = ak.flatten(jets)
    features = np.stack([ak.to_numpy(flat[name]) for name in calibrator.card.features.names], axis=1)
    found = calibrator.predict(features, ak.to_numpy(raw(flat)).astype(np.float32))
    np.testing.assert_allclose(found.mean, ak.flatten(calibrator(jets).pt_calib), rtol=3e-7)
    assert found.sigma_pred is None


def test_a_factor_that_is_not_positive_is_out_of_range():
    jets = jets_of(corr=np.array([1.0, -1.0, 0.0, 1.1, 1.2]))
    assert ak.flatten(CASES["one"][0](jets).pt_calib_in_range).tolist() == [True, False, False, True, True]


def test_what_is_not_there_or_no_number_is_refused():
    calibrator = CASES["tagged"][0]
    with pytest.raises(MissingFieldError, match="no field 'tag'"):
        calibrator(ak.without_field(jets_of(), "tag"))
    with pytest.raises(NonFiniteFeatureError, match="'corr'"):
        ak.materialize(calibrator(jets_of(corr=np.array([1.0, np.nan, 1, 1, 1]))))
    with pytest.raises(HepcalError, match="has no replicas"):
        calibrator(jets_of(), replicas=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((),), "needs the name of its factor"),
        (("pt",), "p_T and rawFactor are no corrections"),
        (("",), "at least 1 character"),
    ],
)
def test_settings_without_sense_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        hepcal.Column(*arguments)
    with pytest.raises(ValueError, match="finite"):
        hepcal.Column("corr", tagged=("tag", float("nan"), "corr"))
    with pytest.raises(ValueError, match="need the column of a tagger"):
        ExistingColumn(factor=("corr",), of="raw", tagged=("other",))


def test_nothing_is_trained(tiny_pairs, tmp_path):
    assert not {"identity", "column"} & {*offered()}
    with pytest.raises(TrainingError, match="'column' exists and is not trained"):
        hepcal.train(tiny_pairs, ExistingColumn(factor=("eta",), of="pt"), show=False)
    (tmp_path / "c.yaml").write_text("method: column\nsettings: {factor: [corr], of: raw}\n")
    with pytest.raises(TrainingError, match="'column' exists and is not trained"):
        TrainingConfig.read(tmp_path / "c.yaml")


def test_a_card_that_reads_other_columns_is_refused():
    calibrator = CASES["two"][0]
    card = calibrator.card.model_copy(update={"settings": {**calibrator.card.settings, "sigma": None}})
    with pytest.raises(CalibratorFileError, match="not those of its settings"):
        type(calibrator)(card, calibrator.tensors)


@pytest.mark.parametrize(("version", "regression"), [("v12", "PNet"), ("v15", "UParTAK4")])
def test_a_run_on_real_ttbar_has_the_response_of_ten_lines(version, regression, shared, read_events, tmp_path):
    path = shared / "data" / "nanoaod" / f"nano_tt_{version}.root"
    calibrator = hepcal.Column(f"{regression}RegPtRawCorr", sigma=f"{regression}RegPtRawRes")
    calibrator.save(tmp_path / "regression.safetensors")
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "regression.safetensors")])
    assert f"{regression}RegPtRawCorr" in shown.output
    assert "trained on" not in shown.output
    out = str(tmp_path / "out")
    options = ["--calibrator", str(tmp_path / "regression.safetensors"), "--output", out, "--no-plots"]
    done = CliRunner().invoke(app, ["run", str(path), *options, "--executor", "iterative"])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    found = summary["samples"]["qcd"]["pt"]["calib"]["inclusive"]

    events = read_events(path, "nanoaod")
    pair = LeadingPair.of(events, ("rawFactor", f"{regression}RegPtRawCorr", f"{regression}RegPtRawRes"))
    matched = ~ak.is_none(pair.reco, axis=1)
    jets, truth = ak.drop_none(ak.flatten(pair.reco)), ak.flatten(pair.truth.pt[matched])
    response = raw(jets) * jets[f"{regression}RegPtRawCorr"] / truth
    weight = ak.flatten(ak.broadcast_arrays(events.genWeight, pair.truth.pt)[0][matched])
    assert found["response_mean"][0] == pytest.approx(np.average(response, weights=weight), rel=1e-5)
