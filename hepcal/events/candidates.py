"""Which particle-flow candidates are the constituents of a jet: of PFNano, NanoAOD v15, and Delphes.

Files of the NanoAOD family have a list of links per event, each with the position of a jet and that of a candidate.
coffea deals the links of PFNano out to one jet after the other, as many as its ``nConstituents``, and does not look at
the position of the jet that the file has for each: that the two agree is checked here. Where coffea knows no links
(``FatJetPFCand`` of NanoAOD v15, or jets without ``nConstituents``) they are followed here.
"""

from __future__ import annotations

from typing import NoReturn

import awkward as ak
import numpy as np

from hepcal.errors import MissingFieldError, SchemaError
from hepcal.events.entries import entry, place
from hepcal.events.schemas import (
    CANDIDATES,
    DELPHES_BRANCHES,
    MOMENTUM,
    NO_CANDIDATES,
    PFNANO_INDEX,
    Links,
    PFNanoAOD,
    links_among,
)
from hepcal.events.upstream import events_of

__all__ = ["jet_constituents", "require_constituents"]


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
        if events is None or _links(jets, events) is None:
            raise MissingFieldError(_unlinked(jets, events))
    elif events is None:
        raise MissingFieldError(
            "this calibrator uses constituents, which Delphes keeps in the events: call calibrator(jets, event=events)"
        )
    else:
        raise MissingFieldError(f"{place(events)}: no collection {CANDIDATES} with the constituents of the jets")


def _name(jets: ak.Array) -> str | None:
    """The collection of the file, which slices of fields forget, or the kind of record, which bears its name."""
    layout = jets.layout
    found: str | None = layout.purelist_parameter("collection_name") or layout.purelist_parameter("__record__")
    return found


def _links(jets: ak.Array, events: ak.Array) -> Links | None:
    """The links of these jets in the events, if they can be followed."""
    name = _name(jets)
    if not name or name not in events.fields:
        return None
    found = links_among(name, {f"{of}_{field}" for of in events.fields if "PFC" in of for field in events[of].fields})
    return found if found and "eta" in jets.fields and "phi" in jets.fields else None


def _unlinked(jets: ak.Array, events: ak.Array | None) -> str:
    """Why there are no links to constituents of jets of the NanoAOD family: the branches, and which are missing."""
    name = _name(jets)
    said = f"no constituents of {name or 'the given'} jets in this file"
    if not name:
        return f"{said}: {NO_CANDIDATES}"
    needed = [(of, field) for of, fields in PFNanoAOD().constituents(name).items() for field in fields]
    present = {(name, field) for field in jets.fields}
    if events is not None:
        present |= {(of, field) for of, _ in needed if of in events.fields for field in events[of].fields}
    # Jets alone show nothing but what they have themselves.
    missing = [f"{of}_{f}" for of, f in needed if (of, f) not in present and (of == name or events is not None)]
    listed = f"it lacks {', '.join(missing)}" if missing else f"they need {', '.join('_'.join(n) for n in needed)}"
    more = "" if events is not None else "; those of NanoAOD v15 are found with calibrator(jets, event=events)"
    return f"{said}: {listed}; {NO_CANDIDATES}{more}"


def jet_constituents(jets: ak.Array, events: ak.Array | None = None, event_index: np.ndarray | None = None) -> ak.Array:
    """Momenta of the constituents of a flat list of jets, in the order of the file.

    Args:
        jets: ``n * Jet`` of PFNano or NanoAOD v15, or of Delphes events that have one jet each.
        events: The events; not needed for PFNano.
        event_index: Event of each jet, int of shape (n,); not needed for PFNano.

    Returns:
        ``n * {pt: var, eta: var, phi: var, mass: var}`` [GeV]; a list is read when it is used.

    Raises:
        MissingFieldError: There are none, see :func:`require_constituents`.
        SchemaError: The file does not say which constituent belongs to which jet: a Delphes event has several jets, or
            links point to other jets than those they are stored with, to no candidate, or twice to one.
    """
    require_constituents(jets, events)
    if PFNANO_INDEX in jets.fields:
        _require_dealt_out(jets, events)
        found = jets.constituents.pf
        return ak.zip({name: ak.drop_none(found[name], axis=1) for name in MOMENTUM}, depth_limit=1)
    if events is None or event_index is None:
        raise MissingFieldError("constituents of these jets need the events, and the event of each jet")
    if (links := _links(jets, events)) is not None:
        return _followed(jets, events, event_index, links)
    return _of_the_event(jets, events, event_index)


def _of_the_event(jets: ak.Array, events: ak.Array, event_index: np.ndarray) -> ak.Array:
    """Of Delphes: all candidates of the event, which has one jet."""
    name = _name(jets)
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


# -- links of the NanoAOD family ---------------------------------------------------------------------------------------


