"""Calibrator files: one safetensors file with a JSON card in its header, sealed by a hash. Data, never code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hepcal.errors import CalibratorFileError
from hepcal.storage import outputs
from hepcal.storage import tensors as tensor_files
from hepcal.storage.documents import parse_json

__all__ = ["CARD_KEY", "MISFITS", "dump", "parse", "parse_card", "read", "sha256", "write"]

CARD_KEY = "hepcal_card"
# What building an object from a card and tensors that do not fit each other may raise.
MISFITS = (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError, AttributeError, AssertionError)


def dump(card: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A card (JSON) and tensors as bytes, with a hash of both; equal content gives equal bytes."""
    return tensor_files.pack(CARD_KEY, card, tensors)


def parse(content: bytes, where: str) -> tuple[str, dict[str, torch.Tensor]]:
    """Card (JSON) and tensors from bytes.

    Raises:
        CalibratorFileError: The bytes are not a calibrator, or were changed after they were written.
    """
    try:
        return tensor_files.unpack(CARD_KEY, content)
    except ValueError as error:
        raise CalibratorFileError(f"{where} is damaged or not a calibrator file: {error}") from error
    except KeyError as error:
        raise CalibratorFileError(
            f"{where} is a safetensors file, but not one of hepcal: it has no {CARD_KEY!r}"
        ) from error


def parse_card(text: str, where: str) -> dict[str, Any]:
    """A card as a JSON object.

    Raises:
        CalibratorFileError: It is none.
    """
    try:
        card = parse_json(text)
    except ValueError as error:
        raise CalibratorFileError(f"{where} is damaged: its card is not JSON: {error}") from error
    if not isinstance(card, dict):
        raise CalibratorFileError(f"{where} is damaged: its card is no JSON object but a {type(card).__name__}")
    return card


def read(path: Path) -> bytes:
    """The bytes of a file, or an error of ours (never an OSError, which coffea may be told to skip)."""
    try:
        return outputs.read_bytes(path)
    except OSError as error:
        raise CalibratorFileError(f"cannot read the calibrator {path}: {error.strerror or error}") from error


def write(path: Path, content: bytes) -> None:
    """Write whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    outputs.write(path, content)


def sha256(content: bytes) -> str:
    """Hash of a calibrator file."""
    return hashlib.sha256(content).hexdigest()
