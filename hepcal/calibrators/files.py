"""Calibrator files: one safetensors file with a JSON card in its header. Data, never code."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from hepcal.errors import CalibratorFileError

__all__ = ["dump", "parse", "read", "sha256", "write"]

CARD_KEY = "hepcal_card"


def dump(card: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A card (JSON) and tensors as bytes; equal content gives equal bytes."""
    content: bytes = safetensors.torch.save(dict(sorted(tensors.items())), metadata={CARD_KEY: card})
    return content


def parse(content: bytes, where: str) -> tuple[str, dict[str, torch.Tensor]]:
    """Card (JSON) and tensors from bytes.

    Raises:
        CalibratorFileError: The bytes are not a calibrator.
    """
    try:
        header_size = int.from_bytes(content[:8], "little")
        if len(content) < 8 + header_size:
            raise CalibratorFileError(
                f"{where} is damaged or not a calibrator file: {len(content)} bytes are fewer than its header promises"
            )
        tensors = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + header_size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, CalibratorFileError):
            raise
        raise CalibratorFileError(f"{where} is damaged or not a calibrator file (safetensors): {error}") from error
    if CARD_KEY not in metadata:
        raise CalibratorFileError(f"{where} is a safetensors file, but not one of hepcal: it has no {CARD_KEY!r}")
    return metadata[CARD_KEY], tensors


def read(path: Path) -> bytes:
    """The bytes of a file, or an error of ours (never an OSError, which coffea may be told to skip)."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CalibratorFileError(f"cannot read the calibrator {path}: {error.strerror or error}") from error


def write(path: Path, content: bytes) -> None:
    """Write atomically: to a file beside, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def sha256(content: bytes) -> str:
    """Hash of a calibrator file."""
    return hashlib.sha256(content).hexdigest()
