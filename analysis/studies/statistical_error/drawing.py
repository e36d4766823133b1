"""Figures from the numbers of the study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hepcal.plot.panels import SERIES, STYLE

__all__ = ["draw", "draw_constituents"]

TITLES = {
    "qcd": "QCD dijets, Pythia 8 + Delphes",
    "toy": "Toy of one input",
    "qcd_signed": "QCD dijets, 20 % negative weights",
    "top": "Top fat jets, 401 inputs of constituents",
}
AXES = {"pt": "jet $p_T$ [GeV]", "abs_eta": r"jet $|\eta|$", "x": "input $x$"}
# Where an error is right.
RIGHT = (0.8, 1.25)


def draw(found: Mapping[str, Any], folder: Path) -> None:
    """All figures, as PNG and PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for sample in TITLES:
            if sample not in found:
                continue
            drawn = {"ratio": ratio(found, sample)}
            if any(len(_sizes(rows)) > 1 for rows in found[sample].values()):
                drawn["size"] = by_size(found, sample)
            for name, figure in drawn.items():
                for suffix in ("png", "pdf"):
                    figure.savefig(folder / f"disjoint_{sample}_{name}.{suffix}")
                plt.close(figure)


def _sizes(rows: Mapping[str, Any]) -> list[int]:
    return sorted(int(key) for key, row in rows.items() if key.isdigit() and "all" in row["disjoint"])


def ratio(found: Mapping[str, Any], sample: str) -> Figure:
    """sigma_pred over the spread in bins: a row per binning, a column per size."""
    methods = {name: rows for name, rows in found[sample].items() if _sizes(rows)}
    sizes = sorted({size for rows in methods.values() for size in _sizes(rows)})
    any_of = next(iter(methods.values()))[str(sizes[0])]["disjoint"]
    binnings = [key for key in AXES if key in any_of]
    figure, axes = plt.subplots(
        len(binnings), len(sizes), figsize=(4.4 * len(sizes) + 0.6, 3.4 * len(binnings) + 0.4), squeeze=False,
        sharey="row", layout="constrained",
    )  # fmt: skip
    ratios = [
        each
        for rows in methods.values()
        for size in _sizes(rows)
        for binning in binnings
        for each in rows[str(size)]["disjoint"][binning]["ratio"]
        if each is not None
    ]
    lowest, highest = min(ratios), max(ratios)
    for row, binning in zip(axes, binnings, strict=True):
        for panel, size in zip(row, sizes, strict=True):
            panel.axhspan(*RIGHT, color="#d3d6da", lw=0, zorder=0)
            panel.axhline(1, color="black", lw=0.8)
            for number, (name, rows) in enumerate(methods.items()):
                if str(size) not in rows:
                    continue
                each = rows[str(size)]["disjoint"][binning]
                edges = np.array(each["edges"])
                centers = (edges[1:] + edges[:-1]) / 2 + (number - (len(methods) - 1) / 2) * 0.08 * np.diff(edges)
                panel.errorbar(
                    centers,
                    each["ratio"],
                    each["ratio_unc"],
                    color=SERIES[number][0],
                    fmt=SERIES[number][1],
                    ms=4,
                    label=name,
                )
            panel.set_yscale("log")
            ticks = [tick for tick in (0.2, 0.3, 0.5, 0.7, 1, 1.4, 2, 5, 10) if min(0.5, lowest) <= tick < 2 * highest]
            panel.set_ylim(0.8 * min(0.5, lowest), 1.2 * max(ticks[-1], highest))
            panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
            panel.set_xlim(edges[0], edges[-1])
            panel.set_xlabel(AXES[binning])
            panel.set_title(f"{size:,} jets", fontsize="medium")
        row[0].set_ylabel(r"$\sigma_{pred}$ / spread of trainings")
    axes[0, 0].legend(fontsize="small", ncols=2)
    between = ": " if len(sizes) > 1 else ",\n"
    figure.suptitle(f"{TITLES[sample]}{between}trainings on disjoint samples", fontsize="medium")
    return figure


def by_size(found: Mapping[str, Any], sample: str) -> Figure:
    """sigma_pred and the spread against the number of jets."""
    figure, panel = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    for number, (name, rows) in enumerate(found[sample].items()):
        if not (sizes := _sizes(rows)):
            continue
        every = [rows[str(size)]["disjoint"] for size in sizes]
        claimed, spread = ([each["all"][key][0] for each in every] for key in ("sigma_pred", "spread"))
        panel.plot(sizes, claimed, "o-", color=SERIES[number][0], label=rf"{name}: $\sigma_{{pred}}$")
        panel.plot(sizes, spread, "s--", mfc="white", color=SERIES[number][0], label=f"{name}: spread of trainings")
    panel.set_xscale("log")
    sizes = sorted({size for rows in found[sample].values() for size in _sizes(rows)})
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.set_xlabel("training jets")
    panel.set_ylabel("root mean square [GeV]")
    panel.legend(fontsize="small")
    panel.set_title(TITLES[sample], fontsize="medium")
    return figure


def draw_constituents(found: Mapping[str, Any], folder: Path) -> None:
    """Errors, resolution and parameters of fat jets against the number of training jets, as PNG and PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = {name: rows for name, rows in found.items() if name != "versions"}
    labels = {
        "spread": "spread of single trainings [GeV]",
        "rmse": "root mean square error on test jets [GeV]",
        "parameters": r"parameters, $N\,(spread / \sigma_{stoch})^2$",
    }
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(14.5, 4.8), layout="constrained")
        for panel, (key, label) in zip(panels, labels.items(), strict=True):
            for number, (name, rows) in enumerate(cases.items()):
                color, marker = SERIES[number % len(SERIES)][:2]
                sizes = sorted(int(size) for size in rows)
                panel.plot(sizes, [rows[str(size)][key] for size in sizes], marker=marker, color=color, label=name)
            panel.set_xscale("log")
            if key != "rmse":
                panel.set_yscale("log")
            ticks = sorted({int(size) for rows in cases.values() for size in rows})
            panel.set_xticks(ticks, [f"{size / 1000:g}k" for size in ticks])
            panel.minorticks_off()
            panel.set_xlabel("training jets")
            panel.set_ylabel(label)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(cases))
        figure.suptitle("Top fat jets: ensembles of eight networks, two starts on four bootstrap samples each")
        for suffix in ("png", "pdf"):
            figure.savefig(folder / f"constituents.{suffix}")
        plt.close(figure)
