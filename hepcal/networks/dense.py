"""A dense ReLU network whose parameters are one flat vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["DenseLayout"]


@dataclass(frozen=True, slots=True)
class DenseLayout:
    """Where the weights and biases of a dense network sit in a flat vector.

    One layer after another, each a row-major block (out, in + 1): the bias is the last column, so that an input of
    ones makes a layer, and its gradient, a single matrix product.

    Attributes:
        sizes: Units per layer, inputs first, outputs last.
        bias: Whether layers have biases.
    """

    sizes: tuple[int, ...]
    bias: bool = True

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum((fan_in + self.bias) * out for fan_in, out in zip(self.sizes, self.sizes[1:], strict=False))

    @property
    def units(self) -> int:
        """Number of units behind the inputs, outputs included."""
        return sum(self.sizes[1:])

    def blocks(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views of a flat vector (..., count) as layers (..., out, in + 1), the bias in the last column."""
        found, start = [], 0
        for fan_in, out in zip(self.sizes, self.sizes[1:], strict=False):
            size = out * (fan_in + self.bias)
            found.append(flat[..., start : start + size].view(*flat.shape[:-1], out, fan_in + self.bias))
            start += size
        return found

    def split(self, flat: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Views of a flat vector (..., count) as layers: weights (..., out, in) and biases (..., out)."""
        if not self.bias:
            return [(block, None) for block in self.blocks(flat)]
        return [(block[..., :-1], block[..., -1]) for block in self.blocks(flat)]

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Random starting point: He-scaled hidden weights, an output layer ten times smaller, zero biases."""
        flat = torch.zeros(self.count, dtype=torch.float32, device="cpu")
        layers = self.split(flat)
        for number, (weight, _) in enumerate(layers):
            scale = math.sqrt(2 / weight.shape[-1]) * (0.1 if number == len(layers) - 1 else 1.0)
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float32, device="cpu") * scale)
        return flat

    def set_output_bias(self, flat: torch.Tensor, values: torch.Tensor) -> None:
        """Set the biases of the outputs of ``flat`` (..., count) in place, if there are biases."""
        bias = self.split(flat)[-1][1]
        if bias is not None:
            with torch.no_grad():
                bias.copy_(values.expand(bias.shape))

    def forward(self, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Outputs (batch, out) of the network with parameters ``flat`` (count,) for inputs (batch, in)."""
        layers = self.split(flat)
        for number, (weight, bias) in enumerate(layers):
            x = torch.nn.functional.linear(x, weight, bias)
            if number < len(layers) - 1:
                x = torch.relu(x)
        return x
