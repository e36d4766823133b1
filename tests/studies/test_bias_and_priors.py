"""All methods on p_T of Delphes jets, in bins of truth: closure, resolution, coverage, and other training spectra.

    pytest -m study tests/studies/test_bias_and_priors.py -s

Trains on files 01-20 of the shared QCD sample, tests on 21-30, and prints every figure that it asserts; about twenty
minutes of one core.
"""

from __future__ import annotations

import dataclasses
import time
from itertools import pairwise

import numpy as np
import pytest
from dijet_samples import files_of

import hepcal
from hepcal.evaluation import closure_in_truth, coverage_in_truth, paired_resolution_gain
from hepcal.evaluation.priors import Above, Flat, Steeper, prior_dependence
from hepcal.statistics import CENTRAL

pytestmark = pytest.mark.study

SEED = 11
EDGES = (900, 1000, 1200, 1500, 2000)
# From where the training has a hundred jets in a resolution; tables in terms of EDGES are of where most of them are.
POPULATED = (400, 500, 600, 700, 800, 900, 1000, 1200, 1500, 2000, 3000)
ETA_EDGES = (0, 0.8, 1.3, 2.5)
ONE_SIGMA = 0.6827
# The regressions reach the quality of their defaults with these settings, in less time.
QUICK = {"schedule": "cosine", "batch": 500, "learning_rate": 2e-3, "max_updates": 10_000}
# About the relative resolution: jets so far from the ends of a training spectrum are inside of it.
RESOLUTION = 0.08
METHODS = {
    "MSE": hepcal.MSE(**QUICK),
    "BNN": hepcal.BNN(**QUICK),
    "inversion": hepcal.NumericalInversion(),
    "generalised": hepcal.GeneralisedInversion(),
    # A third of the default work, and a little less converged above 1500 GeV.
    "ansatz": hepcal.GaussianAnsatz(cells=4, iterations=50),
    "likelihood": hepcal.Likelihood(),
    "summary": hepcal.SummaryLikelihood(),
    "summary, eta": hepcal.SummaryLikelihood(conditions=("eta",)),
    "summary, flag": hepcal.SummaryLikelihood(where_it_loses="flag"),
}
REGRESSIONS, LIKELIHOODS = ("MSE", "BNN"), ("likelihood", "summary")
# The flat spectrum is kept to where there are jets enough, so that none carries it (n_eff 58,000; to 2000 GeV 32,000);
# so is the steeper one: the few jets below 700 GeV would weigh up to 20,000 times as much as the others.
SPECTRA = {
    "flat from 800 to 1800 GeV": Flat(800, 1800),
    "above 1150 GeV": Above(1150),
    "times truth^-6, above 700 GeV": lambda pairs: Steeper(6)(Above(700)(pairs)),
}


def read(shared, first, last):
    paths = files_of(shared / "data" / "qcd", first, last)
    return hepcal.JetPairs.from_fileset({"qcd": {"files": {str(path): "Delphes" for path in paths}}}, show=False)


@pytest.fixture(scope="module")
def tables(shared):
    return read(shared, 1, 20), read(shared, 21, 30)


def predicted(pairs, test, name):
    """By a training with the method of this name."""
    start = time.process_time()
    calibrator = hepcal.train(pairs, METHODS[name], seed=SEED, show=False)
    spent = time.process_time() - start
    table = test.select(calibrator.card.features)
    prediction = calibrator.predict(table.features, table.reco)
    spectrum = pairs.source.get("spectrum", "as generated")
    print(f"{name} ({calibrator.card.quantity}), spectrum {spectrum}: {spent:.0f} s of CPU")
    return prediction


@pytest.fixture(scope="module")
def predictions(tables):
    return {name: predicted(*tables, name) for name in METHODS}


