"""One view of jets, truth jets and weights over NanoAOD, PFNano and Delphes; the only place that knows branch names.

A *field* is what processors see (``jets.pt``), a *branch* is what the file holds (``Jet_pt``, ``Jet/Jet.PT``).
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import awkward as ak

from hepcal.errors import MissingFieldError, SchemaError
from hepcal.events.entries import place
from hepcal.events.event_level import event_field, event_weight
from hepcal.events.raw_momentum import PtKind, detector_pt

__all__ = [
    "CANDIDATES",
    "DELPHES_BRANCHES",
    "MOMENTUM",
    "NO_CANDIDATES",
    "PFNANO_INDEX",
    "SCHEMAS",
    "PtKind",
    "TRUTH_JETS",
    "Links",
    "DefaultInput",
    "Delphes",
    "NanoAOD",
    "PFNanoAOD",
    "Schema",
    "detect",
    "detector_pt",
    "own_name",
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


class DefaultInput(NamedTuple):
    """An input that is taken where none is chosen; see :class:`hepcal.events.features.Feature`."""

    name: str
    transform: str = "identity"
    of: str | None = None


@dataclass(frozen=True)
class Schema:
    """How one kind of file is laid out. A kind is a subclass, and an entry of :data:`SCHEMAS`; they hold no data.

    Attributes:
        name: In metadata and in the cards of calibrators.
        label: For people.
        family: Layouts of one family have the same jet fields.
        tree: Name of the event tree.
        reader: ``module:Class`` of the schema of coffea.
        pt: Detector-level p_T by default: ``raw`` is ``pt (1 - rawFactor)``, ``pt`` the field itself.
        weight: The branch that :func:`event_weight` reads.
        inputs: Default inputs of all jet collections but FatJet.
        fatjet_inputs: Names of those of FatJet.
        never: Fields that jets of the family never have, and the label of those that have them.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    family: ClassVar[str]
    tree: ClassVar[str]
    reader: ClassVar[str]
    pt: ClassVar[PtKind]
    weight: ClassVar[str]
    inputs: ClassVar[tuple[DefaultInput, ...]]
    fatjet_inputs: ClassVar[tuple[str, ...]]
    never: ClassVar[Mapping[str, str]] = {}

    @property
    def coffea(self) -> type[Any]:
        """The schema class of coffea, which is loaded for it."""
        module, _, name = self.reader.partition(":")
        found: type[Any] = getattr(importlib.import_module(module), name)
        return found

    def recognises(self, tree: str, branches: Collection[str]) -> bool:
        """Whether a file is laid out like this.

        Args:
            tree: Name of its tree.
            branches: Their names, without the branch that they are in.
        """
        raise NotImplementedError

    def branch(self, collection: str, field: str) -> str:
        """The branch that holds a field, e.g. ``Jet_pt`` or ``Jet.PT``."""
        raise NotImplementedError

    def constituents(self, jets: str, branches: Iterable[str] = ()) -> Mapping[str, tuple[str, ...]]:  # noqa: ARG002
        """Fields that the constituents of a jet collection are read from, by collection.

        Args:
            jets: The jets.
            branches: Those of the file, which say how it spells the links.

        Raises:
            MissingFieldError: The layout has none.
        """
        raise MissingFieldError(NO_CANDIDATES)

    def missing(self, branches: Iterable[str], collection: str, fields: Iterable[str]) -> list[str]:
        """Branches that a file lacks for the given fields."""
        present = {name.rsplit("/", 1)[-1] for name in branches}
        return [branch for field in dict.fromkeys(fields) if (branch := self.branch(collection, field)) not in present]


class NanoAOD(Schema):
    """NanoAOD of CMS, from v9 to v15."""

    name, label, family = "nanoaod", "NanoAOD", "nanoaod"
    tree, reader = "Events", "hepcal.events.upstream:QuietNanoAODSchema"
    pt, weight = "raw", "genWeight"
    inputs = (
        DefaultInput("eta", "abs"),
        DefaultInput("mass", "log1p", of="raw"),
        DefaultInput("area"),
        DefaultInput("nConstituents", "log1p"),
        DefaultInput("chHEF"),
        DefaultInput("neHEF"),
        DefaultInput("chEmEF"),
        DefaultInput("neEmEF"),
    )
    # What all versions have.
    fatjet_inputs = ("eta", "mass", "area")

    def recognises(self, tree: str, branches: Collection[str]) -> bool:  # noqa: ARG002
        """See :meth:`Schema.recognises`: without links to constituents."""
        return "Jet_pt" in branches and set(branches).isdisjoint(PFNANO_LINKS)

    def branch(self, collection: str, field: str) -> str:
        """See :meth:`Schema.branch`."""
        return f"{collection}_{field}"


