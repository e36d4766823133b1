"""Calibrators that are a set of networks of one layout, with a head: one, many, or weight draws of a Bayesian one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from hepcal.distributions import Distribution, Jets
from hepcal.distributions.on_demand import OfJets
from hepcal.distributions.uncertainties import combine_draws, in_quadrature
from hepcal.errors import HepcalError
from hepcal.events.columns import COVERED, REPLICAS
from hepcal.methods.base import NetworkMethod
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.interval_coverage import central
from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import GaussianHead
from hepcal.networks.inference import WeightDraws
from hepcal.networks.moments import MomentPropagation
from hepcal.networks.settings import own_settings
from hepcal.tables.rows import Rows

__all__ = ["NetworkCalibrator"]

# A multiple of the numbers that any processor takes at once.
LANES = 64


class NetworkCalibrator(Calibrator):
    """Networks that predict y = pt_truth / pt_reco, alone or as draws; ``pt_calib`` is the mean of their means.

    Subclasses name their method, which says how many networks there are and which uncertainties they carry.
    """

    method: ClassVar[type[NetworkMethod]]
    # Whether replicas differ in their widths, too, not in their means alone.
    widths_vary: ClassVar[bool] = True

    def _prepare(self) -> None:
        settings = self.method.model_validate(self.card.settings)
        self._head = settings.build_head()
        self._layout = DenseLayout((len(self.inputs.transforms), *settings.hidden, self._head.outputs))
        draws = self.require("draws", (settings.networks, self._layout.count))
        self._networks = WeightDraws(self._layout, draws, self.device)
        self.block = self._networks.block
        self.replicas = settings.networks if settings.networks > 1 else 0
        self._propagation = self._prepare_moments() if self.inference == "moments" else None
        self.judges = self._head.has_density and self._propagation is None

    def _prepare_moments(self) -> MomentPropagation:
        if "posterior_mean" not in self.tensors or not isinstance(self._head, GaussianHead):
            raise HepcalError("moments need a Bayesian network with a Gaussian likelihood: use draws")
        mean, sigma = (self.require(f"posterior_{part}", (self._layout.count,)) for part in ("mean", "sigma"))
        return MomentPropagation(self._layout, mean, sigma, self.device)

    def components(self, features: Rows, reco: np.ndarray) -> Callable[[Jets], Distribution] | None:
        """See :meth:`Calibrator.components`."""
        return OfJets(self._distribution, features, reco) if self._head.has_density else None

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        """Columns [GeV] of one block, and replicas (n, draws) if asked for."""
        if self._propagation is None:
            return self._moments(self._finite(self._networks(inputs)), pt, replicas=replicas)
        mean, stoch, pred = (self._finite(part).cpu().numpy() * self.target.scale for part in self._propagation(inputs))
        found = self._with_total(mean + self.target.location, stoch, pred, pt)
        return {**(self._moments(self._finite(self._networks(inputs)), pt, replicas=True) if replicas else {}), **found}

    def _judged(self, inputs: torch.Tensor, pt: np.ndarray, truth: np.ndarray, *, replicas: bool) -> dict[str, Any]:
        """See :meth:`Calibrator._judged`: the networks that give the columns give the density, too."""
        outputs = self._finite(self._networks(inputs))
        y = (truth / pt - self.target.location) / self.target.scale
        pit = self._head.distribution(outputs).cdf(y[:, None])[:, 0]
        return self._moments(outputs, pt, replicas=replicas) | {COVERED: central(pit)}

    def moments_by_network(self, inputs: torch.Tensor, pt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [GeV] and variance [GeV²] of one block by every network, of a likelihood with a density.

        Args:
            inputs: Standardised inputs (1 + d, jets), ln p_T first, as :attr:`inputs` gives them.
            pt: Detector-level p_T [GeV], float64 of shape (jets,).

        Returns:
            float64 of shape (networks, jets) each.
        """
        found = self._head.distribution(self._finite(self._networks(inputs)))
        scale = self.target.scale * pt
        return found.means() * scale + self.target.location * pt, found.variances() * scale**2

    @staticmethod
    def _finite(outputs: torch.Tensor) -> torch.Tensor:
        """The same, refused if a jet drives the network to infinity."""
        if not torch.isfinite(outputs).all():
            raise HepcalError(
                "a prediction is not a finite number: a jet has inputs many orders of magnitude outside the training "
                "range. Select the jets that you need, or look for absurd features (pt_calib_in_range cannot say)"
            )
        return outputs

    def _moments(self, outputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        """Columns [GeV] from the outputs (draws, out, n) for jets of p_T (n,)."""
        if not self._head.has_density:
            y = outputs[0, 0].double().cpu().numpy() * self.target.scale + self.target.location
            return {"pt_calib": y * pt}
        found = self._head.distribution(outputs)
        mean = found.means() * self.target.scale + self.target.location
        sigma = np.sqrt(found.variances()) * self.target.scale
        if len(mean) == 1:
            return {"pt_calib": mean[0] * pt, "pt_calib_sigma_stoch": sigma[0] * pt}
        columns = self._with_total(*combine_draws(mean, sigma), pt)
        return columns | ({REPLICAS: (mean * pt).T} if replicas else {})

    @staticmethod
    def _with_total(mean: np.ndarray, stoch: np.ndarray, pred: np.ndarray, pt: np.ndarray) -> dict[str, np.ndarray]:
        stoch, pred = (stoch * pt).astype(np.float32), (pred * pt).astype(np.float32)
        return {
            "pt_calib": mean * pt,
            "pt_calib_sigma_stoch": stoch,
            "pt_calib_sigma_pred": pred,
            "pt_calib_sigma_tot": in_quadrature(stoch, pred),
        }

    def _distribution(self, features: Rows, reco: np.ndarray) -> Distribution:
        """Predictive distributions of p_T [GeV], one per network and jet."""
        # Functions round in another way at the end of an array: no jet is there.
        padded = -(-len(reco) // LANES) * LANES
        outputs = torch.zeros(
            (self._networks.count, self._head.outputs, padded), dtype=torch.float32, device=torch.device("cpu")
        )

        def work(part: slice, block: torch.Tensor) -> None:
            found = self._finite(self._networks(self.inputs(block)))
            outputs[:, :, part] = found[:, :, : part.stop - part.start].cpu()

        self._map(work, features, reco)
        pt = reco.astype(np.float64)
        with own_settings():
            found = self._head.distribution(outputs).take(slice(0, len(reco)))
        return found.affine(self.target.scale * pt, self.target.location * pt)
