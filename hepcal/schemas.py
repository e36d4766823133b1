"""One view of jets, truth jets and weights over NanoAOD, PFNano and Delphes; the only place that knows branch names.

A *field* is what processors see (``jets.pt``), a *branch* is what the file holds (``Jet_pt``, ``Jet/Jet.PT``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import awkward as ak
import numpy as np
from coffea.nanoevents import DelphesSchema, NanoAODSchema, PFNanoAODSchema

from hepcal.errors import MissingFieldError, SchemaError

__all__ = [
    "SCHEMAS",
    "Schema",
    "detect",
    "detector_pt",
    "event_field",
    "event_weight",
    "is_simulation",
    "truth_jets",
]

PtKind = Literal["raw", "pt"]


class Quiet:
    """Mix-in: no warnings, once per chunk and worker, about what no jet calibration needs.

    These are cross references that a skim lacks, and photon masses and charges that coffea replaces.
    """

    warn_missing_crossrefs = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Branch Photon_", RuntimeWarning)
            super().__init__(*args, **kwargs)


class QuietNanoAODSchema(Quiet, NanoAODSchema):  # type: ignore[misc]
    """NanoAODSchema without those warnings."""


class QuietPFNanoAODSchema(Quiet, PFNanoAODSchema):  # type: ignore[misc]
    """PFNanoAODSchema without those warnings."""


@dataclass(frozen=True, slots=True)
class Schema:
    """How one kind of file is laid out.

    Attributes:
        name: ``nanoaod``, ``pfnano`` or ``delphes``.
        tree: Name of the event tree.
        coffea: The coffea schema class.
        pt: Detector-level p_T by default: ``raw`` is ``pt (1 - rawFactor)``, ``pt`` the field itself.
    """

    name: str
    tree: str
    coffea: type[Any]
    pt: PtKind

    @property
    def family(self) -> str:
        """Layouts of one family have the same jet fields: PFNano is NanoAOD with constituents."""
        return "nanoaod" if self.name == "pfnano" else self.name

    def branch(self, collection: str, field: str) -> str:
        """The branch that holds a field, e.g. ``Jet_pt`` or ``Jet.PT``."""
        if self.name == "delphes":
            upper = {"pt": "PT", "eta": "Eta", "phi": "Phi", "mass": "Mass"}.get(field, field)
            return f"{collection}.{upper}"
        return f"{collection}_{field}"

    def missing(self, branches: Iterable[str], collection: str, fields: Iterable[str]) -> list[str]:
        """Branches that a file lacks for the given fields."""
        present = {name.rsplit("/", 1)[-1] for name in branches}
        return [branch for field in fields if (branch := self.branch(collection, field)) not in present]


SCHEMAS = {
    "nanoaod": Schema("nanoaod", "Events", QuietNanoAODSchema, "raw"),
    "pfnano": Schema("pfnano", "Events", QuietPFNanoAODSchema, "raw"),
    "delphes": Schema("delphes", "Delphes", DelphesSchema, "pt"),
}


def detect(path: str, tree: str, branches: Iterable[str]) -> Schema:
    """The schema of a file, from its tree name and branches.

    Raises:
        SchemaError: Neither a Delphes tree nor NanoAOD branches are found.
    """
    names = {name.rsplit("/", 1)[-1] for name in branches}
    if "Jet.PT" in names or tree == "Delphes":
        return SCHEMAS["delphes"]
    if "Jet_pt" in names:
        constituents = {"JetPFCands_pFCandsIdx", "JetPFCands_pfCandIdx"} & names
        return SCHEMAS["pfnano" if constituents else "nanoaod"]
    raise SchemaError(
        f"{path}: tree {tree!r} has neither a branch Jet_pt (NanoAOD) nor Jet.PT (Delphes); "
        f"it has {', '.join(sorted(names)[:8])} ... . Only these layouts can be read."
    )


def is_simulation(events: ak.Array) -> bool:
    """Whether events carry particle-level jets (collision data do not)."""
    return "GenJet" in events.fields


def truth_jets(events: ak.Array) -> ak.Array:
    """Particle-level jets, ``events * var``.

    Raises:
        MissingFieldError: The events have none (collision data).
    """
    if not is_simulation(events):
        raise MissingFieldError(
            f"{place(events)}: no GenJet collection, so no truth: is this collision data? "
            "Columns can be attached; closure and training need simulation."
        )
    return events.GenJet


def event_weight(events: ak.Array) -> np.ndarray:
    """Generator weight of each event as in the file, float64 of shape (events,); ones for collision data.

    Negative weights are kept. Normalisation to the sum over a data set is the survey's task.
    """
    if "genWeight" in events.fields:
        weight = events.genWeight
    elif "Event" in events.fields and "Weight" in events.Event.fields:
        weight = events.Event.Weight
    else:
        return np.ones(len(events))
    return np.asarray(ak.to_numpy(weight), dtype=np.float64)


def detector_pt(jets: ak.Array, kind: PtKind) -> ak.Array:
    """Detector-level p_T [GeV] in the layout of ``jets``.

    Args:
        jets: Reconstructed jets of any layout.
        kind: ``raw`` undoes the correction stored in NanoAOD, ``pt (1 - rawFactor)``; ``pt`` takes the field.

    Raises:
        SchemaError: ``raw`` is asked of jets without a ``rawFactor``.
    """
    if kind == "pt":
        return jets.pt
    if "rawFactor" not in jets.fields:
        raise SchemaError(
            "this calibrator was trained on uncorrected p_T, pt * (1 - rawFactor), but these jets have no field "
            "'rawFactor' (Delphes jets have none, and are not corrected): train with Features(pt='pt') for them"
        )
    return jets.pt * (1 - jets.rawFactor)


def event_field(events: ak.Array, name: str) -> np.ndarray:
    """An event-level input, float32 of shape (events,).

    Args:
        events: NanoEvents, or any record array.
        name: ``event_rho`` (median p_T density [GeV], whatever the file calls it), ``event_npv`` (primary vertices),
            or ``event_<field>`` for a field of ``events``.

    Raises:
        MissingFieldError: The events do not carry it.
    """
    if name in events.fields:
        return np.asarray(ak.to_numpy(events[name]), dtype=np.float32)
    paths = {
        "event_rho": (("Rho", "fixedGridRhoFastjetAll"), ("fixedGridRhoFastjetAll",), ("Rho", "Rho")),
        "event_npv": (("PV", "npvs"),),
    }.get(name, ((name.removeprefix("event_"),),))
    for path in paths:
        node = events
        for part in path:
            node = node[part] if part in node.fields else None
            if node is None:
                break
        if node is not None:
            return np.asarray(ak.to_numpy(node), dtype=np.float32)
    tried = ", ".join(".".join(path) for path in paths)
    raise MissingFieldError(
        f"{place(events)}: no event-level input {name!r} (looked for {tried}); "
        f"the events have {', '.join(events.fields[:12])} ..."
    )


def place(events: ak.Array) -> str:
    """Where events come from, for messages: file and entries if known."""
    metadata = getattr(events, "metadata", None) or {}
    if "filename" not in metadata:
        return "events"
    return f"{metadata['filename']} [{metadata.get('entrystart', '?')}:{metadata.get('entrystop', '?')}]"
