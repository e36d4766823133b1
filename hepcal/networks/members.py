"""Deterministic networks of one layout, trained at once; dropout as masks that a calibrator can keep."""

from __future__ import annotations

from itertools import pairwise

import torch

from hepcal.networks.dense import DenseLayout

__all__ = ["Members", "apply_masks", "keep_factors"]


class Members(torch.nn.Module):
    """M networks with their parameters in one tensor.

    Args:
        layout: The network.
        count: M.
        generator: Random numbers for the starting points.
        dropout: Probability to drop a hidden unit in training (arXiv:1506.02142).
    """

    def __init__(self, layout: DenseLayout, count: int, generator: torch.Generator, dropout: float = 0.0) -> None:
        super().__init__()
        self.layout, self.count, self.dropout = layout, count, dropout
        self.weights = torch.nn.Parameter(torch.stack([layout.start(generator) for _ in range(count)]))

    def forward(self, x: torch.Tensor, kept: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Outputs (M, batch, out) for inputs (batch, in), or (M, batch, in).

        Args:
            x: The inputs.
            kept: Factors (M, batch, units) on the outputs of the hidden layers, from :meth:`all_dropout_factors`.
        """
        layers = self.layout.split(self.weights)
        x = x.expand(self.count, *x.shape[-2:])
        for number, (weight, bias) in enumerate(layers):
            x = torch.bmm(x, weight.transpose(1, 2))
            x = x if bias is None else x + bias.unsqueeze(1)
            if number < len(layers) - 1:
                x = torch.relu(x)
                x = x if kept is None else x * kept[number]
        return x

    def one(self, member: int, x: torch.Tensor) -> torch.Tensor:
        """Outputs (batch, out) of one network, without dropout."""
        return self.layout.forward(self.weights[member], x)

    def dropout_factors(self, rows: int, generator: torch.Generator) -> list[torch.Tensor] | None:
        """Fresh factors (rows, units) for one network, by hidden layer, or None without dropout."""
        if not self.dropout:
            return None
        units = self.layout.sizes[1:-1]
        factors = keep_factors((rows * sum(units),), self.dropout, generator).to(self.weights.device)
        ends = [rows * sum(units[:number]) for number in range(len(units) + 1)]
        return [factors[a:b].view(rows, -1) for a, b in pairwise(ends)]

    def all_dropout_factors(self, rows: int, generator: torch.Generator) -> list[torch.Tensor] | None:
        """The same for all networks, (M, rows, units) by hidden layer."""
        drawn = [self.dropout_factors(rows, generator) for _ in range(self.count)]
        found = [factors for factors in drawn if factors is not None]
        return [torch.stack(layer) for layer in zip(*found, strict=True)] if found else None

    @torch.no_grad()
    def masked(self, draws: int, generator: torch.Generator) -> torch.Tensor:
        """The first network under ``draws`` dropout masks, as ordinary networks (draws, count), on the CPU."""
        kept = [keep_factors((draws, units), self.dropout, generator) for units in self.layout.sizes[1:-1]]
        return apply_masks(self.layout, self.weights[0].detach().cpu(), kept)


def keep_factors(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> torch.Tensor:
    """0 with probability ``rate``, else 1 / (1 - rate): float32, on the CPU.

    Four factors are cut from each 64-bit random number, so the rate is met to 1/65536.
    """
    count = 1
    for size in shape:
        count *= size
    bits = torch.empty((count + 3) // 4, dtype=torch.int64, device="cpu").random_(-(2**63), None, generator=generator)
    kept = bits.view(torch.int16)[:count].view(shape) >= round(rate * 65536) - 32768
    return kept.float().mul_(1 / (1 - rate))


def apply_masks(layout: DenseLayout, flat: torch.Tensor, kept: list[torch.Tensor]) -> torch.Tensor:
    """Networks (draws, count) that equal the network ``flat`` (count,) under masks.

    Dropping a unit is the same as cutting the weights that read it.

    Args:
        layout: The network.
        flat: Its parameters.
        kept: Factors (draws, units) on the outputs of each hidden layer.
    """
    out = flat.expand(len(kept[0]), -1).clone()
    for (weight, _), factors in zip(layout.split(out)[1:], kept, strict=True):
        weight.mul_(factors.unsqueeze(1))
    return out
