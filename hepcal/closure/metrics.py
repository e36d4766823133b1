"""Closure of a calibration, from histograms: response, bias, resolution, pulls and coverage in bins of truth.

Figures and their errors are those of :func:`hepcal.evaluation.closure_in_truth`, up to the width of a bin of
response: sums are taken per event, errors are those of a bootstrap over events, and a bin whose effective number of
events is below 30 has no figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import hist
import numpy as np

from hepcal.closure.bins import ClosureBins, contents, divide
from hepcal.closure.flavours import FLAVOURS
from hepcal.closure.hists import LEVELS, QUANTITIES, WEIGHTINGS
from hepcal.closure.records import Figures, LevelFigures, Samples
from hepcal.closure.same_event import Pairs
from hepcal.statistics import CENTRAL, MIN_N_EFF, ROUNDING, monotone, quantile_spread

__all__ = ["CENTRAL", "MIN_N_EFF", "Closure", "by_flavour", "closure", "quantiles", "samples"]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Closure:
    """Closure of one quantity at one level in bins of one truth axis; ``<figure>_unc`` is the statistical error.

    Arrays have the shape (bins,) and hold NaN where n_eff is below 30 or the method does not provide the figure.

    Attributes:
        edges: Bin edges, shape (bins + 1,).
        share: Sum of weights relative to that of all entries.
        n_eff: Effective number of events, (sum w)² over the sum of the squared weight of each event.
        response_mean: Mean of value / truth.
        response_median: Median of value / truth.
        bias: Relative bias, mean of (value - truth) / truth; its error is ``response_mean_unc``.
        resolution: Half the central 68.27 % width of the response over its median.
        pull_mean: Mean of (truth - value) / sigma_tot of the entries inside the training support with a sigma_tot.
        pull_sd: Its standard deviation.
        pull_half68: Half its central 68.27 % width.
        coverage_68: Share of truths in the central 68.27 % interval of their prediction: that of a Neyman belt,
            ``prediction.interval(0.6827)``, or between the quantiles of a density (PIT).
        within_sigma_tot: Share of truths within sigma_tot of the value.
        sigma_stoch: Mean stochastic uncertainty [GeV].
        sigma_pred: Mean statistical uncertainty [GeV].
        in_range: Share of entries inside the training support.
        sum_ratio: sum(value) / sum(truth) over all bins; NaN if their n_eff is below 30.
    """

    edges: np.ndarray
    share: np.ndarray
    n_eff: np.ndarray
    response_mean: np.ndarray
    response_mean_unc: np.ndarray
    response_median: np.ndarray
    response_median_unc: np.ndarray
    bias: np.ndarray
    resolution: np.ndarray
    resolution_unc: np.ndarray
    pull_mean: np.ndarray
    pull_sd: np.ndarray
    pull_half68: np.ndarray
    coverage_68: np.ndarray
    coverage_68_unc: np.ndarray
    within_sigma_tot: np.ndarray
    within_sigma_tot_unc: np.ndarray
    sigma_stoch: np.ndarray
    sigma_pred: np.ndarray
    in_range: np.ndarray
    sum_ratio: float

    def as_dict(self) -> Figures:
        """Lists and numbers for JSON, None for NaN; figures that are empty in all bins are left out."""
        out: dict[str, Any] = {}
        for field in fields(self):
            value = np.atleast_1d(getattr(self, field.name))
            if np.isfinite(value).any() or field.name == "sum_ratio":
                listed = [None if not np.isfinite(v) else float(v) for v in value]
                out[field.name] = listed[0] if field.name == "sum_ratio" else listed
        # The fields are the keys of the record.
        return cast("Figures", out)


FROM_UNCERTAINTIES = (
    "pull_mean",
    "pull_sd",
    "pull_half68",
    "coverage_68",
    "coverage_68_unc",
    "within_sigma_tot",
    "within_sigma_tot_unc",
    "sigma_stoch",
    "sigma_pred",
    "in_range",
)
COUNTS = ("edges", "share", "n_eff", "in_range", "sum_ratio")


def closure(
    hists: Mapping[str, hist.Hist],
    quantity: str,
    level: str,
    weighting: str = "qcd",
    axis: str | None = None,
    *,
    total: bool = False,
    flavour: str | None = None,
) -> Closure:
    """Closure of a quantity, data sets summed by weight.

    Args:
        hists: Filled histograms of :func:`hepcal.closure.hists.book`. Those of runs before there were sums over events
            have errors without the correlation of the jets of an event.
        quantity: ``pt`` or ``mjj``.
        level: ``reco`` or ``calib``.
        weighting: ``qcd`` or ``bsm``.
        axis: Truth axis: ``pt_truth`` (default for ``pt``), ``abs_eta`` or ``mjj_truth`` (default for ``mjj``).
        total: All entries, those outside the bins included, as one bin.
        flavour: Only jets of one of :data:`hepcal.closure.flavours.FLAVOURS`, in bins of ``pt_truth``; ``share`` and
            ``sum_ratio`` are of all jets of this flavour.
    """
    axis = axis or f"{quantity}_truth"
    found = contents(hists, quantity, level, weighting, axis, total=total, flavour=flavour)
    weight, n_eff = found.sums("jets"), np.nan_to_num(divide(found.sums("jets") ** 2, found.event_squares))
    enough = (n_eff >= MIN_N_EFF) & (weight > 0)
    whole = found.everything
    figures: dict[str, Any] = {
        "edges": found.edges,
        "share": np.nan_to_num(divide(weight, whole["jets"]["value"])),
        "n_eff": n_eff,
        "sum_ratio": float(divide(whole["value"]["value"], whole["truth"]["value"])[0]),
        **_responses(found, enough),
        **_uncertainties(found, level),
    }
    all_squares = whole["jets"]["variance"] + sum(pairs.squares for pairs in found.pairs)
    if not whole["jets"]["value"][0] > np.sqrt(MIN_N_EFF * all_squares[0]):
        figures["sum_ratio"] = NAN
    kept: dict[str, Any] = {name: v if name in COUNTS else np.where(enough, v, NAN) for name, v in figures.items()}
    return Closure(**kept)


def _responses(bins: ClosureBins, enough: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, median and resolution of the response with their errors."""
    response = bins.mean("response")
    if "bias" in bins.terms:
        # (r - 1)² = r² - 2 r + 1, so that the sum of w² r need not be filled.
        products = (bins.squares("response") - bins.squares("bias") - bins.squares("jets")) / 2
        bias = bins.mean("bias")
        error = bins.mean_error("bias", bias, products)
    else:
        centres = np.concatenate([bins.response_edges[:1], _centres(bins.response_edges), bins.response_edges[-1:]])
        bias, error = response - 1, bins.mean_error("response", response, bins.response["variance"] @ centres)
    out = {"response_mean": response, "response_mean_unc": error, "bias": bias}
    rows = np.full((4, len(response)), NAN)
    low, median, high = quantiles(bins.response["value"], bins.response_edges, CENTRAL)
    rows[0], rows[2] = median, divide((high - low) / 2, median)
    for row in np.flatnonzero(enough & np.isfinite(low + median + high)):
        pairs = bins.pairs[row] if bins.pairs else None
        covariance = _covariance(bins.response[row], bins.response_edges, (low[row], median[row], high[row]), pairs)
        slope = np.array([-0.5, -rows[2, row], 0.5]) / median[row]
        rows[1, row], rows[3, row] = np.sqrt(covariance[1, 1]), np.sqrt(max(slope @ covariance @ slope, 0))
    return out | dict(
        zip(("response_median", "response_median_unc", "resolution", "resolution_unc"), rows, strict=True)
    )


