"""Generalised numerical inversion: a network for the mean of reco p_T, one for its inverse, one for the resolution.

What is left, because L is curved at fixed features and N interpolates, a numerical inversion in truth takes away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from hepcal.errors import TrainingError
from hepcal.methods.flat import transforms_of
from hepcal.methods.generalised.calibrator import RESIDUAL, GeneralisedInversion
from hepcal.methods.inversion import learning as inversion
from hepcal.methods.inversion.calibrator import NumericalInversion
from hepcal.methods.inversion.learning import effective_weights, truth_intervals, truth_support
from hepcal.methods.training.task import Learned, Task, raw_inputs, unit_weights
from hepcal.networks.heads import GaussianHead, Head
from hepcal.networks.members import Members
from hepcal.networks.objectives import Batch, TrainingSet
from hepcal.networks.optimisation import Fit, minimise
from hepcal.networks.scaling import InputScaling, TargetScaling
from hepcal.tables.pairs import JetPairs

__all__ = ["learn"]

# Slices of ln truth in which weights sum to the effective number of jets, and that the inverse sees equally often.
SLICES = 20
# Of the resolution: the inverse learns so far to both sides of the truth of a jet, where its reco p_T may lie.
REACH = 4.0
# Of the typical response: below it, a point is left out of the training of the inverse.
LEAST_RESPONSE = 0.1
# For the check that L rises: jets, and truth values around the truth of each.
RISING_JETS, RISING_STEPS = 2_000, 17
# Share of jets for which L may fall somewhere before the method is refused.
FALLING_SHARE = 0.01
# Points that the inverse is learned from: at least, at most; they cost no simulation.
LEAST_POINTS, MOST_POINTS = 50_000, 500_000
PASS_ROWS = 50_000
# Bootstrap samples of the last step, which are not kept; they tell whether it rises.
RESIDUAL_REPLICAS = 20
PARTS = ("forward", "inverse", "spread")


@dataclass(frozen=True)
class MeanReco:
    """L(z, f), the mean of reco p_T at fixed truth and features.

    Attributes:
        networks: One network of the standardised mean of reco / truth.
        inputs: Its inputs, truth in the place of reco p_T.
        target: Scale of reco / truth.
        low: Truth support [GeV]: beyond it, the response is kept as it is at its end.
        high: The other end.
    """

    networks: Members
    inputs: InputScaling
    target: TargetScaling
    low: float
    high: float

    def __call__(self, truth: np.ndarray, pairs: JetPairs) -> np.ndarray:
        """Mean reco p_T [GeV] at truth [GeV] (n,) and the features of n jets, float64 of shape (n,)."""
        inside = np.clip(truth, self.low, self.high)
        return np.asarray(truth * _outputs(self.networks, self.inputs(raw_inputs(pairs, inside)), self.target))

    def means_something(self, truth: np.ndarray, reco: np.ndarray) -> np.ndarray:
        """Whether means ``reco`` at ``truth`` are no absurd extrapolations, bool of shape (n,)."""
        return np.asarray(reco > LEAST_RESPONSE * self.target.location * truth)


@dataclass(frozen=True)
class InvertedMean:
    """N(x, f), the truth at which the mean of reco p_T is x.

    Attributes:
        networks: One network of the standardised truth / reco.
        inputs: Its inputs, as a calibrator will make them.
        target: Scale of truth / reco.
    """

    networks: Members
    inputs: InputScaling
    target: TargetScaling

    def __call__(self, reco: np.ndarray, pairs: JetPairs) -> np.ndarray:
        """Truth [GeV] for reco p_T [GeV] (n,) and the features of n jets, float64 of shape (n,)."""
        return np.asarray(reco * _outputs(self.networks, self.inputs(raw_inputs(pairs, reco)), self.target))


def learn(task: Task) -> Learned:
    """Train L, its inverse, and the resolution.

    Raises:
        TrainingError: The mean of reco p_T does not rise with truth at fixed features.
    """
    task.settings(GeneralisedInversion)
    low, high = truth_support(task.fitted.truth)
    fitted, judges = (_within(pairs, low, high) for pairs in (task.fitted, task.judges))
    edges = truth_intervals(fitted.truth.astype(np.float64), fitted.weight, SLICES)
    fitted, judges = (_effective(pairs, edges) for pairs in (fitted, judges))
    forward, fit = _learn_forward(task, fitted, judges)
    figures = {"truth_low": low, "truth_high": high, "held_out_loss": float(np.mean(fit.best_losses))}
    figures["not_rising"] = _falling_share(forward, judges)
    inverse, inverse_fit = _learn_inverse(task, forward, fitted, judges, edges)
    figures |= _interpolation_error(forward, inverse, judges)
    spread, scale, spread_fit = _learn_spread(task, forward, inverse, fitted, judges)
    residual, residual_figures = _residual(task, inverse, fitted)
    figures |= residual_figures
    tensors = residual | {
        "draws": inverse.networks.weights,
        "spread": spread.weights,
        "spread_scale": torch.tensor([scale.location, scale.scale], dtype=torch.float32, device="cpu"),
        "truth_range": torch.tensor([low, high], dtype=torch.float32, device="cpu"),
    }
    converged = fit.converged and inverse_fit.converged and spread_fit.converged
    return Learned(tensors, inverse.target, figures, tuple(fit.history), converged)


def _learn_forward(task: Task, fitted: JetPairs, judges: JetPairs) -> tuple[MeanReco, Fit]:
    """L: reco / truth by squared error, which at fixed truth has its minimum at the mean."""
    raw, weight = raw_inputs(fitted, fitted.truth), _weights(fitted)
    inputs = InputScaling.fit(raw, transforms_of(task.spec), weight)
    response = torch.from_numpy(fitted.reco / fitted.truth)
    target = TargetScaling.fit(response, weight)

    def batch(pairs: JetPairs) -> Batch:
        y = torch.from_numpy(pairs.reco / pairs.truth)
        return inputs(raw_inputs(pairs, pairs.truth)).T.contiguous(), _standard(y, target), _weights(pairs)

    networks, fit = _network(task, "forward", batch(fitted), batch(judges))
    return MeanReco(networks, inputs, target, float(fitted.truth.min()), float(fitted.truth.max())), fit


def _learn_inverse(
    task: Task, forward: MeanReco, fitted: JetPairs, judges: JetPairs, edges: np.ndarray
) -> tuple[InvertedMean, Fit]:
    """N: truth / reco by squared error on points (L(z, f), f), which have no noise.

    The features are those of the training jets, slices of ln truth come equally often, and each jet is moved in truth
    by up to a few resolutions, since that is where reco p_T lies for its features.
    """
    rng = np.random.default_rng([task.seed, 1])
    reach = REACH * forward.target.scale / forward.target.location

    def points(pairs: JetPairs, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = pairs.take(_rows_even_in_truth(pairs.truth, edges, count, rng))
        truth = chosen.truth * np.exp(rng.uniform(-reach, reach, count))
        reco = forward(truth, chosen)
        # Features that follow the p_T may not exist at a moved truth, where L then means nothing.
        real = np.flatnonzero(forward.means_something(truth, reco))
        truth, reco = truth[real], reco[real]
        return task.inputs(raw_inputs(chosen.take(real), reco)).T.contiguous(), torch.from_numpy(truth / reco)

    count = int(np.clip(len(fitted), LEAST_POINTS, MOST_POINTS))
    seen, unseen = points(fitted, count), points(judges, count // 10)
    target = TargetScaling.fit(seen[1], torch.ones(len(seen[1]), dtype=torch.float32, device="cpu"))
    table, judge = (
        (x, _standard(y, target), torch.ones(len(y), dtype=torch.float32, device="cpu")) for x, y in (seen, unseen)
    )
    networks, fit = _network(task, "inverse", table, judge)
    return InvertedMean(networks, task.inputs, target), fit


def _learn_spread(
    task: Task, forward: MeanReco, inverse: InvertedMean, fitted: JetPairs, judges: JetPairs
) -> tuple[Members, TargetScaling, Fit]:
    """Mean and width of (N(x, f) - z) / z at (L(z, f), f): the resolution where N(x, f) = z."""

    def points(pairs: JetPairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        reco = forward(pairs.truth.astype(np.float64), pairs)
        real = np.flatnonzero(forward.means_something(pairs.truth, reco))
        pairs, reco = pairs.take(real), reco[real]
        residual = inverse(pairs.reco.astype(np.float64), pairs) / pairs.truth - 1
        x = task.inputs(raw_inputs(pairs, reco)).T.contiguous()
        return x, torch.from_numpy(residual), _weights(pairs)

    seen, unseen = points(fitted), points(judges)
    target = TargetScaling.fit(seen[1], seen[2])
    table, judge = ((x, _standard(residual, target), w) for x, residual, w in (seen, unseen))
    networks, fit = _network(task, "spread", table, judge, GaussianHead())
    return networks, target, fit


def _residual(task: Task, inverse: InvertedMean, fitted: JetPairs) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Mean of N(x, f) against truth, to be inverted in its turn, and how far it is from truth at most.

    Where L is curved at fixed features N(x, f) is off by the curvature bias of these features, which does not average
    out: 0.2 to 1 % for QCD jets. One more step in truth alone, as in the residual calibrations of the experiments,
    makes the mean close in bins of truth again.
    """
    values = inverse(fitted.reco.astype(np.float64), fitted)
    real = np.flatnonzero(values > 0)
    jets = replace(fitted.take(real), reco=values[real].astype(np.float32))
    # Its replicas are not kept, so the signs of the table, which are those of other rows, are not needed.
    part = replace(task, method=NumericalInversion(n=RESIDUAL_REPLICAS), fitted=jets, cells=None)
    found = inversion.learn(part).tensors
    tensors = {f"{RESIDUAL}_{name}": found[name] for name in ("truth", "reco")}
    away = (found["reco"] / found["truth"] - 1).double().numpy()
    return tensors, {"residual_max": float(away[np.argmax(np.abs(away))])}


