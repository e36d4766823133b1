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
from importlib.metadata import EntryPoint, distributions, entry_points
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hepcal.errors import HepcalError, MethodWarning, UnknownMethodError, warn

if TYPE_CHECKING:
    from hepcal.methods.base import Method
    from hepcal.methods.calibrator import Calibrator
    from hepcal.methods.training.task import Learned, Task

__all__ = [
    "GROUP",
    "EXISTING",
    "METHODS",
    "broken",
    "calibrator_of",
    "class_places",
    "is_regression",
    "known_names",
    "learner_of",
    "method_of",
    "offered",
    "owner",
    "places",
    "regressions",
    "titles",
]

GROUP = "hepcal.methods"
# What a method says of itself beside its name.
DECLARED = ("learner", "calibrator", "follows_prior")
# Names of ``hepcal`` that are no methods.
PUBLIC = (
    "Calibrator", "Column", "Constituents", "Feature", "Features", "Identity", "JetPairs", "Prediction", "augment",
    "closure", "cross_fit", "evaluation", "load_fileset", "plot", "processors", "statistics", "tagging", "train",
)  # fmt: skip
# Columns of uncertainties begin with it: calibrators find their own columns by that, and no other field is hidden.
COLUMN = "pt_calib_sigma_"

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
# Calibrations that are not trained: functions of these names make calibrators of them.
EXISTING = {
    "identity": "hepcal.methods.existing.calibrator:Unchanged",
    "column": "hepcal.methods.existing.calibrator:ExistingColumn",
}
OURS = {**METHODS, **EXISTING}


@cache
def _known() -> tuple[dict[str, str], dict[str, str]]:
    """``module:Class`` of all methods that can be offered, and why entry points of other distributions are not."""
    found, refused = dict(OURS), dict[str, str]()
    others: dict[str, list[EntryPoint]] = {}
    for point in _entry_points():
        if OURS.get(point.name) != point.value:
            others.setdefault(point.name, []).append(point)
    classes = {_class_name(place): f"hepcal's own {place}" for place in OURS.values()}
    classes |= {name: f"hepcal.{name}" for name in PUBLIC}
    for name, points in others.items():
        what = " and ".join(f"{point.name!r} = {point.value!r} of {_distribution(point)}" for point in points)
        value, reason = points[0].value, ""
        if name in OURS:
            reason = f"has a name that is taken by {OURS[name]}"
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


def _entry_points() -> list[EntryPoint]:
    """Those of all distributions; a distribution whose list cannot be read is left out with a warning."""
    try:
        return list(entry_points(group=GROUP))
    except Exception:  # noqa: BLE001 - one damaged list: the others are read one by one
        found: dict[str, list[EntryPoint]] = {}
        for distribution in distributions():
            # The first on the path counts, as for imports.
            if (name := str(distribution.name)) in found:
                continue
            try:
                found[name] = list(distribution.entry_points.select(group=GROUP))
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it
                found[name] = []
                warn(f"Left out: the entry points of the distribution {name!r} cannot be read: {error}", MethodWarning)
        return [point for points in found.values() for point in points]


@cache
def _owners() -> dict[str, str]:
    """The distributions of the methods of others, by name of the method."""
    return {point.name: _distribution(point) for point in _entry_points() if point.name not in OURS}


def owner(name: str) -> str:
    """Which distribution a method is of, to follow its name in a message; empty for ours."""
    return f" of {_owners()[name]}" if name in _owners() else ""


def places() -> dict[str, str]:
    """``module:Class`` of all methods by name, those of other distributions last."""
    return dict(_known()[0])


def offered() -> tuple[str, ...]:
    """Names of the methods that a fileset or a table can be trained with."""
    return tuple(name for name in places() if name not in OF_DATA | EXISTING)


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
    found = _at(place, f"the method {name!r}", name)
    if not (isinstance(found, type) and issubclass(found, Method) and getattr(found, "name", None) == name):
        raise HepcalError(f"{place}{owner(name)} is no hepcal.methods.base.Method with the name {name!r}")
    if missing := [part for part in DECLARED if getattr(found, part, None) is None]:
        raise HepcalError(
            f"{place}, the method {name!r}, does not say {', '.join(missing)}: each is a class attribute{_in(name)}"
        )
    _refuse_declarations(found, f"{place}, the method {name!r}{owner(name)},")
    return found


