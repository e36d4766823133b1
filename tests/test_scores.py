"""Scores against closed forms and exactly calibrated samples."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from hepcal import evaluation
from hepcal.distributions import CrystalBall, NormalMixture
from hepcal.distributions.prediction import Prediction
from hepcal.statistics import weighted_mean, weighted_quantiles

ONE_SIGMA = 0.6826894
# Figures that depend on how the weight is spread over rows.
SPREAD = ("jets", "n_eff")


@pytest.fixture(scope="module")
def scoringrules():
    """The oracle, without numba, whose kernels it would compile for ten seconds at every import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        import scoringrules

        yield scoringrules


def predicted(distribution, sigma_pred=None):
    mean, variance = distribution.moments()
    sigma = np.sqrt(variance).astype(np.float32)
    inside = np.ones(len(mean), dtype=bool)
    return Prediction(mean.astype(np.float32), sigma, sigma_pred, inside, distribution.take)


def gaussian(mean, sigma):
    mean = np.asarray(mean, dtype=np.float64)
    return NormalMixture(*(np.broadcast_to(v, mean.shape)[None, None] for v in (1.0, mean, sigma)))


def calibrated(n=2000, mean=512.0, sigma=64.0, predicted_sigma=None):
    """Truths at equidistant quantiles of a Gaussian: every share is exact to 1 / n."""
    truth = mean + sigma * norm.ppf((np.arange(n) + 0.5) / n)
    return predicted(gaussian(np.full(n, mean), predicted_sigma or sigma)), truth


def numbers(scores, without=()):
    """All figures but the statistical errors, flat."""
    flat = {}
    for name, value in scores.as_dict().items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{name}.{key}": v for key, v in inner.items() if "unc" not in name + key and name not in without}
    return flat


def same(left, right, tolerance=1e-12):
    assert left.keys() == right.keys()
    for name, value in left.items():
        expected = right[name]
        assert value == (expected if expected is None else pytest.approx(expected, rel=tolerance, abs=tolerance)), name


def test_calibrated_gaussian():
    n, sigma = 2000, 64.0
    scores = evaluation.score(*calibrated(n, sigma=sigma))
    assert scores.jets == scores.n_eff == n
    assert scores.coverage.observed == pytest.approx(scores.coverage.nominal, abs=1 / n)
    assert scores.quantiles.observed == pytest.approx(scores.quantiles.nominal, abs=1 / n)
    assert scores.coverage_68 == pytest.approx(ONE_SIGMA, abs=1 / n)
    assert scores.within_sigma_tot == pytest.approx(ONE_SIGMA, abs=1 / n)
    assert scores.pit.density == pytest.approx(np.ones(20))
    assert scores.pull_mean == pytest.approx(0, abs=1e-12)
    assert scores.pull_sd == pytest.approx(1, abs=1e-3)
    assert scores.pull_half68 == pytest.approx(1, abs=2e-3)
    assert scores.crps == pytest.approx(sigma / np.sqrt(np.pi), rel=1e-3)
    assert scores.nll == pytest.approx(0.5 * np.log(2 * np.pi * np.e) + np.log(sigma), abs=1e-3)
    assert scores.absolute_error == pytest.approx(sigma * np.sqrt(2 / np.pi), rel=1e-3)
    assert scores.width_68 == pytest.approx(2 * sigma, rel=1e-5)
    assert scores.sigma_tot_relative == pytest.approx(64 / 512)
    assert scores.nll_floored == 0


