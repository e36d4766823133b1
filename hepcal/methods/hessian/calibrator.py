"""One network with the statistical error of its training, from the curvature of the loss around its weights."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from hepcal.distributions import Distribution
from hepcal.distributions.drawn import blurred, displaced
from hepcal.events.columns import COVERED, REPLICAS
from hepcal.methods.base import SIGMA_PRED, SIGMA_STOCH, SIGMA_TOT, Positive
from hepcal.methods.interval_coverage import central
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.methods.regression.settings import DensityMethod
from hepcal.networks.averaging import AveragedMembers, AveragedObjective
from hepcal.networks.dense import DenseLayout
from hepcal.networks.objectives import TrainingSet
from hepcal.networks.tangents import ExactTangents, ProjectedTangents, Projections, Tangents
from hepcal.tables.rows import Rows

__all__ = ["DIRECTIONS", "Hessian", "HessianCalibrator"]

# Name of the directions in a file, where they are kept as they are.
DIRECTIONS = "tangent_directions"


class Hessian(DensityMethod):
    """One network with the statistical error of its training from the Hessian of its loss: recommended.

    The network of :class:`~hepcal.Heteroscedastic`, averaged over its last updates. After the training, all its weights
    get a Gaussian with their full covariance (:mod:`hepcal.networks.curvature`), carried to the predictions by their
    derivatives. As in Hessian sets of parton densities, the calibrator holds a few dozen directions, from which
    replicas are made. It regresses the truth, so it depends on the truth spectrum of the training (arXiv:2205.05084).

    Attributes:
        error: ``laplace``, the posterior of the weights, or ``sandwich``, what other events would have changed, which
            asks nothing of the likelihood but depends on how many jets the curvature is taken from.
        draws: Replicas; their spread is sigma_pred, exactly.
        directions: Directions in the space of the weights that the calibrator keeps, fewer than replicas.
        rank: Dimensions of signals and inputs, by layer, that changes along them are made of
            (:mod:`hepcal.networks.tangents`). Where these miss more than half of the variance, as of hundreds of inputs
            from constituents, directions are kept as they are, and inference costs a pass for each.
        averaged: Updates whose average the network is (:mod:`hepcal.networks.averaging`); 1: the last one alone.
        curvature: Largest number of jets that the curvature is taken from.
        retrainings: Trainings on bootstrap samples, from other starts, that set the scale of the error: the pooled
            spread of their predictions of held-out jets over sigma_pred, ``retraining_scale`` in the figures of the
            card. Default: none. Four of them cost two to three trainings, and tell an error that is right from one that
            is not, with an error of ``retraining_scale_error`` (the cheap bootstrap of arXiv:2306.05674).
    """

    name: ClassVar[str] = "hessian"
    learner: ClassVar[str] = "hepcal.methods.hessian.learning:learn"
    calibrator: ClassVar[str] = "hepcal.methods.hessian.calibrator:HessianCalibrator"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH, SIGMA_PRED, SIGMA_TOT)

    error: Literal["laplace", "sandwich"] = "laplace"
    draws: Annotated[int, Field(ge=2)] = 50
    directions: Annotated[int, Field(ge=1)] = 49
    rank: Positive = 12
    averaged: Positive = 1_000
    curvature: Annotated[int, Field(ge=100)] = 2_000
    retrainings: Annotated[int, Field(ge=0)] = 0

    def model_post_init(self, _context: Any, /) -> None:
        """Refuse more directions than replicas can hold apart, and a spread of one."""
        if self.directions >= self.draws:
            raise ValueError(f"{self.directions} directions need at least {self.directions + 1} draws: raise draws")
        if self.retrainings == 1:
            raise ValueError("one retraining has no spread: take 0, or at least 2")

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> AveragedObjective:
        """The negative log-likelihood per jet, with L2 strength 1 / (2 prior_width² N)."""
        return self.on_samples(sample, generator)

    def on_samples(
        self, sample: TrainingSet, generator: torch.Generator, multiplicity: torch.Tensor | None = None
    ) -> AveragedObjective:
        """The same of several networks, each of which sees every jet so many times (n, networks); None: one, once."""
        head = self.build_head()
        layout = DenseLayout((sample.inputs, *self.hidden, head.outputs))
        count = 1 if multiplicity is None else multiplicity.shape[1]
        networks = AveragedMembers(layout, count, generator, self.averaged)
        layout.set_output_bias(networks.weights, head.start(sample.target))
        decay = self.decay(sample.n_eff) / 2
        return AveragedObjective(networks, head, decay, multiplicity=multiplicity, autograd=self.autograd)

    def decay(self, n_eff: float) -> float:
        """Curvature of the prior of the weights, per jet."""
        return 1 / (self.prior_width**2 * n_eff)

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return 1


class HessianCalibrator(NetworkCalibrator):
    """A trained network with directions of its weights; ``pt_calib`` is its mean."""

    method = Hessian
    sigmas = Hessian.uncertainties
    widths_vary = False

    def _prepare(self) -> None:
        super()._prepare()
        settings = Hessian.model_validate(self.card.settings)
        self._mix = self.require("replica_mix", (settings.draws, settings.directions)).to(self.device)
        self._tangents = self._prepared(settings)
        self.replicas = settings.draws

    def _prepared(self, settings: Hessian) -> Tangents:
        network = self.tensors["draws"][0]
        if DIRECTIONS in self.tensors:
            exact = self.require(DIRECTIONS, (settings.directions, self._layout.count))
            return ExactTangents(self._layout, self._head, network, exact, self.device)
        features = 0
        for layer, sizes in enumerate(zip(self._layout.sizes, self._layout.sizes[1:], strict=False)):
            kept = []
            for kind, width in (("inputs", sizes[0] + 1), ("signals", sizes[1])):
                name = f"tangent_{kind}_{layer}"
                kept.append(min(settings.rank, len(self.tensors.get(name, ()))))
                self.require(name, (kept[-1], width))
            features += kept[0] * kept[1]
        self.require("tangent_changes", (settings.directions, features))
        # Files of before it was found out that a jet may need it are refused.
        self.require("tangent_reach", (1,), positive=True)
        projections = Projections.of(self.tensors, len(self._layout.sizes) - 1)
        return ProjectedTangents(self._layout, self._head, network, projections, self.device)

    def _parts(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs (1, out, n), and changes of the mean along the directions, (directions, n)."""
        outputs, changes = (self._finite(part) for part in self._tangents(inputs))
        return outputs[None], changes

    def _moved(self, changes: torch.Tensor) -> np.ndarray:
        """Changes of the mean of every replica, float64 of shape (replicas, n)."""
        return (self._mix @ changes).double().cpu().numpy()

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        """Columns [GeV] of one block, and replicas (n, draws) if asked for."""
        outputs, changes = self._parts(inputs)
        moved = self._moved(changes) if replicas else None
        return self._from(self._head.distribution(outputs), changes, moved, pt)

    def _from(
        self, found: Distribution, changes: torch.Tensor, moved: np.ndarray | None, pt: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Columns [GeV], and replicas if it is known how they are moved."""
        mean = found.means()[0] * self.target.scale + self.target.location
        stoch = np.sqrt(found.variances()[0]) * self.target.scale
        pred = changes.square().sum(0).sqrt().cpu().numpy() * self.target.scale
        columns = self._with_total(mean, stoch, pred, pt)
        if moved is not None:
            columns[REPLICAS] = ((mean + self.target.scale * moved) * pt).T
        return columns

    def _judged(self, inputs: torch.Tensor, pt: np.ndarray, truth: np.ndarray, *, replicas: bool) -> dict[str, Any]:
        """See :meth:`Calibrator._judged`."""
        outputs, changes = self._parts(inputs)
        y = (truth / pt - self.target.location) / self.target.scale
        found, moved = self._head.distribution(outputs), self._moved(changes)
        average = blurred(found, moved)
        pit = (displaced(found, moved) if average is None else average).cdf(y[:, None])[:, 0]
        return self._from(found, changes, moved if replicas else None, pt) | {COVERED: central(pit)}

    def moments_by_network(self, inputs: torch.Tensor, pt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`NetworkCalibrator.moments_by_network`."""
        outputs, changes = self._parts(inputs)
        found = displaced(self._head.distribution(outputs), self._moved(changes))
        scale = self.target.scale * pt
        return found.means() * scale + self.target.location * pt, found.variances() * scale**2

    def _distribution(self, features: Rows, reco: np.ndarray) -> Distribution:
        """Predictive distributions of p_T [GeV], one per replica and jet."""
        moved = np.empty((len(self._mix), len(reco)))

        def work(part: slice, block: torch.Tensor) -> None:
            moved[:, part] = self._moved(self._parts(self.inputs(block))[1])[:, : part.stop - part.start]

        self._map(work, features, reco)
        one = super()._distribution(features, reco)
        return displaced(one, self.target.scale * reco.astype(np.float64) * moved)
