"""Closure of a calibration in bins of truth, from arrays, with errors that know which jets share an event.

::

    from hepcal.truth_closure import closure_in_truth, coverage_in_truth, paired_resolution_gain

    closure = closure_in_truth(value, truth, weight, edges=(900, 1000, 1200, 1500, 2000), event=event)
    closure.median, closure.median_unc
    coverage = coverage_in_truth(low, high, truth, weight, edges=closure.edges, event=event)

Bins are of the truth, or of anything else that is known per jet (``by``): a calibration may close on average over the
spectrum, or in bins of its own value, and still be biased everywhere (arXiv:2205.05084, Eq. 7).

Everything is weighted and computed in float64. Weights may be negative: quantiles come from the running maximum of the
cumulative weight. Errors are sandwich errors: each figure is linearised, figure - expectation = sum w psi / sum w with
psi the influence of a jet, and its variance is the sum over events of (sum over the jets of the event of w psi)², over
(sum w)². Without ``event`` each jet counts as an event. n_eff = (sum w)² / sum w²; figures of bins with n_eff below ten
are NaN.
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