def test_random_calibrated_gaussians_within_their_errors():
    rng = np.random.default_rng(3)
    n = 20_000
    mean, sigma, weight = rng.uniform(300, 900, n), rng.uniform(20, 80, n), rng.exponential(1, n)
    scores = evaluation.score(predicted(gaussian(mean, sigma)), rng.normal(mean, sigma), weight)
    assert scores.n_eff == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    for curve in (scores.coverage, scores.quantiles):
        assert curve.unc == pytest.approx(np.sqrt(curve.nominal * (1 - curve.nominal) / scores.n_eff))
        assert (np.abs(curve.observed - curve.nominal) < 3.5 * curve.unc).all()
    for name, value in (("pull_mean", 0), ("pull_sd", 1), ("pull_half68", 1), ("coverage_68", ONE_SIGMA)):
        assert abs(getattr(scores, name) - value) < 3 * getattr(scores, f"{name}_unc")
    weighted_sigma = np.average(sigma, weights=weight)
    assert abs(scores.crps - weighted_sigma / np.sqrt(np.pi)) < 3 * scores.crps_unc
    chi2 = (((scores.pit.density - 1) / scores.pit.unc) ** 2).sum()
    assert chi2 < 40  # 19 degrees of freedom: 39 at a probability of 0.5 %


def test_too_wide_by_a_factor_of_two():
    n = 2000
    scores = evaluation.score(*calibrated(n, predicted_sigma=128.0))
    inside = 2 * norm.cdf(2 * norm.ppf(0.5 + scores.coverage.nominal / 2)) - 1
    assert scores.coverage.observed == pytest.approx(inside, abs=1.5 / n)
    below = norm.cdf(2 * norm.ppf(scores.quantiles.nominal))
    assert scores.quantiles.observed == pytest.approx(below, abs=1.5 / n)
    assert scores.coverage_68 == pytest.approx(0.9545, abs=1.5 / n)
    assert scores.pull_sd == pytest.approx(0.5, abs=1e-3)
    # E|N(0, s²)| for s² = 64² + 128², minus half of it for s² = 2 · 128²: the CRPS as expected distances.
    expected = np.sqrt(2 / np.pi) * (np.hypot(64, 128) - 0.5 * np.sqrt(2) * 128)
    assert scores.crps == pytest.approx(expected, rel=1e-3)
    assert scores.pit.density[0] < 0.1 < 1.5 < scores.pit.density[10]
    nominal = scores.quantiles.nominal
    worst = np.abs(below - nominal).max()
    assert abs(scores.quantile_deviation) == pytest.approx(worst, abs=1.5 / n)


def test_score_prefers_the_right_width():
    right, wide, narrow = (evaluation.score(*calibrated(predicted_sigma=sigma)) for sigma in (64.0, 96.0, 40.0))
    for other in (wide, narrow):
        assert right.crps < other.crps
        assert right.nll < other.nll


def test_integer_weights_are_repeated_rows():
    rng = np.random.default_rng(5)
    mean, sigma = rng.uniform(300, 900, 200), rng.uniform(20, 80, 200)
    truth, weight = rng.normal(mean, sigma), rng.integers(0, 4, 200)
    rows = np.repeat(np.arange(200), weight)
    weighted = evaluation.score(predicted(gaussian(mean, sigma)), truth, weight)
    repeated = evaluation.score(predicted(gaussian(mean[rows], sigma[rows])), truth[rows])
    same(numbers(weighted, SPREAD), numbers(repeated, SPREAD))


def test_units():
    """A power of two, so that rounding is the same in both units."""
    rng = np.random.default_rng(6)
    mean, unit = rng.uniform(300, 900, 300).astype(np.float32), 1024.0
    truth = rng.normal(mean, 50.0)
    gev = evaluation.score(predicted(gaussian(mean, 50.0)), truth)
    mev = evaluation.score(predicted(gaussian(mean * unit, 50.0 * unit)), truth * unit)
    for name in ("crps", "crps_unc", "sigma_tot", "sigma_stoch", "width_68", "absolute_error", "truth"):
        assert getattr(mev, name) == pytest.approx(unit * getattr(gev, name), rel=1e-12)
    assert mev.nll == pytest.approx(gev.nll + np.log(unit), rel=1e-12)
    for name in ("pull_mean", "pull_sd", "coverage_68", "crps_relative", "sigma_tot_relative", "width_68_relative"):
        assert getattr(mev, name) == pytest.approx(getattr(gev, name), rel=1e-12)


