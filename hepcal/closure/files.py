"""The files of a run: histograms and summary, with hashes that are checked when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import hist
import numpy as np

from hepcal.closure.records import Summary
from hepcal.errors import HepcalError
from hepcal.storage import outputs
from hepcal.storage.documents import parse_json, sealed, unsealed

__all__ = ["ResultError", "load_hists", "load_summary", "whole", "write_files"]

HISTS, HISTS_JSON, SUMMARY = "hists.coffea", "hists.json", "summary.json"
# Of the summary: hashes of the other files.
HASHES = "files_sha256"


class ResultError(HepcalError, ValueError):
    """A directory is not the result of a run."""


def write_files(directory: Path, hists: Mapping[str, hist.Hist], summary: Summary) -> None:
    """Write ``hists.coffea``, ``hists.json`` (UHI) and ``summary.json`` together, or none of them.

    Raises:
        OutputError: A file cannot be written.
        ResultError: A histogram or the summary holds a number that is not finite, for which JSON has no word.
    """
    import uhi.io.json
    from coffea.util import save

    _require_finite(hists, summary)
    with outputs.filling(directory) as part:
        save(dict(hists), part / HISTS)
        text = json.dumps(dict(hists), default=uhi.io.json.default, allow_nan=False)
        (part / HISTS_JSON).write_text(text)
        files = {name: hashlib.sha256((part / name).read_bytes()).hexdigest() for name in (HISTS, HISTS_JSON)}
        (part / SUMMARY).write_text(json.dumps(sealed({**summary, HASHES: files}), indent=1, allow_nan=False))


def _require_finite(hists: Mapping[str, hist.Hist], summary: Summary) -> None:
    """Refuse what would not be JSON, with the place."""
    for name, filled in hists.items():
        for part in (filled.values(flow=True), filled.variances(flow=True)):
            if part is not None and not np.isfinite(part).all():
                first = [int(i) for i in np.argwhere(~np.isfinite(part))[0]]
                raise ResultError(
                    f"histogram {name!r} holds {(~np.isfinite(part)).sum()} numbers that are not finite (the first at "
                    f"{dict(zip(filled.axes.name, first, strict=True))}, positions with flow): a momentum or a weight "
                    "of the files is NaN or infinite, or weights overflow. Nothing was written"
                )
    if bad := list(_not_finite(summary)):
        raise ResultError(f"the summary holds numbers that are not finite: {', '.join(bad[:5])}. Nothing was written")


def _not_finite(content: Any, where: str = "") -> Iterator[str]:
    """Places of NaN and infinite numbers."""
    if isinstance(content, float) and not np.isfinite(content):
        yield where
    named = content.items() if isinstance(content, Mapping) else ()
    listed = enumerate(content) if isinstance(content, list | tuple) else ()
    for key, value in (*named, *listed):
        yield from _not_finite(value, f"{where}.{key}".lstrip("."))


def load_hists(directory: Path) -> dict[str, hist.Hist]:
    """Histograms of a run, from ``hists.json`` (data only).

    Raises:
        ResultError: The directory is not the result of a run, or the file was changed after it was written.
    """
    import uhi.io.json

    told: dict[str, str] = {}
    if (directory / SUMMARY).exists():
        with whole(directory, SUMMARY):
            told = dict(_summary(directory).get(HASHES, {}))
    # hists.coffea is for coffea and compared alone: opening a pickle could run code.
    for name in (HISTS, HISTS_JSON):
        if (expected := told.get(name)) is None:
            continue
        with whole(directory, name):
            if hashlib.sha256(outputs.read_bytes(directory / name)).hexdigest() != expected:
                raise ValueError("it does not match its hash (sha256): it was changed or damaged")
    with whole(directory, HISTS_JSON):
        content = outputs.read_bytes(directory / HISTS_JSON)
        found = parse_json(content, uhi.io.json.object_hook)
        return {name: hist.Hist(value) for name, value in found.items()}


def load_summary(directory: Path) -> Summary:
    """The summary of a run; in one of schema version 1 the share within sigma_tot gets its name of today.

    Raises:
        ResultError: The directory is not the result of a run, or the file was changed after it was written.
    """
    with whole(directory, SUMMARY):
        summary = _summary(directory)
        summary.pop(HASHES, None)
        # Whatever else is amiss in it is refused where it is shown, which is inside of whole(), too.
        return cast("Summary", _renamed(summary) if summary.get("schema_version") == 1 else summary)


def _renamed(content: Any) -> Any:
    """``coverage_68`` was what lies within sigma_tot before there was a coverage of intervals."""
    if not isinstance(content, dict):
        return content
    return {"within_sigma_tot" if name == "coverage_68" else name: _renamed(each) for name, each in content.items()}


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
