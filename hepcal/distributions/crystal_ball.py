"""Gaussian cores with power-law tails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from hepcal.distributions.base import ROOT_TWO_PI, Distribution, Jets, as_float64, require_positive
from hepcal.tables.random import RandomByJet

__all__ = ["CrystalBall"]


@dataclass(frozen=True, slots=True, eq=False)
class CrystalBall(Distribution):
    """Double-sided Crystal Balls: Gaussian cores with a power-law tail on each side, arrays of shape (S, n).

    With z = (x - peak)/sigma the density goes as exp(-z²/2) for -low < z < high; a distance d beyond a knee a it goes
    as exp(-a²/2) (1 + a d/n)^-n with the power n of that side (J. Gaiser, SLAC-R-255 (1982), Appendix F, for one
    side). Value and slope are continuous. Large powers are exponential tails, late knees a Gaussian.

    Attributes:
        peak: Position of the maximum.
        sigma: Width of the core.
        low: Distance of the lower knee from the peak, in units of sigma.
        high: The same for the upper knee.
        low_power: Power of the lower tail, above 3, so that the variance exists.
        high_power: The same for the upper tail.

    Raises:
        ValueError: Shapes differ, sigma, low or high is not positive, or a power is not above 3.
    """

    peak: np.ndarray
    sigma: np.ndarray
    low: np.ndarray
    high: np.ndarray
    low_power: np.ndarray
    high_power: np.ndarray

    def __post_init__(self) -> None:
        as_float64(self, self.__slots__, 2)
        for name in ("sigma", "low", "high"):
            require_positive(name, getattr(self, name))
        for name in ("low_power", "high_power"):
            require_positive(f"{name} - 3", getattr(self, name) - 3)

    @property
    def draws(self) -> int:
        """See :attr:`Distribution.draws`."""
        return len(self.peak)

    def __len__(self) -> int:
        return int(self.peak.shape[1])

    def means(self) -> np.ndarray:
        """See :meth:`Distribution.means`."""
        return np.asarray(self.peak + self.sigma * self._standard_moments()[0])

    def variances(self) -> np.ndarray:
        """See :meth:`Distribution.variances`."""
        mean, square = self._standard_moments()
        return np.asarray(self.sigma**2 * (square - mean**2))

    def sample(self, draw: np.ndarray, rng: np.random.Generator | RandomByJet) -> np.ndarray:
        """See :meth:`Distribution.sample`."""
        low, core, high = (area[draw] for area in self._areas(slice(None), slice(None)))
        where = rng.random(low.shape) * (low + core + high)
        start, end = self.low[draw], self.high[draw]
        # Kept off 0 and 1, where the inverse is infinite; the step is one in 1e16.
        middle = np.clip(ndtr(-start) + (where - low) / ROOT_TWO_PI, 1e-16, 1 - 1e-16)
        z = np.clip(ndtri(middle), -start, end)
        rest = np.maximum(rng.random(low.shape), 1e-300)
        lower, upper = self.low_power[draw], self.high_power[draw]
        z = np.where(where < low, -start - lower / start * (rest ** (1 / (1 - lower)) - 1), z)
        z = np.where(where > low + core, end + upper / end * (rest ** (1 / (1 - upper)) - 1), z)
        return np.asarray(self.peak[draw] + self.sigma[draw] * z)

    def take(self, jets: Jets) -> CrystalBall:
        """See :meth:`Distribution.take`."""
        return CrystalBall(*(getattr(self, name)[:, jets] for name in self.__slots__))

    def affine(self, scale: float | np.ndarray, location: float | np.ndarray = 0.0) -> CrystalBall:
        """See :meth:`Distribution.affine`."""
        require_positive("scale", scale)
        shape = self.low, self.high, self.low_power, self.high_power
        return CrystalBall(self.peak * scale + location, self.sigma * scale, *shape)

    def moved(self, by: np.ndarray) -> CrystalBall:
        """See :meth:`Distribution.moved`."""
        rest = (np.broadcast_to(getattr(self, name)[0], by.shape) for name in self.__slots__[1:])
        return CrystalBall(self.peak[0] + by, *rest)

    def _standard_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Expected z and z²."""
        _, core, _ = areas = self._areas(slice(None), slice(None))
        low, high = _tail(self.low, self.low_power), _tail(self.high, self.high_power)
        edges = np.exp(-0.5 * self.low**2), np.exp(-0.5 * self.high**2)
        mean = edges[0] - edges[1] + high[0] - low[0]
        square = core - self.low * edges[0] - self.high * edges[1] + low[1] + high[1]
        return mean / sum(areas), square / sum(areas)

    def _areas(self, draw: int | slice, jets: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Integrals of the lower tail, core and upper tail before normalisation, in units of sigma."""
        low, high = self.low[draw, jets], self.high[draw, jets]
        core = ROOT_TWO_PI * (ndtr(high) - ndtr(-low))
        return _tail_area(low, self.low_power[draw, jets]), core, _tail_area(high, self.high_power[draw, jets])

    def _density_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        yield self._height(draw, jets, x)[0]

    def _slope_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        height, steepness = self._height(draw, jets, x)
        yield height * steepness / -self.sigma[draw, jets]

    def _height(self, draw: int, jets: slice, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Density of one draw, and minus its logarithmic derivative by z."""
        z = (x - self.peak[draw, jets]) / self.sigma[draw, jets]
        t = np.clip(z, -self.low[draw, jets], self.high[draw, jets])
        power = np.where(z < 0, self.low_power[draw, jets], self.high_power[draw, jets])
        beyond = np.abs(t) * np.abs(z - t) / power
        height = np.exp(-0.5 * t * t - power * np.log1p(beyond))
        return height / (sum(self._areas(draw, jets)) * self.sigma[draw, jets]), t / (1 + beyond)

    def _cdf_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        low, high = self.low[draw, jets], self.high[draw, jets]
        lower, upper = self.low_power[draw, jets], self.high_power[draw, jets]
        z = (x - self.peak[draw, jets]) / self.sigma[draw, jets]
        areas = self._areas(draw, jets)
        below = areas[0] * _beyond(-low - z, low, lower)
        within = ROOT_TWO_PI * (ndtr(np.clip(z, -low, high)) - ndtr(-low))
        above = areas[2] * (1 - _beyond(z - high, high, upper))
        yield (below + within + above) / sum(areas)


def _beyond(distance: np.ndarray, knee: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Share of a tail further than a distance from its knee."""
    return np.asarray(np.exp((1 - power) * np.log1p(knee * np.maximum(distance, 0) / power)))


def _tail_area(knee: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Integral of a tail before normalisation, in units of sigma."""
    return np.asarray(np.exp(-0.5 * knee**2) * power / (knee * (power - 1)))


def _tail(knee: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integrals of |z| and z² over a tail before normalisation."""
    area, stretch = _tail_area(knee, power), power / knee
    first = stretch / (power - 2)
    second = 2 * stretch**2 / ((power - 2) * (power - 3))
    return area * (knee + first), area * (knee**2 + 2 * knee * first + second)
