"""Figures of a closure, drawn from saved histograms: response, bias, resolution, uncertainties, pulls, spectra.

::

    hists = hepcal.results.load_hists(directory)
    ax = hepcal.plot.bias(hists, "pt", "abs_eta", label="Pythia 8 + Delphes")

All take the histograms of :func:`hepcal.hists.book`, a ``quantity`` (``pt`` or ``mjj``, in GeV), a ``weighting``
(``qcd`` or ``bsm``), a ``label`` to write above the axes, and the axes to draw into (default: those of a new pyplot
figure), which they return. Functions in bins of truth take its ``axis`` too: ``pt_truth`` [GeV], ``abs_eta`` or
``mjj_truth`` [GeV]; they show bins with n_eff of at least ten, with bin widths and statistical errors as bars. The
style is set while a function draws, and nowhere else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hist
import matplotlib
import matplotlib.pyplot as plt
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepcal.errors import HepcalError
from hepcal.hists import LEVELS, WEIGHTINGS
from hepcal.metrics import Closure, closure

__all__ = ["NothingToDrawError", "bias", "pull", "resolution", "response", "spectrum", "uncertainties", "write"]

Hists = Mapping[str, hist.Hist]
Panels = tuple[Axes, Axes]

MIN_N_EFF = 10
LINEAR_BIAS = 10.0  # [%]
SYMBOLS = {"pt": "$p_T$", "mjj": "$m_{jj}$"}
NAMES = {"truth": "Truth", "reco": "Before calibration", "calib": "After calibration", "qcd": "QCD", "bsm": "BSM"}
COLOURS = {"qcd": "#1f6fb5", "bsm": "#bd1f01", "truth": "#d3d6da", "reco": "#4d4d4d"}
SIGMAS = {
    "sigma_stoch": (r"$\sigma_{stoch}$, energy fluctuations", "#1f6fb5"),
    "sigma_pred": (r"$\sigma_{pred}$, limited training sample", "#bd1f01"),
}
STYLE: dict[Any, Any] = {
    "figure.figsize": (6.4, 4.8), "figure.subplot.left": 0.15, "figure.subplot.right": 0.96,
    "figure.subplot.bottom": 0.125, "figure.subplot.top": 0.93, "figure.subplot.hspace": 0.06,
    "font.size": 11, "axes.labelsize": 12, "axes.titlesize": 10, "legend.fontsize": 10, "legend.frameon": False,
    "xaxis.labellocation": "right", "yaxis.labellocation": "top", "mathtext.default": "regular",
    "xtick.direction": "in", "ytick.direction": "in", "xtick.top": True, "ytick.right": True,
    "xtick.minor.visible": True, "ytick.minor.visible": True, "savefig.dpi": 150,
}  # fmt: skip
styled = matplotlib.rc_context(STYLE)


class NothingToDrawError(HepcalError, ValueError):
    """The histograms of a figure were not filled, or hold too few entries; no figure was made."""


@styled
def response(
    hists: Hists, quantity: str = "pt", weighting: str = "qcd", label: str = "", ax: Axes | None = None
) -> Axes:
    """Normalised response, value over truth, before and after calibration, with all bins of truth summed.

    Raises:
        NothingToDrawError: Nothing was filled.
    """
    filled = hists[f"{quantity}_response"]
    densities = _densities(filled, weighting, LEVELS, (0.5, 1.6))
    ax = ax or plt.figure().subplots()
    for level, density in densities.items():
        figures = closure(hists, quantity, level, weighting, total=True)
        median = figures.response_median[0]
        text = f"{NAMES[level]}\nmedian {median:.3f}\nhalf 68% width {figures.resolution[0] * median:.3f}"
        colour = _draw(ax, density, level, weighting, text)
        ax.axvline(median, color=colour, linestyle=":", linewidth=1)
    ax.set(xlim=(0.5, 1.6), xlabel=filled.axes[-1].label, ylabel="Normalised density")
    _finish(ax, label, weighting, room=0.1, floor=0)
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
    found = _closures(hists, quantity, axis, weightings)
    ax = ax or plt.figure().subplots()
    ax.axhline(0, color="black", linewidth=0.8)
    for (weighting, level), figures in found.items():
        _points(ax, figures, 100 * figures.bias, 100 * figures.response_mean_unc, weighting, level)
    if max(100 * np.abs(f.bias[f.n_eff >= MIN_N_EFF]).max() for f in found.values()) > 2 * LINEAR_BIAS:
        ax.set_yscale("symlog", linthresh=LINEAR_BIAS, linscale=1.5, subs=range(2, 10))
        ax.set_yticks([tick for tick in (-50, -20, -10, -5, 0, 5, 10, 20, 50, 100, 200) if _within(ax, tick)])
        ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel=_truth_label(hists, quantity, axis), ylabel=f"Relative bias of {SYMBOLS[quantity]} [%]")
    _finish(ax, label, room=0.25, columns=len(found) // 2)
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
    found = _closures(hists, quantity, axis, weightings)
    upper, lower = axes or _split(plt.figure())
    for (weighting, level), figures in found.items():
        _points(upper, figures, 100 * figures.resolution, 100 * figures.resolution_unc, weighting, level)
        if level == "calib":
            reco = found[weighting, "reco"]
            ratio = _ratio(figures.resolution, reco.resolution)
            relative = np.hypot(*(_ratio(f.resolution_unc, f.resolution) for f in (figures, reco)))
            _points(lower, figures, ratio, ratio * relative, weighting, level)
    lower.axhline(1, color="black", linewidth=0.8)
    upper.set_ylabel(f"Resolution of {SYMBOLS[quantity]} [%]")
    lower.set(xlabel=_truth_label(hists, quantity, axis), ylabel="After / before")
    _finish(upper, label, room=0.35, columns=len(found) // 2)
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
    truth = np.where(figures.n_eff >= MIN_N_EFF, _mean_truth(hists, quantity, weighting), np.nan)
    relative = {name: 100 * _ratio(getattr(figures, name), truth) for name in SIGMAS}
    relative = {name: values for name, values in relative.items() if np.isfinite(values).any()}
    if not relative:
        raise NothingToDrawError(f"there are no uncertainties of {quantity!r} with {weighting!r} weights")
    ax = ax or plt.figure().subplots()
    centres, half = _centres(figures.edges)
    for name, values in relative.items():
        text, colour = SIGMAS[name]
        ax.errorbar(centres, values, xerr=half, fmt="o", markersize=4.5, color=colour, label=text)
    means = [np.nanmean(values) for values in relative.values()]
    log = max(means) > 5 * min(means) > 0
    ax.set(xlabel=_truth_label(hists, quantity), ylabel=rf"Mean $\sigma$ / mean true {SYMBOLS[quantity]} [%]")
    _finish(ax, label, weighting, room=0.25, log=log, floor=None if log else 0)
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
    density = _densities(filled, weighting, ("calib",), span)["calib"]
    figures = closure(hists, quantity, "calib", weighting, total=True)
    ax = ax or plt.figure().subplots()
    text = f"{NAMES['calib']}\nmean {figures.pull_mean[0]:+.3f}, s.d. {figures.pull_sd[0]:.3f}\n".replace("-", "\u2212")
    text += f"half 68% width {figures.pull_half68[0]:.3f}\n"
    text += rf"{100 * figures.coverage_68[0]:.1f}% within $\pm\sigma_{{tot}}$"
    _draw(ax, density, "calib", weighting, text)
    x = np.linspace(*span, 300)
    gauss = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    ax.plot(x, gauss, "--", color="black", linewidth=1, label="Unit Gaussian\n68.3% within $\\pm1$")
    ax.set(xlim=span, xlabel=filled.axes[-1].label, ylabel="Normalised density")
    bottom = density.smallest / 2 if log else 0
    _finish(ax, label, weighting, room=0.15, log=log, floor=bottom)
    return ax


@styled
def spectrum(
    hists: Hists, quantity: str = "mjj", weighting: str = "qcd", label: str = "", axes: Panels | None = None
) -> Panels:
    """Normalised spectra [1/GeV] at truth, before and after calibration, with the ratio to truth.

    In the ratio, bars are the statistical errors of the numerator and the band is that of the denominator; both are
    measured in the same events, so these errors are correlated. Without truth (collision data) the ratio is to the
    values before calibration. The y axis is logarithmic for ``qcd``.

    Raises:
        NothingToDrawError: Nothing was filled.
    """
    filled, log = hists[quantity], weighting == "qcd"
    levels = ("truth", *LEVELS)
    densities = _densities(filled, weighting, levels, _span(filled, weighting, levels, 1e-4 if log else 5e-3))
    upper, lower = axes or _split(plt.figure())
    for level, density in densities.items():
        _draw(upper, density, level, weighting, NAMES[level])
    upper.set_ylabel(rf"$(1/N)\,$d$N/$d{SYMBOLS[quantity]} [1/GeV]")
    _draw_ratios(lower, densities, weighting)
    lower.set(xlim=density.edges[[0, -1]], ylim=(0.4, 1.6) if log else (0, 2), xlabel=filled.axes[-1].label)
    lower.set_yticks((0.5, 1, 1.5))
    bottom = min(density.smallest for density in densities.values()) / 2 if log else 0
    simulated = "truth" in densities
    _finish(upper, label, weighting if simulated else "", room=0.12, log=log, floor=bottom, columns=3)
    if not simulated:
        upper.text(0.03, 0.05, "No particle-level truth", transform=upper.transAxes, fontsize="small")
    return upper, lower


@styled
def write(directory: Path, hists: Hists, summary: Mapping[str, Any]) -> list[Path]:
    """Write the figures of a run as ``plots/<name>.png`` and ``.pdf``.

    Figures whose histograms were not filled are left out, and those of an earlier run removed. Each file appears
    complete or not at all, and the same histograms give the same files.

    Args:
        directory: The directory of the run.
        hists: Filled histograms of :func:`hepcal.hists.book`.
        summary: From :func:`hepcal.results.summarise`; names the method, and whether it was trained on these files.

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
    "spectrum_mjj_qcd": (spectrum, {}),
    "spectrum_mjj_bsm": (spectrum, {"weighting": "bsm"}),
    "spectrum_pt_qcd": (spectrum, {"quantity": "pt"}),
}


