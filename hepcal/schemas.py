"""One view of jets, truth jets and weights over NanoAOD, PFNano and Delphes; the only place that knows branch names.

A *field* is what processors see (``jets.pt``), a *branch* is what the file holds (``Jet_pt``, ``Jet/Jet.PT``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from coffea.nanoevents import DelphesSchema, NanoAODSchema, PFNanoAODSchema

from hepcal.entries import place
from hepcal.errors import MissingFieldError, SchemaError
from hepcal.event_level import event_field, event_weight
from hepcal.originals import PtKind, detector_pt

__all__ = [
    "MOMENTUM",
    "PFNANO_INDEX",
    "SCHEMAS",
    "PtKind",
    "TRUTH_JETS",
    "FatJetDelphesSchema",
    "Schema",
    "detect",
    "detector_pt",
    "event_field",
    "event_weight",
    "is_simulation",
    "jet_constituents",
    "require_constituents",
    "truth_jets",
]

MOMENTUM = ("pt", "eta", "phi", "mass")
DELPHES_BRANCHES = {"pt": "PT", "eta": "Eta", "phi": "Phi", "mass": "Mass"}
# Collections of particle-level jets: a file with one of them is simulation.
TRUTH_JETS = ("GenJet", "GenFatJet", "GenJetAK8")
# Collection with the constituents of the one jet of an event, and the field by which coffea finds them in PFNano.
CANDIDATES, PFNANO_INDEX = "ParticleFlowCandidate", "pFCandsIdxG"


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


class FatJetDelphesSchema(DelphesSchema):  # type: ignore[misc]
    """DelphesSchema in which constituents (``ParticleFlowCandidate``) and ``GenFatJet`` are four-vectors, too.

    Every collection is a list, also those that coffea takes for one entry per event (``Event``, ``Weight``, ``Rho``,
    ``MissingET``) and joins: see :mod:`hepcal.event_level`.
    """

    singletons: tuple[str, ...] = ()
    four_vectors: Mapping[str, str] = {CANDIDATES: "Particle", "GenFatJet": "Jet"}

    def _build_collections(self, branch_forms: dict[str, Any]) -> dict[str, Any]:
        # A file that lacks a component stays readable, without the behaviour.
        complete = {
            name: mixin
            for name, mixin in self.four_vectors.items()
            if all(f"{name}/{name}.{branch}" in branch_forms for branch in DELPHES_BRANCHES.values())
        }
        self.mixins = {**DelphesSchema.mixins, **complete}
        collections: dict[str, Any] = super()._build_collections(branch_forms)
        return collections


@dataclass(frozen=True, slots=True)
class Schema:
    """How one kind of file is laid out.

    Attributes:
        name: ``nanoaod``, ``pfnano`` or ``delphes``.
        tree: Name of the event tree.
        coffea: The coffea schema class.
        pt: Detector-level p_T by default: ``raw`` is ``pt (1 - rawFactor)``, ``pt`` the field itself.
        weight: The branch that :func:`event_weight` reads.
    """

    name: str
    tree: str
    coffea: type[Any]
    pt: PtKind
    weight: str

    @property
    def family(self) -> str:
        """Layouts of one family have the same jet fields: PFNano is NanoAOD with constituents."""
        return "nanoaod" if self.name == "pfnano" else self.name

    def branch(self, collection: str, field: str) -> str:
        """The branch that holds a field, e.g. ``Jet_pt`` or ``Jet.PT``."""
        if self.name == "delphes":
            return f"{collection}.{DELPHES_BRANCHES.get(field, field)}"
        return f"{collection}_{field}"

    def missing(self, branches: Iterable[str], collection: str, fields: Iterable[str]) -> list[str]:
        """Branches that a file lacks for the given fields."""
        present = {name.rsplit("/", 1)[-1] for name in branches}
        return [branch for field in dict.fromkeys(fields) if (branch := self.branch(collection, field)) not in present]

    def constituents(self, jets: str) -> Mapping[str, tuple[str, ...]]:
        """Fields that the constituents of a jet collection are read from, by collection.

        Raises:
            MissingFieldError: The layout has none.
        """
        if self.name == "delphes":
            return {CANDIDATES: MOMENTUM}
        if self.name == "pfnano":
            # coffea takes the constituents of a jet from these, one after the other.
            return {jets: ("nConstituents",), f"{jets}PFCands": ("pFCandsIdx",), "PFCands": MOMENTUM}
        raise MissingFieldError(NO_CANDIDATES)


SCHEMAS = {
    "nanoaod": Schema("nanoaod", "Events", QuietNanoAODSchema, "raw", "genWeight"),
    "pfnano": Schema("pfnano", "Events", QuietPFNanoAODSchema, "raw", "genWeight"),
    "delphes": Schema("delphes", "Delphes", FatJetDelphesSchema, "pt", "Event.Weight"),
}
# What tells PFNano from NanoAOD; a file that spells it otherwise, or has it for other jets only, is PFNano as well, and
# hears which branches its jets lack.
PFNANO_LINKS = [f"{jets}PFCands_{index}" for jets in ("Jet", "FatJet") for index in ("pFCandsIdx", "pfCandIdx")]
NO_CANDIDATES = (
    "constituents of jets need the particle-flow candidates of PFNano (branches JetPFCands_pFCandsIdx and PFCands_pt, "
    f"_eta, _phi, _mass) or of Delphes ({CANDIDATES}); plain NanoAOD has none: use PFNano files, read with their "
    "schema ('pfnano'), or leave out Features(constituents=...)"
)


def detect(path: str, tree: str, branches: Iterable[str]) -> Schema:
    """The schema of a file, from its tree name and branches.

    Raises:
        SchemaError: Neither a Delphes tree nor NanoAOD branches are found.
    """
    names = {name.rsplit("/", 1)[-1] for name in branches}
    if "Jet.PT" in names or tree == "Delphes":
        return SCHEMAS["delphes"]
    if "Jet_pt" in names:
        return SCHEMAS["nanoaod" if names.isdisjoint(PFNANO_LINKS) else "pfnano"]
    raise SchemaError(
        f"{path}: tree {tree!r} has neither a branch Jet_pt (NanoAOD) nor Jet.PT (Delphes); "
        f"it has {', '.join(sorted(names)[:8])} ... . Only these layouts can be read."
    )


def is_simulation(events: ak.Array) -> bool:
    """Whether events carry particle-level jets, any of :data:`TRUTH_JETS` (collision data do not).

    Raises:
        MissingFieldError: They do, but not ``GenJet``, which a closure compares to: not to be taken for data.
    """
    found = [name for name in TRUTH_JETS if name in events.fields]
    if found and "GenJet" not in found:
        raise MissingFieldError(
            f"{place(events)}: simulation (it has {', '.join(found)}) without a GenJet collection, which is the truth "
            "here: use files with GenJet, or calibrate the jets of these in a processor of your own"
        )
    return bool(found)


def truth_jets(events: ak.Array, collection: str = "GenJet") -> ak.Array:
    """Particle-level jets, or other truth, ``events * var``.

    Args:
        events: Simulated events.
        collection: ``GenJet``, ``GenFatJet``, ``GenJetAK8``, ``Particle`` ...

    Raises:
        MissingFieldError: The events have none (collision data).
    """
    if collection not in events.fields:
        raise MissingFieldError(
            f"{place(events)}: no {collection} collection, so no truth: is this collision data? "
            "Columns can be attached; closure and training need simulation."
        )
    return events[collection]


def require_constituents(jets: ak.Array, events: ak.Array | None = None) -> None:
    """Refuse jets whose constituents cannot be found; reads nothing.

    Raises:
        MissingFieldError: The file has none, the link to them was lost, or they belong to events that are not given.
    """
    if PFNANO_INDEX in jets.fields:
        if not hasattr(type(jets), "constituents"):
            raise MissingFieldError(
                "these jets have lost the link to their constituents, as jets[[...]] or ak.zip do: pass jets of the "
                "file, selected and ordered as you like"
            )
        links = f"{jets.layout.purelist_parameter('collection_name')}PFCands"
        if events is not None and links in events.fields and PFNANO_INDEX not in events[links].fields:
            raise MissingFieldError(_unlinked(jets, events))
    elif events is not None and CANDIDATES in events.fields:
        found = events[CANDIDATES].fields
        if missing := [f"{CANDIDATES}.{b}" for f, b in DELPHES_BRANCHES.items() if f not in found and b not in found]:
            raise MissingFieldError(f"{place(events)}: no branches {', '.join(missing)}, which constituents need")
    elif "PT" not in jets.fields:
        raise MissingFieldError(_unlinked(jets, events))
    elif events is None:
        raise MissingFieldError(
            "this calibrator uses constituents, which Delphes keeps in the events: call calibrator(jets, event=events)"
        )
    else:
        raise MissingFieldError(f"{place(events)}: no collection {CANDIDATES} with the constituents of the jets")


def _unlinked(jets: ak.Array, events: ak.Array | None) -> str:
    """Why coffea linked no constituents to jets of the NanoAOD family: the branches, and which of them are missing."""
    name = jets.layout.purelist_parameter("collection_name")
    said = f"no constituents of {name or 'the given'} jets in this file"
    if not name:
        return f"{said}: {NO_CANDIDATES}"
    needed = [(of, field) for of, fields in SCHEMAS["pfnano"].constituents(name).items() for field in fields]
    present = {(name, field) for field in jets.fields}
    if events is not None:
        present |= {(of, field) for of, _ in needed if of in events.fields for field in events[of].fields}
    # Jets alone show nothing but what they have themselves.
    missing = [f"{of}_{f}" for of, f in needed if (of, f) not in present and (of == name or events is not None)]
    listed = f"it lacks {', '.join(missing)}" if missing else f"they need {', '.join('_'.join(n) for n in needed)}"
    return f"{said}: {listed}; {NO_CANDIDATES}"


def jet_constituents(jets: ak.Array, events: ak.Array | None = None, event_index: np.ndarray | None = None) -> ak.Array:
    """Momenta of the constituents of a flat list of jets, in the order of the file.

    Args:
        jets: ``n * Jet`` of PFNano, or of Delphes events that have one jet each.
        events: The events; needed for Delphes only.
        event_index: Event of each jet, int of shape (n,); needed for Delphes only.

    Returns:
        ``n * {pt: var, eta: var, phi: var, mass: var}`` [GeV]; a list is read when it is used.

    Raises:
        MissingFieldError: There are none, see :func:`require_constituents`.
        SchemaError: A Delphes event has several jets: the file does not say which constituent belongs to which.
    """
    require_constituents(jets, events)
    if PFNANO_INDEX in jets.fields:
        if PFNANO_INDEX not in jets.constituents.fields:
            raise MissingFieldError(_unlinked(jets, events))
        found = jets.constituents.pf
        return ak.zip({name: ak.drop_none(found[name], axis=1) for name in MOMENTUM}, depth_limit=1)
    if events is None or event_index is None:
        raise MissingFieldError("constituents of Delphes jets need the events, and the event of each jet")
    name = jets.layout.purelist_parameter("collection_name")
    among = ak.to_numpy(ak.num(events[name])) if name in events.fields else np.bincount(event_index)
    if (several := among[event_index] > 1).any():
        raise SchemaError(
            f"{place(events)}: {len(np.unique(event_index[several]))} events have several {name or ''} jets, but one "
            f"list {CANDIDATES}, which does not say which jet a constituent belongs to: use files with one jet per "
            "event and its constituents, or select the events with one jet before calibrating"
        )
    candidates = events[CANDIDATES]
    columns = {f: candidates[f if f in candidates.fields else branch] for f, branch in DELPHES_BRANCHES.items()}
    return ak.zip({name: column[event_index] for name, column in columns.items()}, depth_limit=1)
