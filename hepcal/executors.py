"""The three ways to run: in this process, in local processes, or on dask workers, with the same progress report.

coffea's executors do the work; what is added here is a count of finished chunks that reaches our progress report,
and silence otherwise, so that a batch log holds plain lines only.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

from coffea.processor import DaskExecutor, FuturesExecutor, IterativeExecutor, accumulate
from coffea.processor.executor import ExecutorBase, WorkItem

__all__ = ["ExecutorName", "open_executor"]

ExecutorName = Literal["iterative", "futures", "dask"]
Count = Callable[[WorkItem], None]
# Builds a coffea executor that reports each finished work item to a callback.
ExecutorFactory = Callable[[Count], ExecutorBase]


@dataclass
class SilentIterativeExecutor(IterativeExecutor):  # type: ignore[misc]
    """coffea's IterativeExecutor without its progress bar, which ``status=False`` does not silence."""

    count: Count = print

    def __call__(self, items: Any, function: Callable[[Any], Any], accumulator: Any) -> tuple[Any, int]:
        def work() -> Iterator[Any]:
            for item in items:
                yield function(item)
                if isinstance(item, WorkItem):
                    self.count(item)

        return (accumulate(work(), accumulator), 0) if len(items) else (accumulator, 0)


class CountingPool(concurrent.futures.Executor):
    """A process pool that reports finished items."""

    def __init__(self, pool: Any, count: Count) -> None:
        self.pool, self.count = pool, count

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        future = self.pool.submit(function, *args, **kwargs)
        if args and isinstance(args[0], WorkItem):
            future.add_done_callback(lambda _: self.count(args[0]))
        return future


class SilentFuturesExecutor(FuturesExecutor):  # type: ignore[misc]
    """coffea's FuturesExecutor without its bars and its printed traceback; the error itself is raised as before."""

    def __call__(self, items: Any, function: Callable[[Any], Any], accumulator: Any) -> Any:
        from coffea.processor import executor
        from coffea.util import coffea_console

        quiet, coffea_console.quiet = coffea_console.quiet, True
        printing, executor.traceback = executor.traceback, SimpleNamespace(print_exc=lambda: None)
        try:
            return super().__call__(items, function, accumulator)
        finally:
            coffea_console.quiet, executor.traceback = quiet, printing


class CountingClient:
    """A dask client that reports finished items; everything else is passed on."""

    def __init__(self, client: Any, count: Count) -> None:
        self._client, self._count = client, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def map(self, function: Callable[..., Any], items: Any, **kwargs: Any) -> Any:
        items = list(items)
        futures = self._client.map(function, items, **kwargs)
        for future, item in zip(futures, items, strict=True):
            work = item[0] if isinstance(item, tuple) and not isinstance(item, WorkItem) else item
            if isinstance(work, WorkItem):
                future.add_done_callback(lambda _, work=work: self._count(work))
        return futures


@contextlib.contextmanager
def open_executor(
    name: ExecutorName = "iterative",
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    client: Any = None,
) -> Iterator[ExecutorFactory]:
    """Start workers, and stop them at the end.

    Args:
        name: ``iterative`` (this process), ``futures`` (local processes through loky) or ``dask``.
        workers: Number of local processes; default: one per core. Each computes on one thread.
        scheduler: Address of a running dask scheduler (``tcp://host:8786``); then no local workers are started.
        client: A ``distributed.Client`` of your own instead.

    Yields:
        A function that builds a coffea executor; deterministic errors are not retried.
    """
    workers = workers or os.cpu_count() or 1
    if name == "iterative":
        yield lambda count: SilentIterativeExecutor(count=count, retries=0)
    elif name == "futures":
        import loky

        pool = loky.ProcessPoolExecutor(max_workers=workers)
        try:
            yield lambda count: SilentFuturesExecutor(pool=CountingPool(pool, count), workers=workers, retries=0)
        finally:
            pool.shutdown(wait=True, kill_workers=True)
    elif name == "dask":
        with contextlib.ExitStack() as stack:
            if client is None:
                client = stack.enter_context(_dask_client(workers, scheduler))
            yield lambda count: DaskExecutor(client=CountingClient(client, count), status=False, retries=0)
    else:
        raise ValueError(f"unknown executor {name!r}; known are iterative, futures, dask")


@contextlib.contextmanager
def _dask_client(workers: int, scheduler: str | None) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if scheduler is not None:
        with Client(scheduler) as client:
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
