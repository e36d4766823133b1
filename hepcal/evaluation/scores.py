"""Scores of a sample of jets, in total and in bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hepcal.arrays import numbers, unmasked
from hepcal.distributions.prediction import Prediction
from hepcal.evaluation.curves import Curve, PITHistogram, coverage_curve, pit_histogram, quantile_curve
from hepcal.evaluation.jets import JetScores, jet_scores
from hepcal.statistics import CENTRAL, half_width_error, n_eff, weighted_mean, weighted_quantiles

__all__ = ["BinnedScores", "Scores", "averaged", "averaged_in_bins", "score", "score_in_bins"]

NAN = float("nan")
ONE_SIGMA = CENTRAL[2] - CENTRAL[0]
PROBABILITIES = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
PIT_BINS = 20


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a sample of jets. ``<figure>_unc`` is the statistical error of ``<figure>``.

    The error of a mean is sqrt(sum w² (x - mean)²) / sum w, those of the pulls' s.d. and width assume no shape, that of
    a share p is sqrt(p (1 - p) / n_eff) with the nominal p. Figures from the density, from
    ``coverage_68`` on, are NaN for methods without one. Scores are the smaller the better.

    Attributes:
        jets: Number of jets.
        n_eff: Effective number of jets.
        truth: Mean truth [GeV].
        absolute_error: Mean |truth - mean| [GeV].
        sigma_tot: Mean total uncertainty [GeV].
        sigma_tot_relative: The same over the mean truth.
        sigma_stoch: Mean stochastic uncertainty [GeV].
        sigma_pred: Mean statistical uncertainty [GeV].
        pull_mean: Mean of (truth - mean) / sigma_tot.
        pull_sd: Its standard deviation.
        pull_half68: Half its central 68.27 % width.
        within_sigma_tot: Share of truths within sigma_tot of the mean: 68.27 % for a Gaussian.
        coverage_68: Share of truths in the predicted central 68.27 % interval: of a density, or a Neyman belt.
        crps: Mean continuous ranked probability score [GeV] (Gneiting and Raftery, JASA 102 (2007) 359).
        crps_relative: The same over the mean truth.
        nll: Mean log score, -ln of the density [1/GeV] at the truth [nats].
        nll_floored: Share of jets whose density is below 1e-300 over the standard deviation of the predicted
            distribution; they enter ``nll`` with this density.
        width_68: Mean width of the central 68.27 % interval [GeV].
        width_68_relative: The same over the mean truth.
        coverage: Coverage of central intervals of several nominal probabilities.
        quantiles: Share of truths below the predicted quantiles.
        quantile_deviation: Largest deviation of ``quantiles``, with its sign (:attr:`Curve.deviation`).
        pit: Histogram of the PIT values.
    """

    jets: int
    n_eff: float
    truth: float
    absolute_error: float
    absolute_error_unc: float
    sigma_tot: float
    sigma_tot_unc: float
    sigma_tot_relative: float
    sigma_stoch: float
    sigma_stoch_unc: float
    sigma_pred: float
    sigma_pred_unc: float
    pull_mean: float
    pull_mean_unc: float
    pull_sd: float
    pull_sd_unc: float
    pull_half68: float
    pull_half68_unc: float
    within_sigma_tot: float
    within_sigma_tot_unc: float
    coverage_68: float
    coverage_68_unc: float
    crps: float
    crps_unc: float
    crps_relative: float
    nll: float
    nll_unc: float
    nll_floored: float
    width_68: float
    width_68_unc: float
    width_68_relative: float
    quantile_deviation: float
    quantile_deviation_unc: float
    coverage: Curve
    quantiles: Curve
    pit: PITHistogram

    def as_dict(self) -> dict[str, Any]:
        """Numbers, and lists by name for curves and the histogram, for JSON; None for NaN."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class BinnedScores:
    """Scores in bins.

    Attributes:
        edges: Shape (bins + 1,), increasing.
        bins: One :class:`Scores` per bin; low edges belong to the bin, high edges to the next one.
    """

    edges: np.ndarray
    bins: tuple[Scores, ...]

    def figure(self, name: str) -> np.ndarray:
        """One figure of :class:`Scores` (not a curve) in all bins, float64 of shape (bins,).

        Raises:
            AttributeError: There is no such figure.
        """
        return np.array([getattr(scores, name) for scores in self.bins], dtype=np.float64)

    def as_dict(self) -> dict[str, Any]:
        """``edges``, and each figure as a list over bins: None for NaN, left out where it is NaN in all of them."""
        listed = [scores.as_dict() for scores in self.bins]
        columns = {name: [scores[name] for scores in listed] for name in (listed[0] if listed else ())}
        kept = {name: column for name, column in columns.items() if any(value is not None for value in column)}
        return {"edges": _plain(self.edges), **kept}


def score(
    prediction: Prediction,
    truth: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    probabilities: Sequence[float] = PROBABILITIES,
    pit_bins: int = PIT_BINS,
) -> Scores:
    """Scores of a prediction.

    With a density this takes about 200 evaluations of the predictive cdf per jet and weight draw.

    Args:
        prediction: Of n jets.
        truth: True p_T [GeV], shape (n,).
        weight: Event weights, shape (n,); None for one each.
        probabilities: Where coverage and quantiles are compared, between 0 and 1.
        pit_bins: Number of bins of the PIT histogram.

    Raises:
        ValueError: The shapes differ, or a truth or weight is not finite.
    """
    weight = _weights(weight, len(prediction))
    return averaged(jet_scores(prediction, truth), weight, probabilities=probabilities, pit_bins=pit_bins)


def score_in_bins(
    prediction: Prediction,
    truth: np.ndarray,
    weight: np.ndarray | None,
    by: np.ndarray,
    edges: Sequence[float] | np.ndarray,
    *,
    probabilities: Sequence[float] = PROBABILITIES,
    pit_bins: int = PIT_BINS,
) -> BinnedScores:
    """Scores in bins of any number per jet: ``prediction.mean`` (pt_calib), |eta|, truth.

    In bins of the truth even a perfect prediction has biased pulls and wrong coverage, because the truth then selects
    its own fluctuations; calibration is defined in bins of what is known without the truth.

    Args:
        prediction: Of n jets.
        truth: True p_T [GeV], shape (n,).
        weight: Event weights, shape (n,); None for one each.
        by: What to bin in, shape (n,). Jets outside the edges, or NaN, are in no bin.
        edges: Bin edges, increasing.
        probabilities: As in :func:`score`.
        pit_bins: As in :func:`score`.

    Raises:
        ValueError: The shapes differ, a truth or weight is not finite, or the edges do not increase.
    """
    jets = jet_scores(prediction, truth)
    return averaged_in_bins(jets, weight, by, edges, probabilities=probabilities, pit_bins=pit_bins)


def averaged_in_bins(
    jets: JetScores,
    weight: np.ndarray | None,
    by: np.ndarray,
    edges: Sequence[float] | np.ndarray,
    *,
    probabilities: Sequence[float] = PROBABILITIES,
    pit_bins: int = PIT_BINS,
) -> BinnedScores:
    """:func:`score_in_bins` from the scores of the jets, which need not be computed again for every binning.

    Raises:
        ValueError: The shapes differ, a weight is not finite, or the edges do not increase.
    """
    by, edges = unmasked("by", by), numbers("edges", edges)
    weight = _weights(weight, len(jets))
    if by.shape != weight.shape:
        raise ValueError(f"{len(weight)} jets cannot be binned by an array of shape {by.shape}")
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bin edges must increase, found {edges}")
    inside = [(by >= low) & (by < high) for low, high in pairwise(edges)]
    return BinnedScores(
        edges,
        tuple(
            averaged(jets.take(mask), weight[mask], probabilities=probabilities, pit_bins=pit_bins) for mask in inside
        ),
    )


def averaged(
    jets: JetScores,
    weight: np.ndarray,
    *,
    probabilities: Sequence[float] = PROBABILITIES,
    pit_bins: int = PIT_BINS,
) -> Scores:
    """Scores of a sample from those of its jets: the weighted part of :func:`score`, for selections of one's own.

    Args:
        jets: Scores of n jets, e.g. ``jet_scores(prediction, truth).take(selected)``.
        weight: Event weights, shape (n,), finite.
        probabilities: As in :func:`score`.
        pit_bins: As in :func:`score`.
    """
    weight = numbers("weight", weight)
    means: dict[str, float] = {}
    for name in ("truth", "absolute_error", "sigma_tot", "sigma_stoch", "sigma_pred", "crps", "nll", "width_68"):
        means[name], means[f"{name}_unc"] = _mean(getattr(jets, name), weight)
    truth = means["truth"]
    del means["truth_unc"]
    for name in ("sigma_tot", "crps", "width_68"):
        means[f"{name}_relative"] = means[name] / truth if truth else NAN
    # Without a density every PIT is missing: no entries, and so NaN everywhere.
    pit, pit_weight = (np.empty(0), np.empty(0)) if jets.pit is None else (jets.pit, weight)
    quantiles = quantile_curve(pit, pit_weight, probabilities)
    # How far a truth is from the middle of its prediction, as the curve wants it: a belt only knows in or out.
    middle = pit if jets.covered is None else np.where(jets.covered > 0, 0.5, 0.0)
    inside = coverage_curve(middle, pit_weight if jets.covered is None else weight, (ONE_SIGMA,))
    deviation, deviation_unc = quantiles.deviation
    return Scores(
        jets=len(jets),
        n_eff=n_eff(weight),
        nll_floored=_mean(jets.nll_floored, weight)[0],
        coverage_68=float(inside.observed[0]),
        coverage_68_unc=float(inside.unc[0]),
        quantile_deviation=deviation,
        quantile_deviation_unc=deviation_unc,
        coverage=coverage_curve(pit, pit_weight, probabilities),
        quantiles=quantiles,
        pit=pit_histogram(pit, pit_weight, pit_bins),
        **means,
        **_pulls(jets.pull, weight),
    )


def _pulls(pull: np.ndarray | None, weight: np.ndarray) -> dict[str, float]:
    """Mean, s.d. and half central width of pulls, and the share of them within one, with errors."""
    names = ("pull_mean", "pull_sd", "pull_half68", "within_sigma_tot")
    if pull is None or not weight.sum() > 0:
        return dict.fromkeys([*names, *(f"{name}_unc" for name in names)], NAN)
    root = float(np.sqrt(n_eff(weight)))
    mean, mean_unc = weighted_mean(pull, weight)
    variance, _ = weighted_mean((pull - mean) ** 2, weight)
    sd = float(np.sqrt(max(variance, 0.0)))
    low, high = weighted_quantiles(pull, weight, (CENTRAL[0], CENTRAL[2]))
    half68 = float(high - low) / 2
    return {
        "pull_mean": mean,
        "pull_mean_unc": mean_unc,
        "pull_sd": sd,
        "pull_sd_unc": weighted_mean((pull - mean) ** 2, weight)[1] / (2 * sd) if sd > 0 else NAN,
        "pull_half68": half68,
        "pull_half68_unc": half_width_error(pull, weight, (float(low), float(high))),
        "within_sigma_tot": weighted_mean(np.abs(pull) < 1, weight)[0],
        "within_sigma_tot_unc": (ONE_SIGMA * (1 - ONE_SIGMA)) ** 0.5 / root,
    }


def _mean(values: np.ndarray | None, weight: np.ndarray) -> tuple[float, float]:
    return (NAN, NAN) if values is None else weighted_mean(values, weight)


def _weights(weight: np.ndarray | None, jets: int) -> np.ndarray:
    if weight is None:
        return np.ones(jets)
    weight = numbers("weight", weight)
    if weight.shape != (jets,):
        raise ValueError(f"{jets} predicted jets cannot have weights of shape {weight.shape}")
    if not np.isfinite(weight).all():
        raise ValueError(f"{(~np.isfinite(weight)).sum()} weights are not finite")
    return weight


def _plain(value: Any) -> Any:
    """Built-in types of numbers, arrays, curves and histograms; None for NaN."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return value if np.isfinite(value) else None
