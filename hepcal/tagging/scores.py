"""Figures of merit of a classifier: AUC, ROC, calibration; and what a Gaussian logit is as a score.

Everything is weighted and in float64. Weights may have either sign: sums of weights then take the place of counts, and
errors come from sums of squared weights, with jets as independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, roots_hermitenorm

from hepcal.arrays import numbers, unmasked
from hepcal.statistics import monotone, weighted_mean

__all__ = [
    "ROC",
    "Reliability",
    "auc",
    "auc_difference",
    "calibration_error",
    "gaussian_score",
    "parabola",
    "reliability",
    "roc",
]

# Nodes of the integral over a Gaussian logit, and logits that are looked at together, to bound memory.
NODES = 200
LOGITS_AT_ONCE = 10_000
BOOTSTRAP = 200


@dataclass(frozen=True, slots=True)
class ROC:
    """Efficiencies of the selections ``score >= threshold``, arrays of shape (thresholds,), thresholds falling.

    Attributes:
        threshold: Every score found, infinity in front.
        signal: Share of the signal selected.
        background: Share of the background selected.
    """

    threshold: np.ndarray
    signal: np.ndarray
    background: np.ndarray

    def background_at(self, signal: float) -> float:
        """Background efficiency at a signal efficiency, by linear interpolation."""
        return float(np.interp(signal, monotone(self.signal), self.background))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Share of signal against the score, arrays of shape (bins,), NaN in empty bins.

    Attributes:
        edges: Bins of the score, shape (bins + 1,), from 0 to 1.
        score: Mean score in the bin: the promised share.
        observed: Share of signal found.
        unc: Its statistical error.
        share: Share of all jets in the bin.
    """

    edges: np.ndarray
    score: np.ndarray
    observed: np.ndarray
    unc: np.ndarray
    share: np.ndarray


