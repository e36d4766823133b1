"""Closure of a calibration in bins of truth, from arrays, with errors that know which jets share an event.

::

    from hepcal.truth_closure import closure_in_truth, coverage_in_truth, paired_resolution_gain

    closure = closure_in_truth(value, truth, weight, edges=(900, 1000, 1200, 1500, 2000), event=event)
    closure.median, closure.median_unc
    coverage = coverage_in_truth(low, high, truth, weight, edges=closure.edges, event=event)

Bins are of the truth, or of anything else that is known per jet (``by``): a calibration may close on average over the
spectrum, or in bins of its own value, and still be biased everywhere (arXiv:2205.05084, Eq. 7).

Everything is weighted and computed in float64. Weights may be negative: quantiles come from a cumulative weight made
monotone. Errors are sandwich errors: each figure is linearised, figure - expectation = sum w psi / sum w with psi the
influence of a jet, and its variance is the sum over events of (sum over the jets of the event of w psi)², over
(sum w)²; those of quantiles are what a bootstrap over events would find (:mod:`hepcal.statistics`). Without ``event``
each jet counts as an event. n_eff is (sum w)² over the sum of the squared weight of each event; figures of bins with
n_eff below 30 are NaN. The figures of a run (:mod:`hepcal.metrics`) mean the same and are computed in the same way.
"""

from hepcal.truth_closure.closure import TruthClosure, closure_in_truth
from hepcal.truth_closure.coverage import TruthCoverage, coverage_in_truth
from hepcal.truth_closure.estimators import Estimate, core, mean, median_line, quantiles, standard_error
from hepcal.truth_closure.paired import PairedGain, paired_resolution_gain

__all__ = [
    "Estimate",
    "PairedGain",
    "TruthClosure",
    "TruthCoverage",
    "closure_in_truth",
    "core",
    "coverage_in_truth",
    "mean",
    "median_line",
    "paired_resolution_gain",
    "quantiles",
    "standard_error",
]
