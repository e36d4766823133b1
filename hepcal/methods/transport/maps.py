"""Optimal transport in one dimension: the monotone map of one weighted sample onto another, with its statistical error.

This is the map of a *data-based* calibration (arXiv:2205.05084, Eq. 17): h(x) = F_data^-1(F_sim(x)) makes the
distribution of simulated x that of the data. It needs no truth, and it depends on the truth spectrum (Eq. 18): on
another spectrum it is biased. :func:`map_shift` and :func:`predicted_bias` say by how much; neither removes it.

A simulated event is moved, x to h(x), and keeps its weight: the Jacobian belongs to the density, not to the event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepcal.arrays import numbers, unmasked
from hepcal.errors import HepcalError
from hepcal.statistics import monotone

__all__ = ["CumulativeDistribution", "QuantileMap", "TransportError", "predicted_bias", "map_shift"]

# The local slope of the quantile function is taken over windows in logit(q), where tails are nearly straight lines.
GRID = 401
HALF_WIDTHS = 0.02 * 1.25 ** np.arange(40)
WIDE = 0.5
MIN_IN_WINDOW = 30
# Effective number of values that stay outside of a window.
BEYOND = 4
# F over its error, squared, at which a value at the end is left out; at least 1/3 where no weight is negative.
RESOLVED = 0.3
# Of an integral over quantiles.
STEPS = 10_000


class TransportError(HepcalError, ValueError):
    """A sample cannot be mapped, or be mapped to."""


@dataclass(frozen=True, slots=True, eq=False)
class CumulativeDistribution:
    """Cumulative distribution F of a weighted sample, straight lines between its values.

    F at a value is the cumulative weight at mid-step, (sum of the weights up to it - half its own) / sum. Equal values
    are merged.

    Negative weights are merged, not refused, since samples at next-to-leading order have them. They make the
    cumulative weight step back; what is used is the mean of its running maximum from below and its running minimum
    from above. That is monotone, has no preferred direction, is the cumulative weight itself where no weight is
    negative, and differs from it by a few single weights elsewhere. Values that add nothing to it are left out, and at
    the ends those where F is smaller than its own error.

    Attributes:
        values: Distinct values, float64 of shape (k,), strictly rising.
        cumulative: F there, strictly rising within (0, 1).
        variance: Statistical variance of F there, sum over events of (weight below - F weight)² / (sum of weights)²;
            F (1 - F) / n_eff for equal weights.
        n_eff: (sum w)² / sum w² with w the weight of an event: for two jets in each event the number of events.
        slopes: Smoothed dx / dlogit(F) at equal steps in logit(F) from the first to the last value, shape (401,).
    """

    values: np.ndarray
    cumulative: np.ndarray
    variance: np.ndarray
    n_eff: float
    slopes: np.ndarray

    @classmethod
    def of(
        cls, sample: np.ndarray, weight: np.ndarray | None = None, event: np.ndarray | None = None, name: str = "sample"
    ) -> CumulativeDistribution:
        """The distribution of a sample.

        Args:
            sample: Shape (n,), finite.
            weight: Shape (n,), of either sign; default one.
            event: Ids of shape (n,): values of one event are not independent, and count once in the statistical
                error. Default: all independent.
            name: What to call it in errors.

        Raises:
            TransportError: Shapes disagree, a number is not finite, the weights do not sum to a positive number, or
                there are not two distinct values.
        """
        x, w = _checked(sample, weight, name)
        events = np.arange(len(x)) if event is None else unmasked(f"events of the {name}", event)
        if events.shape != x.shape:
            raise TransportError(f"{name}: {len(x)} values but event ids of shape {events.shape}")
        values, place = np.unique(x, return_inverse=True)
        total = w.sum()
        steps = [np.bincount(place, jumps, len(values)) / total**p for p, jumps in _jumps(x, w, events)]
        kept = _monotone(steps[0])
        cumulative = _middle(kept)
        # Sums over events of (weight below)², (weight below)(weight) and weight², the last one a constant.
        below, mixed, squares = _middle(steps[1]), _middle(steps[2]), steps[2].sum()
        variance = np.maximum(below - 2 * cumulative * mixed + cumulative**2 * squares, 0)
        nearer_end = np.minimum(cumulative, 1 - cumulative)
        use = (kept > 0) & (np.diff(cumulative, prepend=0) > 0) & (nearer_end**2 > RESOLVED * variance)
        if np.count_nonzero(use) < 2:
            raise TransportError(f"{name}: {len(x)} values without two distinct ones of positive weight")
        sums = values[use], cumulative[use], np.cumsum(steps[3])[use]
        beyond = np.flatnonzero(nearer_end[use] ** 2 > BEYOND * variance[use])
        logits = _logit(sums[1])
        inner = logits[beyond[[0, -1]]] if len(beyond) > 1 else logits[[0, -1]]
        slopes = _slopes(logits, sums, inner, float(1 / steps[3].sum()))
        return cls(*sums[:2], variance[use], float(1 / squares), slopes)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """F, clamped to its value at the ends."""
        return np.asarray(np.interp(numbers("x", x), self.values, self.cumulative))

    def quantile(self, q: np.ndarray) -> np.ndarray:
        """The x at which F is q, clamped to the range of the values."""
        return np.asarray(np.interp(numbers("q", q), self.cumulative, self.values))

    def density(self, x: np.ndarray) -> np.ndarray:
        """Smoothed dF/dx, in one over the unit of x; outside of the values that of the nearest.

        It is F (1 - F) over the slope of x in logit(F), taken over a window around x that holds n_eff^(4/5) values,
        but not wider than 1/2 to each side unless it holds less than 30.
        """
        q = self(x)
        low, high = _logit(self.cumulative[[0, -1]]).tolist()
        slope = np.interp(_logit(q), np.linspace(low, high, GRID), self.slopes)
        return np.asarray(q * (1 - q) / slope)


@dataclass(frozen=True, slots=True, eq=False)
class QuantileMap:
    """h(x) = F_data^-1(F_sim(x)), the monotone map of the simulated onto the data distribution.

    Attributes:
        simulation: Distribution of the simulated x.
        data: Distribution of the x in data.
    """

    simulation: CumulativeDistribution
    data: CumulativeDistribution

    @classmethod
    def fit(
        cls, simulation: np.ndarray, data: np.ndarray, simulation_weight: np.ndarray | None = None,
        data_weight: np.ndarray | None = None, *, simulation_event: np.ndarray | None = None,
        data_event: np.ndarray | None = None,
    ) -> QuantileMap:  # fmt: skip
        """The map of two samples; normalisations do not matter.

        Args:
            simulation: Simulated values, shape (n,).
            data: Values in data, shape (m,), in the same unit.
            simulation_weight: Shape (n,), of either sign (see :class:`CumulativeDistribution`); default one.
            data_weight: Shape (m,); default one.
            simulation_event: Event ids of shape (n,), so that the error knows which values are not independent.
            data_event: The same in data, shape (m,).

        Raises:
            TransportError: A sample cannot be used; says which and why.
        """
        return cls(
            CumulativeDistribution.of(simulation, simulation_weight, simulation_event, "simulation"),
            CumulativeDistribution.of(data, data_weight, data_event, "data"),
        )

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest x that the map resolves.

        The range of the simulated values, without those beyond the smallest and largest quantile of the data.
        """
        low = max(self.simulation.cumulative[0], self.data.cumulative[0])
        high = min(self.simulation.cumulative[-1], self.data.cumulative[-1])
        return float(self.simulation.quantile(low)), float(self.simulation.quantile(high))

    def out_of_range(self, x: np.ndarray) -> np.ndarray:
        """Whether x lies outside of :attr:`range`, where the map is its value at the end; bool of the shape of x."""
        low, high = self.range
        return ~((np.asarray(x) >= low) & (np.asarray(x) <= high))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """h(x), float64 of the shape of x; clamped outside of :attr:`range`."""
        return self.data.quantile(self.simulation(x))

    def error(self, x: np.ndarray) -> np.ndarray:
        """Statistical error of h(x): that of F of both samples in quadrature, over the smoothed density of the data.

        For equal weights sqrt(q (1 - q) (1 / n_eff,sim + 1 / n_eff,data)) / p_data(h) at the quantile q.
        """
        h = self(x)
        terms = ((self.simulation, x), (self.data, h))
        variance = sum(np.interp(at, of.values, of.variance) for of, at in terms)
        return np.asarray(np.sqrt(variance) / self.data.density(h))

    def slope(self, x: np.ndarray) -> np.ndarray:
        """h'(x) = p_sim(x) / p_data(h(x)) (arXiv:2205.05084, Eq. 18) from the smoothed densities; not zero outside."""
        return np.asarray(self.simulation.density(x) / self.data.density(self(x)))

    def inverse(self) -> QuantileMap:
        """The map of data onto simulation: the exact inverse within :attr:`range`."""
        return QuantileMap(self.data, self.simulation)

    def distance(self) -> float:
        """Mean distance of equal quantiles of the two samples, their Wasserstein distance of order one."""
        q = (np.arange(STEPS) + 0.5) / STEPS
        return float(np.mean(np.abs(self.data.quantile(q) - self.simulation.quantile(q))))

    def knots(self, count: int = 2000) -> tuple[np.ndarray, np.ndarray]:
        """Points (x, h) between which straight lines stand for the map, shape (<= count,) each, x rising.

        Most are equally spaced in arcsin sqrt(q), that is in units of the statistical error of the quantile q; a
        quarter is so in logit(q), and the outermost ones (8 %) are values of the samples: so both tails are followed.
        """
        ends, outer = self.simulation(np.array(self.range)), count // 50
        angles = _inner(np.arcsin(np.sqrt(ends)), count - count // 4 - 4 * outer - 2)
        steps = [np.sin(angles) ** 2, 1 / (1 + np.exp(-_inner(_logit(ends), count // 4)))]
        for of in (self.simulation, self.data):
            inside = of.cumulative[(of.cumulative > ends[0]) & (of.cumulative < ends[1])]
            steps += [inside[:outer], inside[len(inside) - min(outer, len(inside)) :]]
        q = np.unique(np.concatenate([ends, *steps]))
        x, first = np.unique(self.simulation.quantile(q), return_index=True)
        return x, self.data.quantile(q[first])


def map_shift(one: QuantileMap, other: QuantileMap, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference one(x) - other(x) of the maps of two truth spectra, and its statistical error.

    The diagnostic of a data-based calibration: no prior-independent one is known (arXiv:2205.05084, Sec. II.E). Errors
    are added in quadrature, which is too much for maps that share events.

    Args:
        one: Map derived with one spectrum.
        other: Map derived with the other.
        x: Simulated values, shape (n,).

    Returns:
        Shift and error, float64 of shape (n,) each.
    """
    return one(x) - other(x), np.hypot(one.error(x), other.error(x))


def predicted_bias(train: QuantileMap, test: QuantileMap, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bias h_train(h_test^-1(y)) - y of a map on another spectrum, and its statistical error.

    It is conditional on the detector-level target y, since data have no truth (arXiv:2205.05084, Eq. 19).

    Args:
        train: Map derived with the spectrum of the training.
        test: Map that is right for the spectrum it is applied to.
        y: Values that are right, shape (n,).

    Returns:
        Bias and error, float64 of shape (n,) each. Errors are added in quadrature, which is too much for maps that
        share events.
    """
    back = test.inverse()
    x = back(y)
    return train(x) - y, np.hypot(train.error(x), train.slope(x) * back.error(y))


def _checked(sample: np.ndarray, weight: np.ndarray | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights as float64, refused if they make no distribution."""
    x = numbers(name, sample)
    w = np.ones_like(x) if weight is None else numbers(f"weights of the {name}", weight)
    if x.ndim != 1 or w.shape != x.shape:
        raise TransportError(f"{name}: expected values and weights of one shape (n,), found {x.shape} and {w.shape}")
    for what, found in (("values", x), ("weights", w)):
        if not np.isfinite(found).all():
            raise TransportError(f"{name}: {np.sum(~np.isfinite(found))} of {len(x)} {what} are NaN or infinite")
    if not w.sum() > 0:
        raise TransportError(f"{name}: the weights of {len(x)} values sum to {w.sum():g}")
    return x, w


def _jumps(x: np.ndarray, w: np.ndarray, event: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """By how much sums step up at each value: powers of the weight, and steps of shape (n,).

    With G the weight of an event at or below x and W all of its weight: the sums over events of G, G², G W, and the
    sum over values of w².
    """
    order = np.lexsort((x, event))
    _, first, counts = np.unique(event[order], return_index=True, return_counts=True)
    running = np.cumsum(w[order])
    before = np.repeat(running[first] - w[order][first], counts)
    up_to, whole = np.empty_like(w), np.empty_like(w)
    up_to[order] = running - before
    whole[order] = np.repeat(np.add.reduceat(w[order], first), counts)
    return [(1, w), (2, w * (2 * up_to - w)), (2, w * whole), (2, w * w)]


def _monotone(steps: np.ndarray) -> np.ndarray:
    """Steps >= 0 of the mean of running maximum and running minimum of the cumulative sum, which ends at one."""
    if (steps >= 0).all():
        return steps
    cumulative = np.clip(np.concatenate([[0], np.cumsum(steps)[:-1], [1]]), 0, 1)
    return np.diff(monotone(cumulative))


def _middle(steps: np.ndarray) -> np.ndarray:
    """Cumulative sum at the middle of each step."""
    return np.asarray(np.cumsum(steps) - steps / 2)


def _inner(ends: np.ndarray, count: int) -> np.ndarray:
    """So many equal steps between two ends, without these."""
    return np.linspace(float(ends[0]), float(ends[1]), count + 2)[1:-1]


def _logit(q: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(q / (1 - q)))


def _slopes(logits: np.ndarray, sums: tuple[np.ndarray, ...], inner: np.ndarray, n_eff: float) -> np.ndarray:
    """Smoothed dx / dlogit(F) at GRID points from the first to the last value.

    Args:
        logits: logit(F) at the values, shape (k,).
        sums: At each value x itself, F, and the sum of w² up to it over (sum w)².
        inner: First and last logit that may end a window: the outermost values would make the slope, and with it the
            error, depend on their own fluctuations.
        n_eff: Of the values.
    """
    grid = np.linspace(logits[0], logits[-1], GRID)
    slopes, todo = np.full(GRID, np.nan), np.arange(GRID)
    for half in HALF_WIDTHS:
        low, high = (np.clip(grid[todo] + sign * half, *inner) for sign in (-1, 1))
        ends = [[np.interp(at, logits, of) for of in sums] for at in (low, high)]
        x, share, square = (above - below for below, above in zip(*ends, strict=True))
        there = high > low
        slopes[todo[there]] = x[there] / (high - low)[there]
        inside = share**2 / np.maximum(square, np.finfo(float).tiny)
        todo = todo[~there | (inside < n_eff**0.8) & ((half < WIDE) | (inside < MIN_IN_WINDOW))]
        if not len(todo):
            break
    return slopes
