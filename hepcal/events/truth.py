"""Which particle-level jets are the truth: the two leading ones of an event that are no leptons, and their partners.

The one selection of everything that learns from the truth or compares to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import awkward as ak
import numpy as np

from hepcal.errors import PairsError
from hepcal.events.entries import require
from hepcal.events.leptons import lepton_jets
from hepcal.events.matching import MAX_DR, match
from hepcal.events.schemas import TRUTH_JETS, truth_jets

__all__ = ["Leading", "LeadingJets", "Selection", "leading_jets", "require_usable"]

# Default distances. Of fat jets (R = 0.8 and more) a jet and its particle-level partner are further apart; a parton
# that decays may be anywhere in the jet.
MAX_DR_FATJET, MAX_DR_PARTICLE = 0.4, 1.2
# Which truth the index that NanoAOD jets carry points to.
GENERATOR_INDEX = {("Jet", "GenJet"): "genJetIdx", ("FatJet", "GenJetAK8"): "genJetAK8Idx"}
ADVICE = "Leave the file out, or write it again without this event"


@dataclass(frozen=True, slots=True)
class LeadingJets:
    """The leading particle-level jets of events.

    Attributes:
        jets: All particle-level jets, ``events * var``.
        order: Positions of the two leading ones that are no leptons, highest p_T first, ``events * var * int``.
        leptons: Prompt leptons that would have been among the two leading ones.
        told_by: Collections that say which jets are leptons; empty if none does, or if leptons were kept.
    """

    jets: ak.Array
    order: ak.Array
    leptons: int
    told_by: str


@dataclass(frozen=True, slots=True)
class Leading:
    """The truth of events and its partners.

    Attributes:
        truth: ``events * var``, at most two per event (or one particle), highest p_T first.
        partner: Positions of their partners among the detector-level jets, same shape, None where there is none.
        leptons: As in :class:`LeadingJets`.
        told_by: As in :class:`LeadingJets`.
    """

    truth: ak.Array
    partner: ak.Array
    leptons: int = 0
    told_by: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jets and which truth make the rows of a table.

    Attributes:
        jets: Collection of detector-level jets.
        truth: Collection of particle-level jets, of which the two leading ones of each event are taken; or one
            particle per event by its position, ``Particle[0]``.
        max_dr: Largest distance sqrt(deta² + dphi²) between the truth and its jet.
        keep_leptons: Take particle-level jets that are prompt leptons, too.

    Raises:
        PairsError: The truth is not of this form, or the distance not positive.
    """

    jets: str
    truth: str
    max_dr: float
    keep_leptons: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+(\[\d+\])?", self.truth):
            raise PairsError(
                f"truth is a collection (GenJet) or one particle per event (Particle[0]), not {self.truth!r}"
            )
        if not self.max_dr > 0:
            raise PairsError(f"jets and truth are matched within a positive distance, not {self.max_dr:g}")

    @classmethod
    def of(cls, jets: str, truth: str, max_dr: float | None = None, *, keep_leptons: bool = False) -> Selection:
        """With the default distance: 0.2 for jets, 0.4 for FatJet, and 1.2 where the truth is a particle."""
        default = MAX_DR_PARTICLE if "[" in truth else MAX_DR_FATJET if jets == "FatJet" else MAX_DR
        return cls(jets, truth, default if max_dr is None else max_dr, keep_leptons)

    @property
    def collection(self) -> str:
        """Collection of the truth."""
        return self.truth.partition("[")[0]

    def pairs(self, events: ak.Array) -> Leading:
        """The truth of each event, and the positions of its partners among the jets, None where there is none.

        Raises:
            MissingFieldError: The events have no such truth.
            NonFiniteFeatureError: A momentum that this needs is no number; says where.
        """
        if self.collection == self.truth:
            index = GENERATOR_INDEX.get((self.jets, self.truth))
            return _matched(events, self, index)
        position = int(self.truth.partition("[")[2][:-1])
        truth = truth_jets(events, self.collection)[:, position : position + 1]
        require_usable(truth, events, self.truth, "pt")
        return Leading(truth, _partners(events, truth, self.truth, self.jets, self.max_dr))


def leading_jets(events: ak.Array, collection: str = "GenJet", *, keep_leptons: bool = False) -> LeadingJets:
    """The two leading particle-level jets of each event.

    Args:
        events: Simulated events.
        collection: Particle-level jets.
        keep_leptons: Take jets that are prompt leptons, too.

    Raises:
        MissingFieldError: The events have no such jets.
        NonFiniteFeatureError: A p_T is NaN, infinite or not positive: the order of the jets is not known. Of a
            collection of particles, one of the leading ones, or NaN.
    """
    jets = truth_jets(events, collection)
    # Of all jets, since one that was first may now be last; particles along the beam have no p_T.
    require_usable(jets, events, collection, "pt", ordered=collection not in TRUTH_JETS)
    order = ak.argsort(jets.pt, axis=1, ascending=False, stable=True)
    leptons, told_by = 0, ""
    if not keep_leptons:
        lepton, told_by = lepton_jets(jets, events, collection)
        leptons = int(ak.sum(lepton[order[:, :2]]))
        order = order[~lepton[order]] if leptons else order
    order = order[:, :2]
    require_usable(jets[order], events, collection, "pt")
    return LeadingJets(jets, order, leptons, told_by)


def _matched(events: ak.Array, selection: Selection, index: str | None) -> Leading:
    """The two leading particle-level jets of each event and their detector-level partners, one to one.

    All particle-level jets compete for partners, the leptons among them, too: they are left out afterwards.
    """
    jets, truth = selection.jets, selection.truth
    found = leading_jets(events, truth, keep_leptons=selection.keep_leptons)
    partner = _partners(events, found.jets, truth, jets, selection.max_dr, index)[found.order]
    return Leading(found.jets[found.order], partner, found.leptons, found.told_by)


def _partners(
    events: ak.Array, truth: ak.Array, name: str, jets: str, max_dr: float, index: str | None = None
) -> ak.Array:
    """Partners of ``truth``, called ``name`` in the files (:func:`match`), once all directions are numbers."""
    for collection, found in ((name, truth), (jets, events[jets])):
        for field in ("eta", "phi"):
            require_usable(found, events, collection, field)
    return match(truth, events[jets], max_dr, index)


def require_usable(jets: ak.Array, events: ak.Array, collection: str, field: str, *, ordered: bool = False) -> None:
    """Refuse momenta that no figure can be made from, with file, entry and value.

    Args:
        jets: ``events * var``, missing jets allowed; all of them are looked at.
        events: The events.
        collection: What the jets are called in the files.
        field: ``pt`` must be positive and finite, others finite.
        ordered: Any p_T that can be ordered will do, zero and negative ones among them.

    Raises:
        NonFiniteFeatureError: One is not.
    """
    values, counts = jets[field], ak.to_numpy(ak.num(jets[field]))
    event = np.repeat(np.arange(len(counts)), counts)
    flat = ak.flatten(values)
    there = ~ak.to_numpy(ak.is_none(flat))
    found = ak.to_numpy(ak.drop_none(flat))
    if ordered:
        good, expected = ~np.isnan(found), "a number"
    elif field == "pt":
        good, expected = np.isfinite(found) & (found > 0), "a positive, finite number"
    else:
        good, expected = np.isfinite(found), "a finite number"
    name = f"{field} of {collection}"
    require(good, found, events, event[there], name=name, expected=expected, advice=ADVICE)
