"""Figures of the samples and of the true p_T in slices of the fat-jet p_T (arXiv:2003.11099, Figures 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from drawing import BAND, JET_PT, SERIES, TRUE_PT, WINDOWS, beside, density, numbers, open_axes, stacked, titled
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hepcal.plot.panels import in_bins

__all__ = ["by_mass", "definitions", "samples", "truth_in_slices"]

SAMPLES = {"ISR off": "top", "ISR on": "top_isr"}


def samples(found: Mapping[str, Any]) -> Figure:
    """Spectra of truth and fat jet, and numbers of constituents, without and with initial-state radiation."""
    figure, (left, right) = beside(2)
    pt_edges, number_edges = numbers(found["pt_edges"]), numbers(found["constituent_edges"])
    for kind, (label, name) in enumerate(SAMPLES.items()):
        colour = SERIES[kind][0]
        for level, style in (("truth", "--"), ("jets", "-")):
            values, _ = density(found[f"{name}_{level}"], pt_edges)
            text = f"{label}, {'top quark' if level == 'truth' else 'fat jet'}"
            left.stairs(1e3 * values, pt_edges, color=colour, linestyle=style, linewidth=1.4, label=text)
        values, _ = density(found[f"{name}_constituents"], number_edges)
        right.stairs(values, number_edges, color=colour, linewidth=1.4, label=label)
    left.set(xlabel="$p_T$ [GeV]", ylabel="Density [1/TeV]", xlim=(pt_edges[0], pt_edges[-1]))
    right.set(xlabel="Constituents (last bin: all beyond)", ylabel="Density", xlim=(0, number_edges[-1]))
    titled(left, found, f"400 < {JET_PT} < 1000 GeV")
    titled(right, found)
    open_axes(left, 0.3, bottom=0, ncols=2)
    open_axes(right, 0.1, bottom=0)
    return figure


def truth_in_slices(found: Mapping[str, Any]) -> Figure:
    """The true p_T in the narrow slice, and its ratio to the fat-jet p_T in the wide one, both samples."""
    figure, (left, right) = beside(2)
    for kind, label in enumerate(SAMPLES):
        _distribution(left, found, "600-620", label, kind)
        _distribution(right, found, "500-800", label, kind)
    left.axvspan(600, 620, color=BAND, linewidth=0, zorder=0, label="Slice of the fat jets")
    right.axvline(1, color="black", linewidth=0.8, linestyle=":")
    _labelled(left, right, found)
    return figure


def definitions(found: Mapping[str, Any]) -> Figure:
    """ISR off: first and last copy of the top as truth; jets with all quarks of the decay and the others."""
    figure, (left, right) = beside(2)
    others = [label for label in found["slices"]["500-800"] if label not in SAMPLES]
    for kind, label in enumerate(["ISR off", *others]):
        text = "last copy of the top, all jets" if label == "ISR off" else label.removeprefix("ISR off, ")
        _distribution(left, found, "600-620", label, kind, text)
        _distribution(right, found, "500-800", label, kind, text)
    left.axvspan(600, 620, color=BAND, linewidth=0, zorder=0)
    right.axvline(1, color="black", linewidth=0.8, linestyle=":")
    _labelled(left, right, found, "ISR off")
    return figure


def by_mass(found: Mapping[str, Any]) -> Figure:
    """Mean of truth / fat-jet p_T against the mass of the jet, above the spectrum of the mass."""
    figure, (above,), (beneath,) = stacked(beneath=0.45)
    content = found["mass"]["500-800"]
    edges = numbers(content["edges"])
    in_bins(above, edges, numbers(content["ratio"]), numbers(content["ratio_unc"]), (0, 1), *SERIES[0], "")
    above.axhline(1, color="black", linewidth=0.8)
    above.set_ylabel(f"Mean {TRUE_PT} / {JET_PT}")
    beneath.stairs(np.nan_to_num(numbers(content["jets"])), edges, fill=True, color=SERIES[0][0], alpha=0.35)
    beneath.set(xlabel="Mass of the fat jet [GeV]", xlim=(edges[0], edges[-1]), ylim=(0, None))
    beneath.set_ylabel("Jets", loc="center", fontsize="small")
    titled(above, found, f"ISR off, {WINDOWS['500-800']}", left="Top jets")
    return figure


def _distribution(
    ax: Axes, found: Mapping[str, Any], window: str, label: str, kind: int, text: str | None = None
) -> None:
    """Points: density in the truth [GeV] in the narrow slice, in truth / fat-jet p_T in the wide one."""
    entry = found["slices"][window][label]
    narrow = window == "600-620"
    edges = numbers(found["edges" if narrow else "ratio_edges"])
    counts = numbers(entry["histogram" if narrow else "ratio_histogram"])
    if narrow:  # 20 GeV: there are only some jets per GeV
        edges, counts = edges[::2], counts.reshape(-1, 2).sum(axis=1)
    values, unc = density(counts, edges, entry["jets"])
    colour, marker = SERIES[kind]
    in_bins(ax, edges, np.where(counts > 0, values, np.nan), unc, (0, 1), colour, marker, text or label)


def _labelled(left: Axes, right: Axes, found: Mapping[str, Any], sample: str = "") -> None:
    left.set(xlabel=f"{TRUE_PT} [GeV]", ylabel="Density [1/GeV]", xlim=(450, 1050))
    right.set(xlabel=f"{TRUE_PT} / {JET_PT}", ylabel="Density", xlim=(0.6, 1.7))
    for ax, window in ((left, "600-620"), (right, "500-800")):
        titled(ax, found, f"{sample}{', ' if sample else ''}{WINDOWS[window]}", left="Top jets")
        open_axes(ax, 0.1, bottom=0)
