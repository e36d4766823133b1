"""How the mean prediction of a network changes along dozens of directions of its weights, at a few passes' price.

Along a direction dW of the weights the mean m of a jet changes by

    sum over layers of signal^T dW inputs,

with the inputs of the layer, and the signal, the derivatives of m by what the layer gives. One pass forwards and one
back give both. A product with each of the directions would cost a pass each; instead, signals and inputs are projected
onto the few dimensions that matter (by layer: those of the largest share in the changes, as in a Tucker decomposition),
and a linear map, fitted to the exact changes of typical jets, takes the products of the projections to the changes.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import Head
from hepcal.networks.inference import with_bias_column
from hepcal.networks.jacobian import JacobianRows, Linearisation

__all__ = ["ExactTangents", "ProjectedTangents", "Projections", "Tangents", "fit_projections"]

JETS_AT_ONCE = 2_000
mask_by_relu = torch.ops.aten.threshold_backward.grad_input
# Every so many jets judge the linear map instead of fitting it.
JUDGE_EVERY = 5
# Candidates for the strength that holds the linear map at the projected directions, relative to the mean feature.
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Dimensions in which directions change nothing but by rounding, as a share of the largest change.
NOISE = 1e-7
# Added to the variances of signals and inputs, as a share of the largest: where typical jets hardly vary, another one
# may, and what is projected would be magnified by the root of the ratio.
FLOOR = 1e-3
# How far beyond typical jets a change may go, in units of its size (see Projections.reach).
BEYOND = 1.5


@dataclass(frozen=True, slots=True)
class Projections:
    """What :class:`ProjectedTangents` needs beside the network.

    Attributes:
        signals: By layer, shape (p, out).
        inputs: By layer, shape (q, in + 1).
        changes: From products of projections, layer after layer, to changes, shape (directions, sum of p q).
        reach: Largest size of the changes of a jet, in units of the size of its signals times that of its inputs; no
            direction is so long that it could be exceeded by much, but what few dimensions make of a jet that is like
            none of the typical ones can.
        unexplained: Share of the variance of the changes that they miss, before they are scaled up to all of it.
    """

    signals: tuple[torch.Tensor, ...]
    inputs: tuple[torch.Tensor, ...]
    changes: torch.Tensor
    reach: float
    unexplained: float

    def tensors(self) -> dict[str, torch.Tensor]:
        """As float32 by name, for a file."""
        named = {f"tangent_signals_{layer}": part for layer, part in enumerate(self.signals)}
        named |= {f"tangent_inputs_{layer}": part for layer, part in enumerate(self.inputs)}
        named["tangent_changes"] = self.changes
        named["tangent_reach"] = torch.tensor([self.reach], dtype=torch.float32, device="cpu")
        return {name: part.float().cpu().contiguous() for name, part in named.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], layers: int) -> Projections:
        """From such tensors."""
        signals, inputs = (
            tuple(tensors[f"tangent_{kind}_{layer}"] for layer in range(layers)) for kind in ("signals", "inputs")
        )
        return cls(signals, inputs, tensors["tangent_changes"], float(tensors["tangent_reach"]), float("nan"))


class Tangents(ABC):
    """A network with the changes of its mean along directions, ready for inference. Several threads may call it.

    Args:
        layout: The network; it has biases.
        head: What its outputs mean.
        flat: Its parameters, float32 of shape (count,).
        device: Where to compute.
    """

    def __init__(self, layout: DenseLayout, head: Head, flat: torch.Tensor, device: torch.device) -> None:
        self.device, self._head, self._sizes = device, head, layout.sizes
        self._layers = [with_bias_column(*layer).to(device) for layer in layout.split(flat)]
        self._back = [layer[:, :-1].T.contiguous() for layer in self._layers]
        self._scratch = threading.local()

    def __call__(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs, and changes of the mean along every direction, each one standard deviation long.

        Args:
            inputs: Standardised inputs, float32 of shape (d, n). On a CPU n = BLOCK, or the bits of a jet could depend
                on its place in the block.

        Returns:
            float32 of shapes (out, n) and (directions, n), new.
        """
        units = self._buffers(inputs.shape[1])
        units[0][:-1].copy_(inputs)
        for weight, source, target in zip(self._layers[:-1], units, units[1:], strict=False):
            torch.mm(weight, source, out=target[:-1]).relu_()
        outputs = torch.mm(self._layers[-1], units[-1])
        signals = [self._head.mean_gradient(outputs.T).T.contiguous()]
        for back, source in zip(self._back[:0:-1], units[:0:-1], strict=True):
            returned = torch.mm(back, signals[-1])
            signals.append(mask_by_relu(returned, source[:-1], 0, grad_input=returned))
        return outputs, self._changed(signals[::-1], units)

    @abstractmethod
    def _changed(self, signals: list[torch.Tensor], units: list[torch.Tensor]) -> torch.Tensor:
        """Changes (directions, n) from the signals (out, n) of the layers and their inputs (in + 1, n)."""

    def _buffers(self, jets: int) -> list[torch.Tensor]:
        """Inputs of the layers with a row of ones, of the calling thread."""
        if getattr(self._scratch, "jets", None) != jets:
            self._scratch.units = [
                torch.ones((size + 1, jets), dtype=torch.float32, device=self.device) for size in self._sizes[:-1]
            ]
            self._scratch.jets = jets
        found: list[torch.Tensor] = self._scratch.units
        return found


