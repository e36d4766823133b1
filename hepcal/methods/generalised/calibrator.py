"""Generalised numerical inversion: the mean of reco p_T at fixed truth and features, and a network that inverts it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from hepcal.errors import CalibratorFileError
from hepcal.methods.base import SIGMA_STOCH, NetworkMethod, Positive
from hepcal.methods.card import Quantity
from hepcal.methods.inversion.calibrator import TABLE_KNOTS, continued
from hepcal.methods.regression.heteroscedastic import members_of
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import GaussianHead, Head, PointHead
from hepcal.networks.inference import WeightDraws
from hepcal.networks.objectives import MembersObjective, TrainingSet
from hepcal.networks.optimisation import ScheduleName

__all__ = ["RESIDUAL", "GeneralisedInversion", "GeneralisedInversionCalibrator"]

# Of the tensors of the last step.
RESIDUAL = "residual"


class GeneralisedInversion(NetworkMethod):
    """The mean of reco p_T at fixed truth and features, inverted by a second network.

    Learned are L(z, f) = E[reco | truth = z, features = f], then N(L(z, f), f) = z; calibrated is with N(reco, f). The
    second network never sees the noise of reco p_T, so the truth spectrum does not enter: what is left are its error of
    interpolation and the bias of a curved L, as for numerical inversion (ATL-PHYS-PUB-2018-013, ATL-PHYS-PUB-2020-001;
    arXiv:2205.05084, Sec. II). It closes in the mean at fixed truth *and* features up to these, and in the mean at
    fixed truth by a last step, the numerical inversion of the mean of N(reco, f) at fixed truth.

    Features that are a second estimate of the p_T, such as the jet mass, are legitimate conditions but cost resolution:
    they hold part of the answer fixed. Features on which the response depends at fixed truth gain.

    The step size falls to zero (``cosine``), so that the noise of single batches averages out of the mean.
    """

    name: ClassVar[str] = "generalised_inversion"
    learner: ClassVar[str] = "hepcal.methods.generalised.learning:learn"
    calibrator: ClassVar[str] = "hepcal.methods.generalised.calibrator:GeneralisedInversionCalibrator"
    quantity: ClassVar[Quantity] = "mean"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH,)
    follows_prior: ClassVar[bool] = False
    can_collapse: ClassVar[bool] = False

    hidden: tuple[Positive, ...] = (50, 50, 50)
    batch: Positive = 1_000
    schedule: ScheduleName = "cosine"
    max_updates: Positive = 3_000

    def objective(self, sample: TrainingSet, generator: torch.Generator, head: Head | None = None) -> MembersObjective:
        """Mean squared error in units of the target scale, or the likelihood of another head."""
        head = head or self.build_head()
        networks = members_of(head, (sample.inputs, *self.hidden), sample.target, generator)
        return MembersObjective(networks, head, 0.0, autograd=self.autograd)

    def build_head(self) -> Head:
        """See :meth:`NetworkMethod.build_head`."""
        return PointHead()

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return 1


class GeneralisedInversionCalibrator(NetworkCalibrator):
    """The inverting network, and one for the resolution at the mean reco p_T.

    Saved tensors: ``draws``, the network of truth / reco; ``spread``, a network of the mean and the width of
    (pt_calib - truth) / truth at reco = L(truth, features), and ``spread_scale``, location and scale of these;
    ``truth_range`` [GeV], the truth support; ``residual_truth`` and ``residual_reco`` [GeV], truth against the mean of
    N(reco, f) there (files of earlier versions have none, and no last step). ``pt_calib_in_range`` asks that inputs and
    ``pt_calib`` lie in theirs.
    """

    method = GeneralisedInversion
    sigmas = GeneralisedInversion.uncertainties

    def _prepare(self) -> None:
        super()._prepare()
        layout = DenseLayout((*self._layout.sizes[:-1], GaussianHead.outputs))
        self._spread = WeightDraws(layout, self.require("spread", (1, layout.count)), self.device)
        self._spread_scale = float(self.require("spread_scale", (2,))[1])
        low, high = self.require("truth_range", (2,), positive=True).tolist()
        self.support = float(low), float(high)
        self._residual = self._prepare_residual()
        if not self._spread_scale > 0:
            raise CalibratorFileError(f"the scale of the resolution is not positive: {self._spread_scale:g}")
        if not low < high:
            raise CalibratorFileError(f"the truth range of the training is empty: {low:g} to {high:g} GeV")

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        """See :meth:`Calibrator._evaluate`."""
        columns = super()._evaluate(inputs, pt, replicas=replicas)
        calib, slope = self._closed(columns["pt_calib"])
        low, high = self.support
        inside = self.inputs.inside(inputs).numpy() & (calib >= low) & (calib <= high)
        stoch = np.abs(calib) * slope * self._resolution(inputs)
        return columns | {"pt_calib": calib, SIGMA_STOCH: stoch, "pt_calib_in_range": inside}

    def _prepare_residual(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Logarithms of the mean of N(reco, f) and of truth at the knots, and the slope of truth there."""
        if f"{RESIDUAL}_truth" not in self.tensors:
            return None
        truth, mean = (
            self.require(f"{RESIDUAL}_{name}", (TABLE_KNOTS,), positive=True).double().log().numpy()
            for name in ("truth", "reco")
        )
        for name, values in (("truth", truth), ("reco", mean)):
            if not (np.diff(values) > 0).all():
                raise CalibratorFileError(f"tensor '{RESIDUAL}_{name}' does not rise from knot to knot")
        return mean, truth, np.gradient(truth, mean)

    def _closed(self, calib: np.ndarray) -> tuple[np.ndarray, np.ndarray | float]:
        """Values [GeV] after the last step, and d ln of them / d ln of those before."""
        if self._residual is None:
            return calib, 1.0
        mean, truth, slope = self._residual
        # Absurd jets at which N is not positive stay what they are: out of range.
        positive = calib > 0
        at = np.log(np.where(positive, calib, 1.0))
        return np.where(positive, np.exp(continued(at, mean, truth)), calib), np.interp(at, mean, slope)

    def _resolution(self, inputs: torch.Tensor) -> np.ndarray:
        """Width of (pt_calib - truth) / truth, float64 of shape (jets,)."""
        found = GaussianHead().distribution(self._finite(self._spread(inputs)))
        return np.asarray(np.sqrt(found.variances()[0]) * self._spread_scale)
