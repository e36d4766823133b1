"""A run is complete or it fails, naming the file and the reason; the same on every executor."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle
import numpy as np
import pytest
import uproot
from coffea.processor import Runner
from hepcal.processors import SurveyProcessor

import hepcal
from hepcal import load_fileset
from hepcal.errors import FilesetError, HepcalError, IncompleteRunError, ReadError, SchemaError
from hepcal.events import running
from hepcal.events.executors import ExecutorFactory, open_executor
from hepcal.events.running import inspect
from hepcal.methods.calibrator import Calibrator
from hepcal.networks.dense import DenseLayout
from hepcal.workflow import run_dijets

EVENTS = 40


@pytest.fixture(scope="module", autouse=True)
def processors_travel_by_value() -> Iterator[None]:
    """The processors of this module are not installed on workers."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def iterative() -> Iterator[ExecutorFactory]:
    with open_executor("iterative") as factory:
        yield factory


@pytest.fixture
def good(tmp_path: Path, write_delphes: Callable[..., Path]) -> list[Path]:
    """Two sound files of 40 events each."""
    return [write_delphes(tmp_path / f"good_{i}.root", events=EVENTS, seed=i) for i in (1, 2)]


class Census:
    """Which events were seen, by file."""

    def process(self, events: ak.Array) -> dict[str, Any]:
        name = Path(events.metadata["filename"]).name
        return {"events": {name: len(events)}, "numbers": {name: events.Event.Number.to_list()}}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return {**accumulator, "postprocessed": accumulator.get("postprocessed", 0) + 1}


@dataclass
class Calibrate(Census):
    """Calibrates all jets and keeps the sum of their p_T [GeV]."""

    calibrator: Calibrator
    pt: float = field(default=0.0)

    def process(self, events: ak.Array) -> dict[str, Any]:
        return super().process(events) | {"pt": float(ak.sum(self.calibrator(events.Jet).pt_calib))}


def run(files: Any, processor: Any, executor: ExecutorFactory, **options: Any) -> running.Run:
    fileset = files if not isinstance(files, list) else load_fileset({"QCD": {"files": [str(f) for f in files]}})
    return running.run(fileset, processor, executor, **{"chunksize": 15, "show": False, **options})


# -- sound files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [7, 40, 100_000])
def test_every_event_is_processed_exactly_once(executor: Any, good: list[Path], chunksize: int) -> None:
    done = run(good, Census(), executor, chunksize=chunksize)
    assert done.events == 2 * EVENTS
    assert done.skipped == ()
    assert [info.path for info in done.files] == [str(path) for path in good]
    for path in good:
        assert sorted(done.output["numbers"][path.name]) == list(range(EVENTS))


def test_the_events_of_a_run_are_the_entries_of_its_files(executor: Any, demo_files: Any) -> None:
    done = run(demo_files["test"], Census(), executor, chunksize=2_000)
    assert done.events == sum(info.entries for info in done.files) == 5_000
    assert sum(done.output["events"].values()) == 5_000


def test_a_file_without_events_is_one_empty_chunk(
    executor: Any, good: list[Path], write_delphes: Any, small_calibrator: Calibrator
) -> None:
    empty = write_delphes(good[0].with_name("empty.root"), events=0)
    alone = run([empty], Calibrate(small_calibrator), executor)
    assert (alone.events, alone.output["pt"], alone.output["events"]) == (0, 0.0, {"empty.root": 0})
    mixed = run([good[0], empty, good[1]], Calibrate(small_calibrator), executor)
    assert mixed.events == 2 * EVENTS
    assert mixed.output["events"] == {"good_1.root": EVENTS, "empty.root": 0, "good_2.root": EVENTS}


def test_layouts_may_be_mixed_and_postprocessing_happens_once(
    executor: Any, good: list[Path], write_nanoaod: Any
) -> None:
    nano = write_nanoaod(good[0].with_name("nano.root"), events=25)
    done = run([good[0], nano, good[1]], Lengths(), executor)
    assert done.events == done.output["events"] == 2 * EVENTS + 25
    assert done.output["schemas"] == {"delphes", "nanoaod"}
    assert done.output["postprocessed"] == 1


