"""Training: determinism, known answers, and refusals."""

import dataclasses

import numpy as np
import pytest

import hepcal
from hepcal.errors import TrainingError

QUICK = {"hidden": (24, 24), "max_updates": 1_500, "patience": 400, "batch": 256}


def toy(n, seed=0, noise=0.05):
    """Truth 200-1000 GeV, response 0.9 + 0.1 x with a feature x, relative noise ``noise`` (1 + x)."""
    rng = np.random.default_rng(seed)
    x, truth = rng.uniform(0, 1, n), rng.uniform(200, 1000, n)
    y = 1 / (0.9 + 0.1 * x) * (1 + noise * (1 + x) * rng.standard_normal(n))
    return x, hepcal.JetPairs.from_arrays(x[:, None], ["x"], reco=truth / y, truth=truth)


@pytest.fixture(scope="module")
def trained():
    return hepcal.train(toy(20_000)[1], hepcal.BNN(**QUICK, draws=20), seed=3, show=False)


def test_the_same_seed_gives_the_same_calibrator():
    _, pairs = toy(500)
    method = hepcal.BNN(hidden=(8,), max_updates=60, patience=30, draws=3)
    first, again = (hepcal.train(pairs, method, seed=4, show=False) for _ in range(2))
    assert first.sha256 == again.sha256
    assert hepcal.train(pairs, method, seed=5, show=False).sha256 != first.sha256


def test_a_bayesian_network_recovers_mean_and_noise(trained):
    x, test = toy(20_000, seed=1)
    prediction = trained.predict(test.features, test.reco)
    y = prediction.mean / test.reco
    inner = (x > 0.1) & (x < 0.9) & (test.reco > 300) & (test.reco < 800)
    assert np.abs(y - 1 / (0.9 + 0.1 * x))[inner].mean() < 0.01
    noise = prediction.sigma_stoch / test.reco * (0.9 + 0.1 * x) / (0.05 * (1 + x))
    assert np.mean(noise[inner]) == pytest.approx(1, abs=0.05)
    assert np.all((prediction.sigma_pred > 0) & (prediction.sigma_pred < prediction.sigma_stoch))
    pull = (test.truth - prediction.mean) / prediction.sigma_tot
    assert np.std(pull) == pytest.approx(1, abs=0.05)
    assert np.mean(np.abs(pull) < 1) == pytest.approx(0.6827, abs=0.03)


def test_the_card_tells_what_was_done(trained):
    card = trained.card
    assert card.method == "bnn"
    assert card.quantity == "mean"
    assert card.source.jets == 18_000
    assert card.source.validation_jets == 2_000
    assert card.settings["prior_width"] == 0.1
    assert card.figures["sum_ratio"] == pytest.approx(1, abs=0.01)
    assert card.history[-1][0] == card.figures["updates"]
    assert min(loss for _, loss in card.history) == dict(card.history)[card.figures["best_update"]]


def test_a_squared_error_regression_gives_the_mean_and_no_uncertainty():
    x, test = toy(5_000, seed=1)
    calibrator = hepcal.train(toy(20_000)[1], hepcal.MSE(**QUICK), seed=3, show=False)
    prediction = calibrator.predict(test.features, test.reco)
    assert prediction.sigma_stoch is None
    assert prediction.sigma_tot is None
    assert calibrator.columns == ("pt_calib", "pt_calib_in_range")
    assert calibrator.uncertainties == ()
    assert np.mean(prediction.mean / test.reco) == pytest.approx(np.mean(1 / (0.9 + 0.1 * x)), rel=0.01)


def test_flags_leave_the_training_support(trained):
    inside = trained.predict(np.array([[0.5]]), np.array([500.0])).in_range
    outside = trained.predict(np.array([[0.5], [3.0]]), np.array([5000.0, 500.0])).in_range
    assert inside.tolist() == [True]
    assert outside.tolist() == [False, False]


def test_duplicating_jets_by_weight_or_by_row_scales_the_kl_alike():
    """The KL term is divided by the effective number of jets, whatever the scale of the weights."""
    _, pairs = toy(400)
    method = hepcal.BNN(hidden=(8,), max_updates=60, patience=30, draws=3)
    heavy = dataclasses.replace(pairs, weight=pairs.weight * 1e-9)
    tensors = [hepcal.train(p, method, seed=1, show=False).tensors["posterior_mean"] for p in (pairs, heavy)]
    assert np.allclose(*tensors, atol=1e-6)


def test_absurd_targets_stay_finite():
    _, pairs = toy(2_000)
    truth = pairs.truth.copy()
    truth[::500] *= 100
    calibrator = hepcal.train(dataclasses.replace(pairs, truth=truth), hepcal.BNN(**QUICK), seed=1, show=False)
    assert np.isfinite(calibrator.predict(pairs.features, pairs.reco).sigma_tot).all()


def test_a_noise_free_target_trains():
    _, pairs = toy(2_000, noise=0.0)
    calibrator = hepcal.train(pairs, hepcal.BNN(**QUICK), seed=1, show=False)
    prediction = calibrator.predict(pairs.features, pairs.reco)
    assert np.allclose(prediction.mean, pairs.truth, rtol=0.05)


def test_too_few_events_and_vanishing_weights_are_refused():
    _, pairs = toy(400)
    with pytest.raises(TrainingError, match="too few"):
        hepcal.train(pairs.take(np.arange(10)), show=False)
    with pytest.raises(TrainingError, match="sum to"):
        hepcal.train(dataclasses.replace(pairs, weight=-pairs.weight), show=False)


@pytest.mark.parametrize("setting", [{"draws": 1}, {"prior_width": 0}, {"hiden": (5,)}, {"batch": 0}])
def test_wrong_settings_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        hepcal.BNN(**setting)
