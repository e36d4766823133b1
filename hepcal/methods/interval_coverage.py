"""Which truths the central 68.27 % intervals of a calibrator cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hepcal.errors import HepcalError
from hepcal.statistics import CENTRAL
from hepcal.tables.rows import Rows

if TYPE_CHECKING:
    from hepcal.methods.calibrator import Calibrator

__all__ = ["central", "covered", "has_interval", "padded"]

JETS_AT_ONCE = 4096


def has_interval(calibrator: Calibrator) -> bool:
    """Whether there is an interval of the truth: a Neyman belt, or between the quantiles of a density."""
    none = np.empty((0, calibrator.card.features.width), dtype=np.float32), np.empty(0, dtype=np.float32)
    return calibrator.belt(*none) is not None or calibrator.components(*none) is not None


def covered(calibrator: Calibrator, features: Rows, reco: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the truth lies in the central 68.27 % interval: that of a Neyman belt, or of the density (PIT).

    Args:
        calibrator: What predicts.
        features: As in :meth:`Calibrator.predict`.
        reco: Detector-level p_T [GeV], shape (n,).
        truth: True p_T [GeV], shape (n,).

    Returns:
        bool of shape (n,).

    Raises:
        HepcalError: The method has no interval.
    """
    if (belt := calibrator.belt(features, reco)) is not None:
        low, high = belt(0.6827)
        return np.asarray((low <= truth) & (truth <= high))
    if (components := calibrator.components(features, reco)) is None:
        raise HepcalError(f"the method {calibrator.card.method!r} has no interval that could cover a truth")
    found = np.empty(len(reco), dtype=bool)
    for start in range(0, len(reco), JETS_AT_ONCE):
        part = slice(start, min(start + JETS_AT_ONCE, len(reco)))
        found[part] = central(components(part).cdf(truth[part, None])[:, 0])
    return found


def central(pit: np.ndarray) -> np.ndarray:
    """Whether the truth lies in the central 68.27 % interval, from the predicted probability below it."""
    return np.asarray((pit >= CENTRAL[0]) & (pit <= CENTRAL[2]))


def padded(values: np.ndarray, part: slice, size: int) -> np.ndarray:
    """A slice of values, filled up with its first one, as blocks of jets are."""
    return np.concatenate([values[part], np.full(size - (part.stop - part.start), values[part.start])])
