"""Summary first, then forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from hepcal.errors import TrainingError
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.likelihood.learning import Forward, learn_forward
from hepcal.methods.likelihood.summary import PART, SMALLEST, SummaryLikelihood
from hepcal.methods.likelihood.trust import compared, range_of_gain, trusted
from hepcal.methods.registry import calibrator_of
from hepcal.methods.regression import learning as regression
from hepcal.methods.regression.ensemble import multiplicities
from hepcal.methods.training.flattening import Flattening
from hepcal.methods.training.inputs import raw_chunks
from hepcal.methods.training.task import Learned, Task, card_of, source_of
from hepcal.networks.scaling import InputScaling
from hepcal.progress import say
from hepcal.statistics import weighted_quantiles
from hepcal.tables.pairs import JetPairs

__all__ = ["learn"]

# Figures of the card: by bin of truth p_T [GeV].
OVER_RECO = "resolution_over_reco"
# Of the random numbers that resample jets for the trust: not those of anything else.
TRUST_STREAM = 0x7275


def learn(task: Task) -> Learned:
    """A regression on one part of the events, the response density of its predictions on the other.

    On its own training events a regression looks better than it is, and the density would be too narrow.
    """
    method = task.settings(SummaryLikelihood)
    first, second = task.fitted.split(method.summary_share, task.seed)
    for share, pairs in (("summary", first), ("density", second)):
        if not pairs.weight.sum() > 0:
            raise TrainingError(f"the weights of the {len(pairs)} jets for the {share} sum to {pairs.weight.sum():g}")
    saved = task.saved
    part = replace(task.learning_from(first), method=method.summary, saved=saved.at("summary") if saved else None)
    part = _evenly(part)
    learned = regression.learn(part, drawn=True)
    learned = replace(learned, tensors={**learned.tensors, **part.input_tensors()})
    source = source_of(first, first, task.held_out, task.seed).model_copy(update={"n_eff": part.n_eff})
    card = card_of(method.summary, task.spec, learned, source)
    summary = calibrator_of(method.summary.name)(card, learned.tensors, str(task.place))
    part = replace(task.learning_from(second), saved=saved.at("density") if saved else None)
    tensors, figures, measured, within = _trusted(summary, part, method)
    if task.show:
        say(f"Resolution with the summary over that of p_T alone, by truth [GeV]: {_listed(figures)}")
    found = learn_forward(part, measured(second), measured(task.judges), within)
    tensors |= found.tensors | {f"{PART}.{name}": tensor for name, tensor in learned.tensors.items()}
    figures |= found.figures | {f"{PART}_{name}": value for name, value in learned.figures.items()}
    converged = found.converged and learned.converged
    return replace(found, tensors=tensors, figures=figures, converged=converged, parts={PART: card})


def _evenly(task: Task) -> Task:
    """The same task with jets in the order of the truth and weights that follow their number, not their spectrum.

    The summary resolves best where most jets are; where they are few it is not trusted.
    """
    task = task.taken(np.argsort(task.fitted.truth, kind="stable"))
    flattening, weight = Forward.of(task.fitted).flattened(power=1)
    judged = flattening(Forward.of(task.judges).log_truth, task.judges.weight)
    fitted, judges = replace(task.fitted, weight=weight), replace(task.judges, weight=judged)
    share = torch.from_numpy(weight.astype(np.float32))
    inputs = InputScaling.fit_chunks(partial(raw_chunks, fitted), task.inputs.transforms, share)
    return replace(task, fitted=fitted, judges=judges, inputs=inputs)


def _resampled(method: SummaryLikelihood, task: Task) -> np.ndarray:
    """Factors on the weights of jets from which each network of the summary takes its trust, shape (n, M)."""
    jets, networks = len(task.fitted), method.summary.networks
    if method.sample == "same" or networks == 1:
        return np.ones((jets, networks))
    drawn = multiplicities(task.fitted.event, networks, torch.Generator().manual_seed(task.seed + TRUST_STREAM))
    return drawn.numpy() if task.cells is None else task.cells.resampled(drawn.numpy())


def _trusted(
    summary: Calibrator, task: Task, method: SummaryLikelihood
) -> tuple[dict[str, torch.Tensor], dict[str, float], Callable[[JetPairs], Forward], tuple[float, float]]:
    """How far the summary is trusted, what that gains, what makes the variable that is calibrated, and where.

    Every network of the summary is trusted as its own bootstrap sample says, so that sigma_pred holds the choice.
    """
    pairs = task.fitted
    flattening, weight = Forward.of(pairs).flattened()
    log_reco, log_summary = np.log(pairs.reco.astype(np.float64)), _log_summary(summary, pairs)
    log_truth = Forward.of(pairs).log_truth
    found = compared(log_truth, log_reco, log_summary.mean(1), weight, flattening.resolution)
    knots, within = trusted(found)[0].astype(np.float32), (-np.inf, np.inf)
    if method.where_it_loses == "flag":
        trust, within = np.ones((1, len(knots)), dtype=np.float32), range_of_gain(found)
    else:
        each = partial(compared, log_truth, log_reco, resolution=flattening.resolution, edges=found.edges)
        own = (trusted(each(*x)) for x in zip(log_summary.T, weight * _resampled(method, task).T, strict=True))
        trust = np.stack([np.interp(knots, *x) for x in own]).astype(np.float32)

    def measured(pairs: JetPairs) -> Forward:
        log_reco = np.log(pairs.reco.astype(np.float64))
        share = np.stack([np.interp(log_reco, knots, row) for row in trust], axis=1)
        return Forward(pairs, log_reco[:, None] + share * (_log_summary(summary, pairs) - log_reco[:, None]))

    tensors = {
        "reco_response": weighted_quantiles(log_reco - log_truth, weight, (0.5,)),
        "trust": np.concatenate([knots[None], trust]),
    }
    figures = _resolutions_over_reco(measured(task.held_out), flattening)
    return {name: torch.from_numpy(np.float32(value)) for name, value in tensors.items()}, figures, measured, within


def _resolutions_over_reco(held_out: Forward, flattening: Flattening) -> dict[str, float]:
    """Resolution of what is calibrated over that of reco p_T alone, on held-out jets, by bin of truth [GeV]."""
    log_truth, weight = held_out.log_truth, flattening(held_out.log_truth, held_out.pairs.weight)
    log_reco = np.log(held_out.pairs.reco.astype(np.float64))
    tried = np.array([0.0, 1.0])
    found = compared(log_truth, log_reco, held_out.measured.mean(1), weight, flattening.resolution, tried)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = found.resolution[1] / found.resolution[0]
    bins = zip(pairwise(np.exp(found.edges)), ratio, strict=True)
    return {f"{OVER_RECO}_{low:.0f}_{high:.0f}": float(value) for (low, high), value in bins}


def _listed(figures: dict[str, float]) -> str:
    """Bins and ratios in one line."""
    return ", ".join(f"{name.removeprefix(OVER_RECO)[1:].replace('_', '-')}: {x:.2f}" for name, x in figures.items())


def _log_summary(summary: Calibrator, pairs: JetPairs) -> np.ndarray:
    """Ln of the summary of every network, float64 of shape (n, M)."""
    prediction = summary.predict(pairs.features, pairs.reco)
    values = prediction.replicas() if summary.replicas else prediction.mean[None]
    return np.log(np.maximum(values.astype(np.float64), SMALLEST * pairs.reco.astype(np.float64))).T
