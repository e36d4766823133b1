"""Reports on trained calibrators: scores in bins, files and plots, the prior scan and its collapse detector."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import hepcal
from hepcal.cli.commands import app
from hepcal.closure.results import scores_table
from hepcal.errors import CollapsedWarning, NotIndependentWarning, TrainingError
from hepcal.evaluation.diagnostics import diagnose, scan_prior
from hepcal.evaluation.spread import bootstrap_trainings, spread_ratio
from hepcal.workflow import write_diagnoses

QUICK = {"hidden": (16, 16), "max_updates": 600, "patience": 300, "learning_rate": 3e-3}


def toy(n, seed=0):
    """Response that depends on eta, noise that does not; half of the jets have three times the weight."""
    rng = np.random.default_rng(seed)
    eta, truth = rng.uniform(-2.5, 2.5, n), rng.uniform(200, 1000, n)
    y = (1 + 0.1 * np.abs(eta)) * (1 + 0.08 * rng.standard_normal(n))
    return hepcal.JetPairs.from_arrays(
        eta[:, None], ["eta"], reco=truth / y, truth=truth, weight=np.where(np.arange(n) % 2, 3.0, 1.0)
    )


@pytest.fixture(scope="module")
def calibrators():
    pairs = toy(4_000)
    return {
        "BNN": hepcal.train(pairs, hepcal.BNN(**QUICK, draws=10), seed=1, show=False),
        "MSE": hepcal.train(pairs, hepcal.MSE(**QUICK), seed=1, show=False),
    }


def test_a_diagnosis_scores_every_jet_once_in_each_set_of_bins(calibrators):
    test = toy(3_000, seed=1)
    found = diagnose(calibrators, test, show=False)
    bnn = found["BNN"]
    assert bnn.scores.jets == sum(scores.jets for scores in bnn.pt_calib.bins) == 3_000
    assert sum(scores.jets for scores in bnn.abs_eta.bins) == 3_000
    assert bnn.scores.coverage_68 == pytest.approx(0.6827, abs=0.04)
    assert np.isnan(found["MSE"].scores.coverage_68)
    # Weights are used: the mean truth is a weighted one.
    assert bnn.scores.truth == pytest.approx(np.average(test.truth, weights=test.weight), rel=1e-6)


def test_a_diagnosis_is_written_as_json_and_plots(calibrators, tmp_path):
    found = diagnose(calibrators, toy(1_000, seed=1), show=False)
    plots = write_diagnoses(tmp_path, found, label="toy")
    content = json.loads((tmp_path / "diagnostics.json").read_text())
    assert content["diagnoses"]["BNN"]["scores"]["jets"] == 1_000
    assert content["diagnoses"]["MSE"]["scores"]["crps"] is None
    names = {path.stem for path in plots}
    assert {"coverage", "pit", "quantile_calibration", "history", "crps_pt_calib", "coverage_68_abs_eta"} <= names
    assert "prior_scan" not in names  # there was none
    assert all(path.stat().st_size > 1_000 for path in plots)


def test_figures_of_a_few_jets_are_not_shown(calibrators):
    """How many they are is said; 30 effective jets are needed for the rest, as in a closure."""
    jets = toy(20, seed=4)
    (row,) = [[*cells] for cells in zip(*(column.cells for column in shown(calibrators, jets)), strict=True)][:1]
    assert row[:2] == ["all", "20"]
    assert set(row[2:]) == {"-"}
    row = next(zip(*(column.cells for column in shown(calibrators, toy(200, seed=4))), strict=True))
    assert "-" not in row[:6]


def shown(calibrators, jets):
    found = diagnose({"BNN": calibrators["BNN"]}, jets, show=False)
    return scores_table("BNN", found["BNN"]).columns


def test_default_bins_hold_the_jets_of_every_calibrator_in_eight_bins(calibrators):
    narrow = toy(2_000, seed=3)
    narrow = hepcal.JetPairs.from_arrays(
        narrow.features, ["eta"], reco=narrow.reco / 50 + 1_000, truth=narrow.truth / 50 + 1_000
    )
    found = diagnose(calibrators, narrow, show=False)
    for diagnosis in found.values():
        assert len(diagnosis.pt_calib.bins) == 8
        assert sum(scores.jets for scores in diagnosis.pt_calib.bins) == 2_000


def test_scoring_the_training_jets_is_said(calibrators):
    with pytest.warns(NotIndependentWarning, match="^BNN was trained on all of these files"):
        diagnose({"BNN": calibrators["BNN"]}, toy(4_000), show=False)


def test_other_inputs_are_refused_by_name(calibrators):
    other = hepcal.JetPairs.from_arrays(np.zeros((30, 1)), ["mass"], reco=np.full(30, 5.0), truth=np.full(30, 5.0))
    with pytest.raises(TrainingError, match=r"BNN was trained on the inputs eta .* but the table holds mass"):
        diagnose(calibrators, other, show=False)


def test_weights_that_sum_to_nothing_are_refused(calibrators):
    table = toy(1_000)
    signed = dataclasses.replace(table, weight=np.where(np.arange(1_000) % 2, 1.0, -1.0))
    with pytest.raises(TrainingError, match="the weights of 1000 jets sum to 0"):
        diagnose(calibrators, signed, show=False)


def test_jets_of_another_layout_are_refused(demo_files, small_calibrator):
    table = hepcal.JetPairs.from_fileset(demo_files["test"], show=False)
    other = dataclasses.replace(table, source={**table.source, "schema": "nanoaod"})
    with pytest.raises(TrainingError, match="BNN was trained on Delphes jets, but the table is of NanoAOD files"):
        diagnose({"BNN": small_calibrator}, other, show=False)


def test_the_command_compares_calibrators(calibrators, tmp_path):
    for name, calibrator in calibrators.items():
        calibrator.save(tmp_path / f"{name}.safetensors")
    toy(500, seed=2).save(tmp_path / "pairs")
    files = [part for name in calibrators for part in ("--calibrator", str(tmp_path / f"{name}.safetensors"))]
    done = CliRunner().invoke(app, ["diagnose", str(tmp_path / "pairs"), *files, "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "BNN: uncertainties against the truth" in done.output
    assert (tmp_path / "out" / "diagnostics.json").exists()


# -- priors and collapse ----------------------------------------------------------------------------------------------


def test_a_prior_scan_finds_the_collapse_and_the_plateau():
    """A prior of 1e-3 allows no function of the inputs; 0.1 and 1 give the same log score within a few errors."""
    method = hepcal.BNN(**{**QUICK, "max_updates": 1_200}, draws=10)
    narrow, good, wide = scan_prior(toy(2_500), method, (1e-3, 0.1, 1.0), seed=1, show=False)
    assert [point.collapsed for point in (narrow, good, wide)] == [True, False, False]
    assert narrow.active_weights < good.active_weights / 3
    assert narrow.nll > good.nll + 3 * good.nll_unc
    assert abs(good.nll - wide.nll) < 3 * good.nll_unc


def test_a_collapsed_training_says_so():
    with pytest.warns(CollapsedWarning, match="^the trained network says the same of every jet") as said:
        calibrator = hepcal.train(toy(500), hepcal.BNN(**QUICK, prior_width=1e-3, draws=5), seed=1, show=False)
    assert calibrator.card.figures["collapsed"] == 1
    assert [warning.filename for warning in said] == [__file__], "the line that trains, neither ours nor one of torch"


# -- the reference for sigma_pred -------------------------------------------------------------------------------------


def test_the_ratio_to_the_spread_is_exact_for_known_numbers():
    rng = np.random.default_rng(1)
    spread = np.where(np.arange(4_000) < 2_000, 2.0, 5.0)
    trainings = 500 + spread * rng.standard_normal((40, 4_000))
    by = np.where(spread > 3, 1.5, 0.5)
    found = spread_ratio(np.full(4_000, 4.0), trainings, by, np.array([0.0, 1.0, 2.0, 3.0]))
    assert found.ratio[:2] == pytest.approx([4 / 2, 4 / 5], rel=0.02)
    assert np.isnan(found.ratio[2])
    assert found.jets.tolist() == [2_000, 2_000, 0]


def test_the_error_of_the_ratio_is_that_of_common_shifts():
    """If trainings move all jets together, a bin of any number of jets knows the spread to 1 / sqrt(2 (n - 1)) only."""
    rng = np.random.default_rng(2)
    ratios, errors = [], []
    for _ in range(200):
        trainings = 500 + rng.standard_normal((20, 1)) * np.ones((1, 50))
        found = spread_ratio(np.ones(50), trainings, np.zeros(50), np.array([-1.0, 1.0]))
        ratios.append(found.ratio[0])
        errors.append(found.ratio_unc[0])
    assert np.std(ratios) == pytest.approx(1 / np.sqrt(38), rel=0.2)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.2)


def test_bootstrap_trainings_scatter_and_are_reproducible():
    pairs, test = toy(300), toy(50, seed=1)
    method = hepcal.Heteroscedastic(hidden=(8,), max_updates=80, patience=80)
    found = bootstrap_trainings(pairs, method, test, n=3, seed=5, show=False)
    again = bootstrap_trainings(pairs, method, test, n=3, seed=5, show=False)
    assert found.shape == (3, 50)
    assert np.array_equal(found, again)
    assert np.all(found.std(axis=0) > 0)
    with pytest.raises(TrainingError, match="at least 3 trainings"):
        bootstrap_trainings(pairs, method, test, n=2, show=False)


def test_forward_jets_have_bins_and_what_is_beyond_is_said(calibrators, capsys):
    """Jets beyond |eta| = 2.5 were left out without a word."""
    test = toy(3_000, seed=1)
    test.features[:300, 0] = np.linspace(2.6, 5.6, 300)
    found = diagnose(calibrators, test, show=False)["MSE"].abs_eta
    assert found.edges.tolist() == [0.0, 0.8, 1.3, 2.5, 3.0, 5.2]
    assert [scores.jets for scores in found.bins][3:] == [40, 220]
    assert sum(scores.jets for scores in found.bins) == 2_960
    assert "40 of 3000 jets have |eta| of at least 5.2: they are in no bin" in capsys.readouterr().err
    inside = diagnose(calibrators, toy(500, seed=2), show=False)["MSE"].abs_eta
    assert inside.edges.tolist() == [0.0, 0.8, 1.3, 2.5]
    assert "in no bin" not in capsys.readouterr().err
