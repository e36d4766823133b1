"""Regressions that are parts of another method, network by network."""

from __future__ import annotations

from typing import TypeVar

from hepcal.methods.regression.ensemble import Ensemble
from hepcal.methods.regression.settings import Regression

__all__ = ["paired"]

Kind = TypeVar("Kind", bound=Regression)


def paired(method: Kind, what: str) -> Kind:
    """The same method for networks that are paired with others: of an ensemble, each has its own bootstrap sample.

    Args:
        method: The regression. What does not follow the prior is made of one, and refused elsewhere.
        what: What it is to be a part of, for the message.

    Raises:
        ValueError: Its error is found after the training, which pairs do not carry.
    """
    if method.follows_prior and method.learner != Regression.learner:
        raise ValueError(
            f"{what} does not carry the error of {method.name!r}, which is found after the training: take ensemble, "
            "or heteroscedastic without an error of its own"
        )
    return method.model_copy(update={"starts": 1}) if isinstance(method, Ensemble) else method