def _save(plots: Path, name: str, hists: Hists, label: str) -> list[Path]:
    """Draw one figure and write it, or remove what an earlier run left."""
    draw, options = FIGURES[name]
    figure, targets = Figure(), [plots / f"{name}.png", plots / f"{name}.pdf"]
    where = {"axes": _split(figure)} if draw in (resolution, spectrum) else {"ax": figure.subplots()}
    try:
        draw(hists, **options, **where, label=label)
    except NothingToDrawError:
        for target in targets:
            target.unlink(missing_ok=True)
        return []
    with tempfile.TemporaryDirectory(dir=plots, prefix=".writing-") as scratch:
        for target in targets:
            part = Path(scratch, target.name)
            figure.savefig(part, metadata={"CreationDate": None} if part.suffix == ".pdf" else None)
            part.replace(target)
    return targets


def _sample(hists: Hists, summary: Mapping[str, Any]) -> str:
    """Data sets (three at most) and method, and a warning if the figures show training files."""
    names = list(dict.fromkeys(name for key in ("mjj", "pt") for name in hists[key].axes["dataset"]))
    method = str(summary.get("calibrator", {}).get("method", "")).upper()
    trained = "trained on these files" if summary.get("trained_on") else ""
    return ", ".join(filter(None, [*names[:3], "..." if len(names) > 3 else "", method, trained]))


