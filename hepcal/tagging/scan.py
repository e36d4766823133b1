"""How much a Bayesian tagger depends on the width of its prior."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hepcal.errors import CollapsedWarning, TrainingError
from hepcal.progress import Progress
from hepcal.tables.pairs import JetPairs
from hepcal.tagging.lola import LoLa
from hepcal.tagging.scores import auc, auc_difference
from hepcal.tagging.table import ClassTable
from hepcal.tagging.tagger import Tagger, TaggerPrediction
from hepcal.tagging.training import classes_of, held_out, is_collapsed, sensitivity_of, train

__all__ = ["PriorScan", "scan_prior"]


@dataclass(frozen=True, slots=True)
class PriorScan:
    """AUC against the width of the prior, on the same jets, arrays of shape (widths,).

    Attributes:
        width: Widths of the prior, rising.
        auc: Area under the ROC curve, classes balanced.
        error: Its statistical error from the jets, nearly common to all widths.
        below_best: By how much it is below the largest one.
        below_best_error: Statistical error of that from the jets, correlations included. The scatter of trainings,
            which differ by their random numbers, comes on top.
        sensitivity: Half the central 68.27 % width of the logit over jets.
        collapsed: Whether the tagger says the same of every jet, or is no better than chance: its AUC is then that of
            the few weight draws that are kept, and means nothing.
        sigma_logit: Mean statistical uncertainty of the logit.
        kl: KL divergence of the posterior from the prior [nats].
    """

    width: np.ndarray
    auc: np.ndarray
    error: np.ndarray
    below_best: np.ndarray
    below_best_error: np.ndarray
    sensitivity: np.ndarray
    collapsed: np.ndarray
    sigma_logit: np.ndarray
    kl: np.ndarray

    def __str__(self) -> str:
        lines = ["  width      AUC              below the best    <sigma_logit>"]
        for number, width in enumerate(self.width):
            lines.append(
                f"{width:7g}   {self.auc[number]:.4f} +- {self.error[number]:.4f}   "
                f"{self.below_best[number]:.4f} +- {self.below_best_error[number]:.4f}   "
                f"{self.sigma_logit[number]:.3f}{'   collapsed' if self.collapsed[number] else ''}"
            )
        return "\n".join(lines)


def scan_prior(
    signal: JetPairs | np.ndarray,
    background: JetPairs | np.ndarray,
    method: LoLa | None = None,
    widths: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
    *,
    test: tuple[JetPairs | np.ndarray, JetPairs | np.ndarray] | None = None,
    weight: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    test_weight: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    seed: int = 0,
    device: str = "cpu",
    show: bool = True,
) -> PriorScan:
    """Train a Bayesian tagger with each width of the prior, on the same jets and from the same seed.

    A prior that is far too narrow lets the posterior collapse to it, and the tagger says the same of every jet; above,
    the AUC should not depend on the width within its errors.

    Args:
        signal: See :func:`hepcal.tagging.train`.
        background: See there.
        method: Settings; its own ``prior_width`` is not used.
        widths: Widths of the prior.
        test: Signal and background to judge with; default: the jets held out of the training, which have also chosen
            the best state of each.
        weight: Weights of signal and background, in place of those of the tables.
        test_weight: The same for ``test``.
        seed: Of all trainings.
        device: Where to train.
        show: Report progress.

    Raises:
        TrainingError: See :func:`hepcal.tagging.train`; or the method is deterministic, or there are no widths.
    """
    method = method or LoLa()
    if not method.bayesian or not len(widths):
        raise TrainingError("a scan of the prior needs a Bayesian method, and at least one width")
    judges = (
        held_out(classes_of(signal, background, weight), method, seed)
        if test is None
        else classes_of(*test, test_weight)
    )
    table = ClassTable(*judges, slots=1)
    taggers, found = [], []
    ordered = sorted(widths)
    with Progress("Scan of the prior", len(ordered), "trainings", show=show) as bar, warnings.catch_warnings():
        # The scan looks for the collapse, and says at which widths it is.
        warnings.simplefilter("ignore", CollapsedWarning)
        for width in ordered:
            settings = LoLa.model_validate({**method.model_dump(), "prior_width": width})
            tagger = train(signal, background, settings, weight=weight, seed=seed, device=device, show=False)
            taggers.append(tagger)
            found.append([tagger.predict(part.features) for part in judges])
            bar.advance(1, f"width {width:g}")
    return _summary(np.array(ordered), taggers, found, table)


def _summary(
    widths: np.ndarray, taggers: list[Tagger], found: list[list[TaggerPrediction]], table: ClassTable
) -> PriorScan:
    scores, logits, sigmas = (
        [np.concatenate([getattr(part, name) for part in parts]) for parts in found]
        for name in ("score", "logit", "sigma_logit")
    )
    areas = np.array([auc(score, table.is_signal, table.weight) for score in scores])
    best = scores[int(np.argmax(areas[:, 0]))]
    below = np.array([auc_difference(best, score, table.is_signal, table.weight) for score in scores])
    sensitivity = np.array([sensitivity_of(logit, table.weight) for logit in logits])
    return PriorScan(
        width=widths,
        auc=areas[:, 0],
        error=areas[:, 1],
        below_best=below[:, 0],
        below_best_error=below[:, 1],
        sensitivity=sensitivity,
        collapsed=np.array([is_collapsed(*row) for row in zip(sensitivity, *areas.T, strict=True)]),
        sigma_logit=np.array([np.average(sigma, weights=table.weight) for sigma in sigmas]),
        kl=np.array([tagger.card.figures["kl"] for tagger in taggers]),
    )
