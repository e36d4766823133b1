"""Variational Gaussian weights with the exact KL divergence (arXiv:2003.11099, Eqs. 8-10)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch.nn.functional import linear, softplus

from hepcal.networks.dense import DenseLayout

__all__ = [
    "START_RHO",
    "Estimator",
    "MeanFieldPosterior",
    "gaussian_kl",
    "log_softplus",
    "random_signs",
    "standard_normal",
]

Estimator = Literal["local", "flipout", "shared"]

# softplus(-5) = 0.0067: narrow enough to start quietly, wide enough to move.
START_RHO = -5.0
# Keeps the root of a variance, and its gradient, finite where a row of inputs is all zero.
VARIANCE_FLOOR = 1e-20
# ln softplus(rho) = rho to float32 precision below.
LINEAR_BELOW = -20.0


def gaussian_kl(
    mean: torch.Tensor, sigma: torch.Tensor, prior_width: float, log_sigma: torch.Tensor | None = None
) -> torch.Tensor:
    r"""KL[q, p] of Gaussians q = N(mean, sigma) from the prior p = N(0, prior_width), weight by weight.

    .. math:: \frac{\sigma_i^2 - \sigma_p^2 + \mu_i^2}{2\sigma_p^2} + \ln\frac{\sigma_p}{\sigma_i}

    The loss has the sum over all weights (arXiv:2003.11099, Eq. 10). Several public libraries average inside each
    tensor instead, which makes the prior thousands of times too weak.

    Args:
        mean: Any shape.
        sigma: Same shape.
        prior_width: Width of the prior.
        log_sigma: ln sigma, where it is known better than from sigma.
    """
    ratio = sigma / prior_width
    logarithm = (torch.log(sigma) if log_sigma is None else log_sigma) - math.log(prior_width)
    return 0.5 * (ratio**2 - 1 + (mean / prior_width) ** 2) - logarithm


class MeanFieldPosterior(torch.nn.Module):
    """Factorised Gaussian posterior over all parameters of a dense network.

    Args:
        layout: The network.
        generator: Random numbers for the starting means.
        start_rho: Starting value of rho; sigma = softplus(rho).
        frozen: Freeze all widths at zero: the deterministic network, trained through the same code.
    """

    def __init__(
        self,
        layout: DenseLayout,
        generator: torch.Generator,
        start_rho: float = START_RHO,
        *,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.layout, self.frozen = layout, frozen
        self.mean = torch.nn.Parameter(layout.start(generator))
        rho = torch.full((layout.count,), -float("inf") if frozen else start_rho, dtype=torch.float32, device="cpu")
        self.rho = torch.nn.Parameter(rho, requires_grad=not frozen)

    @property
    def sigma(self) -> torch.Tensor:
        """Widths of all weights, shape (count,)."""
        return softplus(self.rho)

    def kl(self, prior_width: float) -> torch.Tensor:
        """Exact KL divergence from the prior N(0, prior_width), summed over all weights.

        With frozen widths its constant, infinite part is left out and the L2 counterpart sum mean² / (2 prior_width²)
        remains. Per jet the strength is thus 1 / (2 prior_width² N); Eq. 15 of arXiv:2003.11099 prints 1 / (2
        prior_width N), which does not follow from its Eq. 8 and is ten times weaker at 0.1.
        """
        if self.frozen:
            return 0.5 * torch.sum((self.mean / prior_width) ** 2)
        return torch.sum(gaussian_kl(self.mean, self.sigma, prior_width, log_softplus(self.rho)))

    def forward(self, x: torch.Tensor, generator: torch.Generator, estimator: Estimator = "local") -> torch.Tensor:
        """Outputs (batch, out) of random networks for inputs (batch, in), for a loss.

        ``local`` draws the pre-activations of every row: those of a layer with Gaussian weights are Gaussian, so one
        number per unit and row replaces one per weight, with the least noise in the gradient (arXiv:1506.02557).
        ``flipout`` draws one perturbation of the weights and gives it random signs per row (arXiv:1803.04386, the
        choice of arXiv:2003.11099). ``shared`` draws one network for all rows: cheap, with the noisiest gradient.

        With ``local`` and ``flipout`` two equal rows get different weights: right for a loss, wrong for correlations
        between jets, which :meth:`draw` keeps.
        """
        if estimator == "local":
            return self._local(x, generator)
        if estimator == "flipout":
            return self._flipout(x, generator)
        noise = torch.randn(self.layout.count, generator=generator, dtype=torch.float32, device="cpu").to(x.device)
        return self.layout.forward(self.mean + self.sigma * noise, x)

    def _local(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        layers = zip(self.layout.split(self.mean), self.layout.split(self.sigma**2), strict=True)
        # One call for all units, so that every implementation of this estimator uses the same numbers.
        noise = standard_normal(x.new_empty(len(x) * self.layout.units), generator)
        used = 0
        for number, ((weight, bias), (weight_var, bias_var)) in enumerate(layers):
            mean = linear(x, weight, bias)
            variance = linear(x * x, weight_var, bias_var)
            drawn = noise[used : used + mean.numel()].view(mean.shape)
            used += mean.numel()
            x = mean + torch.sqrt(variance + VARIANCE_FLOOR) * drawn
            if number < len(self.layout.sizes) - 2:
                x = torch.relu(x)
        return x

    def _flipout(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(self.layout.count, generator=generator, dtype=torch.float32, device="cpu").to(x.device)
        layers = zip(self.layout.split(self.mean), self.layout.split(self.sigma * noise), strict=True)
        sizes = self.layout.sizes
        for number, ((weight, bias), (change, bias_change)) in enumerate(layers):
            signs = random_signs(len(x), sizes[number] + sizes[number + 1], generator).to(x.device)
            before, after = signs[:, : sizes[number]], signs[:, sizes[number] :]
            x = linear(x, weight, bias) + after * linear(x * before, change, bias_change)
            if number < len(sizes) - 2:
                x = torch.relu(x)
        return x

    @torch.no_grad()
    def draw(self, draws: int, generator: torch.Generator) -> torch.Tensor:
        """Weight draws of shape (draws, count), on the CPU: the replicas that a calibrator is saved with."""
        noise = torch.randn((draws, self.layout.count), generator=generator, dtype=torch.float32, device="cpu")
        return self.mean.detach().cpu() + self.sigma.detach().cpu() * noise


def log_softplus(rho: torch.Tensor) -> torch.Tensor:
    """Logarithm of softplus(rho), which is rho itself for very negative rho, where softplus is no number any more."""
    return torch.where(rho < LINEAR_BELOW, rho, torch.log(softplus(rho.clamp_min(LINEAR_BELOW))))


def standard_normal(out: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Fill a tensor on any device with normal numbers of a generator on the CPU, the same everywhere."""
    if out.device.type == "cpu":
        return out.normal_(generator=generator)
    return out.copy_(torch.randn(out.shape, generator=generator, dtype=torch.float32, device="cpu"))


def random_signs(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Signs -1 and 1, float32 of shape (rows, columns)."""
    return (
        torch.randint(0, 2, (rows, columns), generator=generator, dtype=torch.int8, device="cpu")
        .float()
        .mul_(2)
        .sub_(1)
    )
