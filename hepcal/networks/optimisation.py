"""The loop that minimises an objective: batches, schedule, plateaus, the best state, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import index
from typing import Any, Literal

import numpy as np
import torch
from torch.optim.adam import adam

from hepcal.errors import TrainingError
from hepcal.networks.checkpoints import Checkpoint
from hepcal.networks.objectives import Batch, Objective, Table
from hepcal.progress import Progress, say

__all__ = ["Fit", "Loop", "Schedule", "ScheduleName", "minimise"]

CHECKS_PER_PATIENCE = 8
LEARNING_RATE_DROP = 10**-0.5
# A density whose width has a floor of 1e-3 has no smaller loss, in nats per jet: what is below is no loss at all.
LEAST_LOSS = -50.0
# Plateaus after which a training ends, by schedule; a cosine ends with its last update.
PLATEAUS = {"plateau": 3, "constant": 1, "cosine": math.inf}

ScheduleName = Literal["plateau", "cosine", "constant"]


@dataclass(frozen=True)
class Schedule:
    """How an objective is minimised.

    Attributes:
        title: Whose training it is, for the progress report.
        batch: Jets per update.
        learning_rate: Step size of Adam at the start.
        kind: ``plateau`` divides the step size by about three at each plateau of the held-out loss and ends at the
            third; ``cosine`` lets it fall to zero at ``max_updates``; ``constant`` keeps it and ends at the first
            plateau.
        max_updates: Updates after which the training ends in any case.
        patience: Updates without a better held-out loss that count as a plateau.
    """

    title: str
    batch: int
    learning_rate: float
    kind: ScheduleName
    max_updates: int
    patience: int


@dataclass
class Fit:
    """How a training went.

    Attributes:
        history: Pairs of update and held-out loss, averaged over members.
        converged: Whether it ended by its schedule, and not because ``max_updates`` came first.
        best_losses: Smallest held-out loss of each member.
    """

    history: list[tuple[int, float]] = field(default_factory=list)
    converged: bool = False
    best_losses: list[float] = field(default_factory=list)


def minimise(
    objective: Objective,
    schedule: Schedule,
    table: Table,
    judge: Batch,
    generator: torch.Generator,
    *,
    show: bool = True,
    checkpoint: Checkpoint | None = None,
    share: np.ndarray | None = None,
) -> Fit:
    """Minimise an objective, and leave its module in the best state seen on the held-out jets.

    Args:
        objective: Its module holds the parameters, on the device of the tables.
        schedule: Batch, step size and the like.
        table: Training inputs (n, d), in memory or streamed, targets (n,) and weights (n,).
        judge: The same of held-out jets.
        generator: Random numbers, on the CPU.
        show: Report progress.
        checkpoint: Where to continue from, and to write to at every look at the held-out jets.
        share: How often rows are drawn, in any unit, float64 of shape (n,), for tables whose rows are in an order that
            every batch is to be spread over; default: all alike, in random order.

    Raises:
        TrainingError: A weight is negative, the held-out loss is not finite or smaller than that of any density, or
            the checkpoint is of another training.
    """
    loop = Loop(objective, schedule, table, judge, generator, share)
    saved = checkpoint.load() if checkpoint else None
    if checkpoint and saved:
        try:
            loop.restore(*saved)
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise TrainingError(
                f"{checkpoint.path} does not fit this training: {error}; delete it to begin anew"
            ) from error
    title = f"Training {schedule.title}"
    with denormals_flushed(), Progress(title, schedule.max_updates, "updates", show=show) as bar:
        bar.advance(loop.update)
        while not loop.done:
            loop.step()
            if loop.due:
                bar.advance(loop.update - bar.done, loop.look())
                if checkpoint:
                    checkpoint.save(*loop.state())
    return loop.finish(show)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Count numbers below 1e-38 as zero inside, in the calling thread.

    L2 lets weights that nothing needs fall exponentially, and the squares in Adam's memory with them; arithmetic with
    denormal numbers is up to a hundred times slower.
    """
    before = float(torch.full((1,), 1e-40, dtype=torch.float32, device="cpu") * 1.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class Loop:
    """The state of a training between two updates; :func:`minimise` drives it."""

    def __init__(
        self,
        objective: Objective,
        schedule: Schedule,
        table: Table,
        judge: Batch,
        generator: torch.Generator,
        share: np.ndarray | None = None,
    ) -> None:
        self.objective, self.schedule, self.table, self.judge = objective, schedule, table, judge
        _require_positive(table[2], judge[2])
        self.batches = _Batches(objective.rows or len(table[1]), schedule.batch, generator, share)
        self.generator = generator
        self.optimiser = _Adam([p for p in objective.module.parameters() if p.requires_grad])
        self.best_state = {name: value.clone() for name, value in objective.module.state_dict().items()}
        self.best = torch.full((objective.members,), math.inf, dtype=torch.float64, device="cpu")
        self.check_every = max(1, schedule.patience // CHECKS_PER_PATIENCE)
        self.fit = Fit()
        self.update, self.since, self.plateaus, self.drops = 0, 0, 0, 0

    @property
    def done(self) -> bool:
        """Whether the schedule or ``max_updates`` ends the training here."""
        return self.update >= self.schedule.max_updates or self.plateaus >= PLATEAUS[self.schedule.kind]

    @property
    def due(self) -> bool:
        """Whether it is time to look at the held-out jets."""
        return self.update % self.check_every == 0 or self.update >= self.schedule.max_updates

    def step(self) -> None:
        """One update."""
        rate = self.schedule.learning_rate * LEARNING_RATE_DROP**self.drops
        if self.schedule.kind == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * self.update / self.schedule.max_updates))
        rows = self.batches.next().to(self.table[1].device)
        self.objective.backward(*self.objective.batch(self.table, rows), self.generator)
        self.optimiser.step(rate)
        self.update += 1

    def look(self) -> str:
        """Judge the present state; returns a line for the progress bar."""
        losses = self.objective.held_out_loss(*self.judge).cpu()
        if not (torch.isfinite(losses) & (losses > LEAST_LOSS)).all():
            raise TrainingError(
                f"the held-out loss became {losses.tolist()} after {self.update} updates: "
                f"lower the learning rate (now {self.schedule.learning_rate:g}) or look for absurd targets"
            )
        # Some of many members are always better than ever: progress is that of their mean.
        best = min((loss for _, loss in self.fit.history), default=math.inf)
        self._keep(losses < self.best)
        self.best = torch.minimum(self.best, losses)
        self.fit.history.append((self.update, float(losses.mean())))
        if self.fit.history[-1][1] < best:
            self.since = self.update
        elif self.update - self.since >= self.schedule.patience and self.schedule.kind != "cosine":
            self._plateau()
        return f"held-out loss {self.fit.history[-1][1]:.4f}, best {float(self.best.mean()):.4f}"

    def _keep(self, better: torch.Tensor) -> None:
        """Keep the present state of the members that are better than ever."""
        for name, value in self.objective.module.state_dict().items():
            if self.objective.members == 1:
                self.best_state[name] = value.clone() if better[0] else self.best_state[name]
            else:
                self.best_state[name][better] = value[better]

    def _plateau(self) -> None:
        self.plateaus += 1
        if not self.done:
            self.objective.module.load_state_dict(self.best_state)
            self.since = self.update
            self.drops += 1

    def finish(self, show: bool) -> Fit:
        """Return to the best state."""
        self.objective.module.load_state_dict(self.best_state)
        self.fit.converged = self.plateaus >= PLATEAUS[self.schedule.kind] or self.schedule.kind == "cosine"
        self.fit.best_losses = self.best.tolist()
        if not self.fit.converged and show:
            say(
                f"Training ended at max_updates = {self.schedule.max_updates}, before its last plateau: "
                "more may lower the loss"
            )
        return self.fit

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything that the next update depends on."""
        tensors = {f"module.{name}": value for name, value in self.objective.module.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_state.items()}
        tensors |= {f"adam.{name}": value for name, value in self.optimiser.state().items()}
        tensors |= {
            "generator": self.generator.get_state(),
            "order": self.batches.order,
            "best_losses": self.best,
        }
        numbers = {name: getattr(self, name) for name in ("update", "since", "plateaus", "drops")}
        return tensors, {**numbers, "position": self.batches.position, "history": self.fit.history}

    def restore(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Go back to a :meth:`state`."""
        parts: dict[str, dict[str, torch.Tensor]] = {"module": {}, "best": {}, "adam": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            if group in parts and rest:
                parts[group][rest] = value
        # Twice: the best state has to fit as well.
        self.objective.module.load_state_dict(parts["best"])
        self.objective.module.load_state_dict(parts["module"])
        device = self.table[1].device
        self.best_state = {name: value.to(device) for name, value in parts["best"].items()}
        for name, value in self.optimiser.state().items():
            value.copy_(parts["adam"][name])
        self.generator.set_state(tensors["generator"])
        self.batches.restore(tensors["order"], index(numbers["position"]))
        if tensors["best_losses"].shape != self.best.shape:
            raise ValueError(f"it holds best losses of shape {tuple(tensors['best_losses'].shape)}")
        self.best = tensors["best_losses"].double()
        for name in ("update", "since", "plateaus", "drops"):
            setattr(self, name, index(numbers[name]))
        self.fit.history = [(int(update), float(loss)) for update, loss in numbers["history"]]


def _require_positive(*weights: torch.Tensor) -> None:
    """Refuse negative weights, with which a loss has no lower bound: who trains makes them positive before.

    Raises:
        TrainingError: There are some.
    """
    for w in weights:
        if bool((w < 0).any()):
            raise TrainingError(
                f"{int((w < 0).sum())} of {w.numel()} weights are negative, with which the loss has no lower bound: "
                "train on positive weights of the same expectation (hepcal.train makes them)"
            )


class _Adam:
    """Adam (arXiv:1412.6980) by torch's functional form: the bookkeeping of ``torch.optim.Adam`` costs as much again.

    Args:
        parameters: What is trained, changed in place. All have gradients when a step is made.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters: list[torch.Tensor] = list(parameters)
        self.mean, self.square = ([torch.zeros_like(p, requires_grad=False) for p in parameters] for _ in range(2))
        self.steps = [torch.zeros((), device=p.device, dtype=torch.float32) for p in parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update with a step size."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        adam(
            self.parameters, gradients, self.mean, self.square, [], self.steps, fused=True, amsgrad=False,
            beta1=0.9, beta2=0.999, lr=rate, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, torch.Tensor]:
        """All that the next step depends on, beside parameters and gradients."""
        parts = {"mean": self.mean, "square": self.square, "steps": self.steps}
        return {f"{name}.{number}": part for name, found in parts.items() for number, part in enumerate(found)}


class _Batches:
    """Endless batches without replacement, reshuffled each time the table is through; the short rest is left out.

    With shares, the table is laid out on a line, every row as long as its share. A pass goes over evenly spaced points
    of the line, one of every part of it in each batch: rows come as often as their share says, up to one time in a
    pass, and every batch is spread over the whole table.
    """

    def __init__(self, rows: int, batch: int, generator: torch.Generator, share: np.ndarray | None = None) -> None:
        self.rows, self.size, self.generator = rows, min(batch, rows), generator
        self.order, self.position = torch.empty(0, dtype=torch.int64, device="cpu"), 0
        self._ends = None if share is None else torch.from_numpy(np.cumsum(share) / np.sum(share))

    def next(self) -> torch.Tensor:
        """Rows of the next batch, int64 of shape (size,)."""
        if self.position + self.size > len(self.order):
            self.order, self.position = self._pass(), 0
        rows = self.order[self.position : self.position + self.size]
        self.position += self.size
        return rows

    def restore(self, order: torch.Tensor, position: int) -> None:
        """Go on in the middle of an order of the rows.

        Raises:
            ValueError: They are not rows of this table, or not those of one pass.
        """
        good = order.dtype == torch.int64 and order.ndim == 1 and position >= 0
        if not good or len(order) not in (0, self._pass_length):
            raise ValueError("its order of rows is not that of the table")
        rows = order.sort().values
        if self._ends is None:
            good = torch.equal(rows, torch.arange(len(order), dtype=torch.int64, device="cpu"))
        elif len(order):
            good = int(rows[0]) >= 0 and int(rows[-1]) < self.rows
        if not good:
            raise ValueError("its order of rows is not that of the table")
        self.order, self.position = order, position

    @property
    def _pass_length(self) -> int:
        """Rows of one pass."""
        return self.rows if self._ends is None else self.rows // self.size * self.size

    def _pass(self) -> torch.Tensor:
        """Rows of the batches of one pass, one after the other."""
        if self._ends is None:
            return torch.randperm(self.rows, generator=self.generator, device="cpu")
        batches = self.rows // self.size
        shape = (batches, self.size)
        shuffled = torch.rand(shape, generator=self.generator, dtype=torch.float32, device="cpu").argsort(0)
        number = shuffled + batches * torch.arange(self.size, dtype=torch.int64, device="cpu")
        start = torch.rand((), generator=self.generator, dtype=torch.float64, device="cpu")
        found = torch.searchsorted(self._ends, (number.flatten() + start) / number.numel(), right=True)
        return found.clamp_max(self.rows - 1)
