"""Positive weights with the expectation of signed ones, in cells of phase space.

A negative weight makes a negative log-likelihood unbounded from below, so signed weights must not reach a loss. Samples
at next-to-leading order are made positive as in cell resampling (arXiv:2109.07851) and neural positive reweighting
(arXiv:2007.11586): all jets of a cell get the weight |w| times a factor that keeps the sum of w in the cell, and, by a
slope, the mean of the response. Where the sign does not depend on the place in the cell, every expectation is kept.

Cells are the leaves of a tree. It splits where the mean sign clearly depends on a coordinate, and beyond that evenly in
the leading two coordinates, for as long as the sums of the weights stay well above zero and cells are not yet small.

The positive weights fluctuate less than the signed ones. A bootstrap therefore finds the factors anew for each of its
samples (:meth:`Cells.resampled`): it repeats what was done to the sample, and its spread is that of repeated trainings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["SIGNIFICANT", "Cells"]

# Standard deviations by which the sum of the weights of a cell lies above zero, so that its ratio is known to a fifth.
SIGNIFICANT = 5.0
# Standard deviations by which the mean signs of two parts of a cell differ that are told apart whatever their sums.
CLEAR = 5.0
# Effective number of jets, signs aside, in either of such parts.
LEAST_JETS = 25
# Share of the jets of a cell that may lie beyond its extent, at either end.
BEYOND = 0.1
# Standard deviations by which the sum of cells lies above zero in a bootstrap sample, or else they are joined.
JOINED = 2.0
# Largest factor between the weights of the jets one standard deviation below and above the mean of a cell, for the same
# |w|, and steps of the bisection for it.
TILT = 4.0
STEPS = 30


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Jets with signed weights, in cells.

    Attributes:
        number: Cell of each jet, int64 of shape (n,).
        signed: Their weights, float64 of shape (n,).
        positive: Weights of the same sums and, as far as that goes, the same mean of the second coordinate in the
            cells, none negative, float64 of shape (n,).
    """

    number: np.ndarray
    signed: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(cls, coordinates: np.ndarray, widths: tuple[float, float], weight: np.ndarray, event: np.ndarray) -> Cells:
        """The cells of a sample; they do not depend on the order of the jets.

        Args:
            coordinates: What the sign may depend on, float64 of shape (d, n), the two leading ones first, of which the
                second is what is to be learned given the others.
            widths: Extents of the leading two below which a cell is not split evenly.
            weight: Of either sign, shape (n,); its sum is :func:`significant`.
            event: Ids, shape (n,): jets of one event have their sign in common.
        """
        order = np.lexsort((weight, *coordinates[::-1]))
        x, signed = coordinates[:, order], weight[order].astype(np.float64)
        found, total = _Tree(x, widths, signed, shared(weight, event)).leaves()
        number, positive = np.empty(len(order), dtype=np.int64), np.empty(len(order))
        number[order], positive[order] = found, _tilted(x[1], found, signed, total)
        return cls(number, np.asarray(weight, dtype=np.float64), positive)

    @property
    def emptied(self) -> float:
        """Share of the jets, by |w|, in cells whose weights do not sum to more than zero: they get weight zero."""
        size = np.abs(self.signed)
        return float(size[self.positive == 0].sum() / size.sum())

    def take(self, rows: np.ndarray) -> Cells:
        """Some of the jets."""
        return Cells(self.number[rows], self.signed[rows], self.positive[rows])

    def resampled(self, multiplicity: np.ndarray) -> np.ndarray:
        """Factors on the positive weights in bootstrap samples of the signed ones.

        Args:
            multiplicity: How often each jet is in each sample, shape (n, M).

        Returns:
            The same, times what makes the positive weights in each cell sum to the signed ones of that sample, float32
            of shape (n, M).
        """
        found, count = multiplicity.astype(np.float32), int(self.number.max()) + 1
        for sample in found.T:
            parts = self.signed * sample, self.positive * sample, (self.signed * sample) ** 2
            sums = [np.bincount(self.number, part, count) for part in parts]
            group = _joined(sums[0], sums[2])
            signed, positive = (np.bincount(group, part) for part in sums[:2])
            change = np.maximum(signed, 0) / np.where(positive > 0, positive, 1)
            sample *= change[group][self.number].astype(np.float32)
        return found


