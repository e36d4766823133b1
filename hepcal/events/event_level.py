"""Numbers that an event has once: its weight and the event-level inputs, whatever the layout calls them.

Delphes writes even these as lists. coffea's ``DelphesSchema`` joins the lists of what it takes for one number per
event, and from the first event with two entries (or none) on, every event gets the number of another one. The schema
of hepcal keeps the numbers of entries, which are looked at before the values; of events that were opened with coffea's,
the places where the lists start are compared.
"""

from __future__ import annotations

import awkward as ak
import numpy as np

from hepcal.errors import MissingFieldError, SchemaError
from hepcal.events.entries import entry, place, require

__all__ = ["event_field", "event_input", "event_weight"]

# Which eta range an entry of Rho is of; a field that comes from the branch Rho.Edges[2].
EDGES = ("Edges_2", "Edges")
INPUTS = {
    "event_rho": (("Rho", "fixedGridRhoFastjetAll"), ("fixedGridRhoFastjetAll",), ("Rho", "Rho")),
    "event_npv": (("PV", "npvs"),),
}
Path = tuple[str, ...]


def event_weight(events: ak.Array) -> np.ndarray:
    """Generator weight of each event as in the file, float64 of shape (events,); ones for collision data.

    Negative weights are kept. Normalisation to the sum over a data set is the survey's task.

    Raises:
        NonFiniteFeatureError: A weight is NaN or infinite.
        SchemaError: An event has several weights, or none.
    """
    paths: tuple[Path, ...] = (("genWeight",), ("Event", "Weight"))
    path = next((path for path in paths if _has(events, path)), None)
    if path is None:
        return np.ones(len(events))
    weight = np.asarray(_single(events, path), dtype=np.float64)
    advice = "Negative weights are fine, these are not: leave the file out, or write the events again without them"
    require(
        np.isfinite(weight),
        weight,
        events,
        np.arange(len(weight)),
        name=f"the weight {'.'.join(path)}",
        expected="a finite number",
        advice=advice,
    )
    return weight


def event_field(events: ak.Array, name: str) -> np.ndarray:
    """An event-level input, float32 of shape (events,).

    Args:
        events: NanoEvents, or any record array.
        name: ``event_rho`` (median p_T density [GeV], whatever the file calls it), ``event_npv`` (primary vertices),
            or ``event_<field>`` for a field of ``events``.

    Raises:
        MissingFieldError: The events do not carry it.
        SchemaError: An event has several such numbers, or none.
    """
    return np.asarray(_single(events, _path(events, name)), dtype=np.float32)


def event_input(events: ak.Array, name: str, event_index: np.ndarray, jets: ak.Array) -> np.ndarray:
    """An event-level input of each jet, float32 of shape (n,): its event's, and its eta's where there are several.

    Delphes estimates ``Rho`` in ranges of abs(eta), ``Rho.Edges[2]``, one entry each: the range of a jet is the one
    with ``Edges[0] <= abs(eta) < Edges[1]``, as in the pile-up subtraction of Delphes.

    Args:
        events: The events.
        name: As for :func:`event_field`.
        event_index: Event of each jet, int of shape (n,).
        jets: ``n * Jet``; their ``eta`` is read where events have several entries.

    Raises:
        MissingFieldError: The events do not carry it.
        SchemaError: An event has several such numbers without ranges, or none, or a jet is in no range or in several.
    """
    path = _path(events, name)
    if path == ("Rho", "Rho") and events.Rho.ndim == 2 and ak.any(ak.num(events.Rho) > 1):
        return _rho_of_jets(events, event_index, jets)
    return np.asarray(event_field(events, name)[event_index])


def _has(events: ak.Array, path: Path) -> bool:
    node = events
    for part in path:
        if part not in node.fields:
            return False
        node = node[part]
    return True


def _path(events: ak.Array, name: str) -> Path:
    if name in events.fields:
        return (name,)
    paths = INPUTS.get(name, ((name.removeprefix("event_"),),))
    for path in paths:
        if _has(events, path):
            return path
    tried = ", ".join(".".join(path) for path in paths)
    raise MissingFieldError(
        f"{place(events)}: no event-level input {name!r} (looked for {tried}); "
        f"the events have {', '.join(events.fields[:12])} ..."
    )


