"""Figures of trainings: held-out loss, scan of the prior, predicted spread against a reference.

All functions take a ``label`` to write above the axes and the axes to draw into (default: those of a new pyplot
figure), which they return. The style is set while a function draws, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from hepcal.plot import panels
from hepcal.plot.panels import styled

__all__ = ["history", "prior_scan", "spread_ratio"]


@styled
def spread_ratio(
    edges: np.ndarray, ratios: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str = "True $p_T$ [GeV]",
    factor: float = 1.5, label: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    r"""Predicted sigma_pred over a reference spread, such as that of an ensemble of trainings, per bin.

    Args:
        edges: Bin edges, shape (bins + 1,).
        ratios: By the name of the estimator: ratios and their errors, shape (bins,) each; NaN is left out.
        xlabel: What the bins are in, with its unit.
        factor: Half height of the shaded band: from 1 / factor to factor.
        label: To write above the axes.
        ax: Where to draw; y is logarithmic, so that too large and too small weigh the same.

    Raises:
        NothingToDrawError: There is no finite, positive ratio.
    """
    found = {name: pair for name, pair in ratios.items() if (np.nan_to_num(pair[0]) > 0).any()}
    panels.require(found, "ratios")
    ax = ax or plt.figure().subplots()
    ax.axhspan(1 / factor, factor, color=panels.COLOURS["truth"], linewidth=0, label=f"Within a factor {factor:g}")
    ax.axhline(1, color="black", linewidth=0.8)
    for i, ((name, (ratio, unc)), colour, marker) in enumerate(panels.series(found)):
        positive = np.where(np.nan_to_num(ratio) > 0, ratio, np.nan)
        panels.in_bins(ax, np.asarray(edges), positive, np.asarray(unc), (i, len(found)), colour, marker, name)
    shown = np.concatenate([ratio[np.nan_to_num(ratio) > 0] for ratio, _ in found.values()])
    ax.set_yscale("log")
    ax.set_ylim(min(0.4, shown.min() / 1.3), max(2.5, shown.max() * 1.3))
    ax.set(xlabel=xlabel, ylabel=r"$\sigma_{pred}$ / reference spread")
    panels.finish(ax, label, room=0.12 + 0.06 * len(found))
    ax.set_yticks([tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if panels.within(ax, tick)])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    return ax


@styled
def history(histories: Mapping[str, Sequence[tuple[float, float]]], label: str = "", ax: Axes | None = None) -> Axes:
    """Held-out loss against updates, the best marked.

    The y axis leaves out the steep start of a training: it ends five times as far above the best as the median is.

    Args:
        histories: By name: pairs of update and loss, as in ``calibrator.card.history``.
        label: To write above the axes.
        ax: Where to draw.

    Raises:
        NothingToDrawError: There is no history.
    """
    found = {name: np.asarray(points, dtype=np.float64) for name, points in histories.items() if len(points)}
    panels.require(found, "history")
    ax = ax or plt.figure().subplots()
    bests, tops = [], []
    for (name, points), colour, marker in panels.series(found):
        update, loss = points.T
        best = int(np.nanargmin(loss))
        bests.append(loss[best])
        tops.append(min(loss[best] + 5 * (np.nanmedian(loss) - loss[best]), np.nanmax(loss)))
        ax.plot(update, loss, color=colour, linewidth=1.2)
        ax.plot(
            update[best], loss[best], marker, color=colour, markersize=7, linestyle="none",
            label=f"{name}, best {loss[best]:.4f} at {update[best]:.0f}".replace("-", "\u2212"),
        )  # fmt: skip
    span = max(tops) - min(bests)
    if span > 0:
        ax.set_ylim(min(bests) - 0.08 * span, max(tops) + 0.08 * span)
    ax.set(xlim=(0, None), xlabel="Updates", ylabel="Held-out loss")
    panels.finish(ax, label, room=0.08 * len(found))
    return ax


@styled
def prior_scan(
    points: Sequence[tuple[float, float, float, bool]], label: str = "", ax: Axes | None = None,
    ylabel: str = "Held-out loss",
) -> Axes:  # fmt: skip
    """Loss against the width of the prior, collapsed trainings open and shaded, the best of the others marked.

    Args:
        points: Prior width, loss, its error, and whether the posterior collapsed to the prior.
        label: To write above the axes.
        ax: Where to draw; x is logarithmic.
        ylabel: What the loss is.

    Raises:
        NothingToDrawError: There are no points.
    """
    panels.require(points, "prior widths")
    ax = ax or plt.figure().subplots()
    ordered = sorted(points, key=lambda point: point[0])
    width, loss, unc = np.array([point[:3] for point in ordered], dtype=np.float64).T
    collapsed = np.array([point[3] for point in ordered], dtype=bool)
    middle = np.sqrt(width[1:] * width[:-1])
    ends = np.concatenate([[width[0] / 2], middle, [width[-1] * 2]])
    text = "Collapsed to the prior"
    for i in np.flatnonzero(collapsed):
        ax.axvspan(ends[i], ends[i + 1], color=panels.COLOURS["truth"], linewidth=0, label=text)
        text = "_nolegend_"
    colour, good = panels.COLOURS["qcd"], ~collapsed
    ax.errorbar(width[collapsed], loss[collapsed], unc[collapsed], fmt="o", color=colour, markerfacecolor="white")
    if good.any():
        ax.errorbar(width[good], loss[good], unc[good], fmt="o-", color=colour, linewidth=1.2, label="Trained")
        best = int(np.argmin(np.where(good, loss, np.inf)))
        text = f"Best: {width[best]:g}"
        ax.plot(width[best], loss[best], "o", markersize=12, markerfacecolor="none", color="#bd1f01", label=text)
    ax.set(xscale="log", xlim=ends[[0, -1]], xlabel=r"Width of the prior $\sigma_{prior}$", ylabel=ylabel)
    panels.finish(ax, label, room=0.2)
    return ax
