"""Filesets: which files make up which data set, in coffea's JSON format, checked before anything runs."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hepcal.documents import parse_json
from hepcal.errors import FilesetError

__all__ = ["Dataset", "Fileset", "load_fileset"]

# Names that coffea puts into ``events.metadata`` itself.
RESERVED_METADATA = frozenset(
    {
        "dataset",
        "filename",
        "treename",
        "metadata",
        "entrystart",
        "entrystop",
        "fileuuid",
        "numentries",
        "uuid",
        "clusters",
        "preload",
    }
)
DATASET_KEYS = frozenset({"files", "metadata", "treename"})
SCHEMAS = ("nanoaod", "pfnano", "delphes")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One data set: its files with the tree to read from each, and what is known about it.

    ``files`` maps a path or URL to a tree name; None means that the tree is found by looking (``Events`` or
    ``Delphes``). ``metadata`` is passed to processors unchanged; hepcal reads ``schema`` (``nanoaod``,
    ``pfnano`` or ``delphes``) and ``cross_section`` [pb] from it.
    """

    name: str
    files: Mapping[str, str | None]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fileset:
    """A checked collection of data sets, in the order of the JSON file."""

    datasets: tuple[Dataset, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """All files, data set by data set."""
        return tuple(path for dataset in self.datasets for path in dataset.files)

    def without(self, paths: set[str]) -> Fileset:
        """The same fileset without the given files; data sets left empty disappear."""
        kept = (
            Dataset(d.name, {p: t for p, t in d.files.items() if p not in paths}, d.metadata) for d in self.datasets
        )
        return Fileset(tuple(dataset for dataset in kept if dataset.files))


def load_fileset(source: str | Path | Mapping[str, Any] | Fileset) -> Fileset:
    """Read and check a fileset.

    Args:
        source: Path of a JSON file in coffea's format
            ``{dataset: {"files": {path: tree} or [path, ...], "metadata": {...}}}``, or that mapping itself.
            Paths may hold wildcards and are taken relative to the JSON file (to the working directory for a mapping).

    Returns:
        The fileset with wildcards expanded in sorted order.

    Raises:
        FilesetError: The JSON cannot be read, a key is unknown or misspelt, a metadata name is reserved, a file is
            missing or listed twice, or a wildcard matches nothing. All faults are listed in one message.
    """
    if isinstance(source, Fileset):
        return source
    if isinstance(source, Mapping):
        return _check(source, Path(), "fileset")
    if not isinstance(source, str | Path):
        raise FilesetError(f"a fileset is a path or {{dataset: {{'files': ...}}}}, found {type(source).__name__}")
    path = Path(source)
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise FilesetError(f"cannot read the fileset {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FilesetError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise FilesetError(f"{path} holds a {type(content).__name__}; expected {{dataset: {{'files': ...}}}}")
    return _check(content, path.parent, str(path))


def _check(content: Mapping[str, Any], base: Path, where: str) -> Fileset:
    faults: list[str] = []
    datasets = []
    for name, entry in content.items():
        if isinstance(entry, list | str | Path):
            entry = {"files": entry if isinstance(entry, list) else [entry]}
        if not isinstance(entry, Mapping) or "files" not in entry:
            keys = f" (it has {', '.join(map(str, entry))})" if isinstance(entry, Mapping) else ""
            faults.append(f"data set {name!r} has no 'files'{keys}")
            continue
        faults += [
            f"data set {name!r} has the unknown key {key!r}; known are {', '.join(sorted(DATASET_KEYS))}"
            for key in entry
            if key not in DATASET_KEYS
        ]
        metadata = entry.get("metadata") or {}
        faults += _metadata_faults(name, metadata)
        files, missing = _expand(entry["files"], entry.get("treename"), base)
        faults += [f"data set {name!r}: {fault}" for fault in missing]
        if not files and not missing:
            faults.append(f"data set {name!r} lists no files")
        datasets.append(Dataset(name, dict(files), metadata if isinstance(metadata, Mapping) else {}))
        faults += [f"data set {name!r} lists {path} twice" for path in _repeated([_identity(p) for p, _ in files])]
    faults += _shared_files(datasets)
    if not content:
        faults.append("it names no data set")
    if faults:
        raise FilesetError(f"{where} cannot be used:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return Fileset(tuple(datasets))


def _metadata_faults(name: str, metadata: object) -> list[str]:
    if not isinstance(metadata, Mapping):
        return [f"data set {name!r}: metadata must be an object, found {type(metadata).__name__}"]
    faults = [
        f"data set {name!r}: the metadata name {key!r} is reserved by coffea; rename it"
        for key in metadata
        if key in RESERVED_METADATA
    ]
    schema = metadata.get("schema")
    if schema is not None and schema not in SCHEMAS:
        faults.append(f"data set {name!r}: unknown schema {schema!r}; known are {', '.join(SCHEMAS)}")
    cross_section = metadata.get("cross_section")
    if cross_section is not None and not _positive(cross_section):
        faults.append(f"data set {name!r}: cross_section must be a positive number [pb], found {cross_section!r}")
    return faults


def _positive(value: object) -> bool:
    # An integer may be beyond what a number of 64 bits can be.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _expand(files: object, treename: str | None, base: Path) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Wildcards to paths; returns (path, tree) in order, repeats included, and the faults found."""
    if isinstance(files, Mapping):
        entries = list(files.items())
    elif isinstance(files, list):
        entries = [(str(path) if isinstance(path, Path) else path, treename) for path in files]
    else:
        return [], [f"'files' must be {{path: tree}} or [path, ...], found {type(files).__name__}"]
    found: list[tuple[str, str | None]] = []
    faults = []
    for path, tree in entries:
        if not isinstance(path, str) or not (tree is None or isinstance(tree, str)):
            faults.append(f"expected a path and a tree name, found {path!r}: {tree!r}")
            continue
        if "://" in path:
            found.append((path, tree))
            continue
        path = os.path.expanduser(path)  # noqa: PTH111
        full = _absolute(base / path)
        if _is_file(Path(full)):
            found.append((full, tree))
        elif glob.has_magic(path):
            found_here = glob.glob(path, root_dir=base, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute ones
            matches = sorted(_absolute(base / match) for match in found_here if _is_file(base / match))
            faults += [] if matches else [f"no file matches {full}"]
            found += [(match, tree) for match in matches]
        else:
            faults.append(f"no such file: {full}")
    return found, faults


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _absolute(path: Path) -> str:
    """Workers may run in another directory; symbolic links stay as they are."""
    return os.path.abspath(path)  # noqa: PTH100


def _identity(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _shared_files(datasets: list[Dataset]) -> list[str]:
    owner: dict[str, str] = {}
    faults = []
    for dataset in datasets:
        for path in dataset.files:
            first = owner.setdefault(_identity(path), dataset.name)
            if first != dataset.name:
                faults.append(f"{path} is in data set {first!r} and in {dataset.name!r}: its events would count twice")
    return faults
