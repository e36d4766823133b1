"""Where filesets come from: documents, lists of paths, and ROOT files by name, as people have them."""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hepcal.errors import FilesetError
from hepcal.events.wildcards import has_wildcard
from hepcal.storage.documents import parse_json, parse_yaml
from hepcal.storage.outputs import read_bytes

__all__ = ["named", "read_source"]

YAML, LISTS = (".yaml", ".yml"), (".txt", ".list", ".lst")
# More than any fileset needs; a compressed one may be anything.
UNCOMPRESSED = 2**30


def read_source(source: str | Path) -> tuple[Mapping[str, Any], Path, str]:
    """The content of a fileset, where its paths are relative to, and what messages call it.

    Args:
        source: A JSON or YAML document, or a list of paths (``.txt``, ``.list``), a line each, compressed (``.gz``) or
            not; else a ROOT file, a pattern of ROOT files or a URL of one, which makes a data set of that name.

    Raises:
        FilesetError: It cannot be read, or is none of these.
    """
    path, text = Path(source), os.fspath(source)
    if "://" in text or path.suffix == ".root" or (has_wildcard(text) and not path.exists()):
        return named([text]), Path(), text
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    try:
        content = read_bytes(path)
        content = _uncompressed(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        hint = f": for the files in it, '{path / '*.root'}'" if path.is_dir() else ""
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise FilesetError(f"cannot read the fileset {path}: {reason}{hint}") from error
    if suffix in LISTS:
        return _listed(path, content), path.parent, str(path)
    kind, parse = ("YAML", parse_yaml) if suffix in YAML else ("JSON", parse_json)
    try:
        found = parse(content)
    except ValueError as error:
        raise FilesetError(f"{path} is not valid {kind}: {error}") from error
    if not isinstance(found, dict):
        raise FilesetError(f"{path} holds a {type(found).__name__}; expected {{dataset: {{'files': ...}}}}")
    return found, path.parent, str(path)


def named(paths: Sequence[str | Path]) -> Mapping[str, Any]:
    """A data set of some paths, with the name that they have in common."""
    letters = zip(*(_stem(os.fspath(path)) for path in paths), strict=False)
    alike = takewhile(lambda each: len(set(each)) == 1, letters)
    name = "".join(each[0] for each in alike).rstrip("_-. ")
    return {name or "events": {"files": [os.fspath(path) for path in paths]}}


def _stem(path: str) -> str:
    """The name of a file without ``.root`` and without what a pattern leaves open; else that of its folder."""
    for part in reversed(re.split(r"[/:]+", path)):
        # What is in front of the first wildcard.
        stem = re.split(r"[*?\[]", part.removesuffix(".root"), maxsplit=1)[0].rstrip("_-. ")
        if stem:
            return stem
    return ""


def _uncompressed(content: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        found = file.read(UNCOMPRESSED + 1)
    if len(found) > UNCOMPRESSED:
        raise OSError(f"it holds more than {UNCOMPRESSED} bytes")
    return found


def _listed(path: Path, content: bytes) -> Mapping[str, Any]:
    """The data set of a list of paths: a line each; empty lines and what follows ``#`` count for nothing."""
    try:
        lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in content.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise FilesetError(f"{path} is no list of paths: {error}") from error
    paths = [line for line in lines if line]
    if not paths:
        raise FilesetError(f"{path} lists no files: a path or a pattern is expected in each line")
    return {path.name.split(".")[0] or "events": {"files": paths}}
