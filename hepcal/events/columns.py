"""Columns: from a prediction to fields of awkward jets, lazily, keeping records and cross references.

Nothing is computed when columns are attached. The first one that is read triggers one prediction for all jets of the
collection, and reads only the features that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import awkward as ak
import numpy as np

from hepcal.arrays import refuse_dask_awkward
from hepcal.errors import HepcalError, SchemaError
from hepcal.events.raw_momentum import FACTOR, raw, raw_fields

__all__ = ["COVERED", "REPLICAS", "FlatJets", "JetLayoutError", "attach", "type_of_attached"]

REPLICAS = "pt_calib_replicas"
COVERED = "pt_calib_covered"

FLOAT = np.dtype(np.float32)
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
        refuse_dask_awkward(self.jets)
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

    def shaped(self, content: ak.contents.Content) -> ak.Array:
        """One entry per jet in :attr:`flat`, in the shape of the jets, with their behavior."""
        if self.missing is not None:
            position = np.where(self.missing, -1, np.cumsum(~self.missing) - 1)
            content = ak.contents.IndexedOptionArray(ak.index.Index64(position), content)
        column = ak.Array(content, behavior=self.jets.behavior, attrs=self.jets.attrs)
        return column if self.counts is None else ak.unflatten(column, self.counts)


@dataclass(frozen=True)
class _Attached:
    """What one calibration adds to jets; every value comes from one evaluation, when the first one is read."""

    flat: FlatJets
    evaluate: Evaluate

    @cached_property
    def _values(self) -> Mapping[str, np.ndarray]:
        return self.evaluate()

    def column(self, name: str, inner: tuple[int, ...] = ()) -> ak.contents.Content:
        dtype = np.dtype(bool if name.endswith(("in_range", "covered")) else np.float32)
        return self._column(lambda: self._values[name], dtype, inner)

    def _pt(self, size: str | None, sign: int) -> np.ndarray:
        center = self._values["pt_calib"]
        return center + np.float32(sign) * self._values[size] if size else center

    def originals(self) -> dict[str, ak.contents.Content]:
        """What is kept where p_T changes: the momenta and the factor of the file, and the uncorrected momenta.

        Raises:
            SchemaError: The uncorrected p_T cannot be known.
        """
        fields, flat = self.flat.jets.fields, self.flat.flat.layout
        found = {f"{name}_orig": flat[name] for name in ("pt", "mass", FACTOR) if name in fields}
        found = {name: values for name, values in found.items() if name not in fields}
        return found | {f"{name}_raw": self._column(partial(self._uncorrected, name)) for name in self._known()}

    def _known(self) -> list[str]:
        """Of which momenta there are uncorrected ones: none of Delphes, and p_T only if just the mass was changed."""
        jets = self.flat.jets
        known = [name for name in ("pt", "mass") if name in jets.fields and {FACTOR, f"{name}_raw"} & {*jets.fields}]
        if "pt" in known:
            raw_fields(jets)
        with suppress(SchemaError):
            raw_fields(jets, "mass")
            return known
        return [name for name in known if name == "pt"]

    def _uncorrected(self, name: str) -> np.ndarray:
        return np.asarray(ak.to_numpy(raw(self.flat.flat, name)), dtype=np.float32)

    def momentum(self, size: str | None = None, sign: int = 0) -> dict[str, ak.contents.Content]:
        """``pt``, at the calibrated value or shifted by a column, ``mass`` scaled alike, and their ``rawFactor``."""

        def mass() -> np.ndarray:
            ratio = self._pt(size, sign).astype(np.float64) / ak.to_numpy(self.flat.flat.pt)
            return np.asarray(ak.to_numpy(self.flat.flat.mass) * ratio, dtype=np.float32)

        def factor() -> np.ndarray:
            ratio = self._uncorrected("pt").astype(np.float64) / self._pt(size, sign)
            return np.asarray(1 - ratio, dtype=np.float32)

        changed: dict[str, Callable[[], np.ndarray]] = {"pt": partial(self._pt, size, sign), "mass": mass}
        if FACTOR in self.flat.jets.fields:
            changed[FACTOR] = factor
        return {name: self._column(values) for name, values in changed.items()}

    def _column(
        self, values: Callable[[], np.ndarray], dtype: np.dtype[Any] = FLOAT, inner: tuple[int, ...] = ()
    ) -> ak.contents.Content:
        """A virtual column, one value per jet, computed when it is first read; ``inner``: shape of one value."""
        form = ak.forms.NumpyForm(dtype.name, inner_shape=inner, form_key="column")
        buffers = {"column-data": values}
        return ak.from_buffers(form, len(self.flat.flat), buffers, highlevel=False)


def attach(
    flat: FlatJets,
    evaluate: Evaluate,
    columns: Sequence[str],
    shifts: Mapping[str, str],
    *,
    replicas: int = 0,
    covered: bool = False,
    replace: bool = False,
    prefix: str = "",
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
        replace: Also set ``pt`` to ``pt_calib``, scale ``mass`` alike, update ``rawFactor`` where there is one, so that
            ``pt (1 - rawFactor)`` stays the raw p_T, and keep ``pt_orig``, ``mass_orig``, ``rawFactor_orig`` of the
            file and the invariants ``pt_raw``, ``mass_raw``.
        prefix: Put before the names of columns and systematics.

    Returns:
        The jets with fields added, everything else untouched. Each systematic is a record with the fields ``up`` and
        ``down``, full jet collections whose ``pt`` is ``pt_calib`` plus or minus its size, with ``mass``,
        ``rawFactor`` and what is kept as with ``replace``.

    Raises:
        SchemaError: The uncorrected p_T cannot be known, so that no ``rawFactor`` can be given; see
            :mod:`hepcal.events.raw_momentum`.
    """
    attached, jets = _Attached(flat, evaluate), flat.flat.layout
    fields = {name: jets[name] for name in ak.fields(jets)}
    fields |= {prefix + name: attached.column(name) for name in columns}
    changed = fields | attached.originals() if shifts or replace else fields
    if replace:
        fields = changed | attached.momentum()
    if replicas:
        fields[prefix + REPLICAS] = attached.column(REPLICAS, (replicas,))
    if covered:
        fields[prefix + COVERED] = attached.column(COVERED)
    parameters = _record_parameters(jets)
    for name, size in shifts.items():
        sides = {"up": changed | attached.momentum(size, +1), "down": changed | attached.momentum(size, -1)}
        fields[prefix + name] = _record({side: _record(of_side, parameters) for side, of_side in sides.items()})
    # One record, put into the shape of the jets once: to add one field after the other took a fifth of a job.
    return flat.shaped(_record(fields, parameters))


