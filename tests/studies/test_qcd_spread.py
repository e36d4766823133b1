"""sigma_pred on the full QCD sample over the spread of bootstrap trainings: train on files 01-10, test on 21-30.

    pytest -m study tests/studies/test_qcd_spread.py -s

prints the ratios in bins of calibrated p_T; about half an hour on two cores.
"""

from pathlib import Path

import numpy as np
import pytest

import hepcal
from hepcal.evaluation.spread import bootstrap_trainings, spread_ratio

pytestmark = pytest.mark.study

FILESETS = Path(__file__).parents[2] / "analysis" / "filesets"
QCD = Path(__file__).parents[3] / "shared" / "data" / "qcd"
PT_EDGES = np.array([800, 900, 1000, 1100, 1200, 1350, 1500, 2000])
COMMON = {"schedule": "cosine", "batch": 500, "learning_rate": 2e-3, "max_updates": 4_000}
TRAININGS = 20
JETS = 20_000


@pytest.fixture(scope="module")
def tables():
    if not QCD.is_dir():
        pytest.skip("the QCD sample is not beside this checkout")
    train, test = (
        hepcal.JetPairs.from_fileset(FILESETS / f"qcd_{part}.json", show=False) for part in ("train", "test")
    )
    return train, test.take(np.arange(JETS))


@pytest.fixture(scope="module")
def reference(tables):
    """Predictions of 20 trainings on bootstrap samples, one after the other."""
    train, test = tables
    return bootstrap_trainings(train, hepcal.Heteroscedastic(**COMMON), test, n=TRAININGS, seed=11, show=False)


def ratios(name, method, tables, reference):
    train, test = tables
    calibrator = hepcal.train(train, method, seed=1, show=False)
    jets = test.select(calibrator.card.features)
    prediction = calibrator.predict(jets.features, jets.reco)
    found = spread_ratio(prediction.sigma_pred, reference, prediction.mean, PT_EDGES)
    cells = zip(PT_EDGES[:-1], PT_EDGES[1:], found.ratio, found.ratio_unc, found.sigma_pred, found.spread, strict=True)
    print(f"\n{name}: sigma_pred over the spread of {TRAININGS} bootstrap trainings")
    for low, high, ratio, unc, pred, spread in cells:
        print(f"  {low}-{high} GeV: {ratio:.2f} +- {unc:.2f} ({pred:.2f} / {spread:.2f} GeV)")
    return found


def test_the_bootstrap_ensemble_is_right_within_a_factor_of_one_and_a_half(tables, reference):
    """Other samples and starts than those of the reference; with one start each they are like single trainings."""
    found = ratios("ensemble of 20", hepcal.Ensemble(n=20, starts=1, **COMMON), tables, reference)
    assert np.all((found.ratio > 1 / 1.5) & (found.ratio < 1.5))


def test_the_hessian_is_right_within_a_factor_of_one_and_a_half(tables):
    """Other bootstrap samples and starting points than those of the reference, which has averages of updates, too."""
    train, test = tables
    spread = bootstrap_trainings(train, hepcal.Hessian(**COMMON), test, n=TRAININGS, seed=11, show=False)
    found = ratios("Hessian", hepcal.Hessian(**COMMON), tables, spread)
    assert np.all((found.ratio > 1 / 1.5) & (found.ratio < 1.5))


def test_the_mean_field_network_is_reported(tables, reference):
    found = ratios("mean-field BNN", hepcal.BNN(**COMMON), tables, reference)
    assert np.all((found.ratio > 0.1) & (found.ratio < 10))


SUMMARY = {"hidden": (50, 50), "batch": 500, "learning_rate": 3e-3, "schedule": "cosine", "max_updates": 4_000}
LIKELIHOODS = {
    "likelihood": (hepcal.Likelihood(), hepcal.Likelihood(n=2, sample="same")),
    "summary likelihood": (
        hepcal.SummaryLikelihood(),
        hepcal.SummaryLikelihood(n=2, sample="same", summary=hepcal.Ensemble(n=2, sample="same", **SUMMARY)),
    ),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_likelihood_calibration_knows_its_error_within_a_factor_of_one_and_a_half(name, tables):
    """Each of the 20 trainings on a bootstrap sample is the mean of two starts; the ensemble has 20 such samples."""
    method, single = LIKELIHOODS[name]
    train, test = tables
    found = bootstrap_trainings(train, single, test, n=TRAININGS, seed=11, show=False)
    ratio = ratios(name, method, tables, found).ratio
    assert np.all((ratio > 1 / 1.5) & (ratio < 1.5))
