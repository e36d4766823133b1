"""Figures of the tagger: scores, prior scan, top-like jets (arXiv:2003.11099, Table 1), answers to changed jets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from drawing import BAND, SERIES, beside, column, density, numbers, open_axes, points, titled, windows_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["DISTRIBUTIONS", "distributions", "leading", "noise_and_pileup", "prior_scan", "scores", "slopes", "table_1"]

SAMPLES = {"top": "Top", "qcd": "QCD"}
TAGGERS = {"plain": "trained on jets as they are", "noise": "trained with noise"}
KINDS = {
    "logit": "Logit",
    "sigma_logit": r"$\sigma$ of the logit",
    "score": "Score",
    "sigma_score": r"$\sigma$ of the score",
}
TESTS = {
    "leading": ("Leading constituent", r"$\times$ {}"),
    "noise": ("Noise of every constituent", "{}"),
    "pileup": ("Soft pile-up", r"$\mu$ = {}"),
}
SAMPLE = "Tops and QCD, fat jets"


def scores(found: Mapping[str, Any]) -> Figure:
    """Out-of-fold scores of tops and of QCD jets."""
    figure, (ax,) = beside(1, width=5.8)
    edges = np.linspace(0, 1, len(found["scores"]["top"]) + 1)
    for kind, (name, text) in enumerate(SAMPLES.items()):
        values, unc = density(found["scores"][name], edges)
        ax.stairs(values, edges, color=SERIES[kind][0], linewidth=1.4, label=f"{text} jets")
        ax.stairs(values + unc, edges, baseline=values - unc, color=SERIES[kind][0], alpha=0.25, fill=True)
    ax.set(xlabel="Score (mean of the sigmoids)", ylabel="Density", yscale="log", xlim=(0, 1))
    titled(ax, found, f"AUC = {found['auc']:.4f} $\\pm$ {found['auc_unc']:.4f}", left=SAMPLE)
    open_axes(ax, 0.05, loc="upper center", ncols=2)
    return figure


def prior_scan(found: Mapping[str, Any]) -> Figure:
    """AUC, calibration error and median error of the logit against the width of the prior, and without a prior."""
    figure, axes = beside(3, width=4.2, height=4.2)
    scan = {name: row for name, row in found["prior_scan"].items() if name != "deterministic"}
    widths, rows = numbers(float(name) for name in scan), list(scan.values())
    fixed = found["prior_scan"].get("deterministic")
    for ax, (name, label) in zip(
        axes,
        (("auc", "AUC"), ("ece", "Calibration error"), ("sigma_logit", "Median $\\sigma$ of the logit")),
        strict=True,
    ):
        points(ax, widths, column(rows, name), column(rows, f"{name}_unc"), 0, "Bayesian", line=True)
        if fixed is not None and fixed.get(name) is not None:
            unc = fixed.get(f"{name}_unc") or 0
            ax.axhspan(fixed[name] - unc, fixed[name] + unc, color=SERIES[1][0], alpha=0.25, linewidth=0)
            ax.axhline(fixed[name], color=SERIES[1][0], linewidth=1.2, label="Deterministic")
        ax.set(xscale="log", xlabel="Width of the prior", ylabel=label)
        open_axes(ax, 0.14)
    titled(axes[0], found, left=SAMPLE)
    return figure


def table_1(found: Mapping[str, Any]) -> Figure:
    """sqrt(MSE) by the share of most top-like jets, with one network for all and with networks of their own."""
    windows = windows_of(found["one_network"])
    figure, axes = beside(len(windows))
    for ax, (window, text) in zip(axes, windows.items(), strict=True):
        for kind, (name, label) in enumerate(
            (("one_network", "One network"), ("own_networks", "Networks of their own"))
        ):
            rows = found.get(name, {}).get(window)
            if rows:
                shares = 100 * column(rows, "share") + 0.8 * (2 * kind - 1)
                points(ax, shares, column(rows, "rmse"), column(rows, "rmse_unc"), kind, label, line=True)
        ax.set(xlabel="Most top-like jets kept [%]", ylabel=r"$\sqrt{MSE}$ [GeV]", xlim=(110, 15))
        ax.set_xticks([100, 75, 50, 25])
        ax.tick_params(axis="x", which="minor", bottom=False, top=False)
        titled(ax, found, text, left="Top jets, ISR off")
        open_axes(ax, 0.15)
    return figure


def leading(found: Mapping[str, Any]) -> Figure:
    """Mean change by the factor on the leading constituent, before and after the sigmoid, for both taggers."""
    figure, axes = beside(len(KINDS), width=3.8, height=4.2)
    factors = numbers(found["factors"])
    for ax, (kind, label) in zip(axes, KINDS.items(), strict=True):
        for i, (sample, text) in enumerate(SAMPLES.items()):
            for name, how in TAGGERS.items():
                rows = [found["taggers"][name][sample]["leading"][f"{f:g}"][kind] for f in factors]
                points(
                    ax, factors, column(rows, "change"), column(rows, "change_unc"), i, f"{text}, {how}", line=True,
                    hollow=name == "noise",
                )  # fmt: skip
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(xlabel="Factor on the leading constituent", ylabel=_change_of(label))
    titled(axes[0], found, left=SAMPLE)
    _one_legend(figure, axes)
    return figure


def _change_of(label: str) -> str:
    return f"Mean change of the {label.lower()}" if label[0].isalpha() else f"Mean change of {label}"


def noise_and_pileup(found: Mapping[str, Any]) -> Figure:
    """Mean change of the logit and of its error by noise and by pile-up, per strength."""
    figure, axes = beside(4, width=3.8, height=4.2)
    panels = [(test, kind) for test in ("noise", "pileup") for kind in ("logit", "sigma_logit")]
    for ax, (test, kind) in zip(axes, panels, strict=True):
        for i, (sample, text) in enumerate(SAMPLES.items()):
            for name, how in TAGGERS.items():
                entry = found["taggers"][name][sample][test]
                rows = [entry[strength][kind] for strength in entry]
                points(
                    ax, numbers(float(strength) for strength in entry), column(rows, "change"),
                    column(rows, "change_unc"), i, f"{text}, {how}", line=True, hollow=name == "noise",
                )  # fmt: skip
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(
            xlabel=r"Noise of every constituent" if test == "noise" else r"Pile-up $\mu$",
            ylabel=_change_of(KINDS[kind]),
        )
    titled(axes[0], found, left=SAMPLE)
    _one_legend(figure, axes)
    return figure


def _one_legend(figure: Figure, axes: list[Axes], columns: int = 4) -> None:
    """One legend above all panels."""
    figure.subplots_adjust(top=0.83, wspace=0.4, left=0.06, right=0.99, bottom=0.14)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncols=columns, fontsize="medium")


def distributions(found: Mapping[str, Any], test: str) -> Figure:
    """Distributions of mean and error before and after the sigmoid, for jets as they are and changed ones."""
    figure, axes = beside(len(KINDS), width=3.8, height=4.2)
    title, how = TESTS[test]
    tagger = found["taggers"]["plain"]
    strengths = [s for s in tagger["top"][test] if s != "1" or test != "leading"]
    for ax, (kind, label) in zip(axes, KINDS.items(), strict=True):
        edges = numbers(found["edges"][kind])
        # The factor of 1 changes nothing: jets as they are.
        for i, (strength, entry) in enumerate([("as they are", "leading"), *((s, test) for s in strengths)]):
            for sample, style in (("top", "-"), ("qcd", "--")):
                rows = tagger[sample][entry]["1" if i == 0 else strength][kind]["histogram"]
                text = f"{SAMPLES[sample]}, {strength if i == 0 else how.format(strength)}"
                filled = i == 0 and sample == "top"
                ax.stairs(
                    density(rows, edges)[0], edges, fill=filled, linestyle=style, linewidth=1.1, label=text,
                    color=BAND if filled else "black" if i == 0 else SERIES[i - 1][0], zorder=1 if filled else 2,
                )  # fmt: skip
        used = np.flatnonzero(sum(numbers(tagger[s]["leading"]["1"][kind]["histogram"]) for s in SAMPLES))
        ax.set(
            xlabel=label, ylabel="Density", xlim=(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 3, len(edges) - 1)])
        )
        if kind == "score":
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0)
    titled(axes[0], found, title, left="")
    _one_legend(figure, axes, 1 + len(strengths))
    return figure


DISTRIBUTIONS = {f"{test}_distributions": partial(distributions, test=test) for test in TESTS}


def slopes(found: Mapping[str, Any]) -> Figure:
    """How much training with noise lowers the slope against the leading constituent, jet by jet and on average."""
    figure, (left, right) = beside(2, width=5.2)
    for kind, (name, how) in enumerate(TAGGERS.items()):
        place = np.arange(len(SAMPLES)) + 0.1 * (2 * kind - 1)
        rows = [found["taggers"][name][sample] for sample in SAMPLES]
        points(left, place, column(rows, "slope_logit"), column(rows, "slope_logit_unc"), kind, how.capitalize())
    for kind, (name, text) in enumerate((("rms", "Root mean square of single jets"), ("mean", "Mean of all jets"))):
        rows = [found["slope_ratio"][sample] for sample in SAMPLES]
        place = np.arange(len(SAMPLES)) + 0.1 * (2 * kind - 1)
        points(right, place, column(rows, name), column(rows, f"{name}_unc"), kind + 2, text)
    left.axhline(0, color="black", linewidth=0.8)
    right.axhline(1, color="black", linewidth=0.8)
    left.set_ylabel("Slope of the logit per unit of the factor")
    right.set_ylabel("Slope with noise / slope without")
    for ax in (left, right):
        ax.set_xticks(range(len(SAMPLES)), list(SAMPLES.values()))
        ax.tick_params(axis="x", which="minor", bottom=False, top=False)
        ax.set_xlim(-0.5, len(SAMPLES) - 0.5)
        open_axes(ax, 0.22)
    titled(left, found, left=SAMPLE)
    return figure
