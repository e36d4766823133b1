"""Quantiles, modes and highest-density intervals of predictive distributions, found for many jets at once.

Heights and probabilities are first taken at knots, which gather where the distribution has structure. Between knots the
density is monotone, because its maxima and minima are knots themselves; so every end of an interval lies between two
known knots, and the height of all ends is found from the exact cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hepcal.distributions import Distribution

__all__ = ["Knots", "find_roots", "highest_density", "modes", "quantiles"]

# First knots, in standard deviations around the mean: the bulk, and ever wider steps in which heavy tails would show.
BULK = 5.0
FAR = np.array([6.5, 9, 13, 20, 40, 100, 1000])
STEPS = 40
# Knots added in each round, where there is probability and where straight lines between the knots miss it.
ADDED = 24
ROUNDS = 2
# Jets whose knots still miss this much probability, or whose intervals hold the wrong probability by more than
# REPEATED, are done again with finer knots, up to FINEST times and a few at a time.
UNRESOLVED = 5e-3
REPEATED = 1e-6
FINEST = 3
REPEATED_AT_ONCE = 256
# Accuracy of points in standard deviations, and of probabilities.
POINT_TOLERANCE = 1e-10
PROBABILITY_TOLERANCE = 1e-9

Function = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Knots:
    """Points in rising order with heights and probabilities, float64 of shape (n, knots) each.

    Attributes:
        x: Where [GeV]; the first and the last are 1000 standard deviations away.
        height: Density [1/GeV].
        below: Probability below.
        sigma: Standard deviation of the distribution [GeV], shape (n, 1).
    """

    x: np.ndarray
    height: np.ndarray
    below: np.ndarray
    sigma: np.ndarray

    @classmethod
    def of(cls, distribution: Distribution, finer: int = 0) -> Knots:
        """Knots that resolve a distribution and contain its maxima and minima.

        Args:
            distribution: n distributions.
            finer: Each step doubles the number of knots per round and adds two rounds.
        """
        mean, variance = distribution.moments()
        sigma = np.sqrt(variance)[:, None]
        first = np.concatenate([-FAR[::-1], np.linspace(-BULK, BULK, STEPS * 2**finer + 1), FAR])
        x = mean[:, None] + sigma * first
        knots = cls(x, distribution.density(x), distribution.cdf(x), sigma)
        for _ in range(ROUNDS + 2 * finer):
            knots = knots._with(distribution, knots._refined(ADDED * 2**finer))
        return knots._with(distribution, knots._extrema(distribution))

    def mode(self) -> np.ndarray:
        """Highest point, shape (n,)."""
        return np.asarray(np.take_along_axis(self.x, self.height.argmax(axis=1)[:, None], axis=1)[:, 0])

    def level_bracket(self, probability: float) -> tuple[np.ndarray, np.ndarray]:
        """Heights (n, 1) above which lies at least, and at most, a given probability.

        The cells between knots with both ends above a height hold less than lies above it, those with one end more.
        """
        mass = np.diff(self.below)
        left, right = self.height[:, :-1], self.height[:, 1:]
        least = _height_holding(np.minimum(left, right), mass, probability)
        # Zero, where a density underflows, is no level: everything would lie above it.
        return (
            np.maximum(least, np.finfo(float).tiny),
            _height_holding(np.maximum(left, right), mass, probability),
        )

    def crossings(self, distribution: Distribution, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the density rises and falls through a level.

        Args:
            distribution: What the knots belong to.
            level: Height [1/GeV], shape (n, 1).

        Returns:
            Points of shape (n, 2, m), rising then falling, and which of the m are there, bool of shape (n, m).
        """
        above = self.height >= level
        rising, there = _padded(~above[:, :-1] & above[:, 1:])
        falling, _ = _padded(above[:, :-1] & ~above[:, 1:])
        cell = np.concatenate([rising, falling], axis=1)
        # The padding gets an empty bracket, in which nothing is searched.
        ends = cell, np.where(np.tile(there, 2), cell + 1, cell)
        x, height = (tuple(np.take_along_axis(part, end, axis=1) for end in ends) for part in (self.x, self.height))
        points = find_roots(
            lambda x, rows: _some(distribution, rows).density(x) - level[rows],
            (x[0], x[1]),
            (height[0] - level, height[1] - level),
            POINT_TOLERANCE * self.sigma,
        )
        return points.reshape(-1, 2, there.shape[1]), there

    def take(self, rows: np.ndarray) -> Knots:
        """The knots of some jets."""
        return Knots(self.x[rows], self.height[rows], self.below[rows], self.sigma[rows])

    def missed(self) -> np.ndarray:
        """Probability of each cell that a straight line between its knots misses, shape (n, knots - 1)."""
        mass = np.diff(self.below)
        trapezoid = 0.5 * (self.height[:, :-1] + self.height[:, 1:]) * np.diff(self.x)
        return np.asarray(np.minimum(np.abs(mass - trapezoid), mass))

    def _refined(self, number: int) -> np.ndarray:
        """New points, half of them shared out by probability, half by what is missed, shape (n, number)."""
        ahead = np.zeros_like(self.x)
        # Sums in order: padding (empty cells) then changes no bits.
        ahead[:, 1:] = np.cumsum(self.missed(), axis=1)
        ahead /= np.maximum(ahead[:, -1:], np.finfo(float).tiny)
        ahead += self.below - self.below[:, :1]
        points = np.empty((len(ahead), number))
        for i in range(number):
            target = ahead[:, -1] * (i + 0.5) / number
            cell = np.clip((ahead <= target[:, None]).sum(axis=1) - 1, 0, ahead.shape[1] - 2)[:, None]
            x0, x1, a0, a1 = (np.take_along_axis(of, cell + j, axis=1)[:, 0] for of in (self.x, ahead) for j in (0, 1))
            points[:, i] = x0 + (x1 - x0) * np.clip((target - a0) / np.where(a1 > a0, a1 - a0, 1), 0, 1)
        return points

    def _extrema(self, distribution: Distribution) -> np.ndarray:
        """The maxima and minima between the knots, shape (n, m); padded with the first knot."""
        slope = distribution.slope(self.x)
        cell, there = _padded(slope[:, :-1] * slope[:, 1:] < 0)
        ends = cell, np.where(there, cell + 1, cell)
        x, values = (tuple(np.take_along_axis(part, end, axis=1) for end in ends) for part in (self.x, slope))
        return find_roots(
            lambda x, rows: _some(distribution, rows).slope(x),
            (x[0], x[1]),
            (values[0], values[1]),
            POINT_TOLERANCE * self.sigma,
        )

    def _with(self, distribution: Distribution, points: np.ndarray) -> Knots:
        """With further points (n, m) as knots."""
        pairs = (self.x, points), (self.height, distribution.density(points)), (self.below, distribution.cdf(points))
        columns = [np.concatenate(pair, axis=1) for pair in pairs]
        order = np.argsort(columns[0], axis=1, kind="stable")
        x, height, below = (np.take_along_axis(column, order, axis=1) for column in columns)
        return Knots(x, height, below, self.sigma)


