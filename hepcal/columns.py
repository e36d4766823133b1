"""Columns: from a prediction to fields of awkward jets, lazily, keeping records and cross references.

Nothing is computed when columns are attached. The first one that is read triggers one prediction for all jets of the
collection, and reads only the features that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import awkward as ak
import numpy as np

from hepcal.errors import HepcalError

__all__ = ["COVERED", "REPLICAS", "FlatJets", "attach"]

REPLICAS = "pt_calib_replicas"
COVERED = "pt_calib_covered"

# Arrays by column name, each of shape (valid jets,).
Evaluate = Callable[[], Mapping[str, np.ndarray]]


class JetLayoutError(HepcalError, TypeError):
    """The given array is not one jet, or one list of jets, per event."""


@dataclass(frozen=True)
class FlatJets:
    """A collection of jets as a flat list without missing values, and the way back to its shape.

    Attributes:
        jets: ``events * var * Jet`` or ``events * Jet``; missing jets and missing lists are allowed.
    """

    jets: ak.Array

    def __post_init__(self) -> None:
        if not isinstance(self.jets, ak.Array):
            raise JetLayoutError(f"expected an awkward array of jets, found {type(self.jets).__name__}")
        if self.jets.ndim not in (1, 2) or not ak.fields(self.jets):
            raise JetLayoutError(f"expected events * var * Jet or events * Jet, found {ak.type(self.jets)!s:.80}")

    @cached_property
    def counts(self) -> ak.Array | None:
        """Jets per event (None for a missing list), or None if there is one jet per event."""
        return ak.num(self.jets, axis=1) if self.jets.ndim == 2 else None

    @cached_property
    def _with_missing(self) -> ak.Array:
        return self.jets if self.counts is None else ak.flatten(self.jets, axis=1)

    @cached_property
    def missing(self) -> np.ndarray | None:
        """Which entries of the flat list are None, or None if the type allows no missing jets."""
        if not self._with_missing.layout.is_option:
            return None
        missing: np.ndarray = ak.to_numpy(ak.is_none(self._with_missing, axis=0))
        return missing

    @cached_property
    def flat(self) -> ak.Array:
        """The jets that exist, ``n * Jet``."""
        return self._with_missing if self.missing is None else ak.drop_none(self._with_missing, axis=0)

    @cached_property
    def event_index(self) -> np.ndarray:
        """Event of each jet in :attr:`flat`, int64 of shape (n,)."""
        if self.counts is None:
            index = np.arange(len(self.jets))
        else:
            index = np.repeat(np.arange(len(self.jets)), ak.to_numpy(ak.fill_none(self.counts, 0)))
        return index if self.missing is None else index[~self.missing]

    def flattened(self, values: ak.Array) -> np.ndarray:
        """Values in the layout of the jets, one per jet in :attr:`flat`, float64.

        Raises:
            JetLayoutError: The layout is another one.
        """
        found = ak.to_numpy(values if self.counts is None else ak.flatten(values, axis=1)).astype(np.float64)
        if len(found) != len(self._with_missing):
            raise JetLayoutError(f"expected one number per jet, {len(self._with_missing)}, found {len(found)}")
        return found if self.missing is None else np.asarray(found[~self.missing])

    def column(self, dtype: np.dtype[Any], values: Callable[[], np.ndarray], inner: tuple[int, ...] = ()) -> ak.Array:
        """A virtual column in the shape of the jets, computed when it is first read; ``inner``: shape of one value."""
        n = len(self.flat)
        form = ak.forms.NumpyForm(dtype.name, inner_shape=inner, form_key="column")
        column = ak.from_buffers(form, n, {"column-data": values})
        if self.missing is not None:
            position = np.where(self.missing, -1, np.cumsum(~self.missing) - 1)
            column = ak.Array(ak.contents.IndexedOptionArray(ak.index.Index64(position), column.layout))
        return column if self.counts is None else ak.unflatten(column, self.counts)


def attach(
    flat: FlatJets,
    evaluate: Evaluate,
    columns: Sequence[str],
    shifts: Mapping[str, str],
    *,
    replicas: int = 0,
    covered: bool = False,
    replace: bool = False,
) -> ak.Array:
    """Attach columns and shift-type systematics.

    Args:
        flat: The jets.
        evaluate: Computes all columns at once; called at most once.
        columns: Names to attach; those ending in ``in_range`` are bool, the others float32. ``pt_calib`` is among them.
        shifts: Systematics: name of the record to attach and the column with its one-sigma size, e.g.
            ``{"calib_pred": "pt_calib_sigma_pred"}``.
        replicas: Length of the values of a column ``pt_calib_replicas``, which ``evaluate`` computes, too; 0: none.
        covered: Also attach a column ``pt_calib_covered``, which ``evaluate`` computes, too.
        replace: Also set ``pt`` to ``pt_calib``, scale ``mass`` alike, and keep ``pt_orig`` and ``mass_orig``.

    Returns:
        The jets with fields added, everything else untouched. Each systematic is a record with the fields ``up`` and
        ``down``, full jet collections whose ``pt`` is ``pt_calib`` plus or minus its size and whose ``mass`` is
        scaled by the same ratio.
    """
    jets = flat.jets
    memo: dict[str, np.ndarray] = {}

    def value(name: str) -> np.ndarray:
        if not memo:
            memo.update(evaluate())
        return memo[name]

    def shifted(size: str | None, sign: int) -> tuple[ak.Array, ak.Array]:
        def pt() -> np.ndarray:
            return value("pt_calib") + np.float32(sign) * value(size) if size else value("pt_calib")

        def mass() -> np.ndarray:
            ratio = pt().astype(np.float64) / ak.to_numpy(flat.flat.pt)
            return np.asarray(ak.to_numpy(flat.flat.mass) * ratio, dtype=np.float32)

        return flat.column(np.dtype(np.float32), pt), flat.column(np.dtype(np.float32), mass)

    def with_momentum(collection: ak.Array, pt: ak.Array, mass: ak.Array) -> ak.Array:
        return ak.with_field(ak.with_field(collection, pt, "pt"), mass, "mass")

    out = jets
    for name in columns:
        dtype = np.dtype(bool if name.endswith("in_range") else np.float32)
        out = ak.with_field(out, flat.column(dtype, partial(value, name)), name)
    plain = out
    if replicas:
        column = flat.column(np.dtype(np.float32), partial(value, REPLICAS), (replicas,))
        out = ak.with_field(out, column, REPLICAS)
    if covered:
        out = ak.with_field(out, flat.column(np.dtype(bool), partial(value, COVERED)), COVERED)
    if replace:
        out = ak.with_field(ak.with_field(out, jets.pt, "pt_orig"), jets.mass, "mass_orig")
        out = with_momentum(out, *shifted(None, 0))
    for name, size in shifts.items():
        sides = {side: with_momentum(plain, *shifted(size, sign)) for side, sign in (("up", +1), ("down", -1))}
        out = ak.with_field(out, ak.zip(sides, depth_limit=jets.ndim), name)
    return out
