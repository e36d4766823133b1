"""Likelihoods: what the outputs of a network mean, with hand-written gradients.

A head turns the outputs of a network into a density of the target in units of the target scale. All are proper
densities, so their negative log-likelihoods can be compared. All have a floor on their widths: without it the loss is
unbounded from below, since a flexible network can put a vanishing width on a training point.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import torch
from torch.nn.functional import logsigmoid, softplus

from hepcal.distributions import Blend, CrystalBall, Distribution, NormalMixture

__all__ = [
    "SIGMA_FLOOR",
    "CrystalBallHead",
    "GaussianHead",
    "Head",
    "HeadName",
    "MixtureHead",
    "PointHead",
    "TailHead",
    "head_of",
]

HeadName = Literal["gaussian", "mixture", "tails"]

# In units of the target scale. Keeps the likelihood bounded when a flexible network hits a training point exactly.
SIGMA_FLOOR = 1e-3
# Where tails may begin, in units of the core width; closer, the core is no more than a kink.
KNEE_FLOOR = 0.05
# Of the tails: above three the variance exists, and near three it is a guess about tails nobody has seen.
POWER_FLOOR = 3.5
# Random targets per jet that stand for the Fisher information of a density.
FISHER_DRAWS = 2
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

    @abstractmethod
    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """Means (...) of the densities of outputs (..., outputs), which autograd can differentiate."""

    def mean_gradient(self, outputs: torch.Tensor) -> torch.Tensor:
        """Derivatives of :meth:`mean` by the outputs, of the shape of ``outputs``; nothing is tracked."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = outputs.detach().clone().requires_grad_()
            (found,) = torch.autograd.grad(self.mean(leaf).sum(), leaf)
        return found

    @torch.no_grad()
    def fisher_root(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Vectors whose outer products sum to the expected Fisher information of the outputs.

        Here they are gradients at random targets of the predicted density itself.

        Args:
            outputs: Shape (n, outputs).
            generator: Random numbers.

        Returns:
            Shape (vectors, n, outputs).
        """
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, dtype=torch.int64, device="cpu")))
        drawn = self.distribution(outputs.T[None]).sample(np.zeros(FISHER_DRAWS, dtype=np.int64), rng)
        targets = torch.from_numpy(drawn).to(outputs)
        each = self.gradient(outputs.expand(FISHER_DRAWS, *outputs.shape), targets)
        return each / math.sqrt(FISHER_DRAWS)


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

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.mean`: the number itself."""
        return outputs[..., 0]


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

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.mean`."""
        return outputs[..., 0]

    @torch.no_grad()
    def fisher_root(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """See :meth:`Head.fisher_root`; exact: 1 / sigma² of the mean, 2 / sigma² of sigma, nothing in between."""
        raw = outputs[..., 1]
        sigma = softplus(raw) + SIGMA_FLOOR
        none = torch.zeros_like(sigma)
        of_width = math.sqrt(2) / sigma * torch.sigmoid(raw)
        return torch.stack([torch.stack([1 / sigma, none], dim=-1), torch.stack([none, of_width], dim=-1)])


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
        middle = (torch.arange(k, dtype=torch.float32, device="cpu") + 0.5) / k
        means = torch.quantile(target.double()[:1_000_000], middle.double()).to(target.dtype)
        return torch.cat([torch.zeros(k, dtype=torch.float32, device="cpu"), means, raw_width(target.std()).expand(k)])

    def _parts(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        k = self.components
        return torch.log_softmax(outputs[..., :k], dim=-1), outputs[..., k : 2 * k], outputs[..., 2 * k :]

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
        log_share, means, raw = self._parts(outputs.double().cpu().movedim(1, -1))
        parts = log_share.exp(), means, softplus(raw) + SIGMA_FLOOR
        return NormalMixture(*(part.movedim(-1, 1).numpy() for part in parts))

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.mean`."""
        log_share, means, _ = self._parts(outputs)
        return (log_share.exp() * means).sum(-1)


class CrystalBallHead(Head):
    """A double-sided Crystal Ball: a Gaussian core with power-law tails.

    Outputs are the peak, the raw core width, the raw distances ``low`` and ``high`` from the peak, in core widths, at
    which the tails begin, and their raw powers. Density and slope are continuous there.
    See :class:`hepcal.distributions.CrystalBall`.
    """

    outputs = 6
    _KNEE: ClassVar[float] = 1.5
    _POWER: ClassVar[float] = 5.0

    def start(self, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.start`; the core begins at the spread of the bulk, since tails inflate the rms."""
        low, mid, high = torch.quantile(
            target.double()[:1_000_000], target.new_tensor([0.158655, 0.5, 0.841345]).double()
        ).to(target.dtype)
        knee, power = (raw_width(target.new_tensor(value)) for value in (self._KNEE, self._POWER))
        return torch.stack([mid, raw_width((high - low) / 2), knee, knee, power, power])

    @staticmethod
    def _shape(outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """sigma, low, high, power of the lower and of the upper tail, from outputs (..., 6)."""
        sigma, low, high, lower, upper = softplus(outputs[..., 1:]).unbind(-1)
        return sigma + SIGMA_FLOOR, low + KNEE_FLOOR, high + KNEE_FLOOR, lower + POWER_FLOOR, upper + POWER_FLOOR

    @staticmethod
    def _area(knee: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
        """Integral of the unnormalised density over z beyond a knee."""
        return torch.exp(-0.5 * knee * knee) * power / (knee * (power - 1))

    def _terms(self, outputs: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """z, z limited to the core, u = knee * distance / power beyond it, and the normalisation."""
        sigma, low, high, lower, upper = self._shape(outputs)
        z = (target - outputs[..., 0]) / sigma
        core = torch.minimum(torch.maximum(z, -low), high)
        power = torch.where(z < 0, lower, upper)
        u = core.abs() * (z - core).abs() / power
        gauss = math.sqrt(2 * math.pi) * (torch.special.ndtr(high) - torch.special.ndtr(-low))
        return z, core, u, gauss + self._area(low, lower) + self._area(high, upper)

    def nll(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """z²/2 in the core, logarithmic in the tails, plus the logarithm of the normalisation."""
        sigma, _, _, lower, upper = self._shape(outputs)
        z, core, u, norm = self._terms(outputs, target)
        power = torch.where(z < 0, lower, upper)
        return 0.5 * core * core + power * torch.log1p(u) + torch.log(sigma) + torch.log(norm)

    @torch.no_grad()
    def gradient(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.gradient`."""
        sigma, low, high, lower, upper = self._shape(outputs)
        z, core, u, norm = self._terms(outputs, target)
        slope = core / (1 + u)  # of the energy by z
        parts = [(1 - slope * z) / sigma]
        by_power = []
        for knee, power, beyond in ((low, lower, z < -low), (high, upper, z > high)):
            edge = torch.exp(-0.5 * knee * knee) / norm
            by_knee = torch.where(beyond, knee + (z.abs() - 2 * knee) / (1 + u), 0)
            parts.append(by_knee - edge * (knee * knee + power) / (knee * knee * (power - 1)))
            of_tail = torch.where(beyond, torch.log1p(u) - u / (1 + u), 0)
            by_power.append(of_tail - edge / (knee * (power - 1) ** 2))
        chain = torch.sigmoid(outputs[..., 1:])
        return torch.cat([(-slope / sigma).unsqueeze(-1), torch.stack(parts + by_power, dim=-1) * chain], dim=-1)

    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """See :meth:`Head.distribution`."""
        outputs = outputs.double().cpu().movedim(1, -1)
        return CrystalBall(outputs[..., 0].numpy(), *(part.numpy() for part in self._shape(outputs)))

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.mean`; the integrals of |z| over the tails exist, since their powers exceed two."""
        sigma, low, high, lower, upper = self._shape(outputs)
        below, above = (
            self._area(knee, power) * (knee + power / (knee * (power - 2))) - torch.exp(-0.5 * knee * knee)
            for knee, power in ((low, lower), (high, upper))
        )
        core = math.sqrt(2 * math.pi) * (torch.special.ndtr(high) - torch.special.ndtr(-low))
        norm = core + self._area(low, lower) + self._area(high, upper)
        found: torch.Tensor = outputs[..., 0] + sigma * (above - below) / norm
        return found


class TailHead(Head):
    """For the response of real jets: a double-sided Crystal Ball, and a Gaussian for a second population.

    Where a spectrum begins, jets that lost much of their p_T meet jets that never had more: a peak with tails stands on
    a broad hill, and a single peak would cover neither. Elsewhere the share of the Gaussian goes to zero.

    Outputs are the logit of the share of the Gaussian, then those of :class:`CrystalBallHead` and
    :class:`GaussianHead`.
    """

    _SHARE: ClassVar[float] = 0.1
    _WIDTH: ClassVar[float] = 3.0

    def __init__(self) -> None:
        self.peak, self.hill = CrystalBallHead(), GaussianHead()
        self.outputs = 1 + self.peak.outputs + self.hill.outputs

    def start(self, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.start`; the hill begins small, and three times as wide as the bulk."""
        peak = self.peak.start(target)
        width = raw_width(self._WIDTH * softplus(peak[1]))
        logit = math.log(self._SHARE / (1 - self._SHARE))
        return torch.cat([peak.new_tensor([logit]), peak, torch.stack([peak[0], width])])

    def _parts(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        last = 1 + self.peak.outputs
        return outputs[..., 0], outputs[..., 1:last], outputs[..., last:]

    def nll(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-ln of the sum of both, by log-sum-exp."""
        logit, peak, hill = self._parts(outputs)
        of_peak = logsigmoid(-logit) - self.peak.nll(peak, target)
        return -torch.logaddexp(of_peak, logsigmoid(logit) - self.hill.nll(hill, target))

    @torch.no_grad()
    def gradient(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.gradient`."""
        logit, peak, hill = self._parts(outputs)
        # Probability that this target is of the hill.
        of_hill = torch.sigmoid(logit + self.peak.nll(peak, target) - self.hill.nll(hill, target)).unsqueeze(-1)
        by_peak = (1 - of_hill) * self.peak.gradient(peak, target)
        by_hill = of_hill * self.hill.gradient(hill, target)
        return torch.cat([torch.sigmoid(logit).unsqueeze(-1) - of_hill, by_peak, by_hill], dim=-1)

    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """See :meth:`Head.distribution`."""
        logit, peak, hill = self._parts(outputs.movedim(1, -1))
        share = torch.sigmoid(logit.double().cpu()).numpy()
        parts = self.peak.distribution(peak.movedim(-1, 1)), self.hill.distribution(hill.movedim(-1, 1))
        return Blend(share, *parts)

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.mean`."""
        logit, peak, hill = self._parts(outputs)
        first = self.peak.mean(peak)
        return first + torch.sigmoid(logit) * (self.hill.mean(hill) - first)


def head_of(name: HeadName, components: int) -> Head:
    """The head of a name; ``components`` counts for mixtures only."""
    return {"gaussian": GaussianHead, "tails": TailHead}[name]() if name != "mixture" else MixtureHead(components)


def raw_width(width: torch.Tensor) -> torch.Tensor:
    """The raw output whose softplus is a width, kept within [0.01, 50]."""
    return torch.log(torch.expm1(width.clamp(1e-2, 50)))
