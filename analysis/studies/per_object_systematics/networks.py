"""Networks of the studies and the trainings that several of them share."""

from __future__ import annotations

from typing import Any

import numpy as np
from results import Options
from samples import Sample

import hepcal
from hepcal.augment import ScaleConstituents
from hepcal.evaluation.cross_fit import cross_fit, uncertainties
from hepcal.methods.calibrator import Calibrator

__all__ = ["FOLDS", "FRACTIONS", "SEED", "baseline", "bayesian", "schedule"]

SEED = 100
FOLDS = 5
# Fractions of label smearing and of the input shifts beside them (arXiv:2003.11099, Figs. 10 and 11).
FRACTIONS = (0.04, 0.06, 0.08, 0.10)


def schedule(*, quick: bool) -> dict[str, Any]:
    """Batch and schedule of all studies; ``schedule.py`` compares them with those of arXiv:2003.11099."""
    updates = 1000 if quick else 10_000
    return {"batch": 200, "learning_rate": 1e-3, "schedule": "cosine", "max_updates": updates, "patience": 2000}


def bayesian(*, quick: bool, **changes: Any) -> hepcal.BNN:
    """The network of arXiv:2003.11099: dense 100-100-50-50, prior width 0.1, Gaussian likelihood."""
    return hepcal.BNN(**{"hidden": (100, 100, 50, 50), "prior_width": 0.1, **schedule(quick=quick), **changes})


def with_shifts(calibrator: Calibrator, pairs: hepcal.JetPairs) -> dict[str, np.ndarray]:
    """The columns of a calibrator, and ``pt_calib`` of jets whose inputs are scaled coherently up and down."""
    found = uncertainties(calibrator, pairs)
    for fraction in FRACTIONS:
        for side, sign in (("up", 1), ("down", -1)):
            shifted = ScaleConstituents(fraction=sign * fraction)(pairs)
            found[f"{side}_{fraction:g}"] = calibrator.predict(shifted.features, shifted.reco).mean
    return found


def baseline(sample: Sample, options: Options) -> dict[str, np.ndarray]:
    """Columns of the five-fold Bayesian network without smearing: every jet tested once."""
    return cross_fit(
        sample.pairs, bayesian(quick=options.quick), folds=FOLDS, seed=SEED, read=with_shifts, key=list(FRACTIONS),
        store=options.trainings,
    )  # fmt: skip
