"""The forward response density of the likelihood calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from hepcal.errors import ConditionsWarning, TrainingError, warn
from hepcal.methods.inversion.learning import truth_support
from hepcal.methods.likelihood.calibrator import Likelihood
from hepcal.methods.likelihood.forward import LogResponse
from hepcal.methods.training.flattening import LEAST_JETS, Flattening, flattened, spread_order
from hepcal.methods.training.task import Learned, Task, raw_inputs
from hepcal.networks.dense import DenseLayout
from hepcal.networks.inference import WeightDraws
from hepcal.networks.objectives import Batch, TrainingSet
from hepcal.networks.optimisation import minimise
from hepcal.networks.scaling import TargetScaling
from hepcal.progress import say
from hepcal.statistics import longest_run, weighted_mean
from hepcal.tables.pairs import JetPairs
from hepcal.tables.signed_weights import Cells

__all__ = ["Forward", "learn", "learn_forward"]

# Where the inversion is checked.
GRID = 256
CHECKED_JETS = 64
# For starting values.
TYPICAL_JETS = 1_000_000
# Where the median rises by less than this per unit of truth (both as logarithms), what is inverted hardly knows the
# truth: errors of the density would come out 2.5 times as large. A summary is like that at the edges of its training.
SMALLEST_SLOPE = 0.4
# A shorter part of the truth range than this is no support.
SMALLEST_SHARE = 0.1
# Conditions that explain more than this share of the variance of ln truth carry the truth.
MOST_EXPLAINED = 0.05


# Parameters of the networks, and what standardises ln(measured / truth) and ln truth (mean and spread).
Networks = tuple[torch.Tensor, TargetScaling, tuple[float, float]]


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

    def take(self, rows: np.ndarray) -> Forward:
        """Some of the jets, in the given order."""
        return Forward(self.pairs.take(rows), self.measured[rows])

    def flattened(self, power: float = 0.5) -> tuple[Flattening, np.ndarray]:
        """Weights of mean one that do not follow the truth spectrum, float64 of shape (n,), and what made them."""
        return flattened(self.log_truth, self.measured.mean(1), self.pairs.weight, power)

    @property
    def log_truth(self) -> np.ndarray:
        """Ln truth, float64 of shape (n,)."""
        return np.log(self.pairs.truth.astype(np.float64))


def learn(task: Task) -> Learned:
    """The response density of the detector-level p_T."""
    return learn_forward(task, Forward.of(task.fitted), Forward.of(task.judges))


def learn_forward(
    task: Task, fitted: Forward, judges: Forward, within: tuple[float, float] = (-np.inf, np.inf)
) -> Learned:
    """An ensemble of densities of ln(measured / truth) given ln truth and the conditions.

    The truth spectrum decides how well the density is known where, and nothing else: jets are drawn without it, those
    of the same truth as often as their weights say (:mod:`hepcal.methods.training.flattening`).

    Args:
        task: The training.
        fitted: Jets to learn from.
        judges: Jets to judge with.
        within: Range of ln truth beyond which there is no support, whatever is learned there.

    Raises:
        TrainingError: The median response hardly rises with the truth anywhere, or there are too few jets everywhere.
    """
    method = task.settings(Likelihood)
    generator = torch.Generator().manual_seed(task.seed)
    flattening, weight = fitted.flattened()
    order = spread_order(fitted.log_truth, fitted.measured.mean(1), weight, method.batch)
    task, fitted, weight = task.taken(order), fitted.take(order), weight[order]
    cells = task.cells
    u = torch.from_numpy((fitted.measured - fitted.log_truth[:, None]).mean(1).astype(np.float32))
    target = TargetScaling.fit(u, torch.from_numpy(weight))
    location, scale = _moments(fitted.log_truth, weight)
    rows = [1 + task.spec.names.index(name) for name in method.conditions]

    def table(part: Forward, weight: np.ndarray) -> Batch:
        zeta = torch.from_numpy(((part.log_truth - location) / scale).astype(np.float32))
        x = torch.cat([zeta[None], task.inputs(raw_inputs(part.pairs))[rows]]).T.contiguous()
        y = ((part.measured - part.log_truth[:, None]) - target.location) / target.scale
        w = torch.from_numpy(weight.astype(np.float32))
        y_t = torch.from_numpy(y.astype(np.float32))
        return x.to(task.place), (y_t[:, 0] if y.shape[1] == 1 else y_t).to(task.place), w.to(task.place)

    typical = ((u - target.location) / target.scale)[_even_rows(weight)]
    sample = TrainingSet(1 + len(rows), task.effective(weight), typical, fitted.pairs.event, cells)
    objective = method.objective(sample, generator)
    objective.module.to(task.place)
    # Networks that see parts of the jets carry the weights in the loss.
    drawn = objective.rows is None
    fit_table = table(fitted, np.ones_like(weight) if drawn else weight)
    judge = table(judges, flattening(judges.log_truth, judges.pairs.weight))
    share = weight if drawn else None
    fit = minimise(
        objective, method.descent, fit_table, judge, generator, show=task.show, checkpoint=task.saved, share=share
    )
    tensors = dict(objective.tensors(generator))
    known = partial(_known, flattening, fitted, cells, within)
    networks = tensors["draws"], target, (location, scale)
    support, figures = _support(task, fitted, known, networks, fit_table[0].cpu(), within)
    figures |= _explained(task, fitted, weight, rows)
    figures["held_out_loss"] = float(np.mean(fit.best_losses))
    tensors["truth"] = torch.tensor([location, scale, *support], dtype=torch.float32, device="cpu")
    return Learned(tensors, target, figures, tuple(fit.history), fit.converged)


def _known(
    flattening: Flattening, fitted: Forward, cells: Cells | None, within: tuple[float, float], at: np.ndarray
) -> np.ndarray:
    """Whether there are jets enough at evenly spaced ln truth values (m,), in a range; bool."""
    # What negative weights took from the effective number is not there.
    own = fitted.pairs.weight if cells is None else cells.signed
    return flattening.known(fitted.log_truth, own, at) & (at >= within[0]) & (at <= within[1])


def _even_rows(weight: np.ndarray) -> np.ndarray:
    """Rows that stand for the weighted ones, a bounded number of them."""
    count = min(len(weight), TYPICAL_JETS)
    ends = np.cumsum(weight)
    return np.asarray(np.searchsorted(ends, (np.arange(count) + 0.5) / count * ends[-1]).clip(max=len(weight) - 1))


def _moments(log_truth: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Weighted mean and spread of ln truth, float32-exact since they are saved so."""
    mean, _ = weighted_mean(log_truth, weight)
    square, _ = weighted_mean((log_truth - mean) ** 2, weight)
    return float(np.float32(mean)), float(np.float32(max(square, 1e-12) ** 0.5))