def quantiles(distribution: Distribution, probabilities: np.ndarray) -> np.ndarray:
    """Points below which a distribution holds given probabilities.

    Args:
        distribution: n distributions.
        probabilities: Between 0 and 1, shape (q,).

    Returns:
        Shape (n, q), to 1e-10 of the standard deviation where the density does not vanish.
    """
    mean, variance = (moment[:, None] for moment in distribution.moments())
    sigma = np.sqrt(variance)
    # Cantelli's inequality: no distribution has its p-quantile outside of these two; the margin is for rounding.
    low = mean - sigma * (np.sqrt((1 - probabilities) / probabilities) + 1e-6)
    high = mean + sigma * (np.sqrt(probabilities / (1 - probabilities)) + 1e-6)
    return find_roots(
        lambda x, rows: _some(distribution, rows).cdf(x) - probabilities,
        (low, high),
        (distribution.cdf(low) - probabilities, distribution.cdf(high) - probabilities),
        POINT_TOLERANCE * sigma,
    )


def modes(distribution: Distribution, finer: int = 0) -> np.ndarray:
    """Highest points of n densities, shape (n,); ``finer`` as in :meth:`Knots.of`."""
    knots = Knots.of(distribution, finer)
    found = knots.mode()
    for rows in _repeated(knots.missed().sum(axis=1) > UNRESOLVED, finer):
        found[rows] = modes(distribution.take(rows), finer + 1)
    return found


