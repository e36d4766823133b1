"""A distribution whose place has an error: draws of it for what jets have in common, their average for one jet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hepcal.distributions.base import Distribution, Jets
from hepcal.distributions.mixture import NormalMixture
from hepcal.tables.random import RandomByJet

__all__ = ["Drawn", "blurred", "displaced"]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn(Distribution):
    """S draws of a distribution, and what they are draws of.

    Densities, intervals and quantiles are those of ``average``, means and random numbers those of the draws.

    Attributes:
        each: S distributions for n jets.
        average: One for each jet.

    Raises:
        ValueError: They are of different jets, or the average is not one distribution.
    """

    each: Distribution
    average: Distribution

    def __post_init__(self) -> None:
        if self.average.draws != 1 or len(self.average) != len(self.each):
            raise ValueError("the average of draws is one distribution for each of the same jets")

    @property
    def draws(self) -> int:
        """See :attr:`Distribution.draws`."""
        return self.each.draws

    def __len__(self) -> int:
        return len(self.each)

    def means(self) -> np.ndarray:
        """See :meth:`Distribution.means`."""
        return self.each.means()

    def variances(self) -> np.ndarray:
        """See :meth:`Distribution.variances`."""
        return self.each.variances()

    def sample(self, draw: np.ndarray, rng: np.random.Generator | RandomByJet) -> np.ndarray:
        """See :meth:`Distribution.sample`."""
        return self.each.sample(draw, rng)

    def take(self, jets: Jets) -> Drawn:
        """See :meth:`Distribution.take`."""
        return Drawn(self.each.take(jets), self.average.take(jets))

    def affine(self, scale: float | np.ndarray, location: float | np.ndarray = 0.0) -> Drawn:
        """See :meth:`Distribution.affine`."""
        return Drawn(self.each.affine(scale, location), self.average.affine(scale, location))

    def moved(self, by: np.ndarray) -> Distribution:
        """See :meth:`Distribution.moved`."""
        return self.each.moved(by)

    def density(self, points: np.ndarray) -> np.ndarray:
        """See :meth:`Distribution.density`."""
        return self.average.density(points)

    def slope(self, points: np.ndarray) -> np.ndarray:
        """See :meth:`Distribution.slope`."""
        return self.average.slope(points)

    def cdf(self, points: np.ndarray) -> np.ndarray:
        """See :meth:`Distribution.cdf`."""
        return self.average.cdf(points)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Distribution.moments`."""
        return self.average.moments()

    def _density_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        return self.each._density_terms(draw, jets, x)

    def _slope_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        return self.each._slope_terms(draw, jets, x)

    def _cdf_terms(self, draw: int, jets: slice, x: np.ndarray) -> Iterator[np.ndarray]:
        return self.each._cdf_terms(draw, jets, x)


def displaced(one: Distribution, by: np.ndarray) -> Distribution:
    """A distribution for each jet, moved by ``by`` (S, n) in S draws, which sum to zero.

    For one jet, all draws together are :func:`blurred`.
    """
    each = one.moved(by)
    return each if (average := blurred(one, by)) is None else Drawn(each, average)


def blurred(one: Distribution, by: np.ndarray) -> NormalMixture | None:
    """What the draws of :func:`displaced` are draws of, where it is known in closed form.

    Gaussians are broadened by the standard deviation (S - 1) of ``by``; of others the draws are all that there is.
    """
    if not isinstance(one, NormalMixture):
        return None
    return one.broadened(np.sqrt(np.square(by, dtype=np.float64).sum(0) / (len(by) - 1)))