def test_negative_weights_cancel_positive_ones():
    prediction, truth = calibrated(100)
    both = predicted(gaussian(np.r_[prediction.mean, 700, 700], np.r_[np.full(100, 64.0), 10, 10]))
    weight = np.r_[np.ones(100), 2.5, -2.5]
    cancelled = evaluation.score(both, np.r_[truth, 720, 720], weight)
    assert cancelled.n_eff == pytest.approx(100**2 / (100 + 2 * 2.5**2))
    alone = evaluation.score(prediction, truth)
    same(numbers(cancelled, SPREAD), numbers(alone, SPREAD))
    assert cancelled.crps_unc > alone.crps_unc


@pytest.mark.parametrize("weight", [np.zeros(100), -np.ones(100)])
def test_weights_without_a_positive_sum_give_nothing(weight):
    scores = evaluation.score(*calibrated(100), weight)
    figures = numbers(scores, SPREAD)
    for name, value in figures.items():
        if not name.endswith((".nominal", ".edges")):
            assert value is None or set(value) == {None}, name
    json.dumps(scores.as_dict(), allow_nan=False)


def test_single_number_without_uncertainty():
    truth = np.array([100.0, 200.0, 300.0])
    scores = evaluation.score(
        Prediction(np.float32([110, 195, 300]), None, None, np.ones(3, dtype=bool)), truth, [1, 1, 2]
    )
    assert scores.absolute_error == pytest.approx(15 / 4)
    assert scores.truth == 225
    written = scores.as_dict()
    for name in ("sigma_tot", "pull_sd", "pull_sd_unc", "within_sigma_tot", "crps", "nll", "coverage_68", "width_68"):
        assert written[name] is None
    assert set(written["coverage"]["observed"]) == {None}
    assert written["jets"] == 3
    json.dumps(written, allow_nan=False)


def test_uncertainty_without_density():
    prediction, truth = calibrated(500)
    bare = Prediction(prediction.mean, prediction.sigma_stoch, None, prediction.in_range)
    scores, full = evaluation.score(bare, truth), evaluation.score(prediction, truth)
    assert np.isnan(scores.crps)
    assert np.isnan(scores.sigma_pred)
    for name in ("pull_mean", "pull_sd", "pull_half68", "within_sigma_tot", "sigma_tot", "sigma_stoch"):
        assert getattr(scores, name) == getattr(full, name)


def test_sigma_pred_enters():
    prediction, truth = calibrated(100)
    sigma_pred = np.full(100, 8, dtype=np.float32)
    with_pred = Prediction(prediction.mean, prediction.sigma_stoch, sigma_pred, prediction.in_range)
    scores = evaluation.score(with_pred, truth)
    assert scores.sigma_pred == 8
    assert scores.sigma_tot == pytest.approx(np.hypot(64, 8))


def test_log_score_has_a_floor():
    prediction = predicted(gaussian(np.full(4, 500.0), 50.0))
    scores = evaluation.score(prediction, np.array([500, 500, 500, 5500.0]))
    peak = np.log(50 * np.sqrt(2 * np.pi))
    assert scores.nll_floored == 0.25
    assert scores.nll == pytest.approx((3 * peak + 300 * np.log(10) + np.log(50)) / 4)
    # |truth - mean| - sigma / sqrt(pi) far away.
    jets = evaluation.jet_scores(prediction, np.array([500, 500, 500, 5500.0]))
    assert jets.crps[3] == pytest.approx(5000 - 50 / np.sqrt(np.pi))
    assert jets.pit[3] == 1


def test_crps_of_gaussians(scoringrules):
    rng = np.random.default_rng(7)
    mean, sigma = rng.uniform(100, 900, 500), rng.uniform(5, 90, 500)
    truth = mean + sigma * rng.uniform(-8, 15, 500)
    jets = evaluation.jet_scores(predicted(gaussian(mean, sigma)), truth)
    assert jets.crps == pytest.approx(scoringrules.crps_normal(truth, mean, sigma), rel=1e-6)


