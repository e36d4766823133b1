"""Whether a calibration is right, from arrays: scores of predictions, closure and coverage in bins of truth, priors.

::

    from hepcal.evaluation import closure_in_truth, coverage_in_truth, score, score_in_bins

    prediction = calibrator.predict(pairs)
    scores = score(prediction, truth, weight)
    binned = score_in_bins(prediction, truth, weight, by=np.abs(eta), edges=(0, 0.8, 1.3, 2.5))
    closure = closure_in_truth(prediction.mean, truth, weight, edges=(900, 1000, 1200, 1500, 2000), event=event)
    closure.median, closure.median_unc
    coverage = coverage_in_truth(*prediction.interval(), truth, weight, edges=closure.edges, event=event)

Everything is weighted and computed in float64. Weights may be negative: shares may then leave [0, 1], and quantiles
come from a cumulative weight made monotone. Where the weights do not sum to a positive number, or the method does not
provide what a figure needs, the figure is NaN.

Scores (:mod:`hepcal.evaluation.scores`) take jets as independent, n_eff = (sum w)² / sum w².

Closure is in bins of the truth, or of anything else that is known per jet (``by``): a calibration may close on average
over the spectrum, or in bins of its own value, and still be biased everywhere (arXiv:2205.05084, Eq. 7). Its errors are
sandwich errors that know which jets share an event: each figure is linearised, figure - expectation = sum w psi / sum w
with psi the influence of a jet (:mod:`hepcal.evaluation.estimators`), and its variance is the sum over events of (sum
over the jets of the event of w psi)², over (sum w)²; those of quantiles are what a bootstrap over events would find
(:mod:`hepcal.statistics`). Without ``event`` each jet counts as an event. n_eff is (sum w)² over the sum of the squared
weight of each event; figures of bins with n_eff below 30 are NaN. The figures of a run (:mod:`hepcal.closure.metrics`)
mean the same and are computed in the same way.

Modules that train calibrators, and so load torch, are loaded when they are first used: ``hepcal.evaluation.spread``
(sigma_pred against the spread of trainings), ``cross_fit``, ``diagnostics``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hepcal.evaluation.curves import Curve, PITHistogram, coverage_curve, pit_histogram, quantile_curve
from hepcal.evaluation.jets import JetScores, crps, jet_scores
from hepcal.evaluation.paired import PairedGain, paired_resolution_gain
from hepcal.evaluation.priors import (
    Above,
    Flat,
    PriorDependence,
    Shift,
    Spectrum,
    Steeper,
    prior_dependence,
    spectra,
)  # fmt: skip
from hepcal.evaluation.scores import BinnedScores, Scores, averaged, averaged_in_bins, score, score_in_bins
from hepcal.evaluation.truth_bins import TruthClosure, closure_in_truth
from hepcal.evaluation.truth_coverage import TruthCoverage, coverage_in_truth

if TYPE_CHECKING:
    from hepcal.evaluation import cross_fit, diagnostics, spread

__all__ = [
    "Above",
    "BinnedScores",
    "Curve",
    "Flat",
    "JetScores",
    "PITHistogram",
    "PairedGain",
    "PriorDependence",
    "Scores",
    "Shift",
    "Spectrum",
    "Steeper",
    "TruthClosure",
    "TruthCoverage",
    "averaged",
    "averaged_in_bins",
    "closure_in_truth",
    "coverage_curve",
    "coverage_in_truth",
    "cross_fit",
    "crps",
    "diagnostics",
    "jet_scores",
    "paired_resolution_gain",
    "pit_histogram",
    "prior_dependence",
    "quantile_curve",
    "score",
    "score_in_bins",
    "spectra",
    "spread",
]


def __getattr__(name: str) -> Any:
    if name in ("cross_fit", "diagnostics", "spread"):
        return importlib.import_module(f"hepcal.evaluation.{name}")
    raise AttributeError(f"module 'hepcal.evaluation' has no attribute {name!r}; it has {', '.join(__all__)}")
