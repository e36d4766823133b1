"""One view of jets, truth jets and weights over NanoAOD, PFNano and Delphes; the only place that knows branch names.

A *field* is what processors see (``jets.pt``), a *branch* is what the file holds (``Jet_pt``, ``Jet/Jet.PT``).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import awkward as ak
from coffea.nanoevents import DelphesSchema, NanoAODSchema, PFNanoAODSchema

from hepcal.errors import MissingFieldError, SchemaError
from hepcal.events.entries import place
from hepcal.events.event_level import event_field, event_weight
from hepcal.events.originals import PtKind, detector_pt

__all__ = [
    "CANDIDATES",
    "DELPHES_BRANCHES",
    "MOMENTUM",
    "NO_CANDIDATES",
    "PFNANO_INDEX",
    "SCHEMAS",
    "PtKind",
    "TRUTH_JETS",
    "FatJetDelphesSchema",
    "Links",
    "Schema",
    "detect",
    "detector_pt",
    "event_field",
    "event_weight",
    "is_simulation",
    "links_among",
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

    These are cross references and event ids (run, luminosity block, number) that a skim lacks, and photon masses and
    charges that coffea replaces.
    """

    warn_missing_crossrefs = False
    error_missing_event_ids = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Branch Photon_", RuntimeWarning)
            warnings.filterwarnings("ignore", "Missing event_ids", RuntimeWarning)
            super().__init__(*args, **kwargs)


class QuietNanoAODSchema(Quiet, NanoAODSchema):  # type: ignore[misc]
    """NanoAODSchema without those warnings."""


class QuietPFNanoAODSchema(Quiet, PFNanoAODSchema):  # type: ignore[misc]
    """PFNanoAODSchema without those warnings."""


class FatJetDelphesSchema(DelphesSchema):  # type: ignore[misc]
    """DelphesSchema in which constituents (``ParticleFlowCandidate``) and ``GenFatJet`` are four-vectors, too.

    ``Rho`` is a list, of which a pile-up card writes several entries per event. What coffea takes for one entry per
    event, and joins without looking, comes with the numbers of entries, ``Event.size``: see
    :mod:`hepcal.events.event_level`.
    """

    singletons: tuple[str, ...] = tuple(name for name in DelphesSchema.singletons if name != "Rho")
    four_vectors: Mapping[str, str] = {CANDIDATES: "Particle", "GenFatJet": "Jet"}

    def _build_collections(self, branch_forms: dict[str, Any]) -> dict[str, Any]:
        # A file that lacks a component stays readable, without the behaviour.
        complete = {
            name: mixin
            for name, mixin in self.four_vectors.items()
            if all(f"{name}/{name}.{branch}" in branch_forms for branch in DELPHES_BRANCHES.values())
        }
        self.mixins = {**DelphesSchema.mixins, **complete}
        sizes = {name: branch_forms.get(f"{name}_size") for name in self.singletons}
        collections: dict[str, Any] = super()._build_collections(branch_forms)
        collections |= {f"{name}.size": size for name, size in sizes.items() if size and name in collections}
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

    def constituents(self, jets: str, branches: Iterable[str] = ()) -> Mapping[str, tuple[str, ...]]:
        """Fields that the constituents of a jet collection are read from, by collection.

        Args:
            jets: The jets.
            branches: Those of the file, which say how it spells the links.

        Raises:
            MissingFieldError: The layout has none.
        """
        if self.name == "delphes":
            return {CANDIDATES: MOMENTUM}
        if self.name == "pfnano":
            present = set(branches)
            links = links_among(jets, present)
            if (links and f"{jets}_nConstituents" not in present) or (links and links.collection != f"{jets}PFCands"):
                return {jets: ("eta", "phi"), links.collection: ("jetIdx", links.index), links.candidates: MOMENTUM}
            # coffea takes the constituents of a jet from these, one after the other.
            return {jets: ("nConstituents",), f"{jets}PFCands": ("pFCandsIdx",), "PFCands": MOMENTUM}
        raise MissingFieldError(NO_CANDIDATES)


SCHEMAS = {
    "nanoaod": Schema("nanoaod", "Events", QuietNanoAODSchema, "raw", "genWeight"),
    "pfnano": Schema("pfnano", "Events", QuietPFNanoAODSchema, "raw", "genWeight"),
    "delphes": Schema("delphes", "Delphes", FatJetDelphesSchema, "pt", "Event.Weight"),
}
# Names of links to candidates and of the field with the position of the candidate: of PFNano, and of NanoAOD v15.
SPELLINGS = [(many, index) for many in ("PFCands", "PFCand") for index in ("pFCandsIdx", "pfCandIdx")]
# What tells PFNano from NanoAOD; a file that spells it otherwise, or has it for other jets only, is PFNano as well, and
# hears which branches its jets lack.
PFNANO_LINKS = [f"{jets}{many}_{index}" for jets in ("Jet", "FatJet") for many, index in SPELLINGS]
NO_CANDIDATES = (
    "constituents of jets need the particle-flow candidates of PFNano (branches JetPFCands_pFCandsIdx and PFCands_pt, "
    "_eta, _phi, _mass), of NanoAOD v15 (FatJetPFCand_jetIdx, FatJetPFCand_pfCandIdx and PFCand_pt ...) or of Delphes "
    f"({CANDIDATES}); plain NanoAOD has none: use PFNano files, read with their "
    "schema ('pfnano'), or leave out Features(constituents=...)"
)


@dataclass(frozen=True, slots=True)
class Links:
    """Collections that say which candidates are the constituents of which jet.

    Attributes:
        jets: The jets.
        collection: The links, with the field ``jetIdx``.
        index: Field of the links with the position of the candidate.
        candidates: The candidates.
    """

    jets: str
    collection: str
    index: str
    candidates: str


def links_among(jets: str, branches: Collection[str]) -> Links | None:
    """The links of a jet collection that are whole among the given branches (``FatJetPFCand_jetIdx`` ...), if any."""
    for many, index in SPELLINGS:
        for candidates in ("PFCands", "PFCand"):
            needed = [f"{jets}{many}_jetIdx", f"{jets}{many}_{index}", *(f"{candidates}_{name}" for name in MOMENTUM)]
            if all(name in branches for name in needed):
                return Links(jets, f"{jets}{many}", index, candidates)
    return None


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
