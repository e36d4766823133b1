"""One training loop for every method: updates, plateaus, the best state, and a finished calibrator at the end."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch

from hepcal.calibrators.base import Calibrator, Card, SourceCard, transforms_of
from hepcal.calibrators.bnn import BNN
from hepcal.calibrators.method import Method, Objective
from hepcal.calibrators.registry import CALIBRATORS
from hepcal.errors import TrainingError
from hepcal.networks.inference import single_threaded
from hepcal.networks.scaling import InputScaling, TargetScaling
from hepcal.pairs import JetPairs
from hepcal.progress import Progress

__all__ = ["train"]

CHECKS_PER_PATIENCE = 8
LEARNING_RATE_DROP = 10**-0.5
PLATEAUS = 3
MIN_JETS = 20


def train(
    pairs: JetPairs, method: Method | None = None, *, seed: int = 0, device: str = "cpu", show: bool = True
) -> Calibrator:
    """Train a calibrator.

    Args:
        pairs: Training table. A share of its events (``method.validation``) is held out to notice plateaus.
        method: Settings, e.g. ``hepcal.BNN()`` (default) or ``hepcal.MSE()``.
        seed: Fixes everything: the same table, method and seed give the same calibrator on one machine type.
        device: Where to train.
        show: Report progress.

    Returns:
        A frozen calibrator with the best state seen, judged on the held-out jets.

    Raises:
        TrainingError: The table is too small, its weights do not sum to a positive number, or the loss diverged.
    """
    method = method or BNN()
    pairs.check()
    if len(np.unique(pairs.event)) < MIN_JETS:
        raise TrainingError(
            f"{len(np.unique(pairs.event))} training events are too few; at least {MIN_JETS} are needed"
        )
    fitted, held_out = pairs.split(1 - method.validation, seed)
    for name, part in (("training", fitted), ("held-out", held_out)):
        if not part.weight.sum() > 0:
            raise TrainingError(f"the weights of the {len(part)} {name} jets sum to {part.weight.sum():g}")
    with single_threaded():
        generator = torch.Generator().manual_seed(seed)
        raw, y_raw, w = _tensors(fitted)
        inputs = InputScaling.fit(raw, transforms_of(pairs.spec), w)
        target = TargetScaling.fit(y_raw)
        y = (y_raw - target.location) / target.scale
        objective = method.objective(len(inputs.transforms), fitted.n_eff, y, target, generator)
        objective.module.to(device)
        table = inputs(raw).T.contiguous().to(device), y.to(device), w.to(device)
        raw, y_raw, w = _tensors(held_out)
        y = (y_raw - target.location) / target.scale
        judge = inputs(raw).T.contiguous().to(device), y.to(device), w.to(device)
        history = _fit(objective, method, table, judge, generator, show)
        tensors = {
            **objective.tensors(generator),
            "input_mean": inputs.mean,
            "input_scale": inputs.scale,
            "input_low": inputs.low,
            "input_high": inputs.high,
        }
    card = Card(
        method=method.name,
        quantity=method.quantity,
        settings=method.model_dump(mode="json"),
        features=pairs.spec,
        target_location=target.location,
        target_scale=target.scale,
        source=SourceCard(
            schema_name=str(pairs.source.get("schema", "arrays")),
            files=tuple(pairs.source.get("files", ())),
            sha256=pairs.sha256,
            jets=len(fitted),
            n_eff=fitted.n_eff,
            validation_jets=len(held_out),
            seed=seed,
        ),
        figures={},
        history=tuple(history),
        versions=Card.software(),
    )
    calibrator = CALIBRATORS[method.name](card, tensors)
    figures = {
        "updates": float(history[-1][0]),
        "best_update": float(_best(history)[0]),
        **_closure(calibrator, held_out),
    }
    return CALIBRATORS[method.name](card.model_copy(update={"figures": figures}), tensors).to(device)


def _tensors(pairs: JetPairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw inputs (d, n) with p_T first, targets y = truth / reco (n,), weights (n,) of mean one."""
    raw = np.concatenate([pairs.reco[None], pairs.features.T]).astype(np.float32)
    weight = (pairs.weight / pairs.weight.mean()).astype(np.float32)
    return torch.from_numpy(raw), torch.from_numpy(pairs.truth / pairs.reco), torch.from_numpy(weight)


Table = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _fit(
    objective: Objective, method: Method, table: Table, judge: Table, generator: torch.Generator, show: bool
) -> list[tuple[int, float]]:
    """Minimise, dropping the step size at each plateau, and end in the best state; returns (update, held-out loss)."""
    optimiser = torch.optim.Adam(objective.module.parameters(), lr=method.learning_rate, fused=True)
    check_every = max(1, method.patience // CHECKS_PER_PATIENCE)
    history: list[tuple[int, float]] = []
    best, best_update, plateaus = math.inf, 0, 0
    best_state = copy.deepcopy(objective.module.state_dict())
    with Progress(f"Training {method.name}", method.max_updates, "updates at most", show=show) as bar:
        batches = _batches(table, method.batch, generator)
        for update in range(1, method.max_updates + 1):
            optimiser.zero_grad(set_to_none=True)
            x, y, w = next(batches)
            loss = objective.loss(x, y, w, generator)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if update % check_every and update < method.max_updates:
                continue
            held_out = objective.held_out_loss(*judge)
            if not math.isfinite(held_out):
                raise TrainingError(
                    f"the held-out loss became {held_out} after {update} updates: "
                    f"lower the learning rate (now {method.learning_rate:g}) or look for absurd targets"
                )
            history.append((update, held_out))
            if held_out < best:
                best, best_update, best_state = held_out, update, copy.deepcopy(objective.module.state_dict())
            bar.advance(update - bar.done, f"held-out loss {held_out:.4f}, best {best:.4f} at {best_update}")
            if update - best_update >= method.patience:
                plateaus += 1
                if plateaus == PLATEAUS:
                    break
                objective.module.load_state_dict(best_state)
                best_update = update
                for group in optimiser.param_groups:
                    group["lr"] *= LEARNING_RATE_DROP
    objective.module.load_state_dict(best_state)
    return history


def _batches(table: Table, batch: int, generator: torch.Generator) -> Iterator[Table]:
    """Endless batches without replacement, reshuffled each time the table is through; the short rest is left out."""
    rows = len(table[0])
    size = min(batch, rows)
    while True:
        order = torch.randperm(rows, generator=generator).to(table[0].device)
        for start in range(0, rows - size + 1, size):
            chosen = order[start : start + size]
            yield table[0][chosen], table[1][chosen], table[2][chosen]


def _best(history: list[tuple[int, float]]) -> tuple[int, float]:
    return min(history, key=lambda point: point[1])


def _closure(calibrator: Calibrator, pairs: JetPairs) -> dict[str, float]:
    """Figures on the held-out jets for the card."""
    prediction = calibrator.predict(pairs.features, pairs.reco)
    weight = pairs.weight
    figures = {"sum_ratio": float(np.sum(weight * prediction.mean) / np.sum(weight * pairs.truth))}
    if prediction.sigma_tot is not None:
        pull = (pairs.truth - prediction.mean) / prediction.sigma_tot
        figures["pull_sd"] = float(np.sqrt(np.cov(pull, aweights=np.abs(weight), bias=True)))
        figures["coverage_68"] = float(np.average(np.abs(pull) < 1, weights=weight))
    return figures
