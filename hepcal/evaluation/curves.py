"""Shares observed where shares were promised: coverage, quantile calibration, PIT. Numpy arrays in, float64 out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hepcal.arrays import numbers
from hepcal.statistics import n_eff

__all__ = [
    "Curve",
    "PITHistogram",
    "coverage_curve",
    "pit_histogram",
    "quantile_curve",
]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Curve:
    """Shares observed where shares were promised, arrays of shape (p,), float64.

    Attributes:
        nominal: What a calibrated prediction gives.
        observed: What was found.
        unc: Statistical error for a calibrated prediction, sqrt(nominal (1 - nominal) / n_eff).
    """

    nominal: np.ndarray
    observed: np.ndarray
    unc: np.ndarray

    @property
    def deviation(self) -> tuple[float, float]:
        """Largest |observed - nominal|, with its sign, and the error at that place.

        It is the largest of many: the error is that of one point, and 2 sigma are nothing unusual.
        """
        difference = self.observed - self.nominal
        if not np.isfinite(difference).any():
            return NAN, NAN
        worst = int(np.nanargmax(np.abs(difference)))
        return float(difference[worst]), float(self.unc[worst])


@dataclass(frozen=True, slots=True)
class PITHistogram:
    """Density of the PIT values, one everywhere for a calibrated prediction.

    Attributes:
        edges: Shape (bins + 1,), from 0 to 1.
        density: Shape (bins,).
        unc: Its statistical error, from the sum of squared weights in each bin.
    """

    edges: np.ndarray
    density: np.ndarray
    unc: np.ndarray


def coverage_curve(pit: np.ndarray, weight: np.ndarray, nominal: Sequence[float]) -> Curve:
    """Coverage of central intervals: the share of truths with |PIT - 1/2| <= nominal / 2.

    Args:
        pit: Predicted cumulative probability at the truth, shape (n,).
        weight: Shape (n,).
        nominal: Probabilities of the intervals, between 0 and 1.
    """
    away = 2 * np.abs(numbers("pit", pit) - 0.5)
    return _shares(away, weight, nominal)


def quantile_curve(pit: np.ndarray, weight: np.ndarray, probabilities: Sequence[float]) -> Curve:
    """Quantile calibration: the share of truths at or below the predicted p-quantile, which is PIT <= p.

    Args:
        pit: Predicted cumulative probability at the truth, shape (n,).
        weight: Shape (n,).
        probabilities: Of the quantiles, between 0 and 1.
    """
    return _shares(numbers("pit", pit), weight, probabilities)


def pit_histogram(pit: np.ndarray, weight: np.ndarray, bins: int) -> PITHistogram:
    """Histogram of PIT values as a density on [0, 1].

    Args:
        pit: Predicted cumulative probability at the truth, shape (n,).
        weight: Shape (n,).
        bins: Number of bins of equal width.
    """
    pit, weight = numbers("pit", pit), numbers("weight", weight)
    edges = np.linspace(0, 1, bins + 1)
    total = weight.sum()
    if not total > 0:
        return PITHistogram(edges, *np.full((2, bins), NAN))
    # Averages over draws may exceed one by rounding.
    pit = np.clip(pit, 0, 1)
    sums, squares = (np.histogram(pit, edges, weights=weight**power)[0] for power in (1, 2))
    return PITHistogram(edges, sums * bins / total, np.sqrt(squares) * bins / total)


def _shares(values: np.ndarray, weight: np.ndarray, limits: Sequence[float]) -> Curve:
    nominal = numbers("probabilities", limits)
    if not ((nominal > 0) & (nominal < 1)).all():
        raise ValueError(f"probabilities lie between 0 and 1, found {nominal}")
    weight = numbers("weight", weight)
    total = weight.sum()
    if not total > 0:
        return Curve(nominal, *np.full((2, len(nominal)), NAN))
    observed = np.array([weight[values <= limit].sum() for limit in nominal]) / total
    return Curve(nominal, observed, np.sqrt(nominal * (1 - nominal) / n_eff(weight)))
