"""Tensors and a JSON text in one safetensors file, sealed by a hash of both. Data, never code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch

from hepcal.storage.documents import parse_json

__all__ = ["pack", "seal", "unpack"]

SEAL_KEY = "hepcal_sha256"


def pack(key: str, text: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The bytes of a file; equal content gives equal bytes.

    Args:
        key: Says what kind of file it is.
        text: JSON.
        tensors: On the CPU, contiguous.
    """
    metadata = {key: text, SEAL_KEY: seal(text, tensors)}
    content: bytes = safetensors.torch.save(dict(sorted(tensors.items())), metadata=metadata)
    return _ordered(content)


def _ordered(content: bytes) -> bytes:
    """The same file with the metadata in alphabetical order: safetensors writes them in any."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def unpack(key: str, content: bytes) -> tuple[str, dict[str, torch.Tensor]]:
    """Text and tensors of a file; those of files that were written before there were seals are taken as they are.

    Raises:
        KeyError: It is a safetensors file of another kind.
        ValueError: It is damaged, or no safetensors file; says why.
    """
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 + size:
        raise ValueError(f"{len(content)} bytes are fewer than its header promises")
    try:
        header = parse_json(content[8 : 8 + size])
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"safetensors: {error}") from error
    metadata = header.get("__metadata__") or {}
    if key not in metadata:
        raise KeyError(key)
    if unknown := sorted(metadata.keys() - {key, SEAL_KEY}):
        raise ValueError(f"its header has the unknown entry {unknown[0]!r}")
    text = metadata[key]
    if metadata.get(SEAL_KEY, (found := seal(text, tensors))) != found:
        raise ValueError("its content does not match its hash (sha256): it was changed or damaged")
    return text, tensors


def seal(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a text and of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(text).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
