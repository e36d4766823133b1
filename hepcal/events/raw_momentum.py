"""Momentum of a jet before anything corrected it: the raw p_T and mass, and those of the file.

Raw p_T is an invariant of a jet. Corrections change ``pt`` and ``mass`` and leave traces: coffea's
``CorrectedJetsFactory`` keeps ``pt_orig``, ``mass_orig`` and the ``pt_raw``, ``mass_raw`` that it started from, and
leaves ``rawFactor`` as it was; calibrators keep all four, and update it. What cannot be known is refused.
"""

from __future__ import annotations

from typing import Any, Literal

import awkward as ak
import numpy as np

from hepcal.errors import SchemaError

__all__ = ["FACTOR", "PtKind", "detector_pt", "is_changed", "original", "original_field", "raw", "raw_fields"]

PtKind = Literal["raw", "pt"]
FACTOR = "rawFactor"


def detector_pt(jets: ak.Array, kind: PtKind) -> ak.Array:
    """Detector-level p_T [GeV] in the layout of ``jets``.

    Args:
        jets: Reconstructed jets of any layout.
        kind: ``raw`` is the p_T without any correction, see :func:`raw`; ``pt`` that of the file, see
            :func:`original`.

    Raises:
        SchemaError: It cannot be known.
    """
    return raw(jets) if kind == "raw" else original(jets)


def raw(jets: ak.Array, name: str = "pt") -> ak.Array:
    """Uncorrected p_T or mass [GeV] in the layout of ``jets``.

    Args:
        jets: Jets of NanoAOD, corrected again or not.
        name: ``pt`` or ``mass``.

    Returns:
        ``pt_raw`` where it is there; else ``pt (1 - rawFactor)`` with the ``pt`` that the factor belongs to:
        ``pt_orig`` where a correction left it. The mass alike.

    Raises:
        SchemaError: The jets have no ``rawFactor``, or it belongs to a p_T that they do not have any more.
    """
    base, *factor = raw_fields(jets, name)
    return jets[base] * (1 - jets[FACTOR]) if factor else jets[base]


def raw_fields(jets: ak.Array, name: str = "pt") -> tuple[str, ...]:
    """The fields that :func:`raw` reads: ``("pt_raw",)``, or a p_T and the factor that belongs to it. Reads nothing.

    Raises:
        SchemaError: As :func:`raw`.
    """
    known, before = f"{name}_raw", f"{name}_orig"
    if known in jets.fields and not _is_copy(jets, known, before):
        return (known,)
    if FACTOR not in jets.fields:
        raise SchemaError(
            f"this calibrator was trained on uncorrected {_SAID[name]}, {name} * (1 - rawFactor), but these jets have "
            f"no field 'rawFactor' and no {known!r} (Delphes jets have none, and are not corrected): train with "
            f"Features({_ELSE[name]}) for them"
        )
    base = before if before in jets.fields and not _updated(jets, before) else name
    corrected = base == name and jets.layout.purelist_parameter("corrected")
    if base in jets.fields and (corrected or is_changed(jets, base)):
        raise SchemaError(
            f"the {base!r} of these jets was changed and their 'rawFactor' was not: {base} * (1 - rawFactor) is not "
            f"the uncorrected {_SAID[name]}. Keep it before changing {name}, as jets[{known!r}] = jets.{name} * (1 - "
            "jets.rawFactor), or calibrate the jets of the file"
        )
    return base, FACTOR


def original(jets: ak.Array, name: str = "pt") -> ak.Array:
    """A field as the file has it: ``pt_orig`` where a correction left it, else ``pt``; ``mass``, ``rawFactor`` alike.

    Raises:
        SchemaError: ``pt_orig`` is not of the file: a correction of corrected jets overwrote it.
    """
    return jets[original_field(jets, name)]


def original_field(jets: ak.Array, name: str = "pt") -> str:
    """The field that :func:`original` reads. Reads nothing.

    Raises:
        SchemaError: As :func:`original`.
    """
    kept = f"{name}_orig" in jets.fields
    field = f"{name}_orig" if kept else name
    # What is kept, and a factor, is never taken as given, as a pt may be.
    checked = (kept or name == FACTOR) and {field, "eta"} <= {*jets.fields}
    if checked and _computed(jets, field) and not _computed(jets, "eta"):
        raise SchemaError(
            f"the {field!r} of these jets is not the {name} of the file, which this calibrator was trained on: a "
            "correction of corrected jets overwrote it. Calibrate the jets of the file, or of the first correction"
        )
    return field


