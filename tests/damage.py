"""Damaged copies of files: bits, bytes and JSON values changed by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.torch import load, save

ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, -(2**70), 10**290, 10**400, 0.5, -1e-9, 1e308, float("nan"),
    float("inf"), "", "x",
    "[/x]", "\0", "é" * 300, "1e3", [], [[]], [None], [1, 2], {}, {"x": 1}, {"inputs": None}, [0.0] * 5,
)  # fmt: skip
TOKENS = (
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"-0", b"null", b"true", b"[" * 3000, b"{\"a\":" * 3000, b"\"", b"\\",
    b"\0",
    b"\xff\xfe", b"\xed\xa0\x80", b"{}", b"[]", b",", b":", b"\n", b"- ", b"&a [*a, *a]",
    b"!!python/object:os.system x", b"'", b"0",
)  # fmt: skip


def in_bytes(content: bytes, rng: random.Random) -> bytes:
    """One or two changes of bits, bytes or parts."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2))):
        place = rng.randrange(len(changed) + 1)
        end = min(len(changed), place + rng.choice((1, 2, 8, 50, 1000)))
        kind = rng.randrange(7)
        if kind <= 1 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 2 and place < len(changed):
            changed[place] = rng.randrange(256)
        elif kind == 3:
            del changed[place:end]
        elif kind == 4:
            changed[place:place] = rng.choice(TOKENS)
        elif kind == 5:
            changed[place:end] = rng.choice(TOKENS)
        else:
            del changed[place:]
    return bytes(changed)


def in_json(content: Any, rng: random.Random) -> Any:
    """A copy with one value, or name, changed anywhere."""
    changed = json.loads(json.dumps(content))
    places = list(_places(changed))
    holder, key = rng.choice(places)
    kind = rng.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("x", "", str(key) + "x", "sha256"))] = holder.pop(key)
    elif kind == 2 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * rng.choice((-1, 2, 10**6, 0, 0.1))
    else:
        holder[key] = rng.choice(ODD)
    return changed


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


def in_card(content: bytes, key: str, rng: random.Random) -> bytes:
    """A safetensors file with a changed card or tensor, and without a hash, as files were before there were any."""
    size = int.from_bytes(content[:8], "little")
    card = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][key])
    tensors = load(content)
    if rng.random() < 0.7:
        card = in_json(card, rng)
    else:
        name = rng.choice(sorted(tensors))
        tensors[name] = rng.choice(CHANGES)(tensors[name])
        if rng.random() < 0.2:
            del tensors[name]
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={key: json.dumps(card)})


CHANGES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda t: t.double(),
    lambda t: t.reshape(-1)[:0],
    lambda t: t.reshape(-1)[:-1],
    lambda t: t[None],
    lambda t: t.to(torch.int64),
    lambda t: t.to(torch.bool),
    lambda t: torch.zeros_like(t),
    lambda t: -t,
    lambda t: t * 1e30,
    lambda t: torch.full_like(t, 7),
    lambda t: t.to(torch.float16),
    lambda t: torch.zeros((), dtype=t.dtype),
)