def auc(score: np.ndarray, is_signal: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """Area under the ROC curve and its statistical error.

    The area is the probability that a signal jet has a higher score than a background jet, ties counting one half; its
    error that of DeLong et al. (Biometrics 44 (1988) 837), with squared weights.

    Args:
        score: Any monotonic function of it gives the same, shape (n,).
        is_signal: bool of shape (n,).
        weight: Shape (n,), default one. The sums of the two classes do not matter.

    Raises:
        ValueError: Shapes disagree, a score is not a number, or the weights of a class do not sum to a positive number.
    """
    return _mean_of_both(*_placements(score, is_signal, weight))


def auc_difference(
    first: np.ndarray, second: np.ndarray, is_signal: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, float]:
    """AUC of the first scores minus that of the second, on the same jets, and its error, correlations included.

    See :func:`auc` for the arguments.
    """
    ours, theirs = _placements(first, is_signal, weight), _placements(second, is_signal, weight)
    difference, error = _mean_of_both(ours[0] - theirs[0], ours[1] - theirs[1], *ours[2:])
    return difference, error


def roc(score: np.ndarray, is_signal: np.ndarray, weight: np.ndarray | None = None) -> ROC:
    """Signal and background efficiencies of all thresholds. See :func:`auc` for the arguments."""
    score, is_signal, weight = _checked(score, is_signal, weight)
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    efficiencies = []
    for members in (is_signal, ~is_signal):
        passed = np.cumsum(np.where(members, weight, 0)[order])
        efficiencies.append(np.append(0, passed[ends] / passed[-1]))
    return ROC(np.append(np.inf, score[order][ends]), *efficiencies)


def reliability(
    score: np.ndarray, is_signal: np.ndarray, weight: np.ndarray | None = None, bins: int = 15
) -> Reliability:
    """Promised and observed share of signal in bins of equal width of the score.

    The scores of :func:`hepcal.tagging.train` promise the share in a mixture of as much signal as background: weights
    should make it one.

    Args:
        score: Between 0 and 1, shape (n,).
        is_signal: bool of shape (n,).
        weight: Shape (n,), default one.
        bins: Number of bins.
    """
    score, is_signal, weight = _checked(score, is_signal, weight, bounded=True)
    index = _bins_of(score, bins)
    sums, signal, promised = (
        np.bincount(index, weight * part, bins) for part in (np.ones(len(score)), is_signal, score)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        observed, mean = np.where(sums > 0, [signal / sums, promised / sums], np.nan)
        spread = np.bincount(index, (weight * (is_signal - observed[index])) ** 2, bins)
        unc = np.where(sums > 0, np.sqrt(spread) / sums, np.nan)
    return Reliability(np.linspace(0, 1, bins + 1), mean, observed, unc, sums / weight.sum())


def calibration_error(
    score: np.ndarray,
    is_signal: np.ndarray,
    weight: np.ndarray | None = None,
    bins: int = 15,
    *,
    seed: int = 0,
    replicas: int = BOOTSTRAP,
) -> tuple[float, float]:
    """Expected calibration error, and its error from a bootstrap.

    The mean over jets of abs(observed share of signal - mean score) of their bin of the score. As a sum of absolute
    values it is not zero for a perfect classifier: fluctuations in n jets make it up to 0.4 sqrt(bins / n).

    Args:
        score: Between 0 and 1, shape (n,).
        is_signal: bool of shape (n,).
        weight: Shape (n,), default one. See :func:`reliability`.
        bins: Bins of equal width.
        seed: Of the bootstrap, which counts each jet a number of times that follows Poisson(1).
        replicas: Of the bootstrap.
    """
    score, is_signal, weight = _checked(score, is_signal, weight, bounded=True)
    index, excess = _bins_of(score, bins), weight * (is_signal - score)

    def once(excess: np.ndarray, weight: np.ndarray) -> float:
        return float(np.abs(np.bincount(index, excess, bins)).sum() / weight.sum())

    generator = np.random.default_rng(seed)
    found = []
    for _ in range(replicas):
        times = generator.poisson(1.0, len(score))
        found.append(once(excess * times, weight * times))
    return once(excess, weight), float(np.std(found, ddof=1))


def gaussian_score(logit: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and standard deviation of the score 1 / (1 + exp(-logit)) for a Gaussian logit.

    Errors of a classifier are Gaussian at best in the logit; this transforms them for display, by Gauss-Hermite
    integration:

    .. math:: \mu_\mathrm{pred} = \int dl\; S(l)\, G_{\mu, \sigma}(l), \quad
        \sigma_\mathrm{pred}^2 = \int dl\; S(l)^2\, G_{\mu, \sigma}(l) - \mu_\mathrm{pred}^2

    Args:
        logit: Means, shape (n,).
        sigma: Widths, shape (n,).

    Returns:
        float64 of shape (n,) each.
    """
    logit, sigma = (np.atleast_1d(numbers(what, part)) for what, part in (("logit", logit), ("sigma", sigma)))
    if logit.shape != sigma.shape or logit.ndim != 1 or not (sigma >= 0).all():
        raise ValueError(f"expected logits and widths >= 0 of one shape (n,), found {logit.shape} and {sigma.shape}")
    nodes, weights = roots_hermitenorm(NODES)
    weights = weights / weights.sum()
    mean, spread = np.empty_like(logit), np.empty_like(logit)
    for start in range(0, len(logit), LOGITS_AT_ONCE):
        part = slice(start, start + LOGITS_AT_ONCE)
        score = expit(logit[part, None] + sigma[part, None] * nodes)
        mean[part] = score @ weights
        spread[part] = np.sqrt((score - mean[part, None]) ** 2 @ weights)
    return mean, spread


def parabola(score: np.ndarray, sigma_logit: np.ndarray) -> np.ndarray:
    """First-order error of a score, score (1 - score) sigma_logit: 2 % good for sigma_logit below 0.25.

    The error vanishes at both ends of the interval, whatever the network knows.
    """
    score = numbers("score", score)
    return np.asarray(score * (1 - score) * numbers("sigma_logit", sigma_logit))


def _checked(
    score: np.ndarray, is_signal: np.ndarray, weight: np.ndarray | None, *, bounded: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same as float64, bool and float64."""
    score, labels = numbers("score", score), unmasked("is_signal", is_signal)
    weight = np.ones(len(score)) if weight is None else numbers("weight", weight)
    if score.ndim != 1 or labels.shape != score.shape or weight.shape != score.shape:
        raise ValueError(f"shapes disagree: score {score.shape}, is_signal {labels.shape}, weight {weight.shape}")
    if not (np.isfinite(weight).all() and not np.isnan(score).any() and np.isin(labels, (0, 1)).all()):
        raise ValueError("a score or a weight is not a number, or is_signal is neither true nor false")
    if bounded and not ((score >= 0) & (score <= 1)).all():
        raise ValueError("scores must lie between 0 and 1 here")
    labels = labels.astype(bool)
    for name, members in (("signal", labels), ("background", ~labels)):
        if not weight[members].sum() > 0:
            raise ValueError(f"the weights of {members.sum()} {name} jets sum to {weight[members].sum():g}")
    return score, labels, weight


def _placements(
    score: np.ndarray, is_signal: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Share of the background below each signal jet, of the signal above each background jet, and both weights."""
    score, is_signal, weight = _checked(score, is_signal, weight)
    above, below = score[is_signal], score[~is_signal]
    w_above, w_below = weight[is_signal], weight[~is_signal]
    return _share_below(above, below, w_below), 1 - _share_below(below, above, w_above), w_above, w_below


def _share_below(values: np.ndarray, others: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Share of the weight of others below each value, equal ones by half."""
    order = np.argsort(others, kind="stable")
    cumulative = np.append(0, np.cumsum(weight[order]))
    low, high = (np.searchsorted(others[order], values, side) for side in ("left", "right"))
    return np.asarray((cumulative[low] + cumulative[high]) / (2 * cumulative[-1]))


def _mean_of_both(
    signal: np.ndarray, background: np.ndarray, w_signal: np.ndarray, w_background: np.ndarray
) -> tuple[float, float]:
    mean, error = weighted_mean(signal, w_signal)
    return mean, float(np.hypot(error, weighted_mean(background, w_background)[1]))


def _bins_of(score: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((score * bins).astype(np.int64), bins - 1)
