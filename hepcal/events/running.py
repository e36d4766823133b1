"""Run a coffea processor over a fileset and prove that every planned event was processed.

coffea's ``skipbadfiles`` is never used: it drops a chunk on any OSError, wherever it was raised, and says so only in
the worker's log. Here files are inspected first, the chunks processed are compared with the chunks planned, and a
file is left out only when asked, whole, with its name and reason in the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from coffea.processor import Runner
from coffea.processor.executor import WorkItem

from hepcal.errors import ExecutorError, IncompleteRunError, ReadError
from hepcal.events.executors import ChunkError, ExecutorFactory
from hepcal.events.filesets import Fileset
from hepcal.events.inspection import FileInfo, Inspection, Skipped, inspect
from hepcal.events.upstream import file_of
from hepcal.progress import Progress, say

__all__ = ["FileInfo", "Inspection", "NothingLeftError", "Run", "Skipped", "inspect", "run"]

DEFAULT_CHUNKSIZE = 100_000


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a complete run.

    Attributes:
        output: What the processor returned, accumulated over all chunks.
        files: The files read, in fileset order.
        events: Number of events read.
        skipped: Files left out (only with ``allow_skipped``).
    """

    output: Any
    files: tuple[FileInfo, ...]
    events: int
    skipped: tuple[Skipped, ...]


def run(
    fileset: Fileset,
    processor: Any,
    executor: ExecutorFactory,
    *,
    title: str = "Running",
    fields: Mapping[str, Sequence[str]] | None = None,
    chunksize: int = DEFAULT_CHUNKSIZE,
    allow_skipped: bool = False,
    show: bool = True,
    inspected: Inspection | None = None,
) -> Run:
    """Process all events of a fileset, or fail naming the file and the reason.

    Args:
        fileset: Checked fileset; data sets of different schemas may be mixed.
        processor: A coffea ``ProcessorABC``; ``postprocess`` is applied once, to the output of all data sets.
        executor: From :func:`hepcal.events.executors.open_executor`.
        title: Title of the progress report.
        fields: Fields that will be read, by collection; checked in every file before the first event.
        chunksize: Events per chunk. Results do not depend on it.
        allow_skipped: Leave out files that fail, whole, and report them.
        show: Report progress.
        inspected: Result of :func:`inspect` for this fileset and these fields, if it was called before.

    Raises:
        ExecutorError: ``chunksize`` is no positive integer.
        ReadError: Before the first event, if files cannot be used.
        IncompleteRunError: A chunk failed, or the chunks processed are not the chunks planned.
    """
    require_chunksize(chunksize)
    files, skipped = inspected or inspect(fileset, fields, allow_skipped=allow_skipped, show=show)
    failed: dict[str, str] = {}
    while True:
        kept = tuple(info for info in files if info.path not in failed)
        if not kept:
            raise NothingLeftError(failed)
        try:
            output = _run_once(fileset, kept, processor, executor, title, chunksize, show)
            break
        except ChunkError as failure:
            if not allow_skipped:
                raise IncompleteRunError(str(failure)) from failure.__cause__
            say(f"skipped: {failure}; starting again without this file")
            failed[failure.path] = str(failure)
    skipped += tuple(Skipped(path, reason) for path, reason in failed.items())
    return Run(output, kept, sum(info.entries for info in kept), skipped)


