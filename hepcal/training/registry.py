"""What learns each method."""

from __future__ import annotations

from collections.abc import Callable

from hepcal.training import regression
from hepcal.training.learned import Learned, Task

__all__ = ["LEARNERS"]

Learner = Callable[[Task], Learned]

LEARNERS: dict[str, Learner] = {
    "bnn": regression.learn,
    "heteroscedastic": regression.learn,
    "mse": regression.learn,
    "dropout": regression.learn,
    "ensemble": regression.learn,
}