def highest_density(
    distribution: Distribution, probability: float, finer: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The smallest set with a given probability: all points whose density exceeds a level (arXiv:2003.11099, Sec. 4).

    Args:
        distribution: n distributions.
        probability: Probability inside, between 0 and 1.
        finer: As in :meth:`Knots.of`.

    Returns:
        Low ends and high ends of shape (n, m) each, in rising order, and which of the m intervals are there (the first
        ones), bool of shape (n, m).
    """
    knots = Knots.of(distribution, finer)

    def intervals(level: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ends (rows, 2, m), which are there, and the probability inside beyond the wanted one (rows, 1)."""
        chosen = _some(distribution, rows)
        ends, there = knots.take(rows).crossings(chosen, level)
        below = chosen.cdf(ends.reshape(len(ends), 2 * there.shape[1])).reshape(ends.shape)
        inside = np.where(there, below[:, 1] - below[:, 0], 0).cumsum(axis=1)[:, -1:]
        return ends, there, inside - probability

    everything = np.arange(len(distribution))
    bracket = knots.level_bracket(probability)
    values = intervals(bracket[0], everything)[2], intervals(bracket[1], everything)[2]
    level = find_roots(
        lambda level, rows: intervals(level, rows)[2], bracket, values, 1e-14 * bracket[1], PROBABILITY_TOLERANCE
    )
    ends, there, excess = intervals(level, everything)
    found = ends[:, 0], ends[:, 1], there
    for rows in _repeated((np.abs(excess[:, 0]) > REPEATED) | (knots.missed().sum(axis=1) > UNRESOLVED), finer):
        found = _replaced(found, rows, highest_density(distribution.take(rows), probability, finer + 1))
    return found


def find_roots(
    function: Function,
    ends: tuple[np.ndarray, np.ndarray],
    values: tuple[np.ndarray, np.ndarray],
    tolerance: np.ndarray,
    enough: float = 0.0,
) -> np.ndarray:
    """Roots of n x m functions at once: bisection with inverse quadratic steps where they are safe.

    Chandrupatla, Adv. Eng. Softw. 28 (1997) 145. Each element goes its own way and stops by itself, so that it does not
    depend on the elements beside it.

    Args:
        function: Values (k, m) at points (k, m) of the rows (k,) that still move.
        ends: Both ends of the brackets, shape (n, m) each.
        values: Values there; without a change of sign the end with the smaller value is returned.
        tolerance: Accuracy of the roots, shape (n, 1).
        enough: A value this close to zero ends a search, too.

    Returns:
        Shape (n, m).
    """
    x1, x2, f1, f2 = *ends, *values
    roots = np.where(np.abs(f1) < np.abs(f2), x1, x2)
    moving = (np.sign(f1) * np.sign(f2) < 0) & (np.minimum(np.abs(f1), np.abs(f2)) > enough) & (x1 != x2)
    share, rows = np.full(roots.shape, 0.5), np.arange(len(roots))
    while True:
        left = moving.any(axis=1)
        if not left.any():
            return roots
        rows = rows[left]
        x1, x2, f1, f2, share, moving = (part[left] for part in (x1, x2, f1, f2, share, moving))
        x = x1 + share * (x2 - x1)
        f = function(x, rows)
        same = np.sign(f) == np.sign(f1)
        x3, f3 = np.where(same, x1, x2), np.where(same, f1, f2)
        x2, f2 = np.where(same, x2, x1), np.where(same, f2, f1)
        x1, f1 = x, f
        best = np.where(np.abs(f1) < np.abs(f2), x1, x2)
        roots[rows] = np.where(moving, best, roots[rows])
        width = np.abs(x2 - x1)
        limit = tolerance[rows] + 4 * np.finfo(float).eps * np.abs(best)
        moving = moving & (width > 2 * limit) & (np.minimum(np.abs(f1), np.abs(f2)) > enough)
        share = _next_share(x1, x2, x3, f1, f2, f3, limit / np.where(width > 0, width, 1))


def _next_share(
    x1: np.ndarray, x2: np.ndarray, x3: np.ndarray, f1: np.ndarray, f2: np.ndarray, f3: np.ndarray, least: np.ndarray
) -> np.ndarray:
    """How far the next point lies from x1 towards x2: by inverse quadratic interpolation or one half."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        step = f1 / (f1 - f2) * f3 / (f3 - f2) - (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f2 - f3)
    least = np.minimum(least, 0.5)
    return np.clip(np.where(smooth & np.isfinite(step), step, 0.5), least, 1 - least)


def _height_holding(height: np.ndarray, mass: np.ndarray, probability: float) -> np.ndarray:
    """The height, of cells (n, cells), down to which their probability reaches the wanted one, shape (n, 1)."""
    order = np.argsort(-height, axis=1, kind="stable")
    inside = np.cumsum(np.take_along_axis(mass, order, axis=1), axis=1)
    last = np.minimum((inside < probability).sum(axis=1), height.shape[1] - 1)[:, None]
    return np.take_along_axis(height, np.take_along_axis(order, last, axis=1), axis=1)


def _padded(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the set flags of each row, shape (n, m) with m >= 1, and which of them are there."""
    count = flags.sum(axis=1)
    there = np.arange(max(int(count.max(initial=0)), 1)) < count[:, None]
    columns = np.zeros(there.shape, dtype=np.intp)
    columns[there] = np.nonzero(flags)[1]
    return columns, there


def _repeated(wrong: np.ndarray, finer: int) -> list[np.ndarray]:
    """Jets to do again, a few at a time."""
    rows = np.flatnonzero(wrong) if finer < FINEST else np.empty(0, dtype=np.intp)
    return [rows[start : start + REPEATED_AT_ONCE] for start in range(0, len(rows), REPEATED_AT_ONCE)]


def _replaced(
    found: tuple[np.ndarray, ...], rows: np.ndarray, better: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Padded columns (n, m) with some rows replaced; as wide as the wider of both."""
    width = max(found[0].shape[1], better[0].shape[1])
    low, high, there = (np.pad(old, ((0, 0), (0, width - old.shape[1]))) for old in found)
    for column, new in zip((low, high, there), better, strict=True):
        column[rows] = np.pad(new, ((0, 0), (0, width - new.shape[1])))
    return low, high, there


def _some(distribution: Distribution, rows: np.ndarray) -> Distribution:
    return distribution if len(rows) == len(distribution) else distribution.take(rows)
