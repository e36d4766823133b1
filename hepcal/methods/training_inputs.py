"""Histograms of the inputs of a training as tensors of a calibrator file, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from hepcal.errors import CalibratorFileError
from hepcal.events.features import Features
from hepcal.tables.input_differences import Condition
from hepcal.tables.input_histograms import ABS_ETA, CONDITIONS, InputHistograms, names_of
from hepcal.tables.rows import Rows

__all__ = ["histogram_tensors", "histograms_of"]

PREFIX = "histogram"
PARTS = ("pt_edges", "edges", "content", "squares", "smallest")


def histogram_tensors(
    spec: Features, features: Rows, reco: np.ndarray, truth: np.ndarray, weight: np.ndarray
) -> dict[str, torch.Tensor]:
    """What a calibrator saves of the inputs of its training; arguments as for :meth:`InputHistograms.of`."""
    scaled = weight / np.abs(weight).mean()
    tensors: dict[str, torch.Tensor] = {}
    for condition in CONDITIONS:
        found = InputHistograms.of(condition, spec, features, reco, truth, scaled)
        if found is not None:
            tensors |= {f"{PREFIX}_{condition}_{part}": torch.from_numpy(v) for part, v in found.arrays().items()}
    return tensors


def histograms_of(spec: Features, tensors: Mapping[str, torch.Tensor]) -> dict[Condition, InputHistograms]:
    """The same from the tensors of a calibrator, by what is held fixed; nothing where none were saved.

    Raises:
        CalibratorFileError: One is missing, is no float32, is not finite, or has another shape than the inputs ask for.
    """
    found = {}
    for condition in CONDITIONS:
        names = [f"{PREFIX}_{condition}_{part}" for part in PARTS]
        if not any(name in tensors for name in names):
            continue
        if missing := [name for name in names if name not in tensors]:
            raise CalibratorFileError(f"the tensors {', '.join(missing)} are missing beside others of their kind")
        arrays = {part: tensors[name].numpy() for part, name in zip(PARTS, names, strict=True)}
        _require(spec, condition, arrays)
        found[condition] = InputHistograms.from_arrays(condition, arrays)
    return found


def _require(spec: Features, condition: Condition, arrays: Mapping[str, np.ndarray]) -> None:
    bins, q = max(arrays["pt_edges"].size - 1, 0), len(names_of(spec, condition))
    regions = len(ABS_ETA) + 1 if "eta" in spec.names else 1
    inner = arrays["edges"].shape[-1] if arrays["edges"].ndim == 3 else 0
    shapes = {
        "pt_edges": (bins + 1,),
        "edges": (bins, q, inner),
        "content": (bins, regions, q, inner + 1),
        "squares": (bins, regions),
        "smallest": (),
    }
    for part, shape in shapes.items():
        values = arrays[part]
        if values.shape != shape or values.dtype != np.float32 or not np.isfinite(values).all() or 0 in shape:
            raise CalibratorFileError(
                f"tensor '{PREFIX}_{condition}_{part}' is {values.dtype} of {values.shape}, or not finite; the card "
                f"asks for float32 of {shape}"
            )
    if not (np.diff(arrays["pt_edges"]) > 0).all() or not (np.diff(arrays["edges"]) >= 0).all():
        raise CalibratorFileError(f"the bin edges of the histograms at fixed {condition} p_T do not rise")
