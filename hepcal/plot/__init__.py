"""Figures of a calibration: its closure, from histograms, and the calibration of its uncertainties, from scores.

::

    ax = hepcal.plot.bias(hists, "pt", "abs_eta", label="Pythia 8 + Delphes")
    ax = hepcal.plot.coverage({"BNN": scores}, label="Pythia 8 + Delphes")
    ax = hepcal.plot.truth_closure({"BNN": closure}, "median", label="Pythia 8 + Delphes")

:mod:`hepcal.plot.closure` draws histograms of :func:`hepcal.closure.hists.book`, :mod:`hepcal.plot.diagnostics` draws
:class:`hepcal.evaluation.Scores` and predictions, :mod:`hepcal.plot.methods` compares methods in bins of truth and in
spectra, from arrays, :mod:`hepcal.plot.training` draws histories and scans. All take a
``label`` to write above the axes and the axes to draw into (default: those of a new pyplot figure), which they
return.
"""

from hepcal.plot.closure import (
    bias,
    pull,
    resolution,
    response,
    spectrum,
    uncertainties,
    write,
)
from hepcal.plot.diagnostics import coverage, pit, predictive, quantile_calibration, scores_in_bins
from hepcal.plot.methods import prior_shift, responses, spectra, truth_closure, truth_coverage
from hepcal.plot.panels import NothingToDrawError
from hepcal.plot.shares import coverage_in_truth, flavours
from hepcal.plot.training import history, prior_scan, spread_ratio

__all__ = [
    "NothingToDrawError",
    "bias",
    "coverage",
    "coverage_in_truth",
    "flavours",
    "history",
    "pit",
    "predictive",
    "prior_scan",
    "prior_shift",
    "pull",
    "quantile_calibration",
    "resolution",
    "response",
    "responses",
    "scores_in_bins",
    "spectra",
    "spectrum",
    "spread_ratio",
    "truth_closure",
    "truth_coverage",
    "uncertainties",
    "write",
]
