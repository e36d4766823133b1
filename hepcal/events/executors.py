"""The three ways to run: in this process, in local processes, or on dask workers, with the same progress report.

They are coffea's executors, or stand beside them, with a count of finished chunks that reaches our progress report and
no output else, so that a batch log holds plain lines only; a chunk that fails says which one it is. A dask cluster
without workers, which coffea would wait for without end, is an error after a time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from coffea.processor import DaskExecutor, IterativeExecutor, accumulate
from coffea.processor.executor import ExecutorBase, WorkItem

from hepcal.cores import usable_cores
from hepcal.errors import ExecutorError
from hepcal.progress import say

__all__ = ["WORKER_TIMEOUT", "ExecutorName", "in_this_process", "open_executor"]

# Seconds to wait for a dask worker.
WORKER_TIMEOUT = 300.0

ExecutorName = Literal["iterative", "futures", "dask"]
Count = Callable[[WorkItem], None]
# Builds a coffea executor that reports each finished work item to a callback.
ExecutorFactory = Callable[[Count], ExecutorBase]


class ChunkError(Exception):
    """A chunk failed, here or in another process: which, and why.

    Attributes:
        path: Of the file.
        start: First entry.
        stop: One past the last entry.
        reason: The error, as text: errors themselves do not all survive the way between processes.
    """

    def __init__(self, path: str, start: int, stop: int, reason: str) -> None:
        super().__init__(path, start, stop, reason)
        self.path, self.start, self.stop, self.reason = path, start, stop, reason

    def __str__(self) -> str:
        return f"{self.path} [{self.start}:{self.stop}]: {self.reason[:2000]}"

    @classmethod
    def of(cls, item: WorkItem, error: BaseException) -> ChunkError:
        """From the item and what went wrong with it."""
        return cls(item.filename, item.entrystart, item.entrystop, f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Told:
    """The function that coffea applies to every work item, which tells of failures as :class:`ChunkError`."""

    function: Callable[[Any], Any]

    def __call__(self, item: Any) -> Any:
        try:
            return self.function(item)
        except Exception as error:
            # coffea puts the item into the text of an error of its own; the cause is what happened.
            raise ChunkError.of(_work(item), error.__cause__ or error) from error


class ToldFromAfar(Told):
    """The same in another process: an error need not survive the way, with the errors behind it; their text does."""

    def __call__(self, item: Any) -> Any:
        try:
            return super().__call__(item)
        except ChunkError as error:
            failure = error
        failure.__cause__ = Exception("".join(traceback.format_exception(failure)))
        failure.__context__ = None
        raise failure


def _work(item: Any) -> WorkItem:
    """The work item, without what dask sends along."""
    return item if isinstance(item, WorkItem) else item[0]


@dataclass
class CountingIterativeExecutor(IterativeExecutor):  # type: ignore[misc]
    """coffea's IterativeExecutor with our progress instead of its bar, which ``status=False`` does not silence."""

    count: Count = print

    def __call__(self, items: Any, function: Callable[[Any], Any], accumulator: Any) -> tuple[Any, int]:
        def work() -> Iterator[Any]:
            for item in items:
                yield Told(function)(item)
                self.count(item)

        return (accumulate(work(), accumulator), 0) if len(items) else (accumulator, 0)


@dataclass
class ProcessesExecutor(ExecutorBase):  # type: ignore[misc]
    """Local processes of a pool. Outputs are added up in the order of the items, so that sums have the same bits.

    Attributes:
        pool: A :class:`concurrent.futures.Executor`.
        count: Called with every finished item.
        retries: None: an error that is one will be one again.
    """

    pool: Any = None
    count: Count = print
    retries: int = 0

    def __call__(self, items: Any, function: Callable[[Any], Any], accumulator: Any) -> tuple[Any, int]:
        futures = {self.pool.submit(ToldFromAfar(function), item): item for item in items}
        try:
            return (accumulate(self._in_order(futures), accumulator), 0) if futures else (accumulator, 0)
        finally:
            for future in futures:
                future.cancel()

    def _in_order(self, futures: dict[Any, WorkItem]) -> Iterator[Any]:
        """Outputs in the order of the items, each let go once it is taken; an error as soon as it is there."""
        waiting = deque(futures)
        for done in concurrent.futures.as_completed(futures):
            done.result()
            self.count(futures.pop(done))  # a future holds its output
            while waiting and waiting[0].done():
                yield waiting.popleft().result()


