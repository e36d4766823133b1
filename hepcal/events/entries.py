"""Where in the files numbers come from, for messages, and the refusal of numbers that nothing can be done with."""

from __future__ import annotations

import awkward as ak
import numpy as np

from hepcal.errors import NonFiniteFeatureError

__all__ = ["entry", "place", "require"]


def place(events: ak.Array) -> str:
    """Where events come from: file and entries if known."""
    metadata = getattr(events, "metadata", None) or {}
    if "filename" not in metadata:
        return "events"
    return f"{metadata['filename']} [{metadata.get('entrystart', '?')}:{metadata.get('entrystop', '?')}]"


def entry(events: ak.Array, position: int) -> str:
    """An event in words: its entry in the file where the events are whole chunks of it, else its place among them.

    Args:
        events: The events.
        position: Index among them.
    """
    metadata = getattr(events, "metadata", None) or {}
    start, stop = metadata.get("entrystart"), metadata.get("entrystop")
    if start is not None and stop is not None and len(events) == stop - start:
        return f"entry {start + position}"
    return f"event {position} of the {len(events)} given"


def require(
    good: np.ndarray,
    values: np.ndarray,
    events: ak.Array,
    event_index: np.ndarray,
    *,
    name: str,
    expected: str,
    advice: str,
) -> None:
    """Refuse numbers, with file, field, entry and value.

    Args:
        good: Which are usable, bool of shape (n,).
        values: The numbers, shape (n,).
        events: The events that they are from.
        event_index: Event of each number, int of shape (n,).
        name: What they are, in words of the file.
        expected: What they should be.
        advice: The way out.

    Raises:
        NonFiniteFeatureError: Some are not good.
    """
    if good.all():
        return
    first = int(np.argmin(good))
    raise NonFiniteFeatureError(
        f"{place(events)}: {name} is {values[first]:g} in {entry(events, int(event_index[first]))} ({np.sum(~good)} of "
        f"{len(good)} like this); expected {expected}. {advice}"
    )
