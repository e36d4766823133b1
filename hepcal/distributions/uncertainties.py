"""How uncertainties are combined, here and only here: variances add, standard deviations do not, in float64."""

from __future__ import annotations

import numpy as np

__all__ = ["combine_draws", "in_quadrature", "of_sample_means", "signed_root", "variance_components"]


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


def variance_components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What other events, and what other starting points and orders of the batches, contribute to the variance of one.

    From B samples with s trainings each: the mean variance inside a sample is that of the procedure; the variance of
    the means of the samples is that of the sample plus 1/s of it. Both are unbiased, and so noisy for one jet that they
    are averaged over many, with their signs.

    Args:
        values: Predictions, shape (B, s, n), B and s at least two.

    Returns:
        Variances of the sample and of the procedure, float64 of shape (n,) each; the first may be negative.

    >>> sample, procedure = variance_components(np.array([[[99.0], [101.0]], [[103.0], [105.0]]]))
    >>> float(sample[0]), float(procedure[0])
    (7.0, 2.0)
    """
    values = values.astype(np.float64)
    procedure = values.var(axis=1, ddof=1).mean(axis=0)
    return values.mean(axis=1).var(axis=0, ddof=1) - procedure / values.shape[1], procedure


def of_sample_means(share: np.ndarray, samples: int, starts: int) -> np.ndarray:
    """By what the spread of the means of the samples is to be multiplied, to be the error of the mean of all trainings.

    The mean of B bootstrap samples with s starts each has the variance

        sigma_sample² (1 + 1/B) + sigma_procedure² / (B s):

    what other events would change, the scatter of the bootstrap samples, and what is left of the starting points. The
    means of the samples scatter with sigma_sample² + sigma_procedure² / s.

    Args:
        share: Of the sample in the variance of one training, between 0 and 1.
        samples: B.
        starts: s.

    >>> round(float(of_sample_means(np.array(1.0), 8, 5)), 3)
    1.061
    """
    rest = 1 - share
    quoted = share * (1 + 1 / samples) + rest / (samples * starts)
    return np.asarray(np.sqrt(quoted / (share + rest / starts)))