def _support(
    task: Task, fitted: Forward, known_at: Callable[[np.ndarray], np.ndarray], networks: Networks, x: torch.Tensor,
    within: tuple[float, float],
) -> tuple[tuple[float, float], dict[str, float]]:  # fmt: skip
    """Range of ln truth with jets enough in which the median response rises well enough with the truth."""
    log_truth = fitted.log_truth
    low, high = (float(np.log(end)) for end in truth_support(fitted.pairs.truth[fitted.pairs.weight > 0]))
    grid = torch.linspace(low, high, GRID, dtype=torch.float64, device="cpu")
    rising, known = _rising(task, grid, networks, x), known_at(grid.numpy())
    found = grid[slice(*longest_run(rising & known))].tolist()
    if len(found) < SMALLEST_SHARE * GRID:
        raise TrainingError(
            f"the response cannot be inverted: its median rises with the truth in {rising.mean():.0%} of the range of "
            f"ln truth, and {known.mean():.0%} of it have {LEAST_JETS} effective jets within a resolution. Look for "
            "conditions that carry the truth, take more jets, or train on a wider spectrum"
        )
    outside = (log_truth < found[0]) | (log_truth > found[-1])
    figures = {
        "rising_share": float(rising.mean()),
        "truth_low": float(np.exp(found[0])),
        "truth_high": float(np.exp(found[-1])),
        "outside_support": float(outside.mean()),
    }
    if task.show:
        _say_support(log_truth, outside, figures, rising, known, within)
    return (found[0], found[-1]), figures