class PFNanoAOD(NanoAOD):
    """NanoAOD with constituents of jets: PFNano, and v15 with its own."""

    name, label = "pfnano", "PFNano"
    reader = "hepcal.events.upstream:QuietPFNanoAODSchema"

    def recognises(self, tree: str, branches: Collection[str]) -> bool:  # noqa: ARG002
        """See :meth:`Schema.recognises`: with links to constituents."""
        return "Jet_pt" in branches and not set(branches).isdisjoint(PFNANO_LINKS)

    def constituents(self, jets: str, branches: Iterable[str] = ()) -> Mapping[str, tuple[str, ...]]:
        """See :meth:`Schema.constituents`."""
        present = set(branches)
        links = links_among(jets, present)
        if (links and f"{jets}_nConstituents" not in present) or (links and links.collection != f"{jets}PFCands"):
            return {jets: ("eta", "phi"), links.collection: ("jetIdx", links.index), links.candidates: MOMENTUM}
        # coffea takes the constituents of a jet from these, one after the other.
        return {jets: ("nConstituents",), f"{jets}PFCands": ("pFCandsIdx",), "PFCands": MOMENTUM}


class Delphes(Schema):
    """The tree of Delphes."""

    name, label, family = "delphes", "Delphes", "delphes"
    tree, reader = "Delphes", "hepcal.events.upstream:FatJetDelphesSchema"
    pt, weight = "pt", "Event.Weight"
    inputs = (
        DefaultInput("eta", "abs"),
        DefaultInput("mass", "log1p"),
        DefaultInput("DeltaEta"),
        DefaultInput("DeltaPhi"),
        DefaultInput("NCharged", "log1p"),
        DefaultInput("NNeutrals", "log1p"),
        DefaultInput("NeutralEnergyFraction"),
        DefaultInput("EhadOverEem", "log1p"),
    )
    # What is measured without the calorimeter's towers.
    fatjet_inputs = ("eta", "mass", "DeltaEta", "DeltaPhi", "NCharged", "NNeutrals", "NeutralEnergyFraction")
    never: ClassVar[Mapping[str, str]] = {"rawFactor": "NanoAOD"}

    def recognises(self, tree: str, branches: Collection[str]) -> bool:
        """See :meth:`Schema.recognises`."""
        return "Jet.PT" in branches or tree == self.tree

    def branch(self, collection: str, field: str) -> str:
        """See :meth:`Schema.branch`."""
        return f"{collection}.{DELPHES_BRANCHES.get(field, field)}"

    def constituents(self, jets: str, branches: Iterable[str] = ()) -> Mapping[str, tuple[str, ...]]:  # noqa: ARG002
        """See :meth:`Schema.constituents`: those of the one jet of an event."""
        return {CANDIDATES: MOMENTUM}


SCHEMAS: dict[str, Schema] = {schema.name: schema for schema in (NanoAOD(), PFNanoAOD(), Delphes())}
# What coffea calls them.
COFFEA_NAMES = {"NanoAODSchema": "nanoaod", "PFNanoAODSchema": "pfnano", "DelphesSchema": "delphes"}


def own_name(schema: str) -> str:
    """Our name of a schema of coffea, with its module in front or not; any other name as it is."""
    return COFFEA_NAMES.get(schema.rpartition(".")[2], schema)


def detect(path: str, tree: str, branches: Iterable[str]) -> Schema:
    """The schema of a file, from its tree name and branches.

    Raises:
        SchemaError: No schema knows it.
    """
    names = {name.rsplit("/", 1)[-1] for name in branches}
    # A Delphes tree stays one, whatever else is in it.
    for schema in reversed(SCHEMAS.values()):
        if schema.recognises(tree, names):
            return schema
    families = (schema for schema in SCHEMAS.values() if schema.name == schema.family)
    expected = " nor ".join(f"{schema.branch('Jet', 'pt')} ({schema.label})" for schema in families)
    raise SchemaError(
        f"{path}: tree {tree!r} has neither a branch {expected}; "
        f"it has {', '.join(sorted(names)[:8])} ... . Only these layouts can be read."
    )


def is_simulation(events: ak.Array, truth: str = "GenJet") -> bool:
    """Whether events carry particle-level jets, any of :data:`TRUTH_JETS` (collision data do not).

    Args:
        events: The events.
        truth: The collection that a closure compares to.

    Raises:
        MissingFieldError: They do, but not ``truth``: not to be taken for data.
    """
    found = [name for name in (*TRUTH_JETS, truth) if name in events.fields]
    if found and truth not in found:
        raise MissingFieldError(
            f"{place(events)}: simulation (it has {', '.join(found)}) without a {truth} collection, which is the truth "
            f"here: use files with {truth}, or calibrate the jets of these in a processor of your own"
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