def _require_dealt_out(jets: ak.Array, given: ak.Array | None) -> None:
    """Refuse links that are not stored jet after jet, as many as each has constituents, which coffea takes for granted.

    Raises:
        MissingFieldError: There are no links.
        SchemaError: Names the first event in which the links are not so.
    """
    name, events = _name(jets), events_of(jets)
    links = events[f"{name}PFCands"] if f"{name}PFCands" in events.fields else None
    if links is None or PFNANO_INDEX not in links.fields:
        raise MissingFieldError(_unlinked(jets, given))
    counts, held = events[name].nConstituents, ak.to_numpy(ak.num(links.pFCandsIdx))
    summed = ak.to_numpy(ak.sum(counts, axis=1))
    if (bad := summed != held).any():
        first = int(np.argmax(bad))
        _refuse(
            events,
            first,
            f"{name}_nConstituents sum to {summed[first]}, but there are {held[first]} links {name}PFCands",
        )
    if "jetIdx" in links.fields:
        per_jet = ak.to_numpy(ak.flatten(counts))
        owner = np.repeat(ak.to_numpy(ak.flatten(ak.local_index(counts))), per_jet)
        wrong = ak.to_numpy(ak.flatten(links.jetIdx)) != owner
        _refuse_links(events, held, wrong, f"{name}PFCands_jetIdx is not that of the jet it is stored with")
    _require_candidates(events, held, links.pFCandsIdx, "PFCands", f"{name}PFCands_pFCandsIdx")


def _followed(jets: ak.Array, events: ak.Array, event_index: np.ndarray, links: Links) -> ak.Array:
    """The candidates that the links of the file name for each jet."""
    found, candidates = events[links.collection], events[links.candidates]
    n_jets, held = ak.to_numpy(ak.num(events[links.jets])), ak.to_numpy(ak.num(found[links.index]))
    event = np.repeat(np.arange(len(held)), held)
    jet = ak.to_numpy(ak.flatten(found.jetIdx)).astype(np.int64)
    what = f"{links.collection}_jetIdx"
    _refuse_links(events, held, (jet < 0) | (jet >= n_jets[event]), f"{what} is not the position of a {links.jets}")
    _require_candidates(events, held, found[links.index], links.candidates, f"{links.collection}_{links.index}")
    n_candidates = ak.to_numpy(ak.num(candidates.pt))
    first_jet, first = np.cumsum(n_jets) - n_jets, np.cumsum(n_candidates) - n_candidates
    order = np.argsort(first_jet[event] + jet, kind="stable")
    counts = np.bincount(first_jet[event] + jet, minlength=int(n_jets.sum()))
    candidate = ak.to_numpy(ak.flatten(found[links.index])).astype(np.int64) + first[event]
    mine = ak.unflatten(candidate[order], counts)[first_jet[event_index] + _positions(jets, events, event_index, links)]
    columns = {name: ak.to_numpy(ak.flatten(candidates[name])) for name in MOMENTUM}
    chosen, numbers = ak.to_numpy(ak.flatten(mine)), ak.num(mine)
    return ak.zip({name: ak.unflatten(values[chosen], numbers) for name, values in columns.items()}, depth_limit=1)


def _positions(jets: ak.Array, events: ak.Array, event_index: np.ndarray, links: Links) -> np.ndarray:
    """Position of each jet in its event, int of shape (n,), by its direction, which no correction changes."""
    there = events[links.jets]
    n_jets = ak.to_numpy(ak.num(there))
    rows = [
        np.stack([of, *(ak.to_numpy(found[name]).astype(np.float64).view(np.int64) for name in ("eta", "phi"))], axis=1)
        for of, found in ((np.repeat(np.arange(len(n_jets)), n_jets), ak.flatten(there)), (event_index, jets))
    ]
    known, inverse = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    all_jets, mine = inverse[: len(rows[0])], inverse[len(rows[0]) :]
    times = np.bincount(all_jets, minlength=len(known))
    if (bad := times[mine] != 1).any():
        first = int(event_index[np.argmax(bad)])
        raise SchemaError(
            f"{place(events)}: the constituents of a jet are found by its position among {links.jets}, but a jet in "
            f"{entry(events, first)} has the direction of {times[mine][np.argmax(bad)]} of them: pass jets of the file"
        )
    where = np.empty(len(known), dtype=np.int64)
    where[all_jets] = ak.to_numpy(ak.flatten(ak.local_index(there.eta)))
    return where[mine]


def _require_candidates(events: ak.Array, held: np.ndarray, index: ak.Array, candidates: str, what: str) -> None:
    """Refuse links to no candidate, or two links of an event to the same one."""
    n = ak.to_numpy(ak.num(events[candidates]))
    event, found = np.repeat(np.arange(len(held)), held), ak.to_numpy(ak.flatten(index)).astype(np.int64)
    _refuse_links(events, held, (found < 0) | (found >= n[event]), f"{what} is not the position of one of {candidates}")
    place_of = found + (np.cumsum(n) - n)[event]
    again = np.ones(len(found), dtype=bool)
    again[np.unique(place_of, return_index=True)[1]] = False
    _refuse_links(events, held, again, f"{what} names a candidate a second time")


def _refuse_links(events: ak.Array, held: np.ndarray, wrong: np.ndarray, what: str) -> None:
    if wrong.any():
        first = int(np.repeat(np.arange(len(held)), held)[np.argmax(wrong)])
        _refuse(events, first, f"{what} in {wrong.sum()} of {len(wrong)} links")


def _refuse(events: ak.Array, position: int, what: str) -> NoReturn:
    raise SchemaError(
        f"{place(events)}: {what}, first in {entry(events, position)}: which candidates are the constituents of which "
        "jet is not known. Write the file again, or leave out Features(constituents=...)"
    )
