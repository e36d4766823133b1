"""Augmentations: labels smeared, constituents scaled, smeared and overlaid, for tests and for training.

All of them are deterministic given a seed and the identity of the jets (:mod:`hepcal.tables.random`): the same jet gets
the same random numbers in any order, subset or chunk.
"""

from __future__ import annotations

from hepcal.augment.four_vectors import (
    Augmented,
    overlay_pileup,
    scale_constituents,
    scale_leading,
    smear_constituents,
)
from hepcal.augment.labels import label_errors, smear_labels
from hepcal.augment.tables import (
    Augmentation,
    OverlayPileup,
    ScaleConstituents,
    ScaleLeading,
    SmearConstituents,
)

__all__ = [
    "Augmentation",
    "Augmented",
    "OverlayPileup",
    "ScaleConstituents",
    "ScaleLeading",
    "SmearConstituents",
    "label_errors",
    "overlay_pileup",
    "scale_constituents",
    "scale_leading",
    "smear_constituents",
    "smear_labels",
]
