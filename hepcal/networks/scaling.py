"""Transforms and standardisation of inputs and target, part of the saved calibrator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from hepcal.metrics import CENTRAL
from hepcal.scores import weighted_quantiles

__all__ = ["InputScaling", "TargetScaling"]

_TRANSFORMS = {"abs": torch.abs, "log": torch.log, "log1p": torch.log1p}
# Components of constituents: scaled but not centred, so that an empty slot stays zero, and without a support: of
# hundreds of columns, jets of the training's own kind would be outside in one or the other.
MOMENTUM = "momentum"
UNBOUNDED = 3e38
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class InputScaling:
    """Raw inputs to standardised ones: transform, then (t - mean) / scale.

    Attributes:
        transforms: One name per input, ln p_T first; ``momentum`` for components of constituents.
        mean: float32 of shape (d,).
        scale: float32 of shape (d,).
        low: Smallest standardised value inside the training support, float32 of shape (d,).
        high: Largest.
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
        momentum = torch.tensor([name == MOMENTUM for name in transforms])
        values = transform(raw, transforms).double()
        share = (weight / weight.sum()).double()
        mean = torch.where(momentum, 0.0, (values * share).sum(1))
        there = torch.where(momentum, ((values != 0) * share).sum(1).clamp_min(TINY), 1.0)
        scale = (((values - mean[:, None]) ** 2 * share).sum(1) / there).clamp_min(0).sqrt()
        scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.ones_like(scale))
        empty = torch.empty(0)
        scaling = cls(tuple(transforms), mean.float(), scale.float(), empty, empty)
        standardised = scaling(raw)
        low, high = (
            torch.where(momentum, sign * UNBOUNDED, end)
            for sign, end in ((-1, standardised.amin(1)), (1, standardised.amax(1)))
        )
        return cls(scaling.transforms, scaling.mean, scaling.scale, low, high)

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

    def inside(self, standardised: torch.Tensor) -> torch.Tensor:
        """Whether all inputs lie in the range of the training, bool of shape (n,)."""
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
    out, start = raw.clone(), 0
    for name, group in groupby(transforms):
        rows = slice(start, start := start + len(list(group)))
        if name in _TRANSFORMS:
            out[rows] = _TRANSFORMS[name](raw[rows])
    return out
