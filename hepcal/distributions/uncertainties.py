"""How uncertainties are combined, here and only here: variances add, standard deviations do not, in float64."""

from __future__ import annotations

import numpy as np

__all__ = ["combine_draws", "in_quadrature", "signed_root"]


def in_quadrature(*sigmas: np.ndarray, signed: np.ndarray | None = None) -> np.ndarray:
    """Root of the sum of variances, float64: the one place where uncertainties are added.

    Args:
        sigmas: Uncertainties [GeV] of one shape.
        signed: A difference of variances [GeV²] to add, which may be negative; the sum may not.
    """
    variance = sum(sigma.astype(np.float64) ** 2 for sigma in sigmas)
    return np.asarray(np.sqrt(variance if signed is None else variance + signed.astype(np.float64)))


def signed_root(squared: np.ndarray) -> np.ndarray:
    """Root [GeV] of a difference of variances [GeV²], float64; NaN where it is negative, never clipped."""
    squared = np.asarray(squared, dtype=np.float64)
    return np.asarray(np.sqrt(np.where(squared >= 0, squared, np.nan)))


def combine_draws(mean: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, sigma_stoch and sigma_pred over weight draws (arXiv:2003.11099, Eqs. 1-7).

    Args:
        mean: Predicted mean per draw, shape (draws, n), at least two draws.
        sigma: Predicted stochastic width per draw, same shape.

    Returns:
        float64 of shape (n,) each: mean of means, root of the mean *variance*, standard deviation with S - 1.

    Raises:
        ValueError: Fewer than two draws, whose spread is undefined.

    >>> mean, sigma_stoch, sigma_pred = combine_draws(np.array([[99.0], [101.0]]), np.array([[6.0], [8.0]]))
    >>> mean.round(2).tolist(), sigma_stoch.round(2).tolist(), sigma_pred.round(2).tolist()
    ([100.0], [7.07], [1.41])
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
