"""The training of a network, and then the directions in which other events would have moved it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hepcal.errors import CurvatureWarning, warn
from hepcal.methods.hessian.calibrator import DIRECTIONS, Hessian
from hepcal.methods.regression.ensemble import bootstrap
from hepcal.methods.regression.learning import learn as learn_regression
from hepcal.methods.training.inputs import input_tensor
from hepcal.methods.training.task import Learned, Task, unit_weights
from hepcal.networks.averaging import AveragedObjective
from hepcal.networks.curvature import Curvature, Laplace, Sandwich, WeightPosterior
from hepcal.networks.dense import DenseLayout
from hepcal.networks.directions import directions
from hepcal.networks.influence import influence, representatives
from hepcal.networks.jacobian import JacobianRows, Linearisation
from hepcal.networks.objectives import TrainingSet
from hepcal.networks.tangents import fit_projections
from hepcal.progress import step
from hepcal.tables.pairs import JetPairs
from hepcal.tables.signed_weights import Cells

__all__ = ["learn", "with_error"]

# Jets that the curvature is taken from at first; twice as many, until the error does not change any more.
FIRST_JETS = 1_000
SETTLED = 0.1
# Jets that the linear map of the changes is fitted to.
TYPICAL_JETS = 20_000
# Share of the variance of the changes that few dimensions may miss.
MISSED = 0.5
# Of the random numbers of retrainings: not those of the training.
RETRAINING_STREAM = 0x7265


def learn(task: Task) -> Learned:
    """Minimise, and look at the curvature of the loss where it ended."""
    if task.settings(Hessian).retrainings and task.saved:
        task = replace(task, saved=task.saved.at("network"))
    return with_error(task, learn_regression(task))


def with_error(task: Task, learned: Learned) -> Learned:
    """What was learned, with the statistical error of a network that was trained on the jets of the task."""
    method = task.settings(Hessian)
    retrained = _retrained(task, method) if method.retrainings else None
    with step("Statistical error", show=task.show):
        tensors, figures = _Trained(task, method, learned).error(retrained)
    if figures["curvature_change"] > SETTLED:
        warn(
            f"sigma_pred changed by {100 * figures['curvature_change']:.0f} % when the curvature was taken from twice "
            f"as many jets, {figures['curvature_jets']:.0f} in the end: raise curvature",
            CurvatureWarning,
        )
    return replace(learned, tensors={**learned.tensors, **tensors}, figures={**learned.figures, **figures})


class _Retrained(Hessian):
    """The same network again, on bootstrap samples of the events and from other starts, all trained at once."""

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> AveragedObjective:
        """See :meth:`NetworkMethod.objective`."""
        return self.on_samples(sample, generator, bootstrap(sample, self.retrainings, generator))


def _retrained(task: Task, method: Hessian) -> torch.Tensor:
    """Networks on bootstrap samples, shape (retrainings, weights)."""
    again = replace(
        task,
        method=_Retrained.model_validate(method.model_dump()),
        seed=task.seed + RETRAINING_STREAM,
        saved=task.saved.at(f"{task.saved.stage}_retrainings") if task.saved else None,
    )
    return learn_regression(again).tensors["draws"].detach()


class _Trained:
    """A trained network and its sample."""

    def __init__(self, task: Task, method: Hessian, learned: Learned) -> None:
        self.task, self.method, self.target = task, method, learned.target
        self.head = method.build_head()
        self.layout = DenseLayout((len(task.inputs.transforms), *method.hidden, self.head.outputs))
        self.flat = learned.tensors["draws"][0].detach().to(task.place)
        self.weight = unit_weights(task.fitted)
        self.decay = method.decay(task.n_eff)

    def error(self, retrained: torch.Tensor | None) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """What the calibrator keeps of the error, and how it came about.

        Args:
            retrained: Networks on bootstrap samples, shape (retrainings, weights), whose spread sets its scale.
        """
        generator = torch.Generator().manual_seed(self.task.seed)
        available, change, sigma = len(self.task.fitted), np.inf, None
        jets = min(FIRST_JETS, self.method.curvature // 2)
        # Jets that the curvature is not taken from: at its own, of which each stands for many, the error is too small.
        judges = self.task.judges
        chosen = representatives(judges.event, judges.weight, FIRST_JETS, self.task.seed)
        judges = judges.take(chosen.rows)
        rows = self._means(judges)
        while True:
            jets = min(jets, available, self.method.curvature)
            posterior = self._posterior(jets, generator)
            found = posterior.covariance(rows).diagonal().clamp_min(0).sqrt()
            if sigma is not None:
                change = abs(float((found.square().mean() / sigma.square().mean()).sqrt()) - 1)
            sigma = found
            if change <= SETTLED or jets in (available, self.method.curvature):
                break
            jets *= 2
        count = self.method.directions
        along = directions(posterior, rows, self.layout, count, generator)
        scale = {} if retrained is None else self._scale(retrained, self._inputs(judges), sigma)
        along = along * scale.get("retraining_scale", 1.0)
        fitting = representatives(self.task.fitted.event, self.weight, TYPICAL_JETS, self.task.seed)
        x = self._inputs(self.task.fitted.take(fitting.rows))
        projections = fit_projections(self.layout, self.head, self.flat, along, x, self.method.rank)
        figures = {"curvature_jets": float(jets), "tangents_unexplained": projections.unexplained, **scale}
        tensors = projections.tensors()
        if not projections.unexplained < MISSED:
            tensors, figures["tangents_unexplained"] = {DIRECTIONS: along.float().cpu()}, 0.0
        # All jets were looked at: nothing is left to change.
        figures["curvature_change"] = 0.0 if jets == available else change
        return {**tensors, "replica_mix": mix(self.method.draws, count, generator)}, figures

    def _scale(self, retrained: torch.Tensor, inputs: torch.Tensor, sigma: torch.Tensor) -> dict[str, float]:
        """Spread of retrained networks over the error of one, root mean squares over jets, and its error."""
        with torch.no_grad():
            outputs = [self.layout.forward(network.to(inputs), inputs) for network in retrained]
            means = torch.stack([self.head.mean(each).double() for each in outputs])
        count = len(means)
        # Of each retraining, an estimate of the variance: how these differ is the error of their mean.
        each = (means - means.mean(0)).square().mean(1) * count / (count - 1)
        scale = float((each.mean() / sigma.square().mean()).sqrt())
        return {
            "retraining_scale": scale,
            "retraining_scale_error": 0.5 * scale * float(each.std() / each.mean()) / count**0.5,
        }

    def _inputs(self, pairs: JetPairs) -> torch.Tensor:
        return input_tensor(pairs, self.task.inputs, self.task.place)

    def _means(self, pairs: JetPairs) -> JacobianRows:
        """Derivatives of the predictions of jets."""
        linear = Linearisation(self.layout, self.flat, self._inputs(pairs))
        return linear.rows(self.head.mean_gradient(linear.outputs))

    def _posterior(self, jets: int, generator: torch.Generator) -> WeightPosterior:
        """Of the weights, from the curvature at some of the jets."""
        fitted, place = self.task.fitted, self.task.place
        chosen = representatives(fitted.event, self.weight, jets, self.task.seed)
        table, weight = fitted.take(chosen.rows), self.weight[chosen.rows]
        linear = Linearisation(self.layout, self.flat, self._inputs(table))
        counted = torch.from_numpy(weight * chosen.stands_for).to(place)
        roots = self.head.fisher_root(linear.outputs, generator)
        fisher = JacobianRows.joined([linear.rows(root).scaled(counted.sqrt()) for root in roots])
        curvature = Curvature(fisher, float(counted.sum()), self.decay)
        if self.method.error == "laplace":
            return Laplace(curvature, self.task.n_eff)
        y = (table.truth.astype(np.float64) / table.reco - self.target.location) / self.target.scale
        gradients = linear.rows(self.head.gradient(linear.outputs, torch.from_numpy(y).to(place)))
        counts = influence(table.event, weight, chosen.stands_for, float(self.weight.sum()), self._cells(chosen.rows))
        return Sandwich(curvature, gradients, torch.from_numpy(counts).to(place))

    def _cells(self, rows: np.ndarray) -> Cells | None:
        """The signed weights of some of the jets, in the unit of the others."""
        cells = self.task.cells
        if cells is None:
            return None
        unit = 1 / np.mean(self.task.fitted.weight)
        return Cells(cells.number[rows], cells.signed[rows] * unit, cells.positive[rows] * unit)


def mix(draws: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """What replicas are made of: numbers (draws, count) of mean zero and covariance one (S - 1), exactly."""
    drawn = torch.randn((draws, count), generator=generator, dtype=torch.float64, device="cpu")
    basis, _ = torch.linalg.qr(drawn - drawn.mean(0))
    found: torch.Tensor = (basis * (draws - 1) ** 0.5).float()
    return found
