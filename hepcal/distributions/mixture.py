"""Mixtures of Gaussians."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from hepcal.distributions.base import ROOT_TWO_PI, Distribution, Jets, as_float64, require_positive
from hepcal.tables.random import RandomByJet

__all__ = ["NormalMixture"]

# Float32 shares may miss one by rounding; more is a mistake.
SHARE_TOLERANCE = 1e-5


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
        as_float64(self, ("share", "mean", "sigma"), 3)
        total = self.share.sum(axis=1, keepdims=True)
        if not (np.all(self.share >= 0) and np.all(np.abs(total - 1) <= SHARE_TOLERANCE)):
            raise ValueError("the shares of a mixture are positive and sum to one over its components")
        require_positive("sigma", self.sigma)
        # Only what float32 rounding left over is corrected: shares that are right keep their bits.
        object.__setattr__(self, "share", np.where(np.abs(total - 1) > 1e-12, self.share / total, self.share))

    @classmethod
    def gaussian(cls, mean: np.ndarray, sigma: np.ndarray) -> NormalMixture:
        """One Gaussian per draw and jet, shape (S, n) each.

        >>> mixture = NormalMixture.gaussian([[100.0], [102.0]], [[8.0], [8.0]])  # one jet, two draws
        >>> mixture.means().tolist()
        [[100.0], [102.0]]
        """
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

    def sample(self, draw: np.ndarray, rng: np.random.Generator | RandomByJet) -> np.ndarray:
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
        require_positive("scale", scale)
        return NormalMixture(self.share, self.mean * scale + location, self.sigma * scale)

    def moved(self, by: np.ndarray) -> NormalMixture:
        """See :meth:`Distribution.moved`."""
        shape = (len(by), *self.mean.shape[1:])
        share, sigma = (np.broadcast_to(part[0], shape) for part in (self.share, self.sigma))
        return NormalMixture(share, self.mean[0] + by[:, None], sigma)

    def broadened(self, sigma: np.ndarray) -> NormalMixture:
        """The distributions of x plus independent Gaussian noise of standard deviation ``sigma`` (n,)."""
        return NormalMixture(self.share, self.mean, np.sqrt(self.sigma**2 + np.square(sigma, dtype=np.float64)))

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


def _bell(z: np.ndarray) -> np.ndarray:
    """exp(-z²/2)."""
    height = z * z
    height *= -0.5
    return np.asarray(np.exp(height, out=height))
