"""What the histograms of a run hold in the bins of one axis: sums, responses, pulls, and pairs of jets of one event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import hist
import numpy as np
from numpy.typing import ArrayLike

from hepcal.closure.same_event import Pairs

__all__ = ["ClosureBins", "contents", "divide"]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class ClosureBins:
    """What the histograms hold in the bins of one axis.

    Attributes:
        edges: Of the axis.
        terms: Contents by term, structured with ``value`` and ``variance``, shape (bins,) each.
        everything: The same over all entries, shape (1,) each.
        response: Contents with flow, structured, shape (bins, responses + 2).
        response_edges: Shape (responses + 1,).
        pull: Contents with flow, shape (bins, pulls + 2); None before calibration.
        pull_edges: Shape (pulls + 1,).
        pairs: Pairs of jets of one event, by bin; empty if an entry is an event, or nobody filled them.
    """

    edges: np.ndarray
    terms: Mapping[str, np.ndarray]
    everything: Mapping[str, np.ndarray]
    response: np.ndarray
    response_edges: np.ndarray
    pull: np.ndarray | None
    pull_edges: np.ndarray
    pairs: tuple[Pairs, ...]

    def sums(self, name: str) -> np.ndarray:
        """Weighted sums of a term, zero if it is not there."""
        return np.asarray(self.terms[name]["value"]) if name in self.terms else np.zeros(len(self.response))

    def squares(self, name: str) -> np.ndarray:
        """Sums of the squared weighted term."""
        return np.asarray(self.terms[name]["variance"])

    def mean(self, name: str, over: str = "jets") -> np.ndarray:
        """Mean of a term."""
        return divide(self.sums(name), self.sums(over))

    @property
    def event_squares(self) -> np.ndarray:
        """Sum over events of the squared weight of the event."""
        found = self.squares("jets").copy()
        if self.pairs:
            found += [pairs.squares for pairs in self.pairs]
        return found

    def mean_error(self, name: str, mean: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Error of the mean of a term x.

        Args:
            name: The term.
            mean: Its mean.
            products: Sum of w² x.
        """
        squares = self.squares(name) - 2 * mean * products + mean**2 * self.squares("jets")
        if self.pairs:
            squares += [pairs.variance(name, m) for pairs, m in zip(self.pairs, mean, strict=True)]
        return divide(np.sqrt(np.maximum(squares, 0)), self.sums("jets"))


def contents(
    hists: Mapping[str, hist.Hist], quantity: str, level: str, weighting: str, axis: str, *, total: bool,
    flavour: str | None,
) -> ClosureBins:  # fmt: skip
    """Contents in bins of an axis, or of everything as one bin; see :func:`hepcal.closure.metrics.closure`."""
    stem = quantity if flavour is None else f"{quantity}_flavour"
    group = stem if flavour else f"{quantity}_{'inclusive' if total else axis}"
    chosen = {"weighting": weighting, "level": level} | ({} if flavour is None else {"flavour": flavour})
    sums, responses, pulls = hists[f"{stem}_sums"], hists[f"{stem}_response"], hists.get(f"{stem}_pull")
    terms = [
        dict(zip(sums.axes["term"], _cells(sums, chosen, axis, "term", total=whole).T, strict=True))
        for whole in (total, True)
    ]
    pull = None
    if level == "calib" and pulls is not None:
        pull = _cells(pulls, {"weighting": weighting}, axis, "pull", total=total)
    edges = sums.axes[axis].edges
    return ClosureBins(
        edges=edges[[0, -1]] if total else edges,
        terms=_renamed(terms[0]),
        everything=terms[1],
        response=_cells(responses, chosen, axis, "response", total=total),
        response_edges=responses.axes["response"].edges,
        pull=pull,
        pull_edges=np.empty(0) if pulls is None else pulls.axes["pull"].edges,
        pairs=_pairs(hists, group, chosen, () if total else (axis,)),
    )


def _renamed(terms: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Terms by the names of today: runs before schema version 2 called ``covered_68`` what lies within sigma_tot."""
    if "within_sigma_tot" in terms:
        return dict(terms)
    found = {name: content for name, content in terms.items() if name != "covered_68"}
    pulled = {"pulled": terms["jets"]} if terms["pull_squared"]["value"].any() else {}
    return found | pulled | {"within_sigma_tot": terms["covered_68"]}


def _pairs(
    hists: Mapping[str, hist.Hist], group: str, chosen: Mapping[str, str], axes: tuple[str, ...]
) -> tuple[Pairs, ...]:
    """The pairs of each bin; none if they were not filled."""
    if f"{group}_pairs" not in hists:
        return ()
    picked = {name: hist.loc(value) for name, value in chosen.items()}
    sums = hists[f"{group}_pair_sums"][picked].project(*axes, "term").view(flow=True)
    both = hists[f"{group}_pairs"][picked].project(*axes, "response_first", "response_second").view(flow=True)
    rows = zip(sums[1:-1], both[1:-1], strict=True) if axes else [(sums, both)]
    return tuple(Pairs.of(*row) for row in rows)


def _cells(histogram: hist.Hist, chosen: Mapping[str, str], axis: str, inner: str, *, total: bool) -> np.ndarray:
    """Contents over (axis, inner) with all other axes summed, outer flow dropped unless ``total``, inner flow kept."""
    picked = {name: hist.loc(value) for name, value in chosen.items()}
    view = histogram[picked].project(axis, inner).view(flow=True)
    cells: np.ndarray = view.sum(axis=0, keepdims=True) if total else view[1:-1]
    return cells


def divide(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """NaN where the denominator is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(denominator) != 0, np.asarray(numerator) / np.asarray(denominator), NAN)