class Lengths(Census):
    """Counts events, and the layouts they came in."""

    def process(self, events: ak.Array) -> dict[str, Any]:
        return {"events": len(events), "schemas": {events.metadata["schema"]}}


def test_a_file_that_was_written_again_is_read_again(iterative: Any, tmp_path: Path, write_delphes: Any) -> None:
    path = tmp_path / "jets.root"
    for events in (30, 50):
        write_delphes(path, events=events)
        assert run([path], Census(), iterative).output["events"] == {"jets.root": events}


# -- faults found before the first event ------------------------------------------------------------------------------


def truncated(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def zero_bytes(path: Path, good: Path) -> None:
    path.touch()


def text(path: Path, good: Path) -> None:
    path.write_text("not a ROOT file, " * 100)


def missing(path: Path, good: Path) -> None:
    """Deleted after the fileset was checked (see :func:`faulty_fileset`)."""


def without_tree(path: Path, good: Path) -> None:
    with uproot.recreate(path) as out:
        out["histogram"] = np.histogram([1.0, 2.0])


def other_tree(path: Path, good: Path) -> None:
    with uproot.recreate(path) as out:
        out.mktree("Muons", {"Muon_pt": "float32"}).extend({"Muon_pt": np.ones(3, dtype=np.float32)})


def without_jets(path: Path, good: Path) -> None:
    with uproot.recreate(path) as out:
        out.mktree("Events", {"Muon_pt": "float32"}).extend({"Muon_pt": np.ones(3, dtype=np.float32)})


FAULTS = {
    truncated: "cannot be read as a ROOT file",
    zero_bytes: "cannot be read as a ROOT file",
    text: "cannot be read as a ROOT file",
    missing: "FileNotFoundError",
    without_tree: "no tree 'Events' or 'Delphes'.*holds histogram",
    other_tree: "no tree 'Events' or 'Delphes'.*holds Muons",
    without_jets: "neither a branch Jet_pt .* nor Jet.PT",
}
FAULT = pytest.mark.parametrize(("fault", "reason"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])


def faulty_fileset(good: list[Path], fault: Callable[[Path, Path], None]) -> tuple[Any, Path]:
    """A fileset whose second of three files has the fault, and that file."""
    bad = good[0].with_name("bad.root")
    if fault is not missing:
        fault(bad, good[0])
        return load_fileset({"QCD": {"files": [str(good[0]), str(bad), str(good[1])]}}), bad
    bad.touch()
    fileset = load_fileset({"QCD": {"files": [str(good[0]), str(bad), str(good[1])]}})
    bad.unlink()
    return fileset, bad


@FAULT
def test_an_unusable_file_stops_the_run_before_the_first_event(
    executor: Any, good: list[Path], tmp_path: Path, fault: Any, reason: str
) -> None:
    fileset, bad = faulty_fileset(good, fault)
    with pytest.raises(ReadError, match=f"1 of 3 files.*\n.*{bad.name}.*{reason}"):
        run(fileset, Witness(tmp_path / "log"), executor)
    assert not (tmp_path / "log").exists(), "no event was processed"


@FAULT
def test_an_unusable_file_is_left_out_whole_only_when_allowed(
    executor: Any, good: list[Path], capsys: Any, fault: Any, reason: str
) -> None:
    fileset, bad = faulty_fileset(good, fault)
    done = run(fileset, Census(), executor, allow_skipped=True)
    (skipped,) = done.skipped
    assert skipped.path == str(bad)
    assert re.search(reason, skipped.reason)
    assert done.events == sum(done.output["events"].values()) == 2 * EVENTS
    assert set(done.output["events"]) == {path.name for path in good}
    assert f"skipped: {bad}" in capsys.readouterr().err, "it is said, not only stored"


@pytest.mark.parametrize("name", ["bad_delphes.root", "PR554_SkipReadOnlyDirectory.root"])
def test_real_files_without_a_tree_are_refused(shared: Path, iterative: Any, name: str) -> None:
    with pytest.raises(ReadError, match=rf"{name}: no tree 'Events' or 'Delphes' \(data set 'QCD'\)"):
        run([shared / "data" / "nanoaod" / name], Census(), iterative)


@pytest.mark.parametrize("kept", [0.1, 0.9, 0.9999])
@pytest.mark.parametrize("name", ["qcd/qcd_pthat1000_cms_01.root", "nanoaod/nano_tt_v12.root"])
def test_a_truncated_real_file_is_refused(shared: Path, tmp_path: Path, name: str, kept: float) -> None:
    content = (shared / "data" / name).read_bytes()
    (tmp_path / "part.root").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ReadError, match=r"part\.root: cannot be read as a ROOT file"):
        running.inspect(load_fileset({"QCD": [str(tmp_path / "part.root")]}), show=False)


