"""Figures that compare calibrations, from arrays: closure in bins of truth, responses, spectra, prior dependence.

::

    from hepcal.evaluation import closure_in_truth

    closures = {name: closure_in_truth(value, truth, edges=edges) for name, value in values.items()}
    ax = hepcal.plot.truth_closure(closures, "median", label="Pythia 8 + Delphes")

A mapping gives what is drawn by the name to show in the legend. All functions take a ``label`` to write above the axes
and the axes to draw into (default: those of a new pyplot figure), which they return. Bars are statistical errors, one
standard deviation. The style is set while a function draws, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import mplhep
import numpy as np
from matplotlib.axes import Axes

from hepcal.arrays import numbers
from hepcal.evaluation import TruthClosure, TruthCoverage
from hepcal.plot import panels
from hepcal.plot.panels import Density, NothingToDrawError, styled
from hepcal.statistics import n_eff, weighted_quantiles

if TYPE_CHECKING:
    from hepcal.evaluation.priors import Shift

__all__ = ["prior_shift", "responses", "spectra", "truth_closure", "truth_coverage"]

Panels = tuple[Axes, Axes]
# Values and their weights, None for one each.
Sample = tuple[np.ndarray, np.ndarray | None]

TRUTH = "Particle-level $p_T$ [GeV]"
# Figures in bins: label, factor of the axis, and what a closing calibration gives (before the factor).
CLOSURES: dict[str, tuple[str, float, float | None]] = {
    "mean": ("Closure of the mean [%]", 100, 0),
    "median": ("Closure of the median [%]", 100, 0),
    "core": (r"Closure of the core, Gaussian within $\pm1.5\sigma$ [%]", 100, 0),
    "resolution": ("Resolution, half 68% width / median [%]", 100, None),
    "core_resolution": (r"Resolution of the core, $\sigma$ / mean [%]", 100, None),
    "slope": ("Slope of the median value against truth", 1, 1),
    "resolution_over_slope": ("Half 68% width / slope [%]", 100, None),
    "n_eff": ("Effective number of jets", 1, None),
    "in_range": ("Jets inside the training support [%]", 100, None),
}
SHIFTS: dict[str, tuple[str, float, float | None]] = {
    "mean": ("Mean shift of the same jets [%]", 100, 0),
    "median": ("Median shift of the same jets [%]", 100, 0),
    "rms": ("Root mean square shift of the same jets [%]", 100, None),
    "largest": ("Largest shift of a jet [%]", 100, 0),
    "pull_mean": (r"Mean shift / $\sigma_{pred}$ of both", 1, 0),
    "pull_rms": (r"Root mean square shift / $\sigma_{pred}$ of both", 1, 1),
}
RESPONSE_BINS = 49
RESPONSE_SPAN = (0.8, 1.4)
# What a logarithmic axis spans at most, below its largest value.
DECADES = 1e5
LINES = ("-", "--", ":", "-.")


@styled
def truth_closure(
    closures: Mapping[str, TruthClosure], figure: str = "median", xlabel: str = TRUTH, label: str = "",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """One figure of the closures in bins of truth, with a line where a closing calibration is.

    Args:
        closures: By name.
        figure: One of ``CLOSURES``: ``mean``, ``median`` or ``core`` closure, ``resolution``, ``slope`` ...
        xlabel: What the bins are in, with its unit.
        label: To write above the axes.
        ax: Where to draw.

    Raises:
        KeyError: There is no such figure.
        NothingToDrawError: No bin has it.
    """
    what = CLOSURES[figure]
    found = {name: (c.edges, getattr(c, figure), getattr(c, f"{figure}_unc", None)) for name, c in closures.items()}
    return _in_bins(found, what, xlabel, label, ax)


@styled
def truth_coverage(
    coverages: Mapping[str, TruthCoverage], nominal: float = 0.6827, xlabel: str = TRUTH, label: str = "",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Coverage of intervals [%] in bins of truth, with a line at the nominal one.

    Raises:
        NothingToDrawError: No bin holds enough jets.
    """
    found = {name: (c.edges, c.coverage, c.coverage_unc) for name, c in coverages.items()}
    return _in_bins(found, (f"Coverage of {100 * nominal:g}% intervals [%]", 100, nominal), xlabel, label, ax)


