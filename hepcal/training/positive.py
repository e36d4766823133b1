"""Tables with signed weights, made positive before anything learns from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hepcal.errors import TrainingError
from hepcal.metrics import CENTRAL
from hepcal.pairs import JetPairs
from hepcal.rows import chunks
from hepcal.scores import weighted_quantiles
from hepcal.signed_weights import Cells, shared, significant

__all__ = ["cells_of", "with_positive_weights"]

# Extents of cells in ln truth and in ln response that are small: half a resolution, in which no density changes much.
RESOLUTIONS = 0.5
# Where jets have no resolution: smallest extents in ln truth and ln response.
LEAST_WIDTHS = (0.02, 1e-4)


def with_positive_weights(fitted: JetPairs, held_out: JetPairs) -> tuple[JetPairs, JetPairs, Cells | None]:
    """Both parts of a table with positive weights, and the cells of the fitted one; None if no weight is negative.

    Each part has cells of its own: what is noise of the weights in one is not in the other. Held-out jets that are too
    few for that take the ratios of the whole table.

    Raises:
        TrainingError: The negative weights leave no more than five standard deviations of the sum of the weights.
    """
    if not ((fitted.weight < 0).any() or (held_out.weight < 0).any()):
        return fitted, held_out, None
    if not (_significant(fitted) and (_significant(held_out) or _significant(fitted, held_out))):
        weight = np.concatenate([fitted.weight, held_out.weight])
        raise TrainingError(
            f"{np.sum(weight < 0)} of {len(weight)} jets have negative weights, which leave an effective number "
            f"n_eff = (sum w)² / sum w² of {fitted.n_eff:.1f} to train on and {held_out.n_eff:.1f} held out: too few "
            "to learn from. Take more jets (from n_eff = 1,000 on every training works), a larger share of held-out "
            "ones (validation), or a sample with fewer negative weights"
        )
    cells = cells_of(fitted)
    if _significant(held_out):
        positive = cells_of(held_out).positive
    else:
        positive = _whole(fitted, held_out).positive[len(fitted) :]
    return replace(fitted, weight=cells.positive), replace(held_out, weight=positive), cells


def cells_of(pairs: JetPairs) -> Cells:
    """Cells in ln truth, ln response and all inputs that are no constituents."""
    return _cells(_coordinates(pairs), pairs.weight, pairs.event)


def _whole(fitted: JetPairs, held_out: JetPairs) -> Cells:
    """Cells of both parts together, the fitted jets first."""
    x = np.concatenate([_coordinates(part) for part in (fitted, held_out)], axis=1)
    weight, event = (np.concatenate([getattr(p, name) for p in (fitted, held_out)]) for name in ("weight", "event"))
    return _cells(x, weight, event)


def _cells(x: np.ndarray, weight: np.ndarray, event: np.ndarray) -> Cells:
    low, high = weighted_quantiles(x[1], np.abs(weight), (CENTRAL[0], CENTRAL[2]))
    width = RESOLUTIONS * float(high - low) / 2
    return Cells.of(x, (max(width, LEAST_WIDTHS[0]), max(width, LEAST_WIDTHS[1])), weight, event)


def _coordinates(pairs: JetPairs) -> np.ndarray:
    """What the sign may depend on, float64 of shape (2 + inputs, n)."""
    scalars = len(pairs.spec.inputs)
    x = np.empty((2 + scalars, len(pairs)))
    x[0] = np.log(pairs.truth.astype(np.float64))
    x[1] = np.log(pairs.reco.astype(np.float64)) - x[0]
    for part, values in chunks(pairs.features):
        x[2:, part] = values[:, :scalars].T
    return x


def _significant(*parts: JetPairs) -> bool:
    """Whether the sum of the weights lies well above zero."""
    weight, event = (np.concatenate([getattr(part, name) for part in parts]) for name in ("weight", "event"))
    return bool(significant(weight.sum(), shared(weight, event) * np.sum(weight**2)))
