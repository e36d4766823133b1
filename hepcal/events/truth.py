"""Which particle-level jets are the truth: the two leading ones of an event that are no leptons, and their partners.

The one selection of everything that learns from the truth or compares to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import awkward as ak
import numpy as np

from hepcal.events.entries import require
from hepcal.events.leptons import lepton_jets
from hepcal.events.matching import MAX_DR, match
from hepcal.events.schemas import TRUTH_JETS, truth_jets

__all__ = ["Leading", "LeadingJets", "leading_jets", "matched_truth", "partners", "require_usable"]

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


def matched_truth(
    events: ak.Array,
    jets: str = "Jet",
    truth: str = "GenJet",
    max_dr: float = MAX_DR,
    index: str | None = "genJetIdx",
    *,
    keep_leptons: bool = False,
) -> Leading:
    """The two leading particle-level jets of each event and their detector-level partners, one to one.

    All particle-level jets compete for partners, the leptons among them, too: they are left out afterwards.

    Args:
        events: Simulated events.
        jets: Detector-level jets.
        truth: Particle-level jets.
        max_dr: Largest distance of a pair.
        index: As for :func:`hepcal.events.matching.match`.
        keep_leptons: Take jets that are prompt leptons, too.

    Raises:
        MissingFieldError: The events have no such jets.
        NonFiniteFeatureError: A p_T as in :func:`leading_jets`, or an eta or phi of any jet, is no number.
    """
    found = leading_jets(events, truth, keep_leptons=keep_leptons)
    partner = partners(events, found.jets, truth, jets, max_dr, index)[found.order]
    return Leading(found.jets[found.order], partner, found.leptons, found.told_by)


def partners(
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
