"""Checked columns of jets, and the jets of each bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hepcal.arrays import numbers, unmasked

__all__ = ["Jets", "binned", "plain"]


@dataclass(frozen=True, slots=True)
class Jets:
    """Columns of n jets.

    Attributes:
        truth: float64 of shape (n,).
        weight: float64 of shape (n,).
        cluster: Number of the event, integers from 0 of shape (n,); None if each jet is its own.
        columns: Other columns by name, float64 of shape (n,); None for those that were not given.
        rows: Row of each jet in what was given.
        given: Number of rows that were given.
    """

    truth: np.ndarray
    weight: np.ndarray
    cluster: np.ndarray | None
    columns: Mapping[str, np.ndarray | None]
    rows: np.ndarray
    given: int

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.truth)

    @classmethod
    def checked(
        cls, truth: np.ndarray, weight: np.ndarray | None, event: np.ndarray | None, **columns: np.ndarray | None
    ) -> Jets:
        """Columns in float64; rows of weight zero are left out.

        Raises:
            ValueError: Shapes differ, a number is not finite, or the ids of events are not integers.
        """
        truth = numbers("truth", truth)
        if truth.ndim != 1:
            raise ValueError(f"truth has the shape {truth.shape}; expected one number per jet")
        given = {"weight": np.ones(len(truth)) if weight is None else weight, **columns}
        found = {name: None if c is None else numbers(name, c) for name, c in given.items()}
        for name, column in {"truth": truth, **found}.items():
            if column is None:
                continue
            if column.shape != truth.shape:
                raise ValueError(f"{name} has the shape {column.shape}; expected that of truth, {truth.shape}")
            if not np.isfinite(column).all():
                raise ValueError(f"{name} is not finite in {(~np.isfinite(column)).sum()} of {len(truth)} jets")
        cluster = None
        if event is not None:
            event = unmasked("event", event)
            if event.shape != truth.shape or not np.issubdtype(event.dtype, np.integer):
                raise ValueError(f"event ids are integers, one per jet; found {event.dtype} of shape {event.shape}")
            cluster = np.unique(event, return_inverse=True)[1]
        weight = found.pop("weight")
        assert weight is not None  # noqa: S101 - set above
        jets = cls(truth, weight, cluster, found, np.arange(len(truth)), len(truth))
        return jets.take(np.flatnonzero(weight))

    def take(self, rows: np.ndarray) -> Jets:
        """Some of the jets, the events numbered anew."""
        cluster = None if self.cluster is None else np.unique(self.cluster[rows], return_inverse=True)[1]
        columns = {name: None if column is None else column[rows] for name, column in self.columns.items()}
        return Jets(self.truth[rows], self.weight[rows], cluster, columns, self.rows[rows], self.given)


def binned(
    jets: Jets, by: np.ndarray | None, edges: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Checked edges, and the indices of the jets of each bin.

    Args:
        jets: As made by :meth:`Jets.checked`.
        by: What to bin in, one number per jet that was given to it; None for truth. NaN is in no bin.
        edges: Bin edges.

    Raises:
        ValueError: The edges do not increase, or ``by`` has another shape.
    """
    edges = numbers("edges", edges)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bin edges must increase, found {edges}")
    if by is None:
        number = jets.truth
    else:
        number = unmasked("by", by)
        if number.shape != (jets.given,):
            raise ValueError(f"what to bin in has the shape {number.shape}; expected one number per jet, {jets.given}")
        number = number[jets.rows]
    return edges, [np.flatnonzero((number >= low) & (number < high)) for low, high in pairwise(edges)]


def plain(value: Any) -> Any:
    """Built-in lists and numbers; None for NaN."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    return value if not isinstance(value, float) or np.isfinite(value) else None
