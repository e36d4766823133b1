"""What a training leaves: a card that people read and tensors, in one file that is sealed by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic import BaseModel, ValidationError

from hepcal.errors import CalibratorFileError
from hepcal.storage import outputs
from hepcal.storage import tensors as tensor_files
from hepcal.storage.documents import parse_json

__all__ = ["CARD_KEY", "Artefact", "digest"]

CARD_KEY = "hepcal_card"
# What building an object from a card and tensors that do not fit each other may raise.
MISFITS = (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError, AttributeError, AssertionError)

CardModel = TypeVar("CardModel", bound=BaseModel)


def digest(content: bytes) -> str:
    """SHA-256 of the bytes of a file."""
    return hashlib.sha256(content).hexdigest()


class Artefact(Generic[CardModel]):
    """A card and tensors, frozen, that save themselves as one safetensors file. Data, never code.

    Args:
        card: What it is.
        tensors: Its numbers.
    """

    # What messages call it, and what they say of a card that this version does not read.
    noun: ClassVar[str]
    misread: ClassVar[str] = ": its card is not valid"

    def __init__(self, card: CardModel, tensors: Mapping[str, torch.Tensor]) -> None:
        self.card = card
        self.tensors: Mapping[str, torch.Tensor] = MappingProxyType(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )

    def require(self, name: str, shape: tuple[int, ...], *, positive: bool = False) -> torch.Tensor:
        """A saved tensor, if it is what the card says.

        Args:
            name: Of the tensor.
            shape: That the card asks for, in float32.
            positive: Whether all values must be.

        Raises:
            CalibratorFileError: It is missing, of another type or shape, or holds other values.
        """
        if (tensor := self.tensors.get(name)) is None:
            raise CalibratorFileError(f"missing tensor {name!r}")
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise CalibratorFileError(
                f"tensor {name!r} is {tensor.dtype} of {tuple(tensor.shape)}; the card asks for float32 of {shape}"
            )
        if not torch.isfinite(tensor).all() or (positive and not (tensor > 0).all()):
            raise CalibratorFileError(
                f"tensor {name!r} holds values that are not {'positive' if positive else 'finite'}"
            )
        return tensor

    @cached_property
    def content(self) -> bytes:
        """The bytes of its file, safetensors with the card as JSON in the header; equal content gives equal bytes.

        Those of an object from a file are the bytes that were read, also where another version wrote them.
        """
        return tensor_files.pack(CARD_KEY, self.card.model_dump_json(), self.tensors)

    @cached_property
    def sha256(self) -> str:
        """Hash of :attr:`content`; identifies it."""
        return digest(self.content)

    def save(self, path: str | Path) -> None:
        """Write it to one file; an existing one of its kind is replaced only once the new one is complete.

        Raises:
            OutputError: It cannot be written, or is a directory, a device or another kind of file; names the path.
        """
        outputs.prepare_file(path, room=len(self.content), mark=CARD_KEY.encode())
        outputs.write(Path(path), self.content)

    @classmethod
    def read(cls, path: str | Path) -> bytes:
        """The bytes of a file.

        Raises:
            CalibratorFileError: It cannot be read (never an OSError, which coffea may be told to skip).
        """
        try:
            return outputs.read_bytes(Path(path))
        except OSError as error:
            raise CalibratorFileError(f"cannot read the {cls.noun} {path}: {error.strerror or error}") from error

    @classmethod
    def parsed(cls, content: bytes, where: str) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
        """The card, as JSON and as its entries, and the tensors in a file. No code in it is ever executed.

        Args:
            content: Of the file.
            where: What messages call the file.

        Raises:
            CalibratorFileError: It is of another kind, or damaged, or was changed after it was written.
        """
        try:
            text, tensors = tensor_files.unpack(CARD_KEY, content)
        except ValueError as error:
            raise CalibratorFileError(f"{where} is damaged or not a {cls.noun} file: {error}") from error
        except KeyError as error:
            raise CalibratorFileError(
                f"{where} is a safetensors file, but not one of hepcal: it has no {CARD_KEY!r}"
            ) from error
        try:
            entries = parse_json(text)
        except ValueError as error:
            raise CalibratorFileError(f"{where} is damaged: its card is not JSON: {error}") from error
        if not isinstance(entries, dict):
            raise CalibratorFileError(f"{where} is damaged: its card is no JSON object but a {type(entries).__name__}")
        return text, entries, tensors

    @classmethod
    @contextmanager
    def fitting(cls, where: str) -> Iterator[None]:
        """Inside, an object is made of the card and the tensors of a file: what does not fit is an error of the file.

        Args:
            where: What messages call the file.

        Raises:
            CalibratorFileError: The card is not valid, or it and the tensors do not fit each other.
        """
        try:
            yield
        except ValidationError as error:
            raise CalibratorFileError(f"{where}{cls.misread}: {error}") from error
        except CalibratorFileError as error:
            raise CalibratorFileError(f"{where}: {error}") from error
        except KeyError as error:
            raise CalibratorFileError(f"{where}: missing tensor {error}") from error
        except MISFITS as error:
            raise CalibratorFileError(
                f"{where}: its card and its tensors do not fit each other ({type(error).__name__}: {error})"
            ) from error
