"""A method: the settings of a training; for networks, the objective it minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from hepcal.events.features import Features
from hepcal.methods.card import Quantity
from hepcal.networks.heads import Head
from hepcal.networks.objectives import Objective, TrainingSet
from hepcal.networks.optimisation import Schedule, ScheduleName

__all__ = ["Method", "NetworkMethod", "Positive", "PositiveFloat"]

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]

SIGMA_STOCH, SIGMA_PRED, SIGMA_TOT = (f"pt_calib_sigma_{kind}" for kind in ("stoch", "pred", "tot"))


class Method(BaseModel, ABC):
    """Settings common to all methods; nothing here changes once it is made.

    ``quantity`` says what ``pt_calib`` promises and ``uncertainties`` which columns come with it, both fixed before any
    study. ``follows_prior`` says whether the result depends on the truth spectrum of the training; it has no default.
    ``needs_data`` marks methods that map simulation to data, ``can_collapse`` those that may learn to say the same of
    every jet, ``resumes`` those whose training writes checkpoints and goes on from them. ``learner`` and ``calibrator``
    name, as ``module:attribute``, the training, a function from a :class:`~hepcal.methods.training.task.Task` to what
    was learned, and the class of :class:`~hepcal.methods.calibrator.Calibrator` that holds it.

    Attributes:
        validation: Share of the events held out to judge the training.

    Raises:
        pydantic.ValidationError: A setting is unknown or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    learner: ClassVar[str]
    calibrator: ClassVar[str]
    quantity: ClassVar[Quantity] = "mean"
    uncertainties: ClassVar[tuple[str, ...]] = ()
    follows_prior: ClassVar[bool]
    needs_data: ClassVar[bool] = False
    can_collapse: ClassVar[bool] = False
    resumes: ClassVar[bool] = False

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @property
    def promised(self) -> Quantity:
        """What ``pt_calib`` of this training promises: ``quantity``, or what a setting chose instead."""
        return self.quantity

    def keeps(self, spec: Features) -> Features:
        """The inputs that this method uses of those in a table; default: all."""
        return spec


class NetworkMethod(Method, ABC):
    """Methods that train networks with the loop of :mod:`hepcal.networks.optimisation`.

    Attributes:
        hidden: Units of the hidden layers.
        batch: Jets per update.
        learning_rate: Step size of Adam at the start.
        schedule: ``plateau`` divides the step size by about three at each plateau of the held-out loss and ends at the
            third; ``cosine`` lets it fall to zero at ``max_updates``; ``constant`` keeps it and ends at the first
            plateau.
        max_updates: Updates after which the training ends in any case.
        patience: Updates without a better held-out loss that count as a plateau.
        autograd: Use automatic differentiation where hand-written gradients exist: slower, and equal to rounding.
    """

    follows_prior: ClassVar[bool] = True
    can_collapse: ClassVar[bool] = True
    resumes: ClassVar[bool] = True

    hidden: tuple[Positive, ...] = (100, 100, 50, 50)
    batch: Positive = 200
    learning_rate: PositiveFloat = 1e-3
    schedule: ScheduleName = "plateau"
    max_updates: Positive = 30_000
    patience: Positive = 2_000
    autograd: bool = False

    @abstractmethod
    def objective(self, sample: TrainingSet, generator: torch.Generator) -> Objective:
        """A fresh objective.

        Args:
            sample: What there is to know of the training sample.
            generator: Random numbers for the starting point.
        """

    @abstractmethod
    def build_head(self) -> Head:
        """The likelihood."""

    def examined(
        self,
        objective: Objective,  # noqa: ARG002
        seen: Callable[[], tuple[torch.Tensor, np.ndarray]],  # noqa: ARG002
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """What a look at the finished networks adds to the calibrator: tensors, and figures of the card.

        Args:
            objective: After the training.
            seen: Gives some of the jets that it has seen: standardised inputs (m, d) and detector-level p_T (m,) [GeV].
        """
        return {}, {}

    @property
    @abstractmethod
    def networks(self) -> int:
        """Number of networks that the finished calibrator holds."""

    @property
    def descent(self) -> Schedule:
        """How the objective is minimised."""
        return Schedule(self.name, self.batch, self.learning_rate, self.schedule, self.max_updates, self.patience)