class ProjectedTangents(Tangents):
    """Changes by way of a few dimensions: the price of a few passes.

    Args:
        layout: The network; it has biases.
        head: What its outputs mean.
        flat: Its parameters, float32 of shape (count,).
        projections: Of the directions.
        device: Where to compute.
    """

    def __init__(
        self, layout: DenseLayout, head: Head, flat: torch.Tensor, projections: Projections, device: torch.device
    ) -> None:
        super().__init__(layout, head, flat, device)
        self._signals, self._inputs = (
            [part.to(device) for part in parts] for parts in (projections.signals, projections.inputs)
        )
        self._changes, self._reach = projections.changes.to(device), projections.reach

    def _changed(self, signals: list[torch.Tensor], units: list[torch.Tensor]) -> torch.Tensor:
        jets, start = units[0].shape[1], 0
        if getattr(self._scratch, "width", None) != jets:
            self._scratch.width = jets
            size = (self._changes.shape[1], jets)
            self._scratch.products = torch.empty(size, dtype=torch.float32, device=self.device)
        products = self._scratch.products
        for to_signal, to_inputs, signal, given in zip(self._signals, self._inputs, signals, units, strict=True):
            of_signal, of_inputs = to_signal @ signal, to_inputs @ given
            end = start + len(of_signal) * len(of_inputs)
            torch.mul(of_signal[:, None], of_inputs, out=products[start:end].view(len(of_signal), len(of_inputs), -1))
            start = end
        return self._within_reach(torch.mm(self._changes, products), signals, units)

    def _within_reach(
        self, changes: torch.Tensor, signals: list[torch.Tensor], units: list[torch.Tensor]
    ) -> torch.Tensor:
        """Changes (directions, n), made smaller where they are larger than signals and inputs of such a size allow."""
        size = changes.new_zeros(changes.shape[1])
        for signal, given in zip(signals, units, strict=True):
            size.addcmul_(signal.square().sum(0), given.square().sum(0))
        largest = size.sqrt_().mul_(self._reach)
        found = changes.square().sum(0).sqrt_().clamp_min_(torch.finfo(torch.float32).tiny)
        return changes.mul_(largest.div_(found).clamp_max_(1))


class ExactTangents(Tangents):
    """Changes as they are, at the price of a pass for each direction: for inputs that few dimensions do not stand for.

    Args:
        layout: The network; it has biases.
        head: What its outputs mean.
        flat: Its parameters, float32 of shape (count,).
        directions: Shape (directions, count).
        device: Where to compute.
    """

    def __init__(
        self, layout: DenseLayout, head: Head, flat: torch.Tensor, directions: torch.Tensor, device: torch.device
    ) -> None:
        super().__init__(layout, head, flat, device)
        self._blocks = [block.flatten(0, 1).contiguous().to(device) for block in layout.blocks(directions)]

    def _changed(self, signals: list[torch.Tensor], units: list[torch.Tensor]) -> torch.Tensor:
        parts = [
            torch.mm(block, given).view(-1, *signal.shape).mul_(signal).sum(1)
            for block, signal, given in zip(self._blocks, signals, units, strict=True)
        ]
        return torch.stack(parts).sum(0)


def fit_projections(
    layout: DenseLayout, head: Head, flat: torch.Tensor, directions: torch.Tensor, x: torch.Tensor, rank: int
) -> Projections:
    """Find the projections, and the linear map.

    Args:
        layout: The network.
        head: What its outputs mean.
        flat: Its parameters, shape (count,).
        directions: Shape (directions, count).
        x: Standardised inputs of typical jets, shape (m, d).
        rank: Dimensions of signals and inputs, each, by layer.
    """
    signals, inputs, core = _projected(layout, directions, _rows(layout, head, flat, x[:JETS_AT_ONCE]), rank)
    sums, reach = _Normal(core.shape[1], len(directions), core), 0.0
    for part, rows in _parts(layout, head, flat, x):
        exact = rows.along(directions, layout)
        size = sum(s.square().sum(1) * i.square().sum(1) for s, i in zip(rows.signals, rows.inputs, strict=True))
        reach = max(reach, float((exact.square().sum(1) / size).max().sqrt()))
        weight = 1 / exact.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        products = _products(signals, inputs, rows) * weight[:, None]
        judges = torch.arange(part.start, part.stop, device=x.device) % JUDGE_EVERY == 0
        sums.add(products, exact * weight[:, None], judges)
    changes, unexplained = sums.best()
    return Projections(signals, inputs, changes, BEYOND * reach, unexplained)


