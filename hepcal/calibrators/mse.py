"""A deterministic regression with squared error: the baseline whose prior dependence the others are held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch

from hepcal.calibrators.base import Calibrator
from hepcal.calibrators.method import Method
from hepcal.networks.dense import DenseLayout
from hepcal.networks.inference import WeightDraws, blocks, single_threaded
from hepcal.prediction import Prediction

__all__ = ["MSE", "MSECalibrator"]


class MSE(Method):
    """Deterministic network that minimises (y - f(x))², y = pt_truth / pt_reco.

    Its optimum is the posterior mean of the training sample (arXiv:2205.05084, Eq. 5): it depends on the truth
    spectrum, and provides no uncertainty.
    """

    name: ClassVar[str] = "mse"

    def objective(
        self,
        inputs: int,
        n_eff: float,  # noqa: ARG002 - there is no KL term to divide
        target: torch.Tensor,
        generator: torch.Generator,
    ) -> SquaredError:
        """Mean squared error in units of the target scale."""
        return SquaredError(DenseLayout((inputs, *self.hidden, 1)), target, generator)


class FlatNetwork(torch.nn.Module):
    """A dense network with its parameters in one vector."""

    def __init__(self, layout: DenseLayout, generator: torch.Generator) -> None:
        super().__init__()
        self.layout = layout
        self.parameters_flat = torch.nn.Parameter(layout.start(generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (batch, out)."""
        return self.layout.forward(self.parameters_flat, x)


class SquaredError:
    """Weighted mean squared error."""

    def __init__(self, layout: DenseLayout, target: torch.Tensor, generator: torch.Generator) -> None:
        self.module = FlatNetwork(layout, generator)
        with torch.no_grad():
            bias = layout.split(self.module.parameters_flat)[-1][1]
            assert bias is not None  # noqa: S101
            bias[0] = target.mean()

    def loss(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        w: torch.Tensor,
        generator: torch.Generator,  # noqa: ARG002 - deterministic
    ) -> torch.Tensor:
        """Loss of a batch."""
        return torch.mean(w * (y - self.module(x)[:, 0]) ** 2)

    @torch.no_grad()
    def held_out_loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> float:
        """Loss of held-out jets."""
        return float(torch.sum(w * (y - self.module(x)[:, 0]) ** 2) / torch.sum(w))

    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:  # noqa: ARG002 - no draws
        """The network."""
        return {"network": self.module.parameters_flat}


class MSECalibrator(Calibrator):
    """A trained squared-error regression; ``pt_calib`` is its prediction, without uncertainties."""

    def _prepare(self) -> None:
        hidden = MSE.model_validate(self.card.settings).hidden
        layout = DenseLayout((len(self.inputs.transforms), *hidden, 1))
        self._network = WeightDraws(layout, self._require("network", (layout.count,))[None], self.device)

    def predict(self, features: np.ndarray, reco: np.ndarray) -> Prediction:
        """See :meth:`Calibrator.predict`."""
        columns = self._columns(*self._checked(features, reco))
        return Prediction(columns["pt_calib"], None, None, columns["pt_calib_in_range"])

    @torch.no_grad()
    def _columns(self, features: np.ndarray, reco: np.ndarray) -> dict[str, np.ndarray]:
        pt, inside = np.empty(len(reco), dtype=np.float32), np.empty(len(reco), dtype=bool)
        with single_threaded():
            for part, block in blocks(features, reco):
                size = part.stop - part.start
                inputs = self.inputs(block)
                y = self._network(inputs)[0, 0].cpu() * self.target.scale + self.target.location
                pt[part] = (y * block[0]).numpy()[:size]
                inside[part] = self.inputs.inside(inputs).numpy()[:size]
        return {"pt_calib": pt, "pt_calib_in_range": inside}