class CountingClient:
    """A dask client that reports finished items, and remembers what it was asked for; everything else is passed on."""

    def __init__(self, client: Any, count: Count) -> None:
        self._client, self._count = client, count
        self.futures: list[Any] = []
        self.items: dict[str, WorkItem] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def map(self, function: Callable[..., Any], items: Any, **kwargs: Any) -> Any:
        items = list(items)
        futures = self._client.map(function, items, **kwargs)
        self.futures += futures
        for future, item in zip(futures, items, strict=True):
            work = item[0] if isinstance(item, tuple) and not isinstance(item, WorkItem) else item
            if isinstance(work, WorkItem):
                self.items[future.key] = work
                future.add_done_callback(lambda _, work=work: self._count(work))
        return futures


@dataclass
class WatchedDaskExecutor(DaskExecutor):  # type: ignore[misc]
    """coffea's DaskExecutor, which gives up if the cluster has been without workers for ``timeout`` seconds."""

    timeout: float = WORKER_TIMEOUT

    def __call__(self, items: Any, function: Callable[[Any], Any], accumulator: Any) -> Any:
        lost, done = threading.Event(), threading.Event()
        watch = threading.Thread(target=self._watch, args=(lost, done), name="hepcal-workers", daemon=True)
        watch.start()
        try:
            return super().__call__(items, ToldFromAfar(function), accumulator)
        except Exception as error:
            if lost.is_set():
                raise ExecutorError(_no_workers(self.client, self.timeout)) from error
            # A worker that dies with an item, of which dask tells the key.
            if item := self.client.items.get(getattr(error.__context__, "task", None)):
                raise ChunkError.of(item, error.__context__ or error) from error
            raise
        finally:
            done.set()
            watch.join()
            self.client.futures.clear()
            self.client.items.clear()

    def _watch(self, lost: threading.Event, done: threading.Event) -> None:
        """Cancel all work once there has been no worker for so long."""
        seen = time.monotonic()
        while not done.wait(min(1.0, self.timeout / 4)):
            with contextlib.suppress(OSError):  # a scheduler that does not answer has no workers
                if self.client.nthreads():
                    seen = time.monotonic()
                    continue
            if time.monotonic() - seen > self.timeout:
                lost.set()
                with contextlib.suppress(OSError):
                    self.client.cancel(self.client.futures, force=True)
                return


def _no_workers(client: Any, timeout: float) -> str:
    return (
        f"no workers for {timeout:g} s at {client.scheduler.address}: start workers for that scheduler, with hepcal "
        "installed (their logs say why they stopped), or wait longer (timeout, --worker-timeout)"
    )


def in_this_process(count: Count) -> ExecutorBase:
    """The executor that is there without being opened: it starts no workers."""
    return CountingIterativeExecutor(count=count, retries=0)


