"""Numerical inversion: the mean of reco p_T at fixed truth, learned from simulation and inverted.

Only p(reco | truth) enters, so the calibration does not depend on the truth spectrum of its training
(arXiv:1609.05195; arXiv:2205.05084, Eqs. 10 and 11).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from hepcal.arrays import numbers
from hepcal.distributions.uncertainties import in_quadrature
from hepcal.errors import CalibratorFileError
from hepcal.events.columns import REPLICAS
from hepcal.events.features import Features
from hepcal.methods.base import SIGMA_PRED, SIGMA_STOCH, SIGMA_TOT, Method, Positive
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Quantity

__all__ = ["TABLE_KNOTS", "NumericalInversion", "NumericalInversionCalibrator", "continued"]

# Over a factor 250 in p_T, linear interpolation in the logarithms between so many knots is right to 4e-6.
TABLE_KNOTS = 1024


class NumericalInversion(Method):
    """The mean of reco p_T at fixed truth, inverted; p_T only.

    What is learned is g(z) = E[reco | truth = z]; no features, no truth spectrum enter. It closes in the mean where g
    is straight. Where g is curved a bias of second order is left, which the card and
    :meth:`NumericalInversionCalibrator.curvature_bias` tell.

    Attributes:
        form: ``spline``: a cubic spline that rises everywhere, with knots equally spaced in ln p_T and no interval of
            fewer than 100 effective jets; it follows any smooth response, and data in one place do not move it in
            another. ``polynomial``: of one degree over the whole range; fewer parameters, and wrong if the response is
            no polynomial.
        degree: Of the polynomial.
        knots: Intervals of the spline, and of the curve of the resolution, where there are jets enough.
        n: Bootstrap samples of the events; the fit to each is a replica, their spread is sigma_pred.
    """

    name: ClassVar[str] = "inversion"
    learner: ClassVar[str] = "hepcal.methods.inversion.learning:learn"
    calibrator: ClassVar[str] = "hepcal.methods.inversion.calibrator:NumericalInversionCalibrator"
    follows_prior: ClassVar[bool] = False
    quantity: ClassVar[Quantity] = "mean"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH, SIGMA_PRED, SIGMA_TOT)

    form: Literal["polynomial", "spline"] = "spline"
    degree: Annotated[int, Field(ge=1, le=6)] = 2
    knots: Positive = 8
    n: Annotated[int, Field(ge=2)] = 50

    def keeps(self, spec: Features) -> Features:
        """Nothing but the detector-level p_T."""
        return Features(inputs=(), pt=spec.pt)


class NumericalInversionCalibrator(Calibrator):
    """A table of truth against its mean reco p_T, read backwards.

    Tables are linear in ln p_T between knots and are continued with the slope of their last interval: a power law,
    which stays positive. There ``pt_calib_in_range`` is False, as it is where reco p_T leaves the training range.
    sigma_stoch = sd[reco | truth] / g' at truth = ``pt_calib`` (beyond the table, the same share of ``pt_calib`` as at
    its end); sigma_pred is the spread of the replicas, which are refits to bootstrap samples.

    Saved tensors: ``truth`` and ``reco`` [GeV], knots z and g(z); ``slope`` g', ``curvature`` g'' [1/GeV] and
    ``spread`` sd[reco | truth] [GeV] there; ``replicas`` (n, knots) [GeV], calibrated p_T of every replica at ``reco``.
    """

    method = NumericalInversion
    sigmas = NumericalInversion.uncertainties

    def _prepare(self) -> None:
        settings = self.method.model_validate(self.card.settings)
        self.replicas = settings.n
        shape = (TABLE_KNOTS,)
        truth, reco, slope, spread = (
            self.require(name, shape, positive=True).double().numpy() for name in ("truth", "reco", "slope", "spread")
        )
        replicas = self.require("replicas", (settings.n, TABLE_KNOTS), positive=True).double().numpy()
        curvature = self.require("curvature", shape).double().numpy()
        for name, values in (("truth", truth), ("reco", reco)):
            if not (np.diff(values) > 0).all():
                raise CalibratorFileError(f"tensor {name!r} does not rise from knot to knot: it cannot be inverted")
        self.support = float(truth[0]), float(truth[-1])
        self._log_truth, self._log_reco = np.log(truth), np.log(reco)
        self._log_replicas = np.log(replicas.T)
        self._resolution = spread / (slope * truth)
        self._bias = -0.5 * curvature / slope**3 * spread**2

    def curvature_bias(self, truth: np.ndarray) -> np.ndarray:
        """Expected bias of the mean of ``pt_calib`` at fixed truth, -g'' Var[reco | truth] / (2 g'³) [GeV].

        Second order in the resolution (arXiv:1609.05195; arXiv:2205.05084, Sec. II); not subtracted.

        Args:
            truth: True p_T [GeV], any shape.

        Returns:
            float64 of the same shape; NaN outside :attr:`support`, where the response was not seen.
        """
        at = np.log(numbers("truth", truth))
        return np.asarray(np.interp(at, self._log_truth, self._bias, left=np.nan, right=np.nan))

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        """See :meth:`Calibrator._evaluate`."""
        log_pt = np.log(pt)
        calib = np.exp(continued(log_pt, self._log_reco, self._log_truth))
        each = np.exp(continued(log_pt, self._log_reco, self._log_replicas))
        stoch = (np.interp(log_pt, self._log_reco, self._resolution) * calib).astype(np.float32)
        pred = each.std(axis=1, ddof=1).astype(np.float32)
        low, high = self.support
        columns = {
            "pt_calib": calib,
            SIGMA_STOCH: stoch,
            SIGMA_PRED: pred,
            SIGMA_TOT: in_quadrature(stoch, pred),
            "pt_calib_in_range": self.inputs.inside(inputs).numpy() & (calib >= low) & (calib <= high),
        }
        return columns | ({REPLICAS: each} if replicas else {})


def continued(at: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Linear interpolation that goes on with the slope of the first and of the last interval.

    Args:
        at: Where, shape (n,).
        knots: Rising, shape (k,).
        values: At the knots, shape (k,) or (k, columns).

    Returns:
        float64 of shape (n,) or (n, columns).
    """
    index = np.clip(np.searchsorted(knots, at) - 1, 0, len(knots) - 2)
    share = (at - knots[index]) / (knots[index + 1] - knots[index])
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(values[index] + share * (values[index + 1] - values[index]))