def _network(task: Task, part: str, table: Batch, judge: Batch, head: Head | None = None) -> tuple[Members, Fit]:
    """Train one network of the method on a table, with random numbers and a stage of the checkpoint of its own."""
    method = task.settings(GeneralisedInversion)
    generator = torch.Generator().manual_seed(len(PARTS) * task.seed + PARTS.index(part))
    rows = len(table[1])
    objective = method.objective(TrainingSet(table[0].shape[1], rows, table[1], np.arange(rows)), generator, head)
    objective.module.to(task.place)
    saved = task.saved.at(part) if task.saved else None
    table, judge = _placed(table, task.place), _placed(judge, task.place)
    fit = minimise(objective, method.descent, table, judge, generator, show=task.show, checkpoint=saved)
    return objective.module, fit


def _falling_share(forward: MeanReco, pairs: JetPairs) -> float:
    """Share of jets for whose features L falls somewhere near their truth.

    Raises:
        TrainingError: It is more than one per cent; says where.
    """
    rows = np.arange(min(len(pairs), RISING_JETS))
    reach = REACH * forward.target.scale / forward.target.location
    shift = np.exp(np.linspace(-reach, reach, RISING_STEPS))
    truth = pairs.truth[rows, None].astype(np.float64) * shift
    mean = forward(truth.ravel(), pairs.take(np.repeat(rows, RISING_STEPS))).reshape(truth.shape)
    falls = (np.diff(mean, axis=1) <= 0) | (mean[:, :-1] <= 0)
    share = float(falls.any(axis=1).mean())
    if share > FALLING_SHARE:
        where = truth[:, :-1][falls]
        raise TrainingError(
            f"for {share:.1%} of the jets the mean of reco p_T at their features does not rise with truth, between "
            f"{where.min():.4g} and {where.max():.4g} GeV: it cannot be inverted. Take more jets, fewer features or a "
            "smaller network"
        )
    return share


