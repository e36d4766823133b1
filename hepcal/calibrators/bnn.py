"""The Bayesian network of arXiv:2003.11099: a Gaussian likelihood, Gaussian weights, and saved weight draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from hepcal.calibrators.base import Calibrator
from hepcal.calibrators.method import Method, PositiveFloat
from hepcal.networks.bayesian import MeanFieldPosterior
from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import gaussian_nll, gaussian_parameters
from hepcal.networks.inference import WeightDraws, blocks, single_threaded
from hepcal.prediction import Prediction, combine_draws, in_quadrature

__all__ = ["BNN", "BNNCalibrator"]

HELD_OUT_SAMPLES = 4
HELD_OUT_SEED = 20031109


class BNN(Method):
    """Bayesian network: mean-field Gaussian weights, heteroscedastic Gaussian likelihood, exact ELBO.

    Learns y = pt_truth / pt_reco given the inputs: a regression of the truth, so it depends on the truth spectrum of
    the training (arXiv:2205.05084).

    Attributes:
        prior_width: Width of the Gaussian prior of every weight.
        draws: Weight draws saved with the calibrator; sigma_pred has a relative error of 1/sqrt(2 (draws - 1)).
    """

    name: ClassVar[str] = "bnn"

    prior_width: PositiveFloat = 0.1
    draws: Annotated[int, Field(ge=2)] = 50

    def objective(
        self,
        inputs: int,
        n_eff: float,
        target: torch.Tensor,
        generator: torch.Generator,
    ) -> ElboObjective:
        """The negative ELBO per jet."""
        return ElboObjective(self, DenseLayout((inputs, *self.hidden, 2)), n_eff, target, generator)


class ElboObjective:
    """Weighted mean of the negative log-likelihood plus KL / N (arXiv:2003.11099, Eq. 8, divided by N)."""

    def __init__(
        self, method: BNN, layout: DenseLayout, n_eff: float, target: torch.Tensor, generator: torch.Generator
    ) -> None:
        self.method, self.n_eff = method, n_eff
        self.module = MeanFieldPosterior(layout, generator)
        spread = target.std().clamp_min(1e-2)
        with torch.no_grad():
            bias = layout.split(self.module.mean)[-1][1]
            assert bias is not None  # noqa: S101
            bias[0] = target.mean()
            bias[1] = torch.log(torch.expm1(spread.clamp_max(50)))  # sigma starts at the spread of the target

    def loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Batch estimate of the negative ELBO per jet, one weight draw per jet."""
        nll = gaussian_nll(*gaussian_parameters(self.module(x, generator)), y)
        return (w * nll).mean() + self.module.kl(self.method.prior_width) / self.n_eff

    @torch.no_grad()
    def held_out_loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> float:
        """The same with held-out jets; the KL part makes it notice widths that still move."""
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        nll = sum(gaussian_nll(*gaussian_parameters(self.module(x, generator)), y) for _ in range(HELD_OUT_SAMPLES))
        mean = torch.sum(w * nll) / (HELD_OUT_SAMPLES * torch.sum(w))
        return float(mean + self.module.kl(self.method.prior_width) / self.n_eff)

    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Posterior and weight draws."""
        return {
            "posterior_mean": self.module.mean,
            "posterior_sigma": self.module.sigma,
            "draws": self.module.draw(self.method.draws, generator),
        }


class BNNCalibrator(Calibrator):
    """A trained Bayesian network; ``pt_calib`` is the posterior mean of the predictive mean."""

    sigmas: ClassVar[tuple[str, ...]] = ("pt_calib_sigma_stoch", "pt_calib_sigma_pred", "pt_calib_sigma_tot")

    def _prepare(self) -> None:
        settings = BNN.model_validate(self.card.settings)
        layout = DenseLayout((len(self.inputs.transforms), *settings.hidden, 2))
        draws = self._require("draws", (settings.draws, layout.count))
        self._networks = WeightDraws(layout, draws, self.device)

    def predict(self, features: np.ndarray, reco: np.ndarray) -> Prediction:
        """See :meth:`Calibrator.predict`; densities are computed for the jets that ask for them."""
        features, reco = self._checked(features, reco)
        columns = self._columns(features, reco)

        def components(part: slice) -> tuple[np.ndarray, np.ndarray]:
            parts = [(m * r, s * r) for m, s, r, _ in self._draws(features[part], reco[part])]
            if not parts:
                return (np.empty((self._networks.count, 0), dtype=np.float32),) * 2
            mean, sigma = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
            return mean[:, : len(reco[part])], sigma[:, : len(reco[part])]

        return Prediction(
            mean=columns["pt_calib"],
            sigma_stoch=columns["pt_calib_sigma_stoch"],
            sigma_pred=columns["pt_calib_sigma_pred"],
            in_range=columns["pt_calib_in_range"],
            components=components,
        )

    def _columns(self, features: np.ndarray, reco: np.ndarray) -> dict[str, np.ndarray]:
        columns = {
            name: np.empty(len(reco), dtype=bool if name.endswith("in_range") else np.float32) for name in self.columns
        }
        part = slice(0, 0)
        for mean, sigma, pt, inside in self._draws(features, reco):
            part = slice(part.stop, min(part.stop + len(pt), len(reco)))
            center, stoch, pred = (moment * pt for moment in combine_draws(mean, sigma))
            stoch, pred = stoch.astype(np.float32), pred.astype(np.float32)
            values = (center, stoch, pred, in_quadrature(stoch, pred), inside)
            for name, value in zip(self.columns, values, strict=True):
                columns[name][part] = value[: part.stop - part.start]
        return columns

    @torch.no_grad()
    def _draws(
        self, features: np.ndarray, reco: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Block by block: mean and sigma of y per draw (draws, BLOCK), p_T [GeV] and support flag (BLOCK,)."""
        with single_threaded():
            for _, block in blocks(features, reco):
                inputs = self.inputs(block)
                outputs = self._networks(inputs)
                mean, sigma = gaussian_parameters(outputs, dim=1)
                yield (
                    (mean * self.target.scale + self.target.location).cpu().numpy(),
                    (sigma * self.target.scale).cpu().numpy(),
                    block[0].numpy().astype(np.float64),
                    self.inputs.inside(inputs).numpy(),
                )
