"""Scores of a prediction against the truth: pulls, coverage, quantile calibration, CRPS, log score, sharpness.

::

    from hepcal.scores import score, score_in_bins

    prediction = calibrator.predict(pairs)
    scores = score(prediction, truth, weight)
    binned = score_in_bins(prediction, truth, weight, by=np.abs(eta), edges=(0, 0.8, 1.3, 2.5))

Everything is weighted and computed in float64; jets count as independent. Weights may be negative: shares may then
leave [0, 1], and quantiles come from the running maximum of the cumulative weight. n_eff = (sum w)² / sum w². Where the
weights do not sum to a positive number, or the method does not provide what a figure needs, the figure is NaN.
"""

from hepcal.scores.jets import JetScores, crps, jet_scores
from hepcal.scores.sample import BinnedScores, Scores, averaged, averaged_in_bins, score, score_in_bins
from hepcal.scores.weighted import (
    Curve,
    PITHistogram,
    coverage_curve,
    effective_number,
    pit_histogram,
    quantile_curve,
    weighted_mean,
    weighted_quantiles,
)

__all__ = [
    "BinnedScores",
    "Curve",
    "JetScores",
    "PITHistogram",
    "Scores",
    "averaged",
    "averaged_in_bins",
    "coverage_curve",
    "crps",
    "effective_number",
    "jet_scores",
    "pit_histogram",
    "quantile_curve",
    "score",
    "score_in_bins",
    "weighted_mean",
    "weighted_quantiles",
]
