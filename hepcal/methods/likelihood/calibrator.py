"""The likelihood calibration: the truth read off the forward response density p(reco | truth)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from hepcal.distributions.uncertainties import combine_draws, in_quadrature
from hepcal.errors import CalibratorFileError
from hepcal.events.columns import REPLICAS
from hepcal.events.features import Features
from hepcal.methods.base import Positive, PositiveFloat
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Quantity
from hepcal.methods.flat import checked
from hepcal.methods.likelihood.forward import ForwardDensity
from hepcal.methods.likelihood.inverse import Reading, inverse_of
from hepcal.methods.regression.ensemble import Ensemble
from hepcal.networks.dense import DenseLayout
from hepcal.networks.optimisation import ScheduleName
from hepcal.statistics import CENTRAL
from hepcal.tables.rows import Rows

__all__ = ["Likelihood", "LikelihoodCalibrator"]


class Likelihood(Ensemble):
    """The density of reco p_T at fixed truth, inverted; p_T only, or with conditions.

    The forward response density p(reco | truth) is a mixture in ln(reco / truth) given ln truth. It does not depend on
    the truth spectrum of the training inside its support (arXiv:2205.05084, Eqs. 4 and 12): only p(reco | truth) is
    learned. ``sigma_stoch`` is half of the central 68.27 % Neyman belt, sigma_pred the spread over networks trained on
    bootstrap samples. No single location closes for a skewed response: choose one.

    Weights count for jets of the same truth only: their spectrum is divided out, so that steep spectra and stitched
    slices are learned wherever there are jets. The support ends where fewer than 25 effective jets lie within a
    resolution; ``truth_low``, ``truth_high`` [GeV] and ``outside_support``, the share of the training jets beyond, are
    figures of the card.

    Attributes:
        reading: ``median`` puts the truth where the median response is the measured p_T; ``mean`` where the mean
            response is; ``mode`` where the likelihood is largest (arXiv:2205.05084, Eq. 12).
        conditions: Features that the response density is conditional on, e.g. ``("eta",)``. They must carry next to
            nothing of the truth: p(reco | truth, theta) drops p(theta | truth), so a second energy estimate among them
            makes the calibration worse, not better. Use :class:`SummaryLikelihood` for those.
    """

    name: ClassVar[str] = "likelihood"
    learner: ClassVar[str] = "hepcal.methods.likelihood.learning:learn"
    calibrator: ClassVar[str] = "hepcal.methods.likelihood.calibrator:LikelihoodCalibrator"
    quantity: ClassVar[Quantity] = "median"
    follows_prior: ClassVar[bool] = False
    can_collapse: ClassVar[bool] = False

    reading: Quantity = "median"
    conditions: tuple[str, ...] = ()
    n: Annotated[int, Field(ge=2)] = 20
    head: Literal["gaussian", "mixture"] = "mixture"
    components: Positive = 5
    prior_width: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    hidden: tuple[Positive, ...] = (32, 32)
    batch: Positive = 250
    learning_rate: PositiveFloat = 3e-3
    schedule: ScheduleName = "cosine"
    max_updates: Positive = 3_000

    @property
    def promised(self) -> Quantity:
        """See :attr:`Method.promised`."""
        return self.reading

    def keeps(self, spec: Features) -> Features:
        """The conditions.

        Raises:
            PairsError: One is not in the table.
        """
        return spec.selected(self.conditions)


class LikelihoodCalibrator(Calibrator):
    """A trained likelihood calibration; ``pt_calib`` is the mean over networks of the inverted location."""

    method: ClassVar[type[Likelihood]] = Likelihood
    sigmas = Likelihood.uncertainties

    def _prepare(self) -> None:
        settings = self.method.model_validate(self.card.settings)
        names = self.card.features.names
        # Rows of the standardised inputs; the first is ln p_T.
        self._rows = [1 + names.index(name) for name in settings.conditions]
        layout = DenseLayout((1 + len(self._rows), *settings.hidden, settings.build_head().outputs))
        draws = self.require("draws", (settings.networks, layout.count))
        mean, scale, low, high = self.require("truth", (4,)).double().tolist()
        if not (scale > 0 and high > low):
            raise CalibratorFileError("tensor 'truth' needs a positive scale and a support that is not empty")
        self._support = (low, high)
        response = (self.target.location, self.target.scale)
        density = ForwardDensity(
            layout, draws, settings.components, (mean, scale), self._support, response, self.device
        )
        self._inverse = inverse_of(density, conditional=bool(self._rows))
        self._reading: Reading = 0.5 if settings.reading == "median" else settings.reading
        self.replicas = settings.networks
        self.block = density.block

    @property
    def support(self) -> tuple[float, float]:
        """Ends of the true p_T [GeV] with enough training jets to learn the response."""
        low, high = np.exp(self._support).tolist()
        return low, high

    def _measured(self, inputs: torch.Tensor, pt: np.ndarray) -> torch.Tensor:  # noqa: ARG002
        """Ln of what is calibrated, float64 of shape (S, n) or (1, n)."""
        return torch.from_numpy(np.log(pt))[None]

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        log_x, conditions = self._measured(inputs, pt), inputs[self._rows]
        # The width of the belt is nearly the same for all networks; its place is not.
        readings = self._inverse(log_x, conditions, self._reading, few=(CENTRAL[2], CENTRAL[0]))
        value, low, high = (np.exp(zeta.numpy()) for zeta in readings)
        half = np.sqrt(np.mean((0.5 * (high - low)) ** 2, axis=0))
        center, stoch, pred = combine_draws(value, np.broadcast_to(half, value.shape))
        stoch, pred = stoch.astype(np.float32), pred.astype(np.float32)
        zeta = np.log(center)
        supported = (zeta >= self._support[0]) & (zeta <= self._support[1])
        found = {
            "pt_calib": center,
            "pt_calib_sigma_stoch": stoch,
            "pt_calib_sigma_pred": pred,
            "pt_calib_sigma_tot": in_quadrature(stoch, pred),
            "pt_calib_in_range": self.inputs.inside(inputs).numpy() & supported,
        }
        return found | ({REPLICAS: value.T} if replicas else {})

    def interval(self, features: Rows, reco: np.ndarray, probability: float = 0.6827) -> tuple[np.ndarray, np.ndarray]:
        """Central confidence interval of the true p_T by a Neyman belt.

        Its ends are the truths for which the measured p_T lies at the upper and lower quantile of the response. Inside
        the support it covers with this probability at every truth, whatever the spectrum, as far as the density is
        right; it does not hold ``sigma_pred``.

        Args:
            features: As in :meth:`predict`.
            reco: Detector-level p_T [GeV], shape (n,).
            probability: Between 0 and 1.

        Returns:
            Lower and upper ends [GeV], float64 of shape (n,) each: means over the networks.
        """
        if not 0 < probability < 1:
            raise ValueError(f"a probability lies between 0 and 1, found {probability}")
        features, reco = checked(self.card.features, features, reco)
        ends = np.empty((2, len(reco)))

        def work(part: slice, block: torch.Tensor) -> None:
            inputs = self.inputs(block)
            log_x = self._measured(inputs, block[0].double().numpy())
            readings = self._inverse(log_x, inputs[self._rows], 0.5 + probability / 2, 0.5 - probability / 2)
            for row, zeta in zip(ends, readings, strict=True):
                row[part] = np.exp(zeta.numpy()).mean(0)[: part.stop - part.start]

        self._map(work, features, reco)
        return ends[0], ends[1]

    def belt(self, features: Rows, reco: np.ndarray) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
        """See :meth:`Calibrator.belt`: that of :meth:`interval`."""
        return partial(self.interval, features, reco)
