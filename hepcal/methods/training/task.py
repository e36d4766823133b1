"""What a learner gets, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from hepcal.events.features import Features
from hepcal.events.threshold import MARGIN
from hepcal.methods.base import Method
from hepcal.methods.card import Card, SourceCard
from hepcal.methods.training_inputs import histogram_tensors
from hepcal.networks.checkpoints import Checkpoint
from hepcal.networks.scaling import InputScaling, TargetScaling
from hepcal.statistics import n_eff
from hepcal.tables.pairs import JetPairs
from hepcal.tables.signed_weights import Cells

__all__ = [
    "Learned",
    "Task",
    "card_of",
    "raw_inputs",
    "seen_tensors",
    "source_of",
    "truncated_below",
    "unit_weights",
]

Settings = TypeVar("Settings", bound=Method)
INPUT_PARTS = ("mean", "scale", "low", "high")


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes:
        method: Its settings.
        spec: The inputs that the method keeps; the tables hold these and no others.
        fitted: Jets to learn from; no weight is negative, but for methods that need data.
        held_out: Jets to judge with, of the same kind.
        judges: A bounded number of the held-out jets, for looks during the training.
        inputs: Standardisation of the inputs, and their support.
        seed: Fixes all random numbers.
        place: Where to train.
        show: Report progress.
        saved: Where the state of an interrupted training is kept.
        data: Detector-level values of data [GeV], shape (m,), for methods that map simulation to data.
        data_weight: Their weights, shape (m,); None: one.
        cells: The signed weights that those of the fitted jets were made of; None: they are those of the table.
    """

    method: Method
    spec: Features
    fitted: JetPairs
    held_out: JetPairs
    judges: JetPairs
    inputs: InputScaling
    seed: int
    place: torch.device
    show: bool
    saved: Checkpoint | None = None
    data: np.ndarray | None = None
    data_weight: np.ndarray | None = None
    cells: Cells | None = None

    def settings(self, kind: type[Settings]) -> Settings:
        """The method, as the kind that the registry promises to a learner.

        Raises:
            TypeError: It is of another kind.
        """
        if not isinstance(self.method, kind):
            raise TypeError(f"a training of {kind.__name__} was given the settings {self.method!r}")
        return self.method

    @property
    def n_eff(self) -> float:
        """Effective number of the fitted jets, of which negative weights took a share."""
        return self.effective(self.fitted.weight)

    def effective(self, weight: np.ndarray) -> float:
        """Effective number of the fitted jets with other weights, of which negative weights of the table took a share.

        Args:
            weight: Not negative, shape (n,).
        """
        signs = 1.0 if self.cells is None else n_eff(self.cells.signed) / n_eff(self.cells.positive)
        return n_eff(weight) * signs

    def learning_from(self, fitted: JetPairs) -> Task:
        """The same with some of the events to learn from."""
        if self.cells is None:
            return replace(self, fitted=fitted)
        rows = np.flatnonzero(np.isin(self.fitted.event, fitted.event))
        return replace(self, fitted=fitted, cells=self.cells.take(rows))

    def taken(self, rows: np.ndarray) -> Task:
        """The same with the given rows of the fitted jets, in the given order."""
        cells = None if self.cells is None else self.cells.take(rows)
        return replace(self, fitted=self.fitted.take(rows), cells=cells)

    def input_tensors(self) -> dict[str, torch.Tensor]:
        """Standardisation and support of the inputs, as a calibrator saves them."""
        return {f"input_{part}": getattr(self.inputs, part) for part in INPUT_PARTS}


@dataclass(frozen=True)
class Learned:
    """What a training leaves.

    Attributes:
        tensors: Numbers of the calibrator, float32, beside those of the standardised inputs.
        target: Scale of a standardised target, for methods that have one.
        figures: What a report should say.
        history: Pairs of update and held-out loss; empty for methods that do not iterate.
        converged: Whether the training ended by its own rule.
        parts: Cards of calibrators that the new one is made of; their tensors have the name of the part in front.
    """

    tensors: dict[str, torch.Tensor]
    target: TargetScaling = field(default_factory=lambda: TargetScaling(0.0, 1.0))
    figures: dict[str, float] = field(default_factory=dict)
    history: tuple[tuple[int, float], ...] = ()
    converged: bool = True
    parts: dict[str, Card] = field(default_factory=dict)


def unit_weights(pairs: JetPairs) -> np.ndarray:
    """Weights of mean one, float64 of shape (n,)."""
    return np.asarray(pairs.weight / np.mean(pairs.weight), dtype=np.float64)


def seen_tensors(pairs: JetPairs) -> dict[str, torch.Tensor]:
    """Distributions of the inputs of a whole table, as a calibrator saves them."""
    return histogram_tensors(pairs.spec, pairs.features, pairs.reco, pairs.truth, pairs.weight)


def raw_inputs(pairs: JetPairs, pt: np.ndarray | None = None) -> torch.Tensor:
    """Untransformed inputs, float32 of shape (1 + d, n), detector-level p_T first, or another p_T in its place."""
    first = pairs.reco if pt is None else pt
    return torch.from_numpy(np.concatenate([first[None], np.asarray(pairs.features).T]).astype(np.float32))


def card_of(method: Method, spec: Features, learned: Learned, source: SourceCard) -> Card:
    """The card of a calibrator, without figures yet."""
    return Card(
        method=method.name,
        quantity=method.promised,
        settings=method.model_dump(mode="json"),
        features=spec,
        target_location=learned.target.location,
        target_scale=learned.target.scale,
        source=source,
        figures={},
        history=learned.history,
        versions=Card.software(),
        parts=learned.parts,
    )


def source_of(pairs: JetPairs, fitted: JetPairs, held_out: JetPairs, seed: int, data_sha256: str = "") -> SourceCard:
    """Provenance of a calibrator trained on a part of a table."""
    return SourceCard(
        schema_name=str(pairs.source.get("schema", "arrays")),
        files=tuple(pairs.source.get("files", ())),
        sha256=pairs.sha256,
        jets=len(fitted),
        n_eff=fitted.n_eff,
        validation_jets=len(held_out),
        seed=seed,
        reco_threshold=float(pairs.source.get("reco_threshold", 0.0)),
        truncated_below=truncated_below(pairs.source),
        data_sha256=data_sha256,
        collection=str(pairs.source.get("jets", "")),
        truth=str(pairs.source.get("truth", "")),
        keep_leptons=bool(pairs.source.get("keep_leptons", False)),
    )


def truncated_below(source: Mapping[str, Any]) -> float:
    """Detector-level p_T [GeV] below which the threshold of the files leaves no calibration right; zero if unknown.

    Tables of earlier versions have no such limit, and get the least one.
    """
    return float(source.get("truncated_below", MARGIN * float(source.get("reco_threshold", 0.0))))