def calibrator_of(name: str) -> type[Calibrator]:
    """The calibrator that a method ends in.

    Raises:
        UnknownMethodError: There is none of this name.
        HepcalError: What its class names is no calibrator of it.
    """
    from hepcal.methods.calibrator import Calibrator

    method = method_of(name)
    found = _at(method.calibrator, f"the calibrator of {name!r}", name)
    if not (isinstance(found, type) and issubclass(found, Calibrator) and getattr(found, "method", None) is method):
        raise HepcalError(
            f"{method.calibrator} is no hepcal.methods.calibrator.Calibrator of the method {name!r}{owner(name)}: it "
            f"needs the line method = {method.__name__}"
        )
    what = f"{method.calibrator}, the calibrator of {name!r}"
    if isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise HepcalError(f"{what}, lacks {missing}{_in(name)}")
    if not isinstance(found.sigmas, property) and set(found.sigmas) != set(method.uncertainties):
        raise HepcalError(
            f"{what}, has sigmas = {found.sigmas!r}, the method{owner(name)} has uncertainties = "
            f"{method.uncertainties!r}: leave sigmas out, they are those of the method"
        )
    return found


def learner_of(name: str) -> Callable[[Task], Learned]:
    """The training of a method, a function from a task to what was learned.

    Raises:
        UnknownMethodError: There is none of this name.
        HepcalError: What its class names is no function.
    """
    method = method_of(name)
    found = _at(method.learner, f"the training of {name!r}", name)
    if not callable(found):
        raise HepcalError(f"{method.learner}, the training of {name!r}, is no function of a task{_in(name)}")
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
            if name in OURS:
                raise
    return tuple(found)


def broken() -> dict[str, str]:
    """Why methods of other distributions cannot be used, by name; they are imported for that, as when they train."""
    found = {}
    for name in known_names() - OURS.keys():
        try:
            calibrator_of(name), learner_of(name)
        except HepcalError as error:
            found[name] = str(error)
    return dict(sorted(found.items()))


def class_places() -> dict[str, str]:
    """``module:Class`` of all methods that are trained by the name of the class."""
    return {_class_name(place): place for name, place in places().items() if name not in EXISTING}


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


def _at(place: str, what: str, method: str) -> Any:
    """What stands at ``module:attribute``."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        # A module of another distribution may fail in any way.
        raise HepcalError(f"{what} is not at {place!r}: {type(error).__name__}: {error}{_in(method)}") from error


def _in(method: str) -> str:
    """The distribution of a method, at the end of a message; nothing for ours."""
    return f" (it is{found})" if (found := owner(method)) else ""


def _refuse_declarations(method: type[Method], what: str) -> None:
    """Refuse settings that nothing could be trained with.

    Raises:
        HepcalError: They are abstract, or promise what there is not.
    """
    from hepcal.methods.card import Quantity

    if isabstract(method):
        raise HepcalError(f"{what} lacks {', '.join(sorted(getattr(method, '__abstractmethods__', ())))}")
    if (quantity := getattr(method, "quantity", None)) not in get_args(Quantity):
        raise HepcalError(f"{what} has quantity = {quantity!r}: it is one of {', '.join(get_args(Quantity))}")
    columns = getattr(method, "uncertainties", None)
    if not (isinstance(columns, tuple) and all(isinstance(c, str) and c.startswith(COLUMN) for c in columns)):
        raise HepcalError(f"{what} has uncertainties = {columns!r}: a tuple of columns whose names begin with {COLUMN}")


def _class_name(place: str) -> str:
    return place.rpartition(":")[2]


def _distribution(point: EntryPoint) -> str:
    return f"the distribution {point.dist.name!r}" if point.dist else "an unknown distribution"
