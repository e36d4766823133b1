"""Links from jets to particle-flow candidates, of PFNano and NanoAOD v15: followed, or refused with file and entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from sample_files import nanoaod_file

from hepcal import Constituents, Features, JetPairs
from hepcal.errors import IncompleteRunError, MissingFieldError, SchemaError
from hepcal.events.filesets import Fileset
from hepcal.events.schemas import SCHEMAS, detect

EVENTS = 40
TWO = Features(constituents=Constituents(count=2), pt="raw")
Build = Callable[..., Fileset]
Read = Callable[..., ak.Array]
Edit = Callable[[dict[str, Any]], None]
NAMES = {"pfnano": ("PFCands", "pFCandsIdx"), "v15": ("PFCand", "pfCandIdx")}


def linked(layout: str, change: Callable[[Any, Any], tuple[Any, Any]] | None = None, step: int = -1) -> Edit:
    """Two constituents along each jet, candidates in the opposite order of jets; v15 has links from last to first."""
    many, index = NAMES[layout]

    def edit(content: dict[str, Any]) -> None:
        jets = ak.with_field(content["Jet"], ak.full_like(content["Jet"].nConstituents, 2), "nConstituents")
        raw = jets.pt * (1 - jets.rawFactor)
        twice = {"pt": raw / 2, "eta": jets.eta, "phi": jets.phi, "mass": 0 * raw, "charge": 0 * raw}
        twice = {name: ak.flatten(ak.concatenate([v[..., None]] * 2, axis=2), axis=2) for name, v in twice.items()}
        order = ak.local_index(twice["pt"])
        owner, position = order // 2, ak.num(order) - 1 - order
        if change is not None:
            owner, position = change(owner, position)
        links = ak.zip({"jetIdx": owner, index: position})
        content |= {"Jet": jets, many: ak.zip(twice)[:, ::-1]}
        content[f"Jet{many}"] = links[:, ::step] if layout == "v15" else links

    return edit


def at(event: int, values: Any, link: int, value: int) -> Any:
    """The given lists with another value of one link of an event."""
    counts = ak.to_numpy(ak.num(values))
    flat = ak.to_numpy(ak.flatten(values)).copy()
    flat[counts[:event].sum() + link] = value
    return ak.unflatten(flat, counts)


def event_with_two_jets(owner: Any) -> int:
    return int(np.flatnonzero(ak.to_numpy(ak.num(owner)) == 4)[3])


def written(tmp_path: Path, layout: str, change: Any = None) -> Path:
    return nanoaod_file(tmp_path / f"{layout}.root", EVENTS, edit=linked(layout, change))


@pytest.mark.parametrize("chunksize", [9, 100])
@pytest.mark.parametrize("layout", NAMES)
def test_constituents_are_those_that_the_links_name(
    tmp_path: Path, fileset_of: Build, layout: str, chunksize: int
) -> None:
    pairs = JetPairs.from_fileset(fileset_of(written(tmp_path, layout)), TWO, chunksize=chunksize, show=False)
    assert pairs.source["schema"] == "pfnano"
    np.testing.assert_allclose(pairs.features[:, [1, 5]], np.stack([pairs.reco] * 2, axis=1) / 2, rtol=1e-5)


def test_selected_jets_of_v15_find_theirs_in_the_events(tmp_path: Path, read_events: Read) -> None:
    events = read_events(written(tmp_path, "v15"), "pfnano")
    events = events[ak.num(events.Jet) > 1][::-1]
    # p_T may have been corrected meanwhile: directions are what tells jets from each other.
    jets = events.Jet[:, 1:]
    jets = ak.with_field(jets, jets.pt * (1 - jets.rawFactor), "pt_raw")
    jets = ak.with_field(jets, 1.1 * jets.pt, "pt")
    index = np.repeat(np.arange(len(events)), ak.num(jets))
    table, reco = TWO.table(ak.flatten(jets), events, index)
    np.testing.assert_allclose(table[:, [1, 5]], np.stack([reco] * 2, axis=1) / 2, rtol=1e-5)
    with pytest.raises(MissingFieldError, match=r"NanoAOD v15 are found with calibrator\(jets, event=events\)"):
        TWO.require(jets)
    turned = ak.with_field(jets, -jets.eta, "eta")
    with pytest.raises(SchemaError, match="has the direction of 0 of them: pass jets of the file"):
        TWO.table(ak.flatten(turned), events, index)


def swapped(owner: Any, position: Any) -> tuple[Any, Any]:
    event = event_with_two_jets(owner)
    return at(event, at(event, owner, 1, 1), 2, 0), position


def of_no_jet(owner: Any, position: Any) -> tuple[Any, Any]:
    return at(event_with_two_jets(owner), owner, 3, 7), position


def too_far(owner: Any, position: Any) -> tuple[Any, Any]:
    return owner, at(event_with_two_jets(owner), position, 0, 99)


def repeated(owner: Any, position: Any) -> tuple[Any, Any]:
    return owner, at(event_with_two_jets(owner), position, 0, 0)


def negative(owner: Any, position: Any) -> tuple[Any, Any]:
    return owner, at(event_with_two_jets(owner), position, 0, -1)


NOT_STORED = "jetIdx is not that of the jet it is stored with"


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("pfnano", swapped, f"JetPFCands_{NOT_STORED} in 2 of"),
        ("pfnano", of_no_jet, f"JetPFCands_{NOT_STORED} in 1 of"),
        ("pfnano", too_far, "JetPFCands_pFCandsIdx is not the position of one of PFCands"),
        ("pfnano", negative, "JetPFCands_pFCandsIdx is not the position of one of PFCands"),
        ("pfnano", repeated, "JetPFCands_pFCandsIdx names a candidate a second time"),
        ("v15", of_no_jet, "JetPFCand_jetIdx is not the position of a Jet"),
        ("v15", too_far, "JetPFCand_pfCandIdx is not the position of one of PFCand"),
        ("v15", negative, "JetPFCand_pfCandIdx is not the position of one of PFCand"),
        ("v15", repeated, "JetPFCand_pfCandIdx names a candidate a second time"),
    ],
)
def test_links_that_cannot_be_are_refused_with_file_and_entry(
    tmp_path: Path, fileset_of: Build, layout: str, change: Any, message: str
) -> None:
    where: list[int] = []

    def noted(owner: Any, position: Any) -> tuple[Any, Any]:
        where.append(event_with_two_jets(owner))
        return change(owner, position)

    path = written(tmp_path, layout, noted)
    with pytest.raises(IncompleteRunError) as caught:
        JetPairs.from_fileset(fileset_of(path), TWO, chunksize=9, show=False)
    for part in (f"{layout}.root [", message, f"first in entry {where[0]}:"):
        assert part in str(caught.value)


def test_swapped_links_of_v15_lie_around_another_jet(tmp_path: Path, fileset_of: Build) -> None:
    with pytest.raises(IncompleteRunError, match=r"v15\.root.*constituents of \d+ of \d+ jets .* away from the jet"):
        JetPairs.from_fileset(fileset_of(written(tmp_path, "v15", swapped)), TWO, show=False)


@pytest.mark.parametrize("extra", [1, -1])
def test_links_that_do_not_fit_the_numbers_of_constituents_are_refused(
    tmp_path: Path, fileset_of: Build, extra: int
) -> None:
    where: list[int] = []

    def edit(content: dict[str, Any]) -> None:
        linked("pfnano")(content)
        numbers = content["Jet"].nConstituents
        where.append(event_with_two_jets(content["JetPFCands"].jetIdx))
        content["Jet"] = ak.with_field(content["Jet"], at(where[0], numbers, 1, 2 + extra), "nConstituents")

    path = nanoaod_file(tmp_path / "odd.root", EVENTS, edit=edit)
    message = rf"odd\.root.*Jet_nConstituents sum to {4 + extra}, but there are 4 links JetPFCands, first in entry"
    with pytest.raises(IncompleteRunError, match=message):
        JetPairs.from_fileset(fileset_of(path), TWO, show=False)


def test_jets_of_which_the_file_has_no_candidates_are_counted(tmp_path: Path, fileset_of: Build) -> None:
    def without_some(content: dict[str, Any]) -> None:
        linked("v15")(content)
        links = content["JetPFCand"]
        content["JetPFCand"] = links[links.jetIdx != 1]

    path = nanoaod_file(tmp_path / "some.root", EVENTS, edit=without_some)
    every = JetPairs.from_fileset(fileset_of(path), Features(inputs=("eta",)), show=False)
    some = JetPairs.from_fileset(fileset_of(path), TWO, show=False)
    assert 0 < some.source["without_constituents"] == len(every) - len(some)
    assert some.source["unmatched"] == every.source["unmatched"]
    assert set(some.truth) < set(every.truth)


def test_fat_jets_of_real_v15_have_their_candidates(shared: Path, fileset_of: Build) -> None:
    path = shared / "data" / "nanoaod" / "nano_tt_v15.root"
    spec = Features(constituents=Constituents(count=100))
    pairs = JetPairs.from_fileset(fileset_of(path), spec, jets="FatJet", truth="GenJetAK8", show=False)
    assert (len(pairs), pairs.source["without_constituents"], pairs.source["truncated_jets"]) == (60, 2, 0)
    # They sum to the raw momentum of the jet: along x in its frame.
    summed = pairs.features.reshape(len(pairs), 100, 4).sum(axis=1)
    np.testing.assert_allclose(summed[:, 1], pairs.reco, rtol=0.005)


def test_v15_is_a_file_with_candidates() -> None:
    assert detect("f.root", "Events", ["Jet_pt", "FatJetPFCand_pfCandIdx", "PFCand_pt"]) is SCHEMAS["pfnano"]


def test_files_of_one_family_make_one_table(tmp_path: Path, fileset_of: Build) -> None:
    plain, more = nanoaod_file(tmp_path / "plain.root", EVENTS), written(tmp_path, "v15")
    pairs = JetPairs.from_fileset(fileset_of(plain, more), Features(inputs=("eta",)), show=False)
    assert pairs.source["schema"] == "nanoaod"
    assert set(pairs.event >> 40) == {0, 1}


def test_files_without_event_ids_are_read(tmp_path: Path, fileset_of: Build) -> None:
    def without(content: dict[str, Any]) -> None:
        for name in ("run", "luminosityBlock", "event"):
            del content[name]

    spec = Features(inputs=("eta",))
    found = JetPairs.from_fileset(
        fileset_of(nanoaod_file(tmp_path / "skim.root", EVENTS, edit=without)), spec, show=False
    )
    whole = JetPairs.from_fileset(fileset_of(nanoaod_file(tmp_path / "whole.root", EVENTS)), spec, show=False)
    np.testing.assert_array_equal(found.truth, whole.truth)
