"""Trains a Gaussian Ansatz: numerical inversion, Adam on batches, L-BFGS on all jets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from hepcal.calibrators.ansatz import LEAST_PAIRS, GaussianAnsatz
from hepcal.errors import TrainingError
from hepcal.networks.ansatz import (
    AnsatzLayout,
    AnsatzNetworks,
    DVRValue,
    Pairing,
    dvr_loss,
    dvr_loss_in_blocks,
    dvr_value,
    grid_maximum,
)
from hepcal.networks.scaling import TargetScaling
from hepcal.pairs import JetPairs
from hepcal.progress import Progress
from hepcal.training.ansatz_start import starting_point
from hepcal.training.learned import Learned, Task, raw_inputs, unit_weights

__all__ = ["AnsatzFit", "fit_ansatz", "learn"]

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


def learn(task: Task) -> Learned:
    """Train on jets: inputs are reco p_T itself, not its logarithm, and the standardised features."""
    method = task.method
    assert isinstance(method, GaussianAnsatz)  # noqa: S101 - the registry says so
    inputs, judged = _inputs(task, task.fitted), _inputs(task, task.judges)
    fit = fit_ansatz(
        inputs, task.fitted.truth, unit_weights(task.fitted), method,
        judge=(judged, task.judges.truth, unit_weights(task.judges)), seed=task.seed, place=task.place, show=task.show,
    )  # fmt: skip
    tensors = {
        "ansatz": fit.networks.flat.float().cpu(),
        "ansatz_mean": torch.from_numpy(fit.x_mean.astype(np.float32)),
        "ansatz_scale": torch.from_numpy(fit.x_scale.astype(np.float32)),
        "truth_range": torch.tensor(fit.z_range, dtype=torch.float32),
    }
    return Learned(tensors, TargetScaling(fit.z_mean, fit.z_scale), fit.figures, tuple(fit.history), fit.converged)


def _inputs(task: Task, pairs: JetPairs) -> np.ndarray:
    """Reco p_T [GeV] and standardised features, float64 of shape (n, 1 + d)."""
    features = task.inputs(raw_inputs(pairs))[1:].numpy()
    return np.concatenate([pairs.reco[None], features]).T.astype(np.float64)


@dataclass
class AnsatzFit:
    """A trained Gaussian Ansatz in the units of its training.

    Attributes:
        networks: A, B and C of standardised x and z, float64, parameters rounded to float32.
        x_mean: Mean of the inputs, shape (d,).
        x_scale: Standard deviation, shape (d,).
        z_mean: Mean of the truth.
        z_scale: Standard deviation.
        z_range: Smallest and largest truth of the training.
        figures: ``dvr`` and ``dvr_unc``: mutual information [nats] on the held-out events and its error; ``dvr_fitted``
            on the fitted ones; ``beside_maximum``: share of held-out events whose B is more than 1 % of sigma from
            the maximum of T over the truth range, among those with B in it; ``curvature_not_negative``: share with
            C(x, B) >= 0; ``outside_truth``: share with B outside the truth range; ``nonfinite_batches``: updates left
            out because the loss or its gradient was not finite.
        history: Pairs of update (of Adam, then iterations of L-BFGS) and held-out loss.
        converged: Whether L-BFGS ended because nothing was to be gained, and not at ``iterations``.
    """

    networks: AnsatzNetworks
    x_mean: np.ndarray
    x_scale: np.ndarray
    z_mean: float
    z_scale: float
    z_range: tuple[float, float]
    figures: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    converged: bool = True

    @torch.no_grad()
    def calibrated(self, x: np.ndarray) -> np.ndarray:
        """B(x) in units of the truth, for inputs (n, d) or (n,); shape (n,)."""
        return self.z_mean + self.z_scale * self.networks.b(self._standardised(x)).cpu().numpy()

    @torch.no_grad()
    def sigma(self, x: np.ndarray) -> np.ndarray:
        """(-C(x, B(x)))^(-1/2) in units of the truth, shape (n,); NaN where C is not negative."""
        rows = self._standardised(x)
        c = self.networks.c(rows, self.networks.b(rows))
        return self.z_scale * torch.where(c < 0, -1 / c, torch.nan).sqrt().cpu().numpy()

    def dvr(self, x: np.ndarray, z: np.ndarray, weight: np.ndarray | None = None, seed: int = 0) -> DVRValue:
        """Mutual information [nats] that T shows on other events."""
        rows = self._standardised(x)
        truth = torch.from_numpy((np.asarray(z, dtype=np.float64) - self.z_mean) / self.z_scale).to(rows.device)
        w = torch.ones_like(truth) if weight is None else torch.from_numpy(weight).to(truth)
        pairing = Pairing.draw(truth, w, JUDGE_CELLS, torch.Generator().manual_seed(seed))
        return dvr_value(self.networks, rows, truth, w, pairing)

    def _standardised(self, x: np.ndarray) -> torch.Tensor:
        x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        return torch.from_numpy((x - self.x_mean) / self.x_scale).to(self.networks.flat.device)


Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


def fit_ansatz(
    x: np.ndarray,
    z: np.ndarray,
    weight: np.ndarray | None = None,
    method: GaussianAnsatz | None = None,
    *,
    judge: Sample | None = None,
    seed: int = 0,
    place: torch.device | None = None,
    show: bool = False,
) -> AnsatzFit:
    """Train a Gaussian Ansatz on arrays of any units and sign.

    Args:
        x: Inputs, shape (n, d) or (n,); the first is the measured counterpart of z.
        z: Truth, shape (n,).
        weight: Event weights of either sign, shape (n,); scaled to mean one. Default one.
        method: Settings; default :class:`hepcal.GaussianAnsatz`.
        judge: Inputs, truth and weights of held-out events; default: a share ``method.validation`` of the events.
        seed: Fixes all random numbers.
        place: Where to train.
        show: Report progress.

    Raises:
        TrainingError: An input, the truth or the weights have no positive variance or sum, the first input does not
            grow with the truth, or the loss is not finite at the start.
    """
    method, x = method or GaussianAnsatz(), np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    z, w = np.asarray(z, dtype=np.float64), np.ones(len(z)) if weight is None else np.asarray(weight, dtype=np.float64)
    generator = torch.Generator().manual_seed(seed)
    if judge is None:
        order = torch.randperm(len(z), generator=generator).numpy()
        held, rest = np.split(order, [max(1, round(method.validation * len(z)))])
        judge, x, z, w = (x[held], z[held], w[held]), x[rest], z[rest], w[rest]
    x_mean, x_scale = _moments(x, w, "an input")
    z_mean, z_scale = (float(part[0]) for part in _moments(z[:, None], w, "the truth"))
    layout = method.layout(x.shape[1])

    def sample(x: np.ndarray, z: np.ndarray, w: np.ndarray) -> _Sample:
        rows = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) - x_mean) / x_scale
        truth = (np.asarray(z, dtype=np.float64) - z_mean) / z_scale
        parts = (torch.from_numpy(part).to(place or "cpu") for part in (rows, truth, w / w.mean()))
        return _Sample(*(part.float() for part in parts))

    fitted, judged = sample(x, z, w), sample(*judge)
    flat = starting_point(layout, method.start, *(part.cpu().double().numpy() for part in fitted.parts), generator)
    training = _Training(method, layout, flat.to(place or "cpu"), fitted, judged, generator)
    with Progress("Training gaussian_ansatz", training.updates + method.iterations, "updates", show=show) as bar:
        training.adam(bar)
        training.lbfgs(bar)
    networks = AnsatzNetworks(layout, training.kept.float().double())
    judging = AnsatzNetworks(layout, training.kept.float())
    found = AnsatzFit(networks, x_mean, x_scale, z_mean, z_scale, (float(z.min()), float(z.max())))
    found.history, found.converged = training.history, training.converged
    found.figures = {**training.figures(judging), **_checks(judging, fitted, judged)}
    return found


def _moments(values: np.ndarray, weight: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of columns (n, d), rounded to float32 as in a saved calibrator."""
    share = weight / weight.sum()
    mean = share @ values
    variance = share @ (values - mean) ** 2
    if not (np.isfinite(variance).all() and (variance > 0).all()):
        raise TrainingError(f"{what} of the Gaussian Ansatz does not vary, or too many weights are negative")
    return mean.astype(np.float32).astype(np.float64), np.sqrt(variance).astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class _Sample:
    """Standardised events on the device, float32: x (n, d), z (n,), weight (n,)."""

    x: torch.Tensor
    z: torch.Tensor
    weight: torch.Tensor

    @property
    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.x, self.z, self.weight

    @property
    def n_eff(self) -> float:
        w = self.weight.double()
        return float(w.sum() ** 2 / w.square().sum())

    def take(self, rows: torch.Tensor) -> _Sample:
        return _Sample(self.x[rows], self.z[rows], self.weight[rows])

    def paired(self, cells: int, generator: torch.Generator) -> Pairing:
        return Pairing.draw(self.z, self.weight, cells, generator)


