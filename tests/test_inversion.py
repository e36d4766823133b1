"""Numerical inversion: known answers, no memory of the spectrum, honest errors, refusals."""

import awkward as ak
import numpy as np
import pytest
import torch
from scipy.special import ndtri

import hepcal
from hepcal.errors import CalibratorFileError, TrainingError
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.inversion.calibrator import TABLE_KNOTS, continued
from hepcal.methods.inversion.learning import effective_weights, truth_intervals, truth_support
from hepcal.methods.training.curves import PenalisedSpline, Polynomial, least_squares, normal_equations, solution

FORMS = ["spline", "polynomial"]
# Equally probable values of a unit Gaussian: averages over them have no statistical error.
NOISE = ndtri((np.arange(4_000) + 0.5) / 4_000)


def table(truth, reco, **others):
    return hepcal.JetPairs.from_arrays(np.empty((len(truth), 0)), [], reco=reco, truth=truth, **others)


def trained(truth, reco, form="spline", seed=1, *, weight=None, event=None, **settings):
    method = hepcal.NumericalInversion(form=form, **settings)
    return hepcal.train(table(truth, reco, weight=weight, event=event), method, seed=seed, show=False)


def predict(calibrator, reco):
    return calibrator.predict(np.empty((len(reco), 0)), reco)


def falling(n, seed):
    """The toy of arXiv:2205.05084 with a response of 0.95 and a noise of 5 % of truth, in GeV."""
    rng = np.random.default_rng(seed)
    truth = 1800 + rng.exponential(250, n)
    return truth, rng.normal(0.95 * truth, 0.05 * truth)


@pytest.fixture(scope="module")
def toy():
    return trained(*falling(50_000, 11))


@pytest.mark.parametrize("form", FORMS)
def test_a_straight_response_is_inverted_exactly(form):
    truth = np.exp(np.random.default_rng(0).uniform(np.log(20), np.log(5000), 5_000)).astype(np.float32)
    calibrator = trained(truth, 5 + 0.95 * truth, form)
    reco = np.geomspace(30, 4500, 3_000).astype(np.float32)
    found = predict(calibrator, reco)
    # Rounding of float32 in table and jets, and the table's linear interpolation.
    np.testing.assert_allclose(found.mean, (reco - 5) / 0.95, rtol=1e-5)
    assert found.sigma_pred.max() < 1e-4 * reco.max()
    assert found.in_range.all()


