"""What the command line prints: results, scores, tables and calibrators, for people."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from hepcal.errors import HepcalWarning
from hepcal.progress import say

if TYPE_CHECKING:
    from rich.console import Console

    from hepcal.closure.records import Summary
    from hepcal.evaluation.diagnostics import Diagnosis
    from hepcal.methods.calibrator import Calibrator
    from hepcal.tables.pairs import JetPairs

__all__ = ["print_card", "print_closure", "print_pairs", "print_scores", "warnings_printed"]


def _console() -> Console:
    from rich.console import Console

    # Names in files are text, whatever brackets they hold.
    console = Console(markup=False)
    return console if console.is_terminal else Console(width=160, markup=False)


def print_closure(summary: Summary, title: str = "") -> None:
    """The closure tables of a run, and what is to be known about them."""
    from hepcal.closure import results

    for table in results.closure_tables(summary, title):
        _console().print(table)
    for note in results.notes(summary):
        typer.echo(note)


def print_scores(found: Mapping[str, Diagnosis]) -> None:
    """The scores of calibrators by name."""
    from hepcal.closure import results

    for name, diagnosis in found.items():
        _console().print(results.scores_table(name, diagnosis))


def print_pairs(table: JetPairs) -> None:
    """What is in a training table."""
    from hepcal.closure import results

    _console().print(results.rows_table("Training table", results.describe_pairs(table)))


def print_card(calibrator: Calibrator) -> None:
    """What is in a calibrator."""
    from hepcal.closure import results

    _console().print(results.rows_table("Calibrator", results.describe_card(calibrator)))


@contextmanager
def warnings_printed() -> Iterator[None]:
    """Print each warning of ours once, without the line of code, whatever the filters; others go their way."""
    others, printed = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, HepcalWarning):
            others(message, category, *where, **more)
        elif (text := str(message)) not in printed:
            printed.add(text)
            say(f"WARNING: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", HepcalWarning)
        warnings.showwarning = show
        yield
