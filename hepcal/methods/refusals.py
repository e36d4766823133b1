"""What a calibrator refuses: foreign jets, those that carry columns of the same names, and results without bounds."""

from __future__ import annotations

from collections.abc import Mapping

import awkward as ak
import numpy as np

from hepcal.errors import HepcalError, NonFiniteFeatureError, SchemaError
from hepcal.events.schemas import SCHEMAS
from hepcal.methods.card import Card

__all__ = ["refuse_foreign", "refuse_overflow", "refuse_taken"]


def refuse_taken(jets: ak.Array, names: tuple[str, ...]) -> None:
    """Refuse jets that have columns of these names, or sigmas to them: two calibrations would be mixed.

    Raises:
        HepcalError: They do.
    """
    taken = [name for name in jets.fields if name in names or name.startswith(tuple(f"{n}_" for n in names))]
    if taken:
        raise HepcalError(
            f"these jets have columns of a calibrator, {', '.join(taken[:3])} ...: calibrate the jets of the file, or "
            "name the columns of this calibrator otherwise, calibrator(jets, prefix='second_')"
        )


def refuse_foreign(jets: ak.Array, card: Card) -> None:
    """Refuse jets that mean something else by the same names than those of the training. Reads nothing.

    Raises:
        SchemaError: They do.
    """
    if card.features.pt == "pt" and card.source.schema_name == "arrays" and "pt_orig" in jets.fields:
        raise SchemaError(
            "this calibrator was trained on arrays, with the p_T that jets have in their field 'pt'; these were "
            "corrected, and have another in 'pt_orig'. Leave one: ak.without_field(jets, 'pt_orig') to start from the "
            "corrected p_T (and 'mass_orig' if mass is an input), or calibrate the jets of the file"
        )
    if schema := SCHEMAS.get(card.source.schema_name):
        for field in set(schema.never) & set(jets.fields):
            raise SchemaError(
                f"this calibrator was trained on {schema.label} jets; these are {schema.never[field]} jets (they have "
                f"a {field})"
            )
    # Of a file, through coffea; jets that were put together otherwise do not say what they are.
    trained, given = card.source.collection, jets.layout.purelist_parameter("collection_name")
    if trained and given and given != trained:
        raise SchemaError(
            f"this calibrator was trained on {trained} jets; these are {given} jets, of which it knows nothing. "
            f"Calibrate events.{trained}, or train on these: JetPairs.from_fileset(..., jets={given!r}). For the "
            f"same jets under another name: ak.with_parameter(jets, 'collection_name', {trained!r})"
        )


def refuse_overflow(columns: Mapping[str, np.ndarray]) -> None:
    """Refuse columns [GeV] that are infinite, and a calibrated p_T that is no number.

    Raises:
        NonFiniteFeatureError: There are some; counts them and says where the first is.
    """
    for name, column in columns.items():
        if column.dtype == bool:
            continue
        bad = ~np.isfinite(column) if name == "pt_calib" else np.isinf(column)
        if bad.any():
            first = int(np.flatnonzero(bad.reshape(len(column), -1).any(axis=1))[0])
            raise NonFiniteFeatureError(
                f"{name!r} is not a finite number for {int(bad.sum())} of {bad.size} predictions, first of jet "
                f"{first}: the inputs are far outside of the training, or the calibrator is damaged. Look at the "
                "inputs of this jet, or leave such jets out"
            )
