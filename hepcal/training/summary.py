"""Summary first, then forward."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hepcal.calibrators.base import Calibrator
from hepcal.calibrators.summary import PART, SMALLEST, SUMMARIES, SummaryLikelihood
from hepcal.errors import TrainingError
from hepcal.pairs import JetPairs
from hepcal.scores import weighted_quantiles
from hepcal.training import regression
from hepcal.training.learned import Learned, Task, card_of, source_of
from hepcal.training.likelihood import Forward, learn_forward

__all__ = ["learn"]


def learn(task: Task) -> Learned:
    """A regression on one part of the events, the response density of its predictions on the other.

    On its own training events a regression looks better than it is, and the density would be too narrow.
    """
    method = task.method
    assert isinstance(method, SummaryLikelihood)  # noqa: S101 - the registry says so
    first, second = task.fitted.split(method.summary_share, task.seed)
    for share, pairs in (("summary", first), ("density", second)):
        if not pairs.weight.sum() > 0:
            raise TrainingError(f"the weights of the {len(pairs)} jets for the {share} sum to {pairs.weight.sum():g}")
    saved = task.saved
    of_summary, of_density = task.learning_from(first), task.learning_from(second)
    part = replace(of_summary, method=method.summary, saved=saved.at("summary") if saved else None)
    learned = regression.learn(part)
    card = card_of(method.summary, task.spec, learned, source_of(first, first, task.held_out, task.seed))
    summary = SUMMARIES[method.summary.name](card, {**learned.tensors, **task.input_tensors()}, str(task.place))
    found = learn_forward(
        replace(of_density, saved=saved.at("density") if saved else None),
        *(Forward(pairs, _measured(summary, pairs)) for pairs in (second, task.judges)),
    )
    tensors = found.tensors | {f"{PART}.{name}": tensor for name, tensor in learned.tensors.items()}
    response = np.log(second.reco.astype(np.float64) / second.truth)
    tensors["reco_response"] = torch.tensor(
        weighted_quantiles(response, second.weight, (0.5,)), dtype=torch.float32, device="cpu"
    )
    figures = found.figures | {f"{PART}_{name}": value for name, value in learned.figures.items()}
    converged = found.converged and learned.converged
    return replace(found, tensors=tensors, figures=figures, converged=converged, parts={PART: card})


def _measured(summary: Calibrator, pairs: JetPairs) -> np.ndarray:
    """Ln of the summary of every network, float64 of shape (n, M)."""
    prediction = summary.predict(pairs.features, pairs.reco)
    values = prediction.replicas() if summary.replicas else prediction.mean[None]
    return np.log(np.maximum(values.astype(np.float64), SMALLEST * pairs.reco.astype(np.float64))).T
