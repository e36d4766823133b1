"""Progress on standard error: bars for a person at a terminal, plain lines in a batch log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

__all__ = ["Progress", "say", "step"]

LINE_EVERY_S = 30.0


def say(line: str) -> None:
    """Print one line on standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def step(title: str, *, show: bool = True) -> Iterator[None]:
    """Announce a step that has no countable parts, with a spinner at a terminal, and its duration at the end."""
    begin = time.monotonic()
    if not show:
        yield
        return
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(title):
            yield
    else:
        say(f"{title} ...")
        yield
    say(f"{title}: done in {time.monotonic() - begin:.1f} s")


class Progress:
    """Counts a known amount of work: ``with Progress("Training", 1000, "updates") as bar: bar.advance(1)``.

    At a terminal it is a bar with the rate and the time left; otherwise a line at the start, one at most every
    30 s, and one at the end. ``note`` is a short text shown beside the count.
    """

    def __init__(self, title: str, total: int, unit: str, *, show: bool = True) -> None:
        self.title, self.total, self.unit, self.show = title, total, unit, show
        self.done = 0
        self._note = ""
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._begin = self._last = time.monotonic()
        if not self.show:
            return self
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        else:
            say(f"{self.title}: {self.total} {self.unit}")
        return self

    def advance(self, amount: int, note: str = "") -> None:
        """Count ``amount`` more units."""
        self.done += amount
        self._note = note or self._note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._note)
        elif self.show and time.monotonic() - self._last > LINE_EVERY_S:
            self._last = time.monotonic()
            say(f"{self.title}: {self.done} of {self.total} {self.unit} {self._note}".rstrip())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self.show:
            how = "stopped" if kind else "done"
            line = f"{self.title}: {how} after {self.done} {self.unit} in {time.monotonic() - self._begin:.1f} s"
            say(f"{line} {self._note}".rstrip())
