"""Networks that regress y = pt_truth / pt_reco: the Bayesian network, ensembles, squared error."""

from __future__ import annotations

import numpy as np
import torch

from hepcal.methods.base import NetworkMethod
from hepcal.methods.training.inputs import input_tensor, network_inputs
from hepcal.methods.training.task import Learned, Task, unit_weights
from hepcal.networks.objectives import TrainingSet
from hepcal.networks.optimisation import minimise
from hepcal.networks.scaling import TargetScaling
from hepcal.tables.pairs import JetPairs

__all__ = ["learn"]

# For starting values; multinomial choices are of at most 2^24.
TYPICAL_JETS = 20_000
MAX_CHOICES = 2**24
# Jets at which finished networks are looked at.
EXAMINED_JETS = 20_000


def learn(task: Task, *, drawn: bool = False) -> Learned:
    """Standardise the target, start, and minimise.

    Args:
        task: What is learned from.
        drawn: Draw jets as often as their weights say, spread over the order of the table in every batch, instead of
            weighting them in the loss.
    """
    method = task.settings(NetworkMethod)  # type: ignore[type-abstract]
    generator = torch.Generator().manual_seed(task.seed)
    raw, w = _targets(task.fitted)
    target = TargetScaling.fit(raw, w)

    def standardised(raw: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return raw.sub_(target.location).div_(target.scale).to(task.place), w.to(task.place)

    table = network_inputs(task.fitted, task.inputs, task.place), *standardised(raw, w)
    judge = input_tensor(task.judges, task.inputs, task.place), *standardised(*_targets(task.judges))
    typical = table[1].cpu() if bool((w == w[0]).all()) else _typical(table[1].cpu(), w, generator)
    sample = TrainingSet(len(task.inputs.transforms), task.n_eff, typical, task.fitted.event, task.cells)
    objective = method.objective(sample, generator)
    objective.module.to(task.place)
    # Networks that see parts of the jets keep the weights in the loss.
    share = w.double().numpy() if drawn and objective.rows is None else None
    if share is not None:
        table = table[0], table[1], torch.ones_like(table[2])
    fit = minimise(
        objective, method.descent, table, judge, generator, show=task.show, checkpoint=task.saved, share=share
    )
    figures = {"held_out_loss": float(np.mean(fit.best_losses)), **objective.figures()}
    tensors = dict(objective.tensors(generator))

    def seen() -> tuple[torch.Tensor, np.ndarray]:
        rows = np.random.default_rng(task.seed).permutation(len(task.fitted))[:EXAMINED_JETS]
        some = task.fitted.take(np.sort(rows))
        return input_tensor(some, task.inputs, task.place), np.asarray(some.reco)

    more, of_them = method.examined(objective, seen)
    tensors, figures = {**tensors, **more}, {**figures, **of_them}
    return Learned(tensors, target, figures, tuple(fit.history), fit.converged)


def _typical(y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Targets that stand for the weighted ones, for starting values; negative weights count as zero."""
    rows = torch.multinomial(w[:MAX_CHOICES].clamp_min(0), TYPICAL_JETS, replacement=True, generator=generator)
    return y[:MAX_CHOICES][rows]


def _targets(pairs: JetPairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets y = truth / reco (n,), weights (n,) of mean one."""
    weight = torch.from_numpy(unit_weights(pairs).astype(np.float32))
    return torch.from_numpy(pairs.truth / pairs.reco), weight
