"""Predictive distributions of n jets for S weight draws: averaged densities, moments and random draws.

Draws are combined by averaging densities, never parameters: the components of a mixture may change places from draw to
draw. Loops run over draws and components and accumulate, so memory does not grow with S. All numbers are float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np

from hepcal.tables.random import RandomByJet

__all__ = ["ROOT_TWO_PI", "Distribution", "Jets", "as_float64", "require_positive"]

ROOT_TWO_PI = float(np.sqrt(2 * np.pi))
# Numbers per working array of an evaluation: a few such arrays fit in the cache of one core.
CACHED = 1 << 13

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
    def sample(self, draw: np.ndarray, rng: np.random.Generator | RandomByJet) -> np.ndarray:
        """Random numbers from the distributions of given draws.

        Args:
            draw: Weight draw of every row, int of shape (size,). A row uses its draw for all jets, which keeps the
                correlation between jets; the noise of each jet is its own.
            rng: Source of random numbers: a generator, or what gives each jet its own.

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
    def moved(self, by: np.ndarray) -> Distribution:
        """The first of the draws, once for each row of ``by`` and moved by it, shape (S', n)."""

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


def as_float64(distribution: Distribution, names: tuple[str, ...], axes: int) -> None:
    """Make parameters float64 arrays of one shape; ``axes`` of it.

    Raises:
        ValueError: Shapes differ, there is no draw, or a number is not finite.
    """
    arrays = [np.asarray(getattr(distribution, name), dtype=np.float64) for name in names]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != axes or 0 in arrays[0].shape[:-1]:
        raise ValueError(f"{', '.join(names)} need one shape with {axes} axes and at least one draw, found {shapes}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"the parameters {', '.join(names)} of a distribution are finite numbers")
    for name, array in zip(names, arrays, strict=True):
        object.__setattr__(distribution, name, array)


def require_positive(name: str, values: float | np.ndarray) -> None:
    """Refuse parameters that are not positive, NaN included."""
    if not np.all(np.asarray(values) > 0):
        raise ValueError(f"{name} of a distribution is positive, found {np.min(values)}")
