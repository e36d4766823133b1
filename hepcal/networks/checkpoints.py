"""Checkpoints of a training: everything that its continuation depends on, as data, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hepcal.errors import CheckpointWarning, OutputError, TrainingError, warn
from hepcal.storage import outputs
from hepcal.storage import tensors as tensor_files
from hepcal.storage.documents import parse_json

__all__ = ["Checkpoint", "CheckpointWarning"]

KEY = "hepcal_checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A file that a training writes now and then, and continues from.

    Attributes:
        path: The file (safetensors; loading it never executes code).
        training: What identifies the training: hash of the table, settings, seed, versions.
        stage: Of a training of several networks one after the other, which keep their states side by side in the file.
    """

    path: Path
    training: Mapping[str, Any]
    stage: str = ""

    def __post_init__(self) -> None:
        """Refuse a place that cannot be written, before the training.

        Raises:
            OutputError: It is a directory or a device, or cannot be written, or there is no room.
        """
        if not self.stage:
            outputs.prepare_file(self.path)

    def at(self, stage: str) -> Checkpoint:
        """The checkpoint of one stage of the training, in the same file."""
        return replace(self, stage=stage)

    def save(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
        """Replace the checkpoint, in one step; other stages stay as they are.

        Where that fails, as on a full disk, a :class:`hepcal.errors.CheckpointWarning` says so, and an older one stays.

        Args:
            tensors: Parameters, optimiser, random numbers.
            numbers: The rest, as JSON types.
        """
        kept = (self._read() if self.stage else None) or ({}, {})
        content, everything = ({k: v for k, v in part.items() if not k.startswith(self._prefix)} for part in kept)
        content |= {self._prefix + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        everything |= {self._prefix + name: value for name, value in numbers.items()}
        text = json.dumps({"training": dict(self.training), "numbers": everything})
        try:
            outputs.write(self.path, tensor_files.pack(KEY, text, content))
        except OutputError as error:
            warn(
                f"{error}; the training goes on, and an interruption would begin it anew from an older checkpoint",
                CheckpointWarning,
            )

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and numbers to go on from, or None if there is no checkpoint, or none of this stage, yet.

        Raises:
            TrainingError: The file is not a checkpoint, or that of another training.
        """
        found = self._read()
        if found is None:
            return None
        tensors, numbers = (
            {k.removeprefix(self._prefix): v for k, v in part.items() if k.startswith(self._prefix)} for part in found
        )
        return (tensors, numbers) if numbers else None

    @property
    def _prefix(self) -> str:
        return f"{self.stage}/" if self.stage else ""

    def _read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and numbers of all stages; None without a file."""
        if not self.path.exists():
            return None
        try:
            text, tensors = tensor_files.unpack(KEY, outputs.read_bytes(self.path))
            content = parse_json(text)
            theirs, numbers = dict(content["training"]), dict(content["numbers"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{self.path} is not a checkpoint of a training: {error}") from error
        # Through JSON, as the saved side went.
        ours = json.loads(json.dumps(dict(self.training)))
        different = [name for name, value in ours.items() if theirs.get(name) != value]
        if different:
            raise TrainingError(
                f"the checkpoint {self.path} belongs to another training: {', '.join(different)} differ. "
                "Delete it to begin anew, or choose another file"
            )
        return tensors, numbers

    def remove(self) -> None:
        """Delete the file, once the training has ended."""
        self.path.unlink(missing_ok=True)
