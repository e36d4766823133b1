"""Workers that are not there, or cannot do the work, are an error after a time, with the address and the way out."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import dask
import pytest
from coffea.processor.executor import WorkItem
from distributed import Client, LocalCluster, get_worker
from hepcal.processors import SurveyProcessor
from sample_files import delphes_file
from typer.testing import CliRunner

from hepcal import load_fileset
from hepcal.cli import commands as cli
from hepcal.cli import options
from hepcal.errors import ExecutorError, IncompleteRunError
from hepcal.events import executors
from hepcal.events.executors import WORKER_TIMEOUT, ProcessesExecutor, open_executor
from hepcal.events.running import run

QUIET = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}


def start(**arguments: Any) -> None:
    with open_executor(**arguments):
        pytest.fail("there is nobody to work")


@pytest.fixture(scope="module")
def empty() -> Iterator[LocalCluster]:
    """A scheduler that nobody works for."""
    with LocalCluster(n_workers=0, **QUIET) as cluster:
        yield cluster


def test_a_cluster_without_workers_is_an_error_after_a_time(empty: LocalCluster, capsys: Any) -> None:
    with pytest.raises(ExecutorError, match=f"no workers for 0.3 s at {empty.scheduler_address}: start workers"):
        start(scheduler=empty.scheduler_address, timeout=0.3)
    assert f"No workers yet at {empty.scheduler_address}: waiting for up to 0.3 s" in capsys.readouterr().err
    with Client(empty) as client, pytest.raises(ExecutorError, match=r"no workers for 0\.2 s"):
        start(client=client, timeout=0.2)


def test_the_command_says_so(empty: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text(f'{{"QCD": ["{delphes_file(tmp_path / "a.root")}"]}}')
    command = ["pairs", str(tmp_path / "set.json"), "-o", str(tmp_path / "pairs"), "--worker-timeout", "1"]
    done = CliRunner().invoke(cli.app, [*command, "--scheduler", empty.scheduler_address])
    assert isinstance(done.exception, ExecutorError), "a scheduler alone asks for dask"
    assert "no workers for 1 s" in str(done.exception)
    done = CliRunner().invoke(cli.app, [*command, "--scheduler", empty.scheduler_address, "--executor", "futures"])
    assert "the executor 'futures' is asked for: leave one out" in str(done.exception)
    assert not (tmp_path / "pairs").exists()


def test_an_adaptive_cluster_starts_workers_for_the_job(tmp_path: Path) -> None:
    fileset = load_fileset({"QCD": [str(delphes_file(tmp_path / "a.root"))]})
    with LocalCluster(n_workers=0, processes=False, **QUIET) as cluster, Client(cluster) as client:
        cluster.adapt(minimum=0, maximum=1, interval="50ms")
        with open_executor(client=client, timeout=30) as executor:
            assert run(fileset, SurveyProcessor(), executor, show=False).events == 60


class LastOne:
    """Takes the only worker away, as a batch system does at the end of its time."""

    def process(self, events: Any) -> Any:
        worker = get_worker()
        worker.loop.add_callback(worker.close)
        time.sleep(0.5)

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


def test_a_cluster_that_loses_its_workers_is_an_error_after_a_time(tmp_path: Path) -> None:
    fileset = load_fileset({"QCD": [str(delphes_file(tmp_path / "a.root"))]})
    with (
        LocalCluster(n_workers=1, processes=False, **QUIET) as cluster,
        Client(cluster) as client,
        open_executor(client=client, timeout=0.8) as executor,
        pytest.raises(ExecutorError, match=f"no workers for 0.8 s at {cluster.scheduler_address}"),
    ):
        run(fileset, LastOne(), executor, show=False, allow_skipped=True)


def test_workers_that_cannot_import_hepcal_are_an_error_at_once() -> None:
    with (
        dask.config.set({"distributed.worker.preload": ["import sys\nsys.modules['hepcal'] = None\n"]}),
        LocalCluster(n_workers=1, processes=True, **QUIET) as cluster,
        Client(cluster) as client,
        pytest.raises(ExecutorError, match=r"dask worker tcp://.* cannot import hepcal .*: install hepcal there"),
    ):
        start(client=client)


def test_workers_of_another_version_are_refused() -> None:
    client = SimpleNamespace(
        nthreads=lambda: {"tcp://w:1": 1}, run=lambda *_, **__: {"tcp://w:1": "0.0.1"}, scheduler=SimpleNamespace()
    )
    with pytest.raises(ExecutorError, match=r"worker tcp://w:1 has hepcal 0\.0\.1, this is .*: install the same"):
        start(client=client)


@pytest.mark.parametrize(
    "address", ["foo", "http://foo:1", "tcp://foo", "", "tcp://:port", "127.0.0.1:1", "tcp://127.0.0.1:1"]
)
def test_an_address_without_a_scheduler_is_named(address: str) -> None:
    with pytest.raises(
        ExecutorError, match=rf"no dask scheduler at '{address}' \(.*\); its address is tcp://host:port"
    ):
        start(scheduler=address, timeout=0.2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "futures", "scheduler": "tcp://h:1"}, "a scheduler of dask is given, but the executor 'futures'"),
        ({"name": "iterative", "client": object()}, "a client of dask is given, but the executor 'iterative'"),
        ({"scheduler": "tcp://h:1", "workers": 4}, "leave out the number of workers"),
        ({"timeout": float("nan")}, "must be a positive number of seconds, found nan"),
        ({"timeout": 0}, "must be a positive number of seconds, found 0"),
        ({"workers": 4}, "4 workers are asked for, but the executor 'iterative' is this process alone"),
        ({"name": "futures", "workers": -1}, "at least one worker is needed, found -1"),
        ({"name": "spark"}, "unknown executor 'spark'; known are iterative, futures, dask"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments: Any, said: str) -> None:
    with pytest.raises(ExecutorError, match=said), open_executor(**arguments):
        pytest.fail("one of them would be ignored")


def test_the_default_of_the_command_is_that_of_the_library() -> None:
    assert options.WAIT == WORKER_TIMEOUT


@pytest.mark.parametrize("executor", ["dask"], indirect=True)
def test_an_error_of_a_file_is_still_one_of_the_file(executor: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The watch over the workers does not take other errors for its own."""
    path = delphes_file(tmp_path / "a.root")
    fileset = load_fileset({"QCD": [str(path)]})
    monkeypatch.setattr(executors.DaskExecutor, "__call__", lambda *_: 1 / 0)
    with pytest.raises(IncompleteRunError, match="ZeroDivisionError"):
        run(fileset, LastOne(), executor, show=False)


class Output:
    """Adds up, and knows how many of its kind are there."""

    alive: ClassVar[weakref.WeakSet[Output]] = weakref.WeakSet()

    def __init__(self, chunks: list[int]) -> None:
        self.chunks = chunks
        self.alive.add(self)

    def __add__(self, other: Output) -> Output:
        return Output(self.chunks + other.chunks)

    def __iadd__(self, other: Output) -> Output:
        self.chunks += other.chunks
        return self


def test_outputs_of_local_processes_are_let_go_once_they_are_added_up() -> None:
    items = [WorkItem("QCD", "file.root", "Events", start, start + 1, b"", {}) for start in range(200)]
    ahead, alive = threading.Semaphore(3), []

    def count(_: WorkItem) -> None:
        alive.append(len(Output.alive))
        ahead.release()

    def one(item: WorkItem) -> Output:
        assert ahead.acquire(timeout=60)
        return Output([item.entrystart])

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        done, _ = ProcessesExecutor(pool=pool, count=count)(items, one, Output([]))
    assert done.chunks == list(range(200))
    assert len(alive) == 200
    assert max(alive) < 20
