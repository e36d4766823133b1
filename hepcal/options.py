"""Options of the command line that say where events are read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hepcal.executors import ExecutorFactory

__all__ = ["WAIT", "Executor", "ExecutorChoice", "Scheduler", "WorkerTimeout", "Workers", "opened"]

# hepcal.executors.WORKER_TIMEOUT, which loads coffea.
WAIT = 300.0


class ExecutorChoice(StrEnum):
    """How to run."""

    iterative = "iterative"
    futures = "futures"
    dask = "dask"


Executor = Annotated[
    ExecutorChoice | None,
    typer.Option(
        help="Where events are read: this process, local processes, or dask workers; default: futures, or dask with "
        "--scheduler."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Local processes; default: one per core that this process may use.")
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a running dask scheduler, tcp://host:port; its workers read the events.")
]
WorkerTimeout = Annotated[
    float, typer.Option(min=1, help="Seconds for which a dask cluster may be without workers before this is an error.")
]


def opened(
    executor: ExecutorChoice | None, workers: int | None, scheduler: str | None, timeout: float
) -> AbstractContextManager[ExecutorFactory]:
    """The executor that was asked for; a scheduler alone asks for dask."""
    from hepcal.executors import open_executor

    chosen: Literal["iterative", "futures", "dask"] = "futures" if scheduler is None else "dask"
    name = chosen if executor is None else executor.value
    return open_executor(name, workers=workers, scheduler=scheduler, timeout=timeout)
