"""Derivatives of the outputs of a network by all its weights, never written out.

The derivative of one number of one jet by a layer is an outer product: what comes back from the outputs (the signal)
times what the layer was given. Products of two derivatives are therefore products of small matrices,

    J(x) . J(x') = sum over layers of (signal . signal') (inputs . inputs'),

and a Gram matrix of m jets costs m² units instead of m² weights. All numbers are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hepcal.networks.dense import DenseLayout

__all__ = ["JacobianRows", "Linearisation"]

# Numbers of a working array that is made for some of the jets at a time.
AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class JacobianRows:
    """Derivatives of m numbers by all weights, one row each.

    Attributes:
        inputs: By layer, what it was given and a one for the bias, shape (m, in + 1).
        signals: By layer, derivatives by what it gives, shape (m, out).
    """

    inputs: tuple[torch.Tensor, ...]
    signals: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, part: slice) -> JacobianRows:
        """Some of the rows."""
        return JacobianRows(*(tuple(layer[part] for layer in layers) for layers in (self.inputs, self.signals)))

    @classmethod
    def joined(cls, rows: Sequence[JacobianRows]) -> JacobianRows:
        """All rows of several sets, one set behind the other."""
        inputs, signals = zip(*((part.inputs, part.signals) for part in rows), strict=True)
        return cls(*(tuple(torch.cat(layer) for layer in zip(*parts, strict=True)) for parts in (inputs, signals)))

    def scaled(self, factor: torch.Tensor) -> JacobianRows:
        """Every row times a number, shape (m,)."""
        return JacobianRows(self.inputs, tuple(signal * factor[:, None] for signal in self.signals))

    def kernel(self, other: JacobianRows) -> torch.Tensor:
        """Products of all rows with all rows of another set, shape (m, m')."""
        found = torch.zeros((len(self), len(other)), dtype=torch.float64, device=self.inputs[0].device)
        for mine, signal, theirs, their_signal in zip(
            self.inputs, self.signals, other.inputs, other.signals, strict=True
        ):
            found.addcmul_(mine @ theirs.T, signal @ their_signal.T)
        return found

    def combined(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Sums of the rows with coefficients (m, s): directions in the space of the weights, shape (s, count)."""
        parts = []
        for inputs, signal in zip(self.inputs, self.signals, strict=True):
            if len(self) * inputs.shape[1] * signal.shape[1] <= AT_ONCE:
                parts.append(coefficients.T @ (signal[:, :, None] * inputs[:, None]).flatten(1))
                continue
            # One product for each direction: outer products of all jets would not fit.
            each = [(signal * coefficient[:, None]).T @ inputs for coefficient in coefficients.T]
            parts.append(torch.stack(each).flatten(1))
        return torch.cat(parts, dim=1)

    def along(self, directions: torch.Tensor, layout: DenseLayout) -> torch.Tensor:
        """Products of the rows with directions (s, count), shape (m, s): how the numbers change along them."""
        found = torch.zeros((len(self), len(directions)), dtype=torch.float64, device=directions.device)
        for block, inputs, signal in zip(layout.blocks(directions), self.inputs, self.signals, strict=True):
            s, out, width = block.shape
            if width <= out:
                first, second, matrix = signal, inputs, block.transpose(0, 1).reshape(out, s * width)
            else:
                first, second, matrix = inputs, signal, block.permute(2, 0, 1).reshape(width, s * out)
            step = max(1, AT_ONCE // matrix.shape[1])
            for start in range(0, len(self), step):
                part = slice(start, start + step)
                product = (first[part] @ matrix).view(-1, s, second.shape[1])
                found[part] += torch.einsum("msi,mi->ms", product, second[part])
        return found


class Linearisation:
    """A network around its weights: the outputs of some jets, and their derivatives by the weights.

    Args:
        layout: The network; it has biases.
        flat: Its parameters, shape (count,).
        x: Standardised inputs, shape (m, in).

    Attributes:
        outputs: float64 of shape (m, out).
    """

    def __init__(self, layout: DenseLayout, flat: torch.Tensor, x: torch.Tensor) -> None:
        self._weights = [weight for weight, _ in layout.split(flat.double())]
        units, one = x.double(), torch.ones((len(x), 1), dtype=torch.float64, device=x.device)
        inputs: list[torch.Tensor] = []
        for block in layout.blocks(flat.double()):
            inputs.append(torch.cat([units.relu() if inputs else units, one], dim=1))
            units = inputs[-1] @ block.T
        self._inputs, self.outputs = tuple(inputs), units

    def rows(self, by_output: torch.Tensor) -> JacobianRows:
        """Derivatives of numbers whose own derivatives by the outputs are ``by_output``, shape (m, out)."""
        signals = [by_output.double()]
        for weight, inputs in zip(self._weights[:0:-1], self._inputs[:0:-1], strict=True):
            # A unit that is off passes nothing on.
            signals.append((signals[-1] @ weight) * (inputs[:, :-1] > 0))
        return JacobianRows(self._inputs, tuple(signals[::-1]))
