"""Positive weights with the expectation of signed ones, in cells of phase space.

A negative weight makes a negative log-likelihood unbounded from below, so signed weights must not reach a loss. Samples
at next-to-leading order are made positive as in cell resampling (arXiv:2109.07851) and neural positive reweighting
(arXiv:2007.11586): all jets of a cell get the weight |w| times the ratio of the sums of w and |w| in the cell. The sum
in each cell is kept; where the sign does not depend on the place in the cell, so is every expectation.

Cells are the leaves of a tree. It splits where the mean sign clearly depends on a coordinate, and beyond that evenly in
the leading two coordinates, for as long as the sums of the weights stay well above zero and cells are not yet small.

The positive weights fluctuate less than the signed ones. A bootstrap therefore finds the ratios anew for each of its
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


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Jets with signed weights, in cells.

    Attributes:
        number: Cell of each jet, int64 of shape (n,).
        signed: Their weights, float64 of shape (n,).
        ratio: Sum of w over sum of |w| of each cell, not negative, float64 of shape (cells,).
    """

    number: np.ndarray
    signed: np.ndarray
    ratio: np.ndarray

    @classmethod
    def of(cls, coordinates: np.ndarray, widths: tuple[float, float], weight: np.ndarray, event: np.ndarray) -> Cells:
        """The cells of a sample; they do not depend on the order of the jets.

        Args:
            coordinates: What the sign may depend on, float64 of shape (d, n), the two leading ones first.
            widths: Extents of the leading two below which a cell is not split evenly.
            weight: Of either sign, shape (n,); its sum is :func:`significant`.
            event: Ids, shape (n,): jets of one event have their sign in common.
        """
        order = np.lexsort((weight, *coordinates[::-1]))
        tree = _Tree(coordinates[:, order], widths, weight[order].astype(np.float64), shared(weight, event))
        number = np.empty(len(weight), dtype=np.int64)
        number[order], ratio = tree.leaves()
        return cls(number, np.asarray(weight, dtype=np.float64), ratio)

    @property
    def positive(self) -> np.ndarray:
        """Weights of the same sums in the cells, none negative, float64 of shape (n,)."""
        return np.asarray(np.abs(self.signed) * self.ratio[self.number])

    @property
    def emptied(self) -> float:
        """Share of the jets, by |w|, in cells whose weights do not sum to more than zero: they get weight zero."""
        size = np.abs(self.signed)
        return float(size[self.ratio[self.number] == 0].sum() / size.sum())

    def take(self, rows: np.ndarray) -> Cells:
        """Some of the jets."""
        return Cells(self.number[rows], self.signed[rows], self.ratio)

    def resampled(self, multiplicity: np.ndarray) -> np.ndarray:
        """Factors on the positive weights in bootstrap samples of the signed ones.

        Args:
            multiplicity: How often each jet is in each sample, shape (n, M).

        Returns:
            The same with the ratios of each sample over those of all jets, float32 of shape (n, M).
        """
        found = multiplicity.astype(np.float32)
        size, count = np.abs(self.signed), len(self.ratio)
        kept = np.where(self.ratio > 0, self.ratio, 1)
        for sample in found.T:
            sums, sizes = (np.bincount(self.number, w * sample, count) for w in (self.signed, size))
            change = np.maximum(sums, 0) / np.where(sizes > 0, sizes, 1) / kept
            sample *= change[self.number].astype(np.float32)
        return found


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
        """Cell of each jet, neighbours in the tree having neighbouring numbers, and the ratios of the cells."""
        number, ratio = np.empty(len(self.weight), dtype=np.int64), []
        waiting = [(np.arange(len(self.weight)), float(self.weight.sum()))]
        while waiting:
            rows, total = waiting.pop()
            left = self._cut(rows) if total > 0 and (self.weight[rows] < 0).any() else None
            if left is None:
                number[rows] = len(ratio)
                size = float(self.size[rows].sum())
                ratio.append(max(total, 0.0) / size if size else 0.0)
                continue
            parts = rows[left], rows[~left]
            sums = [max(float(self.weight[part].sum()), 0.0) for part in parts]
            # A part that cannot have a negative sum leaves the deficit to the other.
            waiting += [(part, total * part_sum / sum(sums)) for part, part_sum in zip(parts, sums, strict=True)][::-1]
        return number, np.array(ratio)

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
        extents = []
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
