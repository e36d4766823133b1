"""The descent of a Gaussian Ansatz: Adam on batches, then L-BFGS on all events, judged on held-out ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hepcal.errors import TrainingError
from hepcal.methods.ansatz.calibrator import LEAST_PAIRS, GaussianAnsatz
from hepcal.methods.ansatz.network import (
    AnsatzLayout,
    AnsatzNetworks,
    DVRValue,
    Pairing,
    dvr_loss,
    dvr_loss_in_blocks,
    dvr_value,
    grid_maximum,
)
from hepcal.progress import Progress

__all__ = ["JUDGE_CELLS", "Descent", "Events", "maximum_checks"]

# Iterations of L-BFGS between looks at the held-out jets, and remembered ones.
LOOK_EVERY = 10
HISTORY = 30
# Looks in a row with a held-out value significantly below the best after which the training ends.
PATIENCE = 2
# L-BFGS ends when the loss of all jets together (n_eff times the mean) gains less than this between two looks: less
# than what one parameter gains from the noise.
GAIN = 0.1
JUDGE_CELLS = 32
# Jets whose B is compared with the maximum of T.
CHECKED = 4000
# A B farther than this from the maximum of T, in units of sigma, counts as beside it.
BESIDE = 0.01


@dataclass(frozen=True)
class Events:
    """Standardised events on the device, float32: x (n, d), z (n,), weight (n,)."""

    x: torch.Tensor
    z: torch.Tensor
    weight: torch.Tensor

    @property
    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All three."""
        return self.x, self.z, self.weight

    @property
    def n_eff(self) -> float:
        """Effective number of events."""
        w = self.weight.double()
        return float(w.sum() ** 2 / w.square().sum())

    def take(self, rows: torch.Tensor) -> Events:
        """Some of the events."""
        return Events(self.x[rows], self.z[rows], self.weight[rows])

    def inside(self, other: Events) -> Events:
        """Those in the range of other events: outside of it T goes on in straight lines, and means nothing."""
        good = (self.z >= other.z.min()) & (self.z <= other.z.max())
        good &= ((self.x >= other.x.amin(0)) & (self.x <= other.x.amax(0))).all(1)
        return self.take(good)

    def paired(self, cells: int, generator: torch.Generator) -> Pairing:
        """Fresh pairs for the product of the marginals."""
        return Pairing.draw(self.z, self.weight, cells, generator)