@pytest.mark.parametrize("form", FORMS)
def test_a_curved_response_leaves_the_bias_that_its_curvature_says(form):
    rng = np.random.default_rng(3)

    def mean(z):
        return 0.7 * z + 2e-4 * z**2

    truth = rng.uniform(500, 1500, 60_000)
    calibrator = trained(truth, mean(truth) * (1 + 0.15 * rng.standard_normal(len(truth))), form)
    z = np.array([700.0, 1000.0, 1300.0])
    expected = -0.5 * 4e-4 / (0.7 + 4e-4 * z) ** 3 * (0.15 * mean(z)) ** 2
    found = predict(calibrator, (mean(z)[:, None] * (1 + 0.15 * NOISE)).ravel())
    each = found.mean.reshape(3, -1).astype(np.float64)
    bias, error = each.mean(1) - z, predict(calibrator, mean(z)).sigma_pred
    assert np.all(np.abs(bias - expected) < 4 * error)
    assert np.all(bias < -2 * error)
    # Beside the error of the curve, which moves both, the bias is that of the formula.
    np.testing.assert_allclose(each.mean(1) - predict(calibrator, mean(z)).mean, expected, rtol=0.35)
    np.testing.assert_allclose(calibrator.curvature_bias(z), expected, rtol=0.35)
    assert np.isnan(calibrator.curvature_bias(np.array([100.0, 2000.0]))).all()
    figures = calibrator.card.figures
    assert figures["curvature_bias"] == pytest.approx(
        calibrator.curvature_bias(figures["curvature_bias_at"]) / figures["curvature_bias_at"], rel=1e-3
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_straight_response_on_a_falling_spectrum_closes_where_a_regression_cannot(form):
    calibrator = trained(*falling(50_000, 11), form)
    for z in (2000, 2400, 2800, 3200):
        found = predict(calibrator, 0.95 * z + 0.05 * z * NOISE)
        error = predict(calibrator, np.array([0.95 * z])).sigma_pred[0] / z
        assert abs(found.mean.mean() / z - 1) < 3 * error < 0.008
    resonance = 2800 + 10 * np.random.default_rng(4).standard_normal(len(NOISE))
    found = predict(calibrator, 0.95 * resonance + 0.05 * resonance * NOISE).mean / resonance
    # The exact mean of the truth at fixed reco on this spectrum gives 0.976.
    assert found.mean() == pytest.approx(1, abs=0.003)
    assert found.std() == pytest.approx(0.0526, rel=0.03)


def test_the_spectrum_of_the_training_does_not_matter():
    rng = np.random.default_rng(5)

    def response(z):
        return z * (0.8 + 0.1 * np.log(z / 300) / np.log(10))

    low = 300 * (1 - rng.uniform(0, 1 - 10**-2.0, 30_000)) ** (-1 / 2)  # z^-3
    high = 3000 - rng.exponential(600, 30_000)
    high = high[high > 300]
    calibrators = [trained(z, response(z) * (1 + 0.1 * rng.standard_normal(len(z)))) for z in (low, high)]
    reco = response(np.geomspace(500, 2500, 12))
    first, second = (predict(calibrator, reco) for calibrator in calibrators)
    pull = (first.mean - second.mean) / np.hypot(first.sigma_pred, second.sigma_pred)
    assert np.abs(pull).max() < 4
    assert np.sqrt(np.mean(pull**2)) < 2
    assert np.all(first.sigma_pred < 0.02 * first.mean)


def test_weights_choose_the_mean_at_fixed_truth():
    rng = np.random.default_rng(6)
    n = 30_000
    truth = rng.uniform(500, 1500, n)
    kind = rng.choice(3, n)
    reco = truth * np.array([0.9, 1.0, 0.5])[kind] * (1 + 0.05 * rng.standard_normal(n))
    # One part in three of the first, three of the second; the third comes with a copy of negative weight.
    weight = np.array([1.0, 3.0, 2.0])[kind]
    gone = kind == 2
    truth, reco = np.concatenate([truth, truth[gone]]), np.concatenate([reco, reco[gone]])
    weight, event = np.concatenate([weight, -weight[gone]]), np.concatenate([np.arange(n), np.flatnonzero(gone)])
    found = predict(trained(truth, reco, weight=weight, event=event), np.array([600.0, 1000.0, 1300.0]))
    np.testing.assert_allclose(found.mean, np.array([600, 1000, 1300]) / 0.975, rtol=0.003)


def test_weights_of_slices_do_not_drown_the_hard_jets():
    truth, reco = falling(50_000, 12)
    weight = 10.0 ** np.floor((truth - 1800) / 300)
    plain, weighted = trained(truth, reco), trained(truth, reco, weight=weight)
    assert weighted.card.source.n_eff < 0.05 * plain.card.source.n_eff
    assert weighted.card.figures["fit_n_eff"] > 0.4 * plain.card.figures["fit_n_eff"]
    reco = 0.95 * np.array([2000.0, 2500.0, 3000.0])
    first, second = predict(plain, reco), predict(weighted, reco)
    assert np.all(second.sigma_pred < 2 * first.sigma_pred)
    assert np.all(np.abs(first.mean - second.mean) < 3 * second.sigma_pred)


def test_effective_weights_sum_to_the_effective_number_and_ignore_a_factor_of_truth():
    rng = np.random.default_rng(7)
    truth, weight = rng.uniform(100, 400, 3_000), rng.uniform(0.5, 1.5, 3_000)
    edges = np.array([100.0, 200.0, 400.0])
    found = effective_weights(truth, weight, edges)
    for low, high in ((100, 200), (200, 400)):
        inside = (truth >= low) & (truth < high)
        assert found[inside].sum() == pytest.approx(weight[inside].sum() ** 2 / (weight[inside] ** 2).sum())
    factor = np.where(truth < 200, 1e-6, 1e3)
    np.testing.assert_allclose(effective_weights(truth, weight * factor, edges), found)


@pytest.mark.parametrize("form", FORMS)
def test_a_response_that_falls_somewhere_is_refused_with_the_place(form):
    rng = np.random.default_rng(8)
    truth = rng.uniform(200, 1000, 30_000)
    mean = 900 - 0.0016 * (truth - 750) ** 2  # highest at 750 GeV
    with pytest.raises(TrainingError, match=r"does not rise with truth between [5-8]\d\d(\.\d)? and (999|1000)"):
        trained(truth, mean * (1 + 0.02 * rng.standard_normal(len(truth))), form, degree=3)
    with pytest.raises(TrainingError, match="nothing to invert"):
        trained(truth, 1200 - truth, form)


def test_a_polynomial_whose_replicas_fall_is_refused():
    rng = np.random.default_rng(9)
    truth = rng.uniform(200, 1000, 60)
    with pytest.raises(TrainingError, match=r"bootstrap samples|does not rise|do not determine"):
        trained(truth, truth * rng.normal(1, 0.4, 60).clip(0.1), "polynomial", degree=6)


def test_sigma_stoch_is_the_noise_over_the_slope(toy):
    reco = 0.95 * np.array([1900.0, 2200.0, 2600.0, 3000.0])
    found = predict(toy, reco)
    np.testing.assert_allclose(found.sigma_stoch / found.mean, 0.05 / 0.95, rtol=0.04)
    np.testing.assert_allclose(found.sigma_tot, np.hypot(found.sigma_stoch, found.sigma_pred), rtol=1e-6)


def test_sigma_stoch_follows_a_noise_that_changes():
    rng = np.random.default_rng(10)
    truth = np.exp(rng.uniform(np.log(100), np.log(2000), 60_000))
    noise = np.hypot(0.8 / np.sqrt(truth), 0.04)
    calibrator = trained(truth, 0.9 * truth * (1 + noise * rng.standard_normal(len(truth))))
    z = np.geomspace(120, 1700, 8)
    found = predict(calibrator, 0.9 * z)
    np.testing.assert_allclose(found.sigma_stoch / found.mean, np.hypot(0.8 / np.sqrt(z), 0.04), rtol=0.05)


def test_sigma_pred_is_the_spread_over_samples():
    reco = 0.95 * np.array([1850.0, 2000.0, 2300.0, 2700.0, 3100.0])
    found = [predict(trained(*falling(10_000, 100 + seed), seed=seed), reco) for seed in range(20)]
    spread = np.std([prediction.mean for prediction in found], axis=0, ddof=1)
    said = np.sqrt(np.mean([prediction.sigma_pred.astype(np.float64) ** 2 for prediction in found], axis=0))
    assert np.all((said / spread > 1 / 1.5) & (said / spread < 1.5))


def test_jets_of_one_event_are_drawn_together():
    truth, reco = falling(4_000, 13)
    event = np.arange(len(truth))
    twice = [np.concatenate([part, part]) for part in (truth, reco)]
    once = predict(trained(truth, reco, n=200), np.array([1900.0]))
    together = predict(trained(*twice, event=np.concatenate([event, event]), n=200), np.array([1900.0]))
    apart = predict(trained(*twice, n=200), np.array([1900.0]))
    assert together.sigma_pred[0] == pytest.approx(once.sigma_pred[0], rel=0.2)
    assert apart.sigma_pred[0] == pytest.approx(once.sigma_pred[0] / np.sqrt(2), rel=0.2)


def test_beyond_the_support_the_table_goes_on_and_is_flagged(toy):
    low, high = toy.support
    assert low == pytest.approx(1800, abs=5)
    reco = np.array([5.0, 0.94 * low, 0.96 * low, 0.94 * high, 0.97 * high, 20_000.0], dtype=np.float32)
    found = predict(toy, reco)
    assert found.in_range.tolist() == [False, False, True, True, False, False]
    # The response is nearly proportional, so its power law is nearly a straight line through zero.
    np.testing.assert_allclose(found.mean, reco / 0.95, rtol=0.15)
    assert np.all(np.diff(found.mean) > 0)
    assert np.isfinite(found.sigma_tot).all()


def test_a_saved_calibrator_gives_the_same_bits(toy, tmp_path):
    _, reco = falling(3_000, 14)
    toy.save(tmp_path / "inversion.safetensors")
    loaded = Calibrator.load(tmp_path / "inversion.safetensors")
    assert loaded.sha256 == toy.sha256
    assert loaded.card.quantity == "mean"
    first, again = predict(toy, reco), predict(loaded, reco)
    for name in ("mean", "sigma_stoch", "sigma_pred", "in_range"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    order = np.random.default_rng(0).permutation(len(reco))[:700]
    np.testing.assert_array_equal(predict(toy, reco[order]).mean, first.mean[order])
    np.testing.assert_array_equal(predict(toy, reco[order]).sigma_pred, first.sigma_pred[order])
    again = trained(*falling(50_000, 11))
    assert again.sha256 == toy.sha256


def test_columns_and_replicas_on_jets(toy):
    reco = np.array([1800.0, 2500.0, 2000.0], dtype=np.float32)
    jets = ak.unflatten(ak.zip({"pt": reco, "mass": np.full(3, 50, np.float32)}), [2, 0, 1])
    out = toy(jets, replicas=True)
    each = ak.to_numpy(ak.flatten(out.pt_calib_replicas))
    assert each.shape == (3, 50)
    np.testing.assert_allclose(each.std(1, ddof=1), ak.flatten(out.pt_calib_sigma_pred), rtol=1e-3)
    np.testing.assert_allclose(ak.flatten(out.calib_pred.up.pt - out.pt_calib), each.std(1, ddof=1), rtol=1e-2)


def test_features_are_left_out():
    truth, reco = falling(5_000, 15)
    pairs = hepcal.JetPairs.from_arrays(np.ones((5_000, 1)), ["eta"], reco=reco, truth=truth)
    calibrator = hepcal.train(pairs, hepcal.NumericalInversion(), seed=1, show=False)
    assert calibrator.uses == ("pt",)


def test_a_table_that_does_not_rise_is_refused(toy):
    for name in ("truth", "reco"):
        damaged = {**toy.tensors, name: toy.tensors[name].flip(0)}
        with pytest.raises(CalibratorFileError, match=f"{name}.*cannot be inverted"):
            type(toy)(toy.card, damaged)
    with pytest.raises(CalibratorFileError, match="slope"):
        type(toy)(toy.card, {**toy.tensors, "slope": torch.zeros(TABLE_KNOTS)})


# -- curves ---------------------------------------------------------------------------------------------------------


def test_a_rising_spline_holds_the_identity_and_every_penalty_spares_it():
    spline = PenalisedSpline(np.array([100.0, 150.0, 300.0, 800.0]), 3)
    z = np.linspace(100, 800, 50)
    np.testing.assert_allclose(spline.design(z) @ spline.line, z)
    np.testing.assert_allclose(spline.bend @ spline.line, 0, atol=1e-9)
    parabola = Polynomial(2, 100, 800)
    coefficients, *_ = np.linalg.lstsq(spline.design(z), parabola.design(z) @ [3.0, 2.0, 1.0], rcond=None)
    np.testing.assert_allclose(spline.bend @ coefficients, 0, atol=1e-9)
    np.testing.assert_allclose(spline.design(z, 1) @ coefficients, parabola.design(z, 1) @ [3.0, 2.0, 1.0], atol=1e-12)


def test_smoothness_is_what_the_data_ask_for():
    rng = np.random.default_rng(16)
    z = rng.uniform(100, 1000, 20_000)
    spline = PenalisedSpline(np.geomspace(100, 1000, 9), 3)
    at = np.linspace(110, 990, 60)

    none = np.empty((0, len(spline.line)))

    def errors(mean):
        """Relative errors with and without smoothness, root mean square over places and ten samples."""
        squares = []
        for _ in range(10):
            response = mean(z) / z + 0.1 * rng.standard_normal(len(z))
            found = normal_equations(spline, z, response, np.ones((len(z), 1)), z)
            curves = (solution(*least_squares(found, extra)[0]) for extra in (spline.smoothness(found), none))
            squares.append([np.mean((spline.design(at) @ curve / mean(at) - 1) ** 2) for curve in curves])
        return np.sqrt(np.mean(squares, axis=0))

    smooth, rough = errors(lambda z: 0.9 * z + 1e-5 * z**2)
    assert smooth < 0.75 * rough
    smooth, rough = errors(lambda z: z * (0.9 + 0.05 * np.sin(4 * np.log(z))))
    assert smooth < 1.1 * rough < 0.006


def test_a_falling_stretch_is_made_flat_at_most():
    z = np.linspace(100, 1000, 5_000)
    mean = z - 120 * np.exp(-0.5 * ((z - 600) / 60) ** 2)
    spline = PenalisedSpline(np.linspace(100, 1000, 19), 3)
    found = normal_equations(spline, z, mean / z, np.ones((len(z), 1)), z)
    system = least_squares(found, np.empty((0, len(spline.line))))[0]
    assert (spline.design(z, 1) @ solution(*system)).min() < 0
    rising = spline.rising(*system, 0.1)
    assert (spline.design(z, 1) @ rising).min() > 0.1 - 1e-9
    assert (spline.design(z) @ rising)[0] == pytest.approx(100, abs=3)


def test_many_fits_at_once_are_fits_one_by_one():
    rng = np.random.default_rng(17)
    z, weights = rng.uniform(100, 900, 400), rng.poisson(1, (400, 3)).astype(float)
    reco = 0.9 * z + rng.normal(0, 10, 400)
    basis = Polynomial(2, 100, 900)
    found = normal_equations(basis, z, reco / z, weights, z)
    for number, system in enumerate(least_squares(found, basis.smoothness(found))):
        root = np.sqrt(weights[:, number]) / z
        expected, *_ = np.linalg.lstsq(basis.design(z) * root[:, None], reco * root, rcond=None)
        np.testing.assert_allclose(solution(*system), expected, rtol=1e-8)
        assert found.number[number] == weights[:, number].sum()


def test_intervals_hold_enough_jets():
    truth = falling(20_000, 18)[0]
    edges = truth_intervals(truth, np.ones(len(truth)), 30)
    assert edges[0] == truth.min()
    assert edges[-1] == truth.max()
    assert np.histogram(truth, edges)[0].min() >= 100
    np.testing.assert_allclose(np.diff(np.log(edges))[:10], np.log(edges[-1] / edges[0]) / 30)
    assert len(truth_intervals(truth[:50], np.ones(50), 8)) == 2
    assert truth_support(np.arange(1.0, 4_001.0)) == (11.0, 3_990.0)
    with pytest.raises(TrainingError, match="too narrow"):
        truth_support(np.full(100, 500.0))


def test_a_table_is_continued_by_straight_lines():
    knots, values = np.array([0.0, 1.0, 3.0]), np.array([[0.0, 5.0], [1.0, 5.0], [5.0, 7.0]])
    at = np.array([-2.0, 0.5, 2.0, 4.0])
    np.testing.assert_allclose(continued(at, knots, values), [[-2, 5], [0.5, 5], [3, 6], [7, 8]])
    np.testing.assert_allclose(continued(at, knots, values[:, 0]), [-2, 0.5, 3, 7])
