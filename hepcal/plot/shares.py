"""Figures of a run beside its closure: what intervals cover, and the closure of each flavour."""

from __future__ import annotations

from collections.abc import Mapping

import hist
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from hepcal.closure.metrics import by_flavour, closure
from hepcal.plot import panels
from hepcal.plot.panels import NothingToDrawError, Panels, styled

__all__ = ["coverage_in_truth", "flavours"]

Hists = Mapping[str, hist.Hist]

SHARES = {
    "coverage_68": ("In the central 68.27% interval", "#1f6fb5", "o"),
    "within_sigma_tot": (r"Within $\pm\sigma_{tot}$", "#bd1f01", "s"),
}
FLAVOUR_NAMES = {"gluon": "Gluon", "light": "Light quark", "c": "c", "b": "b", "none": "None"}


@styled
def coverage_in_truth(
    hists: Hists, quantity: str = "pt", axis: str | None = None, weighting: str = "qcd", label: str = "",
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Coverage of the central 68.27 % interval, and the share of truths within sigma_tot [%], in bins of truth.

    Raises:
        NothingToDrawError: The method provides no uncertainties, or no bin holds enough entries.
    """
    figures = closure(hists, quantity, "calib", weighting, axis)
    shares = {name: 100 * getattr(figures, name) for name in SHARES}
    shares = {name: values for name, values in shares.items() if np.isfinite(values).any()}
    if not shares:
        raise NothingToDrawError(f"there is no coverage of {quantity!r} with {weighting!r} weights")
    ax = ax or plt.figure().subplots()
    ax.axhline(68.27, color="black", linewidth=0.8)
    for number, (name, values) in enumerate(shares.items()):
        text, colour, marker = SHARES[name]
        errors = 100 * getattr(figures, f"{name}_unc")
        panels.in_bins(ax, figures.edges, values, errors, (number, len(shares)), colour, marker, text)
    ax.set(xlabel=panels.truth_label(hists, quantity, axis), ylabel="Share of truths [%]")
    panels.finish(ax, label, weighting, room=0.25)
    return ax


@styled
def flavours(hists: Hists, weighting: str = "qcd", label: str = "", axes: Panels | None = None) -> Panels:
    """Closure of the calibrated p_T by flavour in bins of truth [%]: of the mean, and below of the median.

    Raises:
        NothingToDrawError: The files do not know flavours, or no bin holds enough entries.
    """
    found = by_flavour(hists, "calib", weighting)
    found = {name: each for name, each in found.items() if np.isfinite(each.bias).any()}
    if not found:
        raise NothingToDrawError(f"there is no flavour with enough jets with {weighting!r} weights")
    upper, lower = axes or panels.split(plt.figure(), (1, 1))
    for ax in (upper, lower):
        ax.axhline(0, color="black", linewidth=0.8)
    for number, ((name, figures), colour, marker) in enumerate(panels.series(found)):
        median = figures.response_median - 1
        for ax, values, errors in (
            (upper, figures.bias, figures.response_mean_unc),
            (lower, median, figures.response_median_unc),
        ):
            place = number, len(found)
            panels.in_bins(ax, figures.edges, 100 * values, 100 * errors, place, colour, marker, FLAVOUR_NAMES[name])
    panels.scale_bias(upper, max(100 * np.nanmax(np.abs(each.bias)) for each in found.values()))
    panels.scale_bias(lower, max(100 * np.nanmax(np.abs(each.response_median - 1)) for each in found.values()))
    upper.set_ylabel("Mean bias [%]")
    lower.set(xlabel=panels.truth_label(hists, "pt"), ylabel="Median bias [%]")
    panels.finish(upper, label, weighting, room=0.25, columns=len(found))
    return upper, lower
