"""A look into every file before the first event: tree, number of events, layout, branches, weights, copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import uproot

from hepcal.errors import (
    DuplicatedFilesWarning,
    FilesetError,
    MissingFieldError,
    NormalisationWarning,
    ReadError,
    SchemaError,
    warn,
)
from hepcal.events import schemas
from hepcal.events.filesets import Dataset, Fileset
from hepcal.progress import Progress, say

__all__ = ["FileInfo", "Inspection", "Skipped", "copies", "inspect"]

# What the Runs tree of NanoAOD holds, by the names of its versions.
SUMS_OF_WEIGHTS, EVENTS_GENERATED = ("genEventSumw", "genEventSumw_"), ("genEventCount", "genEventCount_")


@dataclass(frozen=True, slots=True)
class Generated:
    """What NanoAOD keeps of the events that were generated for a file.

    Attributes:
        events: Their number (``Runs/genEventCount``), None where only the sum is kept.
        sum_of_weights: Sum of their weights (``Runs/genEventSumw``).
    """

    events: int | None
    sum_of_weights: float


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What inspection found in one file.

    Attributes:
        generated: Number of events and sum of their weights when they were generated, before any skim, from the
            ``Runs`` tree of NanoAOD; None where a file does not say.
    """

    path: str
    dataset: str
    tree: str
    entries: int
    uuid: str
    schema: schemas.Schema
    branches: frozenset[str]
    generated: Generated | None = None

    @property
    def weighted(self) -> bool:
        """Whether the file has generator weights, as :func:`hepcal.events.schemas.event_weight` reads them."""
        return self.schema.weight in {name.rsplit("/", 1)[-1] for name in self.branches}

    @property
    def simulation(self) -> bool:
        """Whether the file has particle-level jets, as :func:`hepcal.events.schemas.is_simulation` says of events."""
        return any(not self.schema.missing(self.branches, jets, ("pt",)) for jets in schemas.TRUTH_JETS)

    def require(self, collection: str, fields: Sequence[str]) -> None:
        """Refuse a file that lacks fields of a collection.

        Raises:
            MissingFieldError: Names the file and the branches.
        """
        if missing := self.schema.missing(self.branches, collection, fields):
            raise MissingFieldError(
                f"{self.path}: tree {self.tree!r} lacks the branches {', '.join(missing)} "
                f"that the {collection} inputs need"
            )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left out because the user allowed it."""

    path: str
    reason: str


# Usable files in fileset order, and the ones left out.
Inspection = tuple[tuple[FileInfo, ...], tuple[Skipped, ...]]


def inspect(
    fileset: Fileset,
    fields: Mapping[str, Sequence[str]] | None = None,
    *,
    allow_skipped: bool = False,
    show: bool = True,
) -> Inspection:
    """Open every file once: tree, number of events, schema, and whether the fields that will be read are there.

    Args:
        fileset: Checked fileset.
        fields: Needed fields by collection, e.g. ``{"Jet": ("pt", "eta")}``.
        allow_skipped: Leave out files that cannot be used instead of raising.
        show: Report progress.

    Returns:
        Usable files in fileset order, and the ones left out.

    Raises:
        ReadError: Files cannot be read, or lack their tree, schema or a branch; all of them are named.
        FilesetError: A data set mixes simulation and collision data, or files with and without generator weights.
    """
    good, bad = [], []
    with Progress("Inspecting", len(fileset.paths), "files", show=show and len(fileset.paths) > 1) as bar:
        for dataset in fileset.datasets:
            for path in dataset.files:
                try:
                    good.append(_inspect_file(dataset, path, fields or {}))
                except (ReadError, SchemaError, MissingFieldError) as error:
                    bad.append(Skipped(path, str(error)))
                bar.advance(1)
    if bad and not (allow_skipped and good):
        raise ReadError(
            f"{len(bad)} of {len(fileset.paths)} files cannot be used:\n"
            + "\n".join(f"  - {skipped.reason}" for skipped in bad)
        )
    for skipped in bad:
        say(f"skipped: {skipped.reason}")
    for dataset in fileset.datasets:
        _require_one_kind(dataset.name, [info for info in good if info.dataset == dataset.name])
    _warn_of_copies(good)
    return tuple(good), tuple(bad)


def _require_one_kind(dataset: str, files: Sequence[FileInfo]) -> None:
    """Refuse a data set whose files cannot be weighted alike, and warn if simulation has no weights."""
    kinds = {info.simulation: info.path for info in files}
    if len(kinds) > 1:
        raise FilesetError(
            f"data set {dataset!r} mixes simulation ({kinds[True]}) and collision data without GenJet "
            f"({kinds[False]}): make them two data sets"
        )
    events = [info for info in files if info.simulation and info.entries]
    weighted = {info.weighted: info for info in events}
    if len(weighted) > 1:
        raise FilesetError(
            f"data set {dataset!r}: {weighted[False].path} has no weights (branch {weighted[False].schema.weight}), "
            f"{weighted[True].path} has: events without one would count as 1 beside weights of any size. Use files "
            "that keep the branch, or make them two data sets with a cross_section each"
        )
    if False in weighted:
        warn(
            f"data set {dataset!r} has no weights (branch {weighted[False].schema.weight}): every event counts as 1",
            NormalisationWarning,
        )


def copies(files: Iterable[FileInfo]) -> list[list[str]]:
    """Paths of files that have the same UUID: they seem to hold the same events, in one data set or in several."""
    alike: dict[str, list[str]] = {}
    for info in files:
        if int(info.uuid, 16):  # some programs write none
            alike.setdefault(info.uuid, []).append(info.path)
    return [paths for paths in alike.values() if len(paths) > 1]


def _warn_of_copies(files: Iterable[FileInfo]) -> None:
    entries = {info.path: info.entries for info in files}
    for first, *others in copies(files):
        for other in others:
            number = "different numbers of" if entries[first] != entries[other] else str(entries[first])
            warn(
                f"{other} seems to be a copy of {first} (the same UUID, {number} events): events that are in "
                "both count twice; keep one of them",
                DuplicatedFilesWarning,
            )


@lru_cache(maxsize=64)
def _shared(branches: frozenset[str]) -> frozenset[str]:
    """One object for equal sets: thousands of files of a data set have the same thousands of branches."""
    return branches


def _inspect_file(dataset: Dataset, path: str, fields: Mapping[str, Sequence[str]]) -> FileInfo:
    try:
        with uproot.open({path: None}) as file:
            name, tree = _tree(file, dataset, path)
            size, promised = file.file.source.num_bytes, file.file.fEND
            if size is not None and size < promised:
                raise ReadError(
                    f"{path}: cannot be read as a ROOT file (truncated: {size} of {promised} bytes); copy it again"
                )
            branches, entries, uuid = tree.keys(), int(tree.num_entries), file.file.fUUID.hex()
            generated = _generated(file, name)
    except ReadError:
        raise
    except Exception as error:  # uproot raises many kinds for damaged files, none of them documented
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ReadError(f"{path}: cannot be read as a ROOT file ({type(error).__name__}: {reason})") from error
    _require_expected(dataset, path, entries, uuid)
    declared = dataset.metadata.get("schema")
    schema = schemas.SCHEMAS[declared] if declared else schemas.detect(path, name.partition(";")[0], branches)
    info = FileInfo(path, dataset.name, name, entries, uuid, schema, _shared(frozenset(branches)), generated)
    for collection, names in fields.items():
        info.require(collection, names)
    return info


def _tree(file: Any, dataset: Dataset, path: str) -> tuple[str, Any]:
    """Name of the event tree, with a cycle (``Events;1``) where the fileset has one, and the tree."""
    wanted = dataset.files[path]
    cycles = file.keys(recursive=True)
    keys = [key.split(";")[0] for key in cycles]
    candidates = [wanted] if wanted else list(dict.fromkeys(schema.tree for schema in schemas.SCHEMAS.values()))
    names = [candidate.strip("/") for candidate in candidates]
    name = next((name for name in names if name in keys or name in cycles), None)
    if name is None or not hasattr(file[name], "num_entries"):
        raise ReadError(
            f"{path}: no tree {' or '.join(map(repr, candidates))} (data set {dataset.name!r}); "
            f"the file holds {', '.join(sorted(set(keys))[:8]) or 'nothing'}"
        )
    return name, file[name]


def _require_expected(dataset: Dataset, path: str, entries: int, uuid: str) -> None:
    """Refuse a file that is not the one that a preprocessed fileset means."""
    expected = dataset.expected.get(path)
    if expected is None:
        return
    for what, said, found in (("num_entries", expected.entries, entries), ("uuid", expected.uuid, uuid)):
        if said is not None and said != found:
            raise ReadError(
                f"{path}: the fileset says {what} {said}, the file has {found}: it was changed after the fileset was "
                "preprocessed; do that again, or leave num_entries, steps and uuid out"
            )


def _generated(file: Any, tree: str) -> Generated | None:
    """What a NanoAOD file says of the events before any skim, beside its tree; None where it does not."""
    folder = tree.rpartition("/")[0]
    runs = file.get(f"{folder}/Runs" if folder else "Runs")
    if not hasattr(runs, "num_entries"):
        return None
    sums, counts = (
        next((runs[name].array(library="np") for name in names if name in runs), None)
        for names in (SUMS_OF_WEIGHTS, EVENTS_GENERATED)
    )
    if sums is None:
        return None
    return Generated(None if counts is None else int(counts.sum()), float(sums.sum(dtype="float64")))
