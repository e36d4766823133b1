"""Densities of the logarithmic response u = ln(x / z) given the truth z, and where they put the truth.

A calibration that does not depend on the truth spectrum reads z off p(x | z): for the median, the z at which x is the
median of what the detector makes of z (arXiv:2205.05084, Sec. II.C, with another location than the maximum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import SIGMA_FLOOR
from hepcal.networks.inference import WeightDraws

__all__ = ["ForwardDensity", "LogResponse"]

# Steps of a bracketed Newton search from afar, and from close by. Fixed numbers: the same jet gets the same bits in any
# company.
STEPS, LAST_STEPS = 20, 4
# Probabilities that float32 tells from zero and one.
SMALLEST = 1e-6
# Networks that say where to look; all of them say what is there.
SCOUTS = 4
ROOT_TWO, ROOT_PI = math.sqrt(2), math.sqrt(math.pi)
ROOT_TWO_PI = math.sqrt(2 * math.pi)


@dataclass(frozen=True, slots=True)
class LogResponse:
    """Mixtures of K Gaussians in u for S networks and n jets, float32.

    Attributes:
        share: Shares (S, K, n).
        mean: Means.
        sigma: Widths.
    """

    share: torch.Tensor
    mean: torch.Tensor
    sigma: torch.Tensor

    @classmethod
    def of(cls, outputs: torch.Tensor, components: int, location: float, scale: float) -> LogResponse:
        """From raw outputs (S, 3 K, n) of a mixture head, or (S, 2, n) of a Gaussian one, for a standardised u."""
        if outputs.shape[1] == 2:
            mean, raw = outputs[:, :1], outputs[:, 1:]
            share = torch.ones_like(mean)
        else:
            logits, mean, raw = torch.split(outputs, components, dim=1)
            share = torch.softmax(logits, dim=1)
        return cls(share, location + scale * mean, scale * (softplus(raw) + SIGMA_FLOOR))

    def cdf(self, u: torch.Tensor) -> torch.Tensor:
        """Probability below u, both (S, n)."""
        return torch.sum(self.share * _below((u.unsqueeze(1) - self.mean) / self.sigma), dim=1)

    def log_density(self, u: torch.Tensor) -> torch.Tensor:
        """Logarithm of the density at u, both (S, n)."""
        pull = (u.unsqueeze(1) - self.mean) / self.sigma
        terms = torch.log(self.share) - 0.5 * pull * pull - torch.log(self.sigma * ROOT_TWO_PI)
        return torch.logsumexp(terms, dim=1)

    @classmethod
    def together(cls, parts: list[LogResponse]) -> LogResponse:
        """Several sets of networks as one."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__))

    def quantile(
        self, probability: float | torch.Tensor, near: torch.Tensor | None = None, steps: int = STEPS
    ) -> torch.Tensor:
        """Quantiles (S, n).

        That of a mixture lies between the smallest and the largest of its components, which brackets the search.

        Args:
            probability: Between 0 and 1; one number, or one for each network, shape (S, 1).
            near: Where to start, (S, n) or (n,), if that is known to a fraction of a width.
            steps: Of the search from afar.
        """
        if not isinstance(probability, torch.Tensor):
            probability = torch.tensor(probability, dtype=torch.float64, device="cpu")
        level = torch.special.ndtri(probability.double()).float().unsqueeze(-1)
        each = self.mean + self.sigma * level
        low, high = each.amin(1), each.amax(1)
        u = torch.sum(self.share * each, dim=1) if near is None else torch.minimum(torch.maximum(near, low), high)
        step = high - low if near is None else torch.sum(self.share * self.sigma, dim=1)
        inverse = 1 / (ROOT_TWO * self.sigma)
        heights = self.share * inverse * (1 / ROOT_PI)
        level, probability = level.squeeze(-1), probability.float()
        for _ in range(steps if near is None else LAST_STEPS):
            pull = (u.unsqueeze(1) - self.mean).mul_(inverse)
            below = 0.5 * torch.erf(pull).mul_(self.share).sum(1) + 0.5
            height = pull.square_().neg_().exp_().mul_(heights).sum(1)
            low, high = torch.where(below < probability, u, low), torch.where(below < probability, high, u)
            # In units of a Gaussian the distribution of a single peak is nearly a straight line.
            found = torch.special.ndtri(below.clamp(SMALLEST, 1 - SMALLEST))
            newton = (level - found) * torch.exp(-0.5 * found * found) / (ROOT_TWO_PI * height)
            # Where Newton leaves the bracket or does not settle: half the bracket, or from close by a shorter step.
            good = (u + newton >= low) & (u + newton <= high) & (newton.abs() <= 0.5 * step.abs())
            other = 0.5 * (low + high) if near is None else torch.clamp(u + newton.sign() * 0.5 * step.abs(), low, high)
            step = torch.where(good, newton, other - u)
            u = u + step
        return u

    def log_mean(self) -> torch.Tensor:
        """Ln E[exp u] = ln E[x / z], shape (S, n)."""
        return torch.logsumexp(torch.log(self.share) + self.mean + 0.5 * self.sigma**2, dim=1)


def _below(pull: torch.Tensor) -> torch.Tensor:
    """Standard normal cdf; erf loses nothing that matters between the 1e-6 quantiles."""
    return 0.5 * (1 + torch.erf(pull / ROOT_TWO))


class ForwardDensity:
    """Response densities of S networks, given ln truth and conditions.

    Args:
        layout: The networks: ln truth and the conditions in, a mixture out.
        draws: Their parameters, float32 of shape (S, count).
        components: Gaussians of the mixture.
        truth: Mean and spread that standardise ln truth.
        support: Range of ln truth of the training; outside, the response is that of the nearer end.
        response: Location and scale of u in the outputs.
        device: Where to compute.
    """

    def __init__(
        self,
        layout: DenseLayout,
        draws: torch.Tensor,
        components: int,
        truth: tuple[float, float],
        support: tuple[float, float],
        response: tuple[float, float],
        device: torch.device,
    ) -> None:
        self.count, self.components = len(draws), components
        self.truth, self.support = truth, support
        self.location, self.scale = response
        self._all = WeightDraws(layout, draws, device)
        self._scouts = WeightDraws(layout, draws[:SCOUTS], device)
        self.block = self._all.block

    def __call__(self, zeta: torch.Tensor, conditions: torch.Tensor, *, scouts: bool = False) -> LogResponse:
        """Densities at ln truth (n,) and standardised conditions (c, n); by a few networks only for ``scouts``."""
        row = (zeta.clamp(*self.support) - self.truth[0]) / self.truth[1]
        outputs = (self._scouts if scouts else self._all)(torch.cat([row[None].float(), conditions])).cpu()
        return LogResponse.of(outputs, self.components, self.location, self.scale)