def test_a_tree_that_the_file_lacks_is_named_with_what_it_holds(iterative: Any, good: list[Path]) -> None:
    fileset = load_fileset({"QCD": {"files": {str(good[0]): "Events"}}})
    with pytest.raises(ReadError, match=r"good_1\.root: no tree 'Events' \(data set 'QCD'\); the file holds Delphes"):
        run(fileset, Census(), iterative)


def test_a_missing_branch_is_named_before_the_first_event(
    iterative: Any, good: list[Path], tmp_path: Path, write_delphes: Any, small_calibrator: Calibrator
) -> None:
    def slim(content: dict[str, Any]) -> None:
        content["Jet"] = content["Jet"][["PT", "Eta", "Phi", "Mass", "DeltaEta"]]

    slimmed = write_delphes(tmp_path / "slim.root", edit=slim)
    fields = {"Jet": small_calibrator.uses}
    with pytest.raises(ReadError, match=r"slim\.root.*lacks the branches Jet\.DeltaPhi, Jet\.NCharged"):
        run([good[0], slimmed], Witness(tmp_path / "log"), iterative, fields=fields)
    assert not (tmp_path / "log").exists()
    done = run([good[0], slimmed], Census(), iterative, fields=fields, allow_skipped=True)
    assert [skipped.path for skipped in done.skipped] == [str(slimmed)]


def test_all_unusable_files_are_named_at_once(iterative: Any, good: list[Path], tmp_path: Path) -> None:
    bad = [tmp_path / "first.root", tmp_path / "second.root"]
    for path in bad:
        path.touch()
    with pytest.raises(ReadError, match="2 of 4 files") as caught:
        run([good[0], *bad, good[1]], Census(), iterative)
    assert all(str(path) in str(caught.value) for path in bad)


