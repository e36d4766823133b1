"""Trains a Gaussian Ansatz: numerical inversion, Adam on batches, L-BFGS on all jets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from hepcal.arrays import numbers
from hepcal.errors import TrainingError
from hepcal.methods.ansatz.calibrator import GaussianAnsatz
from hepcal.methods.ansatz.descent import JUDGE_CELLS, Descent, Events, maximum_checks
from hepcal.methods.ansatz.network import AnsatzNetworks, DVRValue, dvr_value
from hepcal.methods.ansatz.start import starting_point
from hepcal.methods.training.flattening import flattened
from hepcal.methods.training.task import Learned, Task, raw_inputs
from hepcal.networks.scaling import TargetScaling
from hepcal.progress import Progress
from hepcal.tables.pairs import JetPairs

__all__ = ["AnsatzFit", "fit_ansatz", "learn"]


def learn(task: Task) -> Learned:
    """Train on jets: inputs are reco p_T itself, not its logarithm, and the standardised features.

    The maximum of the likelihood does not depend on the truth spectrum: weights do not follow it.
    """
    method = task.settings(GaussianAnsatz)
    inputs, judged = _inputs(task, task.fitted), _inputs(task, task.judges)
    (log_truth, log_reco), (judged_truth, _) = (
        np.log([pairs.truth, pairs.reco], dtype=np.float64) for pairs in (task.fitted, task.judges)
    )
    flattening, weight = flattened(log_truth, log_reco, task.fitted.weight)
    judge = judged, task.judges.truth, flattening(judged_truth, task.judges.weight)
    fit = fit_ansatz(
        inputs, task.fitted.truth, weight, method, judge=judge, seed=task.seed, place=task.place, show=task.show,
    )  # fmt: skip
    tensors = {
        "ansatz": fit.networks.flat.float().cpu(),
        "ansatz_mean": torch.from_numpy(fit.x_mean.astype(np.float32)),
        "ansatz_scale": torch.from_numpy(fit.x_scale.astype(np.float32)),
        "truth_range": torch.tensor(fit.z_range, dtype=torch.float32, device="cpu"),
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
        fitted: The standardised events.
        figures: ``dvr`` and ``dvr_unc``: mutual information [nats] on the held-out events in the range of the fitted
            ones, and its error; ``dvr_fitted``: that on the fitted ones; ``beside_maximum``: share of held-out events
            whose B is more than 1 % of sigma from the maximum of T over the truth range, among those with B in it;
            ``curvature_not_negative``: share with C(x, B) >= 0; ``outside_truth``: share with B outside the truth
            range; ``nonfinite_batches``: updates left out because the loss or its gradient was not finite;
            ``kept_update``: the update that was kept.
        history: Pairs of update (of Adam, then iterations of L-BFGS) and held-out loss.
        converged: Whether L-BFGS ended because nothing was to be gained, and not at ``iterations``.
    """

    networks: AnsatzNetworks
    x_mean: np.ndarray
    x_scale: np.ndarray
    z_mean: float
    z_scale: float
    z_range: tuple[float, float]
    fitted: Events
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
        """Mutual information [nats] that T shows on other events, those in the range of the fitted ones."""
        rows = self._standardised(x)
        truth = torch.from_numpy((np.asarray(z, dtype=np.float64) - self.z_mean) / self.z_scale).to(rows.device)
        w = torch.ones_like(truth) if weight is None else torch.from_numpy(weight).to(truth)
        events = Events(rows, truth, w).inside(self.fitted)
        pairing = events.paired(JUDGE_CELLS, torch.Generator().manual_seed(seed))
        return dvr_value(self.networks, *events.parts, pairing)

    def _standardised(self, x: np.ndarray) -> torch.Tensor:
        x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        return torch.from_numpy((x - self.x_mean) / self.x_scale).to(self.networks.flat.device)


# An input with a smaller relative spread is a constant, and keeps the scale one.
SAME = 1e-6
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
        TrainingError: Negative weights leave no variance, the first input does not grow with the truth, or the loss is
            not finite at the start.
    """
    method, x = method or GaussianAnsatz(), numbers("x", x).reshape(len(x), -1)
    z, w = numbers("z", z), np.ones(len(z)) if weight is None else numbers("weight", weight)
    generator = torch.Generator().manual_seed(seed)
    if judge is None:
        order = torch.randperm(len(z), generator=generator, device="cpu").numpy()
        held, rest = np.split(order, [max(1, round(method.validation * len(z)))])
        judge, x, z, w = (x[held], z[held], w[held]), x[rest], z[rest], w[rest]
    x_mean, x_scale = _moments(x, w, "an input")
    z_mean, z_scale = (float(part[0]) for part in _moments(z[:, None], w, "the truth"))
    layout = method.layout(x.shape[1])

    def sample(x: np.ndarray, z: np.ndarray, w: np.ndarray) -> Events:
        rows = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) - x_mean) / x_scale
        truth = (np.asarray(z, dtype=np.float64) - z_mean) / z_scale
        parts = (torch.from_numpy(part).to(place or "cpu") for part in (rows, truth, w / w.mean()))
        return Events(*(part.float() for part in parts))

    fitted, judged = sample(x, z, w), sample(*judge)
    rows, truth, unit = (part.cpu().double().numpy() for part in fitted.parts)
    flat = starting_point(layout, method.start, rows, truth, unit, generator)
    training = Descent(method, layout, flat.to(place or "cpu"), fitted, judged, generator)
    with Progress("Training gaussian_ansatz", training.updates + method.iterations, "updates", show=show) as bar:
        training.adam(bar)
        training.lbfgs(bar)
    networks = AnsatzNetworks(layout, training.kept.float().double())
    judging = AnsatzNetworks(layout, training.kept.float())
    found = AnsatzFit(networks, x_mean, x_scale, z_mean, z_scale, (float(z.min()), float(z.max())), fitted)
    found.history, found.converged = training.history, training.converged
    found.figures = {**training.figures(judging), **maximum_checks(judging, fitted, judged)}
    return found


def _moments(values: np.ndarray, weight: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and spread of columns (n, d), rounded to float32 as in a saved calibrator."""
    share = weight / weight.sum()
    mean = share @ values
    variance = share @ (values - mean) ** 2
    if not (np.isfinite(variance).all() and (variance >= 0).all()):
        raise TrainingError(f"{what} of the Gaussian Ansatz has no variance: too many weights are negative")
    scale = np.where(variance > (SAME * (1 + np.abs(mean))) ** 2, np.sqrt(variance), 1)
    return mean.astype(np.float32).astype(np.float64), scale.astype(np.float32).astype(np.float64)
