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
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepcal.errors import HepcalError, MethodWarning, UnknownMethodError, warn

if TYPE_CHECKING:
    from hepcal.methods.base import Method
    from hepcal.methods.calibrator import Calibrator
    from hepcal.methods.training.task import Learned, Task

__all__ = [
    "GROUP",
    "METHODS",
    "calibrator_of",
    "class_places",
    "is_regression",
    "known_names",
    "learner_of",
    "method_of",
    "places",
    "regressions",
    "titles",
]

GROUP = "hepcal.methods"
# What a method says of itself beside its name.
DECLARED = ("learner", "calibrator", "follows_prior")
# Classes of ``hepcal`` that are no methods.
PUBLIC = ("Calibrator", "Constituents", "Feature", "Features", "JetPairs", "Prediction")

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
def _known() -> tuple[dict[str, str], dict[str, str]]:
    """``module:Class`` of all methods that can be offered, and why entry points of other distributions are not."""
    found, refused = dict(METHODS), dict[str, str]()
    others: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        if METHODS.get(point.name) != point.value:
            others.setdefault(point.name, []).append(point)
    classes = {_class_name(place): f"hepcal's own {place}" for place in METHODS.values()}
    classes |= {name: f"hepcal.{name}" for name in PUBLIC}
    for name, points in others.items():
        what = " and ".join(f"{point.name!r} = {point.value!r} of {_distribution(point)}" for point in points)
        value, reason = points[0].value, ""
        if name in METHODS:
            reason = f"has a name that is taken by {METHODS[name]}"
        elif len({point.value for point in points}) > 1:
            reason = "have one name: uninstall one of the distributions"
        elif not name.isidentifier() or name == "mro" or name.startswith("_"):
            reason = "has no name that a command line can offer: letters, digits and underscores"
        elif _class_name(value) in classes:
            reason = f"has a class of the name of {classes[_class_name(value)]}"
        if reason:
            refused[name] = f"the entry point {what} of the group {GROUP!r} {reason}"
            warn(f"Left out: {refused[name]}. Give the method another name", MethodWarning)
            continue
        found[name] = value
        classes[_class_name(value)] = f"{value} of {_distribution(points[0])}"
    return found, refused


def places() -> dict[str, str]:
    """``module:Class`` of all methods by name, those of other distributions last."""
    return dict(_known()[0])


def known_names() -> frozenset[str]:
    """Names of all methods, also of those that were left out: asking for one of these says why."""
    return frozenset().union(*_known())


def method_of(name: str) -> type[Method]:
    """The settings of a method.

    Raises:
        UnknownMethodError: There is none of this name.
        HepcalError: The entry point of another distribution is no method of this name, or was left out.
    """
    from hepcal.methods.base import Method

    known, refused = _known()
    if name in refused and name not in known:
        raise HepcalError(refused[name])
    place = known.get(name)
    if place is None:
        raise UnknownMethodError(f"unknown method {name!r}; known are {', '.join(known)}")
    found = _at(place, f"the method {name!r}")
    if not (isinstance(found, type) and issubclass(found, Method) and getattr(found, "name", None) == name):
        raise HepcalError(f"{place} is no hepcal.methods.base.Method with the name {name!r}")
    if missing := [part for part in DECLARED if getattr(found, part, None) is None]:
        raise HepcalError(f"{place}, the method {name!r}, does not say {', '.join(missing)}: each is a class attribute")
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
    if isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise HepcalError(f"{method.calibrator}, the calibrator of {name!r}, lacks {missing}")
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


def is_regression(name: str | None, kind: type[Method]) -> bool:
    """Whether there is a method of this name and kind that follows the truth spectrum; no other one is imported."""
    if name is None or name not in places():
        return False
    method = method_of(name)
    return issubclass(method, kind) and method.follows_prior


def regressions(kind: type[Method]) -> tuple[str, ...]:
    """Names of the methods of a kind that follow the truth spectrum: a likelihood, which is made of one, does not.

    Methods of other distributions that cannot be imported are left out.
    """
    found = []
    for name in places():
        try:
            if is_regression(name, kind):
                found.append(name)
        except HepcalError:
            if name in METHODS:
                raise
    return tuple(found)


def class_places() -> dict[str, str]:
    """``module:Class`` of all methods by the name of the class."""
    return {_class_name(place): place for place in places().values()}


def titles() -> dict[str, str]:
    """First line of the docstring of every method's class, from its source: nothing that is large is imported."""
    return {name: _title(place) for name, place in places().items()}


def _title(place: str) -> str:
    module, _, name = place.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return ""
        body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    except (ImportError, ValueError, SyntaxError, OSError):
        # What is wrong with it is said when it is used.
        return ""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
    return ""


def _at(place: str, what: str) -> Any:
    """What stands at ``module:attribute``."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        # A module of another distribution may fail in any way.
        raise HepcalError(f"{what} is not at {place!r}: {type(error).__name__}: {error}") from error


def _class_name(place: str) -> str:
    return place.rpartition(":")[2]


def _distribution(point: EntryPoint) -> str:
    return f"the distribution {point.dist.name!r}" if point.dist else "an unknown distribution"
