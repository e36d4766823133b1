"""How far a summary is to be trusted over the detector-level p_T, so that it loses resolution nowhere.

A regression follows the spectrum of its training: where that turns, or jets are few, its value says less of the truth
than reco p_T does, and what it gains beside is partly taken from there. What is calibrated is ln reco + trust (ln
summary - ln reco), with a trust from 0 to 1 that depends on reco p_T. It is only another variable: its response density
is learned, so every trust closes.
"""

from __future__ import annotations

import numpy as np

from hepcal.metrics import CENTRAL
from hepcal.scores import effective_number, weighted_quantiles

__all__ = ["Resolutions", "trusted"]

# A summary may cost this share of the resolution in a bin of truth: about the error of the comparison.
LOSS = 1.01
# Trust is lowered by this where a summary loses more.
STEP = 0.1
# Bins of truth have the width of the response (its central 68.27 %) or more, and so many effective jets; the cells of
# the median that is inverted are four times as fine.
BIN_JETS, FINER = 300, 4


class Resolutions:
    """Resolution in bins of truth that a variable of the jets has once its median is inverted.

    Args:
        log_truth: Ln truth, shape (n,).
        weight: Not negative, shape (n,).
        resolution: About that of the jets, relative, which sets the width of the bins.
    """

    def __init__(self, log_truth: np.ndarray, weight: np.ndarray, resolution: float) -> None:
        self._order = np.argsort(log_truth, kind="stable")
        self._order = self._order[weight[self._order] > 0]
        self._truth, self._weight = log_truth[self._order], weight[self._order]
        self.edges = self._bins(2 * resolution, BIN_JETS)
        self._parts = self._slices(self.edges)
        self._cells = self._slices(self._bins(2 * resolution / FINER, BIN_JETS / FINER))
        self._centers = np.array([self._quantiles(self._truth, cell, 0.5)[0] for cell in self._cells])

    def __call__(self, variable: np.ndarray) -> np.ndarray:
        """Half the central 68.27 % width of the inverted variable over its median, shape (bins,).

        Args:
            variable: Logarithm of what is inverted, shape (n,), in the order of ``log_truth``.
        """
        values = variable[self._order]
        # In units of the truth, so that it rises with slope one where there is nothing to learn from.
        shift = np.array([self._quantiles(values - self._truth, cell, 0.5)[0] for cell in self._cells])
        rising = np.maximum.accumulate(self._centers + shift)
        inside = np.interp(values, rising, self._centers)
        found = inside + (values - np.clip(values, rising[0], rising[-1])) - self._truth
        widths = [np.exp(self._quantiles(found, part, *CENTRAL)) for part in self._parts]
        return np.array([(high - low) / 2 / middle for low, middle, high in widths])

    def _quantiles(self, values: np.ndarray, part: slice, *probabilities: float) -> np.ndarray:
        return weighted_quantiles(values[part], self._weight[part], probabilities)

    def _bins(self, width: float, jets: float) -> np.ndarray:
        """Edges of bins of at least a width and enough effective jets; at least one bin."""
        low, high = self._truth[0], self._truth[-1]
        edges = np.linspace(low, high, max(1, int((high - low) / width)) + 1)
        kept, begin = [float(low)], 0
        for edge in edges[1:-1]:
            end = int(np.searchsorted(self._truth, edge))
            if effective_number(self._weight[begin:end]) >= jets:
                kept.append(float(edge))
                begin = end
        if effective_number(self._weight[begin:]) < jets and len(kept) > 1:
            kept.pop()
        return np.array([*kept, float(high)])

    def _slices(self, edges: np.ndarray) -> list[slice]:
        ends = np.searchsorted(self._truth, edges[1:-1])
        return [slice(*pair) for pair in zip([0, *ends], [*ends, len(self._truth)], strict=True)]


def trusted(
    resolutions: Resolutions, log_reco: np.ndarray, log_summary: np.ndarray, response: float, resolution: float
) -> tuple[np.ndarray, np.ndarray]:
    """Knots in ln reco p_T, rising, and the largest trust at each with which no bin of truth loses resolution.

    From full trust everywhere it is lowered, step by step, at the reco p_T of the bin that loses most, and beside it
    where nothing is left to lower: a trust that jumps costs resolution, too.

    Args:
        resolutions: Of the jets.
        log_reco: Ln detector-level p_T, shape (n,).
        log_summary: Ln summary, shape (n,).
        response: Median of ln(reco / truth).
        resolution: About that of the jets, relative: the distance of the knots.
    """
    low, high = resolutions.edges[[0, -1]] + response
    knots = np.linspace(low, high, max(2, round((high - low) / resolution)))
    trust, plain = np.ones(len(knots)), resolutions(log_reco)
    while True:
        share = np.interp(log_reco, knots, trust)
        ratio = resolutions(log_reco + share * (log_summary - log_reco)) / plain
        worst = int(np.argmax(ratio))
        if not ratio[worst] > LOSS or not trust.any():
            return knots, trust
        first, last = np.searchsorted(knots, resolutions.edges[worst : worst + 2] + response)
        near = slice(first, max(last, first + 1))
        while not trust[near].any():
            near = slice(max(near.start - 1, 0), near.stop + 1)
        trust[near] = np.maximum(trust[near] - STEP, 0)
