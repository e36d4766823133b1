"""Variational Gaussian weights with the exact KL divergence (arXiv:2003.11099, Eqs. 8-10)."""

from __future__ import annotations

import torch

from hepcal.networks.dense import DenseLayout

__all__ = ["MeanFieldPosterior", "gaussian_kl"]

# softplus(-5) = 0.0067: narrow enough to start quietly, wide enough to move.
START_RHO = -5.0


def gaussian_kl(mean: torch.Tensor, sigma: torch.Tensor, prior_width: float) -> torch.Tensor:
    r"""KL[q, p] of factorised Gaussians q = N(mean, sigma) from the prior p = N(0, prior_width), a scalar.

    .. math:: \sum_i \frac{\sigma_i^2 - \sigma_p^2 + \mu_i^2}{2\sigma_p^2} + \ln\frac{\sigma_p}{\sigma_i}

    The sum runs over all weights (arXiv:2003.11099, Eq. 10). Several public libraries average inside each tensor
    instead, which makes the prior thousands of times too weak.
    """
    ratio = sigma / prior_width
    return 0.5 * torch.sum(ratio**2 - 1 + (mean / prior_width) ** 2 - 2 * torch.log(ratio))


class MeanFieldPosterior(torch.nn.Module):
    """Factorised Gaussian posterior over all parameters of a dense network.

    Args:
        layout: The network.
        generator: Random numbers for the starting means.
        start_rho: Starting value of rho; sigma = softplus(rho).
    """

    def __init__(self, layout: DenseLayout, generator: torch.Generator, start_rho: float = START_RHO) -> None:
        super().__init__()
        self.layout = layout
        self.mean = torch.nn.Parameter(layout.start(generator))
        self.rho = torch.nn.Parameter(torch.full((layout.count,), start_rho))

    @property
    def sigma(self) -> torch.Tensor:
        """Widths of all weights, shape (count,)."""
        return torch.nn.functional.softplus(self.rho)

    def kl(self, prior_width: float) -> torch.Tensor:
        """Exact KL divergence from the prior N(0, prior_width), summed over all weights."""
        return gaussian_kl(self.mean, self.sigma, prior_width)

    def forward(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Outputs (batch, out) for one weight draw per input row, by local reparametrisation.

        The pre-activations of a layer with Gaussian weights are Gaussian: their mean and variance are computed and one
        number is drawn per unit and row instead of one per weight, which lowers the variance of the gradient
        (arXiv:1506.02557). Rows are drawn independently: right for a loss, wrong for correlations between jets,
        which :meth:`draw` keeps.
        """
        sigma = self.sigma
        layers = zip(self.layout.split(self.mean), self.layout.split(sigma * sigma), strict=True)
        last = len(self.layout.sizes) - 2
        for number, ((weight, bias), (weight_var, bias_var)) in enumerate(layers):
            mean = torch.nn.functional.linear(x, weight, bias)
            variance = torch.nn.functional.linear(x * x, weight_var, bias_var)
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            # The floor keeps the gradient of the root finite where a row of inputs is all zero.
            x = mean + torch.sqrt(variance + 1e-20) * noise
            if number < last:
                x = torch.relu(x)
        return x

    @torch.no_grad()
    def draw(self, draws: int, generator: torch.Generator) -> torch.Tensor:
        """Weight draws of shape (draws, count), on the CPU: the replicas that a calibrator is saved with."""
        noise = torch.randn((draws, self.layout.count), generator=generator)
        return self.mean.detach().cpu() + self.sigma.detach().cpu() * noise
