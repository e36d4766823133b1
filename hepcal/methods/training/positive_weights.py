"""Tables with signed weights, made positive before anything learns from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hepcal.errors import TrainingError
from hepcal.statistics import CENTRAL, n_eff, weighted_quantiles
from hepcal.tables.pairs import JetPairs
from hepcal.tables.rows import chunks
from hepcal.tables.signed_weights import Cells, shared, significant

if TYPE_CHECKING:
    from hepcal.tagging.table import ClassJets

__all__ = ["coordinates", "with_positive_weights"]

# Extents of cells in ln truth and in ln response that are small, in resolutions: in them no density changes much. What
# is learned is the response, and it changes slowly with the truth.
RESOLUTIONS = (4.0, 0.5)
# Where jets have no resolution: smallest extents in ln truth and ln response.
LEAST_WIDTHS = (0.02, 1e-4)

Jets = TypeVar("Jets", "JetPairs", "ClassJets")


def with_positive_weights(
    fitted: Jets, held_out: Jets, coordinates: Callable[[Jets], np.ndarray], name: str = "training"
) -> tuple[Jets, Jets, Cells | None]:
    """Both parts of a table with positive weights, and the cells of the fitted one; None if no weight is negative.

    Each part has cells of its own: what is noise of the weights in one is not in the other. Held-out jets that are too
    few for that take the ratios of the whole table.

    Args:
        fitted: Jets to learn from.
        held_out: Jets to judge with.
        coordinates: What the sign may depend on, float64 of shape (d, n), from a part; the second of the two leading
            ones has the resolution that matters.
        name: What jets they are, for messages.

    Raises:
        TrainingError: The negative weights leave no more than five standard deviations of the sum of the weights.
    """
    if not ((fitted.weight < 0).any() or (held_out.weight < 0).any()):
        return fitted, held_out, None
    if not (_significant(fitted) and (_significant(held_out) or _significant(fitted, held_out))):
        raise _too_few(fitted.weight, held_out.weight, name)
    x = coordinates(fitted)
    cells = _cells(x, fitted.weight, fitted.event)
    if _significant(held_out):
        positive = _cells(coordinates(held_out), held_out.weight, held_out.event).positive
    else:
        both = np.concatenate([x, coordinates(held_out)], axis=1)
        positive = _cells(both, *_joined(fitted, held_out)).positive[len(fitted) :]
    return replace(fitted, weight=cells.positive), replace(held_out, weight=positive), cells


def coordinates(pairs: JetPairs) -> np.ndarray:
    """Ln truth, ln response and all inputs that are no constituents, float64 of shape (2 + inputs, n)."""
    scalars = len(pairs.spec.inputs)
    x = np.empty((2 + scalars, len(pairs)))
    x[0] = np.log(pairs.truth.astype(np.float64))
    x[1] = np.log(pairs.reco.astype(np.float64)) - x[0]
    for part, values in chunks(pairs.features):
        x[2:, part] = values[:, :scalars].T
    return x


def _cells(x: np.ndarray, weight: np.ndarray, event: np.ndarray) -> Cells:
    low, high = weighted_quantiles(x[1], np.abs(weight), (CENTRAL[0], CENTRAL[2]))
    resolution = float(high - low) / 2
    truth, response = (max(part * resolution, w) for part, w in zip(RESOLUTIONS, LEAST_WIDTHS, strict=True))
    return Cells.of(x, (truth, response), weight, event)


def _joined(*parts: Jets) -> tuple[np.ndarray, np.ndarray]:
    """Weights and events of all."""
    return np.concatenate([part.weight for part in parts]), np.concatenate([part.event for part in parts])


def _significant(*parts: Jets) -> bool:
    """Whether the sum of the weights lies well above zero."""
    weight, event = _joined(*parts)
    return bool(significant(weight.sum(), shared(weight, event) * np.sum(weight**2)))


def _too_few(fitted: np.ndarray, held_out: np.ndarray, name: str) -> TrainingError:
    weight = np.concatenate([fitted, held_out])
    return TrainingError(
        f"{np.sum(weight < 0)} of {len(weight)} {name} jets have negative weights, which leave an effective number "
        f"n_eff = (sum w)² / sum w² of {n_eff(fitted):.1f} to learn from and {n_eff(held_out):.1f} held out (the sums "
        f"of the weights are {fitted.sum():.4g} and {held_out.sum():.4g}): too few. Take more jets, a larger share of "
        "held-out ones (validation), or a sample with fewer negative weights"
    )
