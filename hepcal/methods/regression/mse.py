"""A deterministic regression with squared error: the baseline whose prior dependence the others are held against."""

from __future__ import annotations

from typing import ClassVar

import torch

from hepcal.methods.regression.heteroscedastic import members_of
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.methods.regression.settings import Regression
from hepcal.networks.heads import Head, PointHead
from hepcal.networks.objectives import MembersObjective, TrainingSet

__all__ = ["MSE", "MSECalibrator"]


class MSE(Regression):
    """One network with squared error, no uncertainties.

    It minimises (y - f(x))², y = pt_truth / pt_reco. Its optimum is the posterior mean of the training sample
    (arXiv:2205.05084, Eq. 5): it depends on the truth spectrum, and provides no uncertainty.
    """

    name: ClassVar[str] = "mse"
    calibrator: ClassVar[str] = "hepcal.methods.regression.mse:MSECalibrator"

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> MembersObjective:
        """Mean squared error in units of the target scale."""
        head = self.build_head()
        networks = members_of(head, (sample.inputs, *self.hidden), sample.target, generator)
        return MembersObjective(networks, head, 0.0, autograd=self.autograd)

    def build_head(self) -> Head:
        """See :meth:`NetworkMethod.build_head`."""
        return PointHead()

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return 1


class MSECalibrator(NetworkCalibrator):
    """A trained squared-error regression; ``pt_calib`` is its prediction, without uncertainties."""

    method = MSE
