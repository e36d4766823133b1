"""Places for outputs: what cannot be written is refused before the work, by name, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hepcal
from hepcal.cli import commands as cli
from hepcal.closure import results
from hepcal.errors import HepcalError, OutputError, PairsError
from hepcal.networks.checkpoints import Checkpoint, CheckpointWarning
from hepcal.storage import outputs
from hepcal.storage.artefact import CARD_KEY
from hepcal.tables import files as tables
from hepcal.workflow import write_diagnoses

RNG = np.random.default_rng(3)
TRUTH = RNG.uniform(50, 500, 300)
TABLE = hepcal.JetPairs.from_arrays(RNG.normal(0, 1, (300, 1)), ["eta"], reco=TRUTH * 0.95, truth=TRUTH)
QUICK = hepcal.MSE(hidden=(4,), max_updates=40, patience=40)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a disk that is nearly full: the kernel refuses to make a file larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="module")
def calibrator() -> Any:
    return hepcal.train(TABLE, QUICK, show=False)


def test_a_pipe_or_device_is_never_replaced(calibrator: Any, fifo: Path) -> None:
    for place in (fifo, Path("/dev/null"), Path("/dev/full")):
        with pytest.raises(OutputError, match=f"{place} is a device, pipe or socket"):
            calibrator.save(place)
        with pytest.raises(OutputError, match=f"{place} is a device"):
            outputs.prepare_file(place)
        with pytest.raises(OutputError, match=f"{place} is not a directory"):
            outputs.prepare_directory(place)
        with pytest.raises(PairsError, match=f"{place} exists and is not a training table"):
            TABLE.save(place)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_device_behind_a_link_is_not_replaced_and_a_file_behind_one_is(calibrator: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    with pytest.raises(OutputError, match="link is a device"):
        calibrator.save(tmp_path / "link")
    (tmp_path / "here").symlink_to(tmp_path / "there")
    calibrator.save(tmp_path / "here")
    assert (tmp_path / "here").is_symlink()
    assert (tmp_path / "there").read_bytes() == calibrator.content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "link", "there"]


def test_a_directory_is_no_file_and_a_file_no_directory(calibrator: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a directory, not a file"):
        calibrator.save(tmp_path)
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "x.safetensors", tmp_path / "file" / "deep" / "x.safetensors"):
        with pytest.raises(OutputError, match=f"cannot write {place}: Not a directory"):
            outputs.prepare_file(place)
    with pytest.raises(OutputError, match="is not a directory"):
        outputs.prepare_directory(tmp_path / "file")


def test_the_place_is_looked_at_and_not_made(tmp_path: Path) -> None:
    outputs.prepare_file(tmp_path / "a" / "b" / "x.safetensors")
    outputs.prepare_directory(tmp_path / "c" / "d")
    tables.prepare(tmp_path / "e" / "f")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        outputs.prepare_file(tmp_path / "x")


def test_no_room_is_said_before_the_work_with_the_path(tmp_path: Path) -> None:
    with largest_file(2**20):
        for prepare in (outputs.prepare_file, outputs.prepare_directory, tables.prepare):
            with pytest.raises(OutputError, match=rf"cannot write .*{tmp_path}.*: File too large"):
                prepare(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def writers(calibrator: Any) -> dict[str, Callable[[Path], Any]]:
    def result(path: Path) -> None:
        from hepcal.closure import hists

        results.write(path, hists.book(), {"schema_version": 1})

    return {
        "calibrator": calibrator.save,
        "table": TABLE.save,
        "result": result,
        "diagnostics": lambda path: write_diagnoses(path, {}),
    }


@pytest.mark.parametrize("name", ["calibrator", "table", "result", "diagnostics"])
def test_a_full_disk_is_said_with_the_path_and_leaves_nothing(
    calibrator: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "require_room", lambda directory: None)
    with largest_file(20), pytest.raises(OutputError, match=rf"cannot write .*{tmp_path / 'x'}.*: File too large"):
        writers(calibrator)[name](tmp_path / "x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_space_left_is_said_with_the_path(calibrator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    calibrator.save(tmp_path / "x")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=rf"cannot write {tmp_path}/x: No space left on device"):
        hepcal.train(TABLE, QUICK, seed=2, show=False).save(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == calibrator.content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_training_goes_on_without_its_checkpoint(calibrator: Any, tmp_path: Path) -> None:
    place = Checkpoint(tmp_path / "state", {})
    with (
        largest_file(100),
        pytest.warns(CheckpointWarning, match=rf"cannot write {place.path}: .*the training goes on"),
    ):
        place.save({"x": torch.zeros(100)}, {"update": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_fails_in_the_middle_and_the_calibrator_is_the_same(
    calibrator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, content: bytes) -> None:
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(outputs, "write", fails)
    with pytest.warns(CheckpointWarning, match="No space left on device; the training goes on"):
        found = hepcal.train(TABLE, QUICK, show=False, checkpoint=tmp_path / "state")
    assert found.content == calibrator.content


def test_a_place_for_a_checkpoint_is_looked_at_before_the_training(tmp_path: Path, fifo: Path) -> None:
    for place in (fifo, tmp_path):
        with pytest.raises(OutputError, match=rf"{place} is a "):
            hepcal.train(TABLE, QUICK, show=False, checkpoint=place)


# -- directories that hold something else ------------------------------------------------------------------------------


def test_a_directory_of_results_holds_results(tmp_path: Path) -> None:
    for name in ("hists.coffea", "hists.json", "summary.json", "diagnostics.json", "jets.safetensors", ".writing-x1"):
        (tmp_path / name).write_text("")
    (tmp_path / "plots").mkdir()
    outputs.prepare_directory(tmp_path)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"holds not only results of hepcal: thesis\.tex\. Choose a new or an empty"):
        outputs.prepare_directory(tmp_path)


@pytest.mark.parametrize("name", ["plots", "hists.json", "summary.json", "jets.safetensors"])
def test_a_name_of_ours_that_is_something_else_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    """A run would have ended in a traceback at its plots, or replaced the pipe."""
    if name == "plots":
        (tmp_path / name).write_text("mine")
    elif name == "hists.json":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=rf"/{name} is not a (file|directory): move it away"):
        outputs.prepare_directory(tmp_path)


def test_one_file_has_one_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calibrator was deleted with the checkpoint that it had replaced."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("jets.safetensors")
    outputs.refuse_same(output=Path("jets.safetensors"), checkpoint=Path("state"), config=None)
    for place in (Path("jets.safetensors"), Path("../") / tmp_path.name / "jets.safetensors", Path("link")):
        with pytest.raises(OutputError, match="cannot be both the output and the checkpoint"):
            outputs.refuse_same(output=Path("jets.safetensors"), checkpoint=place)


def test_a_calibrator_replaces_a_calibrator(calibrator: Any, tmp_path: Path) -> None:
    calibrator.save(tmp_path / "jets.safetensors")
    (tmp_path / "empty").touch()
    (tmp_path / "settings.yaml").write_text("method: mse")
    mark = CARD_KEY.encode()
    for name in ("jets.safetensors", "empty", "new"):
        outputs.prepare_file(tmp_path / name, mark=mark)
    outputs.prepare_file(Path(__file__).parent / "data" / "calibrator_882d3cb.safetensors", mark=mark)
    with pytest.raises(OutputError, match=r"settings\.yaml is another file, which would be replaced"):
        outputs.prepare_file(tmp_path / "settings.yaml", mark=mark)


def test_a_table_that_is_replaced_takes_nothing_else_with_it(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "pairs")
    TABLE.save(tmp_path / "pairs")
    (tmp_path / "pairs" / "jets.safetensors").write_text("mine")
    with pytest.raises(OutputError, match=r"holds a training table and more: jets\.safetensors"):
        TABLE.save(tmp_path / "pairs")
    assert (tmp_path / "pairs" / "jets.safetensors").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    TABLE.save(tmp_path / "empty")
    assert len(hepcal.JetPairs.open(tmp_path / "empty")) == 300


COMMANDS = {
    "run": ("run", "absent.json", "--calibrator", "jets.safetensors"),
    "diagnose": ("diagnose", "pairs", "--calibrator", "jets.safetensors"),
    "pairs": ("pairs", "some.json"),
    "train": ("train", "pairs", "--method", "mse"),
    "demo": ("demo",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_bad_output_before_the_work(
    calibrator: Any, tmp_path: Path, fifo: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the work began")

    monkeypatch.chdir(tmp_path)
    calibrator.save(tmp_path / "jets.safetensors")
    TABLE.save(tmp_path / "pairs")
    (tmp_path / "some.json").write_text(json.dumps({"x": ["root://nowhere/file.root"]}))
    for name in ("absent.json", "mine/thesis.tex"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"x": ["root://nowhere/file.root"]}')
    for name in (
        "hepcal.tables.pairs.JetPairs.open",
        "hepcal.tables.pairs.JetPairs.from_fileset",
        "hepcal.events.running.inspect",
    ):
        monkeypatch.setattr(name, work)
    for output in (fifo, Path("mine")):
        if command == "train" and output != fifo:
            continue
        done = CliRunner().invoke(cli.app, [*COMMANDS[command], "--output", str(output)])
        assert isinstance(done.exception, HepcalError), done.exception
        assert str(output) in str(done.exception)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_the_command_line_loads_no_torch_to_say_so() -> None:
    code = "import sys, hepcal.storage.outputs, hepcal.tables.files; "
    code += "assert not {'torch', 'dask', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_room_for_a_mapped_file_is_taken_before_it_is_filled(tmp_path: Path) -> None:
    # Writing to a mapping without room ends the process with SIGBUS.
    column = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(10_000, 4))
    assert (tmp_path / "x.npy").stat().st_blocks * 512 < column.nbytes
    outputs.reserve(tmp_path / "x.npy", tmp_path / "table")
    assert (tmp_path / "x.npy").stat().st_blocks * 512 >= column.nbytes
    assert np.load(tmp_path / "x.npy").shape == (10_000, 4)
