"""What figures are made of: normalised densities, points in bins of truth, ratios, legends with room."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import hist
import matplotlib
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepcal.closure.hists import LEVELS
from hepcal.closure.metrics import Closure, closure
from hepcal.errors import HepcalError
from hepcal.statistics import MIN_N_EFF
from hepcal.storage.outputs import filling

__all__ = [
    "MIN_N_EFF",
    "Density",
    "NothingToDrawError",
    "banded",
    "centres",
    "closures",
    "contents",
    "densities",
    "draw",
    "draw_ratios",
    "finish",
    "in_bins",
    "mean_truth",
    "points",
    "ratio",
    "require",
    "require_events",
    "save",
    "save_figure",
    "scale_bias",
    "series",
    "span",
    "split",
    "styled",
    "truth_label",
    "within",
]

Hists = Mapping[str, hist.Hist]
Named = TypeVar("Named")
Panels = tuple[Axes, Axes]

SYMBOLS = {"pt": "$p_T$", "mjj": "$m_{jj}$"}
NAMES = {
    "truth": "Truth",
    "reco": "Before calibration",
    "calib": "After calibration",
    "qcd": "QCD",
    "bsm": "BSM",
    "data": "Data",
}
COLOURS = {"qcd": "#1f6fb5", "bsm": "#bd1f01", "data": "black", "truth": "#d3d6da", "reco": "#4d4d4d"}
# Methods side by side: colours that differ in brightness too, and markers for prints without colour.
SERIES = (("#1f6fb5", "o"), ("#bd1f01", "s"), ("#e08a00", "^"), ("#2e7d4f", "D"), ("#7a21dd", "v"), ("#4d4d4d", "P"))

STYLE: dict[Any, Any] = {
    "figure.figsize": (6.4, 4.8), "figure.subplot.left": 0.15, "figure.subplot.right": 0.96,
    "figure.subplot.bottom": 0.125, "figure.subplot.top": 0.93, "figure.subplot.hspace": 0.06,
    "font.size": 11, "axes.labelsize": 12, "axes.titlesize": 10, "legend.fontsize": 10, "legend.frameon": False,
    "xaxis.labellocation": "right", "yaxis.labellocation": "top", "mathtext.default": "regular",
    "xtick.direction": "in", "ytick.direction": "in", "xtick.top": True, "ytick.right": True,
    "xtick.minor.visible": True, "ytick.minor.visible": True, "savefig.dpi": 150,
}  # fmt: skip
styled = matplotlib.rc_context(STYLE)


LINEAR_BIAS = 10.0  # [%]


class NothingToDrawError(HepcalError, ValueError):
    """The histograms or scores of a figure were not filled, or hold too few entries; no figure was made."""


class Density(NamedTuple):
    """A normalised distribution: edges of shape (bins + 1,), values and statistical errors of shape (bins,)."""

    edges: np.ndarray
    values: np.ndarray
    errors: np.ndarray

    @property
    def smallest(self) -> float:
        """Smallest positive value, for logarithmic axes."""
        return float(min(self.values[self.values > 0], default=1))


def contents(filled: hist.Hist, weighting: str, level: str) -> Any:
    """Contents along the last axis with flow, data sets and bins of truth summed."""
    chosen = {"weighting": weighting} | ({"level": level} if "level" in filled.axes.name else {})
    inner = filled[{name: hist.loc(value) for name, value in chosen.items()}]
    return inner.project(filled.axes[-1].name).view(flow=True)


def densities(
    filled: hist.Hist, weighting: str, levels: Sequence[str], span: tuple[float, float]
) -> dict[str, Density]:
    """The levels that were filled, normalised to all entries, in common bins within ``span``: 60 at most."""
    edges = filled.axes[-1].edges
    first, last = np.searchsorted(edges, np.add(span, (-1e-9, 1e-9)))
    views = {level: contents(filled, weighting, level) for level in levels}
    views = {level: v for level, v in views.items() if v["value"].sum() > 0 and v["value"][first + 1 : last].any()}
    if not views:
        raise NothingToDrawError(f"nothing to draw of {filled.axes[-1].label!r} with {weighting!r} weights")
    n_eff = max(view["value"].sum() ** 2 / view["variance"].sum() for view in views.values())
    if n_eff < MIN_N_EFF:
        raise NothingToDrawError(f"n_eff of {filled.axes[-1].label!r} with {weighting!r} weights is {n_eff:.1f}")
    group = int(np.ceil((last - 1 - first) / np.clip(n_eff / 15, 10, 60)))
    cut = slice(first + 1, first + 1 + (last - 1 - first) // group * group)  # content 0 is the underflow
    edges = edges[first : cut.stop : group]
    out = {}
    for level, view in views.items():
        values, variances = (view[part][cut].reshape(-1, group).sum(axis=1) for part in ("value", "variance"))
        scale = 1 / (view["value"].sum() * np.diff(edges))
        out[level] = Density(edges, values * scale, np.sqrt(variances) * scale)
    return out


def span(filled: hist.Hist, weighting: str, levels: Sequence[str], tail: float) -> tuple[float, float]:
    """Where the contents are, without a share of ``tail`` at each end."""
    found = [contents(filled, weighting, level)["value"][1:-1] for level in levels]
    cumulative = np.cumsum(np.maximum(found, 0).sum(axis=0))
    first, last = np.searchsorted(cumulative, np.multiply((tail, 1 - tail), cumulative[-1]))
    edges = filled.axes[-1].edges
    return float(edges[first]), float(edges[last + 1])


def closures(
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


def require_events(hists: Hists, quantity: str, weighting: str) -> None:
    """Refuse to draw fewer effective events than a figure needs."""
    n_eff = max(closure(hists, quantity, level, weighting, total=True).n_eff[0] for level in LEVELS)
    if n_eff < MIN_N_EFF:
        raise NothingToDrawError(f"n_eff of {quantity!r} with {weighting!r} weights is {n_eff:.1f}")


def truth_label(hists: Hists, quantity: str, axis: str | None = None) -> str:
    """Label of a truth axis, with its unit."""
    return str(hists[f"{quantity}_sums"].axes[axis or f"{quantity}_truth"].label)


def mean_truth(hists: Hists, quantity: str, weighting: str) -> np.ndarray:
    """Mean truth [GeV] in bins of truth."""
    sums = hists[f"{quantity}_sums"][{"weighting": hist.loc(weighting), "level": hist.loc("calib")}]
    terms = sums.project(f"{quantity}_truth", "term")
    return ratio(*(terms[{"term": hist.loc(name)}].values() for name in ("truth", "jets")))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is not positive."""
    out = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def centres(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres and half widths of bins."""
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2


def within(ax: Axes, value: float) -> bool:
    """Whether a value is inside the y range."""
    return bool(ax.get_ylim()[0] <= value <= ax.get_ylim()[1])


def points(ax: Axes, figures: Closure, values: np.ndarray, errors: np.ndarray, weighting: str, level: str) -> None:
    """Points with errors in bins of truth: open before, filled after calibration."""
    use = (figures.n_eff >= MIN_N_EFF) & np.isfinite(values) & np.isfinite(errors)
    middle, half = centres(figures.edges)
    ax.errorbar(
        middle[use], values[use], xerr=half[use], yerr=errors[use], color=COLOURS[weighting], linewidth=1.2,
        fmt="s" if weighting == "bsm" else "o", markersize=4.5, markerfacecolor="white" if level == "reco" else None,
        label=f"{NAMES[weighting]}, {NAMES[level].lower()}",
    )  # fmt: skip


def require(found: Collection[Any], what: str) -> None:
    """Refuse to draw nothing."""
    if not len(found):
        raise NothingToDrawError(f"there are no {what} to draw")


def series(found: Mapping[Named, Any]) -> Iterator[tuple[tuple[Named, Any], str, str]]:
    """Items of a mapping, each with a colour and a marker."""
    for i, item in enumerate(found.items()):
        yield item, *SERIES[i % len(SERIES)]


def banded(ax: Axes, x: np.ndarray, y: np.ndarray, unc: np.ndarray, colour: str, marker: str, text: str) -> None:
    """A line with points and a band of errors."""
    ax.fill_between(x, y - unc, y + unc, color=colour, alpha=0.2, linewidth=0)
    ax.plot(x, y, marker=marker, color=colour, markersize=4, linewidth=1.2, label=text)


def in_bins(
    ax: Axes, edges: np.ndarray, y: np.ndarray, unc: np.ndarray, place: tuple[int, int], colour: str, marker: str,
    text: str,
) -> None:  # fmt: skip
    """Points with errors and bin widths; ``place`` is (i, of how many), which are drawn side by side within bins."""
    middle, half = centres(edges)
    x = middle + half * 0.5 * (2 * place[0] + 1 - place[1]) / place[1]
    use = np.isfinite(y)
    ax.errorbar(
        x[use], y[use], xerr=[(x - edges[:-1])[use], (edges[1:] - x)[use]], yerr=np.nan_to_num(unc)[use],
        color=colour, fmt=marker, markersize=4.5, linewidth=1.2, label=text,
    )  # fmt: skip


def draw(ax: Axes, density: Density, level: str, weighting: str, text: str) -> str:
    """Truth as an area, reco as a line, calib as points; returns the colour."""
    colour = COLOURS[weighting if level == "calib" else level]
    options: dict[str, dict[str, Any]] = {
        "truth": {"histtype": "fill"},
        "reco": {"histtype": "step", "linewidth": 1.2},
        "calib": {"histtype": "errorbar", "yerr": density.errors, "marker": "o", "markersize": 4},
    }
    mplhep.histplot(density.values, density.edges, ax=ax, color=colour, label=text, flow="none", **options[level])
    return colour


def draw_ratios(ax: Axes, densities: Mapping[str, Density], weighting: str) -> None:
    """Levels over the first one, whose own error is a band."""
    (name, base), *others = densities.items()
    band = np.nan_to_num(ratio(base.errors, base.values))
    ax.stairs(1 + band, base.edges, baseline=1 - band, fill=True, color=COLOURS["truth"])
    ax.axhline(1, color="black", linewidth=0.8)
    middle, half = centres(base.edges)
    for level, density in others:
        relative, error = ratio(density.values, base.values), ratio(density.errors, base.values)
        ax.errorbar(
            middle, relative, xerr=half, yerr=error, color=COLOURS[weighting if level == "calib" else level],
            linewidth=1, fmt="o", markersize=3.5, markerfacecolor="white" if level == "reco" else None,
        )  # fmt: skip
    ax.set_ylabel(f"Ratio to {NAMES[name].split()[0].lower()}", loc="center", fontsize="small")


def scale_bias(ax: Axes, largest: float) -> None:
    """A y axis of biases [%]: linear, or, with a bias above 20 %, linear up to 10 % and logarithmic beyond."""
    if largest > 2 * LINEAR_BIAS:
        ax.set_yscale("symlog", linthresh=LINEAR_BIAS, linscale=1.5, subs=range(2, 10))
        ax.set_yticks([tick for tick in (-50, -20, -10, -5, 0, 5, 10, 20, 50, 100, 200) if within(ax, tick)])
        ax.yaxis.set_major_formatter("{x:g}")


def finish(
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


def save(plots: Path, name: str, draw: Callable[..., Any]) -> list[Path]:
    """Write a figure of one panel; ``draw`` is called with ``ax``."""
    return save_figure(plots, name, lambda figure: draw(ax=figure.subplots()))


@styled
def save_figure(plots: Path, name: str, draw: Callable[[Figure], Any]) -> list[Path]:
    """Draw a figure and write it as ``<name>.png`` and ``.pdf``, or remove what an earlier run left.

    Each file appears complete or not at all, and the same figure gives the same files.

    Args:
        plots: An existing directory.
        name: Of the files.
        draw: Draws into an empty figure; if it raises :class:`NothingToDrawError`, nothing is written.

    Returns:
        The files written.
    """
    figure, targets = Figure(), [plots / f"{name}.png", plots / f"{name}.pdf"]
    try:
        draw(figure)
    except NothingToDrawError:
        for target in targets:
            target.unlink(missing_ok=True)
        return []
    with filling(plots) as scratch:
        for target in targets:
            metadata = {"CreationDate": None} if target.suffix == ".pdf" else None
            figure.savefig(scratch / target.name, metadata=metadata)
    return targets


def split(figure: Figure, heights: tuple[float, float] = (2.7, 1.0)) -> Panels:
    """Two panels above each other with one x axis."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    figure.align_ylabels()
    return upper, lower
