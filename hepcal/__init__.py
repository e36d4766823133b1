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

from hepcal.methods.registry import class_places

if TYPE_CHECKING:
    from hepcal import augment, closure, evaluation, plot, processors, statistics, tagging
    from hepcal.distributions.prediction import Prediction
    from hepcal.evaluation.cross_fit import cross_fit
    from hepcal.events.constituents import Constituents
    from hepcal.events.features import Feature, Features
    from hepcal.events.filesets import load_fileset
    from hepcal.methods.ansatz.calibrator import GaussianAnsatz as GaussianAnsatz
    from hepcal.methods.calibrator import Calibrator
    from hepcal.methods.existing.calibrator import Column, Identity
    from hepcal.methods.generalised.calibrator import GeneralisedInversion as GeneralisedInversion
    from hepcal.methods.hessian.calibrator import Hessian as Hessian
    from hepcal.methods.inversion.calibrator import NumericalInversion as NumericalInversion
    from hepcal.methods.likelihood.calibrator import Likelihood as Likelihood
    from hepcal.methods.likelihood.summary import SummaryLikelihood as SummaryLikelihood
    from hepcal.methods.noisy_labels.calibrator import NoisyLabels as NoisyLabels
    from hepcal.methods.regression.bnn import BNN as BNN
    from hepcal.methods.regression.dropout import Dropout as Dropout
    from hepcal.methods.regression.ensemble import Ensemble as Ensemble
    from hepcal.methods.regression.heteroscedastic import Heteroscedastic as Heteroscedastic
    from hepcal.methods.regression.mse import MSE as MSE
    from hepcal.methods.training import train
    from hepcal.methods.transport.calibrator import OptimalTransport as OptimalTransport
    from hepcal.tables.pairs import JetPairs

__version__ = version("hepcal")

_MODULES = ("augment", "closure", "evaluation", "plot", "processors", "statistics", "tagging")
# Beside these, every method is here by the name of its class.
_HOMES = {
    "Calibrator": "hepcal.methods.calibrator",
    "Column": "hepcal.methods.existing.calibrator",
    "Constituents": "hepcal.events.constituents",
    "Feature": "hepcal.events.features",
    "Features": "hepcal.events.features",
    "Identity": "hepcal.methods.existing.calibrator",
    "JetPairs": "hepcal.tables.pairs",
    "Prediction": "hepcal.distributions.prediction",
    "cross_fit": "hepcal.evaluation.cross_fit",
    "load_fileset": "hepcal.events.filesets",
    "train": "hepcal.methods.training",
}
_MOVED = {
    "diagnostics": "hepcal.evaluation.diagnostics",
    "priors": "hepcal.evaluation",
    "results": "hepcal.closure",
    "scores": "hepcal.evaluation",
    "spread": "hepcal.evaluation.spread",
    "truth_closure": "hepcal.evaluation",
}

__all__ = [
    "Calibrator",
    "Column",
    "Constituents",
    "Feature",
    "Features",
    "Identity",
    "JetPairs",
    "Prediction",
    "augment",
    "closure",
    "cross_fit",
    "evaluation",
    "load_fileset",
    "plot",
    "processors",
    "statistics",
    "tagging",
    "train",
]
__all__ += list(class_places())


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"hepcal.{name}")
    home = _HOMES.get(name) or class_places().get(name, "").partition(":")[0]
    if home:
        return getattr(importlib.import_module(home), name)
    where = f": it is {_MOVED[name]} now" if name in _MOVED else f"; it has {', '.join(__all__)}"
    raise AttributeError(f"module 'hepcal' has no attribute {name!r}{where}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
