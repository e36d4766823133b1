"""Training: determinism, known answers, and refusals."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus

import hepcal
from hepcal.errors import CheckpointWarning, HepcalError, PairsError, TrainingError
from hepcal.methods.registry import METHODS, method_of
from hepcal.networks.heads import SIGMA_FLOOR
from hepcal.networks.objectives import HELD_OUT_SAMPLES, HELD_OUT_SEED, TrainingSet

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


def objective_of(n_eff, inputs=3, prior_width=0.1):
    y = torch.randn(500, generator=torch.Generator().manual_seed(1))
    method = hepcal.BNN(hidden=(6,), prior_width=prior_width)
    sample = TrainingSet(inputs, n_eff, y, np.arange(500))
    return method.objective(sample, torch.Generator().manual_seed(2))


def test_the_loss_is_the_weighted_likelihood_plus_the_kl_over_n():
    """L = sum(w NLL)/b + KL/n_eff (arXiv:2003.11099, Eq. 8 per jet), against a computation of its own."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn((40, 3), generator=generator), torch.randn(40, generator=generator)
    w = 2 * torch.rand(40, generator=generator)
    objective = objective_of(n_eff=123.0)
    posterior = objective.module
    kl = kl_divergence(Normal(posterior.mean, posterior.sigma), Normal(0.0, 0.1)).sum() / 123.0
    out = posterior(x, torch.Generator().manual_seed(7))
    nll = -Normal(out[:, 0], softplus(out[:, 1]) + SIGMA_FLOOR).log_prob(y)
    found = objective.loss(x, y, w, torch.Generator().manual_seed(7))
    assert found.item() == pytest.approx(((w * nll).mean() + kl).item(), rel=1e-5)
    # Held out: four fixed draws per jet, normalised to the weights of these jets.
    draws = torch.Generator().manual_seed(HELD_OUT_SEED)
    total = 0.0
    for _ in range(HELD_OUT_SAMPLES):
        out = posterior(x, draws)
        nll = -Normal(out[:, 0], softplus(out[:, 1]) + SIGMA_FLOOR).log_prob(y)
        total += (w * nll).sum() / w.sum() / HELD_OUT_SAMPLES
    assert objective.held_out_loss(x, y, w).tolist() == [pytest.approx((total + kl).item(), rel=1e-5)]


def test_twice_the_jets_halve_the_share_of_the_kl():
    x, y, w = torch.zeros((4, 3)), torch.zeros(4), torch.zeros(4)
    shares = [objective_of(n).loss(x, y, w, torch.Generator()).item() for n in (100.0, 200.0)]
    assert shares[0] == pytest.approx(2 * shares[1], rel=1e-6)


def test_training_divides_the_kl_by_the_effective_number_of_fitted_jets(monkeypatch):
    _, pairs = toy(400)
    weight = np.random.default_rng(1).uniform(0, 3, 400)
    seen = []
    original = hepcal.BNN.objective

    def spy(self, sample, generator):
        seen.append((sample.inputs, sample.n_eff))
        return original(self, sample, generator)

    monkeypatch.setattr(hepcal.BNN, "objective", spy)
    method = hepcal.BNN(hidden=(8,), max_updates=30, patience=30, draws=3)
    pairs = dataclasses.replace(pairs, weight=weight)
    hepcal.train(pairs, method, seed=1, show=False)
    fitted = pairs.split(0.9, seed=1)[0].weight
    assert seen == [(2, pytest.approx(fitted.sum() ** 2 / (fitted**2).sum()))]


def test_the_scale_of_the_weights_does_not_matter():
    _, pairs = toy(400)
    method = hepcal.BNN(hidden=(8,), max_updates=60, patience=30, draws=3)
    light = dataclasses.replace(pairs, weight=pairs.weight * 1e-9)
    tensors = [hepcal.train(p, method, seed=1, show=False).tensors["posterior_mean"] for p in (pairs, light)]
    assert np.allclose(*tensors, atol=1e-6)


