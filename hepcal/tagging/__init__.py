"""Tagging: which jets look like signal, by their constituents, with the statistical error of the training.

::

    tagger = hepcal.tagging.train(signal, background, hepcal.tagging.LoLa(bayesian=True), seed=1)
    found = tagger.predict(pairs)
    found.score, found.sigma_score          # between 0 and 1
    found.logit, found.sigma_logit          # ln(score / (1 - score)), where errors are Gaussian
    hepcal.tagging.auc(found.score, is_signal)

torch is loaded when a network is first asked for, not by the figures of merit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hepcal.tagging.scores import (
    ROC,
    Reliability,
    auc,
    auc_difference,
    calibration_error,
    gaussian_score,
    parabola,
    reliability,
    roc,
)

if TYPE_CHECKING:
    from hepcal.tagging.lola import LoLa
    from hepcal.tagging.scan import PriorScan, scan_prior
    from hepcal.tagging.tagger import Tagger, TaggerCard, TaggerPrediction
    from hepcal.tagging.training import train

_HOMES = {
    "LoLa": "lola",
    "PriorScan": "scan",
    "Tagger": "tagger",
    "TaggerCard": "tagger",
    "TaggerPrediction": "tagger",
    "scan_prior": "scan",
    "train": "training",
}

__all__ = [
    "ROC",
    "LoLa",
    "PriorScan",
    "Reliability",
    "Tagger",
    "TaggerCard",
    "TaggerPrediction",
    "auc",
    "auc_difference",
    "calibration_error",
    "gaussian_score",
    "parabola",
    "reliability",
    "roc",
    "scan_prior",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"hepcal.tagging.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hepcal.tagging' has no attribute {name!r}; it has {', '.join(__all__)}")
