"""What the figures of the studies share: numbers from JSON, names, titles, panels with a ratio beneath."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepcal.plot.panels import COLOURS, SERIES

__all__ = [
    "BAND", "COLOURS", "JET_PT", "SERIES", "TOPS", "TRUE_PT", "WINDOWS", "beside", "column", "density", "numbers",
    "open_axes", "pair", "points", "stacked", "titled", "windows_of",
]  # fmt: skip

JET_PT = "$p_{T,j}$"
TRUE_PT = "$p_T^{truth}$"
TOPS = "Pythia 8 + Delphes, top jets"
WINDOWS = {"600-620": f"600 < {JET_PT} < 620 GeV", "500-800": f"500 < {JET_PT} < 800 GeV"}
BAND = "#d3d6da"


def numbers(values: Iterable[Any]) -> np.ndarray:
    """Float64 from a list of JSON, NaN where it says null."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def column(rows: Iterable[Mapping[str, Any]], name: str) -> np.ndarray:
    """One figure of all rows, NaN in rows without it."""
    return numbers(row.get(name) for row in rows)


def windows_of(found: Mapping[str, Any]) -> dict[str, str]:
    """The slices of a study and what they are called in figures; others than those are no slices."""
    return {window: text for window, text in WINDOWS.items() if window in found}


def density(counts: Iterable[Any], edges: Iterable[Any], total: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Histogram per unit of its axis, normalised to ``total`` (default: its own entries), and its statistical error."""
    filled, widths = numbers(counts), np.diff(numbers(edges))
    scale = 1 / (widths * (filled.sum() if total is None else total))
    return filled * scale, np.sqrt(filled) * scale


def beside(panels: int, *, height: float = 4.8, width: float = 5.2) -> tuple[Figure, list[Axes]]:
    """Panels in a row."""
    figure, axes = plt.subplots(1, panels, figsize=(width * panels + 0.6, height), squeeze=False)
    figure.subplots_adjust(left=0.76 / (width * panels + 0.6), right=0.985, wspace=0.24 if width > 5 else 0.36)
    return figure, list(axes[0])


def stacked(panels: int = 1, *, beneath: float = 0.4, height: float = 5.6) -> tuple[Figure, list[Axes], list[Axes]]:
    """Panels in a row with a smaller one beneath each: figure, upper and lower axes, with a common x each."""
    width = 6.4 if panels == 1 else 5.2 * panels + 0.6
    figure, axes = plt.subplots(
        2, panels, figsize=(width, height), sharex="col", squeeze=False,
        gridspec_kw={"height_ratios": [1, beneath], "hspace": 0.07, "wspace": 0.24},
    )  # fmt: skip
    if panels > 1:
        figure.subplots_adjust(left=0.76 / width, right=0.985)
    return figure, list(axes[0]), list(axes[1])


def titled(ax: Axes, found: Mapping[str, Any], right: str = "", *, left: str = TOPS) -> None:
    """Sample on the left, selection on the right; a quick run is named as such."""
    ax.set_title(left + (" (quick run)" if found.get("quick") else ""), loc="left")
    ax.set_title(right, loc="right")


def open_axes(ax: Axes, share: float, *, bottom: float | None = None, **legend: Any) -> None:
    """Room for the legend: the upper end of y is moved up by a share of the height."""
    if bottom is not None:
        ax.set_ylim(bottom=bottom)
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.asarray(ax.get_ylim()))
    ax.set_ylim(top=float(scale.inverted().transform(np.asarray([high + share * (high - low)]))[0]))
    ax.legend(**{"loc": "upper right", **legend})


def pair(ax: Axes, low: float, high: float, colour: str, y: float, text: str | None = None) -> None:
    """An interval as a bar at a height."""
    ax.plot([low, high], [y, y], color=colour, linewidth=1.6, marker="|", markersize=9, label=text)


def points(
    ax: Axes, x: np.ndarray, y: np.ndarray, unc: np.ndarray, kind: int, text: str | None, *, line: bool = False,
    half: np.ndarray | None = None, hollow: bool = False,
) -> None:  # fmt: skip
    """Points with errors in the colour and with the marker of a series; missing errors are not drawn."""
    colour, marker = SERIES[kind % len(SERIES)]
    use = np.isfinite(x) & np.isfinite(y)
    ax.errorbar(
        x[use], y[use], yerr=np.nan_to_num(unc)[use], xerr=None if half is None else half[use], color=colour,
        marker=marker, linestyle="-" if line else "none", linewidth=1.2, markersize=4.5, label=text,
        markerfacecolor="white" if hollow else None,
    )  # fmt: skip