@pytest.mark.parametrize(
    ("share", "mean", "sigma", "tolerance"),
    [
        ((0.72, 0.28), (623.4, 698.3), (20.4, 65.6), 1e-6),
        ((0.59, 0.30, 0.11), (617.8, 659.8, 738.6), (16.6, 33.7, 78.6), 1e-6),
        ((0.5, 0.5), (600, 640), (1.2, 20), 1e-3),
        ((0.5, 0.5), (600, 640), (0.6, 0.6), 1e-2),
    ],
)
def test_crps_of_mixtures(scoringrules, share, mean, sigma, tolerance):
    rng = np.random.default_rng(8)
    part = rng.choice(len(share), p=share, size=300)
    truth = rng.normal(np.array(mean)[part], np.array(sigma)[part])
    columns = (np.repeat(np.array(v, dtype=float)[None, :, None], 300, axis=2) for v in (share, mean, sigma))
    jets = evaluation.jet_scores(predicted(NormalMixture(*columns)), truth)
    exact = np.array([scoringrules.crps_mixnorm(y, mean, sigma, share) for y in truth])
    assert jets.crps == pytest.approx(exact, abs=tolerance * exact.mean())
    assert jets.crps.mean() == pytest.approx(exact.mean(), rel=tolerance / 10)


def test_crps_over_quantiles_is_coarser(scoringrules):
    """Why the integral is taken over the cdf: 199 quantiles per jet leave a thousand times the error."""
    prediction, truth = calibrated(400)
    probability = (np.arange(199) + 0.5) / 199
    exact = scoringrules.crps_normal(truth, 512.0, 64.0)
    summed = scoringrules.crps_quantile(truth, prediction.quantile(probability), probability)
    integrated = evaluation.jet_scores(prediction, truth).crps
    assert np.abs(summed - exact).max() > 1000 * np.abs(integrated - exact).max()
    assert summed.mean() == pytest.approx(exact.mean(), rel=1e-4)


def test_crps_with_power_law_tails():
    tails = CrystalBall(*(np.array([[v, v]]) for v in (500.0, 40.0, 0.8, 1.5, 6.0, 9.0)))
    truth = np.array([300.0, 560.0])
    jets = evaluation.jet_scores(predicted(tails), truth)

    def cdf(x):
        return tails.cdf(np.full((2, 1), x))[0, 0]

    for y, found in zip(truth, jets.crps, strict=True):
        left, _ = quad(lambda x: cdf(x) ** 2, -500, y, points=[468], limit=200)
        right, _ = quad(lambda x: (1 - cdf(x)) ** 2, y, 1500, points=[562], limit=200)
        assert found == pytest.approx(left + right, rel=1e-5)


def test_draws_are_averaged(scoringrules):
    """Two draws of one Gaussian each are a mixture of equal shares."""
    draws = NormalMixture(np.ones((2, 1, 1)), np.array([480.0, 530.0])[:, None, None], np.full((2, 1, 1), 30.0))
    jets = evaluation.jet_scores(predicted(draws), np.array([520.0]))
    assert jets.crps[0] == pytest.approx(scoringrules.crps_mixnorm(520.0, [480.0, 530.0], [30.0, 30.0]), rel=1e-6)
    assert jets.pit[0] == pytest.approx(norm.cdf([40 / 30, -10 / 30]).mean())
    assert jets.nll[0] == pytest.approx(-np.log(norm.pdf(520, [480, 530], 30).mean()))


def test_bins_are_scores_of_selections():
    rng = np.random.default_rng(9)
    mean = rng.uniform(300, 900, 500)
    truth, weight = rng.normal(mean, 50), rng.uniform(0.5, 2, 500)
    prediction = predicted(gaussian(mean, 50.0))
    by = np.where(np.arange(500) == 7, np.nan, mean)
    binned = evaluation.score_in_bins(prediction, truth, weight, by, (300, 500, 700, 1000, 2000))
    assert binned.figure("jets").sum() == 499
    for scores, low, high in zip(binned.bins, (300, 500, 700), (500, 700, 1000), strict=False):
        mask = (by >= low) & (by < high)
        alone = evaluation.score(predicted(gaussian(mean[mask], 50.0)), truth[mask], weight[mask])
        same(numbers(scores), numbers(alone), tolerance=1e-9)
    assert list(binned.figure("jets")) == [scores.jets for scores in binned.bins]
    with pytest.raises(AttributeError):
        binned.figure("crsp")


