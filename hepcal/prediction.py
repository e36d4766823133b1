"""Prediction: a distribution of the true p_T per jet, its moments and its split into uncertainties.

Everything is combined here and only here: variances add, standard deviations do not, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hepcal.errors import HepcalError

__all__ = ["Prediction", "combine_draws", "in_quadrature"]

# Points of the grid on which densities are searched, and its reach in units of sigma_tot.
GRID_POINTS = 241
GRID_REACH = 6.0
JETS_AT_ONCE = 4096
# Halvings of the height in which the ends of an interval are searched.
BISECTIONS = 25

Replicas = Callable[[slice], tuple[np.ndarray, np.ndarray]]


class NoDensityError(HepcalError, TypeError):
    """A method that predicts a number only was asked for a distribution."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Calibrated p_T of n jets with uncertainties, all in GeV, float32 of shape (n,).

    Attributes:
        mean: The value attached as ``pt_calib``, whatever the method declares (for a Bayesian network the posterior
            mean).
        sigma_stoch: What more training data would not remove: root of the mean variance over draws; None if the
            method does not provide it.
        sigma_pred: Spread of the predicted mean over the draws (S - 1); None if the method does not provide it.
        in_range: Whether all inputs lie within the training support, bool of shape (n,).
    """

    mean: np.ndarray
    sigma_stoch: np.ndarray | None
    sigma_pred: np.ndarray | None
    in_range: np.ndarray
    components: Replicas | None = None

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def sigma_tot(self) -> np.ndarray | None:
        """Total uncertainty, sigma_tot² = sigma_stoch² + sigma_pred² (arXiv:2003.11099, Eq. 5); None without parts."""
        parts = [part for part in (self.sigma_stoch, self.sigma_pred) if part is not None]
        return in_quadrature(*parts).astype(np.float32) if parts else None

    def replicas(self) -> np.ndarray:
        """Predicted mean of every weight draw [GeV], float32 of shape (draws, n).

        The draws are the same for all jets, so the spread of an event observable computed per replica carries the
        right correlations between jets.

        Raises:
            NoDensityError: The method has no draws.
        """
        return self._components(slice(0, len(self)))[0].astype(np.float32)

    def density(self, pt: np.ndarray) -> np.ndarray:
        """Predictive density p(p_T | jet) [1/GeV], averaged over the draws (arXiv:2003.11099, Eq. 1).

        Args:
            pt: Where to evaluate [GeV], shape (points,) for all jets, or (n, points).

        Returns:
            float64 of shape (n, points).
        """
        pt = np.atleast_1d(np.asarray(pt, dtype=np.float64))
        pt = np.broadcast_to(pt, (len(self), pt.shape[-1]))
        return np.concatenate(
            [_density(*self._components(part), pt[part]) for part in _parts(len(self))] or [np.empty((0, pt.shape[1]))]
        )

    def mode(self) -> np.ndarray:
        """Most probable p_T [GeV], float64 of shape (n,): highest point of the density, to 1e-3 of sigma_tot."""
        modes = np.empty(len(self))
        for part in _parts(len(self)):
            grid, density = self._grid(part)
            top = np.clip(np.argmax(density, axis=1), 1, GRID_POINTS - 2)[:, None]
            left, mid, right = (np.log(np.take_along_axis(density, top + i, axis=1)) for i in (-1, 0, 1))
            shift = 0.5 * (left - right) / (left - 2 * mid + right)
            modes[part] = (np.take_along_axis(grid, top, axis=1) + shift * (grid[:, 1:2] - grid[:, :1]))[:, 0]
        return modes

    def interval(self, probability: float = 0.6827) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the highest-density interval [GeV], float64 of shape (n,) each.

        Both ends have the same density (arXiv:2003.11099, Sec. 4). Where the highest-density set is disconnected, its
        outermost ends are returned.

        Args:
            probability: Probability inside, between 0 and 1.
        """
        if not 0 < probability < 1:
            raise ValueError(f"a probability lies between 0 and 1, found {probability}; one sigma is 0.6827")
        low, high = np.empty(len(self)), np.empty(len(self))
        for part in _parts(len(self)):
            grid, density = self._grid(part)
            level = _level(density, probability)[:, None]
            above = density >= level
            first = np.clip(above.argmax(axis=1), 1, GRID_POINTS - 1)
            last = np.clip(GRID_POINTS - 1 - above[:, ::-1].argmax(axis=1), 0, GRID_POINTS - 2)
            low[part] = _crossing(grid, density, level, first - 1)
            high[part] = _crossing(grid, density, level, last)
        return low, high

    def _components(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        if self.components is None:
            raise NoDensityError("this method predicts a single number per jet: it has no draws, density or interval")
        return self.components(part)

    def _grid(self, part: slice) -> tuple[np.ndarray, np.ndarray]:
        mean, sigma = self._components(part)
        total = self.sigma_tot
        assert total is not None  # noqa: S101 - components imply sigma_stoch
        reach = np.linspace(-GRID_REACH, GRID_REACH, GRID_POINTS)
        grid = self.mean[part, None].astype(np.float64) + total[part, None] * reach
        return grid, _density(mean, sigma, grid)


def in_quadrature(*sigmas: np.ndarray) -> np.ndarray:
    """Root of the sum of variances, float64: the one place where uncertainties are added.

    Args:
        sigmas: Uncertainties [GeV] of one shape.
    """
    return np.asarray(np.sqrt(sum(sigma.astype(np.float64) ** 2 for sigma in sigmas)))


def combine_draws(mean: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, sigma_stoch and sigma_pred over weight draws (arXiv:2003.11099, Eqs. 1-7).

    Args:
        mean: Predicted mean per draw, shape (draws, n), at least two draws.
        sigma: Predicted stochastic width per draw, same shape.

    Returns:
        float64 of shape (n,) each: mean of means, root of the mean *variance*, standard deviation with S - 1.

    Raises:
        ValueError: Fewer than two draws, whose spread is undefined.
    """
    if len(mean) < 2:
        raise ValueError(f"sigma_pred needs at least two weight draws, found {len(mean)}")
    mean, sigma = mean.astype(np.float64), sigma.astype(np.float64)
    center = mean.mean(axis=0)
    return (
        center,
        np.sqrt((sigma**2).mean(axis=0)),
        np.sqrt(((mean - center) ** 2).sum(axis=0) / (len(mean) - 1)),
    )


def _parts(n: int) -> list[slice]:
    return [slice(start, min(start + JETS_AT_ONCE, n)) for start in range(0, n, JETS_AT_ONCE)]


def _density(mean: np.ndarray, sigma: np.ndarray, pt: np.ndarray) -> np.ndarray:
    """Equal mixture of the draws' Gaussians: (draws, n) parameters at points (n, points)."""
    total = np.zeros(pt.shape)
    for m, s in zip(mean.astype(np.float64), sigma.astype(np.float64), strict=True):
        total += np.exp(-0.5 * ((pt - m[:, None]) / s[:, None]) ** 2) / s[:, None]
    density: np.ndarray = total / (len(mean) * np.sqrt(2 * np.pi))
    return density


def _level(density: np.ndarray, probability: float) -> np.ndarray:
    """Height above which densities (n, points), linear between equidistant points, hold the wanted probability."""
    small, large = (pick(density[:, :-1], density[:, 1:]) for pick in (np.minimum, np.maximum))
    slope = np.maximum(large - small, 1e-300)
    wanted = probability * 0.5 * (small + large).sum(axis=1)
    low, high = np.zeros(len(density)), density.max(axis=1)
    for _ in range(BISECTIONS):
        level = 0.5 * (low + high)
        h = level[:, None]
        share = np.where(small >= h, 1.0, np.maximum(large - h, 0) / slope)
        inside = (share * 0.5 * (large + np.maximum(small, h))).sum(axis=1)
        low, high = np.where(inside >= wanted, level, low), np.where(inside >= wanted, high, level)
    return low


def _crossing(grid: np.ndarray, density: np.ndarray, level: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Where the density crosses the level between the grid points ``left`` and ``left + 1``."""
    x0, x1, y0, y1 = (
        np.take_along_axis(values, (left + i)[:, None], axis=1)[:, 0] for values in (grid, density) for i in (0, 1)
    )
    share = np.clip((level[:, 0] - y0) / np.where(y1 == y0, 1, y1 - y0), 0, 1)
    return np.asarray(x0 + (x1 - x0) * share)
