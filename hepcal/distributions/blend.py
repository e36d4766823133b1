"""Two families in one density."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hepcal.distributions.base import Distribution, Jets, as_float64
from hepcal.tables.random import RandomByJet

__all__ = ["Blend"]


@dataclass(frozen=True, slots=True, eq=False)
class Blend(Distribution):
    """A share of one distribution and the rest of another, draw by draw and jet by jet.

    Attributes:
        share: Share of the second one, between 0 and 1, shape (S, n).
        first: S distributions for n jets.
        second: The same.

    Raises:
        ValueError: Shapes differ, or a share is not between 0 and 1.
    """

    share: np.ndarray
    first: Distribution
    second: Distribution

    def __post_init__(self) -> None:
        as_float64(self, ("share",), 2)
        shapes = {self.share.shape, *((part.draws, len(part)) for part in (self.first, self.second))}
        if len(shapes) > 1:
            raise ValueError(f"share, first and second need the same draws and jets, found {shapes}")
        if not np.all((self.share >= 0) & (self.share <= 1)):
            raise ValueError("a share lies between 0 and 1")

    @property
    def draws(self) -> int:
        """See :attr:`Distribution.draws`."""
        return len(self.share)

    def __len__(self) -> int:
        return int(self.share.shape[1])

    def means(self) -> np.ndarray:
        """See :meth:`Distribution.means`."""
        first, second = self.first.means(), self.second.means()
        return np.asarray(first + self.share * (second - first))

    def variances(self) -> np.ndarray:
        """See :meth:`Distribution.variances`."""
        apart = self.second.means() - self.first.means()
        within = (1 - self.share) * self.first.variances() + self.share * self.second.variances()
        return np.asarray(within + self.share * (1 - self.share) * apart**2)

    def sample(self, draw: np.ndarray, rng: np.random.Generator | RandomByJet) -> np.ndarray:
        """See :meth:`Distribution.sample`."""
        of_second = rng.random((len(draw), len(self))) < self.share[draw]
        return np.where(of_second, self.second.sample(draw, rng), self.first.sample(draw, rng))

    def take(self, jets: Jets) -> Blend:
        """See :meth:`Distribution.take`."""
        return Blend(self.share[:, jets], self.first.take(jets), self.second.take(jets))

    def affine(self, scale: float | np.ndarray, location: float | np.ndarray = 0.0) -> Blend:
        """See :meth:`Distribution.affine`."""
        return Blend(self.share, self.first.affine(scale, location), self.second.affine(scale, location))

    def moved(self, by: np.ndarray) -> Blend:
        """See :meth:`Distribution.moved`."""
        return Blend(np.broadcast_to(self.share[0], by.shape), self.first.moved(by), self.second.moved(by))

    def _density_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        share = self.share[draw, jets]
        yield from (term * (1 - share) for term in self.first._density_terms(draw, jets, x))
        yield from (term * share for term in self.second._density_terms(draw, jets, x))

    def _slope_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        share = self.share[draw, jets]
        yield from (term * (1 - share) for term in self.first._slope_terms(draw, jets, x))
        yield from (term * share for term in self.second._slope_terms(draw, jets, x))

    def _cdf_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        share = self.share[draw, jets]
        yield from (term * (1 - share) for term in self.first._cdf_terms(draw, jets, x))
        yield from (term * share for term in self.second._cdf_terms(draw, jets, x))
