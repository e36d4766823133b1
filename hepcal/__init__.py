"""Jet calibration with per-jet uncertainties, on awkward columns.

::

    calibrator = hepcal.Calibrator.load("jets.safetensors")
    jets = calibrator(events.Jet)        # pt_calib, pt_calib_sigma_stoch, pt_calib_sigma_pred, ... in GeV

Names are loaded when they are first used: ``import hepcal`` loads neither torch, nor dask, nor matplotlib.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepcal import augment, diagnostics, plot, priors, processors, results, scores, spread, tagging, truth_closure
    from hepcal.calibrators.ansatz import GaussianAnsatz
    from hepcal.calibrators.base import Calibrator
    from hepcal.calibrators.bnn import BNN
    from hepcal.calibrators.dropout import Dropout
    from hepcal.calibrators.ensemble import Ensemble
    from hepcal.calibrators.generalised import GeneralisedInversion
    from hepcal.calibrators.heteroscedastic import Heteroscedastic
    from hepcal.calibrators.inversion import NumericalInversion
    from hepcal.calibrators.likelihood import Likelihood
    from hepcal.calibrators.mse import MSE
    from hepcal.calibrators.noisy_labels import NoisyLabels
    from hepcal.calibrators.summary import SummaryLikelihood
    from hepcal.calibrators.transport import OptimalTransport
    from hepcal.constituents import Constituents
    from hepcal.crossfit import cross_fit
    from hepcal.features import Feature, Features
    from hepcal.filesets import load_fileset
    from hepcal.pairs import JetPairs
    from hepcal.prediction import Prediction
    from hepcal.training import train

__version__ = version("hepcal")

_HOMES = {
    "BNN": "hepcal.calibrators.bnn",
    "Calibrator": "hepcal.calibrators.base",
    "Constituents": "hepcal.constituents",
    "Dropout": "hepcal.calibrators.dropout",
    "Ensemble": "hepcal.calibrators.ensemble",
    "Feature": "hepcal.features",
    "Features": "hepcal.features",
    "GaussianAnsatz": "hepcal.calibrators.ansatz",
    "GeneralisedInversion": "hepcal.calibrators.generalised",
    "Heteroscedastic": "hepcal.calibrators.heteroscedastic",
    "JetPairs": "hepcal.pairs",
    "Likelihood": "hepcal.calibrators.likelihood",
    "MSE": "hepcal.calibrators.mse",
    "NoisyLabels": "hepcal.calibrators.noisy_labels",
    "NumericalInversion": "hepcal.calibrators.inversion",
    "OptimalTransport": "hepcal.calibrators.transport",
    "Prediction": "hepcal.prediction",
    "SummaryLikelihood": "hepcal.calibrators.summary",
    "cross_fit": "hepcal.crossfit",
    "load_fileset": "hepcal.filesets",
    "train": "hepcal.training",
}
_MODULES = (
    "augment", "diagnostics", "plot", "priors", "processors", "results", "scores", "spread", "tagging", "truth_closure",
)  # fmt: skip

__all__ = [
    "BNN",
    "MSE",
    "Calibrator",
    "Constituents",
    "Dropout",
    "Ensemble",
    "Feature",
    "Features",
    "GaussianAnsatz",
    "GeneralisedInversion",
    "Heteroscedastic",
    "JetPairs",
    "Likelihood",
    "NoisyLabels",
    "NumericalInversion",
    "OptimalTransport",
    "Prediction",
    "SummaryLikelihood",
    "augment",
    "cross_fit",
    "diagnostics",
    "load_fileset",
    "plot",
    "priors",
    "processors",
    "results",
    "scores",
    "spread",
    "tagging",
    "train",
    "truth_closure",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"hepcal.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hepcal' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
