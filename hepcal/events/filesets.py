"""Filesets: which files make up which data set, in coffea's JSON format, checked before anything runs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hepcal.errors import FilesetError, NormalisationWarning, warn
from hepcal.events.fileset_sources import named, read_source
from hepcal.events.filespecs import Expected, FileSpecError, plain, read_spec
from hepcal.events.schemas import SCHEMAS, own_name
from hepcal.events.wildcards import expand, has_wildcard

__all__ = ["FILE_WEIGHTS", "Dataset", "Fileset", "load_fileset"]

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
# What coffea's preprocessing adds to a data set says how its branches look, which is looked up anew here.
DESCRIPTIONS = frozenset({"format", "form", "compressed_form", "did"})
DATASET_KEYS = frozenset({"files", "metadata", "treename"})
# In place of a cross section: the data sets count by the weights in their files.
FILE_WEIGHTS = "file weights"
# Names that people give to a cross section, or to a factor on it, once letters other than a to z are gone.
CROSS_SECTION_LIKE = re.compile(
    r"(n*lo)?(xs|xsecs?|xsects?|xsections?|crosssec|crosssections?)(n*lo)?(tev)?(in)?([pfnm]b)?|sigma(in)?[pfnm]b"
)
FACTOR_LIKE = re.compile(
    r"kfactors?|(filter|gen|matching)eff(iciency)?|br|branching(ratio|fraction)|sum(of)?(gen)?w(eights?)?"
)


@dataclass(frozen=True, slots=True)
class Dataset:
    """One data set: its files with the tree to read from each, and what is known about it.

    ``files`` maps a path or URL to a tree name; None means that the tree is found by looking (``Events`` or
    ``Delphes``). ``metadata`` is passed to processors unchanged, but for the names of coffea's schemas, which become
    ours; hepcal reads ``schema`` (``nanoaod``, ``pfnano`` or ``delphes``) and ``cross_section`` from it, a number [pb],
    or ``"file weights"`` to mix data sets by the weights in their files. ``expected`` is what a preprocessed fileset
    says of some of the files.
    """

    name: str
    files: Mapping[str, str | None]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)

    @property
    def cross_section(self) -> float | None:
        """Cross section [pb], if it is given."""
        given = self.metadata.get("cross_section")
        return None if given is None or given == FILE_WEIGHTS else float(given)

    @property
    def mixes_by_file_weights(self) -> bool:
        """Whether the metadata say that weights of the files are those of the data set among others."""
        return bool(self.metadata.get("cross_section") == FILE_WEIGHTS)


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
        kept = (replace(d, files={p: t for p, t in d.files.items() if p not in paths}) for d in self.datasets)
        return Fileset(tuple(dataset for dataset in kept if dataset.files))


def load_fileset(source: str | Path | Sequence[str | Path] | Mapping[str, Any] | Fileset) -> Fileset:
    """Read and check a fileset.

    Args:
        source: Path of a JSON or YAML file in coffea's format
            ``{dataset: {"files": {path: tree} or [path, ...], "metadata": {...}}}``, or that mapping itself; output of
            coffea's preprocessing (``DataGroupSpec``, ``{"object_path": ..., "steps": ...}``) where its steps are whole
            files; a list of paths (``.txt``, ``.list``), a line each; all of these also compressed (``.gz``); a ROOT
            file, a pattern or a URL, or several in a list, which are a data set of the name that they have in common.
            Paths may hold wildcards and are taken relative to the file that lists them, else to the working directory.

    Returns:
        The fileset with wildcards expanded in sorted order.

    Raises:
        FilesetError: The source cannot be read, a key is unknown or misspelt, a metadata name is reserved or looks like
            a cross section that would not be read, a file is missing or listed twice under any name or link, or a
            wildcard matches nothing, or something that is no file or cannot be looked into. All faults are listed in
            one message.
    """
    if isinstance(source, Fileset):
        return source
    if isinstance(source, Mapping):
        return _check(source, Path(), "fileset")
    if hasattr(source, "model_dump"):
        raise FilesetError(f"a {type(source).__name__} is not a fileset: give the data set a name, {{name: ...}}")
    if isinstance(source, list | tuple) and source and all(isinstance(path, str | Path) for path in source):
        return _check(named(source), Path(), "the list of files")
    if not isinstance(source, str | Path):
        raise FilesetError(f"a fileset is a path or {{dataset: {{'files': ...}}}}, found {type(source).__name__}")
    return _check(*read_source(source))


def _check(content: Mapping[str, Any], base: Path, where: str) -> Fileset:
    faults: list[str] = []
    datasets = []
    for name, entry in content.items():
        if not isinstance(name, str):
            faults.append(f"the name of a data set is text, not {name!r}: put it in quotes")
            continue
        entry = plain(entry)
        if isinstance(entry, list | str | Path):
            entry = {"files": entry if isinstance(entry, list) else [entry]}
        if not isinstance(entry, Mapping) or "files" not in entry:
            keys = f" (it has {', '.join(map(str, entry))})" if isinstance(entry, Mapping) else ""
            faults.append(f"data set {name!r} has no 'files'{keys}")
            continue
        dataset, found = _dataset(name, entry, base)
        datasets.append(dataset)
        faults += [f"data set {name!r}{fault}" for fault in found]
    faults += _shared_files(datasets)
    if not content:
        faults.append("it names no data set")
    if faults:
        raise FilesetError(f"{where} cannot be used:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return Fileset(tuple(datasets))


def _dataset(name: str, entry: Mapping[str, Any], base: Path) -> tuple[Dataset, list[str]]:
    """One data set, and its faults as ends of sentences about it."""
    faults = [
        f" has the unknown key {key!r}; known are {', '.join(sorted(DATASET_KEYS))}"
        for key in entry
        if key not in DATASET_KEYS | DESCRIPTIONS
    ]
    if entry.get("format") not in (None, "root"):
        faults.append(f" has the format {entry['format']!r}: only ROOT files can be read")
    metadata = entry.get("metadata") or {}
    if isinstance(metadata, Mapping) and isinstance(schema := metadata.get("schema"), str):
        metadata = {**metadata, "schema": own_name(schema)}
    faults += [f": {fault}" for fault in _metadata_faults(name, metadata)]
    files, missing = _expand(entry["files"], entry.get("treename"), base)
    faults += [f": {fault}" for fault in missing]
    if not files and not missing:
        faults.append(" lists no files")
    faults += _repeated([path for path, _, _ in files])
    trees = {path: tree for path, tree, _ in files}
    expected = {path: said for path, _, said in files if said is not None}
    return Dataset(name, trees, metadata if isinstance(metadata, Mapping) else {}, expected), faults


def _metadata_faults(name: str, metadata: object) -> list[str]:
    if not isinstance(metadata, Mapping):
        return [f"metadata must be an object, found {type(metadata).__name__}"]
    faults = [
        f"the metadata name {key!r} is reserved by coffea; rename it" for key in metadata if key in RESERVED_METADATA
    ]
    schema = metadata.get("schema")
    if schema is not None and schema not in list(SCHEMAS):
        faults.append(f"unknown schema {schema!r}; known are {', '.join(SCHEMAS)}")
    cross_section = metadata.get("cross_section")
    if cross_section is None:
        faults += [
            f"the metadata name {key!r} looks like a cross section, but only 'cross_section' [pb] is read: rename it, "
            f"or add 'cross_section', a number or {FILE_WEIGHTS!r}"
            for key in _alike(metadata, CROSS_SECTION_LIKE)
        ]
    elif cross_section != FILE_WEIGHTS and not _positive(cross_section):
        faults.append(f"cross_section must be a positive number [pb] or {FILE_WEIGHTS!r}, found {cross_section!r}")
    elif factors := _alike(metadata, FACTOR_LIKE):
        warn(
            f"data set {name!r}: the metadata {', '.join(map(repr, factors))} are not read; what scales the cross "
            "section belongs into 'cross_section'",
            NormalisationWarning,
        )
    return faults


def _alike(metadata: Mapping[str, Any], pattern: re.Pattern[str]) -> list[str]:
    """Names of a kind, however they are written, and whatever words (``effective_xsec``) stand before."""
    found = []
    for key in metadata:
        words = re.findall("[A-Z]*[a-z]+|[A-Z]+", str(key))
        if any(pattern.fullmatch("".join(words[start:]).lower()) for start in range(len(words))):
            found.append(key)
    return found


def _positive(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf
    except OverflowError:  # an integer of hundreds of digits
        return False


# Path or URL, tree, and what is expected of the file.
_File = tuple[str, str | None, Expected | None]


def _expand(files: object, treename: str | None, base: Path) -> tuple[list[_File], list[str]]:
    """Wildcards to paths; returns files in order, repeats included, and the faults found."""
    files = plain(files)
    if isinstance(files, Mapping):
        entries = list(files.items())
    elif isinstance(files, list):
        entries = [(path, treename) for path in files]
    else:
        return [], [f"'files' must be {{path: tree}} or [path, ...], found {type(files).__name__}"]
    found: list[_File] = []
    faults = []
    for path, spec in entries:
        if not isinstance(path, str | Path):
            faults.append(f"expected a path and a tree name, found {path!r}: {spec!r}")
            continue
        try:
            tree, expected = read_spec(spec)
            paths, unusable = _paths(str(path), base)
            if expected is not None and (expected.entries, expected.uuid) != (None, None) and len(paths) > 1:
                unusable.append(f"{path} matches {len(paths)} files, and num_entries or uuid belong to one")
        except FileSpecError as error:
            faults.append(f"{str(path)!r}: {error}")
            continue
        faults += unusable
        found += [(each, tree, expected) for each in paths]
    return found, faults


def _paths(path: str, base: Path) -> tuple[list[str], list[str]]:
    """Absolute paths, or the URL, that one entry stands for, and what is wrong with it."""
    path = _local(path)
    if "://" in path:
        return ([], [f"{path}: wildcards of URLs are not expanded; list the files"]) if "*" in path else ([path], [])
    path = os.path.expanduser(path)  # noqa: PTH111
    full = _absolute(base / path)
    if os.path.isfile(full):  # noqa: PTH113 - Path.is_file raises where a directory may not be searched
        return [full], []
    if has_wildcard(path):
        matches, faults = expand(path, base)
        return [_absolute(match) for match in matches], faults if matches or faults else [f"no file matches {full}"]
    if os.path.islink(full):  # noqa: PTH114
        return [], [f"no such file: {full}, a symbolic link to {os.readlink(full)}"]  # noqa: PTH115
    file, colon, tree = full.rpartition(":")
    hint = f"; say {{{file!r}: {tree!r}}} for a tree in a file" if colon and os.path.isfile(file) else ""  # noqa: PTH113
    hint = " (it is a directory, a device or a pipe)" if os.path.lexists(full) else hint
    return [], [f"no such file: {full}{hint}"]


def _local(path: str) -> str:
    """The path that a ``file://`` URL stands for; anything else as it is."""
    scheme, separator, rest = path.partition("://")
    if not separator or scheme.lower() not in ("file", "local"):
        return path
    local = f"/{rest.removeprefix('localhost').lstrip('/')}"
    return local if os.path.lexists(local) else unquote(local)