def test_nothing_left_to_read_is_an_error_even_where_skipping_is_allowed(iterative: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.root").touch()
    with pytest.raises(ReadError, match="1 of 1 files"):
        run([tmp_path / "bad.root"], Census(), iterative, allow_skipped=True)


def test_a_file_listed_twice_is_refused_not_counted_twice(iterative: Any, good: list[Path]) -> None:
    with pytest.raises(FilesetError, match=r"good_1\.root twice"):
        run([good[0], good[1], good[0]], Census(), iterative)


# -- faults found while reading ---------------------------------------------------------------------------------------


def corrupt(path: Path, branch: str) -> Path:
    """Flip bits in the middle of the first compressed basket of a branch; everything else stays readable."""
    with uproot.open(path) as file:
        found = file["Delphes"][branch]
        start, size = int(found.member("fBasketSeek")[0]), int(found.member("fBasketBytes")[0])
        assert found.compressed_bytes < found.uncompressed_bytes, "an uncompressed basket has no checksum"
    content = bytearray(path.read_bytes())
    for position in range(start + size // 2, start + size // 2 + 16):
        content[position] ^= 0xFF
    path.write_bytes(content)
    return path


def corrupt_basket(path: Path, write_delphes: Any) -> None:
    corrupt(write_delphes(path, events=EVENTS, seed=3), "Jet/Jet.NCharged")


def nan_feature(path: Path, write_delphes: Any) -> None:
    def spoil(content: dict[str, Any]) -> None:
        values = ak.fill_none(ak.mask(content["Jet"].DeltaEta, ak.local_index(content["Jet"].DeltaEta) != 1), np.nan)
        content["Jet"] = ak.with_field(content["Jet"], values, "DeltaEta")

    write_delphes(path, events=EVENTS, seed=3, edit=spoil)


LATE_FAULTS = {corrupt_basket: "decompress", nan_feature: "jets have a 'DeltaEta' that is NaN"}
LATE_FAULT = pytest.mark.parametrize(
    ("fault", "reason"), LATE_FAULTS.items(), ids=[fault.__name__ for fault in LATE_FAULTS]
)


@LATE_FAULT
def test_a_fault_found_while_reading_stops_the_run_and_names_file_and_reason(
    executor: Any, good: list[Path], write_delphes: Any, small_calibrator: Calibrator, fault: Any, reason: str
) -> None:
    bad = good[0].with_name("bad.root")
    fault(bad, write_delphes)
    with pytest.raises(IncompleteRunError, match=rf"(?s){bad} \[\d+:\d+\]: .*{reason}") as caught:
        run([good[0], bad, good[1]], Calibrate(small_calibrator), executor)
    assert not any(str(path) in str(caught.value) for path in good)


@LATE_FAULT
def test_a_file_that_fails_while_reading_is_left_out_whole_only_when_allowed(
    executor: Any, good: list[Path], write_delphes: Any, small_calibrator: Calibrator, fault: Any, reason: str
) -> None:
    bad = good[0].with_name("bad.root")
    fault(bad, write_delphes)
    done = run([good[0], bad, good[1]], Calibrate(small_calibrator), executor, allow_skipped=True)
    assert [skipped.path for skipped in done.skipped] == [str(bad)]
    assert re.search(reason, done.skipped[0].reason)
    assert done.events == sum(done.output["events"].values()) == 2 * EVENTS
    assert set(done.output["events"]) == {path.name for path in good}, "no chunk of the bad file is left in the output"
    assert done.output["pt"] == run(good, Calibrate(small_calibrator), executor).output["pt"]


def test_a_corrupt_basket_that_is_not_read_does_not_matter(iterative: Any, good: list[Path]) -> None:
    corrupt(good[0], "Jet/Jet.NCharged")
    assert run(good, Census(), iterative).events == 2 * EVENTS


def test_a_real_corrupt_basket_is_found(
    iterative: Any, tmp_path: Path, demo_files: Any, small_calibrator: Calibrator
) -> None:
    path = Path(shutil.copy(demo_files["test"].paths[0], tmp_path / "damaged.root"))
    corrupt(path, "Jet/Jet.EhadOverEem")
    with pytest.raises(IncompleteRunError, match=str(path)):
        run([path], Calibrate(small_calibrator), iterative, chunksize=1000)


def test_a_file_that_vanishes_during_the_run_is_named(iterative: Any, good: list[Path]) -> None:
    with pytest.raises(IncompleteRunError, match=rf"{good[1]}.*FileNotFoundError"):
        run(good, Removes(good[1]), iterative)


class Removes(Census):
    """Deletes a file while an earlier one is processed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def process(self, events: ak.Array) -> dict[str, Any]:
        self.path.unlink(missing_ok=True)
        return super().process(events)


def test_the_failing_file_is_told_from_one_with_a_similar_path(
    iterative: Any, good: list[Path], tmp_path: Path, monkeypatch: Any, small_calibrator: Calibrator
) -> None:
    (tmp_path / "more").mkdir()
    bad = Path(shutil.copy(good[1], tmp_path / "more" / "good_1.root"))
    corrupt(bad, "Jet/Jet.NCharged")
    monkeypatch.chdir(tmp_path)
    fileset = load_fileset({"QCD": {"files": ["good_1.root", "more/good_1.root"]}})
    done = run(fileset, Calibrate(small_calibrator), iterative, allow_skipped=True)
    assert [skipped.path for skipped in done.skipped] == [str(bad)]
    assert done.events == EVENTS


# -- faults of processors and workers ---------------------------------------------------------------------------------


class Witness(Census):
    """Leaves one line per call."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def process(self, events: ak.Array) -> dict[str, Any]:
        with self.log.open("a") as log:
            log.write(f"{events.metadata['filename']} {events.metadata['entrystart']}\n")
        return super().process(events)


class Broken(Witness):
    """Has a bug."""

    def process(self, events: ak.Array) -> dict[str, Any]:
        super().process(events)
        raise ZeroDivisionError("the resolution is zero")


class MissingSideFile(Witness):
    """Fails with an OSError that has nothing to do with the events."""

    def process(self, events: ak.Array) -> dict[str, Any]:
        super().process(events)
        return {"n": len(Path("/nonexistent/scale_factors.json").read_text())}


@pytest.mark.parametrize("bug", [Broken, MissingSideFile])
def test_a_bug_is_executed_once_and_not_retried(executor: Any, good: list[Path], tmp_path: Path, bug: Any) -> None:
    with pytest.raises(IncompleteRunError, match=r"resolution is zero|scale_factors"):
        run([good[0]], bug(tmp_path / "log"), executor, chunksize=1000)
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    with pytest.raises(IncompleteRunError):
        run(good, bug(tmp_path / "log"), executor, chunksize=10)
    calls = Counter((tmp_path / "log").read_text().splitlines()[1:])
    assert max(calls.values()) == 1


def test_a_bug_is_named_with_the_file_that_met_it(executor: Any, good: list[Path], tmp_path: Path) -> None:
    with pytest.raises(IncompleteRunError, match=rf"{good[0]} \[0:40\]: ZeroDivisionError: the resolution is zero"):
        run([good[0]], Broken(tmp_path / "log"), executor, chunksize=1000)


class OddError(Exception):
    """Cannot be built from its message, nor sent to another process."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(f"code {code} at {place}")
        self.lock = threading.Lock()


class Odd(Witness):
    """Raises it."""

    def process(self, events: ak.Array) -> dict[str, Any]:
        raise OddError(7, "the endcap")


def test_an_error_that_cannot_travel_is_told_all_the_same(executor: Any, good: list[Path], tmp_path: Path) -> None:
    with pytest.raises(IncompleteRunError, match=rf"{good[0]} \[0:40\]: OddError: code 7 at the endcap"):
        run([good[0]], Odd(tmp_path / "log"), executor, chunksize=1000)
    # It spoils no worker.
    assert run(good, Census(), executor).events == 2 * EVENTS


def test_an_executor_is_as_good_as_new_after_a_failed_run(executor: Any, good: list[Path], tmp_path: Path) -> None:
    with pytest.raises(IncompleteRunError):
        run(good, Broken(tmp_path / "log"), executor)
    assert run(good, Census(), executor).events == 2 * EVENTS


def test_a_lost_chunk_is_noticed_and_named(iterative: Any, good: list[Path], monkeypatch: Any) -> None:
    complete = Runner.run

    def lossy(self: Runner, *args: Any, **kwargs: Any) -> dict[str, Any]:
        result = complete(self, *args, **kwargs)
        lost = next(item for item in result["processed"] if item.filename == str(good[1]) and item.entrystart == 0)
        return result | {"processed": result["processed"] - {lost}}

    monkeypatch.setattr(Runner, "run", lossy)
    with pytest.raises(IncompleteRunError, match=rf"1 of 8 chunks.*\(10 events\):\n.*QCD: {good[1]} \[0:10\]"):
        run(good, Census(), iterative, chunksize=10)


@pytest.mark.parametrize("entries", [0, 1, 9, 10, 11, 100])
def test_a_plan_covers_every_entry_once(entries: int, iterative: Any, tmp_path: Path, write_delphes: Any) -> None:
    fileset = load_fileset({"QCD": [str(write_delphes(tmp_path / "jets.root", events=entries))]})
    files, _ = running.inspect(fileset, show=False)
    plan = running._plan(files, {"QCD": {}}, 10)
    ranges = [(item.entrystart, item.entrystop) for item in plan]
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(entries))
    assert all(stop - start <= 10 for start, stop in ranges)
    assert max(stop - start for start, stop in ranges) - min(stop - start for start, stop in ranges) <= 1


def test_a_calibrator_travels_as_its_content_not_as_a_path(
    executor: Any, good: list[Path], tmp_path: Path, small_calibrator: Calibrator
) -> None:
    path = tmp_path / "jets.safetensors"
    small_calibrator.save(path)
    calibrator = hepcal.Calibrator.load(path)
    path.unlink()
    done = run(good, Calibrate(calibrator), executor)
    assert done.events == 2 * EVENTS
    assert done.output["pt"] > 0


class DiesOnce(Witness):
    """The first chunk takes its worker with it, as the kernel does when memory runs out."""

    def process(self, events: ak.Array) -> dict[str, Any]:
        with contextlib.suppress(FileExistsError):
            self.log.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().process(events)


@pytest.mark.parametrize("executor", ["dask"], indirect=True)
def test_a_dask_worker_that_dies_once_loses_no_event(executor: Any, good: list[Path], tmp_path: Path) -> None:
    done = run(good, DiesOnce(tmp_path / "marker"), executor, chunksize=10)
    assert (tmp_path / "marker").exists(), "a worker was killed"
    for path in good:
        assert sorted(done.output["numbers"][path.name]) == list(range(EVENTS))


def test_a_local_process_that_dies_fails_the_run(good: list[Path], tmp_path: Path) -> None:
    with open_executor("futures", workers=2) as futures, pytest.raises(IncompleteRunError, match=r"(?i)terminated"):
        run(good, DiesOnce(tmp_path / "marker"), futures, chunksize=10)


def test_dask_workers_start_quietly_beside_a_cluster_of_somebody_else() -> None:
    with socket.socket() as other:
        with contextlib.suppress(OSError):
            other.bind(("", 8787))
            other.listen()
        with open_executor("dask", workers=1) as dask:
            assert dask is not None


# -- files that change -------------------------------------------------------------------------------------------------


def replaced(path: Path, write_delphes: Any) -> None:
    write_delphes(path, events=EVENTS, seed=9)


def shortened(path: Path, write_delphes: Any) -> None:
    of_the_same_uuid(path, write_delphes, EVENTS - 7)


def lengthened(path: Path, write_delphes: Any) -> None:
    of_the_same_uuid(path, write_delphes, EVENTS + 7)


def deleted(path: Path, write_delphes: Any) -> None:
    path.unlink()


def of_the_same_uuid(path: Path, write_delphes: Any, events: int) -> None:
    """Another file with the UUID of the one that it replaces, as a program leaves it that writes into a file."""
    with uproot.open(path) as file:
        uuid = file.file.fUUID
    write_delphes(path, events=events, seed=9)
    with uproot.open(path) as file:
        own = file.file.fUUID
    path.write_bytes(path.read_bytes().replace(own, uuid))


CHANGES = {
    replaced: r"was changed since it was inspected \(UUID: [-0-9a-f]{36} then, [-0-9a-f]{36} now\)",
    shortened: rf"was changed since it was inspected \(events: {EVENTS} then, {EVENTS - 7} now\)",
    lengthened: rf"was changed since it was inspected \(events: {EVENTS} then, {EVENTS + 7} now\)",
    deleted: "FileNotFoundError",
}


def test_workers_anywhere_see_that_a_file_changed(executor: Any, good: list[Path], write_delphes: Any) -> None:
    changed_after_inspection(executor, good, write_delphes, shortened)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_after_it_was_inspected_fails_by_name(
    iterative: Any, good: list[Path], write_delphes: Any, change: Any
) -> None:
    changed_after_inspection(iterative, good, write_delphes, change)


def changed_after_inspection(executor: Any, good: list[Path], write_delphes: Any, change: Any) -> None:
    fileset = load_fileset({"QCD": [str(path) for path in good]})
    inspected = inspect(fileset, show=False)
    change(good[1], write_delphes)
    with pytest.raises(IncompleteRunError, match=rf"{good[1]} \[\d+:\d+\]: .*{CHANGES[change]}"):
        run(fileset, Census(), executor, inspected=inspected)
    done = run(fileset, Census(), executor, inspected=inspected, allow_skipped=True)
    assert [skipped.path for skipped in done.skipped] == [str(good[1])]
    assert done.events == sum(done.output["events"].values()) == EVENTS
    assert set(done.output["events"]) == {good[0].name}, "no chunk of it is left"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_training_table_is_not_made_of_files_that_change(
    good: list[Path], write_delphes: Any, monkeypatch: Any, tmp_path: Path, change: Any, on_disk: bool
) -> None:
    def then_changes(*args: Any, **options: Any) -> Any:
        found = inspect(*args, **options)
        change(good[1], write_delphes)
        return found

    monkeypatch.setattr("hepcal.tables.reading.inspect", then_changes)
    fileset = {"QCD": [str(path) for path in good]}
    whole = good[1].read_bytes()
    for allowed in (False, True):
        good[1].write_bytes(whole)
        options: dict[str, Any] = {"show": False, "allow_skipped": allowed}
        with contextlib.ExitStack() as refused:
            if not allowed:
                expected = rf"{good[1]} \[0:{EVENTS}\]: .*{CHANGES[change]}"
                refused.enter_context(pytest.raises(IncompleteRunError, match=expected))
            if on_disk:
                table = hepcal.JetPairs.write(fileset, tmp_path / "pairs", **options)
            else:
                table = hepcal.JetPairs.from_fileset(fileset, **options)
    assert table.source["events"] == EVENTS
    assert [path for path, _ in table.source["skipped_files"]] == [str(good[1])]
    assert set(table.event >> 40) == {0}


def test_a_file_that_changes_between_survey_and_calibration_normalises_nothing(
    iterative: Any, good: list[Path], write_delphes: Any, monkeypatch: Any, tmp_path: Path, small_calibrator: Calibrator
) -> None:
    process = SurveyProcessor.process

    def survey(self: Any, events: ak.Array) -> Any:
        out = process(self, events)
        if events.metadata["filename"] == str(good[1]):
            replaced(good[1], write_delphes)
        return out

    monkeypatch.setattr(SurveyProcessor, "process", survey)
    fileset = load_fileset({"QCD": {"files": [str(path) for path in good], "metadata": {"cross_section": 8.0}}})
    options: dict[str, Any] = {"plots": False, "show": False}
    with pytest.raises(IncompleteRunError, match=rf"{good[1]} .*was changed since it was inspected"):
        run_dijets(fileset, small_calibrator, iterative, tmp_path / "out", **options)
    summary = run_dijets(fileset, small_calibrator, iterative, tmp_path / "out", allow_skipped=True, **options)
    assert summary["events"]["read"] == EVENTS
    assert summary["normalisation"]["QCD"]["sum_of_weights"] == EVENTS
    assert [skipped["file"] for skipped in summary["events"]["skipped_files"]] == [str(good[1])]


# -- our errors -------------------------------------------------------------------------------------------------------


def all_errors(base: type[HepcalError] = HepcalError) -> set[type[HepcalError]]:
    return {base}.union(*(all_errors(child) for child in base.__subclasses__()))


def test_no_error_of_ours_is_an_oserror() -> None:
    # coffea's skipbadfiles takes any OSError for a bad file and drops the chunk.
    assert len(all_errors()) >= 10
    assert not [error for error in all_errors() if issubclass(error, OSError)]


def test_simulation_and_data_in_one_data_set_are_told_apart(write_nanoaod: Any, tmp_path: Path) -> None:
    def without_truth(content: dict[str, Any]) -> None:
        for name in ("GenJet", "GenPart", "genWeight"):
            del content[name]

    mc, data = tmp_path / "mc.root", tmp_path / "data.root"
    write_nanoaod(mc, 20, 1)
    write_nanoaod(data, 20, 2, edit=without_truth)
    with pytest.raises(FilesetError, match=r"'mixed' mixes simulation .*mc\.root.* and collision data .*data\.root"):
        inspect(load_fileset({"mixed": {"files": [str(mc), str(data)]}}), show=False)
    assert len(inspect(load_fileset({"a": [str(mc)], "b": [str(data)]}), show=False)[0]) == 2


def test_files_of_another_layout_than_the_training_are_refused(
    iterative: Any, write_nanoaod: Any, tmp_path: Path, small_calibrator: Calibrator
) -> None:
    path = tmp_path / "nano.root"
    write_nanoaod(path, 20, 1)
    eta_only = small_calibrator.card.model_copy(
        update={"features": small_calibrator.card.features.model_copy(update={"inputs": ()})}
    )
    # What the training saw of the inputs would not fit to none of them.
    tensors = {k: v for k, v in small_calibrator.tensors.items() if not k.startswith("histogram")}
    for part in ("mean", "scale", "low", "high"):
        tensors[f"input_{part}"] = tensors[f"input_{part}"][:1]
    layout = DenseLayout((1, *eta_only.settings["hidden"], 2))
    tensors["draws"] = tensors["draws"][:, : layout.count]
    calibrator = type(small_calibrator)(eta_only, tensors)
    with pytest.raises(SchemaError, match=r"nano\.root is a nanoaod file.* trained on delphes jets"):
        run_dijets(load_fileset({"x": [str(path)]}), calibrator, iterative, tmp_path / "out", show=False)