def is_changed(jets: ak.Array, name: str) -> bool:
    """Whether a p_T or mass was computed while ``rawFactor`` is still that of the file.

    A column of a file carries the title of its branch and is read on demand; one that was computed has lost one of the
    two, and nothing has to be read to see it. Columns in memory keep the title when they are scaled by a number: they
    are compared with those of the file. Jets without these marks, which were put together from arrays, are taken as
    they are.
    """
    if FACTOR not in jets.fields:
        return False
    if not _computed(jets, FACTOR) and _computed(jets, name):
        return True
    if _virtual(jets, FACTOR):
        # A part of a column that was read is in memory, beside a factor that was not.
        return not _virtual(jets, name) and _differs(jets, name) is not False
    return not _computed(jets, FACTOR) and _differs(jets, name) is True


_SAID = {"pt": "p_T", "mass": "mass"}
_ELSE = {"pt": "pt='pt'", "mass": "inputs=('mass', ...)"}


def _title(jets: ak.Array, name: str) -> str | None:
    """What a branch calls itself; coffea passes it on, and it is lost where a column is computed from others."""
    title: str | None = jets[name].layout.purelist_parameter("__doc__")
    return title


def _virtual(jets: ak.Array, name: str) -> bool:
    """Whether a column is read on demand, as those of a file are, also once it was read."""
    layout: Any = jets[name].layout
    while not (layout.is_numpy or layout.is_unknown):
        if not hasattr(layout, "content"):
            return False
        layout = layout.content
    return layout.is_numpy and hasattr(layout.data, "is_materialized")


def _computed(jets: ak.Array, name: str) -> bool:
    """Whether a column is not one of the file, or not known to be."""
    return _title(jets, name) is None


def _differs(jets: ak.Array, name: str) -> bool | None:
    """Whether jets in memory have another p_T or mass beside their factor than those that coffea finds in the file.

    A jet is known by its direction. None if some are not of these events, or if there is no file to look at.
    """
    factory = jets.attrs.get("@events_factory")
    collection = jets.layout.purelist_parameter("collection_name")
    if factory is None or not collection:
        return None
    events, of_file = factory.events(), name.removesuffix("_orig")
    # Of dask-awkward, there is only a plan of them.
    there = events[collection] if isinstance(events, ak.Array) and collection in events.fields else None
    if there is None or not {of_file, FACTOR, "eta", "phi"} <= {*there.fields} or not {"eta", "phi"} <= {*jets.fields}:
        return None
    known = np.isin(_both(jets, "eta", "phi"), _both(there, "eta", "phi"))
    if (known & ~np.isin(_both(jets, name, FACTOR), _both(there, of_file, FACTOR))).any():
        return True
    return False if known.all() else None


def _both(jets: ak.Array, first: str, second: str) -> np.ndarray:
    """Two numbers of each jet as one word, bit by bit."""
    flat = [ak.to_numpy(ak.drop_none(ak.flatten(jets[name], axis=None))) for name in (first, second)]
    return np.stack(flat, axis=1).astype(np.float32).view(np.uint64)[:, 0]


def _updated(jets: ak.Array, before: str) -> bool:
    """Whether the factor was made for the p_T of now, as calibrators do, and not for the original."""
    if not {FACTOR, before} <= {*jets.fields}:
        return False
    computed, kept = _computed(jets, FACTOR), _computed(jets, before)
    if computed != kept:
        return computed
    # Of arrays or of a skim, where all columns look alike, what calibrators keep tells.
    alike = not computed or ("eta" in jets.fields and _computed(jets, "eta"))
    return alike and f"{FACTOR}_orig" in jets.fields and not jets.layout.purelist_parameter("corrected")


def _is_copy(jets: ak.Array, known: str, before: str) -> bool:
    """Whether what is called raw is the column of the file that a correction started from."""
    if before not in jets.fields or FACTOR not in jets.fields or _computed(jets, known):
        return False
    return _title(jets, known) == _title(jets, before)
