"""Files as coffea's preprocessing describes them: ``{"object_path": tree, "steps": ..., "num_entries": ..., ...}``.

hepcal looks into every file itself and reads all of it. What the description says is compared with what is found; one
that asks for a part of a file is refused.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Expected", "FileSpecError", "plain", "read_spec"]

KEYS = frozenset({"object_path", "steps", "num_entries", "uuid", "format", "lfn", "pfn", "num_selected_entries"})


class FileSpecError(ValueError):
    """A description that cannot be followed; the message has neither file nor data set."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a preprocessed fileset says of a file, None where it says nothing.

    Attributes:
        entries: Number of events.
        uuid: UUID of the file, 32 hexadecimal digits.
    """

    entries: int | None
    uuid: str | None


def plain(value: Any) -> Any:
    """Mappings and lists in place of the pydantic objects of coffea (``DataGroupSpec``, ``DatasetSpec`` ...)."""
    return value.model_dump() if hasattr(value, "model_dump") else value


def read_spec(spec: Any) -> tuple[str | None, Expected | None]:
    """Tree of a file, and what is said of it.

    Args:
        spec: Name of the tree, None, or a description.

    Raises:
        FileSpecError: It is none of these, or does not mean the whole of a ROOT file.
    """
    spec = plain(spec)
    if spec is None or isinstance(spec, str):
        return spec, None
    if not isinstance(spec, Mapping):
        raise FileSpecError(f"expected a tree name or {{'object_path': tree}}, found {spec!r}")
    if unknown := [str(key) for key in spec if key not in KEYS]:
        raise FileSpecError(f"unknown key {', '.join(map(repr, unknown))}; known are {', '.join(sorted(KEYS))}")
    if spec.get("format") not in (None, "root"):
        raise FileSpecError(f"format {spec['format']!r}: only ROOT files can be read")
    tree = spec.get("object_path")
    if not (tree is None or isinstance(tree, str)):
        raise FileSpecError(f"object_path must be the name of a tree, found {tree!r}")
    entries = _entries(spec.get("num_entries"), spec.get("steps"))
    return tree, Expected(entries, None if spec.get("uuid") is None else _uuid(spec["uuid"]))


def _uuid(given: object) -> str:
    try:
        return uuid.UUID(str(given)).hex
    except ValueError:
        raise FileSpecError(f"uuid must be 32 hexadecimal digits, found {given!r}") from None


def _entries(given: Any, steps: Any) -> int | None:
    """Number of events; steps must be all of them."""
    if not (given is None or (isinstance(given, int) and not isinstance(given, bool) and given >= 0)):
        raise FileSpecError(f"num_entries must be a number of events, found {given!r}")
    if steps is None:
        return given
    try:
        pairs = [(int(start), int(stop)) for start, stop in steps]
        if any(start > stop for start, stop in pairs):
            raise ValueError("a step ends before it starts")
    except (TypeError, ValueError):
        raise FileSpecError(f"steps must be [[start, stop], ...] with start <= stop, found {steps!r}") from None
    edges = [0, *itertools.chain.from_iterable(sorted(pairs))]
    last = edges[-1] if given is None else given
    whole = all(edges[i] == edges[i + 1] for i in range(0, len(edges) - 1, 2))
    if not pairs or not whole or edges[-1] != last:
        chosen = sum(stop - start for start, stop in pairs)
        raise FileSpecError(
            f"steps choose {chosen} of {'the' if given is None else given} events, but files are read whole: leave out "
            "'steps', or give steps that follow each other from 0 to the last event"
        )
    return last
