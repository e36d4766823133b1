"""From events to a saved table, some files at a time: memory is that of the largest file, not of the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from coffea.processor import accumulate

from hepcal.errors import IncompleteRunError
from hepcal.events.features import Features
from hepcal.events.normalisation import say_normalisation
from hepcal.events.running import FileInfo, Inspection, NothingLeftError, Run, Skipped
from hepcal.tables.files import TableWriter
from hepcal.tables.from_events import COLUMNS, COUNTED, columns_of, source_of, weight_factors
from hepcal.tables.reading import Reading

__all__ = ["write_rows"]

# Rows that are in memory together, unless one file has more, and chunks that they come in, for the workers.
GROUP_BYTES = 256 * 2**20
CHUNKS_PER_GROUP, LEAST_EVENTS = 16, 1000
# Rows per event at most, and bytes of a row beside its features.
ROWS_PER_EVENT, OTHER_BYTES = 2, 24


def write_rows(reading: Reading, writer: TableWriter) -> tuple[Features, dict[str, Any]]:
    """Append the rows of a fileset to a table, in the order of files, events and truth p_T.

    Returns:
        The inputs with the defaults of the files' schema, and the provenance of the rows.

    Raises:
        PairsError: The files have different schemas.
        FilesetError: Weights of several data sets cannot be compared.
        ReadError: Files cannot be read.
        MissingFieldError: A file lacks a branch that the features need.
        IncompleteRunError: No file is left, or not every planned event was processed.
    """
    schema, spec, inspected = reading.inspected()
    counts: dict[str, Any] = defaultdict(int)
    sums: dict[str, float] = defaultdict(float)
    threshold: dict[str, Any] = {}
    leptons_by: set[str] = set()
    # Weights wait for the sums of weights of whole data sets.
    weights: list[tuple[str, np.ndarray]] = []
    files: list[FileInfo] = []
    skipped = list(inspected[1])
    for done in _runs(reading, spec, inspected):
        files += done.files
        skipped += done.skipped
        if not done.files:
            continue
        output = done.output
        weights += [(dataset, rows["weight"]) for _, (dataset, rows) in sorted(output["chunks"].items())]
        for name in COUNTED:
            counts[name] += output[name]
        for dataset, total in output["sum_of_weights"].items():
            sums[dataset] += total
        threshold = accumulate([output["threshold"]], threshold)
        leptons_by |= output["leptons_by"]
        columns = columns_of(output, {})
        for name in COLUMNS:
            if name != "weight":
                writer.append(name, columns.pop(name))
    if not files:
        raise IncompleteRunError("no file is left to process:\n" + "\n".join(reason.reason for reason in skipped))
    factors = weight_factors(sums, files, reading.fileset)
    for dataset, weight in weights:
        writer.append("weight", weight * (factors[dataset].factor if dataset in factors else 1.0))
    found = {**counts, "threshold": threshold, "leptons_by": leptons_by}
    everything = Run(found, tuple(files), sum(f.entries for f in files), tuple(skipped))
    say_normalisation(factors if reading.show else {})
    return spec, source_of(everything, schema, reading.selection, factors)


def _runs(reading: Reading, spec: Features, inspected: Inspection) -> Iterator[Run]:
    """One run after another over some of the files; a run without files is one whose files were all left out."""
    at_once = max(1, GROUP_BYTES // (ROWS_PER_EVENT * (4 * spec.width + OTHER_BYTES)))
    groups = _groups(inspected[0], at_once)
    chunksize = min(reading.chunksize, max(LEAST_EVENTS, at_once // CHUNKS_PER_GROUP))
    for number, group in enumerate(groups, start=1):
        title = "Reading jets" if len(groups) == 1 else f"Reading jets, part {number} of {len(groups)}"
        try:
            yield reading.run(spec, (group, ()), title, chunksize)
        except NothingLeftError as error:
            yield Run({}, (), 0, tuple(Skipped(path, reason) for path, reason in error.reasons.items()))


def _groups(files: tuple[FileInfo, ...], events: int) -> list[tuple[FileInfo, ...]]:
    """Files in order, cut where there are so many events."""
    groups: list[list[FileInfo]] = []
    held = 0
    for info in files:
        if not groups or held + info.entries > events:
            groups.append([])
            held = 0
        groups[-1].append(info)
        held += info.entries
    return [tuple(group) for group in groups]
