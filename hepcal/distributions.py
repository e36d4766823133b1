"""Predictive distributions of n jets for S weight draws: averaged densities, moments and random draws.

Draws are combined by averaging densities, never parameters: the components of a mixture may change places from draw to
draw. Loops run over draws and components and accumulate, so memory does not grow with S. All numbers are float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

__all__ = ["Distribution", "ExponentialTails", "NormalMixture"]

ROOT_TWO_PI = float(np.sqrt(2 * np.pi))
# Numbers per working array of an evaluation: a few such arrays fit in the cache of one core.
CACHED = 1 << 13
# Float32 shares may miss one by rounding; more is a mistake.
SHARE_TOLERANCE = 1e-5

Jets = slice | np.ndarray
Terms = Callable[[int, slice, np.ndarray], Iterator[np.ndarray]]


class Distribution(ABC):
    """S predictive distributions (one per weight draw) of each of n jets."""

    __slots__ = ()

    @property
    @abstractmethod
    def draws(self) -> int:
        """Number of weight draws S."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of jets n."""

    @abstractmethod
    def means(self) -> np.ndarray:
        """Mean of every draw, shape (S, n)."""

    @abstractmethod
    def variances(self) -> np.ndarray:
        """Variance of every draw, shape (S, n)."""

    @abstractmethod
    def sample(self, draw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random numbers from the distributions of given draws.

        Args:
            draw: Weight draw of every row, int of shape (size,). A row uses its draw for all jets, which keeps the
                correlation between jets; the noise of each jet is its own.
            rng: Source of random numbers.

        Returns:
            Shape (size, n).
        """

    @abstractmethod
    def take(self, jets: Jets) -> Distribution:
        """The distributions of some jets, chosen by a slice or an int array."""

    @abstractmethod
    def affine(self, scale: float | np.ndarray, location: float | np.ndarray = 0.0) -> Distribution:
        """The distributions of ``scale * x + location``, each a number or of shape (n,).

        Raises:
            ValueError: A scale is not positive.
        """

    @abstractmethod
    def _density_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        """Terms whose sum is the density of one draw at x, shape (points, jets)."""

    @abstractmethod
    def _slope_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        """The same for the derivative of the density."""

    @abstractmethod
    def _cdf_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        """The same for the cumulative distribution."""

    def density(self, points: np.ndarray) -> np.ndarray:
        """Density at points (n, p), averaged over the draws, shape (n, p)."""
        return self._average(self._density_terms, points)

    def slope(self, points: np.ndarray) -> np.ndarray:
        """Derivative of the averaged density at points (n, p), shape (n, p)."""
        return self._average(self._slope_terms, points)

    def cdf(self, points: np.ndarray) -> np.ndarray:
        """Probability below points (n, p), averaged over the draws, shape (n, p)."""
        # Rounding of the average may step over one by its last bit.
        return np.asarray(np.minimum(self._average(self._cdf_terms, points), 1))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the averaged distribution, shape (n,) each, by the law of total variance.

        The draws are the distribution here, not a sample of it: the variance of their means is divided by S.
        """
        means = self.means()
        center = means.mean(axis=0)
        return center, self.variances().mean(axis=0) + ((means - center) ** 2).mean(axis=0)

    def _average(self, terms: Terms, points: np.ndarray) -> np.ndarray:
        """Mean over the draws of sums of terms."""
        # Jets are the last axis inside, so that loops are long for few points.
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or len(points) != len(self):
            raise ValueError(f"expected points of shape ({len(self)}, p), found {points.shape}")
        total = np.zeros(points.shape[::-1])
        block = max(CACHED // max(points.shape[1], 1), 64)
        for start in range(0, len(self), block):
            jets = slice(start, start + block)
            x = np.ascontiguousarray(points[jets].T)
            part = np.zeros_like(x)
            for draw in range(self.draws):
                for term in terms(draw, jets, x):
                    part += term
            total[:, jets] = part
        total /= self.draws
        return total.T


@dataclass(frozen=True, slots=True, eq=False)
class NormalMixture(Distribution):
    """Mixtures of K Gaussians (arXiv:2003.11099, Eqs. 16-17), arrays of shape (S, K, n); K = 1 is the Gaussian.

    Attributes:
        share: Weight of each component, sums to one over K.
        mean: Its mean.
        sigma: Its standard deviation.

    Raises:
        ValueError: Shapes differ, a share is negative, shares do not sum to one, or a sigma is not positive.
    """

    share: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray

    def __post_init__(self) -> None:
        _as_float64(self, ("share", "mean", "sigma"), 3)
        total = self.share.sum(axis=1, keepdims=True)
        if not (np.all(self.share >= 0) and np.all(np.abs(total - 1) <= SHARE_TOLERANCE)):
            raise ValueError("the shares of a mixture are positive and sum to one over its components")
        _require_positive("sigma", self.sigma)
        # Only what float32 rounding left over is corrected: shares that are right keep their bits.
        object.__setattr__(self, "share", np.where(np.abs(total - 1) > 1e-12, self.share / total, self.share))

    @classmethod
    def gaussian(cls, mean: np.ndarray, sigma: np.ndarray) -> NormalMixture:
        """One Gaussian per draw and jet, shape (S, n) each."""
        return cls(np.ones((len(mean), 1, *np.shape(mean)[1:])), np.asarray(mean)[:, None], np.asarray(sigma)[:, None])

    @property
    def draws(self) -> int:
        """See :attr:`Distribution.draws`."""
        return len(self.mean)

    def __len__(self) -> int:
        return int(self.mean.shape[2])

    def means(self) -> np.ndarray:
        """See :meth:`Distribution.means`."""
        return np.asarray((self.share * self.mean).sum(axis=1))

    def variances(self) -> np.ndarray:
        """See :meth:`Distribution.variances`."""
        # Around the mean: <x²> - <x>² cancels when the mean is many widths from zero.
        return np.asarray((self.share * (self.sigma**2 + (self.mean - self.means()[:, None]) ** 2)).sum(axis=1))

    def sample(self, draw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See :meth:`Distribution.sample`."""
        mean, sigma = self.mean[draw, 0], self.sigma[draw, 0]
        ahead = self.share.cumsum(axis=1)
        where = rng.random(mean.shape)
        for component in range(1, self.mean.shape[1]):
            chosen = where >= ahead[draw, component - 1]
            mean = np.where(chosen, self.mean[draw, component], mean)
            sigma = np.where(chosen, self.sigma[draw, component], sigma)
        return np.asarray(mean + sigma * rng.standard_normal(mean.shape))

    def take(self, jets: Jets) -> NormalMixture:
        """See :meth:`Distribution.take`."""
        return NormalMixture(self.share[..., jets], self.mean[..., jets], self.sigma[..., jets])

    def affine(self, scale: float | np.ndarray, location: float | np.ndarray = 0.0) -> NormalMixture:
        """See :meth:`Distribution.affine`."""
        _require_positive("scale", scale)
        return NormalMixture(self.share, self.mean * scale + location, self.sigma * scale)

    def _density_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        for z, share, sigma in self._components(draw, jets, x):
            yield _bell(z) * (share / (ROOT_TWO_PI * sigma))

    def _slope_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        for z, share, sigma in self._components(draw, jets, x):
            yield _bell(z) * z * (-share / (ROOT_TWO_PI * sigma**2))

    def _cdf_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        for z, share, _ in self._components(draw, jets, x):
            yield ndtr(z, out=z) * share

    def _components(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for share, mean, sigma in zip(
            self.share[draw, :, jets], self.mean[draw, :, jets], self.sigma[draw, :, jets], strict=True
        ):
            z = x - mean
            z /= sigma
            yield z, share, sigma


@dataclass(frozen=True, slots=True, eq=False)
class ExponentialTails(Distribution):
    """Gaussian cores with an exponential tail on each side (arXiv:1603.08591), arrays of shape (S, n).

    With z = (x - peak)/sigma the density goes as exp(low²/2 + low z) below z = -low, as exp(-z²/2) up to z = high and
    as exp(high²/2 - high z) above: value and slope are continuous. In closed form with t = z limited to [-low, high]
    the exponent is t²/2 - t z everywhere, and its derivative is -t.

    Attributes:
        peak: Position of the maximum.
        sigma: Width of the core.
        low: Distance of the lower tail from the peak, in units of sigma; also its slope. Large values are a Gaussian.
        high: The same for the upper tail.

    Raises:
        ValueError: Shapes differ, or sigma, low or high is not positive.
    """

    peak: np.ndarray
    sigma: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __post_init__(self) -> None:
        _as_float64(self, ("peak", "sigma", "low", "high"), 2)
        for name in ("sigma", "low", "high"):
            _require_positive(name, getattr(self, name))

    @property
    def draws(self) -> int:
        """See :attr:`Distribution.draws`."""
        return len(self.peak)

    def __len__(self) -> int:
        return int(self.peak.shape[1])

    def means(self) -> np.ndarray:
        """See :meth:`Distribution.means`."""
        return np.asarray(self.peak + self.sigma * self._standard_mean())

    def variances(self) -> np.ndarray:
        """See :meth:`Distribution.variances`."""
        low, core, high = _areas(self.low, self.high)
        square = core + 2 * low * (1 + 1 / self.low**2) + 2 * high * (1 + 1 / self.high**2)
        return np.asarray(self.sigma**2 * (square / (low + core + high) - self._standard_mean() ** 2))

    def sample(self, draw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See :meth:`Distribution.sample`."""
        low, core, high = (area[draw] for area in _areas(self.low, self.high))
        where = rng.random(low.shape) * (low + core + high)
        start, end = self.low[draw], self.high[draw]
        # Kept off 0 and 1, where the inverse is infinite; the step is one in 1e16.
        middle = np.clip(ndtr(-start) + (where - low) / ROOT_TWO_PI, 1e-16, 1 - 1e-16)
        z = np.clip(ndtri(middle), -start, end)
        tail = rng.standard_exponential(low.shape)
        z = np.where(where < low, -start - tail / start, z)
        z = np.where(where > low + core, end + tail / end, z)
        return np.asarray(self.peak[draw] + self.sigma[draw] * z)

    def take(self, jets: Jets) -> ExponentialTails:
        """See :meth:`Distribution.take`."""
        return ExponentialTails(self.peak[:, jets], self.sigma[:, jets], self.low[:, jets], self.high[:, jets])

    def affine(self, scale: float | np.ndarray, location: float | np.ndarray = 0.0) -> ExponentialTails:
        """See :meth:`Distribution.affine`."""
        _require_positive("scale", scale)
        return ExponentialTails(self.peak * scale + location, self.sigma * scale, self.low, self.high)

    def _standard_mean(self) -> np.ndarray:
        low, core, high = _areas(self.low, self.high)
        return np.asarray((high / self.high - low / self.low) / (low + core + high))

    def _density_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        yield self._height(draw, jets, x)[0]

    def _slope_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        height, limited = self._height(draw, jets, x)
        yield height * limited / -self.sigma[draw, jets]

    def _height(self, draw: int, jets: slice, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Density of one draw, and t."""
        sigma, low, high = self.sigma[draw, jets], self.low[draw, jets], self.high[draw, jets]
        z = (x - self.peak[draw, jets]) / sigma
        t = np.clip(z, -low, high)
        return np.exp(t * (0.5 * t - z)) / (sum(_areas(low, high)) * sigma), t

    def _cdf_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        low, high = self.low[draw, jets], self.high[draw, jets]
        z = (x - self.peak[draw, jets]) / self.sigma[draw, jets]
        lower, core, upper = _areas(low, high)
        below = np.exp(low * (0.5 * low + np.minimum(z, -low))) / low
        within = ROOT_TWO_PI * (ndtr(np.clip(z, -low, high)) - ndtr(-low))
        above = upper - np.exp(high * (0.5 * high - np.maximum(z, high))) / high
        yield (below + within + above) / (lower + core + upper)


def _areas(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integrals of the lower tail, core and upper tail before normalisation, in units of sigma."""
    core = ROOT_TWO_PI * (ndtr(high) - ndtr(-low))
    return np.exp(-0.5 * low**2) / low, core, np.exp(-0.5 * high**2) / high


def _bell(z: np.ndarray) -> np.ndarray:
    """exp(-z²/2)."""
    height = z * z
    height *= -0.5
    return np.asarray(np.exp(height, out=height))


def _as_float64(distribution: Distribution, names: tuple[str, ...], axes: int) -> None:
    arrays = [np.asarray(getattr(distribution, name), dtype=np.float64) for name in names]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != axes or 0 in arrays[0].shape[:-1]:
        raise ValueError(f"{', '.join(names)} need one shape with {axes} axes and at least one draw, found {shapes}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"the parameters {', '.join(names)} of a distribution are finite numbers")
    for name, array in zip(names, arrays, strict=True):
        object.__setattr__(distribution, name, array)


def _require_positive(name: str, values: float | np.ndarray) -> None:
    if not np.all(np.asarray(values) > 0):
        raise ValueError(f"{name} of a distribution is positive, found {np.min(values)}")
