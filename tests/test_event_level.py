"""Numbers that an event has once: the right event's, or refused with file and entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from coffea.nanoevents import DelphesSchema, NanoEventsFactory
from hepcal.processors import SurveyProcessor
from sample_files import delphes_file, nanoaod_file

import hepcal
from hepcal.errors import IncompleteRunError, SchemaError
from hepcal.events.executors import open_executor
from hepcal.events.features import Features
from hepcal.events.filesets import Fileset
from hepcal.events.running import run
from hepcal.events.schemas import event_field, event_weight

EVENTS = 40
RANGES = np.array([[0.0, 0.8], [0.8, 1.5], [1.5, 5.0]])
RHO = Features(inputs=("event_rho",), pt="pt")
Read = Callable[..., ak.Array]


def lists(counts: np.ndarray, **fields: np.ndarray) -> ak.Array:
    return ak.unflatten(ak.zip(fields, depth_limit=1), counts)


def several(ranges: Any) -> Callable[[dict[str, Any]], None]:
    """Rho as the pile-up card of Delphes writes it, without the ranges, which uproot cannot write (only read)."""

    def edit(content: dict[str, Any]) -> None:
        n = len(content["Event"])
        content["Rho"] = lists(np.full(n, len(ranges)), Rho=np.arange(n * len(ranges)))

    return edit


def with_ranges(ranges: Any) -> ak.Array:
    """Events with Rho in ranges of eta, as read from such a file; in event k, range r it is 10 k + r."""
    ranges = np.array(ranges)
    values = (10 * np.arange(EVENTS)[:, None] + np.arange(len(ranges))).ravel()
    edges = ak.Array(np.tile(ranges, (EVENTS, 1)))
    rho = ak.zip({"Rho": values.astype(np.float32), "Edges_2": edges}, depth_limit=1)
    return ak.Array({"Rho": ak.unflatten(rho, np.full(EVENTS, len(ranges)))})


def pairs_of(path: Path, fileset_of: Callable[..., Fileset], spec: Features, **options: Any) -> hepcal.JetPairs:
    return hepcal.JetPairs.from_fileset(fileset_of(path), spec, show=False, **options)


def entries(counts: np.ndarray) -> Callable[[dict[str, Any]], None]:
    """Event with the given number of entries in each event, of weights 0, 1, 2 ..."""

    def edit(content: dict[str, Any]) -> None:
        total = int(counts.sum())
        content["Event"] = lists(counts, Number=np.arange(total), Weight=np.arange(total, dtype=float))

    return edit


def test_rho_of_delphes_is_that_of_the_event_and_of_the_range_of_the_jet() -> None:
    events, rng = with_ranges(RANGES), np.random.default_rng(1)
    event = rng.permutation(np.repeat(np.arange(EVENTS), 3))
    eta = rng.uniform(-4.9, 4.9, len(event))
    eta[:3] = 0.8, -1.5, 0.0
    jets = ak.zip({"pt": np.full(len(event), 50.0), "eta": eta})
    table, _ = RHO.table(jets, events, event)
    region = np.searchsorted(RANGES[1:, 0], np.abs(eta), side="right")
    assert region[:3].tolist() == [1, 2, 0]
    np.testing.assert_array_equal(table[:, 0], 10 * event + region)
    part = np.arange(10, 20)
    here = np.isin(event, part)
    again, _ = RHO.table(jets[here], events[part], event[here] - 10)
    np.testing.assert_array_equal(again, table[here])


def test_one_rho_of_delphes_is_that_of_all_jets_of_the_event(
    tmp_path: Path, fileset_of: Callable[..., Fileset]
) -> None:
    def one(content: dict[str, Any]) -> None:
        content["Rho"] = lists(np.ones(EVENTS, dtype=int), Rho=np.arange(EVENTS))

    pairs = pairs_of(delphes_file(tmp_path / "one.root", EVENTS, edit=one), fileset_of, RHO)
    np.testing.assert_array_equal(pairs.features[:, 0], pairs.event % (1 << 40))


@pytest.mark.parametrize("chunksize", [7, 100])
def test_several_rho_without_ranges_are_refused(
    tmp_path: Path, fileset_of: Callable[..., Fileset], chunksize: int
) -> None:
    path = delphes_file(tmp_path / "pileup.root", EVENTS, edit=several(RANGES))
    message = r"pileup\.root .*Rho\.Rho \(without a branch Rho\.Edges\[2\].* has 3 entries in entry 0"
    with pytest.raises(IncompleteRunError, match=message):
        pairs_of(path, fileset_of, RHO, chunksize=chunksize)


@pytest.mark.parametrize(("ranges", "found"), [([[0, 0.1], [0.1, 0.2]], 0), ([[0, 9], [0, 9]], 2)])
def test_jets_that_are_not_in_one_range_of_rho_are_refused(ranges: Any, found: int) -> None:
    jets = ak.zip({"pt": [50.0, 50.0], "eta": [0.3, 0.4]})
    with pytest.raises(SchemaError, match=rf"abs\(eta\) 0\.3 of a jet in event 7 .* in {found} ranges of Rho"):
        RHO.table(jets, with_ranges(ranges), np.array([7, 8]))


COUNTS = {"two": 2, "none": 0}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("chunksize", [6, 100])
def test_weights_of_events_without_exactly_one_entry_are_refused(
    tmp_path: Path, fileset_of: Callable[..., Fileset], name: str, chunksize: int
) -> None:
    counts = np.ones(EVENTS, dtype=int)
    counts[13] = COUNTS[name]
    path = delphes_file(tmp_path / "odd.root", EVENTS, edit=entries(counts))
    message = rf"odd\.root.*Event\.Weight has {COUNTS[name]} entries in entry 13"
    with pytest.raises(IncompleteRunError, match=message):
        pairs_of(path, fileset_of, Features(inputs=("eta",)), chunksize=chunksize)
    with open_executor("iterative") as executor, pytest.raises(IncompleteRunError, match=message):
        run(fileset_of(path), SurveyProcessor(), executor, chunksize=chunksize, show=False)


@pytest.mark.parametrize("name", COUNTS)
def test_lists_that_coffea_has_joined_are_refused(tmp_path: Path, name: str) -> None:
    counts = np.ones(EVENTS, dtype=int)
    counts[13] = COUNTS[name]
    path = delphes_file(tmp_path / "odd.root", EVENTS, edit=entries(counts))
    events = NanoEventsFactory.from_root({str(path): "Delphes"}, schemaclass=DelphesSchema).events()
    with pytest.raises(SchemaError, match=r"exactly one entry in Event.*FatJetDelphesSchema"):
        event_weight(events)


def test_of_coffeas_schema_selected_events_keep_their_numbers(tmp_path: Path) -> None:
    def numbered(content: dict[str, Any]) -> None:
        entries(np.ones(EVENTS, dtype=int))(content)
        content["Rho"] = lists(np.ones(EVENTS, dtype=int), Rho=np.arange(EVENTS))

    chosen = np.array([3, 5, 30])
    for edit, right in ((numbered, True), (lambda c: (numbered(c), several(RANGES)(c)), False)):
        path = delphes_file(tmp_path / "stock.root", EVENTS, edit=edit)
        events = NanoEventsFactory.from_root({str(path): "Delphes"}, schemaclass=DelphesSchema).events()[chosen]
        if right:
            np.testing.assert_array_equal(event_weight(events), chosen)
            np.testing.assert_array_equal(event_field(events, "event_rho"), chosen)
        else:
            with pytest.raises(SchemaError, match="exactly one entry in Rho"):
                event_field(events, "event_rho")


def test_a_list_is_not_an_event_level_input(tmp_path: Path, read_events: Read) -> None:
    events = read_events(nanoaod_file(tmp_path / "nano.root", EVENTS), "nanoaod")
    with pytest.raises(SchemaError, match=r"Jet has .* entries in event 0"):
        event_field(events, "event_Jet")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("layout", ["nanoaod", "delphes"])
def test_weights_that_are_no_numbers_are_refused_with_file_entry_and_value(
    tmp_path: Path, fileset_of: Callable[..., Fileset], layout: str, bad: float
) -> None:
    def edit(content: dict[str, Any]) -> None:
        weight = np.ones(EVENTS)
        weight[17], weight[3] = bad, -1.0
        if layout == "nanoaod":
            content["genWeight"] = weight
        else:
            content["Event"] = ak.with_field(content["Event"], weight[:, None], "Weight")

    write, name = {"nanoaod": (nanoaod_file, "genWeight"), "delphes": (delphes_file, r"Event\.Weight")}[layout]
    path = write(tmp_path / "weights.root", EVENTS, edit=edit)
    message = rf"weights\.root.*the weight {name} is {bad:g} in entry 17 \(1 of .*Negative weights are fine"
    with pytest.raises(IncompleteRunError, match=message):
        pairs_of(path, fileset_of, Features(inputs=("eta",)), chunksize=10)
    with open_executor("iterative") as executor, pytest.raises(IncompleteRunError, match=message):
        run(fileset_of(path), SurveyProcessor(), executor, chunksize=10, show=False)
