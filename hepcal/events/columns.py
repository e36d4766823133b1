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

__all__ = ["COVERED", "REPLICAS", "FlatJets", "JetLayoutError", "attach", "on_records", "type_of_attached"]

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

    @cached_property
    def record(self) -> ak.contents.RecordArray:
        """The records that the jets are made of: all that are stored, whether the array refers to them or not."""
        found: list[ak.contents.RecordArray] = []

        def note(record: ak.contents.RecordArray) -> ak.contents.Content:
            found.append(record)
            return record

        on_records(self.jets.layout, note)
        return found[0]

    @cached_property
    def place(self) -> np.ndarray | None:
        """Place of each jet in :attr:`flat` among the records, int64 of shape (n,); None: one after the other."""
        count = len(self.record)
        numbered = ak.Array(on_records(self.jets.layout, lambda _: ak.contents.NumpyArray(np.arange(count))))
        place = ak.to_numpy(ak.drop_none(ak.flatten(numbered, axis=None), axis=0))
        return None if len(place) == count and np.array_equal(place, np.arange(count)) else np.asarray(place)

    @cached_property
    def fields(self) -> dict[str, ak.contents.Content]:
        """Of the jets in :attr:`flat`, by name, as they are stored: nothing is read."""
        stored = zip(self.record.fields, self.record.contents, strict=True)
        if self.place is None:
            return dict(stored)
        place = ak.index.Index64(self.place)
        return {name: ak.contents.IndexedArray.simplified(place, content) for name, content in stored}

    def column(
        self, values: Callable[[], np.ndarray], dtype: np.dtype[Any], inner: tuple[int, ...] = ()
    ) -> ak.contents.Content:
        """A virtual column of the jets in :attr:`flat`, computed when it is first read; ``inner``: shape of a value."""
        form = ak.forms.NumpyForm(dtype.name, inner_shape=inner, form_key="column")
        return ak.from_buffers(form, len(self.flat), {"column-data": values}, highlevel=False)

    def of_fields(self, fields: Mapping[str, ak.contents.Content]) -> ak.contents.RecordArray:
        """Records of the kind of the jets with other fields, one for each in :attr:`flat`."""
        return ak.contents.RecordArray(
            list(fields.values()), list(fields), length=len(self.flat), parameters=self.record.parameters
        )

    def shaped(self, records: ak.contents.RecordArray) -> ak.Array:
        """Records of the jets in :attr:`flat` in the shape of the jets."""
        content: ak.contents.Content = records
        if self.missing is not None:
            position = np.where(self.missing, -1, np.cumsum(~self.missing) - 1)
            content = ak.contents.IndexedOptionArray(ak.index.Index64(position), content)
        flat = ak.Array(content, behavior=self.jets.behavior, attrs=self.jets.attrs)
        return flat if self.counts is None else ak.unflatten(flat, self.counts)


def on_records(
    layout: ak.contents.Content, change: Callable[[ak.contents.RecordArray], ak.contents.Content]
) -> ak.contents.Content:
    """A layout with its records changed, and nothing else; of a union, a record of the fields that all have."""
    if layout.is_union:
        if layout.purelist_depth != 1:
            raise JetLayoutError(
                "these are lists of jets of different types, such as joined collections with different fields: give "
                "all of them the same fields, jets[['pt', 'eta', ...]], before they are joined"
            )
        layout = ak.contents.RecordArray([layout[name] for name in layout.fields], layout.fields, length=len(layout))
    if layout.is_record:
        return change(layout)
    return layout.copy(content=on_records(layout.content, change))


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
        return self.flat.column(lambda: self._values[name], dtype, inner)

    def _pt(self, size: str | None, sign: int) -> np.ndarray:
        center = self._values["pt_calib"]
        return center + np.float32(sign) * self._values[size] if size else center

    def originals(self) -> dict[str, ak.contents.Content]:
        """What is kept where p_T changes: the momenta and the factor of the file, and the uncorrected momenta.

        Raises:
            SchemaError: The uncorrected p_T cannot be known.
        """
        fields = self.flat.fields
        found = {f"{name}_orig": fields[name] for name in ("pt", "mass", FACTOR) if name in fields}
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

    def _column(self, values: Callable[[], np.ndarray]) -> ak.contents.Content:
        return self.flat.column(values, np.dtype(np.float32))


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
    # All fields at once: to add one after the other took a fifth of a job, and read those of missing jets.
    attached = _Attached(flat, evaluate)
    fields = flat.fields | {prefix + name: attached.column(name) for name in columns}
    changed = fields | attached.originals() if shifts or replace else fields
    if replace:
        fields = changed | attached.momentum()
    if replicas:
        fields[prefix + REPLICAS] = attached.column(REPLICAS, (replicas,))
    if covered:
        fields[prefix + COVERED] = attached.column(COVERED)
    for name, size in shifts.items():
        sides = [flat.of_fields(changed | attached.momentum(size, sign)) for sign in (+1, -1)]
        fields[prefix + name] = ak.contents.RecordArray(sides, ["up", "down"])
    return flat.shaped(flat.of_fields(fields))


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