def _record(
    fields: Mapping[str, ak.contents.Content], parameters: dict[str, Any] | None = None
) -> ak.contents.RecordArray:
    return ak.contents.RecordArray(list(fields.values()), list(fields), parameters=parameters)


def _record_parameters(jets: ak.contents.Content) -> dict[str, Any]:
    """Of jets that may be a choice of others: name and documentation of the record."""
    while not jets.is_record and not jets.is_union:
        jets = jets.content
    return dict(jets.parameters)


def type_of_attached(calibrate: Callable[..., ak.Array], jets: ak.Array, **others: ak.Array | None) -> ak.Array:
    """What is attached to jets that have a type and no content, as dask-awkward asks when it plans.

    Args:
        calibrate: Attaches to jets, with the others as they are named.
        jets: On awkward's backend ``typetracer``; all fields count as read, since all go into the result.
        others: What goes with them, such as their events, on the same backend.

    Returns:
        The type of the result, on the same backend.
    """
    given = {
        name: ak.typetracer.length_zero_if_typetracer(array) for name, array in others.items() if array is not None
    }
    attached = ak.materialize(calibrate(ak.typetracer.length_zero_if_typetracer(jets), **given))
    return ak.Array(attached.layout.to_typetracer(forget_length=True), behavior=jets.behavior)
