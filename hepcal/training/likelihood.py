"""The forward response density of the likelihood calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hepcal.calibrators.likelihood import Likelihood
from hepcal.calibrators.objectives import Batch, TrainingSet
from hepcal.errors import TrainingError
from hepcal.networks.dense import DenseLayout
from hepcal.networks.forward import LogResponse
from hepcal.networks.inference import WeightDraws
from hepcal.networks.scaling import TargetScaling
from hepcal.optimisation import minimise
from hepcal.pairs import JetPairs
from hepcal.progress import say
from hepcal.reweighting import longest_run
from hepcal.scores import weighted_mean
from hepcal.training.inversion import truth_support
from hepcal.training.learned import Learned, Task, raw_inputs, unit_weights

__all__ = ["Forward", "learn", "learn_forward"]

# Where the inversion is checked.
GRID = 256
CHECKED_JETS = 64
# Jets with less than this share of the mean weight teach nothing, and are no support.
NEGLIGIBLE = 1e-5
# Where the median rises by less than this per unit of truth (both as logarithms), what is inverted hardly knows the
# truth: errors of the density would come out 2.5 times as large. A summary is like that at the edges of its training.
SMALLEST_SLOPE = 0.4
# A shorter part of the truth range than this is no support.
SMALLEST_SHARE = 0.1
# Conditions that explain more than this share of the variance of ln truth carry the truth.
MOST_EXPLAINED = 0.05


@dataclass(frozen=True)
class Forward:
    """What a forward density is learned from.

    Attributes:
        pairs: The jets, for truth, weights and events.
        measured: ln of what is to be calibrated, float64 of shape (n, M), or (n, 1) for all networks alike.
    """

    pairs: JetPairs
    measured: np.ndarray

    @classmethod
    def of(cls, pairs: JetPairs) -> Forward:
        """For the detector-level p_T itself."""
        return cls(pairs, np.log(pairs.reco.astype(np.float64))[:, None])

    @property
    def log_truth(self) -> np.ndarray:
        """Ln truth, float64 of shape (n,)."""
        return np.log(self.pairs.truth.astype(np.float64))


def learn(task: Task) -> Learned:
    """The response density of the detector-level p_T."""
    return learn_forward(task, Forward.of(task.fitted), Forward.of(task.judges))


def learn_forward(task: Task, fitted: Forward, judges: Forward) -> Learned:
    """An ensemble of densities of ln(measured / truth) given ln truth and the conditions.

    Raises:
        TrainingError: The median response hardly rises with the truth anywhere.
    """
    method = task.method
    assert isinstance(method, Likelihood)  # noqa: S101 - the registry says so
    generator = torch.Generator().manual_seed(task.seed)
    weight = torch.from_numpy(unit_weights(fitted.pairs).astype(np.float32))
    u = torch.from_numpy((fitted.measured - fitted.log_truth[:, None]).mean(1).astype(np.float32))
    target = TargetScaling.fit(u, weight)
    location, scale = _moments(fitted)
    rows = [1 + task.spec.names.index(name) for name in method.conditions]

    def table(part: Forward) -> Batch:
        zeta = torch.from_numpy(((part.log_truth - location) / scale).astype(np.float32))
        x = torch.cat([zeta[None], task.inputs(raw_inputs(part.pairs))[rows]]).T.contiguous()
        y = ((part.measured - part.log_truth[:, None]) - target.location) / target.scale
        w = torch.from_numpy(unit_weights(part.pairs).astype(np.float32))
        y_t = torch.from_numpy(y.astype(np.float32))
        return x.to(task.place), (y_t[:, 0] if y.shape[1] == 1 else y_t).to(task.place), w.to(task.place)

    fit_table = table(fitted)
    typical = ((u - target.location) / target.scale)[:1_000_000]
    sample = TrainingSet(1 + len(rows), task.n_eff, typical, fitted.pairs.event, task.cells)
    objective = method.objective(sample, generator)
    objective.module.to(task.place)
    fit = minimise(objective, method, fit_table, table(judges), generator, show=task.show, checkpoint=task.saved)
    tensors = dict(objective.tensors(generator))
    support, figures = _support(task, fitted, tensors["draws"], target, (location, scale), fit_table[0].cpu())
    figures |= _explained(task, fitted, rows)
    figures["held_out_loss"] = float(np.mean(fit.best_losses))
    tensors["truth"] = torch.tensor([location, scale, *support], dtype=torch.float32, device="cpu")
    return Learned(tensors, target, figures, tuple(fit.history), fit.converged)


def _moments(fitted: Forward) -> tuple[float, float]:
    """Weighted mean and spread of ln truth, float32-exact since they are saved so."""
    weight = unit_weights(fitted.pairs)
    mean, _ = weighted_mean(fitted.log_truth, weight)
    square, _ = weighted_mean((fitted.log_truth - mean) ** 2, weight)
    return float(np.float32(mean)), float(np.float32(max(square, 1e-12) ** 0.5))


def _support(
    task: Task, fitted: Forward, draws: torch.Tensor, target: TargetScaling, truth: tuple[float, float], x: torch.Tensor
) -> tuple[tuple[float, float], dict[str, float]]:
    """Range of ln truth of the training in which the median response rises well enough with the truth."""
    method = task.method
    assert isinstance(method, Likelihood)  # noqa: S101
    weight = np.abs(unit_weights(fitted.pairs))
    counted = fitted.pairs.truth[weight > NEGLIGIBLE * weight.mean()]
    low, high = (float(np.log(end)) for end in truth_support(counted))
    grid = torch.linspace(low, high, GRID, dtype=torch.float64, device="cpu")
    # With conditions: for the conditions of some jets.
    jets = torch.linspace(
        0, len(x) - 1, CHECKED_JETS if x.shape[1] > 1 else 1, dtype=torch.float32, device="cpu"
    ).long()
    layout = DenseLayout((x.shape[1], *method.hidden, method.build_head().outputs))
    networks = WeightDraws(layout, draws.detach().cpu(), torch.device("cpu"))
    rising = torch.ones(GRID, dtype=torch.bool, device="cpu")
    row = ((grid - truth[0]) / truth[1]).float()
    with torch.no_grad():
        for jet in jets:
            inputs = torch.cat([row[None], x[jet, 1:, None].expand(-1, GRID)])
            response = LogResponse.of(networks.batched(inputs), method.components, target.location, target.scale)
            median = grid + response.quantile(0.5).double()
            slope = slopes(grid, median, target.scale)
            rising &= (slope > 0).all(0) & (slope.mean(0) > SMALLEST_SLOPE)
    first, last = longest_run(rising.numpy())
    if last - first < SMALLEST_SHARE * GRID:
        raise TrainingError(
            "the median response hardly rises with the truth: it cannot be inverted. Look for conditions that carry "
            "the truth, or train on a wider spectrum"
        )
    figures = {"rising_share": float(rising.double().mean())}
    if not rising.all() and task.show:
        say(
            f"The median response rises enough with the truth only from {np.exp(float(grid[first])):.0f} to "
            f"{np.exp(float(grid[last - 1])):.0f} GeV: jets with values outside are flagged (pt_calib_in_range)"
        )
    return (float(grid[first]), float(grid[last - 1])), figures


def slopes(grid: torch.Tensor, values: torch.Tensor, reach: float) -> torch.Tensor:
    """Slopes of values (S, n) over an even grid (n,), across about ``reach`` on both sides; a kink is no edge."""
    cells = max(1, round(reach / float(grid[1] - grid[0])))
    place = torch.arange(len(grid), device="cpu")
    left, right = (place - cells).clamp_min(0), (place + cells).clamp_max(len(grid) - 1)
    return (values[:, right] - values[:, left]) / (grid[right] - grid[left])


def _explained(task: Task, fitted: Forward, rows: list[int]) -> dict[str, float]:
    """Share of the variance of ln truth that the conditions explain, by weighted least squares with squares."""
    if not rows:
        return {}
    weight = np.sqrt(np.abs(unit_weights(fitted.pairs)))
    conditions = task.inputs(raw_inputs(fitted.pairs))[rows].double().numpy()
    terms = np.concatenate([np.ones((1, len(weight))), conditions, conditions**2]).T * weight[:, None]
    zeta = (fitted.log_truth - np.average(fitted.log_truth, weights=weight**2)) * weight
    fitted_values = terms @ np.linalg.lstsq(terms, zeta, rcond=None)[0]
    share = float(1 - np.sum((zeta - fitted_values) ** 2) / np.sum(zeta**2))
    if share > MOST_EXPLAINED and task.show:
        say(
            f"WARNING: the conditions explain {share:.0%} of the variance of ln truth. The response given them drops "
            "what they say of the truth: use them in a summary (hepcal.SummaryLikelihood) instead"
        )
    return {"conditions_explain": share}