def _interpolation_error(forward: MeanReco, inverse: InvertedMean, pairs: JetPairs) -> dict[str, float]:
    """How well N inverts L on held-out jets: root mean square and largest |N(L(z, f), f) / z - 1|.

    Also the share of jets at whose features L is absurd, which are left out everywhere.
    """
    truth = pairs.truth.astype(np.float64)
    reco = forward(truth, pairs)
    real = forward.means_something(truth, reco)
    error = inverse(reco[real], pairs.take(np.flatnonzero(real))) / truth[real] - 1
    return {
        "interpolation_rms": float(np.sqrt(np.mean(error**2))),
        "interpolation_max": float(np.abs(error).max()),
        "absurd_mean": float(1 - real.mean()),
    }


def _rows_even_in_truth(truth: np.ndarray, edges: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of a table, repeated where jets are few, so that intervals of equal width in ln truth come equally often."""
    number = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, len(edges) - 2)
    jets = np.bincount(number, minlength=len(edges) - 1)
    share = (np.diff(np.log(edges)) / np.maximum(jets, 1))[number]
    return rng.choice(len(truth), count, p=share / share.sum())


def _within(pairs: JetPairs, low: float, high: float) -> JetPairs:
    return pairs.take(np.flatnonzero((pairs.truth >= low) & (pairs.truth <= high)))


def _effective(pairs: JetPairs, edges: np.ndarray) -> JetPairs:
    """The same jets with weights that sum to the effective number of jets in every slice."""
    return replace(pairs, weight=effective_weights(pairs.truth.astype(np.float64), pairs.weight, edges))


def _weights(pairs: JetPairs) -> torch.Tensor:
    return torch.from_numpy(unit_weights(pairs).astype(np.float32))


def _placed(batch: Batch, place: torch.device) -> Batch:
    x, y, w = (tensor.to(place) for tensor in batch)
    return x, y, w


def _standard(values: torch.Tensor, target: TargetScaling) -> torch.Tensor:
    return ((values - target.location) / target.scale).float()


@torch.no_grad()
def _outputs(networks: Members, x: torch.Tensor, target: TargetScaling) -> np.ndarray:
    """What the only network says of standardised inputs (d, n), in units of the target, float64 of shape (n,)."""
    rows = x.T.to(networks.weights.device)
    parts = [rows[start : start + PASS_ROWS] for start in range(0, len(rows), PASS_ROWS)]
    found = torch.cat([networks.one(0, part)[:, 0] for part in parts]).double().cpu().numpy()
    return np.asarray(found * target.scale + target.location)