def _say_support(
    log_truth: np.ndarray, outside: np.ndarray, figures: dict[str, float], rising: np.ndarray, known: np.ndarray,
    within: tuple[float, float],
) -> None:  # fmt: skip
    """What was cut from the truth range of the training, and why."""
    low, high = (f"{figures[f'truth_{end}']:.4g}" for end in ("low", "high"))
    few = f"fewer than {LEAST_JETS} effective jets lie within a resolution"
    reasons = [] if known.all() else [f"{few} or the summary loses" if np.isfinite(within).any() else few]
    reasons += [] if rising.all() else ["the median response does not rise enough with the truth"]
    first, last = np.exp(log_truth.min()), np.exp(log_truth.max())
    say(
        f"Support in truth p_T: {low} to {high} GeV; {outside.sum()} of {len(outside)} jets ({first:.4g} to {last:.4g} "
        f"GeV) lie outside{', where ' if reasons else ''}{' or '.join(reasons)}. Jets calibrated to values outside are "
        "flagged (pt_calib_in_range)"
    )


def _rising(task: Task, grid: torch.Tensor, trained: Networks, x: torch.Tensor) -> np.ndarray:
    """Whether the median rises well enough at ln truth values (n,), for the conditions of some jets."""
    method = task.settings(Likelihood)
    draws, target, truth = trained
    jets = torch.linspace(
        0, len(x) - 1, CHECKED_JETS if x.shape[1] > 1 else 1, dtype=torch.float32, device="cpu"
    ).long()
    layout = DenseLayout((x.shape[1], *method.hidden, method.build_head().outputs))
    networks = WeightDraws(layout, draws.detach().cpu(), torch.device("cpu"))
    rising = torch.ones(len(grid), dtype=torch.bool, device="cpu")
    row = ((grid - truth[0]) / truth[1]).float()
    with torch.no_grad():
        for jet in jets:
            inputs = torch.cat([row[None], x[jet, 1:, None].expand(-1, len(grid))])
            response = LogResponse.of(networks.batched(inputs), method.components, target.location, target.scale)
            median = grid + response.quantile(0.5).double()
            slope = slopes(grid, median, target.scale)
            rising &= (slope > 0).all(0) & (slope.mean(0) > SMALLEST_SLOPE)
    return rising.numpy()


def slopes(grid: torch.Tensor, values: torch.Tensor, reach: float) -> torch.Tensor:
    """Slopes of values (S, n) over an even grid (n,), across about ``reach`` on both sides; a kink is no edge."""
    cells = max(1, round(reach / float(grid[1] - grid[0])))
    place = torch.arange(len(grid), device="cpu")
    left, right = (place - cells).clamp_min(0), (place + cells).clamp_max(len(grid) - 1)
    return (values[:, right] - values[:, left]) / (grid[right] - grid[left])


def _explained(task: Task, fitted: Forward, weight: np.ndarray, rows: list[int]) -> dict[str, float]:
    """Share of the variance of ln truth that the conditions explain, by weighted least squares with squares."""
    if not rows:
        return {}
    weight = np.sqrt(weight)
    conditions = task.inputs(raw_inputs(fitted.pairs))[rows].double().numpy()
    terms = np.concatenate([np.ones((1, len(weight))), conditions, conditions**2]).T * weight[:, None]
    zeta = (fitted.log_truth - np.average(fitted.log_truth, weights=weight**2)) * weight
    fitted_values = terms @ np.linalg.lstsq(terms, zeta, rcond=None)[0]
    share = float(1 - np.sum((zeta - fitted_values) ** 2) / np.sum(zeta**2))
    if share > MOST_EXPLAINED:
        warn(
            f"the conditions explain {share:.0%} of the variance of ln truth. The response given them drops "
            "what they say of the truth: use them in a summary (hepcal.SummaryLikelihood) instead",
            ConditionsWarning,
        )
    return {"conditions_explain": share}
