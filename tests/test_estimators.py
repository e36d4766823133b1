"""Estimators against closed forms: gradients, limits, dropout, ensembles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hepcal
import hepcal.methods.training.trainer
from hepcal.errors import HepcalError, TrainingError
from hepcal.methods.registry import METHODS, calibrator_of, method_of
from hepcal.methods.regression.ensemble import multiplicities, parts
from hepcal.networks.bayesian import MeanFieldPosterior
from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import GaussianHead, PointHead
from hepcal.networks.members import Members, apply_masks, keep_factors
from hepcal.networks.objectives import ElboObjective, MembersObjective, TrainingSet

JETS, INPUTS = 300, 4
SMALL = {"hidden": (12, 8)}
METHODS_UNDER_TEST = [
    hepcal.BNN(**SMALL),
    hepcal.Heteroscedastic(**SMALL),
    hepcal.Dropout(**SMALL),
    hepcal.Ensemble(**SMALL, n=4, dropout=0.1),
    hepcal.Ensemble(**SMALL, n=4, dropout=0.0, sample="same"),
    hepcal.Ensemble(**SMALL, n=4, sample="parts"),
    hepcal.MSE(**SMALL),
]
IDS = [f"{method.name} {getattr(method, 'sample', '')}".strip() for method in METHODS_UNDER_TEST]


def random_numbers(seed):
    return torch.Generator().manual_seed(seed)


def table():
    generator = random_numbers(1)
    x, y = torch.randn((JETS, INPUTS), generator=generator), torch.randn(JETS, generator=generator)
    return x, y, 2 * torch.rand(JETS, generator=generator)


def objective_of(method, n_eff=JETS):
    """An objective whose widths and means have moved a little from their start."""
    sample = TrainingSet(INPUTS, float(n_eff), table()[1], np.arange(JETS))
    objective = method.objective(sample, random_numbers(2))
    with torch.no_grad():
        for parameter in objective.module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random_numbers(3)))
    return objective


def gradients_of(objective, rows=64):
    objective.backward(*objective.batch(table(), torch.arange(rows)), random_numbers(4))
    return [p.grad.clone() for p in objective.module.parameters() if p.grad is not None]


@pytest.mark.parametrize("head", ["gaussian", "mixture", "tails"])
@pytest.mark.parametrize("method", METHODS_UNDER_TEST, ids=IDS)
def test_hand_written_gradients_are_those_of_autograd(method, head):
    if not isinstance(method, hepcal.MSE):
        method = method.model_copy(update={"head": head})
    by_hand = gradients_of(objective_of(method))
    automatic = gradients_of(objective_of(method.model_copy(update={"autograd": True})))
    assert len(by_hand) == len(automatic) > 0
    for ours, reference in zip(by_hand, automatic, strict=True):
        assert float((ours - reference).abs().max()) < 2e-6 * float(reference.abs().max())


@given(rows=st.integers(1, 40), hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_gradients_agree_for_any_architecture_and_batch(rows, hidden, seed):
    for method in (hepcal.BNN(hidden=tuple(hidden)), hepcal.Heteroscedastic(hidden=tuple(hidden))):
        by_hand = gradients_of(objective_of(method, 10 + seed), rows)
        automatic = gradients_of(objective_of(method.model_copy(update={"autograd": True}), 10 + seed), rows)
        for ours, reference in zip(by_hand, automatic, strict=True):
            assert float((ours - reference).abs().max()) < 1e-5 * float(reference.abs().max()) + 1e-9


# -- Bayesian networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["local", "flipout", "shared"])
def test_every_estimator_has_the_moments_of_drawn_weights(estimator):
    """Outputs of a row over many evaluations, against networks with drawn weights."""
    generator = random_numbers(5)
    posterior = MeanFieldPosterior(DenseLayout((4, 6, 2)), generator, start_rho=-1.5)
    x = torch.randn((1, 4), generator=generator)
    with torch.no_grad():
        found = torch.cat([posterior(x, generator, estimator) for _ in range(2_500)])
        drawn = torch.stack([posterior.layout.forward(w, x)[0] for w in posterior.draw(10_000, generator)])
    assert torch.allclose(found.mean(0), drawn.mean(0), atol=5 * float(drawn.std(0).max()) / math.sqrt(2_500))
    assert torch.allclose(found.std(0), drawn.std(0), rtol=0.08)


@pytest.mark.parametrize("estimator", ["local", "flipout", "shared"])
def test_every_estimator_has_the_exact_gradient_on_average(estimator):
    """A linear network with squared error: the expected loss is mean((y - mu x)² + sigma² x²), sum over biases too."""
    posterior = MeanFieldPosterior(DenseLayout((3, 1)), random_numbers(6), start_rho=-1.0)
    x, y = table()[0][:40, :3], table()[1][:40]
    ones = torch.cat([x, torch.ones(40, 1)], dim=1)
    mean, sigma = posterior.mean.detach().clone(), posterior.sigma.detach()
    residual = y - ones @ mean
    by_mean = -2 * (residual[:, None] * ones).mean(0)
    by_rho = 2 * sigma * (ones**2).mean(0) * torch.sigmoid(posterior.rho.detach())
    generator, head, sums = random_numbers(7), PointHead(), []
    for _ in range(1_500):
        posterior.zero_grad()
        head.nll(posterior(x, generator, estimator), y).mean().backward()
        sums.append(torch.cat([posterior.mean.grad, posterior.rho.grad]))
    found, error = torch.stack(sums).mean(0), torch.stack(sums).std(0) / math.sqrt(1_500)
    assert torch.all((found - torch.cat([by_mean, by_rho])).abs() < 4.5 * error)


def test_rows_share_a_network_only_with_the_shared_estimator():
    posterior = MeanFieldPosterior(DenseLayout((4, 6, 1)), random_numbers(5), start_rho=-1.0)
    twice = torch.ones((2, 4))
    with torch.no_grad():
        equal = {kind: posterior(twice, random_numbers(8), kind).unique().numel() == 1 for kind in ("local", "flipout")}
        assert equal == {"local": False, "flipout": False}
        assert posterior(twice, random_numbers(8), "shared").unique().numel() == 1


def test_widths_frozen_at_zero_give_the_l2_counterpart():
    """q -> delta: the KL becomes sum mean² / (2 prior²), so L2 per jet is 1 / (2 prior² N), not 1 / (2 prior N)."""
    width, n_eff = 0.1, 250.0
    layout, head = DenseLayout((INPUTS, 12, 8, 2)), GaussianHead()
    posterior = MeanFieldPosterior(layout, random_numbers(2), frozen=True)
    networks = Members(layout, 1, random_numbers(2))
    assert torch.equal(networks.weights[0], posterior.mean)
    assert float(posterior.sigma.abs().max()) == 0
    bayesian = ElboObjective(posterior, head, n_eff, width, 2)
    deterministic = MembersObjective(networks, head, 0.5 / (width**2 * n_eff))
    x, y, w = (part[:64] for part in table())
    bayesian.backward(x, y, w, random_numbers(4))
    deterministic.backward(x, y, w, random_numbers(4))
    difference = (posterior.mean.grad - networks.weights.grad[0]).abs().max()
    assert float(difference) < 1e-6 * float(networks.weights.grad.abs().max())
    loss = float(bayesian.loss(x, y, w, random_numbers(4)).detach())
    assert loss == pytest.approx(float(deterministic.loss(x, y, w, random_numbers(4)).detach()), rel=1e-6)
    # The strength, against plain autograd on the sum of squares.
    weights = posterior.mean.detach().clone().requires_grad_()
    (0.5 / (width**2 * n_eff) * (weights**2).sum()).backward()
    posterior.mean.grad = None
    (posterior.kl(width) / n_eff).backward()
    assert torch.allclose(posterior.mean.grad, weights.grad, rtol=1e-6)


# -- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_has_the_analytic_variance_of_a_linear_node():
    """y = sum w x r / (1 - rate): mean sum w x, variance rate / (1 - rate) sum w² x² (Bernoulli r)."""
    rate, draws = 0.3, 20_000
    layout = DenseLayout((5, 5, 1))
    flat = torch.zeros(layout.count)
    layers = layout.split(flat)
    layers[0][0].copy_(torch.eye(5))  # positive inputs pass the first layer as they are
    weight = torch.tensor([0.5, -1.0, 2.0, 0.1, -0.7])
    layers[1][0].copy_(weight[None])
    x = torch.tensor([[0.3, 1.2, 0.8, 2.0, 0.5]])
    masked = apply_masks(layout, flat, [keep_factors((draws, 5), rate, random_numbers(9))])
    first, last = layout.split(masked)
    assert torch.equal(first[0][7], torch.eye(5))  # masks cut what reads the dropped units, and nothing else
    outputs = (last[0][:, 0] * x).sum(1).double()
    mean, variance = float((weight * x[0]).sum()), rate / (1 - rate) * float((weight**2 * x[0] ** 2).sum())
    print(f"dropout: mean {outputs.mean():.4f} / {mean:.4f}, variance {outputs.var():.4f} / {variance:.4f}")
    assert float(outputs.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / draws))
    assert float(outputs.var()) == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_drop_at_the_asked_rate_and_keep_the_mean(rate):
    factors = keep_factors((400, 501), rate, random_numbers(1))
    dropped = float((factors == 0).double().mean())
    assert dropped == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / factors.numel()))
    assert set(factors.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - rate)))}


def test_masked_networks_equal_the_network_under_its_masks():
    networks = Members(DenseLayout((4, 6, 5, 2)), 1, random_numbers(2), dropout=0.5)
    x = torch.randn((7, 4), generator=random_numbers(3))
    kept = [keep_factors((3, units), 0.5, random_numbers(units)) for units in (6, 5)]
    masked = apply_masks(networks.layout, networks.weights[0].detach(), kept)
    for draw in range(3):
        rows = [factors[draw].expand(1, 7, -1) for factors in kept]
        expected = networks(x, rows)[0]
        assert torch.allclose(networks.layout.forward(masked[draw], x), expected, atol=1e-6)


# -- ensembles --------------------------------------------------------------------------------------------------------


def test_bootstrap_multiplicities_are_poisson_and_common_to_the_jets_of_an_event():
    event = np.repeat(np.arange(20_000), 2)
    drawn = multiplicities(event, 3, random_numbers(1))
    assert drawn.shape == (40_000, 3)
    assert torch.equal(drawn[::2], drawn[1::2])
    values = drawn[::2].double()
    assert values.mean().item() == pytest.approx(1, abs=0.02)
    assert values.var().item() == pytest.approx(1, abs=0.03)
    assert abs(np.corrcoef(values.T.numpy())[0, 1]) < 0.03


def test_parts_are_disjoint_and_keep_events_whole():
    event = np.repeat(np.arange(501), 2)
    rows = parts(event, 5, random_numbers(1))
    assert rows.shape == (5, 200)
    assert len(rows.unique()) == rows.numel()
    for one in range(5):
        others = np.delete(np.arange(5), one)
        assert not set(event[rows[one]]) & set(event[rows[others].flatten()])
    with pytest.raises(TrainingError, match="3 events cannot be cut into 5 parts"):
        parts(np.arange(3), 5, random_numbers(1))


def test_a_member_learns_as_if_it_were_alone():
    """The gradient of a member with weights of its own is that of one network with these weights."""
    method = hepcal.Ensemble(**SMALL, n=3, dropout=0.0)
    objective = objective_of(method)
    rows = torch.arange(64)
    objective.backward(*objective.batch(table(), rows), random_numbers(4))
    for member in range(3):
        alone = objective_of(hepcal.Heteroscedastic(**SMALL))
        with torch.no_grad():
            alone.module.weights[0] = objective.module.weights[member]
        x, y, w = alone.batch(table(), rows)
        alone.backward(x, y, w * objective.multiplicity[rows, member], random_numbers(4))
        assert torch.allclose(alone.module.weights.grad[0], objective.module.weights.grad[member], atol=1e-6)


# -- the protocol -----------------------------------------------------------------------------------------------------


def toy_pairs(n=3_000, seed=0):
    rng = np.random.default_rng(seed)
    x, truth = rng.uniform(0, 1, n), rng.uniform(200, 1000, n)
    y = 1 / (0.9 + 0.1 * x) * (1 + 0.05 * (1 + x) * rng.standard_normal(n))
    return hepcal.JetPairs.from_arrays(x[:, None], ["x"], reco=truth / y, truth=truth)


QUICK = {"hidden": (16, 16), "max_updates": 400, "patience": 160, "learning_rate": 3e-3}
TRAINED = {
    "bnn": hepcal.BNN(**QUICK, draws=10),
    "hessian": hepcal.Hessian(**QUICK, draws=10, directions=9, curvature=400),
    "heteroscedastic": hepcal.Heteroscedastic(**QUICK),
    "mse": hepcal.MSE(**QUICK),
    "dropout": hepcal.Dropout(**QUICK, draws=10),
    "ensemble": hepcal.Ensemble(**QUICK, n=5),
}


@pytest.mark.parametrize("head", ["gaussian", "mixture", "tails"])
@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_declares_and_comes_back_from_its_file(name, head, tmp_path):
    method = TRAINED[name] if name == "mse" else TRAINED[name].model_copy(update={"head": head})
    calibrator = hepcal.train(toy_pairs(), method, seed=1, show=False)
    assert isinstance(calibrator, calibrator_of(name))
    assert calibrator.card.quantity == "mean"
    assert calibrator.columns == ("pt_calib", *method.uncertainties, "pt_calib_in_range")
    assert calibrator.uncertainties == (("calib_pred",) if "pt_calib_sigma_pred" in method.uncertainties else ())
    calibrator.save(tmp_path / "c.safetensors")
    again = hepcal.Calibrator.load(tmp_path / "c.safetensors")
    test = toy_pairs(500, seed=1)
    prediction, other = (c.predict(test.features, test.reco) for c in (calibrator, again))
    assert np.array_equal(prediction.mean, other.mean)
    assert np.mean(prediction.mean / test.truth) == pytest.approx(1, abs=0.05)
    if name != "mse":
        low, high = prediction.interval()
        assert np.mean((test.truth > low) & (test.truth < high)) == pytest.approx(0.68, abs=0.12)
        found = prediction.components(slice(0, 500))
        assert prediction.mean == pytest.approx(found.means().mean(axis=0), rel=1e-6)
        assert prediction.sigma_stoch == pytest.approx(np.sqrt(found.variances().mean(axis=0)), rel=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_goes_on_from_its_checkpoint_bit_by_bit(name, tmp_path, monkeypatch):
    """Interrupted after some updates and started again: the same calibrator as without the interruption."""
    method, pairs = TRAINED[name], toy_pairs(800)
    whole = hepcal.train(pairs, method, seed=2, show=False)
    objective = ElboObjective if name == "bnn" else MembersObjective
    original, count = objective.backward, iter(range(10**9))

    def interrupted(self, *arguments):
        if next(count) == 210:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(objective, "backward", interrupted)
    path = tmp_path / "training.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        hepcal.train(pairs, method, seed=2, show=False, checkpoint=path)
    assert path.exists()
    with pytest.raises(TrainingError, match="belongs to another training: seed differ"):
        hepcal.train(pairs, method, seed=3, show=False, checkpoint=path)
    resumed = hepcal.train(pairs, method, seed=2, show=False, checkpoint=path)
    assert resumed.sha256 == whole.sha256
    # A finished checkpoint gives the same calibrator again, without an update.
    monkeypatch.setattr(objective, "backward", None)
    assert hepcal.train(pairs, method, seed=2, show=False, checkpoint=path).sha256 == whole.sha256


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "training.checkpoint"
    path.write_text("not a checkpoint")
    with pytest.raises(TrainingError, match="is not a checkpoint"):
        hepcal.train(toy_pairs(200), TRAINED["mse"], show=False, checkpoint=path)


@pytest.mark.parametrize(
    ("schedule", "max_updates", "converged"),
    [("constant", 20_000, 1.0), ("plateau", 20_000, 1.0), ("plateau", 100, 0.0), ("cosine", 300, 1.0)],
)
def test_a_schedule_ends_where_it_says(schedule, max_updates, converged):
    method = hepcal.MSE(hidden=(4,), schedule=schedule, max_updates=max_updates, patience=80, learning_rate=0.02)
    figures = hepcal.train(toy_pairs(400), method, show=False).card.figures
    assert figures["converged"] == converged
    assert (figures["updates"] == max_updates) == (schedule == "cosine" or not converged)


def test_many_members_reach_a_plateau_as_one_does():
    """Some member is always better than ever: what counts is their mean."""
    common = {"hidden": (8,), "max_updates": 20_000, "patience": 200, "learning_rate": 0.01}
    updates = [
        hepcal.train(toy_pairs(400), method, seed=1, show=False).card.figures["updates"]
        for method in (hepcal.Heteroscedastic(**common), hepcal.Ensemble(**common, n=20, dropout=0.0))
    ]
    assert max(updates) < 20_000
    assert updates[1] < 3 * updates[0]


def test_a_far_too_large_feature_is_refused_by_every_method():
    pairs = toy_pairs(200)
    for name in TRAINED:
        calibrator = hepcal.train(pairs, TRAINED[name].model_copy(update={"max_updates": 10}), show=False)
        with pytest.raises(HepcalError, match="not a finite number: a jet has inputs many orders of magnitude"):
            calibrator.predict(np.array([[3e38]]), np.array([500.0]))


def test_weights_reach_the_starting_values_and_the_scale_of_the_target():
    """Rare jets with a response of their own and most of the weight: the scale is theirs."""
    pairs = toy_pairs(2_000)
    rare = np.arange(2_000) % 20 == 0
    truth = np.where(rare, 3 * pairs.reco, pairs.truth)
    weighted = hepcal.JetPairs.from_arrays(
        pairs.features, ["x"], reco=pairs.reco, truth=truth, weight=np.where(rare, 1e3, 1.0)
    )
    method = TRAINED["heteroscedastic"].model_copy(update={"max_updates": 10})
    assert hepcal.train(weighted, method, show=False).card.target_location == pytest.approx(3, rel=1e-3)


def test_the_jets_that_judge_are_of_all_files(monkeypatch):
    """More held-out jets than judge: a random choice of events, not the first ones of the table."""
    monkeypatch.setattr(hepcal.methods.training.trainer, "JUDGED_JETS", 100)
    held_out = toy_pairs(3_000)
    chosen = hepcal.methods.training.trainer._judges(held_out, seed=1)
    assert len(chosen) == 100
    assert chosen.event.min() < 300
    assert chosen.event.max() > 2_700


def test_the_command_line_offers_every_method():
    from hepcal.cli.commands import MethodChoice

    # Methods that map simulation to data take a second sample, which is Python's business.
    offered = {name for name in METHODS if not method_of(name).needs_data}
    assert {choice.value for choice in MethodChoice} == offered


@pytest.mark.parametrize("name", TRAINED)
def test_a_change_of_units_changes_every_sigma_by_its_factor(name):
    """GeV to other units: ln p_T moves, and so does its standardisation; everything else is the same network.

    A training in the new units ends close by: rounding of the shifted logarithm is all that differs.
    """
    method = TRAINED[name].model_copy(update={"max_updates": 100})
    pairs, factor = toy_pairs(800), 1000.0
    reco, truth = pairs.reco * factor, pairs.truth * factor
    calibrator = hepcal.train(pairs, method, seed=3, show=False)
    tensors = {part: calibrator.tensors[part].clone() for part in calibrator.tensors}
    tensors["input_mean"][0] += math.log(factor)
    moved = type(calibrator)(calibrator.card, tensors)
    again = hepcal.train(
        hepcal.JetPairs.from_arrays(pairs.features, ["x"], reco=reco, truth=truth), method, seed=3, show=False
    )
    small = calibrator.predict(pairs.features, pairs.reco)
    for column in ("mean", *(f"sigma_{uncertainty.rpartition('_')[2]}" for uncertainty in method.uncertainties)):
        expected = factor * getattr(small, column)
        assert getattr(moved.predict(pairs.features, reco), column) == pytest.approx(expected, rel=2e-5)
        assert getattr(again.predict(pairs.features, reco), column) == pytest.approx(expected, rel=5e-3)
