"""From jets of two classes to a finished tagger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hepcal.errors import CollapsedWarning, TrainingError, warn
from hepcal.methods.card import Card
from hepcal.methods.training.positive_weights import with_positive_weights
from hepcal.networks.checkpoints import Checkpoint
from hepcal.networks.devices import device_of
from hepcal.networks.objectives import TrainingSet
from hepcal.networks.optimisation import minimise
from hepcal.networks.settings import own_settings
from hepcal.statistics import CENTRAL, weighted_quantiles
from hepcal.tables.pairs import JetPairs
from hepcal.tagging.lola import LoLa
from hepcal.tagging.scores import auc, calibration_error
from hepcal.tagging.table import ClassJets, ClassTable, constituents_of, coordinates
from hepcal.tagging.tagger import Tagger, TaggerCard

__all__ = ["classes_of", "held_out", "is_collapsed", "sensitivity_of", "train"]

MIN_EVENTS = 20
# Held-out jets that judge while training, and jets that fix the standardisation.
JUDGED_JETS = 20_000
TYPICAL_JETS = 5_000
# A tagger whose logits have half a central 68.27 % width below this says the same of every jet: a calibrated one would
# have an AUC of 0.51. One that is no better than chance by so many errors of its AUC has learned nothing, either.
COLLAPSED_BELOW = 0.05
CHANCE_ERRORS = 3.0


# Gradients are needed, whatever the caller has switched off.
@torch.inference_mode(mode=False)
@torch.enable_grad()
def train(
    signal: JetPairs | np.ndarray,
    background: JetPairs | np.ndarray,
    method: LoLa | None = None,
    *,
    weight: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    seed: int = 0,
    device: str = "cpu",
    show: bool = True,
    checkpoint: str | Path | None = None,
) -> Tagger:
    """Train a tagger on the constituents of signal and background jets.

    Negative weights are turned into positive ones as :func:`hepcal.train` does, in cells of p_T, mass and number of
    constituents. The weights of each class are scaled to the same sum: the score is the probability of signal in a
    mixture of as much signal as background.

    Args:
        signal: Table with constituents, or constituents (n, 4 count) in the jet frame. A share of the events of
            each class (``method.validation``) is held out to notice when it gets no better.
        background: The same, with the same columns.
        method: Settings, by default ``LoLa()``, which is Bayesian.
        weight: Weights of signal and background, shape (n,) each, in place of those of the tables; of either sign.
        seed: Fixes everything: the same jets, method and seed give the same tagger on one machine type.
        device: Where to train.
        show: Report progress.
        checkpoint: File to write the state of the training to, now and then; where it exists, the training goes on.

    Returns:
        A frozen tagger with the best state seen on the held-out jets. Its card says in ``figures["collapsed"]``
        whether it says the same of every jet, or is no better than chance, as happens with a prior that is much too
        narrow; a warning says so.

    Raises:
        TrainingError: There are no constituents or too few events, columns disagree, the weights of a class do not
            sum to a positive number (significantly so, where some are negative), the loss diverged, or the
            checkpoint is of another training.
    """
    method = method or LoLa()
    jets = classes_of(signal, background, weight)
    _require(jets, method, seed)
    place = device_of(device)
    (signal_fitted, signal_rest), (background_fitted, background_rest) = (
        part.split(1 - method.validation, seed) for part in jets
    )
    slots = method.layouts(constituents_of(jets[0].spec).count)[0].constituents
    n_eff = ClassTable(signal_fitted, background_fitted, slots).n_eff
    signal_fitted, signal_seen, _ = with_positive_weights(signal_fitted, signal_rest, coordinates, "signal")
    background_fitted, background_seen, _ = with_positive_weights(
        background_fitted, background_rest, coordinates, "background"
    )
    table = ClassTable(signal_fitted, background_fitted, slots)
    signal_judges, background_judges = (_some(part, JUDGED_JETS // 2, seed) for part in (signal_seen, background_seen))
    judges = ClassTable(signal_judges, background_judges, slots)
    saved = None if checkpoint is None else Checkpoint(Path(checkpoint), _identity(jets, method, seed, place))
    with own_settings():
        tensors, figures, history = _learn(method, table, n_eff, judges, seed, place, show, saved)
    rest = ClassTable(signal_rest, background_rest, slots)
    card = _card(method, jets, (len(signal_fitted), len(background_fitted)), n_eff, len(rest), seed, history)
    tagger = Tagger(card, tensors, device)
    figures |= _performance(tagger, rest, signal_rest, background_rest)
    if figures["collapsed"]:
        warn(
            "the trained tagger says the same of every jet, or is no better than chance: its prior (or L2 "
            "term) is much too narrow for so few jets, or the constituents tell nothing. Try a wider prior_width or "
            "more jets",
            CollapsedWarning,
        )
    # JSON has no NaN: a figure that cannot be given is left out.
    finite = {name: value for name, value in figures.items() if np.isfinite(value)}
    return Tagger(card.model_copy(update={"figures": finite}), tensors, device)


def _card(
    method: LoLa,
    jets: tuple[ClassJets, ClassJets],
    fitted: tuple[int, int],
    n_eff: float,
    held_out_jets: int,
    seed: int,
    history: tuple[tuple[int, float], ...],
) -> TaggerCard:
    """The card, without figures yet."""
    signal, background = jets
    return TaggerCard(
        settings=method.model_dump(mode="json"),
        features=signal.spec,
        signal_sha256=signal.sha256,
        background_sha256=background.sha256,
        files=tuple(dict.fromkeys((*signal.files, *background.files))),
        signal_jets=fitted[0],
        background_jets=fitted[1],
        n_eff=n_eff,
        held_out_jets=held_out_jets,
        seed=seed,
        history=history,
        versions=Card.software(),
    )


def classes_of(
    signal: JetPairs | np.ndarray,
    background: JetPairs | np.ndarray,
    weight: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[ClassJets, ClassJets]:
    """Both classes, checked.

    Raises:
        TrainingError: See :func:`train`.
    """
    found = ClassJets.of(signal, weight[0], "signal"), ClassJets.of(background, weight[1], "background")
    if found[0].spec != found[1].spec:
        raise TrainingError(
            f"signal and background have different columns: {found[0].spec.listed} (p_T {found[0].spec.pt!r}) and "
            f"{found[1].spec.listed} (p_T {found[1].spec.pt!r})"
        )
    return found


def held_out(jets: tuple[ClassJets, ClassJets], method: LoLa, seed: int) -> tuple[ClassJets, ClassJets]:
    """The jets that a training with this method and seed holds out."""
    signal, background = (part.split(1 - method.validation, seed)[1] for part in jets)
    return signal, background


def _require(jets: tuple[ClassJets, ClassJets], method: LoLa, seed: int) -> None:
    if not isinstance(method, LoLa):
        raise TrainingError(f"the method must be an object such as hepcal.tagging.LoLa(), found {method!r}")
    if seed < 0:
        raise TrainingError(f"the seed must not be negative, found {seed}")
    for name, part in zip(("signal", "background"), jets, strict=True):
        if (events := len(np.unique(part.event))) < MIN_EVENTS:
            raise TrainingError(f"{events} {name} events are too few; at least {MIN_EVENTS} are needed")


def _identity(jets: tuple[ClassJets, ClassJets], method: LoLa, seed: int, place: torch.device) -> dict[str, object]:
    """What a checkpoint must agree with."""
    return {
        "signal": jets[0].sha256,
        "background": jets[1].sha256,
        "method": method.name,
        "settings": method.model_dump(mode="json"),
        "seed": seed,
        "device": place.type,
        "versions": Card.software(),
    }


def _some(jets: ClassJets, number: int, seed: int) -> ClassJets:
    """A random choice of jets, or all."""
    if len(jets) <= number:
        return jets
    return jets.take(np.sort(np.random.default_rng(seed).choice(len(jets), number, replace=False)))


def _learn(
    method: LoLa,
    table: ClassTable,
    n_eff: float,
    judges: ClassTable,
    seed: int,
    place: torch.device,
    show: bool,
    saved: Checkpoint | None,
) -> tuple[dict[str, torch.Tensor], dict[str, float], tuple[tuple[int, float], ...]]:
    """Start, minimise, and draw: tensors, figures and history."""
    generator = torch.Generator().manual_seed(seed)
    target, weight = table.labels(place)
    typical = torch.randperm(len(table), generator=generator, device="cpu")[:TYPICAL_JETS]
    jets = table[typical]
    sample = TrainingSet(jets.shape[1], n_eff, target.cpu(), np.arange(len(table)))
    objective = method.objective(sample, generator)
    objective.module.standardise(jets, torch.from_numpy(table.weight)[typical])
    objective.module.to(place)
    judge = judges[torch.arange(len(judges), device="cpu")].to(place), *judges.labels(place)
    fit = minimise(objective, method.descent, (table, target, weight), judge, generator, show=show, checkpoint=saved)
    figures = {"held_out_loss": fit.best_losses[0], "converged": float(fit.converged), **objective.figures()}
    return dict(objective.tensors(generator)), figures, tuple(fit.history)


def _performance(tagger: Tagger, table: ClassTable, *parts: ClassJets) -> dict[str, float]:
    """AUC and calibration on held-out jets, classes balanced."""
    found = [tagger.predict(part.features) for part in parts]
    score, logit = (np.concatenate([getattr(part, name) for part in found]) for name in ("score", "logit"))
    area, error = auc(score, table.is_signal, table.weight)
    ece, ece_error = calibration_error(score, table.is_signal, table.weight)
    sensitivity = sensitivity_of(logit, table.weight)
    return {
        "auc": area,
        "auc_error": error,
        "calibration_error": ece,
        "calibration_error_error": ece_error,
        "sensitivity": sensitivity,
        "collapsed": float(is_collapsed(sensitivity, area, error)),
    }


def sensitivity_of(logit: np.ndarray, weight: np.ndarray) -> float:
    """How much logits (n,) depend on the jet: half their central 68.27 % width."""
    low, high = weighted_quantiles(logit, weight, (CENTRAL[0], CENTRAL[2]))
    return float(high - low) / 2


def is_collapsed(sensitivity: float, area: float, error: float) -> bool:
    """Whether a tagger says the same of every jet, or is no better than chance.

    Args:
        sensitivity: See :func:`sensitivity_of`.
        area: AUC.
        error: Its statistical error.
    """
    return sensitivity < COLLAPSED_BELOW or not area - 0.5 > CHANCE_ERRORS * error
