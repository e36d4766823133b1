"""Pairs of jets of one event in one bin of truth: what the error of a closure needs beside sums over jets.

Two jets of an event share its weight and may fluctuate together, so that what varies independently is the event. With
x the number whose mean is taken, the variance is a sum over events of (sum over its jets of w (x - mean))², which is a
sum over jets, in the histograms anyhow, and twice a sum over pairs of jets in the same bin. That second one is here:

``<group>_pair_sums``
    sums over pairs of w² (``jets``), of w² (x1 + x2) (``bias``, ``covered_68`` ...) and of w² x1 x2
    (``bias_product`` ...).
``<group>_pairs``
    w² over the responses of both jets, coarse, from which the same follows for quantiles.

A group says which jets are in one bin: those of one bin of truth p_T, of one bin of |eta|, of all. Sums over events are
additive, so they do not depend on chunks: an event is never split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hist
import numpy as np

__all__ = ["PAIR_TERMS", "Pairs", "book_pairs", "fill_pairs", "pairs_of_events"]

# Numbers with an error on their mean.
AVERAGED = ("bias", "within_sigma_tot", "covered_68")
PAIR_TERMS = ("jets", *AVERAGED, *(f"{name}_product" for name in AVERAGED))
# Finest where jets are.
COARSE = (
    0, 0.4, 0.6, 0.7, 0.75, 0.8, 0.84, 0.88, 0.91, 0.94, 0.96, 0.98, 1, 1.02, 1.04, 1.06, 1.09, 1.12, 1.16, 1.2, 1.25,
    1.3, 1.4, 1.6, 2,
)  # fmt: skip


def book_pairs(group: str, common: Sequence[Any], truths: Sequence[Any]) -> dict[str, hist.Hist]:
    """Empty histograms of a group.

    Args:
        group: Begins their names.
        common: Axes ``dataset``, ``weighting`` and ``level``.
        truths: Axes in whose bins both jets of a pair are; none: all pairs.
    """
    term = hist.axis.StrCategory(PAIR_TERMS, name="term", label="Summed term", overflow=False)
    responses = [
        hist.axis.Variable(COARSE, name=f"response_{which}", label=f"Response of the {which} jet")
        for which in ("first", "second")
    ]
    return {
        f"{group}_pair_sums": hist.Hist(*common, *truths, term, storage=hist.storage.Double()),
        f"{group}_pairs": hist.Hist(*common, *truths, *responses, storage=hist.storage.Double()),
    }


def pairs_of_events(event: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of both jets of all pairs; jets of an event follow one another.

    Args:
        event: Number of the event of each jet, shape (n,).
    """
    for distance in range(1, len(event)):
        same = np.flatnonzero(event[distance:] == event[:-distance])
        if not len(same):
            return
        yield same, same + distance


def fill_pairs(
    hists: Mapping[str, hist.Hist],
    group: str,
    truth: Mapping[str, np.ndarray],
    columns: Mapping[str, np.ndarray],
    weight: np.ndarray,
    event: np.ndarray,
    where: Mapping[str, str],
) -> None:
    """Fill the pairs of a group.

    Args:
        hists: With those of :func:`book_pairs`.
        group: Which.
        truth: Values of its axes by name, shape (n,) each.
        columns: ``response``, and those numbers of :data:`AVERAGED` that there are, shape (n,) each.
        weight: Shape (n,).
        event: Number of the event of each jet, shape (n,), rising.
        where: Data set, weighting and level.
    """
    sums, pairs = hists[f"{group}_pair_sums"], hists[f"{group}_pairs"]
    bins = {name: pairs.axes[name].index(values) for name, values in truth.items()}
    for first, second in pairs_of_events(event):
        same = np.ones(len(first), dtype=bool)
        for number in bins.values():
            same &= np.asarray(number[first] == number[second])
        one, two = first[same], second[same]
        square = weight[one] * weight[two]
        place = {**where, **{name: values[one] for name, values in truth.items()}}
        responses = {"response_first": columns["response"][one], "response_second": columns["response"][two]}
        pairs.fill(**place, **responses, weight=square)
        terms = {"jets": square}
        for name in AVERAGED:
            if name in columns:
                x, y = columns[name][one], columns[name][two]
                terms |= {name: square * (x + y), f"{name}_product": square * x * y}
        for term, numbers in terms.items():
            # A histogram without an axis of numbers takes one weight, not many.
            sums.fill(**place, term=term, weight=numbers if truth else float(numbers.sum()))


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one bin, each of which counts twice: once in either order.

    Attributes:
        terms: Sums by :data:`PAIR_TERMS`.
        both: Sum of w² with the first response below one coarse edge and the second below another, either order; the
            last row and column are below anything, shape (edges + 1, edges + 1).
    """

    terms: Mapping[str, float]
    both: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray, pairs: np.ndarray) -> Pairs:
        """From contents of the two histograms, of shapes (terms,) and (coarse + 2, coarse + 2)."""
        below = np.cumsum(np.cumsum(pairs, axis=0), axis=1)
        return cls(dict(zip(PAIR_TERMS, 2 * sums, strict=True)), below + below.T)

    @property
    def squares(self) -> float:
        """Sum of w² over pairs, counted twice."""
        return float(self.terms["jets"])

    def variance(self, name: str, mean: float) -> float:
        """Sum over pairs of w² (x1 - mean) (x2 - mean), counted twice."""
        return float(self.terms[f"{name}_product"] - mean * self.terms[name] + mean**2 * self.terms["jets"])

    def below(self, response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum of w² with both responses below x and y, shape (n, n), and with the first below x, shape (n,).

        Args:
            response: x and y, shape (n,).
        """
        share = _interpolation(response)
        return share @ self.both @ share.T, share @ self.both[:, -1]

    def both_below(self, response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The diagonal of :meth:`below`, and the same second array, shape (n,) each."""
        share = _interpolation(response)
        return np.einsum("ij,jk,ik->i", share, self.both, share), share @ self.both[:, -1]


def _interpolation(response: np.ndarray) -> np.ndarray:
    """Shares of the coarse edges in what is interpolated between them, shape (n, edges + 1); none of "anything"."""
    unit = np.eye(len(COARSE))
    inside = np.stack([np.interp(response, COARSE, row) for row in unit], axis=1)
    return np.concatenate([inside, np.zeros((len(response), 1))], axis=1)
