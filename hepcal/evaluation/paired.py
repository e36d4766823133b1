"""Gain in resolution of one calibration over another, measured with the same jets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hepcal.evaluation.binning import Jets, binned, plain
from hepcal.evaluation.estimators import effective_clusters
from hepcal.statistics import CENTRAL, MIN_N_EFF, weighted_quantiles

__all__ = ["PairedGain", "paired_resolution_gain"]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class PairedGain:
    """Ratio of two resolutions in bins; arrays of shape (bins,), float64, NaN where n_eff is below 30.

    Attributes:
        edges: Bin edges, shape (bins + 1,).
        n_eff: Effective number of events (of jets without ``event``).
        resolution_a: Half the central 68.27 % width of the response over its median, of the first calibration.
        resolution_b: The same of the second one.
        ratio: The first over the second: below one, the first is better.
        ratio_unc: Its statistical error, from the bootstrap.
        ratio_low: Lower end of the central 68.27 % of the bootstrap ratios.
        ratio_high: Upper end.
    """

    edges: np.ndarray
    n_eff: np.ndarray
    resolution_a: np.ndarray
    resolution_b: np.ndarray
    ratio: np.ndarray
    ratio_unc: np.ndarray
    ratio_low: np.ndarray
    ratio_high: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Lists for JSON, None for NaN."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def paired_resolution_gain(
    value_a: np.ndarray,
    value_b: np.ndarray,
    truth: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    edges: Sequence[float] | np.ndarray,
    by: np.ndarray | None = None,
    event: np.ndarray | None = None,
    n: int = 200,
    seed: int = 0,
) -> PairedGain:
    """Ratio of the resolutions of two calibrations of the same jets, with a paired bootstrap over events.

    Each replica draws every event with a Poisson(1) multiplicity, all its jets together, and takes both resolutions
    with it: what the two have in common cancels in the ratio. Resolutions of calibrations with different slopes
    compare shrinkage, not information: look at :attr:`TruthClosure.slope` first.

    Args:
        value_a: Values of the first calibration [GeV], shape (n,).
        value_b: Values of the second one [GeV], shape (n,).
        truth: True values [GeV], shape (n,), positive.
        weight: Event weights, shape (n,), of either sign; None for one each.
        edges: Bin edges, increasing; a low edge belongs to the bin, a high edge to the next one.
        by: What to bin in instead of truth, shape (n,).
        event: Ids of the events, integers of shape (n,); None if each jet is its own.
        n: Number of replicas.
        seed: Of the bootstrap.

    Raises:
        ValueError: Shapes differ, a number is not finite, a truth is not positive, or the edges do not increase.
    """
    jets = Jets.checked(truth, weight, event, a=value_a, b=value_b)
    if not (jets.truth > 0).all():
        raise ValueError(f"{(jets.truth <= 0).sum()} jets have a truth that is not positive")
    if n < 2:
        raise ValueError(f"an error needs at least two replicas, found {n}")
    edges, bins = binned(jets, by, edges)
    rows = [_gain(jets.take(inside), n, np.random.default_rng([seed, i])) for i, inside in enumerate(bins)]
    return PairedGain(edges, *(np.array(column) for column in zip(*rows, strict=True)))


def _gain(jets: Jets, n: int, rng: np.random.Generator) -> tuple[float, ...]:
    n_eff = effective_clusters(jets.weight, jets.cluster)
    if n_eff < MIN_N_EFF or not jets.weight.sum() > 0:
        return (n_eff, *(NAN,) * 6)
    cluster = np.arange(len(jets)) if jets.cluster is None else jets.cluster
    # Sorted once: sorting what is in order is cheap.
    orders = [np.argsort(jets[name] / jets.truth, kind="stable") for name in ("a", "b")]
    responses = [(jets[name] / jets.truth)[order] for name, order in zip(("a", "b"), orders, strict=True)]

    def widths(weight: np.ndarray) -> list[float]:
        return [_resolution(r, weight[order]) for r, order in zip(responses, orders, strict=True)]

    found = widths(jets.weight)
    ratios = np.empty(n)
    for replica in range(n):
        first, second = widths(jets.weight * rng.poisson(1, int(cluster.max()) + 1)[cluster])
        ratios[replica] = _ratio(first, second)
    low, high = np.quantile(ratios, (CENTRAL[0], CENTRAL[2]))
    return n_eff, *found, _ratio(*found), float(ratios.std(ddof=1)), float(low), float(high)


def _resolution(response: np.ndarray, weight: np.ndarray) -> float:
    low, middle, high = weighted_quantiles(response, weight, CENTRAL)
    return float(high - low) / (2 * float(middle)) if middle else NAN


def _ratio(first: float, second: float) -> float:
    return first / second if second else NAN
