"""Figures of sqrt(MSE), sigma_stoch and sigma_pred (arXiv:2003.11099, Figures 4 to 7), and of the schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from drawing import (
    BAND,
    JET_PT,
    SERIES,
    WINDOWS,
    beside,
    column,
    numbers,
    open_axes,
    points,
    stacked,
    titled,
    windows_of,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from hepcal.plot.panels import in_bins

__all__ = ["TOLERANCE", "against_constituents", "against_pt", "against_size", "schedules", "with_ensemble"]

NAMES = {
    "rmse": r"$\sqrt{MSE}$",
    "stoch": r"$\sigma_{stoch}$",
    "tot": r"$\sigma_{tot}$",
    "pred": r"$\sigma_{pred}$",
}
# Equality that is asked of sqrt(MSE) and sigma_stoch.
TOLERANCE = 0.05


def against_pt(found: Mapping[str, Any]) -> Figure:
    """sqrt(MSE) and the claimed widths in bins of the fat-jet p_T; bins near the ends of the training are shaded."""
    figure, (above,), (beneath,) = stacked()
    edges, bins = numbers(found["edges"]), found["bins"]
    for i, (name, text) in enumerate(NAMES.items()):
        colour, marker = SERIES[i]
        in_bins(above, edges, column(bins, name), column(bins, f"{name}_unc"), (i, len(NAMES)), colour, marker, text)
    value, unc = column(bins, "rmse_over_stoch"), column(bins, "rmse_over_stoch_unc")
    in_bins(beneath, edges, value, unc, (0, 1), *SERIES[0], "")
    inner = [low for low, row in zip(edges, bins, strict=False) if not row["boundary"]]
    first, last = min(inner), max(inner) + edges[1] - edges[0]
    for ax in (above, beneath):
        for low, high in ((edges[0], first), (last, edges[-1])):
            ax.axvspan(low, high, color=BAND, alpha=0.6, linewidth=0, zorder=0)
    _around_one(beneath)
    beneath.set(xlabel=f"{JET_PT} [GeV]", xlim=(edges[0], edges[-1]))
    beneath.set_ylabel(r"$\sqrt{MSE}\,/\,\sigma_{stoch}$", loc="center", fontsize="small")
    above.set_ylabel("Width [GeV]")
    titled(above, found, "boundary of the training shaded", left="Top jets")
    open_axes(above, 0.12, bottom=0, ncols=4, loc="upper center")
    return figure


def _around_one(ax: Axes, tolerance: float = TOLERANCE) -> None:
    """The line of equality and a band of what is asked."""
    ax.axhspan(1 - tolerance, 1 + tolerance, color=SERIES[3][0], alpha=0.18, linewidth=0, zorder=0)
    ax.axhline(1, color="black", linewidth=0.8)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 1 - 2 * tolerance), max(high, 1 + 2 * tolerance))


def against_size(found: Mapping[str, Any]) -> Figure:
    """Widths of the Bayesian network against the number of training jets; bars are standard deviations of trainings."""
    windows = windows_of(found["bayesian"])
    figure, axes = beside(len(windows))
    for ax, (window, text) in zip(axes, windows.items(), strict=True):
        rows = found["bayesian"][window]
        for kind, (name, label) in enumerate(NAMES.items()):
            jitter = 1.04 ** (kind - 1.5)
            points(
                ax,
                jitter * column(rows, "size"),
                column(rows, name),
                column(rows, f"{name}_sd"),
                kind,
                label,
                line=True,
            )
        _sizes(ax, found, text)
        ax.set_ylabel("Width [GeV]")
        open_axes(ax, 0.14, bottom=0, ncols=4, loc="upper center", columnspacing=1)
    return figure


def with_ensemble(found: Mapping[str, Any]) -> Figure:
    """sigma_stoch and sigma_pred of the Bayesian network and of an ensemble, and their ratios."""
    windows = windows_of(found["bayesian"])
    figure, axes, beneath = stacked(len(windows))
    for ax, lower, (window, text) in zip(axes, beneath, windows.items(), strict=True):
        network, ensemble = found["bayesian"][window], found["ensemble"][window]
        for kind, name in enumerate(("stoch", "pred")):
            for rows, label in ((network, "BNN"), (ensemble, f"{found['members']} networks")):
                points(
                    ax, column(rows, "size"), column(rows, name), column(rows, f"{name}_sd"), kind,
                    f"{NAMES[name]}, {label}", line=True, hollow=rows is ensemble,
                )  # fmt: skip
            of = column(ensemble, name)
            points(
                lower, column(network, "size"), column(network, name) / of, column(network, f"{name}_sd") / of, kind,
                None, line=True,
            )  # fmt: skip
        lower.axhline(1, color="black", linewidth=0.8)
        lower.set_ylabel("BNN / ensemble", loc="center", fontsize="small")
        ax.set_ylabel("Width [GeV]")
        _sizes(lower, found, "")
        lower.set_title("", loc="left")
        titled(ax, found, text, left="Top jets")
        open_axes(ax, 0.25, bottom=0, ncols=2, loc="upper center")
    return figure


def _sizes(ax: Axes, found: Mapping[str, Any], text: str) -> None:
    sizes: list[float] = []
    for size in found["sizes"]:  # the largest one may be too near to the one before for two labels
        if not sizes or size > 1.3 * sizes[-1]:
            sizes.append(size)
    ax.set(xscale="log", xlabel="Training jets")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_formatter(NullFormatter())
    titled(ax, found, text, left="Top jets")


def against_constituents(found: Mapping[str, Any]) -> Figure:
    """sigma_pred: its distribution, and against the number of constituents above the spectrum of that number."""
    figure, (left, above), (unused, beneath) = stacked(2, beneath=0.45)
    grid = left.get_gridspec()
    unused.remove()
    if grid is not None:
        left.set_subplotspec(grid[:, 0])
    left.xaxis.set_tick_params(labelbottom=True)
    sigma_edges, edges, rows = numbers(found["sigma_edges"]), numbers(found["edges"]), found["bins"]
    left.stairs(numbers(found["histogram"]), sigma_edges, fill=True, color=SERIES[0][0], alpha=0.35)
    left.set(
        xlabel=r"$\sigma_{pred}$ [GeV]", ylabel="Jets / GeV", xlim=(sigma_edges[0], sigma_edges[-1]), ylim=(0, None)
    )
    quartiles = np.array([numbers(row.get("quartiles") or [None] * 3) for row in rows])
    above.stairs(
        quartiles[:, 2], edges, baseline=quartiles[:, 0], fill=True, color=BAND, label="Central half", zorder=0
    )
    in_bins(above, edges, column(rows, "sigma_pred"), column(rows, "sigma_pred_unc"), (0, 1), *SERIES[0], "Mean")
    above.set_ylabel(r"$\sigma_{pred}$ [GeV]")
    open_axes(above, 0.1, loc="upper center", ncols=2)
    jets = column(rows, "jets") / np.diff(edges)
    beneath.stairs(jets, edges, fill=True, color=SERIES[0][0], alpha=0.35)
    if found.get("tail_above") is not None:
        for ax in (above, beneath):
            ax.axvline(found["tail_above"], color="black", linewidth=0.8, linestyle=":")
    beneath.set(xlabel="Constituents", xlim=(edges[0], edges[-1]), ylim=(0, None))
    beneath.set_ylabel("Jets / constituent", loc="center", fontsize="small")
    titled(left, found, f"500 < {JET_PT} < 900 GeV", left="Top jets")
    titled(above, found, f"500 < {JET_PT} < 900 GeV", left="Top jets")
    return figure


def schedules(found: Mapping[str, Any]) -> Figure:
    """The widths of one fold by the schedule of the studies and by that of the paper."""
    figure, axes = beside(2)
    for ax, (window, text) in zip(axes, WINDOWS.items(), strict=True):
        for kind, (name, label) in enumerate(
            (("studies", "Schedule of the studies"), ("paper", "Schedule of the paper"))
        ):
            row = found[name][window]
            place = np.arange(len(NAMES)) + 0.16 * (2 * kind - 1)
            values, unc = ([row.get(f"{n}{end}") for n in NAMES] for end in ("", "_unc"))
            points(ax, place, numbers(values), numbers(unc), kind, f"{label}, {row['jets']} jets")
        ax.set_xticks(range(len(NAMES)), list(NAMES.values()))
        ax.tick_params(axis="x", which="minor", bottom=False, top=False)
        ax.set(xlim=(-0.6, len(NAMES) - 0.4), ylabel="Width [GeV]")
        titled(ax, found, text, left="Top jets")
        open_axes(ax, 0.2, bottom=0)
    return figure
