"""Transforms and standardisation of inputs and target, part of the saved calibrator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from hepcal.statistics import CENTRAL, weighted_quantiles

__all__ = ["InputScaling", "TargetScaling"]

_TRANSFORMS = {"abs": torch.abs, "log": torch.log, "log1p": torch.log1p}
# Components of constituents: scaled but not centred, so that an empty slot stays zero, and without a support: of
# hundreds of columns, jets of the training's own kind would be outside in one or the other.
MOMENTUM = "momentum"
UNBOUNDED = 3e38
TINY = 1e-30

# Jets of a table, and their raw inputs (d, m).
Chunks = Iterable[tuple[slice, torch.Tensor]]
_COMBINED: tuple[Callable[..., torch.Tensor], ...] = (torch.add, torch.minimum, torch.maximum, torch.add)


@dataclass(frozen=True, slots=True)
class InputScaling:
    """Raw inputs to standardised ones: transform, then (t - mean) / scale.

    Attributes:
        transforms: One name per input, ln p_T first; ``momentum`` for components of constituents.
        mean: float32 of shape (d,).
        scale: float32 of shape (d,).
        low: Smallest standardised value inside the training support, float32 of shape (d,).
        high: Largest. Momenta have no support but zero in slots that no jet of the training occupied.
    """

    transforms: tuple[str, ...]
    mean: torch.Tensor
    scale: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    @classmethod
    def fit(cls, raw: torch.Tensor, transforms: Sequence[str], weight: torch.Tensor) -> InputScaling:
        """Weighted mean and spread of raw inputs (d, n); an input that is constant keeps the scale one.

        Components of constituents have the mean zero, and their root mean square over occupied slots as scale.
        """
        return cls.fit_chunks(lambda: [(slice(None), raw)], transforms, weight)

    @classmethod
    def fit_chunks(cls, chunks: Callable[[], Chunks], transforms: Sequence[str], weight: torch.Tensor) -> InputScaling:
        """As :meth:`fit`, from raw inputs that come some jets at a time; memory is that of one chunk.

        Args:
            chunks: Gives parts (d, m) of the raw inputs and the jets they are of, all jets in order, the first part
                being the largest. Called twice.
            transforms: One name per input.
            weight: Of all jets, shape (n,).
        """
        momentum = torch.tensor([name == MOMENTUM for name in transforms], dtype=torch.bool, device="cpu")
        share = (weight / weight.sum()).double()
        first: list[torch.Tensor] = []
        for part, values, scratch in _doubles(chunks(), transforms):
            found = [torch.mul(values, share[part], out=scratch).sum(1), values.amin(1), values.amax(1)]
            found.append(values.ne_(0).mul_(share[part]).sum(1))
            first = [f(a, b) for f, a, b in zip(_COMBINED, first, found, strict=True)] if first else found
        mean = torch.where(momentum, 0.0, first[0])
        there = torch.where(momentum, first[3].clamp_min(TINY), 1.0)
        squares = torch.zeros_like(mean)
        for part, values, _ in _doubles(chunks(), transforms):
            squares += values.sub_(mean[:, None]).pow_(2).mul_(share[part]).sum(1)
        scale = (squares / there).clamp_min(0).sqrt()
        scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.ones_like(scale)).float()
        # A slot that the training never saw occupied has no scale: a jet with more constituents is out of range.
        unseen = momentum & (first[3] == 0)
        # Rounding keeps the order: the smallest standardised value is that of the smallest one.
        low, high = ((end.float() - mean.float()) / scale for end in first[1:3])
        low, high = (
            torch.where(unseen, 0.0, torch.where(momentum, bound, end))
            for bound, end in ((-UNBOUNDED, low), (UNBOUNDED, high))
        )
        return cls(tuple(transforms), mean.float(), scale, low, high)

    def above(self, pt: float) -> InputScaling:
        """The same, with the support cut at a p_T [GeV], the first input; zero cuts nothing."""
        if pt <= 0:
            return self
        low = self.low.clone()
        low[0] = torch.maximum(low[0], (math.log(pt) - self.mean[0]) / self.scale[0])
        return replace(self, low=low)

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """Standardised inputs (d, n) from raw ones (d, n)."""
        return (transform(raw, self.transforms) - self.mean[:, None]) / self.scale[:, None]

    def again(self, standardised: torch.Tensor, other: InputScaling) -> torch.Tensor:
        """The same from inputs (d, n) that another scaling has standardised; their bits, where both are the same."""
        if torch.equal(self.mean, other.mean) and torch.equal(self.scale, other.scale):
            return standardised
        factor, away = other.scale.double() / self.scale, (other.mean.double() - self.mean) / self.scale
        return (standardised.double() * factor[:, None] + away[:, None]).float()

    def by_jet(self, raw: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The same as a call for raw inputs (n, d), one jet after another, which are overwritten.

        Args:
            raw: Raw inputs.
            out: Where the standardised ones go, possibly ``raw``; default: new memory.
        """
        start = 0
        for name, group in groupby(self.transforms):
            columns = slice(start, start := start + len(list(group)))
            if name in _TRANSFORMS:
                # In one piece, as a call does it: functions of scattered numbers may round in another way.
                raw[:, columns] = _TRANSFORMS[name](raw[:, columns].T.contiguous()).T
        return torch.sub(raw, self.mean, out=out).div_(self.scale)

    def inside(self, standardised: torch.Tensor) -> torch.Tensor:
        """Whether all inputs lie in the range of the training, bool of shape (n,).

        Momenta of constituents are not compared to a range; a constituent in a slot that was empty in all jets of the
        training is outside.
        """
        return ((standardised >= self.low[:, None]) & (standardised <= self.high[:, None])).all(0)


@dataclass(frozen=True, slots=True)
class TargetScaling:
    """Target y = pt_truth / pt_reco to standardised (y - location) / scale: median and half central 68.27 % width."""

    location: float
    scale: float

    @classmethod
    def fit(cls, target: torch.Tensor, weight: torch.Tensor) -> TargetScaling:
        """From targets and weights of shape (n,); robust, since the response has a long tail."""
        low, mid, high = weighted_quantiles(target.double().numpy(), weight.double().numpy(), CENTRAL)
        width = float(high - low) / 2
        return cls(float(mid), width if width > 0 else 1.0)


def transform(raw: torch.Tensor, transforms: Sequence[str]) -> torch.Tensor:
    """Row-wise transforms of raw inputs (d, n)."""
    out = raw.clone()
    _transform_into(out, raw, transforms)
    return out


def _transform_into(out: torch.Tensor, raw: torch.Tensor, transforms: Sequence[str]) -> None:
    """Overwrite the rows of ``out`` that have a transform."""
    start = 0
    for name, group in groupby(transforms):
        rows = slice(start, start := start + len(list(group)))
        if name in _TRANSFORMS:
            out[rows] = _TRANSFORMS[name](raw[rows])


def _doubles(chunks: Chunks, transforms: Sequence[str]) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Transformed inputs (d, m) as float64, and memory of that shape, both used again for the next chunk."""
    memory = torch.empty((2, 0, 0), dtype=torch.float32, device="cpu")
    for part, raw in chunks:
        if raw.numel() > memory[0].numel():
            memory = torch.empty((2, *raw.shape), dtype=torch.float64, device="cpu")
        values, scratch = memory[:, :, : raw.shape[1]]
        values.copy_(raw)
        _transform_into(values, raw, transforms)
        yield part, values, scratch