def _single(events: ak.Array, path: Path) -> np.ndarray:
    """The one number of each event."""
    collection, name = path[0], ".".join(path)
    _require_not_joined(events, collection, name)
    node = events[collection]
    column = node[path[1]] if len(path) > 1 else node
    if column.ndim == 2:
        counts = ak.to_numpy(ak.num(column))
        _require_one(counts == 1, counts, events, name)
        column = ak.flatten(column)
    if column.fields or column.ndim != 1:
        raise SchemaError(f"{place(events)}: {name} is not one number per event: {ak.type(column)!s:.60}")
    found: np.ndarray = ak.to_numpy(column, allow_missing=False)
    return found


def _require_one(good: np.ndarray, counts: np.ndarray, events: ak.Array, name: str) -> None:
    if good.all():
        return
    first = int(np.argmin(good))
    raise SchemaError(
        f"{place(events)}: {name} has {counts[first]} entries in {entry(events, first)} ({np.sum(~good)} of "
        f"{len(good)} events do not have exactly one): which of them is meant is not known. "
        "Write files with one entry per event"
    )


def _require_not_joined(events: ak.Array, collection: str, name: str) -> None:
    """Refuse lists of Delphes that coffea has joined although they do not have one entry each.

    Where the list of each event starts is still known. In a whole chunk the starts count the events; in selected
    events they are those of other collections that have one entry each.
    """
    if f"{collection}.size" in events.fields:
        sizes = ak.to_numpy(events[f"{collection}.size"])
        _require_one(sizes == 1, sizes, events, name)
        return
    if f"{collection}.offsets" not in events.fields or events[collection].ndim != 1:
        return
    starts = _starts(events, collection)
    if np.array_equal(starts, np.arange(len(events))):
        return
    others = [name for name in events.fields if f"{name}.offsets" in events.fields and events[name].ndim == 1]
    alike = [np.array_equal(starts, _starts(events, name)) for name in others if name != collection]
    if not alike or not all(alike):
        raise SchemaError(
            f"{place(events)}: not every event has exactly one entry in {collection}, and coffea's DelphesSchema "
            "joined the lists, so that events have numbers of other events: open the files with "
            "hepcal.events.upstream.FatJetDelphesSchema instead, which keeps the lists"
        )


def _starts(events: ak.Array, collection: str) -> np.ndarray:
    """Where the list of each event begins in the joined lists of its chunk, int of shape (events,)."""
    found: np.ndarray = ak.to_numpy(events[f"{collection}.offsets"])
    return found


def _rho_of_jets(events: ak.Array, event_index: np.ndarray, jets: ak.Array) -> np.ndarray:
    rho = events.Rho
    counts = ak.to_numpy(ak.num(rho))
    _require_one(counts > 0, counts, events, "Rho.Rho")
    edges = next((name for name in EDGES if name in rho.fields), None)
    if edges is None:
        _require_one(counts == 1, counts, events, "Rho.Rho (without a branch Rho.Edges[2] with their eta ranges)")
    abs_eta = np.abs(ak.to_numpy(jets.eta))
    of_jet = rho[event_index]
    inside = (of_jet[edges][..., 0] <= abs_eta) & (abs_eta < of_jet[edges][..., 1])
    ranges = ak.to_numpy(ak.sum(inside, axis=1))
    if (bad := ranges != 1).any():
        first = int(np.argmax(bad))
        raise SchemaError(
            f"{place(events)}: the abs(eta) {abs_eta[first]:g} of a jet in {entry(events, int(event_index[first]))} "
            f"lies in {ranges[first]} ranges of Rho.Edges[2], not in one ({bad.sum()} of {len(bad)} jets like this): "
            "select jets inside the ranges before calibrating"
        )
    return np.asarray(ak.to_numpy(ak.flatten(of_jet.Rho[inside])), dtype=np.float32)
