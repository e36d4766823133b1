"""Noisy labels: a reference value with an error of its own (arXiv:2003.11099, Sec. 5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hepcal.arrays import numbers
from hepcal.errors import PairsError
from hepcal.tables.pairs import JetPairs
from hepcal.tables.random import identity_of, normal

__all__ = ["label_errors", "smear_labels"]

# Stream of random numbers of the labels.
LABELS = 0


def smear_labels(pairs: JetPairs, fraction: float | None = None, *, seed: int = 0) -> JetPairs:
    """The table with labels instead of truths: label = truth + error xi, with a Gaussian xi per jet.

    The error is ``fraction`` times the truth (arXiv:2003.11099, Eq. 18), or the ``truth_error`` of the table. A jet
    gets the same label in any order, subset or chunk. Errors are independent between jets: one common to all jets is a
    shift of the scale, and no smearing.

    Args:
        pairs: Its ``truth`` is what the reference aims at.
        fraction: Relative error of all labels, not negative; None: each its ``truth_error``.
        seed: Of the random numbers.

    Returns:
        The table with the labels as ``truth`` [GeV], and their errors as ``truth_error``.

    Raises:
        PairsError: There is no error, it is negative or not finite, or a label would not be positive; counts them.
            The last cannot be for errors below 14 %, since no normal number of :mod:`hepcal.tables.random` is beyond
            6.8.
    """
    error = label_errors(pairs, fraction)
    xi = normal(seed, identity_of(pairs.event, pairs.reco), 1, LABELS)[:, 0]
    label = (pairs.truth + error * xi).astype(np.float32)
    bad = ~(label > 0)
    if bad.any():
        raise PairsError(
            f"{bad.sum()} of {len(pairs)} smeared labels would not be positive, first in row {int(np.argmax(bad))}: "
            f"its truth is {pairs.truth[bad][0]:g} GeV and its error {error[bad][0]:g} GeV. Smaller errors "
            "are needed"
        )
    return replace(pairs, truth=label, truth_error=error.astype(np.float32))


def label_errors(pairs: JetPairs, fraction: float | None = None) -> np.ndarray:
    """Errors of the labels [GeV], float64 of shape (n,): ``fraction`` times the truth, or the table's ``truth_error``.

    Raises:
        PairsError: The fraction or an error is negative or not finite, or there is neither.
    """
    if fraction is not None:
        if not 0 <= fraction < np.inf:
            raise PairsError(f"the error of a label is finite and not negative, found the fraction {fraction}")
        return np.asarray(fraction * pairs.truth.astype(np.float64))
    if pairs.truth_error is None:
        raise PairsError(
            "the table has no column 'truth_error', the error of each label [GeV]: give a fraction of the truth, or "
            "make the table with JetPairs.from_arrays(..., truth_error=error)"
        )
    error = numbers("truth_error", pairs.truth_error)
    if not (good := np.isfinite(error) & (error >= 0)).all():
        raise PairsError(
            f"'truth_error' is NaN, infinite or negative in {np.sum(~good)} of {len(pairs)} rows, "
            f"first in row {int(np.argmin(good))}"
        )
    return error
