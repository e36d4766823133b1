"""Weights of a training that do not follow its truth spectrum: p(reco | truth) does not need it.

A factor that depends on the truth alone leaves the response at every truth as it is, and with it the relative weights
of jets of the same truth, which may go with the response (signs, pile-up, flavours). The sum of weights in truth is
divided out. In its place comes the root of the effective number of jets: with a given number of draws, the errors of
the training add least to those of the sample, summed over the truth. (Draws even in ln truth would serve the few jets
of a tail hardly better, and the many elsewhere worse.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hepcal.errors import TrainingError
from hepcal.statistics import CENTRAL, weighted_quantiles

__all__ = ["LEAST_JETS", "Flattening", "flattened", "spread_order"]

# Effective jets within a resolution below which every effective jet counts alike: to repeat a few more often would
# teach their noise.
ENOUGH = 1_000
# Effective jets within a resolution that a truth inside the support has: its median is then known to a fifth of it.
LEAST_JETS = 25
# Intervals of ln truth are a quarter of the resolution (half the central 68.27 % width), or wider, for so many jets.
SHARE_OF_RESOLUTION, INTERVAL_JETS, MOST_INTERVALS = 0.25, 50, 4_096
# Jets of a batch beside each other in the response.
ACROSS = 10
# For tables in which the measured value is the truth.
SMALLEST_RESOLUTION = 1e-6


@dataclass(frozen=True)
class Flattening:
    """Factors on event weights by which their sum does not follow the truth spectrum.

    Attributes:
        edges: Of intervals of ln truth, rising, shape (k + 1,).
        factor: One per interval, shape (k,); zero where no jet has a weight.
        resolution: Half the central 68.27 % width of ln(reco / truth).
    """

    edges: np.ndarray
    factor: np.ndarray
    resolution: float

    @classmethod
    def of(cls, log_truth: np.ndarray, weight: np.ndarray, resolution: float, power: float = 0.5) -> Flattening:
        """From the jets of a training.

        Args:
            log_truth: Ln truth, shape (n,).
            weight: Not negative, of any scale, shape (n,).
            resolution: Half the central 68.27 % width of ln(reco / truth).
            power: The sum of weights goes as this power of the effective number of jets, where these are many.

        Raises:
            TrainingError: All truth values are (nearly) the same.
        """
        counted = log_truth[weight > 0]
        edges = _intervals(counted, resolution)
        number = _interval(edges, log_truth)
        # Weights may span more orders of magnitude than squares can.
        largest = np.zeros(len(edges) - 1)
        np.maximum.at(largest, number, weight)
        share = weight / np.where(largest > 0, largest, 1)[number]
        sums, squares = (np.bincount(number, share**power, len(edges) - 1) for power in (1, 2))
        jets = np.divide(sums**2, squares, out=np.zeros_like(sums), where=squares > 0)
        density = jets * 2 * resolution / np.diff(edges) / ENOUGH
        wanted = np.diff(edges) * np.minimum(density**power, density)
        factor = np.divide(wanted, sums * largest, out=np.zeros_like(sums), where=sums > 0)
        return cls(edges, factor, resolution)

    def __call__(self, log_truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Flattened weights of mean one, float64 of shape (n,)."""
        found = weight * self.factor[_interval(self.edges, log_truth)]
        mean = float(np.mean(found))
        if not mean > 0:
            raise TrainingError("no jet has a positive weight where the training has jets")
        return np.asarray(found / mean, dtype=np.float64)

    def effective_jets(self, log_truth: np.ndarray, weight: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Effective number of jets within a resolution, (sum w)² / sum w², at ln truth values of shape (m,).

        Args:
            log_truth: Ln truth of the jets, shape (n,).
            weight: Their own weights, shape (n,): what a few heavy jets say is not what the others say.
            at: Where, shape (m,).
        """
        order = np.argsort(log_truth, kind="stable")
        log_truth, weight = log_truth[order], weight[order]
        ends = np.searchsorted(log_truth, [at - self.resolution, at + self.resolution])
        # Sums of every window anew: differences of running sums would lose small weights behind large ones.
        sums, squares = (
            np.add.reduceat(np.append(weight**power, 0.0), ends.T.ravel())[::2] * (ends[1] > ends[0])
            for power in (1, 2)
        )
        # Of signed weights: what sums to nothing or less says nothing.
        kept = np.maximum(sums, 0) ** 2
        return np.asarray(np.divide(kept, squares, out=np.zeros_like(kept), where=squares > 0))

    def known(self, log_truth: np.ndarray, weight: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Whether there are jets enough within a resolution, at evenly spaced ln truth values (m,); bool.

        A gap that is no wider than the window counts as known: the response goes on smoothly across it.
        """
        enough = self.effective_jets(log_truth, weight, at) >= LEAST_JETS
        places = np.flatnonzero(enough)
        reach = 2 * self.resolution / (at[1] - at[0])
        for left, right in pairwise(places):
            enough[left:right] |= right - left <= reach
        return enough


def flattened(
    log_truth: np.ndarray, log_measured: np.ndarray, weight: np.ndarray, power: float = 0.5
) -> tuple[Flattening, np.ndarray]:
    """Weights of mean one that do not follow the truth spectrum, float64 of shape (n,), and what made them.

    Args:
        log_truth: Ln truth, shape (n,).
        log_measured: Ln of what is measured, whose width around the truth is the resolution, shape (n,).
        weight: Not negative, of any scale, shape (n,).
        power: See :meth:`Flattening.of`.

    Raises:
        TrainingError: All truth values are (nearly) the same, a weight is negative, or none is positive.
    """
    if (weight < 0).any():
        raise TrainingError(f"{np.sum(weight < 0)} of {len(weight)} weights are negative: jets cannot be drawn by them")
    u = (log_measured - log_truth)[weight > 0]
    if not len(u):
        raise TrainingError("no jet has a positive weight: there is nothing to learn a response from")
    # One of each: the weights of steep spectra would ask a few jets only.
    low, high = weighted_quantiles(u, np.ones(len(u)), (CENTRAL[0], CENTRAL[2]))
    found = Flattening.of(log_truth, weight, max(float(high - low) / 2, SMALLEST_RESOLUTION), power)
    return found, found(log_truth, weight)


def spread_order(log_truth: np.ndarray, log_measured: np.ndarray, share: np.ndarray, batch: int) -> np.ndarray:
    """Order of the jets in which a batch of evenly spaced ones is like the whole table in truth and response.

    Cells of truth with the same share, and in them to and fro in the response: as many parts as a batch has jets, ten
    of them beside each other in the response. So a batch teaches less by chance.

    Args:
        log_truth: Ln truth, shape (n,).
        log_measured: Ln of what is measured, shape (n,).
        share: How often jets are drawn, shape (n,).
        batch: Jets of a batch.

    Returns:
        Rows, int64 of shape (n,).
    """
    order = np.argsort(log_truth, kind="stable")
    cells = max(1, batch // ACROSS)
    cell = np.minimum(np.floor(np.cumsum(share[order]) / share.sum() * cells), cells - 1)
    response = (log_measured - log_truth)[order]
    return np.asarray(order[np.lexsort((np.where(cell % 2, -response, response), cell))])


def _intervals(log_truth: np.ndarray, resolution: float) -> np.ndarray:
    """Edges of intervals of a fraction of the resolution, joined until each has enough jets."""
    low, high = float(log_truth.min()), float(log_truth.max())
    if not high > low + 1e-9:
        raise TrainingError(f"truth p_T lies at {np.exp(low):g} GeV: too narrow a range to learn a response")
    cells = int(np.clip(np.ceil((high - low) / (SHARE_OF_RESOLUTION * resolution)), 1, MOST_INTERVALS))
    jets, edges = np.histogram(log_truth, np.linspace(low, high, cells + 1))
    kept, found = [low], 0
    for number in range(cells):
        found += int(jets[number])
        if found >= INTERVAL_JETS:
            kept.append(float(edges[number + 1]))
            found = 0
    if len(kept) == 1:
        kept.append(high)
    kept[-1] = high
    return np.array(kept)


def _interval(edges: np.ndarray, log_truth: np.ndarray) -> np.ndarray:
    """Interval of each jet; those beyond the ends are in the outermost."""
    return np.clip(np.searchsorted(edges, log_truth, side="right") - 1, 0, len(edges) - 2)