@styled
def prior_shift(
    shifts: Mapping[str, Shift], figure: str = "mean", xlabel: str = TRUTH, label: str = "", ax: Axes | None = None
) -> Axes:
    """Shift of the same jets when the training spectrum changes, in bins of truth.

    Args:
        shifts: By name, e.g. ``dependence.shifts`` of :func:`hepcal.evaluation.priors.prior_dependence`.
        figure: One of ``SHIFTS``: ``mean``, ``median``, ``rms``, ``largest``, ``pull_mean``, ``pull_rms``.
        xlabel: What the bins are in, with its unit.
        label: To write above the axes.
        ax: Where to draw.

    Raises:
        KeyError: There is no such figure.
        NothingToDrawError: No bin has it.
    """
    what = SHIFTS[figure]
    found = {name: (s.edges, getattr(s, figure), getattr(s, f"{figure}_unc", None)) for name, s in shifts.items()}
    return _in_bins(found, what, xlabel, label, ax)


@styled
def responses(
    methods: Mapping[str, Mapping[str, Sample]], bins: int = RESPONSE_BINS,
    span: tuple[float, float] = RESPONSE_SPAN, xlabel: str = "Calibrated / particle-level value", label: str = "",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Normalised responses of several methods in several samples: one colour per method, one line per sample.

    The default bins are those of arXiv:2205.05084, Fig. 6. Densities are normalised to all jets, those outside the
    span included.

    Args:
        methods: By method and sample: the responses, value / truth, and their weights (None for one each).
        bins: Number of bins.
        span: First and last edge.
        xlabel: What is shown.
        label: To write above the axes.
        ax: Where to draw.

    Raises:
        NothingToDrawError: No sample has n_eff of at least 30.
    """
    edges = np.linspace(*span, bins + 1)
    found = {name: {s: _density(*sample, edges) for s, sample in samples.items()} for name, samples in methods.items()}
    panels.require([density for drawn in found.values() for density in drawn.values() if density], "responses")
    ax = ax or plt.figure().subplots()
    ax.axvline(1, color="black", linewidth=0.8)
    styles = dict(zip(dict.fromkeys(s for drawn in found.values() for s in drawn), LINES * bins, strict=False))
    for (name, drawn), colour, _ in panels.series(found):
        for sample, density in drawn.items():
            if density is not None:
                text = f"{name}, {sample}: median {_median(*methods[name][sample]):.3f}"
                first = styles[sample] == LINES[0]
                if first:
                    ax.stairs(density.values, edges, fill=True, color=colour, alpha=0.12)
                line: dict[str, Any] = {"linestyle": styles[sample], "linewidth": 1.5, "color": colour}
                ax.stairs(density.values, edges, label=text, **line)
    ax.set(xlim=span, xlabel=xlabel, ylabel="Normalised density")
    panels.finish(ax, label, room=0.05 + 0.055 * sum(map(len, found.values())), floor=0)
    return ax


@styled
def spectra(
    samples: Mapping[str, Sample], edges: Sequence[float] | np.ndarray, xlabel: str = "$m_{jj}$ [GeV]", *,
    log: bool = True, ratio_span: tuple[float, float] = (0.25, 2), ratio_log: bool = False, label: str = "",
    axes: Panels | None = None,
) -> Panels:  # fmt: skip
    """Normalised spectra [1/GeV] of several samples, with their ratios to the first one.

    The first sample is an area, the others are points; in the ratio, bars are the errors of the numerator and the band
    is that of the denominator. Densities are normalised to all entries, those outside the edges included.

    Args:
        samples: By name: values [GeV] and their weights (None for one each).
        edges: Bin edges [GeV].
        xlabel: What is shown, with its unit.
        log: Whether the y axis is logarithmic.
        ratio_span: Ends of the y axis of the ratio.
        ratio_log: Whether that axis is logarithmic.
        label: To write above the axes.
        axes: The two panels to draw into.

    Raises:
        NothingToDrawError: The first sample has n_eff below 30.
    """
    edges = np.asarray(edges, dtype=np.float64)
    found = {name: density for name, sample in samples.items() if (density := _density(*sample, edges)) is not None}
    first = next(iter(samples), None)
    if first is None or first not in found:
        raise NothingToDrawError(f"n_eff of {first!r}, the first spectrum, is below {panels.MIN_N_EFF}")
    upper, lower = axes or _split()
    base = found.pop(first)
    mplhep.histplot(base.values, edges, ax=upper, histtype="fill", color=panels.COLOURS["truth"], label=first)
    band = np.nan_to_num(panels.ratio(base.errors, base.values))
    lower.stairs(1 + band, edges, baseline=1 - band, fill=True, color=panels.COLOURS["truth"])
    lower.axhline(1, color="black", linewidth=0.8)
    middle, half = panels.centres(edges)
    for (name, density), colour, marker in panels.series(found):
        style: dict[str, Any] = {"xerr": half, "color": colour, "fmt": marker, "markersize": 3.5, "linewidth": 1.1}
        shown = np.where(density.values > 0, density.values, np.nan) if log else density.values
        upper.errorbar(middle, shown, yerr=density.errors, label=name, **style)
        ratio = panels.ratio(density.values, base.values)
        ratio = np.where(ratio > 0, ratio, np.nan) if ratio_log else ratio
        lower.errorbar(middle, ratio, yerr=panels.ratio(density.errors, base.values), **style)
    upper.set_ylabel("Normalised density [1/GeV]" if "GeV" in xlabel else "Normalised density")
    lower.set(xlim=edges[[0, -1]], xlabel=xlabel, yscale="log" if ratio_log else "linear", ylim=ratio_span)
    lower.set_ylabel(f"Ratio to {first}", loc="center", fontsize="small")
    every = (base, *found.values())
    lowest, highest = min(d.smallest for d in every) / 2, max(d.values.max() for d in every)
    floor = max(lowest, highest / DECADES) if log else 0
    panels.finish(upper, label, room=0.05 + 0.05 * len(samples), log=log, floor=floor)
    return upper, lower


def _in_bins(
    found: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]], what: tuple[str, float, float | None],
    xlabel: str, label: str, ax: Axes | None,
) -> Axes:  # fmt: skip
    """Points of several methods side by side in the bins that have a figure."""
    text, factor, target = what
    found = {name: (edges, y, unc) for name, (edges, y, unc) in found.items() if np.isfinite(y).any()}
    panels.require(found, f"bins with {text!r}")
    ax = ax or plt.figure().subplots()
    if target is not None:
        ax.axhline(factor * target, color="black", linewidth=0.8)
    for i, ((name, (edges, y, unc)), colour, marker) in enumerate(panels.series(found)):
        error = np.zeros(len(y)) if unc is None else factor * unc
        panels.in_bins(ax, edges, factor * y, error, (i, len(found)), colour, marker, name)
    ax.set(xlabel=xlabel, ylabel=text)
    columns = 1 if len(found) <= 4 else 2
    panels.finish(ax, label, room=0.1 + 0.06 * np.ceil(len(found) / columns), columns=columns)
    return ax


def _density(values: np.ndarray, weight: np.ndarray | None, edges: np.ndarray) -> Density | None:
    """The normalised density in bins; None where n_eff is too small."""
    weight = np.ones(len(values)) if weight is None else numbers("weight", weight)
    total = weight.sum()
    if n_eff(weight) < panels.MIN_N_EFF or not total > 0:
        return None
    sums, squares = (np.histogram(values, edges, weights=weight**power)[0] for power in (1, 2))
    scale = 1 / (total * np.diff(edges))
    return Density(edges, sums * scale, np.sqrt(squares) * scale)


def _median(values: np.ndarray, weight: np.ndarray | None) -> float:
    return float(weighted_quantiles(values, np.ones(len(values)) if weight is None else weight, (0.5,))[0])


def _split() -> Panels:
    figure = plt.figure()
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.7, 1))
    figure.align_ylabels()
    return upper, lower
