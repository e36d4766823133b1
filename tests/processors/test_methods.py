"""Every method in the same processor: the histograms are filled, and say what the method promises."""

from __future__ import annotations

import pytest
from hepcal.processors import DijetProcessor, Survey, SurveyProcessor

import hepcal
from hepcal.closure import results
from hepcal.closure.metrics import samples
from hepcal.demo import demo_fileset
from hepcal.events.executors import open_executor
from hepcal.events.running import run
from hepcal.methods.interval_coverage import has_interval
from hepcal.methods.registry import METHODS as KNOWN
from hepcal.methods.registry import method_of

ONE = hepcal.Heteroscedastic(hidden=(16,), max_updates=300, schedule="cosine", batch=500, learning_rate=5e-3)
SUMMARY = hepcal.Ensemble(hidden=(16,), n=3, max_updates=300, schedule="cosine", batch=500, learning_rate=5e-3)
QUICK = {"hidden": (16,), "n": 3, "max_updates": 600, "components": 3}
METHODS = {
    "inversion": hepcal.NumericalInversion(n=10),
    "generalised_inversion": hepcal.GeneralisedInversion(hidden=(16,), max_updates=300),
    "gaussian_ansatz": hepcal.GaussianAnsatz(hidden=(16,), epochs=1, iterations=5),
    "likelihood": hepcal.Likelihood(**QUICK),
    "likelihood given eta": hepcal.Likelihood(**QUICK, conditions=("eta",)),
    "summary_likelihood": hepcal.SummaryLikelihood(**QUICK, summary=SUMMARY),
    "noisy_labels": hepcal.NoisyLabels(method=SUMMARY, fraction=0.05, common=0.01),
    "noisy_labels of one network": hepcal.NoisyLabels(method=ONE, fraction=0.05),
    "transport": hepcal.OptimalTransport(),
}


# What the physics says: a regression of the truth follows its spectrum, and so does a map between spectra.
FOLLOWS_PRIOR = {
    "bnn": True,
    "heteroscedastic": True,
    "hessian": True,
    "mse": True,
    "dropout": True,
    "ensemble": True,
    "inversion": False,
    "generalised_inversion": False,
    "gaussian_ansatz": False,
    "likelihood": False,
    "summary_likelihood": False,
    "noisy_labels": True,
    "transport": True,
}


def test_every_method_says_whether_it_follows_the_prior() -> None:
    assert {name: method_of(name).follows_prior for name in KNOWN} == FOLLOWS_PRIOR


@pytest.fixture(scope="module")
def pairs() -> hepcal.JetPairs:
    return hepcal.JetPairs.from_fileset(demo_fileset("train"), show=False)


@pytest.mark.parametrize("name", METHODS)
def test_the_dijet_processor_takes_every_method(name: str, pairs: hepcal.JetPairs) -> None:
    method = METHODS[name]
    data = {"data": 1.02 * pairs.reco} if method.needs_data else {}
    calibrator = hepcal.train(pairs, method, seed=1, show=False, **data)
    fileset = demo_fileset("test")
    with open_executor("iterative") as executor:
        surveyed = run(fileset, SurveyProcessor(), executor, show=False).output
        survey = Survey.from_output(surveyed, fileset)
        out = run(fileset, DijetProcessor(calibrator, survey), executor, show=False).output
    found = samples(out["hists"])["qcd"]
    assert found["pt"]["calib"]["inclusive"]["n_eff"][0] > 4_900
    covered = found["pt"]["calib"]["inclusive"].get("coverage_68")
    assert (covered is not None) == has_interval(calibrator)
    # Short trainings of regressions cover loosely; belts of the response do not need the spectrum.
    loosely = 0.03 if name.startswith("likelihood") else 0.25
    assert covered is None or covered[0] == pytest.approx(0.6827, abs=loosely)
    assert ("sigma_pred" in found["pt"]["calib"]) == ("pt_calib_sigma_pred" in calibrator.columns)
    # The dijet mass has a statistical error where there are replicas.
    assert ("sigma_pred" in found["mjj"]["calib"]) == bool(calibrator.replicas)
    median = found["pt"]["calib"]["inclusive"]["response_median"][0]
    if calibrator.card.quantity == "median" and not method.needs_data:
        assert median == pytest.approx(1, abs=0.01)
        assert found["pt"]["calib"]["inclusive"]["in_range"][0] > 0.9
    assert 0.9 < median < 1.1
    assert ("pt_calib is", f"the {calibrator.card.quantity}") in results.describe_card(calibrator)


def test_notes_say_what_closes() -> None:
    """A regression is warned of its prior; the others are told where to look, a map to data that it is none."""
    events = {"read": 1, "selected": 1, "simulated": 1, "skipped_files": [], "without_truth": [], "outside_density": 0}
    for name, follows, quantity, text in (
        ("x", True, "mean", "proves nothing"),
        ("bnn", True, "mean", "proves nothing"),
        (
            "likelihood",
            False,
            "median",
            "at fixed composition: in bins of truth 'median' shows its closure",
        ),
        (
            "inversion",
            False,
            "mean",
            "at fixed composition: in bins of truth 'bias' shows its closure",
        ),
        ("transport", True, "median", "moves simulation to data; no closure in truth is promised"),
    ):
        summary = {
            "events": events,
            "samples": {"qcd": {}},
            "calibrator": {
                "method": name,
                "quantity": quantity,
                "follows_prior": follows,
                "needs_data": name == "transport",
            },
        }
        notes = results.notes(summary)
        assert any(text in note for note in notes)
        assert any("shows its closure" in note for note in notes) == (not follows)
