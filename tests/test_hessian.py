"""The statistical error from the Hessian of a loss: closed forms, replicas, weights."""

import numpy as np
import pytest
import torch
from conftest import NETWORKS

import hepcal
from hepcal.errors import CalibratorFileError
from hepcal.methods.noisy_labels.calibrator import CalibrationWidth
from hepcal.networks.averaging import AveragedMembers
from hepcal.networks.dense import DenseLayout

# A network without hidden layers is a linear regression, whose posterior is known.
LINEAR = {"hidden": (), "max_updates": 2_000, "patience": 400, "learning_rate": 1e-2, "schedule": "cosine"}


def linear_sample(n, seed, weight=None, noise=0.1):
    """y = 1 + 0.05 x with Gaussian noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 1 + 0.05 * x + noise * rng.standard_normal(n)
    reco = np.full(n, 100.0)
    return hepcal.JetPairs.from_arrays(x[:, None], ["x"], reco=reco, truth=reco * y, weight=weight)


def at(x, n=2):
    """Jets at one x."""
    return np.full((n, 1), float(x)), np.full(n, 100.0)


@pytest.mark.parametrize("error", ["laplace", "sandwich"])
def test_a_linear_regression_has_the_error_of_the_textbook(error):
    """sigma² (1 + x²) / n, with a wide prior."""
    n = 5_000
    method = hepcal.Hessian(**LINEAR, error=error, prior_width=100.0, validation=0.1, curvature=1_000)
    calibrator = hepcal.train(linear_sample(n, 3), method, seed=1, show=False)
    for x in (0.0, 2.0):
        found = calibrator.predict(*at(x)).sigma_pred[0]
        assert found == pytest.approx(10 * np.sqrt((1 + x**2) / (0.9 * n)), rel=0.1)


def test_weights_count_as_repetitions_do_not():
    """Half the jets with three times the weight: n_eff is 0.8 n."""
    n = 1_000
    weight = np.where(np.arange(n) % 2, 3.0, 1.0)
    found = {
        error: hepcal.train(
            linear_sample(n, 3, weight), hepcal.Hessian(**LINEAR, error=error, prior_width=100.0), seed=1, show=False
        )
        .predict(*at(0.0))
        .sigma_pred[0]
        for error in ("laplace", "sandwich")
    }
    for value in found.values():
        assert value == pytest.approx(10 / np.sqrt(0.8 * 0.9 * n), rel=0.12)


def test_a_narrow_prior_narrows_the_error():
    wide, narrow = (
        hepcal.train(linear_sample(500, 3), hepcal.Hessian(**LINEAR, prior_width=w), seed=1, show=False)
        for w in (100.0, 0.03)
    )
    assert narrow.predict(*at(2.0)).sigma_pred[0] < 0.8 * wide.predict(*at(2.0)).sigma_pred[0]


@pytest.mark.parametrize("name", ["hessian", "hessian_tails"])
def test_the_spread_of_the_replicas_is_sigma_pred(name, tiny_calibrator, tiny_pairs):
    calibrator = tiny_calibrator(name)
    prediction = calibrator.predict(tiny_pairs)
    replicas = prediction.replicas()
    assert replicas.shape == (5, len(tiny_pairs))
    np.testing.assert_allclose(replicas.std(0, ddof=1), prediction.sigma_pred, rtol=2e-3)
    np.testing.assert_allclose(replicas.mean(0), prediction.mean, rtol=1e-6)
    # Draws of random numbers carry the same.
    rows = prediction.sample(2_000, seed=1)
    total = np.hypot(prediction.sigma_stoch, prediction.sigma_pred * np.sqrt(4 / 5))
    if name == "hessian":
        np.testing.assert_allclose((rows.std(0) / total).mean(), 1, atol=0.02)


def test_the_density_is_broadened_by_sigma_pred(tiny_calibrator, tiny_pairs):
    prediction = tiny_calibrator("hessian").predict(tiny_pairs)[:20]
    width = np.hypot(prediction.sigma_stoch, prediction.sigma_pred)
    np.testing.assert_allclose(prediction.quantile(0.8413447)[:, 0], prediction.mean + width, rtol=1e-5)


def test_without_an_average_the_network_is_that_of_the_update_before(tiny_pairs):
    """One update is taken into the average when the next one begins: the look after it judges the one before."""
    settings = {"hidden": (8,), "learning_rate": 1e-2, "batch": 50, "patience": 8_000, "schedule": "constant"}
    one = hepcal.train(tiny_pairs, hepcal.Hessian(**settings, averaged=1, max_updates=31), seed=3, show=False)
    other = hepcal.train(tiny_pairs, hepcal.Heteroscedastic(**settings, max_updates=30), seed=3, show=False)
    one, other = one.predict(tiny_pairs), other.predict(tiny_pairs)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-6)
    np.testing.assert_allclose(one.sigma_stoch, other.sigma_stoch, rtol=1e-5)


def test_the_average_is_that_of_the_updates():
    """As long as there are few, all count alike; then old ones are forgotten."""
    network = AveragedMembers(DenseLayout((2, 3, 1)), 1, torch.Generator().manual_seed(1), updates=4)
    path = torch.randn((9, *network.weights.shape), generator=torch.Generator().manual_seed(2), dtype=torch.float32)
    expected = None
    for number, weights in enumerate(path):
        with torch.no_grad():
            network.weights.copy_(weights)
        network.follow()
        share = 1 / min(number + 1, 4)
        expected = weights if expected is None else expected + share * (weights - expected)
        torch.testing.assert_close(network.average, expected)
        if number == 3:
            torch.testing.assert_close(network.average, path[:4].mean(0))


@pytest.mark.filterwarnings("ignore::hepcal.errors.CurvatureWarning")
def test_an_average_scatters_less_from_start_to_start():
    """The mean of all jets, for other starts and orders of one sample, at a step size that does not fall."""
    settings = {"hidden": (16,), "learning_rate": 1e-2, "batch": 50, "max_updates": 500, "patience": 500}
    sample, spreads = linear_sample(2_000, 3), []
    for averaged in (1, 200):
        # The error is not looked at: few jets do for its curvature.
        method = hepcal.Hessian(**settings, averaged=averaged, schedule="constant", directions=4, curvature=200)
        found = [hepcal.train(sample, method, seed=k, show=False).predict(sample).mean.mean() for k in range(6)]
        spreads.append(np.std(found, ddof=1))
    assert spreads[1] < 0.6 * spreads[0]


def test_the_card_says_how_the_error_came_about(tiny_calibrator):
    figures = tiny_calibrator("hessian").card.figures
    assert figures["curvature_jets"] == 450
    assert figures["curvature_change"] == 0
    assert 0 <= figures["tangents_unexplained"] < 1


def test_more_directions_than_replicas_are_refused():
    with pytest.raises(ValueError, match="50 directions need at least 51 draws"):
        hepcal.Hessian(draws=50, directions=50)


@pytest.mark.parametrize(
    "name", ["tangent_changes", "tangent_reach", "tangent_signals_0", "tangent_inputs_1", "replica_mix"]
)
def test_a_file_without_its_directions_is_refused(name, tiny_calibrator):
    calibrator = tiny_calibrator("hessian")
    tensors = {key: value for key, value in calibrator.tensors.items() if key != name}
    with pytest.raises(CalibratorFileError, match=name):
        type(calibrator)(calibrator.card, tensors)


@pytest.mark.parametrize("summary", [hepcal.Hessian(), {"method": "hessian"}])
def test_a_summary_refuses_it(summary):
    with pytest.raises(ValueError, match="a summary does not carry the error of 'hessian'"):
        hepcal.SummaryLikelihood(summary=summary)


def test_both_of_a_pair_of_trainings_carry_it(tiny_pairs):
    """The same random numbers for both: where labels are as good as exact, there is no difference at all."""
    method = hepcal.Hessian(**NETWORKS, draws=5, directions=4, rank=4)
    found = hepcal.train(tiny_pairs, hepcal.NoisyLabels(method, fraction=1e-7), seed=3, show=False).predict(tiny_pairs)
    alone = hepcal.train(tiny_pairs, method, seed=3, show=False).predict(tiny_pairs)
    np.testing.assert_allclose(found.sigma_pred, alone.sigma_pred, rtol=1e-2)
    np.testing.assert_allclose(found.baseline.sigma_pred, alone.sigma_pred, rtol=1e-4)
    np.testing.assert_allclose(found.mean, alone.mean, rtol=1e-4)
    np.testing.assert_allclose(found.replicas(), alone.replicas(), rtol=1e-3)
    # Replicas have the width of their network.
    assert found.sigma_cal_squared_error is None
    assert np.isnan(CalibrationWidth.of(found).error)


@pytest.mark.parametrize("fresh", [False, True])
def test_noisy_labels_scatter_in_the_sandwich(fresh):
    """Labels with twice the noise, fixed or fresh: errors of the textbook without and with it."""
    n = 1_000
    method = hepcal.Hessian(**LINEAR, error="sandwich", prior_width=100.0)
    # Truth is 100 GeV: errors of 3.5 % of it are sqrt(3) times the noise of 2 GeV.
    noisy = hepcal.NoisyLabels(method, fraction=0.03464, fresh=fresh)
    found = hepcal.train(linear_sample(n, 3, noise=0.02), noisy, seed=1, show=False).predict(*at(0.0))
    assert found.baseline.sigma_pred[0] == pytest.approx(2 / np.sqrt(0.9 * n), rel=0.1)
    assert found.sigma_pred[0] == pytest.approx(4 / np.sqrt(0.9 * n), rel=0.12)


def test_retrainings_set_the_scale():
    """Which is one where the error is that of the textbook; means stay."""
    pairs = linear_sample(1_000, 3)
    method = hepcal.Hessian(**LINEAR, prior_width=100.0, retrainings=12)
    calibrator = hepcal.train(pairs, method, seed=1, show=False)
    figures = calibrator.card.figures
    assert figures["retraining_scale"] == pytest.approx(1, abs=3 * figures["retraining_scale_error"])
    assert 0.05 < figures["retraining_scale_error"] < 0.4
    plain = hepcal.train(pairs, method.model_copy(update={"retrainings": 0}), seed=1, show=False).predict(*at(0.0))
    found = calibrator.predict(*at(0.0))
    assert np.array_equal(found.mean, plain.mean)
    np.testing.assert_allclose(found.sigma_pred, figures["retraining_scale"] * plain.sigma_pred, rtol=1e-5)
    with pytest.raises(ValueError, match="one retraining has no spread"):
        hepcal.Hessian(retrainings=1)


def test_an_interrupted_retraining_goes_on(tiny_pairs, tmp_path, monkeypatch):
    method = hepcal.Hessian(**NETWORKS, draws=5, directions=4, rank=4, retrainings=2)
    expected = hepcal.train(tiny_pairs, method, seed=3, show=False).predict(tiny_pairs)
    place = tmp_path / "state.safetensors"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hepcal.methods.hessian.learning._Trained.error", stop)
        with pytest.raises(KeyboardInterrupt):
            hepcal.train(tiny_pairs, method, seed=3, show=False, checkpoint=place)
    found = hepcal.train(tiny_pairs, method, seed=3, show=False, checkpoint=place).predict(tiny_pairs)
    assert found.sigma_pred.tobytes() == expected.sigma_pred.tobytes()


def test_inputs_that_few_dimensions_do_not_stand_for_keep_their_directions():
    """Sixty inputs that all matter, and two dimensions for them."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 60))
    y = 1 + 0.02 * np.tanh(x @ rng.normal(size=(60, 60))).sum(1) + 0.05 * rng.standard_normal(600)
    reco = np.full(600, 100.0)
    names = [f"x{k}" for k in range(60)]
    pairs = hepcal.JetPairs.from_arrays(x, names, reco=reco, truth=reco * np.maximum(y, 0.2))
    method = hepcal.Hessian(hidden=(40,), max_updates=300, patience=300, rank=2, draws=20, directions=19)
    calibrator = hepcal.train(pairs, method, seed=1, show=False)
    assert "tangent_directions" in calibrator.tensors
    assert calibrator.card.figures["tangents_unexplained"] == 0
    again = hepcal.Calibrator.from_content(calibrator.content).predict(pairs)
    np.testing.assert_allclose(again.replicas().std(0, ddof=1), again.sigma_pred, rtol=2e-3)
    assert np.array_equal(again.sigma_pred, calibrator.predict(pairs).sigma_pred)
    alone = calibrator.predict(pairs.take(np.arange(7, 12))).sigma_pred
    assert np.array_equal(alone, calibrator.predict(pairs).sigma_pred[7:12])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("error", ["laplace", "sandwich"])
def test_a_training_on_cuda_finds_the_same_error(error):
    """Another order of sums ends in another network; the error of a linear regression is that of the textbook."""
    method = hepcal.Hessian(**LINEAR, error=error, prior_width=100.0)
    found = hepcal.train(linear_sample(5_000, 3), method, seed=1, device="cuda", show=False).predict(*at(0.0))
    assert found.sigma_pred[0] == pytest.approx(10 / np.sqrt(0.9 * 5_000), rel=0.1)
