"""Other libraries' Bayesian networks with the posterior of a hepcal calibrator: same means, same widths.

Both libraries hold a mean and a width for every weight and bias, so the copies are exact up to the rounding of their
width parameters (softplus in bayesian-torch, exp in torchbnn). Each is used as its documentation shows: a forward pass
with fresh random numbers, repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hepcal.networks.dense import DenseLayout

__all__ = ["bayesian_torch_flipout", "passes", "torchbnn_network"]

PRIOR_WIDTH = 0.1


def bayesian_torch_flipout(layout: DenseLayout, mean: torch.Tensor, sigma: torch.Tensor) -> torch.nn.Module:
    """Flipout layers of bayesian-torch; their ``rho`` is the inverse softplus of the width.

    Args:
        layout: The network, with biases.
        mean: Means of all parameters, shape (count,).
        sigma: Widths of all parameters, shape (count,).
    """
    from bayesian_torch.layers import LinearFlipout

    class WithoutKl(torch.nn.Module):
        """The layer, asked for outputs only, as for inference."""

        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x, return_kl=False)

    def build(fan_in: int, out: int, values: dict[str, torch.Tensor]) -> torch.nn.Module:
        layer = LinearFlipout(fan_in, out, prior_variance=PRIOR_WIDTH)
        layer.mu_weight.copy_(values["weight"])
        layer.mu_bias.copy_(values["bias"])
        layer.rho_weight.copy_(inverse_softplus(values["weight_sigma"]))
        layer.rho_bias.copy_(inverse_softplus(values["bias_sigma"]))
        return WithoutKl(layer)

    return _network(layout, mean, sigma, build)


def torchbnn_network(layout: DenseLayout, mean: torch.Tensor, sigma: torch.Tensor) -> torch.nn.Module:
    """Layers of torchbnn, one weight draw per pass; they keep the logarithm of the width.

    Args:
        layout: The network, with biases.
        mean: Means of all parameters, shape (count,).
        sigma: Widths of all parameters, shape (count,).
    """
    import torchbnn

    def build(fan_in: int, out: int, values: dict[str, torch.Tensor]) -> torch.nn.Module:
        layer = torchbnn.BayesLinear(prior_mu=0, prior_sigma=PRIOR_WIDTH, in_features=fan_in, out_features=out)
        layer.weight_mu.copy_(values["weight"])
        layer.bias_mu.copy_(values["bias"])
        layer.weight_log_sigma.copy_(values["weight_sigma"].log())
        layer.bias_log_sigma.copy_(values["bias_sigma"].log())
        return layer

    return _network(layout, mean, sigma, build)


@torch.no_grad()
def passes(network: torch.nn.Module, inputs: torch.Tensor, draws: int) -> torch.Tensor:
    """Outputs (draws, n, out) of stochastic passes over all jets, inputs (n, d)."""
    return torch.stack([network(inputs) for _ in range(draws)])


def inverse_softplus(value: torch.Tensor) -> torch.Tensor:
    """The number whose softplus is ``value`` > 0, without overflow."""
    return value + torch.log(-torch.expm1(-value))


@torch.no_grad()
def _network(
    layout: DenseLayout,
    mean: torch.Tensor,
    sigma: torch.Tensor,
    build: Callable[[int, int, dict[str, torch.Tensor]], torch.nn.Module],
) -> torch.nn.Module:
    """Layers with a ReLU between them."""
    modules: list[torch.nn.Module] = []
    for (weight, bias), (weight_sigma, bias_sigma) in zip(layout.split(mean), layout.split(sigma), strict=True):
        if bias is None or bias_sigma is None:
            raise ValueError("the networks of the libraries are compared with biases")
        values = {"weight": weight, "bias": bias, "weight_sigma": weight_sigma, "bias_sigma": bias_sigma}
        modules += [build(weight.shape[1], weight.shape[0], values), torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1]).eval()
