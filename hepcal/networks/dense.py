"""A dense ReLU network whose parameters are one flat vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["DenseLayout"]


@dataclass(frozen=True, slots=True)
class DenseLayout:
    """Where the weights and biases of a dense network sit in a flat vector.

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

    def split(self, flat: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Views of a flat vector (..., count) as layers: weights (..., out, in) and biases (..., out)."""
        layers: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        start = 0
        for fan_in, out in zip(self.sizes, self.sizes[1:], strict=False):
            weight = flat[..., start : start + out * fan_in].reshape(*flat.shape[:-1], out, fan_in)
            start += out * fan_in
            layers.append((weight, flat[..., start : start + out] if self.bias else None))
            start += out if self.bias else 0
        return layers

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Random starting point: He-scaled hidden weights, an output layer ten times smaller, zero biases."""
        flat = torch.zeros(self.count)
        layers = self.split(flat)
        for number, (weight, _) in enumerate(layers):
            scale = math.sqrt(2 / weight.shape[-1]) * (0.1 if number == len(layers) - 1 else 1.0)
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
        return flat

    def forward(self, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Outputs (batch, out) of the network with parameters ``flat`` (count,) for inputs (batch, in)."""
        layers = self.split(flat)
        for number, (weight, bias) in enumerate(layers):
            x = torch.nn.functional.linear(x, weight, bias)
            if number < len(layers) - 1:
                x = torch.relu(x)
        return x
