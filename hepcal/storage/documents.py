"""JSON and YAML that others may have written or damaged: read within bounds, and sealed against changes.

Every fault is a :class:`ValueError`: the caller knows the file and the way out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

__all__ = ["SEAL", "parse_json", "parse_yaml", "seal", "sealed", "unsealed"]

# More than any file of ours needs, and far from the limits of the interpreter.
DEPTH = 100
DIGITS = 300
YAML_BYTES = 2**20
SEAL = "sha256"

# Strings are skipped, also one without an end, which would otherwise be searched for anew at each quote in it; what is
# between numbers and words costs nothing to skip.
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_UNIQUE = "listed twice in one object, keep one of each: "


def parse_json(content: str | bytes, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """A JSON document (RFC 8259): no NaN or infinity, no repeated names, at most :data:`DEPTH` levels.

    Args:
        content: Text, or its bytes in UTF-8.
        hook: Called for each object, as that of :func:`json.loads`.

    Raises:
        ValueError: It is not JSON, or beyond the bounds.
    """
    text = content.decode() if isinstance(content, bytes) else content
    depth = 0
    for found in _NESTING.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} levels deep")

    def build(pairs: list[tuple[str, Any]]) -> Any:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(_UNIQUE + ", ".join(repr(name) for name in members if names.count(name) > 1))
        return members if hook is None else hook(members)

    return json.loads(
        text, object_pairs_hook=build, parse_int=_integer, parse_float=_number, parse_constant=_not_a_number
    )


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"it holds an integer of {len(text)} digits; {DIGITS} are read")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {text[:40]}, which is beyond 64 bits")
    return value


def _not_a_number(text: str) -> float:
    raise ValueError(f"it holds {text}, which is not JSON")


def parse_yaml(content: bytes) -> Any:
    """A YAML document of plain values: UTF-8, no aliases, no repeated keys, finite numbers, within bounds.

    Raises:
        ValueError: It is something else.
    """
    if len(content) > YAML_BYTES:
        raise ValueError(f"it has {len(content)} bytes; {YAML_BYTES} are read")
    text = content.decode()
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader, made narrower
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except (LookupError, TypeError, AttributeError) as error:  # a tag that its value does not fit: !!bool 3
        raise ValueError(f"a value does not fit its tag ({type(error).__name__}: {error})") from error


class _Loader(yaml.SafeLoader):
    """Plain values only: what an alias repeats can grow without bounds."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it holds an alias (*name), which is not read: write the values out")
        self.depth += 1
        if self.depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(found) < len(node.value):
            names = [str(key.value) for key, _ in node.value]
            raise ValueError(_UNIQUE + ", ".join(sorted({name for name in names if names.count(name) > 1})))
        return found

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > DIGITS:
            raise ValueError(f"it holds an integer of {len(node.value)} digits; {DIGITS} are read")
        _refuse_old_bases(node.value)
        return int(super().construct_yaml_int(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        _refuse_old_bases(node.value)
        value = float(super().construct_yaml_float(node))
        if not math.isfinite(value):
            raise ValueError(f"it holds {node.value[:40]}, which is not a finite number")
        return value


def _refuse_old_bases(text: str) -> None:
    """Numbers that people read otherwise than YAML 1.1 does, for which 0100 is 64, and 1:30 is 90."""
    if ":" in text or re.fullmatch(r"[-+]?0[0-9_]+", text):
        raise ValueError(f"it holds the number {text}, which YAML reads in base 8 or 60: write it out")


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its names and the spaces between them."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same object with its :func:`seal` as one more member."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return {**plain, SEAL: seal(plain)}


def unsealed(content: Mapping[str, Any], sealed_with: str) -> dict[str, Any]:
    """The object without its seal. One that has none, as those written before there were seals, is returned as it is.

    Args:
        content: From :func:`sealed`, or older.
        sealed_with: A member that only objects with a seal have.

    Raises:
        ValueError: It was changed after it was sealed, or lost its seal.
    """
    if sealed_with in content and SEAL not in content:
        raise ValueError(f"it has {sealed_with!r}, but no hash ({SEAL}): it was changed or damaged")
    plain = {name: value for name, value in content.items() if name != SEAL}
    if SEAL in content and content[SEAL] != seal(plain):
        raise ValueError("its content does not match its hash (sha256): it was changed or damaged")
    return plain