@pytest.fixture(scope="module")
def closures(tables, predictions):
    """Closure and coverage of every method in bins of truth and of abs(eta)."""
    test = tables[1]
    eta = np.abs(test.features[:, test.spec.names.index("eta")])
    inside = test.weight * ((test.truth >= EDGES[0]) & (test.truth < EDGES[-1]))
    found = {}
    for by, edges, weight, column in (("truth", EDGES, test.weight, None), ("|eta|", ETA_EDGES, inside, eta)):
        where = {"edges": edges, "by": column, "event": test.event}
        found[by] = {"uncalibrated": (closure_in_truth(test.reco, test.truth, weight, **where), None)}
        for name, prediction in predictions.items():
            closure = closure_in_truth(prediction.mean, test.truth, weight, in_range=prediction.in_range, **where)
            interval = interval_of(prediction)
            coverage = None if interval is None else coverage_in_truth(*interval, test.truth, weight, **where)
            found[by][name] = closure, coverage
        show(by, found[by])
    show("truth", {name: measured(test, prediction) for name, prediction in predictions.items()})
    return found


def measured(test, prediction):
    """Closure and coverage in all populated bins of truth."""
    where = {"edges": POPULATED, "event": test.event}
    closure = closure_in_truth(prediction.mean, test.truth, test.weight, in_range=prediction.in_range, **where)
    interval = interval_of(prediction)
    return closure, None if interval is None else coverage_in_truth(*interval, test.truth, test.weight, **where)


def interval_of(prediction):
    """Central interval: a Neyman belt where there is one, else between quantiles of the density; None for a number."""
    if prediction.belt is not None:
        return prediction.interval(ONE_SIGMA)
    return None if prediction.components is None else prediction.quantile(np.array([CENTRAL[0], CENTRAL[2]])).T


def show(by, rows):
    print(f"\n{by:>11} {'method':<13} {'mean [%]':>14} {'median [%]':>14} {'core [%]':>14} {'width [%]':>12} ", end="")
    print(f"{'slope':>13} {'width/slope':>12} {'coverage [%]':>13} {'n_eff':>6} {'in range':>8}")
    edges = next(iter(rows.values()))[0].edges
    for i, (low, high) in enumerate(pairwise(edges)):
        for name, (closure, coverage) in rows.items():
            print(f"{f'{low:g}-{high:g}':>11} {name:<13}", end="")
            for figure in ("mean", "median", "core"):
                value, unc = (100 * getattr(closure, f"{figure}{end}")[i] for end in ("", "_unc"))
                print(f" {value:+7.2f} ± {unc:.2f}", end="")
            print(f" {100 * closure.resolution[i]:5.2f} ± {100 * closure.resolution_unc[i]:.2f}", end="")
            print(f"  {closure.slope[i]:.3f} ± {closure.slope_unc[i]:.3f}", end="")
            print(f" {100 * closure.resolution_over_slope[i]:12.2f}", end="")
            covered = (
                "" if coverage is None else f"{100 * coverage.coverage[i]:.1f} ± {100 * coverage.coverage_unc[i]:.1f}"
            )
            print(f" {covered:>13} {closure.n_eff[i]:6.0f} {closure.in_range[i]:8.3f}")


def test_regressions_close_on_average_and_in_no_bin(tables, predictions, closures):
    """b ~ sigma² d ln p / dz (arXiv:2205.05084, Eq. 8): up below the peak of the spectrum, down above it."""
    test = tables[1]
    for name in REGRESSIONS:
        ratio = np.sum(test.weight * predictions[name].mean) / np.sum(test.weight * test.truth)
        closure, _ = closures["truth"][name]
        print(f"{name}: sum of values over sum of truths {ratio:.4f}, slope over all bins {closure.slope_all:.3f}")
        assert ratio == pytest.approx(1, abs=0.01)
        assert closure.mean[0] > 0.02
        assert closure.mean[2] < -0.02
        assert closure.slope_all < 0.9


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_likelihood_closes_in_the_median(closures, name):
    closure, _ = closures["truth"][name]
    limit = np.where(np.array(EDGES[1:]) <= 1500, 0.003, 0.005)
    assert np.all(np.abs(closure.median) < np.maximum(limit, 2 * closure.median_unc)), closure.median


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_neyman_belt_covers_in_every_bin_of_truth(closures, name):
    _, coverage = closures["truth"][name]
    assert np.all(np.abs(coverage.coverage - 0.68) < 0.02), coverage.coverage


