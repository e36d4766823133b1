"""Figures of predicted uncertainties: coverage, quantile calibration, PIT, scores in bins, densities of jets.

::

    from hepcal.evaluation import score

    ax = hepcal.plot.coverage({"BNN": score(prediction, truth, weight)}, label="Pythia 8 + Delphes")

Where several methods are compared, a mapping gives what is drawn by the name to show in the legend. All functions take
a ``label`` to write above the axes and the axes to draw into (default: those of a new pyplot figure), which they
return. Errors and bands are statistical, one standard deviation. The style is set while a function draws, and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from hepcal.distributions.prediction import Prediction
from hepcal.evaluation import BinnedScores, Scores
from hepcal.plot import panels
from hepcal.plot.panels import styled

__all__ = ["coverage", "pit", "predictive", "quantile_calibration", "scores_in_bins"]

# Figures of scores in bins: label, factor of the axis, and what a calibrated prediction gives.
FIGURES: dict[str, tuple[str, float, float | None]] = {
    "coverage_68": ("Coverage of central 68.27% interval [%]", 100, 68.27),
    "within_sigma_tot": (r"Truths within $\pm\sigma_{tot}$ [%]", 100, 68.27),
    "pull_mean": (r"Mean of (truth $-$ mean) / $\sigma_{tot}$", 1, 0),
    "pull_sd": (r"S.d. of (truth $-$ mean) / $\sigma_{tot}$", 1, 1),
    "pull_half68": (r"Half 68% width of (truth $-$ mean) / $\sigma_{tot}$", 1, 1),
    "crps": ("Mean CRPS [GeV]", 1, None),
    "crps_relative": ("Mean CRPS / mean truth [%]", 100, None),
    "nll": (r"Mean $-\ln$ density at the truth [nats]", 1, None),
    "absolute_error": (r"Mean |truth $-$ mean| [GeV]", 1, None),
    "sigma_tot": (r"Mean $\sigma_{tot}$ [GeV]", 1, None),
    "sigma_tot_relative": (r"Mean $\sigma_{tot}$ / mean truth [%]", 100, None),
    "sigma_stoch": (r"Mean $\sigma_{stoch}$ [GeV]", 1, None),
    "sigma_pred": (r"Mean $\sigma_{pred}$ [GeV]", 1, None),
    "width_68": ("Mean width of central 68.27% interval [GeV]", 1, None),
    "width_68_relative": ("Mean width of 68.27% interval / mean truth [%]", 100, None),
}
CURVE_POINTS = 400


@styled
def coverage(scores: Mapping[str, Scores], label: str = "", ax: Axes | None = None) -> Axes:
    """Observed minus nominal coverage of central intervals [%] against the nominal one [%]; above zero: too wide.

    Raises:
        NothingToDrawError: No method provides a density.
    """
    found = {name: s.coverage for name, s in scores.items() if np.isfinite(s.coverage.observed).any()}
    panels.require(found, "coverage")
    ax = ax or plt.figure().subplots()
    ax.axhline(0, color="black", linewidth=0.8)
    for (name, curve), colour, marker in panels.series(found):
        excess = 100 * (curve.observed - curve.nominal)
        panels.banded(ax, 100 * curve.nominal, excess, 100 * curve.unc, colour, marker, name)
    ax.set(xlim=(0, 100), xlabel="Nominal coverage of central interval [%]", ylabel="Observed $-$ nominal [%]")
    panels.finish(ax, label, room=0.1 + 0.06 * len(found))
    return ax


@styled
def quantile_calibration(scores: Mapping[str, Scores], label: str = "", ax: Axes | None = None) -> Axes:
    """Share of truths below the predicted p-quantile minus p [%] against p, with the largest deviation in the legend.

    Where the curve is below zero, truths are larger than predicted; a falling (rising) middle is too narrow (too wide).

    Raises:
        NothingToDrawError: No method provides a density.
    """
    found = {name: s for name, s in scores.items() if np.isfinite(s.quantiles.observed).any()}
    panels.require(found, "quantiles")
    ax = ax or plt.figure().subplots()
    ax.axhline(0, color="black", linewidth=0.8)
    for (name, s), colour, marker in panels.series(found):
        worst = f"{100 * s.quantile_deviation:+.1f} ± {100 * s.quantile_deviation_unc:.1f}%".replace("-", "\u2212")
        excess = 100 * (s.quantiles.observed - s.quantiles.nominal)
        text = f"{name}, largest {worst}"
        panels.banded(ax, s.quantiles.nominal, excess, 100 * s.quantiles.unc, colour, marker, text)
    ax.set(xlim=(0, 1), xlabel="Probability $p$", ylabel="Truths below predicted $p$-quantile $-$ $p$ [%]")
    panels.finish(ax, label, room=0.1 + 0.06 * len(found))
    return ax


@styled
def pit(scores: Mapping[str, Scores], label: str = "", ax: Axes | None = None) -> Axes:
    """Density of the predicted cumulative probability at the truth: one everywhere for a calibrated prediction.

    Raises:
        NothingToDrawError: No method provides a density.
    """
    found = {name: s.pit for name, s in scores.items() if np.isfinite(s.pit.density).any()}
    panels.require(found, "PIT values")
    ax = ax or plt.figure().subplots()
    ax.axhline(1, color="black", linewidth=0.8)
    for (name, filled), colour, marker in panels.series(found):
        ax.stairs(filled.density, filled.edges, color=colour, linewidth=1, baseline=None)
        middle, _ = panels.centres(filled.edges)
        ax.errorbar(
            middle, filled.density, yerr=filled.unc, color=colour, fmt=marker, markersize=4, linewidth=1.2, label=name
        )
    ax.set(xlim=(0, 1), xlabel="Predicted cumulative probability at the truth (PIT)", ylabel="Normalised density")
    low, high = ax.get_ylim()
    panels.finish(ax, label, room=0.1 + 0.06 * len(found), floor=max(0, min(low, 2 - high)))
    return ax


@styled
def scores_in_bins(
    binned: Mapping[str, BinnedScores], figure: str = "coverage_68", xlabel: str = "", reference: str | None = None,
    label: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """One figure of the scores in bins, for bins with n_eff of at least 30.

    Args:
        binned: Scores in bins by name.
        figure: A figure of :class:`hepcal.evaluation.Scores`, one of ``FIGURES``.
        xlabel: What the bins are in, with its unit.
        reference: Name of the method whose figure the others are divided by; it is then the line at one. The errors of
            the ratios treat the two as uncorrelated, although both are measured with the same jets: they are rather
            too large than too small.
        label: To write above the axes.
        ax: Where to draw.

    Raises:
        KeyError: There is no such figure or reference.
        NothingToDrawError: No bin holds enough jets, or no method provides the figure.
    """
    text, factor, target = FIGURES[figure]
    values = {name: _figure(scores, figure) for name, scores in binned.items()}
    if reference is not None:
        base, base_unc = values.pop(reference)
        text, factor, target = f"{text.rsplit(' [', 1)[0]}, ratio to {reference}", 1, 1
        for name, (value, unc) in values.items():
            ratio = value / base
            values[name] = ratio, np.abs(ratio) * np.hypot(unc / value, base_unc / base)
    values = {name: pair for name, pair in values.items() if np.isfinite(pair[0]).any()}
    panels.require(values, f"{figure!r} with n_eff of {panels.MIN_N_EFF}")
    ax = ax or plt.figure().subplots()
    if target is not None:
        ax.axhline(target, color="black", linewidth=0.8)
    for i, ((name, (value, unc)), colour, marker) in enumerate(panels.series(values)):
        panels.in_bins(ax, binned[name].edges, factor * value, factor * unc, (i, len(values)), colour, marker, name)
    ax.set(xlabel=xlabel, ylabel=text)
    panels.finish(ax, label, room=0.1 + 0.06 * len(values))
    return ax


@styled
def predictive(
    prediction: Prediction, jets: Sequence[int], truth: np.ndarray | None = None, probability: float = 0.6827,
    label: str = "", ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Predictive densities of some jets [1/GeV] with mode (point), highest-density set (area) and truth (line).

    Args:
        prediction: Of n jets.
        jets: Indices of those to draw.
        truth: True p_T [GeV], shape (n,).
        probability: Probability of the highest-density set.
        label: To write above the axes.
        ax: Where to draw.

    Raises:
        NothingToDrawError: No jets, or the method provides no density.
    """
    panels.require(jets if prediction.components is not None else (), "densities")
    ax = ax or plt.figure().subplots()
    for (jet, _), colour, marker in panels.series(dict.fromkeys(jets)):
        one = _single(prediction, jet)
        low, high = one.quantile(np.array([0.001, 0.999]))[0]
        pt = np.linspace(low - 0.15 * (high - low), high + 0.15 * (high - low), CURVE_POINTS)
        for ends in one.highest_density(probability)[0]:
            inside = np.linspace(ends["low"], ends["high"], CURVE_POINTS)
            ax.fill_between(inside, one.density(inside)[0], color=colour, alpha=0.25, linewidth=0)
        ax.plot(pt, one.density(pt)[0], color=colour, linewidth=1.4)
        mode = float(one.mode()[0])
        height = float(one.density(np.array([mode]))[0, 0])
        text = f"Jet {jet}: mode {mode:.1f} GeV"
        if truth is not None:
            ax.vlines(truth[jet], 0, height, color=colour, linestyle="--", linewidth=1.2)
            text += f", truth {truth[jet]:.1f} GeV"
        ax.plot(mode, height, marker, color=colour, linestyle="none", label=text)
    ax.fill_between(
        [], [], color=panels.COLOURS["reco"], alpha=0.25, linewidth=0, label=f"{100 * probability:.4g}% highest density"
    )
    ax.set(xlabel="$p_T$ [GeV]", ylabel="Predictive density [1/GeV]")
    panels.finish(ax, label, room=0.16 + 0.07 * len(jets), floor=0)
    return ax


def _figure(scores: BinnedScores, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A figure and its error, NaN in bins of few entries."""
    shown = scores.figure("n_eff") >= panels.MIN_N_EFF
    absolute = name.removesuffix("_relative")
    unit = np.ones(len(shown)) if absolute == name else scores.figure("truth")
    value, unc = scores.figure(name), scores.figure(f"{absolute}_unc") / unit
    return np.where(shown, value, np.nan), np.where(shown, unc, np.nan)


def _single(prediction: Prediction, jet: int) -> Prediction:
    """The prediction of one jet, so that nothing is evaluated for the others."""
    components = prediction.components
    assert components is not None  # noqa: S101 - the caller has looked

    def of_jet(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[[jet]]

    return Prediction(
        mean=prediction.mean[[jet]],
        sigma_stoch=of_jet(prediction.sigma_stoch),
        sigma_pred=of_jet(prediction.sigma_pred),
        sigma_cal_squared=of_jet(prediction.sigma_cal_squared),
        in_range=prediction.in_range[[jet]],
        components=lambda _: components(slice(jet, jet + 1)),
    )