def _joined(total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Group of each cell: neighbours are joined until their sum is not lost in its noise."""
    if (total >= JOINED * np.sqrt(squares)).all():
        return np.arange(len(total))
    group, number, w, q = [], 0, 0.0, 0.0
    for its_total, its_squares in zip(total.tolist(), squares.tolist(), strict=True):
        if w > 0 and w**2 >= JOINED**2 * q:
            number, w, q = number + 1, 0.0, 0.0
        w, q = w + its_total, q + its_squares
        group.append(number)
    # What is left at the end belongs to the group before.
    last = number - 1 if number and not (w > 0 and w**2 >= JOINED**2 * q) else number
    return np.minimum(group, last)


def _tilted(x: np.ndarray, number: np.ndarray, signed: np.ndarray, total: np.ndarray) -> np.ndarray:
    """|w| e^(b x), with sums ``total`` and a b for each cell that gives x the mean that the signed weights give it.

    The bulk of the jets of a cell is tilted by a factor of TILT at most, so that b is no noise.
    """
    count, size = len(total), np.abs(signed)
    negative = np.bincount(number, signed < 0, count) > 0

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(number, values, count)

    away, extent = _centred(x, number, size, count)
    wanted = sums(signed * away) / np.where(total > 0, sums(signed), 1)
    low, high = (sign * np.log(TILT) / 2 / extent for sign in (-1, 1))
    for _ in range(STEPS):
        b = (low + high) / 2
        tilted = size * np.exp(b[number] * away)
        below = sums(tilted * away) < wanted * sums(tilted)
        low, high = np.where(below, b, low), np.where(below, high, b)
    tilted = np.where(negative[number], size * np.exp(((low + high) / 2)[number] * away), size)
    scale = total / np.where(sums(tilted) > 0, sums(tilted), 1)
    return np.asarray(tilted * scale[number])


def _centred(x: np.ndarray, number: np.ndarray, size: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance of x from its mean in each cell, within one standard deviation and a half, and that deviation."""
    mass = np.maximum(np.bincount(number, size, count), np.finfo(float).tiny)
    away = x - (np.bincount(number, size * x, count) / mass)[number]
    spread = np.sqrt(np.bincount(number, size * away**2, count) / mass)
    spread = np.where(spread > 0, spread, 1)
    return np.clip(away, -1.5 * spread[number], 1.5 * spread[number]), spread


def shared(weight: np.ndarray, event: np.ndarray) -> float:
    """Variance of a sum of weights over that of independent jets: up to two, where events have two jets."""
    _, number = np.unique(event, return_inverse=True)
    squares = float(np.sum(np.square(weight, dtype=np.float64)))
    return max(1.0, float(np.sum(np.bincount(number, np.abs(weight)) ** 2)) / squares) if squares else 1.0


def significant(total: np.ndarray | float, squares: np.ndarray | float) -> np.ndarray:
    """Whether sums of weights lie well above zero, given the sums of their squares."""
    return np.asarray((np.asarray(total) > 0) & (np.square(total) >= SIGNIFICANT**2 * np.asarray(squares)))


class _Tree:
    """Cells of jets in a fixed order.

    Args:
        x: Coordinates, shape (d, n).
        widths: See :meth:`Cells.of`.
        weight: Shape (n,).
        common: See :func:`shared`.
    """

    def __init__(self, x: np.ndarray, widths: tuple[float, float], weight: np.ndarray, common: float) -> None:
        self.x, self.widths, self.common = x, widths, common
        self.weight, self.size, self.square = weight, np.abs(weight), common * weight**2

    def leaves(self) -> tuple[np.ndarray, np.ndarray]:
        """Cell of each jet, neighbours in the tree having neighbouring numbers, and the sums of the cells."""
        number = np.empty(len(self.weight), dtype=np.int64)
        sums: list[float] = []
        waiting = [(np.arange(len(self.weight)), float(self.weight.sum()))]
        while waiting:
            rows, total = waiting.pop()
            left = self._cut(rows) if total > 0 and (self.weight[rows] < 0).any() else None
            if left is None:
                number[rows] = len(sums)
                sums.append(max(total, 0.0))
                continue
            parts = rows[~left], rows[left]
            found = [max(float(self.weight[part].sum()), 0.0) for part in parts]
            # A part that cannot have a negative sum leaves the deficit to the other.
            waiting += [(part, total * its_sum / sum(found)) for part, its_sum in zip(parts, found, strict=True)]
        return number, np.array(sums)

    def _cut(self, rows: np.ndarray) -> np.ndarray | None:
        """Which of the jets go to the first of two parts; None: they stay together."""
        clear = self._clear_cut(rows)
        return self._even_cut(rows) if clear is None else clear

    def _clear_cut(self, rows: np.ndarray) -> np.ndarray | None:
        """The cut between parts whose mean signs differ most, if they do so clearly."""
        best, found = CLEAR**2, None
        for x in self.x[:, rows]:
            order = np.argsort(x, kind="stable")
            score = self._scores(rows[order])
            score[x[order[1:]] == x[order[:-1]]] = 0
            place = int(np.argmax(score))
            if score[place] > best:
                best, found = float(score[place]), x <= x[order[place]]
        return found

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """Squared difference of the mean signs before and behind each jet but the last, over its variance."""
        total, size, square = (np.cumsum(part[rows]) for part in (self.weight, self.size, self.square))
        mean, variance = [], []
        for sums in ((total[:-1], size[:-1], square[:-1]), (p[-1] - p[:-1] for p in (total, size, square))):
            w, a, q = (np.maximum(part, 0) if i else part for i, part in enumerate(sums))
            some = (a > 0) & (a**2 >= LEAST_JETS * q)
            mean.append(w / np.where(some, a, 1))
            variance.append(np.where(some, q / np.where(some, a, 1) ** 2, np.inf))
        of_sign = max(1 - (total[-1] / size[-1]) ** 2, 1e-12)
        return np.asarray((mean[0] - mean[1]) ** 2 / (of_sign * np.maximum(variance[0] + variance[1], 1e-300)))

    def _even_cut(self, rows: np.ndarray) -> np.ndarray | None:
        """Halves in the leading coordinate in which the cell extends farthest, if their sums are well above zero."""
        extents: list[tuple[float, int]] = []
        for x, width in zip(self.x, self.widths, strict=False):
            low, high = np.quantile(x[rows], (BEYOND, 1 - BEYOND))
            extents.append((float(high - low) / width, len(extents)))
        for extent, number in sorted(extents, reverse=True):
            x = self.x[number, rows]
            left = x <= np.partition(x, (len(x) - 1) // 2)[(len(x) - 1) // 2]
            if extent > 1 and self._significant(rows[left]) and self._significant(rows[~left]):
                return np.asarray(left)
        return None

    def _significant(self, rows: np.ndarray) -> bool:
        return bool(significant(self.weight[rows].sum(), self.square[rows].sum()))