class NothingLeftError(IncompleteRunError):
    """Every file was left out.

    Attributes:
        reasons: Why, by path.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("no file is left to process:\n" + "\n".join(reasons.values()))
        self.reasons = dict(reasons)


def require_chunksize(chunksize: Any) -> None:
    """Refuse chunks of no events.

    Raises:
        ExecutorError: It is no positive integer.
    """
    if isinstance(chunksize, bool) or not isinstance(chunksize, int | np.integer) or chunksize < 1:
        raise ExecutorError(f"chunksize is a number of events, at least 1, not {chunksize!r}")


def _run_once(
    fileset: Fileset,
    files: tuple[FileInfo, ...],
    processor: Any,
    executor: ExecutorFactory,
    title: str,
    chunksize: int,
    show: bool,
) -> Any:
    from coffea.processor import accumulate

    metadata = {dataset.name: dict(dataset.metadata) for dataset in fileset.datasets}
    outputs = []
    with Progress(title, sum(info.entries for info in files), "events", show=show) as bar:
        count = executor(lambda item: bar.advance(item.entrystop - item.entrystart))
        for schema in dict.fromkeys(info.schema for info in files):
            group = [info for info in files if info.schema == schema]
            runner = Runner(executor=count, schema=schema.coffea, chunksize=chunksize, metadata_cache={})
            plan = _plan(group, metadata, chunksize)
            try:
                result = runner.run(plan, _Unfinished(processor))
            except (ChunkError, ExecutorError):
                raise
            except Exception as error:  # a worker that dies does not tell of which chunk
                raise IncompleteRunError(f"a chunk: {_innermost(error)}") from error
            _require_complete(plan, result["processed"])
            outputs.append(result["out"])
    return processor.postprocess(accumulate(outputs))


class _Unfinished:
    """The ``process`` of a processor alone: coffea accepts a callable, and postprocess must wait for all schemas."""

    def __init__(self, processor: Any) -> None:
        self.process = processor.process

    def __call__(self, events: Any) -> Any:
        _require_planned(events)
        return self.process(events)


def _require_planned(events: Any) -> None:
    """Refuse a file that is not the one that was inspected; coffea reads whatever has its name, as far as it goes.

    Raises:
        ReadError: UUID or number of entries of the tree that was opened differ.
    """
    where, file = events.metadata, file_of(events)
    for what, planned, found in (
        ("events", where["numentries"], int(file[where["treename"]].num_entries)),
        ("UUID", where["fileuuid"], str(file.file.uuid)),
    ):
        if planned != found:
            raise ReadError(
                f"{where['filename']} was changed since it was inspected ({what}: {planned} then, {found} now): run "
                "again once nothing writes to it"
            )


def _plan(files: Sequence[FileInfo], metadata: Mapping[str, dict[str, Any]], chunksize: int) -> list[WorkItem]:
    """Chunks of nearly equal size, at most ``chunksize`` events each; an empty file is one empty chunk."""
    items = []
    for info in files:
        chunks = max(1, -(-info.entries // chunksize))
        edges = [info.entries * i // chunks for i in range(chunks + 1)]
        # What coffea itself calls the number of entries, for the worker to compare with.
        usermeta = {**metadata[info.dataset], "schema": info.schema.name, "numentries": info.entries}
        items += [
            WorkItem(info.dataset, info.path, info.tree, start, stop, bytes.fromhex(info.uuid), usermeta)
            for start, stop in itertools.pairwise(edges)
        ]
    return items


def _require_complete(plan: Sequence[WorkItem], processed: Any) -> None:
    def key(item: WorkItem) -> tuple[str, str, int, int]:
        return item.dataset, item.filename, item.entrystart, item.entrystop

    planned, done = {key(item) for item in plan}, {key(item) for item in processed}
    if done - planned:
        raise IncompleteRunError(f"chunks were processed that were not planned: {sorted(done - planned)[:5]}")
    if planned != done:
        lost = sorted(planned - done)
        listing = "\n".join(f"  - {name}: {path} [{start}:{stop}]" for name, path, start, stop in lost[:20])
        raise IncompleteRunError(
            f"{len(lost)} of {len(planned)} chunks were not processed "
            f"({sum(stop - start for _, _, start, stop in lost)} events):\n{listing}"
        )


def _innermost(error: BaseException) -> str:
    """The error that others were raised from."""
    seen = [error]
    while (cause := seen[-1].__cause__ or seen[-1].__context__) is not None and cause not in seen:
        seen.append(cause)
    return f"{type(seen[-1]).__name__}: {seen[-1]}"[:2000]