def test_the_neyman_belt_of_a_summary_covers_on_other_files(shared):
    """Files 01-10, with 11-30 to train on."""
    train, test = read(shared, 11, 30), read(shared, 1, 10)
    prediction = predicted(train, test, "summary")
    found = coverage_in_truth(*prediction.interval(ONE_SIGMA), test.truth, test.weight, edges=EDGES, event=test.event)
    for i, (low, high) in enumerate(pairwise(EDGES)):
        print(f"files 01-10, {low}-{high} GeV: {100 * found.coverage[i]:.1f} ± {100 * found.coverage_unc[i]:.1f} %")
    assert np.all(np.abs(found.coverage - 0.68) < 0.02), found.coverage


def test_a_summary_closes_in_eta_if_it_is_a_condition(closures):
    """p(summary | truth) is an average over |eta|; a direction says next to nothing of the truth."""
    plain, conditional = (closures["|eta|"][name] for name in ("summary", "summary, eta"))
    assert np.max(np.abs(plain[0].median)) > 3 * np.max(np.abs(conditional[0].median))
    assert np.all(np.abs(conditional[0].median) < 0.003)
    assert np.all(np.abs(conditional[1].coverage - 0.68) < 0.02)


def test_a_trusted_summary_of_all_features_resolves_no_worse_in_its_range(tables, predictions):
    test = tables[1]
    values = (predictions[name].mean for name in ("summary, flag", "likelihood"))
    gain = paired_resolution_gain(*values, test.truth, test.weight, edges=EDGES, event=test.event)
    for i, low in enumerate(EDGES[:-1]):
        print(
            f"{low}-{EDGES[i + 1]} GeV: resolution {100 * gain.resolution_a[i]:.2f} % with a summary, "
            f"{100 * gain.resolution_b[i]:.2f} % without; ratio {gain.ratio[i]:.4f} ± {gain.ratio_unc[i]:.4f}"
        )
    assert np.all(gain.ratio < 1 + 2 * gain.ratio_unc)
    # A part of it is taken from 800-900 GeV, which loses 11 % and is out of range.
    assert gain.ratio[1] < 0.975


def test_a_summary_loses_resolution_in_no_bin(tables, predictions):
    """All populated bins, those where the training is thin, too; its trust in the regression falls to zero there."""
    test = tables[1]
    values = (predictions[name].mean for name in ("summary", "likelihood"))
    gain = paired_resolution_gain(*values, test.truth, test.weight, edges=POPULATED, event=test.event)
    inside = closure_in_truth(
        predictions["summary"].mean, test.truth, test.weight, edges=POPULATED, in_range=predictions["summary"].in_range
    ).in_range
    for i, (low, high) in enumerate(pairwise(POPULATED)):
        print(
            f"{low}-{high} GeV: resolution {100 * gain.resolution_a[i]:.2f} % with a summary, "
            f"{100 * gain.resolution_b[i]:.2f} % without; ratio {gain.ratio[i]:.4f} ± {gain.ratio_unc[i]:.4f}, "
            f"in range {inside[i]:.3f}, n_eff {gain.n_eff[i]:.0f}"
        )
    assert np.all((gain.ratio < 1.03) | (inside < 0.5))
    # At 1000-1200 GeV.
    assert gain.ratio[6] < 0.995


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_likelihood_closes_in_all_populated_bins(tables, predictions, name):
    test, prediction = tables[1], predictions[name]
    where = {"edges": POPULATED, "event": test.event}
    closure = closure_in_truth(prediction.mean, test.truth, test.weight, in_range=prediction.in_range, **where)
    coverage = coverage_in_truth(*prediction.interval(ONE_SIGMA), test.truth, test.weight, **where)
    show("truth", {name: (closure, coverage)})
    bins = pairwise(POPULATED)
    trained = [
        np.median((prediction.sigma_pred / prediction.mean)[(test.truth >= a) & (test.truth < b)]) for a, b in bins
    ]
    unc = np.hypot(closure.median_unc, trained)
    assert np.all(np.abs(closure.median) < np.maximum(0.005, 2.5 * unc)), closure.median


