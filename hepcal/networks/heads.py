"""Likelihoods: what the outputs of a network mean, with hand-written gradients.

A head turns the outputs of a network into a density of the target in units of the target scale. All are proper
densities, so their negative log-likelihoods can be compared. All have a floor on their widths: without it the loss is
unbounded from below, since a flexible network can put a vanishing width on a training point.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch.nn.functional import softplus

from hepcal.distributions import Distribution, ExponentialTails, NormalMixture

__all__ = ["SIGMA_FLOOR", "GaussianHead", "Head", "HeadName", "MixtureHead", "PointHead", "TailHead", "head_of"]

HeadName = Literal["gaussian", "mixture", "tails"]

# In units of the target scale. Keeps the likelihood bounded when a flexible network hits a training point exactly.
SIGMA_FLOOR = 1e-3
# Where the exponential tails begin, in units of the core width; below, the core is no more than a kink.
KNEE_FLOOR = 0.05
LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


class Head(ABC):
    """A likelihood. Outputs have the shape (..., outputs).

    Attributes:
        outputs: Number of outputs of the network.
        has_density: Whether they describe a density.
    """

    outputs: int
    has_density: bool = True

    @abstractmethod
    def start(self, target: torch.Tensor) -> torch.Tensor:
        """Output biases (outputs,) that describe standardised targets (n,) without looking at inputs."""

    @abstractmethod
    def nll(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood (...) of targets broadcastable to (...)."""

    @abstractmethod
    def gradient(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Derivatives of :meth:`nll` by the outputs, of the shape of ``outputs``; nothing is tracked."""

    @abstractmethod
    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """Densities of the standardised target from outputs (draws, outputs, n)."""


class PointHead(Head):
    """A single number, with the squared error as its loss: no width, no density."""

    outputs = 1
    has_density = False

    def start(self, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.start`."""
        return target.mean()[None]

    def nll(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(target - output)²; not a likelihood."""
        return (target - outputs[..., 0]) ** 2

    @torch.no_grad()
    def gradient(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.gradient`."""
        return 2 * (outputs - target.unsqueeze(-1))

    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """There is none.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a squared-error regression has no density")


class GaussianHead(Head):
    """One Gaussian: mean, and sigma = softplus(raw) + floor (arXiv:2003.11099, Eqs. 9 and 11)."""

    outputs = 2

    def start(self, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.start`."""
        return torch.stack([target.mean(), raw_width(target.std())])

    def nll(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(target - mean)² / 2 sigma² + ln sigma + ln(2 pi)/2."""
        mean, sigma = outputs[..., 0], softplus(outputs[..., 1]) + SIGMA_FLOOR
        return 0.5 * ((target - mean) / sigma) ** 2 + torch.log(sigma) + LOG_ROOT_TWO_PI

    @torch.no_grad()
    def gradient(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.gradient`."""
        raw = outputs[..., 1]
        sigma = softplus(raw) + SIGMA_FLOOR
        pull = (target - outputs[..., 0]) / sigma
        return torch.stack([-pull / sigma, (1 - pull * pull) / sigma * torch.sigmoid(raw)], dim=-1)

    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """See :meth:`Head.distribution`."""
        mean, sigma = outputs[:, 0], softplus(outputs[:, 1]) + SIGMA_FLOOR
        mean, sigma = (part[:, None].double().cpu() for part in (mean, sigma))
        return NormalMixture(torch.ones_like(mean).numpy(), mean.numpy(), sigma.numpy())


class MixtureHead(Head):
    """Mixture of K Gaussians (arXiv:2003.11099, Eqs. 16-17); outputs are K logits, K means and K raw widths.

    In Eq. 17 as printed the second row repeats component 1 where component 2 is meant.
    """

    def __init__(self, components: int) -> None:
        self.components = components
        self.outputs = 3 * components

    def start(self, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.start`; components begin at different quantiles, or they would stay equal."""
        k = self.components
        middle = (torch.arange(k) + 0.5) / k
        means = torch.quantile(target.double()[:1_000_000], middle.double()).to(target.dtype)
        return torch.cat([torch.zeros(k), means, raw_width(target.std()).expand(k)])

    def _parts(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, means, raw = outputs.split(self.components, dim=-1)
        return torch.log_softmax(logits, dim=-1), means, raw

    def nll(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-ln sum_i alpha_i N(target; m_i, s_i), by log-sum-exp."""
        return -torch.logsumexp(self._terms(outputs, target)[0], dim=-1)

    def _terms(self, outputs: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """ln(alpha_i N_i), ln alpha_i, pulls, widths and raw widths, (..., K) each."""
        log_share, means, raw = self._parts(outputs)
        sigma = softplus(raw) + SIGMA_FLOOR
        pull = (target.unsqueeze(-1) - means) / sigma
        return log_share - 0.5 * pull * pull - torch.log(sigma) - LOG_ROOT_TWO_PI, log_share, pull, sigma, raw

    @torch.no_grad()
    def gradient(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.gradient`."""
        terms, log_share, pull, sigma, raw = self._terms(outputs, target)
        responsible = torch.softmax(terms, dim=-1)
        by_mean = -responsible * pull / sigma
        by_raw = responsible * (1 - pull * pull) / sigma * torch.sigmoid(raw)
        return torch.cat([log_share.exp() - responsible, by_mean, by_raw], dim=-1)

    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """See :meth:`Head.distribution`."""
        logits, means, raw = outputs.double().cpu().split(self.components, dim=1)
        sigma = softplus(raw) + SIGMA_FLOOR
        return NormalMixture(torch.softmax(logits, dim=1).numpy(), means.numpy(), sigma.numpy())


class TailHead(Head):
    """A Gaussian core with exponential tails on both sides (arXiv:1603.08591), for the tails that real jets have.

    Outputs are the peak, the raw core width, and the raw distances ``low`` and ``high`` from the peak, in core
    widths, at which the tails begin. Density and slope are continuous there, and all moments exist.
    """

    outputs = 4
    _START: ClassVar[float] = 1.5

    def start(self, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.start`; the core begins at the spread of the bulk, since tails inflate the rms."""
        low, mid, high = torch.quantile(
            target.double()[:1_000_000], target.new_tensor([0.158655, 0.5, 0.841345]).double()
        ).to(target.dtype)
        knee = raw_width(target.new_tensor(self._START))
        return torch.stack([mid, raw_width((high - low) / 2), knee, knee])

    def _parts(self, outputs: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Pull z, sigma, low, high."""
        peak, raw, raw_low, raw_high = outputs.unbind(-1)
        sigma = softplus(raw) + SIGMA_FLOOR
        return (target - peak) / sigma, sigma, softplus(raw_low) + KNEE_FLOOR, softplus(raw_high) + KNEE_FLOOR

    @staticmethod
    def _norm(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Integral of the unnormalised density over z."""
        core = math.sqrt(2 * math.pi) * (torch.special.ndtr(high) - torch.special.ndtr(-low))
        return core + torch.exp(-0.5 * low * low) / low + torch.exp(-0.5 * high * high) / high

    def nll(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """z²/2 in the core, linear in the tails, plus the logarithm of the normalisation."""
        z, sigma, low, high = self._parts(outputs, target)
        inside = torch.minimum(torch.maximum(z, -low), high)
        # With c the pull clipped to the core: z²/2 there, c (z - c/2) beyond, which is c z - c²/2 everywhere.
        return inside * z - 0.5 * inside * inside + torch.log(sigma) + torch.log(self._norm(low, high))

    @torch.no_grad()
    def gradient(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.gradient`."""
        z, sigma, low, high = self._parts(outputs, target)
        slope = torch.minimum(torch.maximum(z, -low), high)  # of the energy by z
        norm = self._norm(low, high)
        by_low = torch.clamp(-(z + low), min=0) - torch.exp(-0.5 * low * low) / (low * low * norm)
        by_high = torch.clamp(z - high, min=0) - torch.exp(-0.5 * high * high) / (high * high * norm)
        by_sigma = (1 - slope * z) / sigma
        chain = torch.sigmoid(outputs[..., 1:])
        parts = torch.stack([by_sigma, by_low, by_high], dim=-1) * chain
        return torch.cat([(-slope / sigma).unsqueeze(-1), parts], dim=-1)

    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """See :meth:`Head.distribution`."""
        peak, raw, raw_low, raw_high = outputs.double().cpu().unbind(1)
        widths = softplus(raw) + SIGMA_FLOOR, softplus(raw_low) + KNEE_FLOOR, softplus(raw_high) + KNEE_FLOOR
        return ExponentialTails(peak.numpy(), *(part.numpy() for part in widths))


def head_of(name: HeadName, components: int) -> Head:
    """The head of a name; ``components`` counts for mixtures only."""
    return {"gaussian": GaussianHead, "tails": TailHead}[name]() if name != "mixture" else MixtureHead(components)


def raw_width(width: torch.Tensor) -> torch.Tensor:
    """The raw output whose softplus is a width, kept within [0.01, 50]."""
    return torch.log(torch.expm1(width.clamp(1e-2, 50)))
