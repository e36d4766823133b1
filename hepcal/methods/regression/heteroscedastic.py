"""A deterministic network with a density as its output: sigma_stoch without sigma_pred."""

from __future__ import annotations

from typing import ClassVar

import torch

from hepcal.methods.base import SIGMA_STOCH
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.methods.regression.settings import DensityMethod
from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import Head
from hepcal.networks.members import Members
from hepcal.networks.objectives import MembersObjective, TrainingSet

__all__ = ["Heteroscedastic", "HeteroscedasticCalibrator", "members_of"]


class Heteroscedastic(DensityMethod):
    """One network that predicts a width, too: sigma_stoch without sigma_pred.

    It minimises the negative log-likelihood plus L2: the BNN with its widths at zero. It knows nothing of the error of
    its own training: where jets are few, sigma_stoch contains what the network did not learn there. It depends on the
    truth spectrum of the training (arXiv:2205.05084).
    """

    name: ClassVar[str] = "heteroscedastic"
    calibrator: ClassVar[str] = "hepcal.methods.regression.heteroscedastic:HeteroscedasticCalibrator"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH,)

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> MembersObjective:
        """The negative log-likelihood per jet, with L2 strength 1 / (2 prior_width² N)."""
        head = self.build_head()
        networks = members_of(head, (sample.inputs, *self.hidden), sample.target, generator)
        decay = 0.5 / (self.prior_width**2 * sample.n_eff)
        return MembersObjective(networks, head, decay, autograd=self.autograd)

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return 1


class HeteroscedasticCalibrator(NetworkCalibrator):
    """A trained deterministic density; ``pt_calib`` is its mean."""

    method = Heteroscedastic
    sigmas = Heteroscedastic.uncertainties


def members_of(
    head: Head, sizes: tuple[int, ...], target: torch.Tensor, generator: torch.Generator, count: int = 1,
    dropout: float = 0.0,
) -> Members:  # fmt: skip
    """Networks that begin at the spread of the target."""
    layout = DenseLayout((*sizes, head.outputs))
    networks = Members(layout, count, generator, dropout)
    layout.set_output_bias(networks.weights, head.start(target))
    return networks
