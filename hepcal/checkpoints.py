"""Checkpoints of a training: everything that its continuation depends on, as data, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from hepcal.errors import TrainingError

__all__ = ["Checkpoint"]

KEY = "hepcal_checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A file that a training writes now and then, and continues from.

    Attributes:
        path: The file (safetensors; loading it never executes code).
        training: What identifies the training: hash of the table, settings, seed, versions.
    """

    path: Path
    training: Mapping[str, Any]

    def save(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
        """Replace the checkpoint, in one step.

        Args:
            tensors: Parameters, optimiser, random numbers.
            numbers: The rest, as JSON types.
        """
        text = json.dumps({"training": dict(self.training), "numbers": dict(numbers)})
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        os.close(handle)
        try:
            safetensors.torch.save_file(content, scratch, metadata={KEY: text})
            Path(scratch).replace(self.path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Tensors and numbers to go on from, or None if there is no checkpoint yet.

        Raises:
            TrainingError: The file is not a checkpoint, or that of another training.
        """
        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                content = json.loads((file.metadata() or {})[KEY])
                theirs, numbers = dict(content["training"]), dict(content["numbers"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
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
