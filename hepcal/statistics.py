"""Statistics of weighted samples and their errors: one implementation for arrays and for histograms.

Weights may be negative: the cumulative weight is made monotone without preferring either side (:func:`monotone`). The
error of a quantile is the spread that a bootstrap over events would find, without drawing one. A quantile lies below x
exactly if the distribution function at x exceeds p, and F(x) of a resampled sample is Gaussian around F(x) with the
variance

    var F(x) = sum over events of (sum over the jets of the event of w ([r <= x] - p))² / (sum w)²,

so its distribution, P(q <= x) = Phi((F(x) - p) / sd F(x)), is known at every x, and with it its standard deviation
(Maritz and Jarrett, J. Am. Stat. Assoc. 73 (1978) 194, carried over to weights and events). No density is estimated and
no shape assumed. Correlations of quantiles are those of F at them, in which densities cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from hepcal.arrays import numbers

__all__ = [
    "CENTRAL",
    "MIN_N_EFF",
    "ROUNDING",
    "Cumulative",
    "half_width_error",
    "longest_run",
    "monotone",
    "n_eff",
    "quantile_spread",
    "weighted_mean",
    "weighted_quantiles",
]

# Central 68.27 %: one sigma of a Gaussian, not 68 %.
CENTRAL = (0.1586553, 0.5, 0.8413447)
# Below this effective number of events a bin has no figure: its error would mean nothing.
MIN_N_EFF = 30
# Where histograms are refined around a quantile, in standard deviations of the share below it.
REFINEMENT = np.linspace(-5, 5, 81)

# How far a sum of many weights is rounded, relative to the sum of their absolute values.
ROUNDING = 1e-13

NAN = float("nan")


def n_eff(weight: np.ndarray) -> float:
    """Effective number of entries, (sum w)² / sum w² in float64; zero for none.

    >>> n_eff([1, 1, 2]), n_eff([1, 1, -1])
    (2.6666666666666665, 0.3333333333333333)
    """
    weight = numbers("weight", weight)
    # By a power of two, which changes no bit of the result: squares of large or tiny weights are beyond 64 bits.
    weight = np.ldexp(weight, -int(np.frexp(np.max(np.abs(weight), initial=0.0))[1]))
    squares = float(np.sum(np.square(weight)))
    return float(np.sum(weight)) ** 2 / squares if squares else 0.0


def weighted_mean(values: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Mean sum w x / sum w and its statistical error sqrt(sum w² (x - mean)²) / sum w.

    Args:
        values: Shape (n,).
        weight: Shape (n,), of either sign.

    Returns:
        NaN, NaN if the weights do not sum to a positive number.

    >>> mean, error = weighted_mean([1.0, 2.0, 4.0], [1, 2, 1])
    >>> round(mean, 3), round(error, 3)
    (2.25, 0.552)
    """
    values, weight = numbers("values", values), numbers("weight", weight)
    total = float(weight.sum())
    if not total > 0:
        return NAN, NAN
    mean = float(np.sum(weight * values)) / total
    return mean, float(np.sqrt(np.sum((weight * (values - mean)) ** 2))) / total


def weighted_quantiles(values: np.ndarray, weight: np.ndarray, probabilities: Sequence[float]) -> np.ndarray:
    """The smallest values at which the cumulative weight reaches the probabilities.

    An integer weight counts exactly as that many repetitions of a row. With negative weights the cumulative sum may
    step back; what is inverted is made monotone (:func:`monotone`).

    Args:
        values: Shape (n,).
        weight: Shape (n,), of either sign.
        probabilities: Shape (p,).

    Returns:
        float64 of shape (p,), NaN if the weights do not sum to a positive number.

    >>> weighted_quantiles([3, 1, 2], [1, 1, 2], (0.25, 0.5, 1)).tolist()
    [1.0, 2.0, 3.0]
    """
    values, weight = numbers("values", values), numbers("weight", weight)
    total = weight.sum()
    if not total > 0:
        return np.full(len(probabilities), NAN)
    order = np.argsort(values, kind="stable")
    values, cumulative = values[order], np.cumsum(weight[order])
    if (weight < 0).any():
        # Rows of one value count together, in whatever order they came.
        last = np.append(values[1:] != values[:-1], True)
        values, cumulative = values[last], monotone(cumulative[last])
    # A sum that reaches a probability but for its rounding reaches it: the unit of the weights must not choose.
    reached = np.multiply(probabilities, total) - ROUNDING * np.abs(weight).sum()
    index = np.searchsorted(cumulative, reached)
    return np.asarray(values[np.minimum(index, len(values) - 1)])


def monotone(cumulative: np.ndarray) -> np.ndarray:
    """A cumulative sum of signed weights made to rise: the mean of what both sides make of it.

    The running maximum from the left is too large where the sum steps back, the running minimum from the right too
    small, by as much on average. Without steps back nothing changes, bit by bit.

    Args:
        cumulative: Along the last axis.

    >>> monotone(np.array([0, 2, 1, 3])).tolist()
    [0.0, 1.5, 1.5, 3.0]
    """
    highest = np.maximum.accumulate(cumulative, axis=-1)
    lowest = np.flip(np.minimum.accumulate(np.flip(cumulative, axis=-1), axis=-1), axis=-1)
    return np.asarray((highest + lowest) / 2)


