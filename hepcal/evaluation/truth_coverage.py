"""Coverage of intervals in bins of truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hepcal.arrays import numbers
from hepcal.evaluation.binning import Jets, binned, plain
from hepcal.evaluation.estimators import effective_clusters, mean, standard_error
from hepcal.statistics import MIN_N_EFF

__all__ = ["TruthCoverage", "coverage_in_truth"]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class TruthCoverage:
    """Coverage in bins; arrays of shape (bins,), float64, NaN where n_eff is below 30.

    Attributes:
        edges: Bin edges, shape (bins + 1,).
        n_eff: Effective number of events (of jets without ``event``).
        coverage: Share of jets whose truth lies in their interval, ends included.
        coverage_unc: Its statistical error.
        below: Share of jets whose truth is below their interval.
        below_unc: Its statistical error.
        above: Share of jets whose truth is above their interval.
        above_unc: Its statistical error.
    """

    edges: np.ndarray
    n_eff: np.ndarray
    coverage: np.ndarray
    coverage_unc: np.ndarray
    below: np.ndarray
    below_unc: np.ndarray
    above: np.ndarray
    above_unc: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Lists for JSON, None for NaN."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def coverage_in_truth(
    low: np.ndarray | float,
    high: np.ndarray | float,
    truth: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    edges: Sequence[float] | np.ndarray,
    by: np.ndarray | None = None,
    event: np.ndarray | None = None,
) -> TruthCoverage:
    """Coverage of intervals in bins of truth, or of ``by``.

    A confidence interval (a Neyman belt) has its coverage in every bin of truth; a Bayesian interval only on average
    over the spectrum of its prior. For the coverage of PIT values in bins of truth, give them as ``truth``, the two
    probabilities as ``low`` and ``high``, and the truth as ``by``.

    Args:
        low: Lower ends [GeV], shape (n,) or one number.
        high: Upper ends [GeV], shape (n,) or one number. Ends may be infinite.
        truth: True values [GeV], shape (n,).
        weight: Event weights, shape (n,), of either sign; None for one each.
        edges: Bin edges, increasing; a low edge belongs to the bin, a high edge to the next one.
        by: What to bin in instead of truth, shape (n,).
        event: Ids of the events, integers of shape (n,): errors then allow for jets of one event moving together.

    Raises:
        ValueError: Shapes differ, a number is NaN, an interval ends below its start, or the edges do not increase.
    """
    truth = numbers("truth", truth)
    low, high = (np.broadcast_to(numbers(name, end), truth.shape) for name, end in (("low", low), ("high", high)))
    if not (low <= high).all():
        raise ValueError(f"{(~(low <= high)).sum()} intervals end below their start, or are NaN")
    columns = {"coverage": (truth >= low) & (truth <= high), "below": truth < low, "above": truth > high}
    jets = Jets.checked(truth, weight, event, **columns)
    edges, bins = binned(jets, by, edges)
    rows = [_shares(jets.take(inside)) for inside in bins]
    return TruthCoverage(edges=edges, **{name: np.array([row[name] for row in rows]) for name in rows[0]})


def _shares(jets: Jets) -> dict[str, float]:
    shares = {"n_eff": effective_clusters(jets.weight, jets.cluster)}
    empty = shares["n_eff"] < MIN_N_EFF or not jets.weight.sum() > 0
    for name, column in jets.columns.items():
        assert column is not None  # noqa: S101 - all three were given
        value, influence = mean(column, jets.weight)
        shares[name] = NAN if empty else value
        shares[f"{name}_unc"] = NAN if empty else standard_error(influence, jets.weight, jets.cluster)
    return shares