class _Normal:
    """Sums of a linear fit: normal equations of the jets that fit, products of those that judge."""

    def __init__(self, features: int, changes: int, start: torch.Tensor) -> None:
        make = start.new_zeros
        self._start = start
        self._gram = [make((features, features)) for _ in range(2)]
        self._mixed = [make((features, changes)) for _ in range(2)]
        self._jets = 0

    def add(self, products: torch.Tensor, exact: torch.Tensor, judges: torch.Tensor) -> None:
        """Add jets: products (m, features), changes (m, changes) in units of their own size, and who judges."""
        for side, chosen in enumerate((~judges, judges)):
            self._gram[side].addmm_(products[chosen].T, products[chosen])
            self._mixed[side].addmm_(products[chosen].T, exact[chosen])
        self._jets += int(judges.sum())

    def best(self) -> tuple[torch.Tensor, float]:
        """The map that the judges like best, scaled so that their variance is right, and what it misses of it."""
        gram, mixed = self._gram[0], self._mixed[0]
        left = mixed - gram @ self._start.T
        values, vectors = torch.linalg.eigh(gram)
        turned, size = vectors.T @ left, gram.diagonal().mean()
        found = []
        for ridge in (*(ridge * size for ridge in RIDGES), float("inf")):
            change = vectors @ (turned / (values[:, None].clamp_min(0) + ridge))
            trial = self._start + change.T
            of_trial = (trial @ self._gram[1] * trial).sum() / self._jets
            common = (trial * self._mixed[1].T).sum() / self._jets
            # The changes of every jet have squares that sum to one.
            found.append((float(1 - 2 * common + of_trial), float(of_trial), trial))
        unexplained, size_of, trial = min(found, key=lambda each: each[0])
        return trial / size_of**0.5, unexplained


def _rows(layout: DenseLayout, head: Head, flat: torch.Tensor, x: torch.Tensor) -> JacobianRows:
    """Derivatives of the means."""
    linear = Linearisation(layout, flat, x)
    return linear.rows(head.mean_gradient(linear.outputs))


def _parts(
    layout: DenseLayout, head: Head, flat: torch.Tensor, x: torch.Tensor
) -> Iterator[tuple[slice, JacobianRows]]:
    for start in range(0, len(x), JETS_AT_ONCE):
        part = slice(start, min(start + JETS_AT_ONCE, len(x)))
        yield part, _rows(layout, head, flat, x[part])


def _products(signals: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...], rows: JacobianRows) -> torch.Tensor:
    """Products of projections, shape (m, features)."""
    parts = []
    for to_signal, to_inputs, signal, given in zip(signals, inputs, rows.signals, rows.inputs, strict=True):
        parts.append(((signal @ to_signal.T)[:, :, None] * (given @ to_inputs.T)[:, None]).flatten(1))
    return torch.cat(parts, dim=1)


def _projected(
    layout: DenseLayout, directions: torch.Tensor, rows: JacobianRows, rank: int
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], torch.Tensor]:
    """Projections of signals and inputs, and the directions between them, shape (directions, features)."""
    signals, inputs, cores = [], [], []
    for block, given, signal in zip(layout.blocks(directions), rows.inputs, rows.signals, strict=True):
        (root_s, whitened_s), (root_i, whitened_i) = _whitening(signal), _whitening(given)
        spread = root_s @ block @ root_i
        of_signal = _leading(torch.einsum("jpq,jrq->pr", spread, spread), rank)
        of_inputs = _leading(torch.einsum("jpq,jpr->qr", spread, spread), rank)
        signals.append(of_signal.T @ whitened_s)
        inputs.append(of_inputs.T @ whitened_i)
        cores.append((of_signal.T @ spread @ of_inputs).flatten(1))
    return tuple(signals), tuple(inputs), torch.cat(cores, dim=1)


def _whitening(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Root of the second moments of values (m, d) with a floor below, and its inverse, (d, d) each."""
    variances, axes = torch.linalg.eigh(values.T @ values / len(values))
    # Signals that are all zero have no scale: any does.
    root = (variances.clamp_min(0) + FLOOR * variances[-1].clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    return (axes * root) @ axes.T, (axes / root) @ axes.T


def _leading(second: torch.Tensor, rank: int) -> torch.Tensor:
    """The leading axes of a matrix of second moments, (d, r)."""
    values, axes = torch.linalg.eigh(second)
    there = int((values > NOISE * values[-1]).sum())
    found: torch.Tensor = axes.flip(1)[:, : max(1, min(rank, there))]
    return found
