"""The Bayesian network of arXiv:2003.11099: Gaussian weights, a likelihood of choice, and saved weight draws."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from hepcal.methods.base import SIGMA_PRED, SIGMA_STOCH, SIGMA_TOT
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.methods.regression.settings import DensityMethod
from hepcal.networks.bayesian import START_RHO, Estimator, MeanFieldPosterior
from hepcal.networks.dense import DenseLayout
from hepcal.networks.objectives import ElboObjective, TrainingSet

__all__ = ["BNN", "BNNCalibrator"]


class BNN(DensityMethod):
    """Bayesian network: mean-field Gaussian weights, heteroscedastic likelihood, exact ELBO; the default.

    Learns y = pt_truth / pt_reco given the inputs: a regression of the truth, so it depends on the truth spectrum of
    the training (arXiv:2205.05084).

    Attributes:
        draws: Weight draws saved with the calibrator; sigma_pred has a relative error of 1/sqrt(2 (draws - 1)).
        estimator: How weights are drawn in training: ``local`` reparametrisation, ``flipout`` (the choice of
            arXiv:2003.11099), or ``shared``, one draw for a whole batch.
    """

    name: ClassVar[str] = "bnn"
    calibrator: ClassVar[str] = "hepcal.methods.regression.bnn:BNNCalibrator"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH, SIGMA_PRED, SIGMA_TOT)

    draws: Annotated[int, Field(ge=2)] = 50
    estimator: Estimator = "local"

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> ElboObjective:
        """The negative ELBO per jet."""
        head = self.build_head()
        layout = DenseLayout((sample.inputs, *self.hidden, head.outputs))
        # Widths beyond that of the prior would first have to come down to it.
        start = min(START_RHO, math.log(math.expm1(min(self.prior_width, 1.0))))
        posterior = MeanFieldPosterior(layout, generator, start)
        posterior.layout.set_output_bias(posterior.mean, head.start(sample.target))
        return ElboObjective(
            posterior, head, sample.n_eff, self.prior_width, self.draws, self.estimator, autograd=self.autograd
        )

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return self.draws


class BNNCalibrator(NetworkCalibrator):
    """A trained Bayesian network; ``pt_calib`` is the posterior mean of the predictive mean."""

    method = BNN
    sigmas = BNN.uncertainties
