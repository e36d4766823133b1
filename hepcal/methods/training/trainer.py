"""From a table and a method to a finished calibrator."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hepcal.arrays import unmasked
from hepcal.errors import CheckpointWarning, CollapsedWarning, MissingValueError, TrainingError, warn
from hepcal.methods.base import Method
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Card
from hepcal.methods.flat import transforms_of
from hepcal.methods.registry import calibrator_of, learner_of, method_of, owner
from hepcal.methods.regression.bnn import BNN
from hepcal.methods.training.collapse import misses_dependence, sensitivity
from hepcal.methods.training.inputs import raw_chunks
from hepcal.methods.training.positive_weights import coordinates, with_positive_weights
from hepcal.methods.training.sanity import require_sane
from hepcal.methods.training.task import Learned, Task, card_of, seen_tensors, source_of, truncated_below, unit_weights
from hepcal.networks.checkpoints import Checkpoint
from hepcal.networks.devices import device_of
from hepcal.networks.scaling import InputScaling
from hepcal.networks.settings import own_settings
from hepcal.statistics import weighted_mean
from hepcal.tables.pairs import JetPairs
from hepcal.tables.rows import chunks

__all__ = ["train"]

MIN_EVENTS = 20
# Held-out jets that judge: enough to notice a plateau, few enough to cost little beside the updates.
JUDGED_JETS = 20_000
# The square of a smaller one is none.
SMALLEST_WEIGHT = 1e-140
# Figures of every card.
FIGURES = (
    "converged", "updates", "best_update", "sum_ratio", "pull_sd", "within_sigma_tot", "sensitivity", "collapsed",
)  # fmt: skip
# A trained network that depends on its inputs by less than this, in units of its own sigma, says the same of every jet.
COLLAPSED_BELOW = 0.02


# Gradients are needed, whatever the caller has switched off.
@torch.inference_mode(mode=False)
@torch.enable_grad()
def train(
    pairs: JetPairs,
    method: Method | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    show: bool = True,
    checkpoint: str | Path | None = None,
    data: np.ndarray | None = None,
    data_weight: np.ndarray | None = None,
) -> Calibrator:
    """Train a calibrator.

    Negative weights are turned into positive ones of the same sums in cells of phase space before anything is learned
    or judged (:mod:`hepcal.tables.signed_weights`); sigma_pred and the figures on held-out jets are those of the signed
    ones.

    Args:
        pairs: Training table. A share of its events (``method.validation``) is held out to notice plateaus. The
            features of a large table from :meth:`JetPairs.open` are read from disk batch by batch by methods that
            train networks on y = pt_truth / pt_reco; the others copy them to memory.
        method: Settings, e.g. ``hepcal.BNN()`` (default) or ``hepcal.MSE()``.
        seed: Fixes everything: the same table, method and seed give the same calibrator on one machine type.
        device: Where to train.
        show: Report progress.
        checkpoint: File to write the state of the training to, now and then. Where it exists, the training goes on
            from it, and ends in the same calibrator as without the interruption. A finished one is kept, and gives
            the same calibrator again at once: delete it when the calibrator is saved. Methods without the training
            loop of the networks (``method.resumes`` is false) write none and begin anew; a warning says so.
        data: Detector-level p_T of data [GeV], shape (m,), for a method that maps simulation to data.
        data_weight: Their weights, shape (m,); default one. Refused without data.

    Returns:
        A frozen calibrator with the best state seen, judged on the held-out jets. Its card says in
        ``figures["converged"]`` whether training ended by its schedule (1) or at ``max_updates`` (0).

        It also says whether the network has ``collapsed``: whether it says the same of every jet although the jets it
        learned from show by more than chance that they are not the same, as happens when the prior is much too narrow
        for the number of jets. Then it warns, too.

    Raises:
        TrainingError: The table is too small, its weights do not sum to a positive number, or not significantly so
            where some are negative, the loss diverged, the result makes no sense on held-out jets
            (:mod:`hepcal.methods.training.sanity`), an argument is of the wrong kind, or the checkpoint is of another
            training.
    """
    method = method or BNN()
    _require(pairs, method, seed, data, data_weight)
    data, data_weight = _numbers("data", data), _numbers("data_weight", data_weight)
    if checkpoint is not None and not method.resumes:
        warn(
            f"The method {method.name!r} writes no checkpoint: {checkpoint} is not used, the training begins anew",
            CheckpointWarning,
        )
        checkpoint = None
    pairs = pairs.select(method.keeps(pairs.spec))
    fitted, held_out = _parts(pairs, method, seed)
    place = device_of(device)
    saved = None if checkpoint is None else Checkpoint(Path(checkpoint), _identity(pairs, method, seed, place))
    task = _task(method, pairs, fitted, held_out, seed, place, show, saved, data, data_weight)
    with own_settings():
        learned = _checked(method, learner_of(method.name)(task), task)
    card = card_of(method, pairs.spec, learned, source_of(pairs, fitted, held_out, seed, _sha256(data, data_weight)))
    tensors = {**learned.tensors, **task.input_tensors(), **seen_tensors(pairs)}
    calibrator = calibrator_of(method.name)(card, tensors)
    if not held_out.weight.sum() > 0:
        held_out = task.held_out
    require_sane(calibrator, task.judges, task.fitted)
    finished = _with_figures(calibrator, held_out, task.fitted, learned).to(device)
    if finished.card.figures.get("collapsed"):
        warn(
            "the trained network says the same of every jet, while the jets show that they are not the same: "
            "its prior (or L2 term) is much too narrow for so few jets. Try a wider prior_width or more jets",
            CollapsedWarning,
        )
    return finished


def _checked(method: Method, learned: Learned, task: Task) -> Learned:
    """What was learned, refused if a calibrator could not be made of it: learners come from anywhere.

    Raises:
        TrainingError: It is something else, or its tensors or figures are.
    """
    what = f"the training of {method.name!r} ({method.learner}){owner(method.name)}"
    if not isinstance(learned, Learned):
        raise TrainingError(f"{what} gives {type(learned).__name__}, not a hepcal.methods.training.task.Learned")
    for part in (learned.tensors, learned.figures):
        if not isinstance(part, dict):
            raise TrainingError(f"{what} gives {type(part).__name__}, not tensors and figures by name")
    for name, tensor in learned.tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise TrainingError(f"{what} gives {name!r} as {type(tensor).__name__}: use torch.from_numpy")
        if name in task.input_tensors() or name.startswith("histogram_"):
            raise TrainingError(f"{what} gives a tensor of the name {name!r}, which is that of the inputs")
    for name, value in learned.figures.items():
        if not isinstance(value, float | int | np.floating | np.integer):
            raise TrainingError(f"{what} gives the figure {name!r} as {type(value).__name__}, not as a number")
        if name in FIGURES:
            raise TrainingError(f"{what} gives a figure of the name {name!r}, which every card has: take another")
    return learned


def _task(
    method: Method, pairs: JetPairs, fitted: JetPairs, held_out: JetPairs, seed: int, place: torch.device, show: bool,
    saved: Checkpoint | None, data: np.ndarray | None, data_weight: np.ndarray | None,
) -> Task:  # fmt: skip
    """Everything a learner needs; negative weights are gone, but for a map of distributions, which takes them."""
    cells = None
    if not method.needs_data:
        fitted, held_out, cells = with_positive_weights(fitted, held_out, coordinates)
    weight = torch.from_numpy(unit_weights(fitted).astype(np.float32))
    inputs = InputScaling.fit_chunks(partial(raw_chunks, fitted), transforms_of(pairs.spec), weight)
    inputs = inputs.above(truncated_below(pairs.source))
    judges = _judges(held_out, seed)
    return Task(
        method, pairs.spec, fitted, held_out, judges, inputs, seed, place, show, saved, data, data_weight, cells
    )


def _judges(held_out: JetPairs, seed: int) -> JetPairs:
    """Held-out jets that judge: all, or those of a random choice of events, whatever the order of the files.

    Raises:
        TrainingError: Their weights do not sum to a positive number.
    """
    if len(held_out) <= JUDGED_JETS:
        return held_out
    chosen, _ = held_out.split(JUDGED_JETS / len(held_out), seed)
    if not chosen.weight.sum() > 0:
        raise TrainingError(
            f"the weights of {len(chosen)} held-out jets sum to {chosen.weight.sum():g}: too many negative weights"
        )
    return chosen


def _identity(pairs: JetPairs, method: Method, seed: int, place: torch.device) -> dict[str, object]:
    """What a checkpoint must agree with."""
    signed = any((rows < 0).any() for _, rows in chunks(pairs.weight))
    return {
        # Earlier versions trained on negative weights as they are: theirs cannot go on as one of these.
        **({"weights": "positive in cells"} if signed else {}),
        "table": pairs.sha256,
        "method": method.name,
        "settings": method.model_dump(mode="json"),
        "seed": seed,
        "device": place.type,
        "versions": Card.software(),
    }


def _require(
    pairs: JetPairs, method: Method, seed: int, data: np.ndarray | None, data_weight: np.ndarray | None
) -> None:
    """Refuse arguments of the wrong kind."""
    if not isinstance(pairs, JetPairs):
        raise TrainingError(
            f"train needs a JetPairs table, found {type(pairs).__name__}: use JetPairs.from_fileset(...)"
        )
    if not isinstance(method, Method):
        raise TrainingError(f"the method must be an object such as hepcal.BNN(), found {method!r}")
    where = f"{type(method).__module__}.{type(method).__name__}"
    if not isinstance(getattr(type(method), "name", None), str):
        raise TrainingError(f"{where} has no name: ClassVar[str], which is that of its entry point")
    if method_of(method.name) is not type(method):
        raise TrainingError(
            f"{where} is not what calibrator files mean by {method.name!r}: "
            f"register it as an entry point of the group 'hepcal.methods', under a name of its own"
        )
    # What its classes lack is said before anything is learned.
    calibrator_of(method.name), learner_of(method.name)
    if seed < 0:
        raise TrainingError(f"the seed must not be negative, found {seed}")
    if method.needs_data and data is None:
        raise TrainingError(
            f"the method {method.name!r} maps simulation to data: pass their detector-level p_T as train(..., data=pt)"
        )
    for name, values in (("data", data), ("data_weight", data_weight)):
        if values is not None and not method.needs_data:
            raise TrainingError(f"the method {method.name!r} learns from simulation alone: leave out {name}")


def _numbers(name: str, values: np.ndarray | None) -> np.ndarray | None:
    """The same as float64.

    Raises:
        TrainingError: They are no real numbers.
    """
    if values is None:
        return None
    try:
        found = unmasked(name, values)
    except MissingValueError:
        raise
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{name} must be an array of numbers: {error}") from error
    if found.dtype.kind not in "iuf":
        raise TrainingError(f"{name} must be an array of numbers, found {found.dtype}")
    return found.astype(np.float64)


def _sha256(data: np.ndarray | None, data_weight: np.ndarray | None) -> str:
    """Hash of data and of their weights; no weights are ones. Empty without data."""
    if data is None:
        return ""
    weight = np.ones_like(data) if data_weight is None else data_weight
    return hashlib.sha256(data.tobytes() + weight.tobytes()).hexdigest()


def _parts(pairs: JetPairs, method: Method, seed: int) -> tuple[JetPairs, JetPairs]:
    """Fitted and held-out jets of a table that can be trained on."""
    pairs.check()
    events = len(np.unique(pairs.event))
    if events < MIN_EVENTS:
        raise TrainingError(f"{events} training events are too few; at least {MIN_EVENTS} are needed")
    parts = pairs.split(1 - method.validation, seed)
    if not all(len(part) for part in parts):
        raise TrainingError(
            f"validation={method.validation} leaves no {'held-out' if len(parts[0]) else 'training'} events of "
            f"{events}: a share of about 0.1 is held out"
        )
    for name, part, weight in zip(
        ("training", "held-out"), parts, (parts[0].weight, np.abs(parts[1].weight)), strict=True
    ):
        if not weight.sum() > 0:
            raise TrainingError(f"the weights of the {len(part)} {name} jets sum to {part.weight.sum():g}")
        if not weight.max() > SMALLEST_WEIGHT:
            raise TrainingError(f"no weight of the {name} jets exceeds {weight.max():g}: squares vanish, scale them up")
    return parts


def _with_figures(calibrator: Calibrator, held_out: JetPairs, fitted: JetPairs, learned: Learned) -> Calibrator:
    """The same calibrator, its card completed with how the training went and how the held-out jets close."""
    history = calibrator.card.history
    figures = {"converged": float(learned.converged), **learned.figures}
    if history:
        figures["updates"] = float(history[-1][0])
        figures["best_update"] = float(min(history, key=lambda point: point[1])[0])
    # What maps simulation to data does not aim at the truth.
    if not calibrator.method.needs_data:
        figures |= _closure(calibrator, held_out, fitted)
    # JSON has no NaN: a figure that cannot be given is left out.
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in figures.items()}
    finite = {name: value for name, value in plain.items() if np.isfinite(value)}
    return type(calibrator)(calibrator.card.model_copy(update={"figures": finite}), calibrator.tensors)


def _closure(calibrator: Calibrator, pairs: JetPairs, fitted: JetPairs) -> dict[str, float]:
    """Figures on the held-out jets for the card."""
    prediction = calibrator.predict(pairs.features, pairs.reco)
    weight = pairs.weight
    figures = {"sum_ratio": float(np.sum(weight * prediction.mean) / np.sum(weight * pairs.truth))}
    if prediction.sigma_tot is not None:
        pull = (pairs.truth - prediction.mean).astype(np.float64) / prediction.sigma_tot
        mean, _ = weighted_mean(pull, weight)
        figures["pull_sd"] = float(np.sqrt(max(weighted_mean((pull - mean) ** 2, weight)[0], 0)))
        figures["within_sigma_tot"] = weighted_mean((np.abs(pull) < 1).astype(np.float64), weight)[0]
    if calibrator.method.can_collapse and prediction.sigma_tot is not None:
        found = sensitivity(prediction.mean / pairs.reco, prediction.sigma_tot / pairs.reco, weight)
        collapsed = found < COLLAPSED_BELOW and misses_dependence(calibrator, fitted)
        figures |= {"sensitivity": found, "collapsed": float(collapsed)}
    return figures
