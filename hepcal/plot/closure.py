"""Figures of a closure, drawn from saved histograms: response, bias, resolution, uncertainties, pulls, spectra.

::

    hists = hepcal.closure.results.load_hists(directory)
    ax = hepcal.plot.bias(hists, "pt", "abs_eta", label="Pythia 8 + Delphes")

All take the histograms of :func:`hepcal.closure.hists.book`, a ``quantity`` (``pt`` or ``mjj``, in GeV), a
``weighting`` (``qcd`` or ``bsm``; spectra also ``data``), a ``label`` to write above the axes, and the axes to draw
into (default: those of a new pyplot figure), which they return. Functions in bins of truth take its ``axis`` too:
``pt_truth`` [GeV], ``abs_eta`` or ``mjj_truth`` [GeV]; they show bins with n_eff of at least 30, with bin widths and
statistical errors as bars. The style is set while a function draws, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hist
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepcal.closure.hists import LEVELS, WEIGHTINGS
from hepcal.closure.metrics import closure
from hepcal.closure.records import Summary
from hepcal.plot import panels
from hepcal.plot.panels import NothingToDrawError, Panels, styled
from hepcal.plot.shares import coverage_in_truth, flavours

__all__ = [
    "bias",
    "pull",
    "resolution",
    "response",
    "spectrum",
    "uncertainties",
    "write",
]

Hists = Mapping[str, hist.Hist]

SIGMAS = {
    "sigma_stoch": (r"$\sigma_{stoch}$, stochastic", "#1f6fb5"),
    "sigma_pred": (r"$\sigma_{pred}$, limited training sample", "#bd1f01"),
}


@styled
def response(
    hists: Hists, quantity: str = "pt", weighting: str = "qcd", label: str = "", ax: Axes | None = None
) -> Axes:
    """Normalised response, value over truth, before and after calibration, with all bins of truth summed.

    Raises:
        NothingToDrawError: Nothing was filled.
    """
    filled = hists[f"{quantity}_response"]
    densities = panels.densities(filled, weighting, LEVELS, (0.5, 1.6))
    panels.require_events(hists, quantity, weighting)
    ax = ax or plt.figure().subplots()
    for level, density in densities.items():
        figures = closure(hists, quantity, level, weighting, total=True)
        median = figures.response_median[0]
        text = f"{panels.NAMES[level]}\nmedian {median:.3f}\nhalf 68% width {figures.resolution[0] * median:.3f}"
        colour = panels.draw(ax, density, level, weighting, text)
        ax.axvline(median, color=colour, linestyle=":", linewidth=1)
    ax.set(xlim=(0.5, 1.6), xlabel=filled.axes[-1].label, ylabel="Normalised density")
    panels.finish(ax, label, weighting, room=0.1, floor=0)
    return ax


@styled
def bias(
    hists: Hists, quantity: str = "pt", axis: str | None = None, weightings: Sequence[str] = WEIGHTINGS,
    label: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Relative bias, mean of (value - truth) / truth [%], in bins of truth, before and after calibration.

    The y axis is linear up to 10 % and logarithmic beyond, if there is a bias above 20 %.

    Raises:
        NothingToDrawError: No bin holds enough entries.
    """
    found = panels.closures(hists, quantity, axis, weightings)
    ax = ax or plt.figure().subplots()
    ax.axhline(0, color="black", linewidth=0.8)
    for (weighting, level), figures in found.items():
        panels.points(ax, figures, 100 * figures.bias, 100 * figures.response_mean_unc, weighting, level)
    panels.scale_bias(ax, max(100 * np.nanmax(np.abs(f.bias)) for f in found.values()))
    ax.set(xlabel=panels.truth_label(hists, quantity, axis), ylabel=f"Relative bias of {panels.SYMBOLS[quantity]} [%]")
    panels.finish(ax, label, room=0.25, columns=len(found) // 2)
    return ax


@styled
def resolution(
    hists: Hists, quantity: str = "pt", axis: str | None = None, weightings: Sequence[str] = WEIGHTINGS,
    label: str = "", axes: Panels | None = None,
) -> Panels:  # fmt: skip
    """Resolution, half the central 68.27 % width of the response over its median [%], in bins of truth.

    The lower panel is the ratio after / before calibration. Its errors treat the two as uncorrelated, although both
    are measured with the same jets: they are rather too large than too small.

    Raises:
        NothingToDrawError: No bin holds enough entries.
    """
    found = panels.closures(hists, quantity, axis, weightings)
    upper, lower = axes or panels.split(plt.figure())
    for (weighting, level), figures in found.items():
        panels.points(upper, figures, 100 * figures.resolution, 100 * figures.resolution_unc, weighting, level)
        if level == "calib":
            reco = found[weighting, "reco"]
            ratio = panels.ratio(figures.resolution, reco.resolution)
            relative = np.hypot(*(panels.ratio(f.resolution_unc, f.resolution) for f in (figures, reco)))
            panels.points(lower, figures, ratio, ratio * relative, weighting, level)
    lower.axhline(1, color="black", linewidth=0.8)
    upper.set_ylabel(f"Resolution of {panels.SYMBOLS[quantity]} [%]")
    lower.set(xlabel=panels.truth_label(hists, quantity, axis), ylabel="After / before")
    panels.finish(upper, label, room=0.35, columns=len(found) // 2)
    return upper, lower


@styled
def uncertainties(
    hists: Hists, quantity: str = "pt", weighting: str = "qcd", label: str = "", ax: Axes | None = None
) -> Axes:
    """Mean stochastic and statistical uncertainty over mean truth [%], in bins of truth.

    The y axis is logarithmic if the two differ by more than a factor of five.

    Raises:
        NothingToDrawError: The method provides no uncertainties, or no bin holds enough entries.
    """
    figures = closure(hists, quantity, "calib", weighting)
    truth = np.where(figures.n_eff >= panels.MIN_N_EFF, panels.mean_truth(hists, quantity, weighting), np.nan)
    relative = {name: 100 * panels.ratio(getattr(figures, name), truth) for name in SIGMAS}
    relative = {name: values for name, values in relative.items() if np.isfinite(values).any()}
    if not relative:
        raise NothingToDrawError(f"there are no uncertainties of {quantity!r} with {weighting!r} weights")
    ax = ax or plt.figure().subplots()
    centres, half = panels.centres(figures.edges)
    for name, values in relative.items():
        text, colour = SIGMAS[name]
        ax.errorbar(centres, values, xerr=half, fmt="o", markersize=4.5, color=colour, label=text)
    means = [np.nanmean(values) for values in relative.values()]
    log = max(means) > 5 * min(means) > 0
    ax.set(
        xlabel=panels.truth_label(hists, quantity), ylabel=rf"Mean $\sigma$ / mean true {panels.SYMBOLS[quantity]} [%]"
    )
    panels.finish(ax, label, weighting, room=0.25, log=log, floor=None if log else 0)
    return ax


@styled
def pull(
    hists: Hists, quantity: str = "pt", weighting: str = "qcd", label: str = "", ax: Axes | None = None, *,
    log: bool = False,
) -> Axes:  # fmt: skip
    """Normalised distribution of (truth - calibrated value) / sigma_tot, with the unit Gaussian; y may be ``log``.

    Raises:
        NothingToDrawError: The method provides no uncertainties, or nothing was filled.
    """
    filled = hists[f"{quantity}_pull"]
    span = (-8.0, 8.0) if log else (-5.0, 5.0)
    density = panels.densities(filled, weighting, ("calib",), span)["calib"]
    panels.require_events(hists, quantity, weighting)
    figures = closure(hists, quantity, "calib", weighting, total=True)
    ax = ax or plt.figure().subplots()
    text = f"{panels.NAMES['calib']}\nmean {figures.pull_mean[0]:+.3f}, s.d. {figures.pull_sd[0]:.3f}\n".replace(
        "-", "\u2212"
    )
    text += f"half 68% width {figures.pull_half68[0]:.3f}\n"
    text += rf"{100 * figures.within_sigma_tot[0]:.1f}% within $\pm\sigma_{{tot}}$"
    if np.isfinite(figures.coverage_68[0]):
        text += f"\n{100 * figures.coverage_68[0]:.1f}% in the central\n68.27% interval"
    panels.draw(ax, density, "calib", weighting, text)
    x = np.linspace(*span, 300)
    gauss = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    ax.plot(x, gauss, "--", color="black", linewidth=1, label="Unit Gaussian\n68.3% within $\\pm1$")
    ax.set(xlim=span, xlabel=filled.axes[-1].label, ylabel="Normalised density")
    bottom = density.smallest / 2 if log else 0
    panels.finish(ax, label, weighting, room=0.15, log=log, floor=bottom)
    return ax


@styled
def spectrum(
    hists: Hists, quantity: str = "mjj", weighting: str = "qcd", label: str = "", axes: Panels | None = None
) -> Panels:
    """Normalised spectra [1/GeV] at truth, before and after calibration, with the ratio to truth.

    In the ratio, bars are the statistical errors of the numerator and the band is that of the denominator; both are
    measured in the same events, so these errors are correlated. Without truth (collision data) the ratio is to the
    values before calibration. The y axis is linear for ``bsm`` only.

    Raises:
        NothingToDrawError: Nothing was filled.
    """
    filled, log = hists[quantity], weighting != "bsm"
    levels = ("truth", *LEVELS)
    densities = panels.densities(
        filled, weighting, levels, panels.span(filled, weighting, levels, 1e-4 if log else 5e-3)
    )
    upper, lower = axes or panels.split(plt.figure())
    for level, density in densities.items():
        panels.draw(upper, density, level, weighting, panels.NAMES[level])
    upper.set_ylabel(rf"$(1/N)\,$d$N/$d{panels.SYMBOLS[quantity]} [1/GeV]")
    panels.draw_ratios(lower, densities, weighting)
    lower.set(xlim=density.edges[[0, -1]], ylim=(0.4, 1.6) if log else (0, 2), xlabel=filled.axes[-1].label)
    lower.set_yticks((0.5, 1, 1.5))
    bottom = min(density.smallest for density in densities.values()) / 2 if log else 0
    simulated = "truth" in densities
    panels.finish(upper, label, weighting if simulated else "", room=0.12, log=log, floor=bottom, columns=3)
    if not simulated:
        upper.text(0.03, 0.05, "No particle-level truth", transform=upper.transAxes, fontsize="small")
    return upper, lower


@styled
def write(directory: Path, hists: Hists, summary: Summary) -> list[Path]:
    """Write the figures of a run as ``plots/<name>.png`` and ``.pdf``.

    Figures whose histograms were not filled are left out, and those of an earlier run removed. Each file appears
    complete or not at all, and the same histograms give the same files.

    Args:
        directory: The directory of the run.
        hists: Filled histograms of :func:`hepcal.closure.hists.book`.
        summary: From :func:`hepcal.closure.results.summarise`; names the method, and whether it was trained on these
            files.

    Returns:
        The files written.
    """
    plots = directory / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    label = _sample(hists, summary)
    return [path for name in FIGURES for path in _save(plots, name, hists, label)]


FIGURES: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "response_pt_qcd": (response, {}),
    "response_mjj_qcd": (response, {"quantity": "mjj"}),
    "response_mjj_bsm": (response, {"quantity": "mjj", "weighting": "bsm"}),
    "bias_pt_truth": (bias, {}),
    "bias_abs_eta": (bias, {"axis": "abs_eta"}),
    "bias_mjj_truth": (bias, {"quantity": "mjj"}),
    "resolution_pt_truth": (resolution, {}),
    "resolution_abs_eta": (resolution, {"axis": "abs_eta"}),
    "resolution_mjj_truth": (resolution, {"quantity": "mjj"}),
    "uncertainties_pt": (uncertainties, {}),
    "pull_pt_qcd": (pull, {}),
    "coverage_pt_truth": (coverage_in_truth, {}),
    "coverage_abs_eta": (coverage_in_truth, {"axis": "abs_eta"}),
    "closure_by_flavour": (flavours, {}),
    "spectrum_mjj_qcd": (spectrum, {}),
    "spectrum_mjj_bsm": (spectrum, {"weighting": "bsm"}),
    "spectrum_pt_qcd": (spectrum, {"quantity": "pt"}),
    "spectrum_mjj_data": (spectrum, {"weighting": "data"}),
    "spectrum_pt_data": (spectrum, {"quantity": "pt", "weighting": "data"}),
}


def _save(plots: Path, name: str, hists: Hists, label: str) -> list[Path]:
    """Draw one figure and write it, or remove what an earlier run left."""
    draw, options = FIGURES[name]

    def drawn(figure: Figure) -> None:
        heights = (1.0, 1.0) if draw is flavours else (2.7, 1.0)
        split = draw in (resolution, spectrum, flavours)
        where = {"axes": panels.split(figure, heights)} if split else {"ax": figure.subplots()}
        draw(hists, **options, **where, label=label)

    return panels.save_figure(plots, name, drawn)


def _sample(hists: Hists, summary: Summary) -> str:
    """Data sets (three at most) and method, and a warning if the figures show training files."""
    names = list(dict.fromkeys(name for key in ("mjj", "pt") for name in hists[key].axes["dataset"]))
    method = str(summary.get("calibrator", {}).get("method", "")).upper()
    trained = "trained on these files" if summary.get("trained_on") else ""
    return ", ".join(filter(None, [*names[:3], "..." if len(names) > 3 else "", method, trained]))
