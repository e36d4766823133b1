"""Which methods there are, and where: a line each. The class of a method names its training and its calibrator.

Nothing is imported before it is needed, so names and descriptions cost no torch. Other distributions add methods as
entry points of the group ``hepcal.methods``, ``name = "module:Class"``; they are offered and loaded as ours.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepcal.errors import HepcalError, UnknownMethodError

if TYPE_CHECKING:
    from hepcal.methods.base import Method
    from hepcal.methods.calibrator import Calibrator
    from hepcal.methods.training.task import Learned, Task

__all__ = [
    "GROUP",
    "METHODS",
    "calibrator_of",
    "class_places",
    "learner_of",
    "method_of",
    "places",
    "regressions",
    "titles",
]

GROUP = "hepcal.methods"

# Regressions of the truth, which follow the truth spectrum of the training.
REGRESSIONS = {
    "bnn": "hepcal.methods.regression.bnn:BNN",
    "ensemble": "hepcal.methods.regression.ensemble:Ensemble",
    "hessian": "hepcal.methods.hessian.calibrator:Hessian",
    "heteroscedastic": "hepcal.methods.regression.heteroscedastic:Heteroscedastic",
    "dropout": "hepcal.methods.regression.dropout:Dropout",
    "mse": "hepcal.methods.regression.mse:MSE",
    "noisy_labels": "hepcal.methods.noisy_labels.calibrator:NoisyLabels",
}
# Calibrations that do not depend on the truth spectrum.
PRIOR_FREE = {
    "inversion": "hepcal.methods.inversion.calibrator:NumericalInversion",
    "generalised_inversion": "hepcal.methods.generalised.calibrator:GeneralisedInversion",
    "gaussian_ansatz": "hepcal.methods.ansatz.calibrator:GaussianAnsatz",
    "likelihood": "hepcal.methods.likelihood.calibrator:Likelihood",
    "summary_likelihood": "hepcal.methods.likelihood.summary:SummaryLikelihood",
}
# Maps of simulation to data, which are trained in Python: data are no part of a fileset.
OF_DATA = {"transport": "hepcal.methods.transport.calibrator:OptimalTransport"}
METHODS = {**REGRESSIONS, **PRIOR_FREE, **OF_DATA}


@cache
def places() -> dict[str, str]:
    """``module:Class`` of all methods by name, those of other distributions last.

    Raises:
        HepcalError: Another distribution claims a name that is taken.
    """
    found = dict(METHODS)
    for point in entry_points(group=GROUP):
        if found.setdefault(point.name, point.value) != point.value:
            raise HepcalError(
                f"the entry point {point.name!r} = {point.value!r} of the group {GROUP!r} has a name that is taken by "
                f"{found[point.name]}: give the method another one"
            )
    return found


def method_of(name: str) -> type[Method]:
    """The settings of a method.

    Raises:
        UnknownMethodError: There is none of this name.
        HepcalError: The entry point of another distribution is no method of this name.
    """
    from hepcal.methods.base import Method

    place = places().get(name)
    if place is None:
        raise UnknownMethodError(f"unknown method {name!r}; known are {', '.join(places())}")
    found = _at(place, f"the method {name!r}")
    if not (isinstance(found, type) and issubclass(found, Method) and found.name == name):
        raise HepcalError(f"{place} is no hepcal.methods.base.Method with the name {name!r}")
    return found


def calibrator_of(name: str) -> type[Calibrator]:
    """The calibrator that a method ends in.

    Raises:
        UnknownMethodError: There is none of this name.
        HepcalError: What its class names is no calibrator of it.
    """
    method = method_of(name)
    found = _at(method.calibrator, f"the calibrator of {name!r}")
    if not (isinstance(found, type) and getattr(found, "method", None) is method):
        raise HepcalError(f"{method.calibrator} is no hepcal.methods.calibrator.Calibrator of the method {name!r}")
    calibrator: type[Calibrator] = found
    return calibrator


def learner_of(name: str) -> Callable[[Task], Learned]:
    """The training of a method, a function from a task to what was learned.

    Raises:
        UnknownMethodError: There is none of this name.
        HepcalError: What its class names is no function.
    """
    method = method_of(name)
    found = _at(method.learner, f"the training of {name!r}")
    if not callable(found):
        raise HepcalError(f"{method.learner}, the training of {name!r}, is no function of a task")
    learner: Callable[[Task], Learned] = found
    return learner


def regressions(kind: type[Method]) -> tuple[str, ...]:
    """Names of the methods of a kind that follow the truth spectrum: a likelihood, which is made of one, does not."""
    methods = {name: method_of(name) for name in places()}
    return tuple(name for name, method in methods.items() if issubclass(method, kind) and method.follows_prior)


def class_places() -> dict[str, str]:
    """``module:Class`` of all methods by the name of the class."""
    return {place.rpartition(":")[2]: place for place in places().values()}


def titles() -> dict[str, str]:
    """First line of the docstring of every method's class, from its source: nothing that is large is imported."""
    return {name: _title(place) for name, place in places().items()}


def _title(place: str) -> str:
    module, _, name = place.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
    return ""


def _at(place: str, what: str) -> Any:
    """What stands at ``module:attribute``."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise HepcalError(f"{what} is not at {place!r}: {error}") from error