class _Training:
    """Parameters on their way, and the best ones so far as the held-out events see it."""

    def __init__(
        self,
        method: GaussianAnsatz,
        layout: AnsatzLayout,
        flat: torch.Tensor,
        fitted: _Sample,
        judged: _Sample,
        generator: torch.Generator,
    ) -> None:
        self.method, self.layout, self.fitted, self.judged, self.generator = method, layout, fitted, judged, generator
        self.flat = flat.clone().requires_grad_()
        self.kept = flat.clone()
        self.judge_pairs = judged.paired(JUDGE_CELLS, generator)
        self.batch = min(method.batch, len(fitted.z))
        self.updates = method.epochs * (len(fitted.z) // self.batch)
        self.update, self.nonfinite, self.since, self.converged = 0, 0, 0, method.iterations == 0
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
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_([self.flat], self.method.clip)
            if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
                optimiser.step()
            else:
                self.nonfinite += 1
            schedule.step()
            self.update += 1
            bar.advance(1)
        # The state after Adam is where L-BFGS begins, whatever the start was: an exact start proves nothing.
        self.best, self.kept = self.value(), self.flat.detach().clone()
        self.history.append((self.update, -self.best.value))

    def _batches(self) -> Iterator[torch.Tensor]:
        for _ in range(self.method.epochs):
            order = torch.randperm(len(self.fitted.z), generator=self.generator)
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
            before = float(optimiser.step(closure))
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
        self.since, self.kept = 0, self.flat.detach().clone()
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
        }


@torch.no_grad()
def _checks(networks: AnsatzNetworks, fitted: _Sample, judged: _Sample) -> dict[str, float]:
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