def test_weights_decide_between_two_populations():
    """Half of the jets have y = 1, half y = 2: the mean of a jet without features is that of the weights."""
    rng = np.random.default_rng(2)
    kind = np.arange(4_000) % 2
    reco = rng.uniform(100, 101, 4_000)
    pairs = hepcal.JetPairs.from_arrays(
        np.zeros((4_000, 1)), ["nothing"], reco=reco, truth=reco * (1 + kind), weight=np.where(kind, 3.0, 1.0)
    )
    for method in (hepcal.BNN(**QUICK), hepcal.MSE(**QUICK)):
        prediction = hepcal.train(pairs, method, seed=1, show=False).predict(pairs.features, pairs.reco)
        assert np.mean(prediction.mean / reco) == pytest.approx(1.75, abs=0.05)


def test_jets_near_the_threshold_of_the_files_are_out_of_range():
    _, pairs = toy(400)
    method = hepcal.BNN(hidden=(8,), max_updates=30, patience=30, draws=3)
    cut = dataclasses.replace(pairs, source={**pairs.source, "reco_threshold": 250.0})
    probe = np.array([[0.5], [0.5]]), np.array([350.0, 400.0])
    assert hepcal.train(pairs, method, show=False).predict(*probe).in_range.tolist() == [True, True]
    assert hepcal.train(cut, method, show=False).predict(*probe).in_range.tolist() == [False, True]


def test_arguments_of_the_wrong_kind_are_named():
    _, pairs = toy(400)
    with pytest.raises(TrainingError, match="found str: use JetPairs"):
        hepcal.train("qcd.json")
    with pytest.raises(TrainingError, match=r"an object such as hepcal\.BNN\(\)"):
        hepcal.train(pairs, hepcal.BNN)
    with pytest.raises(HepcalError, match="no device"):
        hepcal.train(pairs, device="teapot")


QUICKLY = {
    "inversion": hepcal.NumericalInversion(n=3),
    "gaussian_ansatz": hepcal.GaussianAnsatz(hidden=(4,), epochs=1, iterations=1),
}


@pytest.mark.parametrize("name", QUICKLY)
def test_a_method_without_checkpoints_says_so_and_touches_no_file(name, tmp_path):
    _, pairs = toy(2_000)
    path = tmp_path / "state"
    path.write_text("something else")
    with pytest.warns(CheckpointWarning, match=f"^The method {name!r} writes no checkpoint: {path} is not used"):
        hepcal.train(pairs, QUICKLY[name], show=False, checkpoint=path)
    assert path.read_text() == "something else"


def test_every_method_says_whether_it_resumes():
    resuming = {name for name in METHODS if method_of(name).resumes}
    assert resuming == set(METHODS) - {"inversion", "gaussian_ansatz", "transport"}


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


def test_unused_weights_become_zero_and_no_setting_leaks():
    """L2 pulls weights that nothing needs through the denormal numbers, which are slow, to zero."""
    _, pairs = toy(60)
    method = hepcal.Heteroscedastic(hidden=(16, 16), max_updates=3_000, patience=3_000, prior_width=0.03)
    weights = hepcal.train(pairs, method, seed=1, show=False).tensors["draws"]
    tiny = torch.finfo(torch.float32).tiny
    assert not ((weights != 0) & (weights.abs() < tiny)).any()
    assert float(torch.full((1,), 1e-40) * 1.0) > 0


@pytest.mark.parametrize(
    ("scale", "error", "message"), [(1e300, PairsError, "squares overflow"), (1e-300, TrainingError, "squares vanish")]
)
def test_weights_whose_squares_are_no_numbers_are_refused(tiny_pairs, scale, error, message):
    with pytest.raises(error, match=message):
        hepcal.train(dataclasses.replace(tiny_pairs, weight=tiny_pairs.weight * scale), hepcal.MSE(), show=False)


@pytest.mark.parametrize(("validation", "part"), [(0.9999, "training"), (1e-5, "held-out")])
def test_a_share_that_leaves_nothing_is_refused(validation, part, tiny_pairs):
    method = hepcal.MSE(validation=validation)
    with pytest.raises(TrainingError, match=rf"validation={validation} leaves no {part} events of 250"):
        hepcal.train(tiny_pairs, method, show=False)
