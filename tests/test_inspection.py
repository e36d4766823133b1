"""What is wrong with files and their weights is said before the first event, with their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from hepcal.processors import Survey, SurveyProcessor
from sample_files import delphes_file, nanoaod_file

import hepcal
from hepcal import load_fileset
from hepcal.closure.report import notes
from hepcal.closure.results import describe_pairs
from hepcal.errors import DuplicatedFilesWarning, FilesetError, NormalisationWarning, ReadError
from hepcal.events.executors import open_executor
from hepcal.events.inspection import Generated, inspect
from hepcal.events.normalisation import require_comparable
from hepcal.events.running import run
from hepcal.workflow import run_dijets

Edit = Callable[[dict[str, Any]], None]


def looked_at(*paths: Path, **options: Any) -> Any:
    return inspect(load_fileset({"QCD": [str(path) for path in paths]}), show=False, **options)[0]


def weights(value: float) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        content["genWeight"] = np.full(len(content["genWeight"]), value)

    return edit


def without_weights(content: dict[str, Any]) -> None:
    if "Event" in content:
        content["Event"] = content["Event"][["Number"]]
    else:
        del content["genWeight"]


def runs(total: float, count: int, suffix: str = "", parts: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """The Runs tree of a file from several runs."""
    sums, counts = np.full(parts, total / parts), np.full(parts, count // parts)
    return {"Runs": {f"genEventSumw{suffix}": sums, f"genEventCount{suffix}": counts}}


# -- copies -----------------------------------------------------------------------------------------------------------


def test_a_copied_file_is_named(tmp_path: Path) -> None:
    first = nanoaod_file(tmp_path / "first.root", 20)
    copy, other = tmp_path / "copy.root", nanoaod_file(tmp_path / "other.root", 20)
    shutil.copy(first, copy)
    with pytest.warns(DuplicatedFilesWarning) as said:
        assert len(looked_at(first, other, copy)) == 3
    (text,) = {str(warning.message) for warning in said}
    assert text.startswith(f"{copy} seems to be a copy of {first} (the same UUID, 20 events)")
    with pytest.warns(DuplicatedFilesWarning, match="seems to be a copy"):  # also in two data sets
        inspect(load_fileset({"tt": [str(first)], "dy": [str(copy)]}), show=False)
    with pytest.warns(DuplicatedFilesWarning, match="seems to be a copy"):
        pairs = hepcal.JetPairs.from_fileset({"tt": [str(path) for path in (first, other, copy)]}, show=False)
    assert pairs.source["copies"] == [[str(first), str(copy)]]
    assert ("copies?", f"{first} is also {copy} (equal UUID)") in describe_pairs(pairs)
    looked_at(first, other)


# -- trees and descriptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", ["Events", "Events;1", "/Events"])
def test_a_tree_may_be_named_with_its_cycle(tmp_path: Path, tree: str) -> None:
    path = nanoaod_file(tmp_path / "nano.root", 30)
    pairs = hepcal.JetPairs.from_fileset({"tt": {"files": {str(path): tree}}}, show=False)
    assert pairs.source["events"] == 30
    with pytest.raises(ReadError, match=r"no tree 'Events;2' \(data set 'tt'\); the file holds Events"):
        inspect(load_fileset({"tt": {"files": {str(path): "Events;2"}}}), show=False)


def test_a_tree_in_a_folder_is_found_with_the_sums_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "nano.root"
    flat = nanoaod_file(tmp_path / "flat.root", 12)
    with uproot.open(flat) as file, uproot.recreate(path) as out:
        events = file["Events"].arrays(filter_name=["genWeight", "Jet_pt", "nJet"])
        out.mktree("nano/Events", {"genWeight": "float32", "Jet_pt": "var * float32"}).extend(
            {name: events[name] for name in ("genWeight", "Jet_pt")}
        )
        out.mktree("nano/Runs", {"genEventSumw": "float64"}).extend({"genEventSumw": np.array([7.0])})
    (info,) = inspect(load_fileset({"tt": {"files": {str(path): "nano/Events"}}}), show=False)[0]
    assert (info.entries, info.generated) == (12, Generated(None, 7.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_entries": 40, "steps": [[0, 40]]}, "num_entries 40, the file has 20"),
        ({"uuid": "d48060b2-6a57-11ed-8e14-0600a8c0beef"}, "uuid d48060b26a5711ed8e140600a8c0beef, the file has"),
    ],
)
def test_a_file_that_changed_since_it_was_preprocessed_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = nanoaod_file(tmp_path / "nano.root", 20)
    (info,) = looked_at(path)
    spec = {"object_path": "Events", "steps": [[0, 20]], "num_entries": 20, "uuid": info.uuid}
    right = load_fileset({"tt": {"files": {str(path): spec}}})
    assert inspect(right, show=False)[0][0].entries == 20
    with pytest.raises(ReadError, match=f"nano.root: the fileset says {said}.*preprocessed"):
        inspect(load_fileset({"tt": {"files": {str(path): {**spec, **change}}}}), show=False)


# -- weights in some files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("write", "branch"), [(nanoaod_file, "genWeight"), (delphes_file, "Event.Weight")])
def test_a_file_without_weights_beside_one_with_weights_is_refused(tmp_path: Path, write: Any, branch: str) -> None:
    weighted, bare = (
        write(tmp_path / "weighted.root", 20, 1),
        write(tmp_path / "bare.root", 20, 2, edit=without_weights),
    )
    with pytest.raises(
        FilesetError, match=rf"'QCD': .*bare\.root has no weights \(branch {branch}\), .*weighted\.root"
    ):
        looked_at(weighted, bare)
    unweighted = rf"has no weights \(branch {branch}\): every event counts as 1"
    with pytest.warns(NormalisationWarning, match=f"^data set 'QCD' {unweighted}"):
        assert len(looked_at(bare)) == 1
    empty = write(tmp_path / "empty.root", 0, edit=without_weights)
    assert len(looked_at(weighted, empty)) == 2, "a file without events has nothing to weight"
    # Between data sets, weights are compared unless each has its cross section.
    for cross_sections, refused in ((("file weights",) * 2, True), ((2.0, 3.0), False)):
        given = zip(("a", "b"), (weighted, bare), cross_sections, strict=True)
        fileset = load_fileset({n: {"files": [path], "metadata": {"cross_section": x}} for n, path, x in given})
        with pytest.warns(NormalisationWarning, match=f"^data set 'b' {unweighted}"):
            files = inspect(fileset, show=False)[0]
        if refused:
            with pytest.raises(FilesetError, match=r"'b' has no weights \(.*bare\.root lacks the branch"):
                require_comparable(files, fileset)
        else:
            require_comparable(files, fileset)


# -- several data sets ------------------------------------------------------------------------------------------------


def two_sets(tmp_path: Path, first: Any = None, second: Any = None, **more: Any) -> dict[str, Any]:
    """61 events of weight 1000 and 398 of weight 1, as DY and ttbar samples may have."""
    files = [
        nanoaod_file(tmp_path / "dy.root", 61, 1, edit=weights(1000.0), **more),
        nanoaod_file(tmp_path / "tt.root", 398, 2, edit=weights(1.0)),
    ]
    return {
        name: {"files": [str(path)], "metadata": {} if given is None else {"cross_section": given}}
        for name, path, given in zip(("dy", "tt"), files, (first, second), strict=True)
    }


def test_several_data_sets_are_not_mixed_by_weights_that_mean_different_things(tmp_path: Path) -> None:
    refused = r"data sets without a cross_section \[pb\].*: 'dy' \(61 events\), 'tt' \(398 events\).*'file weights'"
    for read in (hepcal.JetPairs.from_fileset, lambda f, **o: hepcal.JetPairs.write(f, tmp_path / "pairs", **o)):
        with pytest.raises(FilesetError, match=refused):
            read(two_sets(tmp_path), show=False)
        with pytest.raises(FilesetError, match=r"without a cross_section \[pb\].*: 'tt' \(398 events\)"):
            read(two_sets(tmp_path, 5.0), show=False)
        with pytest.raises(FilesetError, match=r"without a cross_section"):
            read(two_sets(tmp_path, "file weights", 5.0), show=False)
    assert not (tmp_path / "pairs").exists()
    mixed = hepcal.JetPairs.from_fileset(two_sets(tmp_path, "file weights", "file weights"), show=False)
    assert set(mixed.weight) == {1000.0, 1.0}
    scaled = hepcal.JetPairs.from_fileset(two_sets(tmp_path, 61.0, 796.0), show=False)
    assert sorted(set(np.round(scaled.weight, 6))) == [1.0, 2.0], "cross section over the number of events"


def test_a_run_refuses_them_before_the_first_event(tmp_path: Path, nano_calibrator: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(SurveyProcessor, "process", lambda *_: pytest.fail("events were read"))
    with open_executor("iterative") as executor, pytest.raises(FilesetError, match="'dy' \\(61 events\\)"):
        run_dijets(load_fileset(two_sets(tmp_path)), nano_calibrator, executor, tmp_path / "out", show=False)
    assert not (tmp_path / "out").exists()


# -- sums of weights before a skim ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "parts"), [("", 1), ("_", 4)])
def test_a_skim_is_normalised_to_what_was_generated(tmp_path: Path, suffix: str, parts: int, capsys: Any) -> None:
    """1000 events of weight 2 were generated, 50 are left: each stands for 2 * 10 pb / 2000."""
    skim = nanoaod_file(tmp_path / "skim.root", 50, 1, edit=weights(2.0), more=runs(1200.0, 600, suffix, parts))
    none_left = nanoaod_file(tmp_path / "none.root", 0, 1, more=runs(800.0, 400, suffix))
    fileset = {"tt": {"files": [str(skim), str(none_left)], "metadata": {"cross_section": 10.0}}}
    pairs = hepcal.JetPairs.from_fileset(fileset)
    assert pairs.weight == pytest.approx(2.0 * 10.0 / 2000.0)
    said = {"cross_section": 10.0, "sum_of_weights": 2000.0, "origin": "Runs/genEventSumw", "read": 100.0}
    assert pairs.source["normalisation"] == {"tt": {**said, "factor": 0.005}}
    assert "'tt': 10 pb for a sum of weights of 2000, that of all generated events (Runs/" in capsys.readouterr().err
    shown = ("weights of tt", "10 pb for a sum of weights of 2000 (Runs/genEventSumw)")
    assert shown in describe_pairs(pairs)
    hepcal.JetPairs.write(fileset, tmp_path / "pairs", show=False)
    assert json.loads((tmp_path / "pairs" / "table.json").read_text())["source"]["normalisation"]["tt"]["read"] == 100.0
    with open_executor("iterative") as executor:
        done = run(load_fileset(fileset), SurveyProcessor(), executor, show=False)
    survey = Survey.from_output(done.output, load_fileset(fileset), done.files)
    assert survey.norm == {"tt": pytest.approx(10.0 / 2000.0)}
    assert survey.normalisation["tt"].origin == "Runs/genEventSumw"
    assert Survey.model_validate_json(survey.model_dump_json()) == survey
    plain = hepcal.JetPairs.from_fileset({"tt": {"files": [str(skim)]}}, show=False)
    assert set(plain.weight) == {2.0}, "without a cross section, weights are those of the file"


def test_the_sum_is_that_of_the_files_that_were_read(tmp_path: Path) -> None:
    """A file that is left out takes its share of the generated events with it."""
    paths = [nanoaod_file(tmp_path / f"{i}.root", 50, i, edit=weights(2.0), more=runs(1000.0, 500)) for i in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:2000])
    fileset = {"tt": {"files": [str(path) for path in paths], "metadata": {"cross_section": 10.0}}}
    pairs = hepcal.JetPairs.from_fileset(fileset, allow_skipped=True, show=False)
    assert pairs.source["normalisation"]["tt"]["sum_of_weights"] == 2000.0
    assert pairs.weight == pytest.approx(2.0 * 10.0 / 2000.0)


def test_files_with_and_without_that_sum_cannot_be_mixed(tmp_path: Path) -> None:
    skim = nanoaod_file(tmp_path / "skim.root", 50, 1, more=runs(1200.0, 600))
    bare = nanoaod_file(tmp_path / "bare.root", 50, 2)
    fileset = {"tt": {"files": [str(skim), str(bare)], "metadata": {"cross_section": 10.0}}}
    with pytest.raises(FilesetError, match=r"'tt': .*skim\.root holds the sum .*genEventSumw.*bare\.root does not"):
        hepcal.JetPairs.from_fileset(fileset, show=False)
    del fileset["tt"]["metadata"]
    assert hepcal.JetPairs.from_fileset(fileset, show=False).source["events"] == 100, "there it is not used"


@pytest.mark.parametrize(
    ("total", "count", "said"),
    [
        (60.0, 40, "40 events were generated, but the file holds 50"),
        (np.nan, 600, "genEventSumw is nan"),
        (-5.0, 600, "do not sum to a positive number"),
        (60.0, 50, "holds all events that were generated, but their weights sum to 100, and to 60"),
    ],
)
def test_a_sum_that_cannot_be_right_is_refused(tmp_path: Path, total: float, count: int, said: str) -> None:
    path = nanoaod_file(tmp_path / "skim.root", 50, 1, edit=weights(2.0), more=runs(total, count))
    fileset = load_fileset({"tt": {"files": [str(path)], "metadata": {"cross_section": 10.0}}})
    with pytest.raises(FilesetError, match=said):
        hepcal.JetPairs.from_fileset(fileset, show=False)


def test_a_real_skim_knows_what_was_generated(shared: Path) -> None:
    fileset = load_fileset({"DY": [str(shared / "data/nanoaod/nano_dy.root")]})
    (info,) = inspect(fileset, show=False)[0]
    assert info.entries == 40
    assert info.generated == Generated(850098, pytest.approx(15166686735.858717))


def test_a_run_on_a_copy_says_so_beside_its_closure(tmp_path: Path, small_calibrator: Any) -> None:
    first = delphes_file(tmp_path / "first.root", 60)
    shutil.copy(first, tmp_path / "copy.root")
    fileset = load_fileset({"QCD": [str(tmp_path / "*.root")]})
    with open_executor("iterative") as executor, pytest.warns(DuplicatedFilesWarning, match="seems to be a copy"):
        summary = run_dijets(fileset, small_calibrator, executor, tmp_path / "out", plots=False, show=False)
    assert summary["events"]["copies"] == [[str(tmp_path / "copy.root"), str(first)]]
    assert any(note.startswith("Counted twice?") and str(first) in note for note in notes(summary))