def _covariance(
    content: np.ndarray, edges: np.ndarray, at: tuple[float, float, float], pairs: Pairs | None
) -> np.ndarray:
    """Covariance (3, 3) of the three quantiles of :data:`CENTRAL` of one bin; see :mod:`hepcal.statistics`.

    Args:
        content: Of the response with flow, structured, shape (responses + 2,).
        edges: Of the response.
        at: The quantiles.
        pairs: Jets of one event in this bin.
    """
    total, squares, p, q = content["value"].sum(), np.cumsum(content["variance"]), np.array(CENTRAL), np.array(at)
    below = monotone(np.cumsum(content["value"]))[:-1] / total
    ends, single = np.concatenate([edges, q]), np.concatenate([squares[:-1], np.interp(q, edges, squares[:-1])])
    # Sums over events of A(x)² and of A(x) times all weight, at the edges and at the quantiles.
    (both, one), all_pairs = pairs.both_below(ends) if pairs else (0.0, 0.0), pairs.squares if pairs else 0.0
    event, products, whole = single + both, single + one, squares[-1] + all_pairs
    spreads = []
    for i, probability in enumerate(p):
        variance = (event - 2 * probability * products + probability**2 * whole) / total**2
        spread = quantile_spread(edges, below, variance[: len(edges)], float(probability), binned=True)
        spreads.append(spread / np.sqrt(variance[len(edges) + i]))
    mixed = np.interp(np.minimum.outer(q, q), edges, squares[:-1]) + (pairs.below(q)[0] if pairs else 0.0)
    at_q = products[len(edges) :]
    shares = (
        mixed - np.multiply.outer(p, at_q) - np.multiply.outer(at_q, p) + whole * np.multiply.outer(p, p)
    ) / total**2
    return np.asarray(np.outer(spreads, spreads) * shares)


