"""How far a summary is to be trusted over the detector-level p_T, jet by jet, so that it never loses resolution.

A regression is as good a summary as its training: where jets were few it shrinks to the others, or knows nothing. What
is calibrated is ln reco + trust (ln summary - ln reco), with a trust from 0 to 1 that depends on reco p_T and is chosen
for the best resolution. It is only another variable: its response density is learned, so every trust closes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepcal.errors import TrainingError
from hepcal.statistics import CENTRAL, longest_run, n_eff, weighted_quantiles

__all__ = ["Comparison", "compared", "range_of_gain", "trusted"]

TRIED = np.linspace(0, 1, 11)
# Bins of truth have the width of a resolution (the central 68.27 %) or more, and so many effective jets: the ratio of
# two widths of the same jets is then known to about two per cent.
BIN_JETS = 300
# Width of the full summary over that of reco p_T from which on it loses.
MOST_LOST = 1.03
# What is without errors has no logarithm of its resolution.
LEAST_RESOLUTION = 1e-9
# Where there is next to no resolution.
MOST_BINS = 1_000
# Where the median rises by less than this per unit of truth (both as logarithms), a variable knows next to nothing.
LEAST_SLOPE = 0.05


@dataclass(frozen=True)
class Comparison:
    """Resolution with a summary, in bins of truth.

    Attributes:
        edges: Of bins of ln truth, shape (b + 1,).
        reco: Median ln reco p_T in each, shape (b,).
        trust: What was tried, shape (t,).
        resolution: Half central 68.27 % width of the response over its slope, relative, for each trust, shape (t, b).
    """

    edges: np.ndarray
    reco: np.ndarray
    trust: np.ndarray
    resolution: np.ndarray


def compared(
    log_truth: np.ndarray, log_reco: np.ndarray, log_summary: np.ndarray, weight: np.ndarray, resolution: float,
    trust: np.ndarray = TRIED, edges: np.ndarray | None = None,
) -> Comparison:  # fmt: skip
    """The resolution of ln reco + trust (ln summary - ln reco) for several trusts.

    Args:
        log_truth: Ln truth, shape (n,).
        log_reco: Ln detector-level p_T, shape (n,).
        log_summary: Ln summary, shape (n,).
        weight: Shape (n,), not negative.
        resolution: About that of the jets, which sets the width of the bins.
        trust: What is tried: numbers (t,), or one for each jet (t, n).
        edges: Of bins of ln truth that another comparison has chosen.
    """
    if edges is None:
        edges = _bins(log_truth, weight, 2 * resolution)
    number = np.clip(np.searchsorted(edges, log_truth, side="right") - 1, 0, len(edges) - 2)
    rows = [np.flatnonzero((number == b) & (weight > 0)) for b in range(len(edges) - 1)]
    found = np.full((len(trust), len(rows)), np.nan)
    for t, share in enumerate(trust):
        found[t] = _resolutions(log_truth, log_reco + share * (log_summary - log_reco), weight, rows)
    # NaN in a bin of given edges that has no jets here.
    reco = np.array([weighted_quantiles(log_reco[row], weight[row], (0.5,))[0] for row in rows])
    return Comparison(edges, reco, np.asarray(trust), found)


def trusted(found: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Knots in ln reco p_T, rising, and the trust at each: of the best resolution, averaged over neighbouring bins."""
    resolution = np.where(np.isfinite(found.resolution), found.resolution, 1e3)
    cost = _smoothed(np.log(np.maximum(resolution, LEAST_RESOLUTION)))
    trust = found.trust[np.argmin(cost, axis=0)]
    # A trust that changes within a resolution would bend the response.
    trust, known = _smoothed(_smoothed(trust[None]))[0], np.isfinite(found.reco)
    knots, first = np.unique(np.maximum.accumulate(found.reco[known]), return_index=True)
    return knots, trust[known][first]


def range_of_gain(found: Comparison) -> tuple[float, float]:
    """The longest range of ln truth in which the full summary does not lose: ends of its bins.

    Raises:
        TrainingError: It loses everywhere.
    """
    with np.errstate(invalid="ignore"):
        gains = found.resolution[-1] / found.resolution[0] <= MOST_LOST
    first, last = longest_run(gains)
    if first == last:
        raise TrainingError(
            "the summary resolves worse than the detector-level p_T at every truth: use where_it_loses='blend', or a "
            "plain Likelihood"
        )
    return float(found.edges[first]), float(found.edges[last])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Averages over three neighbours of rows (t, b), weights 1, 2, 1; the ends lean on one."""
    wide = np.concatenate([values[:, :1], values, values[:, -1:]], axis=1)
    return np.asarray((wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) / 4)


def _bins(log_truth: np.ndarray, weight: np.ndarray, width: float) -> np.ndarray:
    """Edges of bins of at least a width and enough effective jets; at least one bin."""
    order = np.argsort(log_truth, kind="stable")
    zeta, w = log_truth[order], weight[order]
    cells = int(np.clip((zeta[-1] - zeta[0]) / width, 1, MOST_BINS))
    edges = np.linspace(zeta[0], zeta[-1], cells + 1)
    place = np.searchsorted(zeta, edges[1:-1])
    kept, begin = [float(edges[0])], 0
    for edge, end in zip(edges[1:-1], place, strict=True):
        if n_eff(w[begin:end]) >= BIN_JETS:
            kept.append(float(edge))
            begin = int(end)
    if n_eff(w[begin:]) < BIN_JETS and len(kept) > 1:
        kept.pop()
    return np.array([*kept, float(edges[-1])])


def _resolutions(log_truth: np.ndarray, variable: np.ndarray, weight: np.ndarray, rows: list[np.ndarray]) -> np.ndarray:
    """Half central width of a variable at fixed truth over its slope, in bins (b,); NaN where it does not rise."""
    zeta = np.array([np.average(log_truth[row], weights=weight[row]) if len(row) else np.nan for row in rows])
    median = np.array([weighted_quantiles(variable[row], weight[row], (0.5,))[0] for row in rows])
    slope = np.gradient(median, zeta) if len(rows) > 1 else np.ones(1)
    found = np.full(len(rows), np.nan)
    for b, row in enumerate(rows):
        if slope[b] > LEAST_SLOPE:
            rest = variable[row] - slope[b] * (log_truth[row] - zeta[b])
            low, high = weighted_quantiles(rest, weight[row], (CENTRAL[0], CENTRAL[2]))
            found[b] = (high - low) / 2 / slope[b]
    return found
