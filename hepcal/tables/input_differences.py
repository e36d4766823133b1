"""How the inputs of a sample differ from those of a training, and which of it is worth a warning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hepcal.errors import InputsDifferWarning, warn

__all__ = ["ALL", "RESPONSE", "Condition", "Difference", "notable", "warn_if_inputs_differ", "warning"]

Condition = Literal["truth", "reco"]
ALL = "all jets"
RESPONSE = "response"
# What is worth a warning: a difference of the cumulative distributions that no statistics makes, and that is not small.
SIGNIFICANT = 5.0
LARGE: dict[Condition, float] = {"truth": 0.03, "reco": 0.04}
# Differences that a warning lists.
LISTED = 4


@dataclass(frozen=True, slots=True)
class Difference:
    """How one input differs from the training, over all jets that can be compared or those of a region.

    Attributes:
        quantity: Name of the input, or ``response``.
        region: ``all jets``, or a range of |eta|.
        distance: Largest difference of the two cumulative distributions, 0 to 1 (Kolmogorov-Smirnov).
        significance: The same in units of its statistical error.
        shift: Of the mean, in units of the width in the training, on a scale where the training is Gaussian.
        median: Median, averaged over the bins of p_T.
        expected: That of the training, averaged alike.
        condition: What is held fixed: ``truth`` or ``reco`` p_T.
    """

    quantity: str
    region: str
    distance: float
    significance: float
    shift: float
    median: float
    expected: float
    condition: Condition

    def __str__(self) -> str:
        how = "higher" if self.shift > 0 else "lower"
        size = f"{how} by {abs(self.shift):.2f} widths" if abs(self.shift) >= 0.02 else "of another shape"
        where = "" if self.region == ALL else f" at {self.region}"
        change = f"{100 * (self.median / self.expected - 1):+.1f} %, " if self.quantity == RESPONSE else ""
        return (
            f"{self.quantity}{where} {size} ({change}median {self.median:.4g}, training {self.expected:.4g}; "
            f"cumulative distributions {100 * self.distance:.1f} % apart, {self.significance:.0f} standard errors)"
        )

    @property
    def notable(self) -> bool:
        """Whether it is worth a warning: neither statistics nor another spectrum explains it."""
        return self.significance > SIGNIFICANT and self.distance > LARGE[self.condition]


def notable(differences: Iterable[Difference]) -> list[Difference]:
    """Those worth a warning, one per quantity, largest first: of all jets, or of the region where it is largest."""
    found: dict[str, Difference] = {}
    for one in sorted((d for d in differences if d.notable), key=lambda d: (d.region != ALL, -d.distance)):
        found.setdefault(one.quantity, one)
    return sorted(found.values(), key=lambda d: -d.distance)


def warning(who: str, where: str, found: Sequence[Difference]) -> str:
    """One paragraph about differences from :func:`notable`, not none.

    Args:
        who: The calibrator.
        where: The sample.
        found: The differences.
    """
    fixed = {"truth": "true", "reco": "detector-level"}[found[0].condition]
    cause = {
        "truth": "another detector or reconstruction, or jets of other flavours; no spectrum makes it",
        "reco": "another detector or reconstruction, jets of other flavours, or a very different spectrum",
    }[found[0].condition]
    lines = [f"  {difference}" for difference in found[:LISTED]]
    if len(found) > LISTED:
        lines.append(f"  and {len(found) - LISTED} more: {', '.join(d.quantity for d in found[LISTED:])}")
    head = (
        f"at fixed {fixed} p_T, {where} differs from the training of {who} ({cause}). What the calibrator "
        "says of closure, widths and coverage holds for jets like those of the training:"
    )
    return "\n".join([head, *lines])


def warn_if_inputs_differ(summary: Mapping[str, Any]) -> None:
    """Warn of the data sets of a run that are of another detector than the training.

    Args:
        summary: Of a run; those of earlier versions know nothing of inputs.
    """
    for dataset, found in summary.get("inputs", {}).items():
        if differing := notable(Difference(**one) for one in found or ()):
            warn(warning("this calibrator", f"the data set {dataset!r}", differing), InputsDifferWarning)