@contextlib.contextmanager
def open_executor(
    name: ExecutorName | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    client: Any = None,
    timeout: float = WORKER_TIMEOUT,
) -> Iterator[ExecutorFactory]:
    """Start workers, and stop them at the end.

    Args:
        name: ``iterative`` (this process), ``futures`` (local processes through loky) or ``dask``; default: ``dask``
            where a scheduler or client is given, otherwise ``iterative``.
        workers: Number of local processes; default: one per core that this process may use
            (:func:`hepcal.cores.usable_cores`). Each computes on one thread.
        scheduler: Address of a running dask scheduler (``tcp://host:8786``); then no local workers are started.
        client: A ``distributed.Client`` of your own instead.
        timeout: Seconds for which a dask cluster may be without workers, at the start and during the work.

    Yields:
        A function that builds a coffea executor; deterministic errors are not retried.

    Raises:
        ExecutorError: The arguments contradict each other, no scheduler answers, it has no workers for ``timeout``
            seconds, or workers cannot import this version of hepcal.
    """
    elsewhere = "a scheduler" if scheduler is not None else "a client" if client is not None else ""
    name = name or ("dask" if elsewhere else "iterative")
    if name not in ("iterative", "futures", "dask"):
        raise ExecutorError(f"unknown executor {name!r}; known are iterative, futures, dask")
    if elsewhere and name != "dask":
        raise ExecutorError(f"{elsewhere} of dask is given, but the executor {name!r} is asked for: leave one out")
    if elsewhere and workers is not None:
        raise ExecutorError(f"{elsewhere} of dask is given, and its workers are used: leave out the number of workers")
    if workers is not None and workers < 1:
        raise ExecutorError(f"at least one worker is needed, found {workers}")
    if name == "iterative" and workers not in (None, 1):
        raise ExecutorError(
            f"{workers} workers are asked for, but the executor 'iterative' is this process alone: choose futures or "
            "dask, or leave out the number of workers"
        )
    if not 0 < timeout < math.inf:
        raise ExecutorError(f"the time to wait for workers must be a positive number of seconds, found {timeout:g}")
    workers = workers or usable_cores()
    if name == "iterative":
        yield in_this_process
    elif name == "futures":
        import loky

        pool = loky.ProcessPoolExecutor(max_workers=workers)
        try:
            yield lambda count: ProcessesExecutor(pool=pool, count=count)
        finally:
            pool.shutdown(wait=True, kill_workers=True)
    else:
        with contextlib.ExitStack() as stack:
            if client is None:
                client = stack.enter_context(_dask_client(workers, scheduler, timeout))
            _require_workers(client, timeout)
            yield lambda count: WatchedDaskExecutor(
                client=CountingClient(client, count), status=False, retries=0, timeout=timeout
            )


@contextlib.contextmanager
def _dask_client(workers: int, scheduler: str | None, timeout: float) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if scheduler is not None:
        with _connected(scheduler, timeout) as client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _connected(scheduler: str, timeout: float) -> Any:
    from distributed import Client
    from distributed.comm.addressing import parse_address, parse_host_port

    try:
        parse_host_port(parse_address(scheduler, strict="://" in scheduler)[1])
        return Client(scheduler, timeout=timeout)
    except (ValueError, OSError) as error:
        raise ExecutorError(
            f"no dask scheduler at {scheduler!r} ({str(error).splitlines()[0]}); its address is tcp://host:port, as "
            "'dask scheduler' prints it when it starts"
        ) from error


def _require_workers(client: Any, timeout: float) -> None:
    """Wait for a worker, and refuse those that cannot do the work."""
    if not client.nthreads():
        say(f"No workers yet at {client.scheduler.address}: waiting for up to {timeout:g} s")
        asked = client.submit(int, pure=False)  # an adaptive cluster starts workers for work only
        try:
            client.wait_for_workers(1, timeout=timeout)
        except TimeoutError as error:
            raise ExecutorError(_no_workers(client, timeout)) from error
        finally:
            asked.cancel()

    def there() -> str:  # travels by value: hepcal may not be there
        import importlib
        from importlib.metadata import version

        importlib.import_module("hepcal")
        return version("hepcal")

    here = version("hepcal")
    for worker, found in client.run(there, on_error="return").items():
        if isinstance(found, BaseException):
            raise ExecutorError(f"the dask worker {worker} cannot import hepcal ({found}): install hepcal there")
        if found != here:
            raise ExecutorError(
                f"the dask worker {worker} has hepcal {found}, this is {here}: install the same version"
            )