def _absolute(path: Path) -> str:
    """Workers may run in another directory; symbolic links stay as they are."""
    return os.path.abspath(path)  # noqa: PTH100


def _identity(path: str) -> object:
    """What is the same for all names of a file: links of both kinds lead to one place on one device."""
    if "://" in path:
        return path
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:  # it is reported when it is opened
        return os.path.realpath(path)
    # Some network file systems number nothing.
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)


def _repeated(paths: list[str]) -> list[str]:
    """Faults of files that are listed more than once, under any name."""
    names: dict[object, list[str]] = {}
    for path in paths:
        names.setdefault(_identity(path), []).append(path)
    faults = []
    for same in names.values():
        if len(same) > 1:
            others = sorted(set(same) - {same[0]})
            faults.append(f" lists {same[0]} twice" + (f", also as {', '.join(others)}" if others else ""))
    return faults


def _shared_files(datasets: list[Dataset]) -> list[str]:
    owner: dict[object, tuple[str, str]] = {}
    faults = []
    for dataset in datasets:
        for path in dataset.files:
            first, name = owner.setdefault(_identity(path), (dataset.name, path))
            if first != dataset.name:
                alias = "" if name == path else f" (there as {name})"
                faults.append(
                    f"{path} is in data set {dataset.name!r} and in {first!r}{alias}: its events would count twice"
                )
    return faults
