"""Which jets enter: the two leading particle-level jets of an event and their detector-level partners."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import awkward as ak
import numpy as np

from hepcal.errors import SchemaError
from hepcal.events.columns import on_records
from hepcal.events.schemas import MOMENTUM, PFNANO_INDEX
from hepcal.events.truth import Selection, require_usable
from hepcal.methods.card import Card

__all__ = ["LeadingPair", "collections_of", "dijet_mass", "jet_columns"]


@dataclass(frozen=True)
class LeadingPair:
    """The two leading particle-level jets per event, and their partners within dR < 0.2, one to one.

    No cut is made on the detector-level p_T: it would truncate p(reco | truth) and bias any calibration.

    Prompt leptons are no jets, though particle-level jets contain them (:mod:`hepcal.events.leptons`).

    Attributes:
        events: The events.
        truth: ``events * var * GenJet``, at most two per event, highest p_T first.
        reco: Their detector-level partners, same shape, None where there is none.
        selection: The collections that they are from.
        leptons: Prompt leptons that were left out.
    """

    events: ak.Array
    truth: ak.Array
    reco: ak.Array
    selection: Selection
    leptons: int = 0

    @classmethod
    def of(
        cls,
        events: ak.Array,
        fields: Iterable[str],
        *,
        jets: str = "Jet",
        truth: str = "GenJet",
        keep_leptons: bool = False,
    ) -> LeadingPair:
        """Select and match.

        Args:
            events: Simulated events.
            fields: Fields of the detector-level jets to keep beside their momentum.
            jets: Collection of detector-level jets.
            truth: Collection of particle-level jets.
            keep_leptons: Take prompt leptons, too.

        Raises:
            NonFiniteFeatureError: A momentum that this needs is no number; says where.
        """
        selection = Selection.of(jets, truth, keep_leptons=keep_leptons)
        found = selection.pairs(events)
        reco = jet_columns(events[jets], fields)[found.partner]
        require_usable(reco, events, jets, "pt")
        return cls(events, found.truth[[*MOMENTUM]], reco, selection, found.leptons)

    def require_masses(self) -> None:
        """Refuse masses from which no dijet mass can be made.

        Raises:
            NonFiniteFeatureError: One is no number; says where.
        """
        require_usable(self.truth, self.events, self.selection.truth, "mass")
        require_usable(self.reco, self.events, self.selection.jets, "mass")

    @cached_property
    def matched(self) -> ak.Array:
        """Which have a partner, ``events * var * bool``."""
        return ~ak.is_none(self.reco, axis=1)

    @cached_property
    def complete(self) -> np.ndarray:
        """Events with two such jets, both with a partner; bool of shape (events,)."""
        return np.asarray(ak.sum(self.matched, axis=1) == 2)

    @cached_property
    def mass_truth(self) -> np.ndarray:
        """True dijet mass [GeV], float64 of shape (events,); NaN in events with fewer than two particle-level jets."""
        return dijet_mass(self.truth)


def collections_of(card: Card, jets: str | None = None, truth: str | None = None) -> tuple[str, str]:
    """Detector-level jets and their truth for a run of a calibrator: those of its training, where nothing is chosen.

    Args:
        card: Of the calibrator.
        jets: Collection of detector-level jets.
        truth: Collection of particle-level jets.

    Raises:
        SchemaError: Its truth is one particle per event, and none is chosen: dijets are of particle-level jets.
    """
    found = truth or card.source.truth or "GenJet"
    if "[" in found:
        raise SchemaError(
            f"the truth of this calibrator is one particle per event, {found}, and a run compares the two leading "
            "particle-level jets: name their collection, truth='GenFatJet'"
        )
    return jets or card.source.collection or "Jet", found


def jet_columns(jets: ak.Array, fields: Iterable[str]) -> ak.Array:
    """Jets with the given fields and their momentum only: slicing the others would read branches that nobody needs.

    With the index of their constituents (PFNano) among the fields, jets stay jets of coffea, which knows how to use it.
    """
    names = dict.fromkeys((*MOMENTUM, *fields))
    # coffea's jets must have a charge; it makes one up and reads nothing for it.
    kept = ("collection_name", "__record__") if PFNANO_INDEX in names else ("collection_name",)
    found = jets[[*names, "charge"] if PFNANO_INDEX in names else list(names)]
    # Which collection they are from tells where their momentum in the file is found.
    parameters = {name: value for name in kept if (value := jets.layout.purelist_parameter(name))}
    layout = on_records(found.layout, lambda record: record.copy(parameters=parameters))
    return ak.Array(layout, behavior=found.behavior, attrs=found.attrs)


def dijet_mass(jets: ak.Array) -> np.ndarray:
    """Invariant mass [GeV] of the first two jets, float64 of shape (events,); NaN where there are fewer than two.

    Args:
        jets: ``events * var * Jet`` with ``pt``, ``eta``, ``phi`` and ``mass`` and no missing jets.
    """
    counts = ak.to_numpy(ak.num(jets))
    two = counts >= 2
    first = (np.cumsum(counts) - counts)[two]
    pt, eta, phi, mass = (
        np.asarray(ak.to_numpy(ak.flatten(jets[name]), allow_missing=False), dtype=np.float64)[[first, first + 1]]
        for name in MOMENTUM
    )
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    squared = energy.sum(axis=0) ** 2 - px.sum(axis=0) ** 2 - py.sum(axis=0) ** 2 - pz.sum(axis=0) ** 2
    masses = np.full(len(counts), np.nan)
    masses[two] = np.sqrt(np.maximum(squared, 0))
    return masses
