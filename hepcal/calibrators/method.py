"""A method: the settings of a training, and the objective it minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field

from hepcal.calibrators.base import Quantity

__all__ = ["Method", "Objective"]

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Objective(Protocol):
    """What a training loop needs to know of a method."""

    @property
    def module(self) -> torch.nn.Module:
        """Holds the trained parameters."""

    def loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Loss of a batch: inputs (b, d), standardised targets (b,), weights (b,) of mean one over the table."""

    def held_out_loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> float:
        """The same for held-out jets, with the same random numbers each time."""

    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """What the finished calibrator keeps."""


class Method(BaseModel, ABC):
    """Settings common to all trained methods; nothing here changes once it is made.

    Attributes:
        hidden: Units of the hidden layers.
        batch: Jets per update.
        learning_rate: Step size of Adam at the start; divided by about three at each plateau, twice.
        max_updates: Updates after which the training ends in any case.
        patience: Updates without a better held-out loss that count as a plateau.
        validation: Share of the events held out to notice plateaus.

    Raises:
        pydantic.ValidationError: A setting is unknown or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    quantity: ClassVar[Quantity] = "mean"

    hidden: tuple[Positive, ...] = (100, 100, 50, 50)
    batch: Positive = 200
    learning_rate: PositiveFloat = 1e-3
    max_updates: Positive = 30_000
    patience: Positive = 2_000
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @abstractmethod
    def objective(
        self,
        inputs: int,
        n_eff: float,
        target: torch.Tensor,
        generator: torch.Generator,
    ) -> Objective:
        """A fresh objective.

        Args:
            inputs: Number of network inputs.
            n_eff: Effective number of training jets: divides the KL term.
            target: Standardised training targets, for starting values.
            generator: Random numbers for the starting point.
        """
