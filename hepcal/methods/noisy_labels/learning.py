"""Two trainings that share all random numbers: on the labels of a table, and on smeared ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import PrivateAttr

from hepcal.augment import label_errors, smear_labels
from hepcal.errors import TrainingError
from hepcal.methods.base import NetworkMethod
from hepcal.methods.hessian.calibrator import Hessian
from hepcal.methods.hessian.learning import with_error
from hepcal.methods.noisy_labels.calibrator import (
    BASELINE,
    SMEARED,
    CalibrationWidth,
    NoisyLabels,
    NoisyLabelsCalibrator,
)
from hepcal.methods.regression import learning as regression
from hepcal.methods.training.task import Learned, Task, card_of, source_of, unit_weights
from hepcal.networks.checkpoints import Checkpoint
from hepcal.networks.heads import Head
from hepcal.networks.objectives import Batch, Objective, Table, TrainingSet
from hepcal.networks.scaling import TargetScaling
from hepcal.statistics import weighted_mean
from hepcal.tables.pairs import JetPairs
from hepcal.tables.random import LARGEST_NORMAL

__all__ = ["learn"]

# Held-out jets for the figures of a training.
CLOSURE_JETS = 5_000


def learn(task: Task) -> Learned:
    """A baseline on the labels of the table, then the same on smeared labels, which judge the second training, too.

    Raises:
        PairsError: The errors of the labels are not known, or a label would not be positive.
        TrainingError: Fresh labels might not be positive.
    """
    method = task.settings(NoisyLabels)
    fitted, held_out, judges = (
        smear_labels(pairs, method.fraction, seed=task.seed) for pairs in (task.fitted, task.held_out, task.judges)
    )
    smeared = replace(task, fitted=fitted, held_out=held_out, judges=judges)
    noise = _noise(task, method) if method.fresh else None
    found = {BASELINE: _learn(task, method, BASELINE)}
    found[SMEARED] = _learn(replace(smeared, fitted=task.fitted) if noise else smeared, method, SMEARED, noise)
    if isinstance(method.method, Hessian):
        # Where labels are fresh in every batch, one set of them says how they scatter.
        found = {
            part: with_error(replace(of_part, method=method.method, saved=_stage(task, part)), found[part])
            for part, of_part in ((BASELINE, task), (SMEARED, smeared))
        }
    # The labels of the table stand for the smeared ones, which follow from them.
    source = source_of(task.fitted, task.fitted, task.held_out, task.seed)
    source = source.model_copy(update={"n_eff": task.n_eff})
    cards = {part: card_of(method.method, task.spec, learned, source) for part, learned in found.items()}
    figures = {f"{BASELINE}_{name}": value for name, value in found[BASELINE].figures.items()}
    learned = Learned(
        {f"{part}.{name}": tensor for part, learned in found.items() for name, tensor in learned.tensors.items()},
        found[SMEARED].target,
        {**found[SMEARED].figures, **figures},
        found[SMEARED].history,
        all(learned.converged for learned in found.values()),
        cards,
    )
    return replace(learned, figures=learned.figures | _closure(task, learned, judges))


def _closure(task: Task, learned: Learned, judges: JetPairs) -> dict[str, float]:
    """What should be equal on held-out jets, sigma_cal and sigma_smear [GeV], and the pull of their smeared labels.

    The pulls of a training report are those of the labels of the table, without the noise.
    """
    jets = judges.take(np.arange(0, len(judges), -(-len(judges) // CLOSURE_JETS)))
    card = card_of(task.method, task.spec, learned, learned.parts[BASELINE].source)
    calibrator = NoisyLabelsCalibrator(card, {**learned.tensors, **task.input_tensors()}, str(task.place))
    prediction = calibrator.predict(jets.features, jets.reco)
    sigma_tot, error = prediction.sigma_tot, jets.truth_error
    if sigma_tot is None or error is None or not jets.weight.sum() > 0:
        return {}
    width = CalibrationWidth.of(prediction, jets.weight)
    pull = (jets.truth - prediction.mean) / sigma_tot.astype(np.float64)
    mean, _ = weighted_mean(pull, jets.weight)
    return {
        "sigma_cal": width.sigma_cal,
        "sigma_cal_error": width.error,
        "sigma_smear": float(np.sqrt(max(weighted_mean(error.astype(np.float64) ** 2, jets.weight)[0], 0))),
        "label_pull_sd": float(np.sqrt(max(weighted_mean((pull - mean) ** 2, jets.weight)[0], 0))),
    }


@dataclass(frozen=True)
class _Noise:
    """Errors of the labels, for fresh ones.

    Attributes:
        target: The standardised target that they belong to.
        error: In its units, float32 of shape (n,).
    """

    target: TargetScaling
    error: torch.Tensor


def _noise(task: Task, method: NoisyLabels) -> _Noise:
    """Errors of the labels in units of the standardised target of a training on the table as it is."""
    error = label_errors(task.fitted, method.fraction)
    largest = float(np.max(error / task.fitted.truth))
    if largest * LARGEST_NORMAL >= 1:
        raise TrainingError(
            f"fresh labels with relative errors up to {largest:.3g} would not all be positive: "
            f"up to {1 / LARGEST_NORMAL:.3g} they are"
        )
    weight = torch.from_numpy(unit_weights(task.fitted).astype(np.float32))
    target = TargetScaling.fit(torch.from_numpy(task.fitted.truth / task.fitted.reco), weight)
    return _Noise(target, torch.from_numpy((error / task.fitted.reco / target.scale).astype(np.float32)))


def _learn(task: Task, method: NoisyLabels, part: str, noise: _Noise | None = None) -> Learned:
    """One of the two trainings, with a checkpoint of its own."""
    paired = _Paired.of(method.method, task.seed, noise.error if noise else None)
    learned = regression.learn(replace(task, method=paired, saved=_stage(task, part)))
    if noise and learned.target != noise.target:
        raise TrainingError(f"labels were smeared for {noise.target}, and the training used {learned.target}")
    return learned


def _stage(task: Task, part: str) -> Checkpoint | None:
    """The checkpoint of one of the two trainings."""
    return task.saved.at(part) if task.saved else None


class _Paired(NetworkMethod):
    """A method whose training can be paired with another: see :class:`_PairedObjective`."""

    name: ClassVar[str] = NoisyLabels.name

    _method: NetworkMethod = PrivateAttr()
    _seed: int = PrivateAttr()
    _error: torch.Tensor | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, method: NetworkMethod, seed: int, error: torch.Tensor | None) -> _Paired:
        """From the method, and the errors of fresh labels in units of the standardised target."""
        made = cls.model_validate({name: getattr(method, name) for name in NetworkMethod.model_fields})
        made._method, made._seed, made._error = method, seed, error
        return made

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> Objective:
        """See :meth:`NetworkMethod.objective`."""
        return _PairedObjective(self._method.objective(sample, generator), self._seed, self._error)

    def build_head(self) -> Head:
        """See :meth:`NetworkMethod.build_head`."""
        return self._method.build_head()

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return self._method.networks


class _PairedObjective(Objective):
    """An objective whose kept draws do not depend on how long the training was, with fresh labels if asked for.

    The random numbers of fresh labels belong to the rows of a batch. The generator of the training, and with it the
    order of the jets, the weight draws and the checkpoints, knows nothing of them.

    Args:
        objective: What is minimised.
        seed: Of the training.
        error: Errors of the labels in units of the standardised target, float32 of shape (n,); None: no fresh labels.
    """

    def __init__(self, objective: Objective, seed: int, error: torch.Tensor | None) -> None:
        self.objective, self.seed, self.error = objective, seed, error
        self.module, self.members = objective.module, objective.members
        self._labels: torch.Tensor | None = None

    @property
    def rows(self) -> int | None:
        """See :attr:`Objective.rows`."""
        return self.objective.rows

    def batch(self, table: Table, rows: torch.Tensor) -> Batch:
        """See :meth:`Objective.batch`."""
        if self.error is None:
            return self.objective.batch(table, rows)
        x, y, w = table
        if self._labels is None:
            self._labels, self.error = y.clone(), self.error.to(y.device)
        used = self.objective.table_rows(rows).flatten()
        xi = torch.randn(
            len(used), generator=self._generator(used.cpu().numpy().tobytes()), dtype=torch.float32, device="cpu"
        ).to(y.device)
        self._labels[used] = y[used] + self.error[used] * xi
        return self.objective.batch((x, self._labels, w), rows)

    def loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See :meth:`Objective.loss`."""
        return self.objective.loss(x, y, w, generator)

    def backward(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> None:
        """See :meth:`Objective.backward`."""
        self.objective.backward(x, y, w, generator)

    def held_out_loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """See :meth:`Objective.held_out_loss`."""
        return self.objective.held_out_loss(x, y, w)

    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:  # noqa: ARG002
        """See :meth:`Objective.tensors`; with a generator of its own."""
        return self.objective.tensors(self._generator(b"draws"))

    def figures(self) -> dict[str, float]:
        """See :meth:`Objective.figures`."""
        return self.objective.figures()

    def _generator(self, content: bytes) -> torch.Generator:
        digest = hashlib.blake2b(content, digest_size=8, key=self.seed.to_bytes(8, "little")).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