@pytest.fixture(scope="module")
def elsewhere(tables):
    """Predictions of trainings on other spectra, and the first and last truth of these."""
    train, test = tables
    found = {}
    for spectrum, change in SPECTRA.items():
        table = change(train)
        print(f"{spectrum}: {len(table)} jets, n_eff {table.n_eff:.0f}")
        others = {name: predicted(table, test, name) for name in (*LIKELIHOODS, *REGRESSIONS)}
        found[spectrum] = others, (float(table.truth.min()), float(table.truth.max()))
    return found


@pytest.fixture(scope="module")
def dependences(tables, predictions, elsewhere):
    """Shifts of the same jets: all inside the support of the one-dimensional likelihood with both spectra, and those of
    them that it calibrates to a value one resolution inside of the spectrum."""
    test, base = tables[1], predictions["likelihood"]
    found = {}
    for spectrum, (others, (low, high)) in elsewhere.items():
        inside = base.in_range & others["likelihood"].in_range
        well = inside & (base.mean > low * (1 + RESOLUTION)) & (base.mean < high / (1 + RESOLUTION))
        for which, chosen in (("in range", inside), ("well inside", well)):
            print(f"{spectrum}: {chosen.sum()} of {len(test)} jets {which}")
            for name, other in others.items():
                both = chosen & predictions[name].in_range & other.in_range
                pair = {"as generated": predictions[name], spectrum: other}
                trained = {key: dataclasses.replace(one, in_range=both) for key, one in pair.items()}
                shift = prior_dependence(trained, test, edges=EDGES)[spectrum]
                found[which, name, spectrum] = shift
                bins = ", ".join(f"{100 * value:+.2f}" for value in shift.mean)
                print(
                    f"  {name:<10} {both.sum()} jets, mean {100 * shift.sample:+.3f} ± {100 * shift.sample_unc:.3f} % "
                    f"(error of the trainings up to {100 * shift.sample_training:.2f} %), in bins {bins} %, "
                    f"rms pull {np.array2string(shift.pull_rms, precision=1)}"
                )
    return found


def shifts_of(dependences, which, name):
    return np.array([shift.sample for (*key, _), shift in dependences.items() if key == [which, name]])


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_likelihood_does_not_know_the_spectrum_of_its_training(dependences, name):
    assert np.all(np.abs(shifts_of(dependences, "in range", name)) < 0.003)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_nor_does_it_one_resolution_inside(dependences, name):
    assert np.all(np.abs(shifts_of(dependences, "well inside", name)) < 0.003)


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("which", ["in range", "well inside"])
def test_regressions_move_with_the_spectrum(dependences, name, which):
    assert np.max(np.abs(shifts_of(dependences, which, name))) > 0.02


def flagged_inside(tables, elsewhere, name):
    """Share of the jets with a truth 30 % below the cut that a training above 1150 GeV calls in range."""
    below = tables[1].truth < 0.7 * 1150
    share = elsewhere["above 1150 GeV"][0][name].in_range[below].mean()
    print(f"{name} trained above 1150 GeV: {100 * share:.1f} % of {below.sum()} jets below 805 GeV called in range")
    return share


def test_the_likelihood_flags_jets_below_its_training(tables, elsewhere):
    assert flagged_inside(tables, elsewhere, "likelihood") < 0.01


def test_a_summary_flags_jets_below_its_training(tables, elsewhere):
    assert flagged_inside(tables, elsewhere, "summary") < 0.01
