"""Options of the command line: what is read, where, what is trained, and where the results go."""

from __future__ import annotations

from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hepcal.errors import PairsError
from hepcal.methods.registry import PRIOR_FREE, REGRESSIONS, broken, offered, titles

if TYPE_CHECKING:
    from hepcal.events.executors import ExecutorFactory

__all__ = [
    "WAIT",
    "AllowSkipped",
    "Chunksize",
    "Execution",
    "Executor",
    "ExecutorChoice",
    "FilesetArgument",
    "Jets",
    "KeepLeptons",
    "MethodChoice",
    "Output",
    "Scheduler",
    "Truth",
    "WorkerTimeout",
    "Workers",
    "opened",
    "TrainingCommand",
    "refuse_reading",
]

# hepcal.events.executors.WORKER_TIMEOUT, which loads coffea.
WAIT = 300.0


# Text, since a URL is no path.
FilesetArgument = Annotated[
    str,
    typer.Argument(
        help="Fileset: JSON or YAML of coffea, {dataset: {'files': {path: tree}}}, a list of paths (.txt), a ROOT file "
        "or a pattern of ROOT files in quotes."
    ),
]
Jets = Annotated[str, typer.Option(help="Detector-level jets: Jet, FatJet.")]
Truth = Annotated[
    str, typer.Option(help="Their truth: particle-level jets (GenJet, GenFatJet, GenJetAK8), or 'Particle[0]'.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Directory for the results.")]
Chunksize = Annotated[int, typer.Option(min=1, help="Events per chunk; results do not depend on it.")]
KeepLeptons = Annotated[bool, typer.Option("--keep-leptons", help="Take truth jets that are prompt leptons, too.")]
# Maps of simulation to data are trained in Python.
OFFERED = offered()
MethodChoice = StrEnum("MethodChoice", {name: name for name in OFFERED})  # type: ignore[misc]
AllowSkipped = Annotated[bool, typer.Option("--allow-skipped", help="Leave out files that fail, whole, and list them.")]


class TrainingCommand(typer.core.TyperCommand):
    """Lists the methods, where help is asked for."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Methods by what they depend on, those of other distributions last."""
        from rich.markup import escape

        known, faulty = titles(), broken()
        others = [name for name in OFFERED if name not in {**REGRESSIONS, **PRIOR_FREE, **faulty}]
        kinds = {
            "Regressions of the truth, which follow the truth spectrum of the training": REGRESSIONS,
            "Calibrations that do not depend on the truth spectrum": PRIOR_FREE,
            "Of other packages": others,
        }
        texts = {kind: {name: known[name] for name in names} for kind, names in kinds.items()}
        texts["Of other packages, and broken"] = faulty
        lists = [
            "\n".join([f"{kind}:\n", *(f"- {name}: {escape(text)}" for name, text in found.items())])
            for kind, found in texts.items()
            if found
        ]
        self.help = "\n\n".join([self.help or "", *lists])
        super().format_help(ctx, formatter)


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
# Executor, workers, scheduler and time to wait for workers, as of the command line.
Execution = tuple[ExecutorChoice | None, int | None, str | None, float]


# What only matters where events are read.
READING = ("jets", "truth", "keep_leptons", "executor", "workers", "scheduler", "worker_timeout", "allow_skipped")


def refuse_reading(context: typer.Context, table: Path) -> None:
    """Refuse options of the reading of events beside a table, whose events were read before: they would do nothing.

    Raises:
        PairsError: There are some; names them.
    """
    sources = {name: context.get_parameter_source(name) for name in READING}
    given = [f"--{name.replace('_', '-')}" for name, found in sources.items() if found and found.name == "COMMANDLINE"]
    if given:
        raise PairsError(
            f"{table} is a training table, whose events were read before, by 'hepcal pairs': {', '.join(given)} would "
            "do nothing. Leave it out, or give the fileset"
        )


def opened(
    executor: ExecutorChoice | None, workers: int | None, scheduler: str | None, timeout: float
) -> AbstractContextManager[ExecutorFactory]:
    """The executor that was asked for; a scheduler alone asks for dask."""
    from hepcal.events.executors import open_executor

    chosen: Literal["iterative", "futures", "dask"] = "futures" if scheduler is None else "dask"
    name = chosen if executor is None else executor.value
    return open_executor(name, workers=workers, scheduler=scheduler, timeout=timeout)
