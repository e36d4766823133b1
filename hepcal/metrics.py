"""Closure of a calibration, from histograms: response, bias, resolution, pulls and coverage in bins of truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import hist
import numpy as np

from hepcal.hists import LEVELS, QUANTITIES, WEIGHTINGS

__all__ = ["Closure", "closure", "quantiles", "samples"]

# Central 68.27 %: one sigma of a Gaussian, not 68 %.
CENTRAL = (0.1586553, 0.5, 0.8413447)
# sd of half the central 68.27 % width of n Gaussian numbers, in sigma / sqrt(n): from the joint density of the
# two quantiles, [2 q (1 - q) - 2 q²] / phi(1)² / 4 with q = 0.1587.
QUANTILE_WIDTH_UNC = 0.9617
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Closure:
    """Closure of one quantity at one level in bins of one truth axis.

    Arrays have the shape (bins,) and hold NaN where a bin is empty or the method does not provide the figure.

    Attributes:
        edges: Bin edges, shape (bins + 1,).
        share: Sum of weights relative to that of all entries.
        n_eff: Effective number of entries, (sum w)² / sum w².
        response_mean: Mean of value / truth.
        response_mean_unc: Its statistical error.
        response_median: Median of value / truth.
        bias: Relative bias, mean of (value - truth) / truth.
        resolution: Half the central 68.27 % width of the response over its median.
        resolution_unc: Its statistical error, that of the quantiles of a Gaussian core.
        pull_mean: Mean of (truth - value) / sigma_tot.
        pull_sd: Its standard deviation.
        pull_half68: Half its central 68.27 % width.
        coverage_68: Share of entries within sigma_tot of the truth.
        sigma_stoch: Mean stochastic uncertainty [GeV].
        sigma_pred: Mean statistical uncertainty [GeV].
        in_range: Share of entries inside the training support.
        sum_ratio: sum(value) / sum(truth) over all bins.
    """

    edges: np.ndarray
    share: np.ndarray
    n_eff: np.ndarray
    response_mean: np.ndarray
    response_mean_unc: np.ndarray
    response_median: np.ndarray
    bias: np.ndarray
    resolution: np.ndarray
    resolution_unc: np.ndarray
    pull_mean: np.ndarray
    pull_sd: np.ndarray
    pull_half68: np.ndarray
    coverage_68: np.ndarray
    sigma_stoch: np.ndarray
    sigma_pred: np.ndarray
    in_range: np.ndarray
    sum_ratio: float

    def as_dict(self) -> dict[str, Any]:
        """Lists and numbers for JSON, None for NaN; figures that are empty in all bins are left out."""
        out = {}
        for field in fields(self):
            value = np.atleast_1d(getattr(self, field.name))
            if np.isfinite(value).any() or field.name == "sum_ratio":
                listed = [None if not np.isfinite(v) else float(v) for v in value]
                out[field.name] = listed[0] if field.name == "sum_ratio" else listed
        return out


def closure(
    hists: Mapping[str, hist.Hist],
    quantity: str,
    level: str,
    weighting: str = "qcd",
    axis: str | None = None,
    *,
    total: bool = False,
) -> Closure:
    """Closure of a quantity, data sets summed by weight.

    Args:
        hists: Filled histograms of :func:`hepcal.hists.book`.
        quantity: ``pt`` or ``mjj``.
        level: ``reco`` or ``calib``.
        weighting: ``qcd`` or ``bsm``.
        axis: Truth axis: ``pt_truth`` (default for ``pt``), ``abs_eta`` or ``mjj_truth`` (default for ``mjj``).
        total: All entries, those outside the bins included, as one bin.
    """
    axis = axis or f"{quantity}_truth"
    sums = hists[f"{quantity}_sums"]
    terms = dict(zip(sums.axes["term"], _cells(sums, weighting, level, axis, "term", total=total).T, strict=True))
    weight = terms["jets"]["value"]

    def mean(name: str) -> np.ndarray:
        return _divide(terms[name]["value"], weight)

    n_eff = np.nan_to_num(_divide(weight**2, terms["jets"]["variance"]))
    response = mean("response")
    spread = np.sqrt(np.maximum(mean("response_squared") - response**2, 0))
    low, median, high = _central(hists[f"{quantity}_response"], weighting, level, axis, total=total)
    everything = dict(zip(sums.axes["term"], _cells(sums, weighting, level, axis, "term", total=True)[0], strict=True))
    edges = sums.axes[axis].edges
    return Closure(
        edges=edges[[0, -1]] if total else edges,
        share=np.nan_to_num(_divide(weight, everything["jets"]["value"])),
        n_eff=n_eff,
        response_mean=response,
        response_mean_unc=_divide(spread, np.sqrt(n_eff)),
        response_median=median,
        bias=response - 1,
        resolution=_divide((high - low) / 2, median),
        resolution_unc=_divide(QUANTILE_WIDTH_UNC * (high - low) / 2, median * np.sqrt(n_eff)),
        sum_ratio=float(_divide(everything["value"]["value"], everything["truth"]["value"])),
        **_uncertainties(hists, quantity, level, weighting, axis, terms, total=total),
    )


def _uncertainties(
    hists: Mapping[str, hist.Hist],
    quantity: str,
    level: str,
    weighting: str,
    axis: str,
    terms: Mapping[str, np.ndarray],
    *,
    total: bool,
) -> dict[str, np.ndarray]:
    """The figures that need uncertainties or a support: NaN before calibration, or where the method gives none."""
    weight = terms["jets"]["value"]
    empty = np.full(len(weight), NAN)

    def mean(name: str) -> np.ndarray:
        return _divide(terms[name]["value"], weight)

    names = ("pull_mean", "pull_sd", "pull_half68", "coverage_68", "sigma_stoch", "sigma_pred", "in_range")
    figures = dict.fromkeys(names, empty)
    if level != "calib":
        return figures
    figures["in_range"] = mean("in_range")
    figures |= {name: mean(name) for name in ("sigma_stoch", "sigma_pred") if terms[name]["value"].any()}
    if not terms["pull_squared"]["value"].any():
        return figures
    low, _, high = _central(hists[f"{quantity}_pull"], weighting, None, axis, total=total)
    return figures | {
        "pull_mean": mean("pull"),
        "pull_sd": np.sqrt(np.maximum(mean("pull_squared") - mean("pull") ** 2, 0)),
        "pull_half68": (high - low) / 2,
        "coverage_68": mean("covered_68"),
    }


def samples(hists: Mapping[str, hist.Hist]) -> dict[str, Any]:
    """All closures, nested as ``<weighting>.<quantity>.<level>.<figure>``; what was not filled is left out.

    ``<quantity>.<level>.inclusive`` holds the same figures over all bins, ``pt.<level>.abs_eta`` in bins of |eta|.
    """
    out: dict[str, Any] = {}
    for weighting in WEIGHTINGS:
        for quantity in QUANTITIES:
            for level in LEVELS:
                found = closure(hists, quantity, level, weighting)
                if not found.n_eff.any():
                    continue
                figures = found.as_dict()
                figures["inclusive"] = closure(hists, quantity, level, weighting, total=True).as_dict()
                if quantity == "pt":
                    figures["abs_eta"] = closure(hists, quantity, level, weighting, "abs_eta").as_dict()
                out.setdefault(weighting, {}).setdefault(quantity, {})[level] = figures
    return out


def quantiles(contents: np.ndarray, edges: np.ndarray, probabilities: tuple[float, ...]) -> np.ndarray:
    """Quantiles of binned distributions, linear within a bin.

    Args:
        contents: Bin contents with underflow and overflow, shape (n, bins + 2).
        edges: Bin edges, shape (bins + 1,).
        probabilities: Which quantiles.

    Returns:
        Shape (len(probabilities), n); NaN where a row is empty or its quantile lies outside the edges.
    """
    out = np.full((len(probabilities), len(contents)), NAN)
    for row, content in enumerate(contents):
        total = content.sum()
        if not total > 0:
            continue
        # With negative weights the cumulative sum may step back; its running maximum is what can be inverted.
        cumulative = np.maximum.accumulate(np.cumsum(content)[:-1]) / total
        for column, probability in enumerate(probabilities):
            if cumulative[0] <= probability <= cumulative[-1]:
                right = max(int(np.searchsorted(cumulative, probability)), 1)
                step = cumulative[right] - cumulative[right - 1]
                share = (probability - cumulative[right - 1]) / step if step > 0 else 0.0
                out[column, row] = edges[right - 1] + share * (edges[right] - edges[right - 1])
    return out


def _central(
    histogram: hist.Hist, weighting: str, level: str | None, axis: str, *, total: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower end, median and upper end of the central 68.27 % along the last axis, per bin of ``axis``."""
    value_axis = histogram.axes[-1]
    cells = _cells(histogram, weighting, level, axis, value_axis.name, total=total)
    low, median, high = quantiles(cells["value"], value_axis.edges, CENTRAL)
    return low, median, high


def _cells(
    histogram: hist.Hist, weighting: str, level: str | None, axis: str, inner: str, *, total: bool
) -> np.ndarray:
    """Contents over (axis, inner) with all other axes summed, outer flow dropped unless ``total``, inner flow kept."""
    chosen = {"weighting": weighting} | ({} if level is None else {"level": level})
    view = histogram[{name: hist.loc(value) for name, value in chosen.items()}].project(axis, inner).view(flow=True)
    cells: np.ndarray = view.sum(axis=0, keepdims=True) if total else view[1:-1]
    return cells


def _divide(numerator: Any, denominator: Any) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(denominator) != 0, np.asarray(numerator) / np.asarray(denominator), NAN)
