"""The files of a run: histograms and summary, with hashes that are checked when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hist

from hepcal import outputs
from hepcal.documents import parse_json, sealed, unsealed
from hepcal.errors import HepcalError

__all__ = ["ResultError", "load_hists", "load_summary", "whole", "write_files"]

HISTS, HISTS_JSON, SUMMARY = "hists.coffea", "hists.json", "summary.json"
# Of the summary: hashes of the other files.
HASHES = "files_sha256"


class ResultError(HepcalError, ValueError):
    """A directory is not the result of a run."""


def write_files(directory: Path, hists: Mapping[str, hist.Hist], summary: Mapping[str, Any]) -> None:
    """Write ``hists.coffea``, ``hists.json`` (UHI) and ``summary.json`` together, or none of them.

    Raises:
        OutputError: A file cannot be written.
        ResultError: A figure is not a finite number.
    """
    import uhi.io.json
    from coffea.util import save

    with outputs.filling(directory) as part, _finite(directory):
        save(dict(hists), part / HISTS)
        text = json.dumps(dict(hists), default=uhi.io.json.default, allow_nan=False)
        (part / HISTS_JSON).write_text(text)
        files = {HISTS_JSON: hashlib.sha256(text.encode()).hexdigest()}
        (part / SUMMARY).write_text(json.dumps(sealed({**summary, HASHES: files}), indent=1))


@contextmanager
def _finite(directory: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # of json: NaN and infinity are not JSON
        raise ResultError(f"the results for {directory} hold a figure that is not a finite number: {error}") from error


def load_hists(directory: Path) -> dict[str, hist.Hist]:
    """Histograms of a run, from ``hists.json`` (data only).

    Raises:
        ResultError: The directory is not the result of a run, or the file was changed after it was written.
    """
    import uhi.io.json

    with whole(directory, HISTS_JSON):
        content = outputs.read_bytes(directory / HISTS_JSON)
        if (directory / SUMMARY).exists():
            told = _summary(directory).get(HASHES, {}).get(HISTS_JSON)
            if told and told != hashlib.sha256(content).hexdigest():
                raise ValueError("it does not match its hash (sha256): it was changed or damaged")
        found = parse_json(content, uhi.io.json.object_hook)
        return {name: hist.Hist(value) for name, value in found.items()}


def load_summary(directory: Path) -> dict[str, Any]:
    """The summary of a run.

    Raises:
        ResultError: The directory is not the result of a run, or the file was changed after it was written.
    """
    with whole(directory, SUMMARY):
        summary = _summary(directory)
        summary.pop(HASHES, None)
        return summary


def _summary(directory: Path) -> dict[str, Any]:
    """The summary with the hashes of the other files."""
    return unsealed(parse_json(outputs.read_bytes(directory / SUMMARY)), HASHES)


@contextmanager
def whole(directory: Path, name: str = "its files, which do not fit this version or each other") -> Iterator[None]:
    """For what is done with files that others may have written or changed: what goes wrong is an error of ours.

    Args:
        directory: Of the result.
        name: The file.

    Raises:
        ResultError: Something went wrong.
    """
    try:
        yield
    except HepcalError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ResultError(
            f"{directory} is not the result of 'hepcal run': cannot read {name} ({type(error).__name__}: {error})"
        ) from error
