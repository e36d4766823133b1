"""Data-based calibration: optimal transport of the simulated detector-level p_T onto that of data."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from hepcal.errors import CalibratorFileError
from hepcal.events.features import Features
from hepcal.methods.base import SIGMA_PRED, Method
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Quantity

__all__ = ["OptimalTransport", "TransportCalibrator"]


class OptimalTransport(Method):
    """The monotone map that makes the simulated distribution of p_T that of data (arXiv:2205.05084, Eq. 17).

    ``hepcal.train(pairs, hepcal.OptimalTransport(), data=pt_of_data)`` uses the detector-level p_T and the weights of
    the pairs; their truth is not used, and ``pt_calib`` is no estimate of it, but the p_T that a simulated jet should
    have had at detector level. A monotone map carries quantiles to quantiles, so what it promises is the median (and
    any other quantile) of the distribution; it promises it for the truth spectrum of the training alone.
    :func:`hepcal.methods.transport.maps.map_shift` tells how much another spectrum would change the map.

    ``sigma_pred`` is the statistical error of the map from both samples. The jets of data count as independent of each
    other; those of one simulated event do not.

    Attributes:
        knots: Points that are kept of the map, with straight lines between them; the card says how much that changes.
    """

    name: ClassVar[str] = "transport"
    learner: ClassVar[str] = "hepcal.methods.transport.learning:learn"
    calibrator: ClassVar[str] = "hepcal.methods.transport.calibrator:TransportCalibrator"
    quantity: ClassVar[Quantity] = "median"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_PRED,)
    follows_prior: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    knots: Annotated[int, Field(ge=10, le=100_000)] = 2000

    def keeps(self, spec: Features) -> Features:
        """Nothing but the detector-level p_T."""
        return Features(inputs=(), pt=spec.pt)


class TransportCalibrator(Calibrator):
    """A finished map; clamped, and ``pt_calib_in_range`` false, outside of the p_T that both samples resolve."""

    method = OptimalTransport
    sigmas = OptimalTransport.uncertainties

    def _prepare(self) -> None:
        count = self.tensors["map_simulation"].numel()
        names = ("map_simulation", "map_data", "map_error")
        self._reco, self._moved, self._error = (
            self.require(name, (count,), positive=True).double().numpy() for name in names
        )
        if count < 2 or (np.diff(self._reco) <= 0).any() or (np.diff(self._moved) < 0).any():
            raise CalibratorFileError("the map from simulation to data does not rise")

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:  # noqa: ARG002
        return {
            "pt_calib": np.interp(pt, self._reco, self._moved),
            SIGMA_PRED: np.interp(pt, self._reco, self._error),
            "pt_calib_in_range": self.inputs.inside(inputs).numpy() & (pt >= self._reco[0]) & (pt <= self._reco[-1]),
        }