class Descent:
    """Parameters on their way, and the best ones so far as the held-out events see it."""

    def __init__(
        self,
        method: GaussianAnsatz,
        layout: AnsatzLayout,
        flat: torch.Tensor,
        fitted: Events,
        judged: Events,
        generator: torch.Generator,
    ) -> None:
        self.method, self.layout, self.fitted, self.generator = method, layout, fitted, generator
        self.judged = judged.inside(fitted)
        if not float(self.judged.weight.sum()) > 0:
            raise TrainingError("no held-out events of positive weight lie in the range of the fitted ones")
        self.flat = flat.clone().requires_grad_()
        self.kept = flat.clone()
        self.judge_pairs = self.judged.paired(JUDGE_CELLS, generator)
        self.batch = min(method.batch, len(fitted.z))
        self.updates = method.epochs * (len(fitted.z) // self.batch)
        self.update, self.nonfinite, self.since, self.converged = 0, 0, 0, method.iterations == 0
        self.kept_update = 0
        self.history: list[tuple[int, float]] = []
        self.best = self.value()
        if not math.isfinite(self.best.value):
            raise TrainingError("the loss is not finite at the start: look for absurd inputs or weights")

    def _networks(self) -> AnsatzNetworks:
        """With the present parameters: float64, so that L-BFGS can tell small steps; computed with float32."""
        return AnsatzNetworks(self.layout, self.flat, torch.float32)

    def value(self) -> DVRValue:
        """What the present parameters are worth on the held-out events."""
        return dvr_value(self._networks(), *self.judged.parts, self.judge_pairs)

    def adam(self, bar: Progress) -> None:
        """Batches without replacement, a falling step size, gradients of bounded norm; ends at the last state."""
        if not self.updates:
            return
        cells = max(self.method.cells, math.ceil(LEAST_PAIRS / self.batch))
        optimiser = torch.optim.Adam([self.flat], lr=self.method.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.updates)
        for rows in self._batches():
            part = self.fitted.take(rows.to(self.fitted.z.device))
            optimiser.zero_grad()
            loss = dvr_loss(self._networks(), *part.parts, part.paired(cells, self.generator))
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_([self.flat], self.method.clip)
            if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
                optimiser.step()
            else:
                self.nonfinite += 1
            schedule.step()
            self.update += 1
            bar.advance(1)
        # The state after Adam is where L-BFGS begins, whatever the start was: an exact start proves nothing.
        self.best, self.kept, self.kept_update = self.value(), self.flat.detach().clone(), self.update
        if not math.isfinite(self.best.value):
            raise TrainingError(
                f"the held-out loss is not finite after {self.update} updates of Adam: lower the learning rate (now "
                f"{self.method.learning_rate:g})"
            )
        self.history.append((self.update, -self.best.value))

    def _batches(self) -> Iterator[torch.Tensor]:
        for _ in range(self.method.epochs):
            order = torch.randperm(len(self.fitted.z), generator=self.generator, device="cpu")
            yield from order[: len(order) // self.batch * self.batch].view(-1, self.batch)

    def lbfgs(self, bar: Progress) -> None:
        """All events, fixed pairs; ends when nothing is gained or the held-out value falls."""
        pairing = self.fitted.paired(self.method.cells, self.generator)
        optimiser = torch.optim.LBFGS(
            [self.flat], max_iter=LOOK_EVERY, max_eval=3 * LOOK_EVERY, history_size=HISTORY,
            tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            self.flat.grad = 2 * self.method.l2 * self.flat.detach()
            networks = self._networks()
            loss = dvr_loss_in_blocks(networks, *self.fitted.parts, pairing)
            return loss + self.method.l2 * self.flat.detach().square().sum()

        loss, gain = math.inf, GAIN / self.fitted.n_eff
        for _ in range(0, self.method.iterations, LOOK_EVERY):
            # A step returns the loss that it began with.
            before = float(optimiser.step(closure))  # type: ignore[no-untyped-call]
            if not torch.isfinite(self.flat).all():
                self.nonfinite += 1
                self.flat.data.copy_(self.kept)
                break
            self.update += LOOK_EVERY
            self._look()
            bar.advance(LOOK_EVERY, f"held-out value {self.best.value:.5f} nats")
            if self.since >= PATIENCE or loss - before < gain:
                self.converged = True
                break
            loss = before

    def _look(self) -> None:
        """Keep the newest state unless it is worse than the best one by more than the error of their difference.

        The value differs by less than the noise of the held-out events where B still differs by much: to keep the best
        one by chance would stop too soon.
        """
        now = self.value()
        self.history.append((self.update, -now.value))
        worse = self.best.value - now.value
        if not worse <= now.unc_of_difference(self.best):
            self.since += 1
            return
        self.since, self.kept, self.kept_update = 0, self.flat.detach().clone(), self.update
        if worse < 0:
            self.best = now

    def figures(self, networks: AnsatzNetworks) -> dict[str, float]:
        """What the kept state is worth."""
        held_out = dvr_value(networks, *self.judged.parts, self.judge_pairs)
        pairing = self.fitted.paired(self.method.cells, self.generator)
        return {
            "dvr": held_out.value,
            "dvr_unc": held_out.unc,
            "dvr_fitted": dvr_value(networks, *self.fitted.parts, pairing).value,
            "nonfinite_batches": float(self.nonfinite),
            "kept_update": float(self.kept_update),
        }


@torch.no_grad()
def maximum_checks(networks: AnsatzNetworks, fitted: Events, judged: Events) -> dict[str, float]:
    """Whether B is the maximum of T, inside the truth range of the training."""
    x = judged.x[:CHECKED]
    low, high = float(fitted.z.min()), float(fitted.z.max())
    b = networks.b(x)
    c = networks.c(x, b)
    inside = (b >= low) & (b <= high)
    off = (grid_maximum(networks, x[inside], low, high) - b[inside]).abs() if bool(inside.any()) else b[:0]
    sigma = (-1 / c[inside].clamp_max(-1e-12)).sqrt()
    beside = (off > BESIDE * sigma) | (c[inside] >= 0)
    return {
        "beside_maximum": float(beside.double().mean()) if len(beside) else math.nan,
        "curvature_not_negative": float((c >= 0).double().mean()),
        "outside_truth": float((~inside).double().mean()),
    }