def quantile_spread(
    points: np.ndarray, below: np.ndarray, variance: np.ndarray, probability: float, *, binned: bool = False
) -> float:
    """Standard deviation of a quantile.

    Args:
        points: Where the distribution function is known, rising, shape (n,); edges of bins if ``binned``.
        below: Share at or below them, rising, shape (n,).
        variance: Of ``below`` minus its expectation, for this probability, shape (n,).
        probability: Of the quantile.
        binned: What lies between two points is spread evenly between them, not all at the upper one.
    """
    if binned:
        points, below, variance = _refined(points, below, variance, probability)
    away = (below - probability) / np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    chance = np.maximum.accumulate(ndtr(away))
    mass = np.diff(chance, prepend=0.0)
    mass[-1] += 1 - chance[-1]
    at, inner = points, np.zeros(len(points))
    if binned:
        width = np.diff(points)
        at = np.concatenate([points[:1], points[1:] - width / 2])
        inner[1:] = width**2 / 12
    center = mass @ at
    return float(np.sqrt(mass @ ((at - center) ** 2 + inner)))


def _refined(
    points: np.ndarray, below: np.ndarray, variance: np.ndarray, probability: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With further points around the quantile, straight lines in between: its spread may be far below a bin."""
    spread = np.sqrt(np.interp(probability, below, variance))
    near = np.interp(probability + spread * REFINEMENT, below, points)
    finer = np.sort(np.concatenate([points, near]))
    return finer, np.interp(finer, points, below), np.interp(finer, points, variance)


@dataclass(frozen=True, slots=True)
class Cumulative:
    """Distribution function of a weighted sample at its m distinct values, and what its errors are made of.

    Attributes:
        values: In rising order, shape (m,).
        below: Share of the weight at or below, made monotone, shape (m,).
        total: Sum of weights.
        squares: Sum over events of A(x)², with A(x) the weight of the jets of an event at or below x; shape (m,).
        products: Sum over events of A(x) times all weight of the event, shape (m,).
    """

    values: np.ndarray
    below: np.ndarray
    total: float
    squares: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weight: np.ndarray, cluster: np.ndarray | None = None) -> Cumulative:
        """From values (n,), weights (n,) and the numbers of the events (n,), integers from 0; None: one jet each."""
        order = np.argsort(values, kind="stable")
        values, weight = values[order], weight[order]
        ahead, whole = np.zeros(len(weight)), weight
        if cluster is not None:
            cluster = cluster[order]
            whole = np.bincount(cluster, weight)[cluster]
            ahead = _ahead(weight, cluster)
        last = np.append(values[1:] != values[:-1], True)
        total = float(weight.sum())
        return cls(
            values[last],
            monotone(np.cumsum(weight)[last]) / total,
            total,
            np.cumsum(weight * (weight + 2 * ahead))[last],
            np.cumsum(weight * whole)[last],
        )

    def variance(self, probability: float) -> np.ndarray:
        """Variance of the share below each value around a probability, shape (m,)."""
        p = probability
        return np.asarray((self.squares - 2 * p * self.products + p**2 * self.products[-1]) / self.total**2)

    def spread(self, probability: float) -> float:
        """Standard deviation of a quantile."""
        return quantile_spread(self.values, self.below, self.variance(probability), probability)


def half_width_error(values: np.ndarray, weight: np.ndarray, ends: tuple[float, float]) -> float:
    """Error of half the central 68.27 % width of independent entries.

    Args:
        values: Shape (n,).
        weight: Shape (n,), of either sign.
        ends: Lower and upper end of the interval.
    """
    p, below = np.array([CENTRAL[0], CENTRAL[2]]), Cumulative.of(values, weight)
    steps = weight * (p[:, None] - (values <= np.array(ends)[:, None]))
    shares = steps @ steps.T
    if not (np.diag(shares) > 0).all():
        return float("nan")
    spreads = np.array([below.spread(each) for each in p]) / np.sqrt(np.diag(shares))
    covariance = np.outer(spreads, spreads) * shares
    return float(np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0))) / 2


def _ahead(weight: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Weight of the jets of the same event that come before each jet."""
    grouped = np.argsort(cluster, kind="stable")
    summed = np.cumsum(weight[grouped]) - weight[grouped]
    first = np.append(True, np.diff(cluster[grouped]) != 0)
    ahead = np.empty(len(weight))
    ahead[grouped] = summed - summed[first][np.cumsum(first) - 1]
    return ahead


def longest_run(flags: Sequence[bool] | np.ndarray) -> tuple[int, int]:
    """First and one-past-last position of the longest run of true flags (the first of equals); (0, 0) if none.

    >>> longest_run([True, False, True, True])
    (2, 4)
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]])))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])