def _uncertainties(bins: ClosureBins, level: str) -> dict[str, np.ndarray]:
    """The figures that need uncertainties or a support: NaN before calibration, or where the method gives none."""
    figures: dict[str, np.ndarray] = dict.fromkeys(FROM_UNCERTAINTIES, np.full(len(bins.response), NAN))
    if level != "calib":
        return figures
    figures["in_range"] = bins.mean("in_range")
    figures |= {name: bins.mean(name) for name in ("sigma_stoch", "sigma_pred") if bins.sums(name).any()}
    if bins.sums("judged").any():
        figures |= _share(bins, "covered_68", "coverage_68")
    if not bins.sums("pulled").any():
        return figures
    figures |= _share(bins, "within_sigma_tot", "within_sigma_tot")
    mean = bins.mean("pull", "pulled")
    squared = bins.mean("pull_squared", "pulled")
    figures |= {"pull_mean": mean, "pull_sd": np.sqrt(np.maximum(squared - mean**2, 0))}
    if bins.pull is not None:
        low, _, high = quantiles(bins.pull["value"], bins.pull_edges, CENTRAL)
        figures["pull_half68"] = (high - low) / 2
    return figures


def _share(bins: ClosureBins, term: str, figure: str) -> dict[str, np.ndarray]:
    """A share of the entries, and its error."""
    share = bins.mean(term)
    # The square of yes or no is itself.
    return {figure: share, f"{figure}_unc": bins.mean_error(term, share, bins.squares(term))}


def by_flavour(hists: Mapping[str, hist.Hist], level: str, weighting: str = "qcd") -> dict[str, Closure]:
    """Closure of p_T in bins of truth by flavour, of the flavours that were filled; empty if the files have none."""
    if "pt_flavour_sums" not in hists:
        return {}
    found = {name: closure(hists, "pt", level, weighting, flavour=name) for name in FLAVOURS}
    return {name: each for name, each in found.items() if each.n_eff.any()}


def samples(hists: Mapping[str, hist.Hist]) -> Samples:
    """All closures, nested as ``<weighting>.<quantity>.<level>.<figure>``; what was not filled is left out.

    ``<quantity>.<level>.inclusive`` holds the same figures over all bins, ``pt.<level>.abs_eta`` in bins of |eta|, and
    ``pt.<level>.flavour.<flavour>`` those of one flavour where the files know it, of a share ``flavour_known`` of the
    jets by weight.
    """
    out: Samples = {}
    for weighting in WEIGHTINGS:
        for quantity in QUANTITIES:
            for level in LEVELS:
                found = closure(hists, quantity, level, weighting)
                if not found.n_eff.any():
                    continue
                figures = cast("LevelFigures", found.as_dict())
                figures["inclusive"] = closure(hists, quantity, level, weighting, total=True).as_dict()
                if quantity == "pt":
                    figures["abs_eta"] = closure(hists, quantity, level, weighting, "abs_eta").as_dict()
                    if flavours := by_flavour(hists, level, weighting):
                        figures["flavour"] = {name: each.as_dict() for name, each in flavours.items()}
                        figures["flavour_known"] = _flavour_known(hists, level, weighting)
                out.setdefault(weighting, {}).setdefault(quantity, {})[level] = figures
    return out


def _flavour_known(hists: Mapping[str, hist.Hist], level: str, weighting: str) -> float:
    """Share of the weight of the jets that is in files which know flavours."""
    chosen = {"weighting": hist.loc(weighting), "level": hist.loc(level), "term": hist.loc("jets")}
    known, whole = (
        float(hists[name][chosen].project("pt_truth").view(flow=True)["value"].sum())
        for name in ("pt_flavour_sums", "pt_sums")
    )
    return known / whole if whole else 0.0


def quantiles(contents: np.ndarray, edges: np.ndarray, probabilities: tuple[float, ...]) -> np.ndarray:
    """Quantiles of binned distributions, linear within a bin.

    Where the share below is the probability over empty bins, all of which hold a quantile, it is their middle.

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
        cumulative = monotone(np.cumsum(content))[:-1] / total
        # How far the sums are rounded, which must not choose one end of the empty bins.
        rounding = ROUNDING * np.abs(content).sum() / total
        for column, probability in enumerate(probabilities):
            met = np.flatnonzero(np.abs(cumulative - probability) <= rounding)
            if len(met):
                out[column, row] = (edges[met[0]] + edges[met[-1]]) / 2
            elif cumulative[0] <= probability <= cumulative[-1]:
                right = max(int(np.searchsorted(cumulative, probability)), 1)
                step = cumulative[right] - cumulative[right - 1]
                share = (probability - cumulative[right - 1]) / step if step > 0 else 0.0
                out[column, row] = edges[right - 1] + share * (edges[right] - edges[right - 1])
    return out


def _centres(edges: np.ndarray) -> np.ndarray:
    return np.asarray((edges[1:] + edges[:-1]) / 2)