def test_empty_bins():
    prediction, truth = calibrated(100)
    binned = evaluation.score_in_bins(prediction, truth, None, prediction.mean, (0, 100, 1000))
    empty, full = binned.bins
    assert (empty.jets, empty.n_eff) == (0, 0)
    assert np.isnan(empty.crps)
    assert np.isnan(empty.coverage.observed).all()
    assert full.jets == 100
    written = binned.as_dict()
    assert written["edges"] == [0, 100, 1000]
    assert written["crps"] == [None, full.crps]
    assert "sigma_pred" not in written
    json.dumps(written, allow_nan=False)


def test_no_jets():
    empty = Prediction(*(np.empty(0, dtype=np.float32) for _ in range(3)), np.empty(0, dtype=bool))
    scores = evaluation.score(empty, np.empty(0))
    assert scores.jets == scores.n_eff == 0
    assert np.isnan(scores.absolute_error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"truth": np.ones(2)}, "truth of shape"),
        ({"truth": np.array([1.0, np.nan, 1])}, "1 jets have no finite truth"),
        ({"weight": np.ones(2)}, "weights of shape"),
        ({"weight": np.array([1.0, np.inf, 1])}, "not finite"),
        ({"by": np.ones(4)}, "cannot be binned"),
        ({"edges": (2, 1)}, "must increase"),
        ({"probabilities": (0.5, 1.0)}, "between 0 and 1"),
    ],
)
def test_refusals(arguments, message):
    given_arguments = {"truth": np.ones(3), "weight": None, "by": np.ones(3), "edges": (0, 2)} | arguments
    with pytest.raises(ValueError, match=message):
        evaluation.score_in_bins(predicted(gaussian(np.ones(3), 0.1)), **given_arguments)


def test_shares_by_hand():
    pit, weight = np.array([0.05, 0.3, 0.5, 0.95]), np.array([1.0, 2.0, 1.0, -1.0])
    assert evaluation.coverage_curve(pit, weight, (0.1, 0.5)).observed == pytest.approx([1 / 3, 1])
    curve = evaluation.quantile_curve(pit, weight, (0.1, 0.4, 0.9))
    assert curve.observed == pytest.approx([1 / 3, 1, 4 / 3])
    n_eff = 9 / 7
    assert curve.deviation == pytest.approx((0.6, np.sqrt(0.24 / n_eff)))
    filled = evaluation.pit_histogram(pit, weight, 2)
    assert filled.density == pytest.approx(np.array([3, 0]) * 2 / 3)
    assert filled.unc == pytest.approx(np.sqrt([5, 2]) * 2 / 3)


def test_mean_by_hand():
    mean, unc = weighted_mean(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, -1.0]))
    assert mean == pytest.approx(0.5)
    assert unc == pytest.approx(np.sqrt(0.5**2 + 3**2 + 3.5**2) / 2)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 9)), min_size=1, max_size=30),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4),
)
def test_quantiles_of_weighted_values(rows, probabilities):
    values, weight = np.array(rows, dtype=float).T
    expected = np.quantile(np.repeat(values, weight.astype(int)), probabilities, method="inverted_cdf")
    assert weighted_quantiles(values, weight, probabilities) == pytest.approx(expected)


def test_quantiles_with_negative_weights_rise():
    values, weight = np.arange(6.0), np.array([1, 2, -1, 1, -1, 2.0])
    assert list(weighted_quantiles(values, weight, (0.2, 0.5, 0.8, 0.99))) == [0, 1, 5, 5]


def test_importing_needs_no_torch():
    code = "import sys, hepcal.evaluation; sys.exit(bool({'torch', 'matplotlib', 'scoringrules'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
