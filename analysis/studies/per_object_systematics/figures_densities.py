"""Figures of predicted densities and of smeared labels (arXiv:2003.11099, Figures 8 to 11 and Table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from drawing import (
    BAND,
    SERIES,
    TRUE_PT,
    WINDOWS,
    beside,
    column,
    density,
    numbers,
    open_axes,
    pair,
    points,
    stacked,
    titled,
    windows_of,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "ASKED",
    "ENDS",
    "MIXTURES",
    "TRUTH_EDGES",
    "ends",
    "input_shifts",
    "labels",
    "mixture_densities",
    "sigma_cal",
]

# Bins of the histogram of the truth, in truth / fat-jet p_T.
TRUTH_EDGES = np.linspace(0.5, 2.4, 96)
COMPONENTS = {"1": "One Gaussian", "2": "Two Gaussians", "3": "Three Gaussians"}
# What is asked of both ends of the 68.27 % set [GeV], and of the relative error of sigma_cal by fraction.
ENDS = 5.0
ASKED = {0.04: 0.25, 0.06: 0.12, 0.08: 0.08, 0.10: 0.06}


def mixture_densities(found: Mapping[str, Any], window: str) -> Figure:
    """Mean predicted density of a slice against the truth; beneath, modes and sets of highest density of 68.27 %."""
    figure, (above,), (beneath,) = stacked(beneath=0.32)
    content = found["slices"][window]
    scale, truth = content["scale"], content["truth"]
    above.stairs(numbers(content["truth_density"]) / scale, scale * TRUTH_EDGES, fill=True, color=BAND, label="Truth")
    for ax in (above, beneath):
        for end in ("low", "high"):
            ax.axvline(truth[end], color="black", linewidth=0.8, linestyle=":", zorder=0)
    rows = [(COMPONENTS[n], content["networks"][n], *SERIES[i]) for i, n in enumerate(sorted(content["networks"]))]
    for text, row, colour, _ in rows:
        above.plot(
            scale * numbers(found["grid"]), numbers(row["density"]) / scale, color=colour, linewidth=1.4, label=text
        )
    for i, (_, row, colour, marker) in enumerate([("Truth", truth, "#4d4d4d", "o"), *rows]):
        pair(beneath, row["low"], row["high"], colour, -i)
        beneath.plot(row["mode"], -i, marker=marker, color=colour, markersize=5)
    beneath.set_yticks([-i for i in range(len(rows) + 1)], ["Truth", *(text.split()[0] for text, *_ in rows)])
    beneath.tick_params(axis="y", which="minor", left=False, right=False)
    beneath.set(ylim=(-len(rows) - 0.6, 0.6), xlim=(0.8 * scale, 1.55 * scale))
    wide = "" if window == "600-620" else f", scaled to {scale:.0f} GeV"
    beneath.set_xlabel(f"{TRUE_PT} [GeV]{wide}")
    above.set_ylabel("Density [1/GeV]")
    titled(above, found, WINDOWS[window])
    open_axes(above, 0.03, bottom=0)
    return figure


MIXTURES = {f"figure_8_{window}": partial(mixture_densities, window=window) for window in WINDOWS}


def ends(found: Mapping[str, Any]) -> Figure:
    """Mode and both ends of the 68.27 % set, less those of the truth, by the number of Gaussians."""
    windows = windows_of(found["slices"])
    figure, axes = beside(len(windows))
    for ax, (window, text) in zip(axes, windows.items(), strict=True):
        content = found["slices"][window]
        names = sorted(content["networks"])
        for kind, (end, label) in enumerate((("low", "Lower end"), ("mode", "Mode"), ("high", "Upper end"))):
            rows = [content["networks"][n] for n in names]
            unc = np.hypot(column(rows, f"{end}_unc"), content["truth_unc"][end])
            place = np.arange(len(names)) + 0.16 * (kind - 1)
            points(ax, place, column(rows, end) - content["truth"][end], unc, kind, label)
        ax.axhspan(-ENDS, ENDS, color=SERIES[3][0], alpha=0.18, linewidth=0, zorder=0)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks(range(len(names)), [COMPONENTS[n] for n in names])
        ax.tick_params(axis="x", which="minor", bottom=False, top=False)
        ax.set(xlim=(-0.5, len(names) - 0.5), ylabel="Predicted - truth [GeV]")
        titled(ax, found, text, left="Top jets")
        open_axes(ax, 0.22, ncols=3, loc="upper center")
    return figure


def labels(found: Mapping[str, Any]) -> Figure:
    """The labels in the narrow slice by the smearing, and Gaussians of the mean and sigma_stoch of the networks."""
    rows = found["slices"]["600-620"]
    figure, axes = beside(len(rows), height=4.2, width=5.2 if len(rows) < 3 else 3.9)
    edges = numbers(found["label_edges"])
    coarse, middle = edges[::2], np.linspace(edges[0], edges[-1], 501)
    for ax, row in zip(axes, rows, strict=True):
        for counts, text, colour in (
            (found.get("truths", {}).get("600-620"), "Truth", BAND),
            (row["labels"], "Smeared labels", SERIES[0][0]),
        ):
            if counts is None:
                continue
            values, _ = density(numbers(counts).reshape(-1, 2).sum(axis=1), coarse, row["jets"])
            ax.stairs(values, coarse, color=colour, fill=colour == BAND, linewidth=1.4, label=text)
        width = row["sigma_stoch"]
        gaussian = np.exp(-0.5 * ((middle - row["mean"]) / width) ** 2) / (np.sqrt(2 * np.pi) * width)
        ax.plot(middle, gaussian, color=SERIES[1][0], linewidth=1.4, label=r"Gaussian, $\sigma_{stoch}$")
        ax.set(xlabel="Label [GeV]", xlim=(420, 1050))
        titled(
            ax, found, f"smeared by {100 * row['fraction']:.0f} %", left="Slice 600-620 GeV" if ax is axes[0] else ""
        )
        ax.tick_params(labelleft=ax is axes[0])
    top = 1.05 * max(ax.get_ylim()[1] for ax in axes)
    axes[0].set_ylabel("Density [1/GeV]")
    axes[0].legend(loc="upper right")
    figure.subplots_adjust(wspace=0.08)
    for ax in axes:
        ax.set_ylim(0, top)
    return figure


def sigma_cal(found: Mapping[str, Any]) -> Figure:
    """sigma_cal against the smearing of the labels; beneath, their ratio with the error that is asked."""
    windows = windows_of(found["slices"])
    figure, axes, beneath = stacked(len(windows))
    for ax, lower, (window, text) in zip(axes, beneath, windows.items(), strict=True):
        rows = found["slices"][window]
        smear = column(rows, "sigma_smear")
        _diagonal(ax, smear)
        points(ax, smear, column(rows, "sigma_cal"), column(rows, "sigma_cal_unc"), 0, r"$\sigma_{cal}$")
        asked = np.array([ASKED.get(round(row["fraction"], 3), np.nan) for row in rows])
        lower.errorbar(
            smear, np.ones(len(smear)), yerr=asked, color=SERIES[3][0], alpha=0.25, linewidth=9, fmt="none", zorder=0
        )
        points(lower, smear, column(rows, "ratio"), column(rows, "ratio_unc"), 0, None)
        less, less_unc = column(rows, "ratio_less_loss"), column(rows, "ratio_less_loss_unc")
        points(lower, smear + 0.025 * np.nanmax(smear), less, less_unc, 1, None, hollow=True)
        if np.isfinite(less).any():
            points(ax, less[:0], less[:0], less[:0], 1, "beneath: less the loss of the prediction", hollow=True)
        lower.axhline(1, color="black", linewidth=0.8)
        lower.set_xlabel(r"$\sigma_{smear}$ [GeV]")
        lower.set_ylabel(r"$\sigma_{cal}\,/\,\sigma_{smear}$", loc="center", fontsize="small")
        ax.set_ylabel(r"$\sigma_{cal}$ [GeV]")
        titled(ax, found, text, left="Top jets")
        open_axes(ax, 0.05, loc="upper left")
    return figure


def input_shifts(found: Mapping[str, Any]) -> Figure:
    """sigma_cal, and half the change of p_T between inputs shifted up and down, against the smearing of the labels."""
    windows = windows_of(found["slices"])
    figure, axes, beneath = stacked(len(windows))
    for ax, lower, (window, text) in zip(axes, beneath, windows.items(), strict=True):
        rows = found["slices"][window]
        smear, shift, value = (column(rows, name) for name in ("sigma_smear", "input_shift", "sigma_cal"))
        unc, none = column(rows, "sigma_cal_unc"), np.zeros(len(smear))
        _diagonal(ax, smear)
        points(ax, smear, value, unc, 0, r"$\sigma_{cal}$, labels smeared")
        points(ax, smear, shift, none, 1, r"$|p_T(+) - p_T(-)|\,/\,2$, inputs shifted")
        points(lower, smear, shift / value, np.abs(shift * unc / value**2), 1, None)
        lower.axhline(1, color="black", linewidth=0.8)
        lower.set_xlabel(r"$\sigma_{smear}$ [GeV]")
        lower.set_ylabel(r"Shift / $\sigma_{cal}$", loc="center", fontsize="small")
        ax.set_ylabel("Width or shift [GeV]")
        titled(ax, found, text, left="Top jets")
        open_axes(ax, 0.1, loc="upper left")
    return figure


def _diagonal(ax: Axes, values: np.ndarray) -> None:
    """Equality of x and y, from zero to beyond the values."""
    end = 1.15 * np.nanmax(values)
    ax.plot([0, end], [0, end], color="black", linewidth=0.8, linestyle=":", label="Equal")
    ax.set(xlim=(0, end), ylim=(0, end))
