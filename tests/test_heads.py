"""Likelihood heads: proper densities, exact gradients, and no NaN for absurd targets."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.nn.functional import softplus

from hepcal.networks.heads import (
    SIGMA_FLOOR,
    CrystalBallHead,
    GaussianHead,
    MixtureHead,
    PointHead,
    TailHead,
    head_of,
)

HEADS = [GaussianHead(), MixtureHead(1), MixtureHead(3), CrystalBallHead(), TailHead()]
NAMES = ["gaussian", "one", "three", "crystal ball", "tails"]


def outputs_of(head, rows, seed=1, spread=1.0):
    return spread * torch.randn((rows, head.outputs), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
def test_a_likelihood_integrates_to_one_and_is_the_density_of_the_prediction(head):
    outputs = outputs_of(head, 5)
    found = head.distribution(outputs.T[None].double())
    for row in range(5):

        def density(y, row=row):
            return math.exp(-float(head.nll(outputs[row].double(), torch.tensor(y, dtype=torch.float64))))

        pieces = [(-math.inf, -5), (-5, -1), (-1, 0), (0, 1), (1, 5), (5, math.inf)]
        total = sum(integrate.quad(density, *ends, limit=200)[0] for ends in pieces)
        assert total == pytest.approx(1, abs=1e-6)
        points = np.linspace(-4, 4, 9)
        expected = found.density(np.broadcast_to(points, (5, 9)))[row]
        assert [density(point) for point in points] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("head", [*HEADS, PointHead()], ids=[*NAMES, "point"])
def test_hand_written_gradients_agree_with_autograd(head):
    outputs = outputs_of(head, 400).double().requires_grad_()
    target = 3 * torch.randn(400, generator=torch.Generator().manual_seed(2)).double()
    head.nll(outputs, target).sum().backward()
    assert torch.allclose(head.gradient(outputs.detach(), target), outputs.grad, rtol=1e-9, atol=1e-11)


def test_the_gaussian_and_the_mixture_agree_with_torch():
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(50, generator=generator)
    outputs = outputs_of(GaussianHead(), 50)
    exact = -Normal(outputs[:, 0], softplus(outputs[:, 1]) + SIGMA_FLOOR).log_prob(y)
    assert torch.allclose(GaussianHead().nll(outputs, y), exact, rtol=1e-5, atol=1e-5)
    outputs = outputs_of(MixtureHead(4), 50)
    parts = Normal(outputs[:, 4:8], softplus(outputs[:, 8:]) + SIGMA_FLOOR)
    exact = -MixtureSameFamily(Categorical(logits=outputs[:, :4]), parts).log_prob(y)
    assert torch.allclose(MixtureHead(4).nll(outputs, y), exact, rtol=1e-5, atol=1e-5)


def test_a_mixture_of_one_is_the_gaussian():
    outputs, y = outputs_of(GaussianHead(), 20), torch.linspace(-3, 3, 20)
    with_share = torch.cat([torch.full((20, 1), 0.7), outputs], dim=1)
    assert torch.allclose(MixtureHead(1).nll(with_share, y), GaussianHead().nll(outputs, y), atol=1e-5)


def test_tails_that_begin_far_out_leave_a_gaussian():
    outputs = torch.tensor([[0.3, 0.1, 9.0, 9.0, 1.0, 1.0]])
    y = torch.linspace(-4, 4, 17)
    sigma = float(softplus(torch.tensor(0.1))) + SIGMA_FLOOR
    assert CrystalBallHead().nll(outputs, y).numpy() == pytest.approx(
        -stats.norm.logpdf(y.numpy(), 0.3, sigma), rel=1e-5
    )


def test_the_share_of_the_hill_blends_peak_and_hill():
    peak, hill, y = outputs_of(CrystalBallHead(), 9), outputs_of(GaussianHead(), 9, seed=2), torch.linspace(-3, 3, 9)
    for logit, share in ((-60.0, 0.0), (0.0, 0.5), (60.0, 1.0)):
        outputs = torch.cat([torch.full((9, 1), logit), peak, hill], dim=1)
        densities = torch.exp(-CrystalBallHead().nll(peak, y)), torch.exp(-GaussianHead().nll(hill, y))
        expected = (1 - share) * densities[0] + share * densities[1]
        assert torch.allclose(torch.exp(-TailHead().nll(outputs, y)), expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("head", [*HEADS, PointHead()], ids=[*NAMES, "point"])
@pytest.mark.parametrize("target", [-1e6, 100.0, 1e6])
@pytest.mark.parametrize("raw", [-100.0, 0.0, 100.0])
def test_absurd_targets_and_outputs_stay_finite(head, target, raw):
    outputs = torch.full((1, head.outputs), raw)
    assert torch.isfinite(head.nll(outputs, torch.tensor([target]))).all()
    assert torch.isfinite(head.gradient(outputs, torch.tensor([target]))).all()


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
def test_the_start_describes_the_target(head):
    """Before training, the likelihood of the outputs' biases is close to that of the best Gaussian."""
    y = 2 + 3 * torch.randn(5_000, generator=torch.Generator().manual_seed(4))
    nll = head.nll(head.start(y), y).mean()
    assert float(nll) < -stats.norm.logpdf(y.numpy(), 2, 3).mean() + 0.2


def test_heads_have_names():
    assert isinstance(head_of("gaussian", 3), GaussianHead)
    assert isinstance(head_of("tails", 3), TailHead)
    assert head_of("mixture", 5).outputs == 15
