"""Which jets stand for a sample, and what each event of it counts in the mean loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepcal.tables.signed_weights import Cells

__all__ = ["Representatives", "influence", "representatives"]

STEPS = 60


@dataclass(frozen=True, slots=True)
class Representatives:
    """Jets of a random choice of events.

    Attributes:
        rows: Their places in the sample, int64 of shape (m,).
        stands_for: How many each stands for, float64 of shape (m,): one over the chance to be chosen.
    """

    rows: np.ndarray
    stands_for: np.ndarray


def representatives(event: np.ndarray, weight: np.ndarray, jets: int, seed: int) -> Representatives:
    """Jets of events that are chosen with chances proportional to their weights, by systematic sampling.

    Heavy events are chosen for certain: sums over them are exact.

    Args:
        event: Ids, shape (n,).
        weight: Sizes of the weights, shape (n,).
        jets: About how many.
        seed: Of the choice.
    """
    if jets >= len(event):
        return Representatives(np.arange(len(event)), np.ones(len(event)))
    _, number, count = np.unique(event, return_inverse=True, return_counts=True)
    size = np.bincount(number, np.abs(weight))
    events = max(1.0, jets * len(count) / len(event))
    # The factor between size and chance, at which the chances sum to the number of events.
    low, high = np.log(events / size.sum()), np.log(1 / size[size > 0].min())
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, np.exp(middle) * size).sum() < events else (low, middle)
    chance = np.minimum(1, np.exp(high) * size)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(size))
    ahead = np.cumsum(chance[order]) + rng.uniform()
    chosen = np.zeros(len(size), dtype=bool)
    chosen[order] = np.floor(ahead) > np.floor(ahead - chance[order])
    rows = np.flatnonzero(chosen[number])
    return Representatives(rows, 1 / chance[number[rows]])


def influence(
    event: np.ndarray, weight: np.ndarray, stands_for: np.ndarray, total: float, cells: Cells | None = None
) -> np.ndarray:
    """What each event counts in the mean loss of the whole sample, as coefficients of the losses of the jets.

    Of the weighted mean, an event changes w (g - mean g). Where positive weights stand for signed ones
    (:mod:`hepcal.tables.signed_weights`), an event also moves the factor that its cell has in common: jet j changes
    w_j (g_j - G) + s_j G, with G the mean of its cell and s_j its signed weight.

    Args:
        event: Ids of the representatives, shape (m,).
        weight: Their weights, none negative, shape (m,).
        stands_for: See :class:`Representatives`, shape (m,).
        total: Sum of the weights of the whole sample.
        cells: The signed weights of the representatives, in the same unit.

    Returns:
        float64 of shape (m, events), times the root of what an event stands for, so that the sum of the products of
        the columns is the covariance of the mean.
    """
    _, first, number = np.unique(event, return_index=True, return_inverse=True)
    m, events = len(event), len(first)
    found = np.zeros((m, events))
    found[np.arange(m), number] = weight
    changed = weight
    if cells is not None:
        changed = cells.signed
        of_cell = np.zeros((m, int(cells.number.max()) + 1))
        of_cell[np.arange(m), cells.number] = weight * stands_for
        sums = of_cell.sum(0)
        of_cell /= np.where(sums > 0, sums, 1)
        moved = np.zeros((of_cell.shape[1], events))
        np.add.at(moved, (cells.number, number), cells.signed - weight)
        found += of_cell @ moved
    # The weights sum to the same in every sample.
    mean = found @ stands_for[first] / total
    found -= np.outer(mean, np.bincount(number, changed))
    return np.asarray(found * np.sqrt(stands_for[first]) / total)
