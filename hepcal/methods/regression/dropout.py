"""Monte-Carlo dropout: one network, many masks."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from hepcal.methods.base import SIGMA_PRED, SIGMA_STOCH, SIGMA_TOT
from hepcal.methods.regression.heteroscedastic import members_of
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.methods.regression.settings import DensityMethod
from hepcal.networks.objectives import MembersObjective, TrainingSet

__all__ = ["Dropout", "DropoutCalibrator"]


class Dropout(DensityMethod):
    """One network under random masks, in training and in prediction (Monte-Carlo dropout, arXiv:1506.02142).

    The spread over masks is attached as ``pt_calib_sigma_pred``, but it does not shrink as the training sample grows
    at a fixed rate: a baseline, not a statistical error.

    Attributes:
        rate: Probability to drop a hidden unit.
        draws: Masks saved with the calibrator.
    """

    name: ClassVar[str] = "dropout"
    calibrator: ClassVar[str] = "hepcal.methods.regression.dropout:DropoutCalibrator"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH, SIGMA_PRED, SIGMA_TOT)

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    draws: Annotated[int, Field(ge=2)] = 50

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> MembersObjective:
        """The negative log-likelihood per jet under fresh masks, with L2 strength 1 / (2 prior_width² N)."""
        head = self.build_head()
        networks = members_of(head, (sample.inputs, *self.hidden), sample.target, generator, dropout=self.rate)
        decay = 0.5 / (self.prior_width**2 * sample.n_eff)
        return MembersObjective(networks, head, decay, draws=self.draws, autograd=self.autograd)

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return self.draws


class DropoutCalibrator(NetworkCalibrator):
    """A trained network under its saved masks; ``pt_calib`` is the mean over masks."""

    method = Dropout
    sigmas = Dropout.uncertainties
