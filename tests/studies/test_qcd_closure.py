"""Closure on the full QCD sample: train on files 01-10, test on 21-30.

    pytest -m study tests/studies/test_qcd_closure.py -s

prints every figure that it asserts; about ten minutes on two cores. ``hepcal train`` and ``hepcal run`` with
``analysis/filesets/qcd_train.json`` and ``qcd_test.json`` give the same numbers.
"""

from pathlib import Path

import numpy as np
import pytest

import hepcal
from hepcal.closure import results
from hepcal.closure.metrics import closure
from hepcal.events.executors import open_executor
from hepcal.workflow import run_dijets

pytestmark = pytest.mark.study

FILESETS = Path(__file__).parents[2] / "analysis" / "filesets"
QCD = Path(__file__).parents[3] / "shared" / "data" / "qcd"


@pytest.fixture(scope="module")
def tables():
    if not QCD.is_dir():
        pytest.skip("the QCD sample is not beside this checkout")
    return [hepcal.JetPairs.from_fileset(FILESETS / f"qcd_{part}.json", show=False) for part in ("train", "test")]


@pytest.fixture(scope="module")
def bnn(tables):
    return hepcal.train(tables[0], hepcal.BNN(), seed=1)


@pytest.fixture(scope="module")
def figures(bnn, tmp_path_factory):
    out = tmp_path_factory.mktemp("qcd")
    with open_executor("futures", workers=2) as executor:
        summary = run_dijets(hepcal.load_fileset(FILESETS / "qcd_test.json"), bnn, executor, out, chunksize=25_000)
    from rich.console import Console

    for table in results.closure_tables(summary):
        Console(width=150).print(table)
    return summary, results.load_hists(out)


def test_raw_response_is_the_documented_one(tables):
    response = tables[1].reco / tables[1].truth
    low, median, high = np.quantile(response, [0.158655, 0.5, 0.841345])
    print(f"raw response: mean {response.mean():.4f}, median {median:.4f}, half central width {(high - low) / 2:.4f}")
    assert response.mean() == pytest.approx(0.947, abs=0.001)
    assert median == pytest.approx(0.975, abs=0.001)
    assert (high - low) / 2 / median == pytest.approx(0.079, abs=0.001)


def test_the_average_closes_and_the_bins_of_truth_show_the_prior(figures):
    _, hists = figures
    total = closure(hists, "pt", "calib", total=True)
    by_truth = closure(hists, "pt", "calib")
    bins = {int(low): bias for low, bias in zip(by_truth.edges[:-1], by_truth.bias, strict=True)}
    bsm = closure(hists, "mjj", "calib", "bsm", total=True)
    qcd = closure(hists, "mjj", "calib", "qcd", total=True)
    print(f"sum ratio {total.sum_ratio:.4f}, mean response {total.response_mean[0]:.4f}")
    print("bias in bins of truth:", {low: f"{100 * bins[low]:+.2f} %" for low in (900, 1000, 1200, 1500)})
    print(f"m_jj: QCD {100 * qcd.bias[0]:+.2f} %, BSM {100 * bsm.bias[0]:+.2f} % (n_eff {bsm.n_eff[0]:.0f})")
    assert total.sum_ratio == pytest.approx(1, abs=0.005)
    assert total.response_mean[0] == pytest.approx(1.013, abs=0.004)
    assert bins[900] > 0.02
    assert abs(bins[1000]) < 0.02
    assert bins[1200] < -0.02
    assert bsm.bias[0] < qcd.bias[0] - 0.01


def test_mean_response_exceeds_one_by_the_relative_variance(bnn, tables):
    prediction = bnn.predict(tables[1].features, tables[1].reco)
    expected = 1 + np.mean((prediction.sigma_tot / prediction.mean) ** 2)
    found = np.mean(prediction.mean / tables[1].truth)
    print(f"mean of pt_calib / pt_truth {found:.4f}; 1 + <sigma_tot²/pt²> = {expected:.4f}")
    assert found == pytest.approx(expected, abs=0.005)


def test_pulls_and_uncertainties(figures):
    _, hists = figures
    total, bins = (closure(hists, "pt", "calib", total=t) for t in (True, False))
    print(
        f"pull mean {total.pull_mean[0]:+.3f}, sd {total.pull_sd[0]:.3f}, half 68 % width {total.pull_half68[0]:.3f}, "
        f"within sigma_tot {100 * total.within_sigma_tot[0]:.1f} %, central interval {100 * total.coverage_68[0]:.1f} %"
    )
    assert total.pull_sd[0] == pytest.approx(1, abs=0.05)
    filled = np.isfinite(bins.sigma_pred)
    assert np.all((bins.sigma_pred[filled] > 0) & (bins.sigma_pred[filled] < bins.sigma_stoch[filled]))


def test_squared_error_shows_the_same_prior_dependence(tables):
    calibrator = hepcal.train(tables[0], hepcal.MSE(), seed=1)
    test = tables[1]
    response = calibrator.predict(test.features, test.reco).mean / test.truth
    found = {}
    for low, high in ((900, 1000), (1000, 1200), (1200, 1500)):
        found[low] = np.mean(response[(test.truth >= low) & (test.truth < high)]) - 1
    print("squared error, bias in bins of truth:", {low: f"{100 * bias:+.2f} %" for low, bias in found.items()})
    assert found[900] > 0.02
    assert found[1200] < -0.02