def _split(figure: Figure) -> Panels:
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.7, 1))
    figure.align_ylabels()
    return upper, lower


class _Density(NamedTuple):
    """A normalised distribution: edges of shape (bins + 1,), values and statistical errors of shape (bins,)."""

    edges: np.ndarray
    values: np.ndarray
    errors: np.ndarray

    @property
    def smallest(self) -> float:
        return float(min(self.values[self.values > 0], default=1))


def _contents(filled: hist.Hist, weighting: str, level: str) -> Any:
    """Contents along the last axis with flow, data sets and bins of truth summed."""
    chosen = {"weighting": weighting} | ({"level": level} if "level" in filled.axes.name else {})
    inner = filled[{name: hist.loc(value) for name, value in chosen.items()}]
    return inner.project(filled.axes[-1].name).view(flow=True)


def _densities(
    filled: hist.Hist, weighting: str, levels: Sequence[str], span: tuple[float, float]
) -> dict[str, _Density]:
    """The levels that were filled, normalised to all entries, in common bins within ``span``: 60 at most."""
    edges = filled.axes[-1].edges
    first, last = np.searchsorted(edges, np.add(span, (-1e-9, 1e-9)))
    views = {level: _contents(filled, weighting, level) for level in levels}
    views = {level: v for level, v in views.items() if v["value"].sum() > 0 and v["value"][first + 1 : last].any()}
    if not views:
        raise NothingToDrawError(f"nothing to draw of {filled.axes[-1].label!r} with {weighting!r} weights")
    n_eff = max(view["value"].sum() ** 2 / view["variance"].sum() for view in views.values())
    group = int(np.ceil((last - 1 - first) / np.clip(n_eff / 15, 10, 60)))
    cut = slice(first + 1, first + 1 + (last - 1 - first) // group * group)  # content 0 is the underflow
    edges = edges[first : cut.stop : group]
    out = {}
    for level, view in views.items():
        values, variances = (view[part][cut].reshape(-1, group).sum(axis=1) for part in ("value", "variance"))
        scale = 1 / (view["value"].sum() * np.diff(edges))
        out[level] = _Density(edges, values * scale, np.sqrt(variances) * scale)
    return out


def _span(filled: hist.Hist, weighting: str, levels: Sequence[str], tail: float) -> tuple[float, float]:
    """Where the contents are, without a share of ``tail`` at each end."""
    contents = [_contents(filled, weighting, level)["value"][1:-1] for level in levels]
    cumulative = np.cumsum(np.maximum(contents, 0).sum(axis=0))
    first, last = np.searchsorted(cumulative, np.multiply((tail, 1 - tail), cumulative[-1]))
    edges = filled.axes[-1].edges
    return float(edges[first]), float(edges[last + 1])


def _closures(
    hists: Hists, quantity: str, axis: str | None, weightings: Sequence[str]
) -> dict[tuple[str, str], Closure]:
    """Closures before and after calibration of the weightings that have a bin to show."""
    out: dict[tuple[str, str], Closure] = {}
    for weighting in weightings:
        levels = {(weighting, level): closure(hists, quantity, level, weighting, axis) for level in LEVELS}
        if all((figures.n_eff >= MIN_N_EFF).any() for figures in levels.values()):
            out |= levels
    if not out:
        raise NothingToDrawError(f"no bin of {quantity!r} has n_eff of {MIN_N_EFF}")
    return out


def _truth_label(hists: Hists, quantity: str, axis: str | None = None) -> str:
    return str(hists[f"{quantity}_sums"].axes[axis or f"{quantity}_truth"].label)


def _mean_truth(hists: Hists, quantity: str, weighting: str) -> np.ndarray:
    """Mean truth [GeV] in bins of truth."""
    sums = hists[f"{quantity}_sums"][{"weighting": hist.loc(weighting), "level": hist.loc("calib")}]
    terms = sums.project(f"{quantity}_truth", "term")
    return _ratio(*(terms[{"term": hist.loc(name)}].values() for name in ("truth", "jets")))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is not positive."""
    out = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def _centres(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2


def _within(ax: Axes, value: float) -> bool:
    return bool(ax.get_ylim()[0] <= value <= ax.get_ylim()[1])


def _points(ax: Axes, figures: Closure, values: np.ndarray, errors: np.ndarray, weighting: str, level: str) -> None:
    """Points with errors in bins of truth: open before, filled after calibration."""
    use = (figures.n_eff >= MIN_N_EFF) & np.isfinite(values) & np.isfinite(errors)
    centres, half = _centres(figures.edges)
    ax.errorbar(
        centres[use], values[use], xerr=half[use], yerr=errors[use], color=COLOURS[weighting], linewidth=1.2,
        fmt="s" if weighting == "bsm" else "o", markersize=4.5, markerfacecolor="white" if level == "reco" else None,
        label=f"{NAMES[weighting]}, {NAMES[level].lower()}",
    )  # fmt: skip


def _draw(ax: Axes, density: _Density, level: str, weighting: str, text: str) -> str:
    """Truth as an area, reco as a line, calib as points; returns the colour."""
    colour = COLOURS[weighting if level == "calib" else level]
    options: dict[str, dict[str, Any]] = {
        "truth": {"histtype": "fill"},
        "reco": {"histtype": "step", "linewidth": 1.2},
        "calib": {"histtype": "errorbar", "yerr": density.errors, "marker": "o", "markersize": 4},
    }
    mplhep.histplot(density.values, density.edges, ax=ax, color=colour, label=text, flow="none", **options[level])
    return colour


def _draw_ratios(ax: Axes, densities: Mapping[str, _Density], weighting: str) -> None:
    """Levels over the first one, whose own error is a band."""
    (name, base), *others = densities.items()
    band = np.nan_to_num(_ratio(base.errors, base.values))
    ax.stairs(1 + band, base.edges, baseline=1 - band, fill=True, color=COLOURS["truth"])
    ax.axhline(1, color="black", linewidth=0.8)
    centres, half = _centres(base.edges)
    for level, density in others:
        ratio, error = _ratio(density.values, base.values), _ratio(density.errors, base.values)
        ax.errorbar(
            centres, ratio, xerr=half, yerr=error, color=COLOURS[weighting if level == "calib" else level],
            linewidth=1, fmt="o", markersize=3.5, markerfacecolor="white" if level == "reco" else None,
        )  # fmt: skip
    ax.set_ylabel(f"Ratio to {NAMES[name].split()[0].lower()}", loc="center", fontsize="small")


def _finish(
    ax: Axes, label: str, weighting: str = "", *, room: float, log: bool = False, floor: float | None = None,
    columns: int = 1,
) -> None:  # fmt: skip
    """Titles, scale and lower end of y, and a legend in the share ``room`` of extra height."""
    if log:
        ax.set_yscale("log")
    if floor is not None:
        ax.set_ylim(bottom=floor)
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.asarray(ax.get_ylim()))
    ax.set_ylim(top=float(scale.inverted().transform(np.asarray([high + room * (high - low)]))[0]))
    ax.set_title(label, loc="left")
    ax.set_title(f"{NAMES[weighting]} weights" if weighting else "", loc="right")
    ax.legend(loc="upper right" if columns == 1 else "upper center", ncols=columns)
