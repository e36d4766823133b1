"""The error of the mean of an ensemble: what the events and what the starting points contribute."""

import numpy as np
import pytest
import torch

import hepcal
from hepcal.distributions.uncertainties import of_sample_means, variance_components
from hepcal.networks.objectives import TrainingSet

QUICK = {"hidden": (8,), "max_updates": 60, "patience": 60, "learning_rate": 1e-2, "batch": 50}


def trainings(rng, samples, starts, jets, of_sample, of_procedure):
    """Predictions (samples, starts, jets) with known variances."""
    events = of_sample * rng.standard_normal((samples, 1, jets))
    return events + of_procedure * rng.standard_normal((samples, starts, jets))


@pytest.mark.parametrize(("of_sample", "of_procedure"), [(1.0, 0.5), (0.3, 2.0), (0.0, 1.0)])
def test_both_variances_are_found_without_bias(of_sample, of_procedure):
    rng = np.random.default_rng(1)
    sample, procedure = variance_components(trainings(rng, 8, 5, 40_000, of_sample, of_procedure))
    assert procedure.mean() == pytest.approx(of_procedure**2, rel=0.02)
    assert sample.mean() == pytest.approx(of_sample**2, abs=0.02 * (of_sample**2 + of_procedure**2))
    if of_sample < of_procedure:
        assert (sample < 0).any()  # signed, or the mean would be too large


@pytest.mark.parametrize(("samples", "starts"), [(8, 5), (20, 2)])
@pytest.mark.parametrize(("of_sample", "of_procedure"), [(1.0, 0.7), (1.0, 0.0), (0.0, 1.0)])
def test_the_error_is_that_of_the_mean_of_all_networks(samples, starts, of_sample, of_procedure):
    """What is quoted is the mean over bootstrap samples of one sample, which differs from the truth as that does."""
    rng = np.random.default_rng(2)
    n = 20_000
    found = trainings(rng, samples, starts, n, of_sample, of_procedure)
    quoted = of_sample * rng.standard_normal(n) + found.mean((0, 1))
    share = of_sample**2 / (of_sample**2 + of_procedure**2)
    claimed = of_sample_means(np.array(share), samples, starts) * found.mean(1).std(0, ddof=1)
    assert np.sqrt(np.mean(claimed**2)) == pytest.approx(quoted.std(), rel=0.02)


@pytest.fixture(scope="module")
def ensemble(tiny_pairs):
    return hepcal.train(tiny_pairs, hepcal.Ensemble(**QUICK, n=8, starts=2), seed=3, show=False)


def test_replicas_are_bootstrap_samples_with_the_error_of_the_value(ensemble, tiny_pairs):
    prediction = ensemble.predict(tiny_pairs)
    replicas = prediction.replicas()
    assert replicas.shape == (4, len(tiny_pairs))
    np.testing.assert_allclose(replicas.mean(0), prediction.mean, rtol=1e-6)
    np.testing.assert_allclose(replicas.std(0, ddof=1), prediction.sigma_pred, rtol=2e-3)
    # The density is still that of all networks.
    assert next(prediction.parts())[1].draws == 8
    assert ensemble.replicas == 4
    assert 0 <= ensemble.card.figures["sample_share"] <= 1


def test_the_error_is_smaller_than_the_spread_of_the_networks(ensemble, tiny_pairs):
    networks = next(ensemble.predict(tiny_pairs).parts())[1].means()
    claimed = ensemble.predict(tiny_pairs).sigma_pred[: networks.shape[1]]
    assert np.square(claimed).mean() < networks.var(0, ddof=1).mean()


def test_networks_of_one_sample_see_the_same_events():
    target = torch.randn(500, generator=torch.Generator().manual_seed(5), dtype=torch.float32)
    sample = TrainingSet(2, 500.0, target, np.arange(500) // 2)
    objective = hepcal.Ensemble(**QUICK, n=6, starts=3).objective(sample, torch.Generator().manual_seed(1))
    counts = objective.multiplicity.numpy()
    assert counts.shape == (500, 6)
    assert (counts[:, :1] == counts[:, :3]).all()
    assert (counts[:, 3:4] == counts[:, 3:]).all()
    assert (counts[:, 0] != counts[:, 3]).any()
    weights = objective.module.weights.detach()
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("settings", "starts"), [({"n": 40}, 2), ({"n": 3}, 1), ({"n": 2}, 1), ({"n": 8, "sample": "parts"}, 1),
                             ({"n": 40, "starts": 5}, 5), ({"n": 4, "starts": 1}, 1)],
)  # fmt: skip
def test_starts_per_sample(settings, starts):
    assert hepcal.Ensemble(**settings).starts_per_sample == starts


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n": 7, "starts": 2}, "cannot be 2 each"), ({"n": 4, "starts": 4}, "two or more samples"),
     ({"n": 4, "starts": 2, "sample": "same"}, "starts are of bootstrap samples")],
)  # fmt: skip
def test_designs_that_tell_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        hepcal.Ensemble(**settings)
