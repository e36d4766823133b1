"""Weighted estimators with the influence of each jet: mean, quantiles, Gaussian core, median line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from hepcal.statistics import CENTRAL, Cumulative, n_eff, weighted_mean, weighted_quantiles

__all__ = ["Estimate", "core", "effective_clusters", "mean", "median_line", "quantiles", "standard_error"]

NAN = float("nan")
# Half width of the core in sigma_core, the share of a Gaussian inside, and the variance of what is inside.
REACH = 1.5
INSIDE = float(2 * ndtr(REACH) - 1)
EDGE_DENSITY = float(np.exp(-(REACH**2) / 2) / np.sqrt(2 * np.pi))
CORE_VARIANCE = 1 - 2 * REACH * EDGE_DENSITY / INSIDE
# The densities at the ends of the core are steadied by so many jets' worth of the fitted Gaussian: small samples have
# few jets there.
STEADYING = 200
MAX_STEPS = 200
# Steps smaller than this part of the statistical error do not matter.
NEGLIGIBLE = 1e-3


class Estimate(NamedTuple):
    """A figure of a weighted sample, and how each jet moves it.

    Attributes:
        value: The figure.
        influence: psi of each jet, float64 of shape (n,): the figure minus its expectation is sum w psi / sum w to
            first order.
    """

    value: float
    influence: np.ndarray


def standard_error(influence: np.ndarray, weight: np.ndarray, cluster: np.ndarray | None = None) -> float:
    """Sandwich error sqrt(sum over clusters of (sum w psi)²) / sum w.

    Args:
        influence: psi of each jet, shape (n,).
        weight: Shape (n,), of either sign.
        cluster: Number of the event of each jet, integers >= 0 of shape (n,); None if each jet is its own.
    """
    total = float(weight.sum())
    if not total > 0:
        return NAN
    terms = weight * influence
    if cluster is not None:
        terms = np.bincount(cluster, terms)
    return float(np.sqrt(np.sum(terms**2))) / total


def effective_clusters(weight: np.ndarray, cluster: np.ndarray | None = None) -> float:
    """Effective number of clusters, (sum w)² over the sum of the squared weight of each cluster."""
    return n_eff(weight if cluster is None else np.bincount(cluster, weight))


def mean(values: np.ndarray, weight: np.ndarray) -> Estimate:
    """The mean sum w x / sum w."""
    value, _ = weighted_mean(values, weight)
    return Estimate(value, values - value)


def quantiles(
    values: np.ndarray, weight: np.ndarray, probabilities: Sequence[float], cluster: np.ndarray | None = None
) -> list[Estimate]:
    """Quantiles; the influence is (p - [x <= q]) / density at q.

    The density is the one that makes the error that of a bootstrap over events (:mod:`hepcal.statistics`).

    Args:
        values: Shape (n,).
        weight: Shape (n,), of either sign.
        probabilities: Which quantiles.
        cluster: Number of the event of each jet, integers >= 0 of shape (n,); None if each jet is its own.
    """
    below = Cumulative.of(values, weight, cluster)
    found = weighted_quantiles(values, weight, probabilities)
    return [
        _quantile(values, weight, cluster, below, float(q), float(p)) for q, p in zip(found, probabilities, strict=True)
    ]


def _quantile(
    values: np.ndarray, weight: np.ndarray, cluster: np.ndarray | None, below: Cumulative, q: float, p: float
) -> Estimate:
    steps = p - (values <= q)
    error = standard_error(steps, weight, cluster)
    return Estimate(q, steps * (below.spread(p) / error if error > 0 else NAN))


def core(values: np.ndarray, weight: np.ndarray, n: float) -> tuple[Estimate, Estimate]:
    """Mean and width of the Gaussian core: an iterated fit within +-1.5 sigma of the mean.

    The fit is unbinned maximum likelihood for a Gaussian truncated to the window. Its equations say that the mean and
    the variance of the jets in the window are those of the truncated Gaussian; with the window centred on the mean
    they are mu = mean and sigma² = variance / 0.5515, iterated until window and result agree, from the median and half
    the central 68.27 % width. The width is therefore the one of the Gaussian before truncation. The influence takes
    the moving ends of the window into account.

    Args:
        values: Shape (n,).
        weight: Shape (n,), of either sign.
        n: Effective number of clusters.

    Returns:
        NaN where the window has no positive weight or variance, or the iteration finds no end.
    """
    low, median, high = weighted_quantiles(values, weight, CENTRAL)
    lost = Estimate(NAN, np.full(len(values), NAN))
    sigma = float(high - low) / 2
    if sigma == 0:
        zero = np.zeros(len(values))
        return Estimate(float(median), zero), Estimate(0.0, zero)
    order = np.argsort(values, kind="stable")
    # Around the median, so that the cumulative sums do not cancel.
    x = values[order] - median
    sums = np.concatenate([np.zeros((3, 1)), np.cumsum(weight[order] * np.stack([x**0, x, x**2]), axis=1)], axis=1)
    mu, step = 0.0, np.inf
    for _ in range(MAX_STEPS):
        ends = np.searchsorted(x, (mu - REACH * sigma, mu + REACH * sigma), side="right")
        w, wx, wxx = sums[:, ends[1]] - sums[:, ends[0]]
        if not w > 0 or not wxx * w > wx**2:
            return lost, lost
        before = mu, sigma
        mu, sigma = wx / w, float(np.sqrt((wxx / w - (wx / w) ** 2) / CORE_VARIANCE))
        step = max(abs(mu - before[0]), abs(sigma - before[1]))
        if step < NEGLIGIBLE * sigma / np.sqrt(n):
            break
    # Single jets that jump in and out of the window keep the iteration moving, by less than the statistical error.
    if step > sigma / np.sqrt(n):
        return lost, lost
    return _core_influence(values - median, weight, float(mu), sigma, n, float(median))


def _core_influence(
    x: np.ndarray, weight: np.ndarray, mu: float, sigma: float, n: float, origin: float
) -> tuple[Estimate, Estimate]:
    """The two equations of the core, linearised: -J⁻¹ times the score of each jet, J with the densities at the ends."""
    total, away = weight.sum(), x - mu
    inside = np.abs(away) < REACH * sigma
    share = weight[inside].sum() / total
    h = sigma * min(0.5, 1.2 * n**-0.2)
    around = [weight[np.abs(away - end * REACH * sigma) < h].sum() / total for end in (1, -1)]
    gauss = share * EDGE_DENSITY / (sigma * INSIDE)
    upper, lower = ((n * part / (2 * h) + STEADYING * gauss) / (n + STEADYING) for part in around)
    both, skew, excess = upper + lower, upper - lower, (REACH**2 - CORE_VARIANCE) * sigma**2
    jacobian = np.array(
        [
            [-share + REACH * sigma * both, REACH**2 * sigma * skew],
            [excess * skew, -2 * CORE_VARIANCE * sigma * share + REACH * excess * both],
        ]
    )
    score = np.where(inside, np.stack([away, away**2 - CORE_VARIANCE * sigma**2]), 0.0)
    # Where the ends of the window carry as much as its inside, the fit is not stable and has no error.
    stable = jacobian[0, 0] < 0 and jacobian[1, 1] < 0 and np.linalg.det(jacobian) > 0
    influence = -np.linalg.solve(jacobian, score) if stable else np.full(score.shape, NAN)
    return Estimate(origin + mu, influence[0]), Estimate(sigma, influence[1])


def median_line(response: np.ndarray, truth: np.ndarray, weight: np.ndarray, n: float) -> tuple[Estimate, Estimate]:
    """Straight line through the medians of the value against truth, by quantile regression.

    With T the mean truth the model is: value = height T + slope (truth - T) in the median, fitted to the relative
    residuals, so that all truths count alike. The steps of the quantile regression are smoothed with a Gaussian narrow
    against the resolution (Fernandes, Guerre and Horta, J. Bus. Econ. Stat. 39 (2021) 338), then it is solved by
    Newton's method.

    Args:
        response: value / truth, shape (n,).
        truth: Shape (n,), positive.
        weight: Shape (n,), of either sign.
        n: Effective number of clusters, which sets the smoothing.

    Returns:
        Height and slope; NaN where the truth does not vary or the negative weights leave no solution.
    """
    low, median, high = weighted_quantiles(response, weight, CENTRAL)
    sigma, lost = float(high - low) / 2, Estimate(NAN, np.full(len(response), NAN))
    inverse = weighted_mean(truth, weight)[0] / truth
    if sigma == 0 or np.ptp(truth) == 0:
        return (Estimate(float(median), np.zeros(len(response))),) * 2 if sigma == 0 else (lost, lost)
    axes = np.stack([inverse, 1 - inverse])
    line, total = np.array([median, median]), weight.sum()
    for width in sigma * np.geomspace(1, min(0.5, n**-0.25), 3):
        for _ in range(MAX_STEPS):
            away = (response - line @ axes) / width
            score = (ndtr(away) - 0.5) * axes
            slope = (weight * np.exp(-(away**2) / 2) * axes) @ axes.T / (np.sqrt(2 * np.pi) * width * total)
            if not (slope[0, 0] > 0 and np.linalg.det(slope) > 0):
                return lost, lost
            step = np.linalg.solve(slope, score @ weight / total)
            line = line + step
            if np.abs(step).max() < NEGLIGIBLE * sigma / np.sqrt(n):
                break
        else:
            return lost, lost
    influence = np.linalg.solve(slope, (np.where(away > 0, 0.5, -0.5)) * axes)
    return Estimate(float(line[0]), influence[0]), Estimate(float(line[1]), influence[1])
