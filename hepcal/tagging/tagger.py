"""The trained tagger: a frozen object that says how signal-like jets are, and saves itself as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from scipy.special import expit

from hepcal.arrays import numbers
from hepcal.errors import CalibratorFileError, HepcalError
from hepcal.events.features import Features
from hepcal.networks.devices import device_of
from hepcal.networks.inference import BLOCK, with_bias_column
from hepcal.networks.parallel import map_blocks
from hepcal.storage.artefact import Artefact
from hepcal.tables.pairs import JetPairs
from hepcal.tables.rows import Rows, StoredRows, check_rows, stored
from hepcal.tagging.lola import LoLa
from hepcal.tagging.table import constituents_of

__all__ = ["Tagger", "TaggerCard", "TaggerPrediction"]


class TaggerCard(BaseModel):
    """The part of a tagger file that people read.

    Attributes:
        kind: Of the file.
        version: Of the file format; one that this code does not read is refused.
        method: Name of the method.
        settings: Settings of the training.
        features: The columns of a table for it, with the frame and the number of its constituents.
        signal_sha256: Hash of the signal of the training.
        background_sha256: Hash of its background.
        files: Unique ids of the files of both.
        signal_jets: Signal jets that the gradient saw.
        background_jets: Background jets that it saw.
        n_eff: Effective number of both, balanced.
        held_out_jets: Jets held out.
        seed: Seed of the training.
        figures: On the held-out jets, with balanced classes: ``auc``, ``auc_error``, ``calibration_error`` and
            ``calibration_error_error``, ``sensitivity`` (half the central 68.27 % width of the logit over jets),
            ``collapsed``; of the training: ``held_out_loss``, ``converged``, ``kl``.
        history: Held-out loss against updates.
        versions: Versions of the software that trained it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["tagger"] = "tagger"
    version: Literal[1] = 1
    method: Literal["lola"] = "lola"
    settings: dict[str, Any]
    features: Features
    signal_sha256: str
    background_sha256: str
    files: tuple[str, ...] = ()
    signal_jets: int
    background_jets: int
    n_eff: float
    held_out_jets: int
    seed: int
    figures: dict[str, float] = {}
    history: tuple[tuple[int, float], ...] = ()
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class TaggerPrediction:
    """What a tagger says of n jets; arrays are float64 of shape (n,).

    A class has no stochastic uncertainty: the score is the probability itself. Errors are those of the training, and
    Gaussian at best in the logit; :func:`hepcal.tagging.gaussian_score` transforms a Gaussian logit for display.

    Attributes:
        score: Probability of signal in a mixture of as much signal as background: mean over draws of the sigmoid.
        logit: Mean over draws of ln(p / (1 - p)). Not the logit of the mean score.
        sigma_logit: Spread of the logit over draws; None for a deterministic tagger.
        sigma_score: Spread of the sigmoid over draws; None for a deterministic tagger.
        by_draw: Computes :meth:`logits`.
    """

    score: np.ndarray
    logit: np.ndarray
    sigma_logit: np.ndarray | None
    sigma_score: np.ndarray | None
    by_draw: Callable[[], np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.score)

    def logits(self) -> np.ndarray:
        """Logits of every weight draw, float32 of shape (draws, n); draws are common to all jets. Computed anew."""
        return self.by_draw()


class Tagger(Artefact[TaggerCard]):
    """A trained, frozen tagger. Made by :func:`hepcal.tagging.train` or :meth:`load`.

    It has no random numbers: the same jet gets the same bits in any chunk, order or number of workers.

    Args:
        card: What it is.
        tensors: Its numbers, float32.
        device: Where it computes.

    Raises:
        CalibratorFileError: The tensors are not those of the card.
    """

    noun = "tagger"
    misread: ClassVar[str] = " holds no tagger that this version reads"

    def __init__(self, card: TaggerCard, tensors: Mapping[str, torch.Tensor], device: str = "cpu") -> None:
        super().__init__(card, tensors)
        self.device = device_of(device)
        if card.features.constituents is None:
            raise CalibratorFileError("the card of the tagger names no constituents")
        self.settings = LoLa.model_validate(card.settings)
        self._lorentz, dense = self.settings.layouts(card.features.constituents.count)
        outputs = (self._lorentz.outputs,)
        self.draws = self.settings.networks
        self._weights = self.require("lorentz_draws", (self.draws, self._lorentz.count)).to(self.device)
        layers = dense.split(self.require("dense_draws", (self.draws, dense.count)))
        self._dense = [with_bias_column(*layer).to(self.device) for layer in layers]
        location, scale = (self.require(f"feature_{part}", outputs) for part in ("location", "scale"))
        if not (scale > 0).all():
            raise CalibratorFileError("a scale of the tagger is not positive")
        self._location, self._scale = location[:, None].to(self.device), scale[:, None].to(self.device)

    def __repr__(self) -> str:
        card = self.card
        kind = f"Bayesian, {self.draws} draws" if self.settings.bayesian else "deterministic"
        auc = f", AUC {card.figures['auc']:.4f}" if "auc" in card.figures else ""
        jets = f"{card.signal_jets} signal and {card.background_jets} background jets"
        return f"<Tagger: {card.method}, {kind}, {jets}, {card.features.constituents}{auc}>"

    def predict(self, features: JetPairs | Rows) -> TaggerPrediction:
        """Scores of jets, with their statistical error; memory does not grow with the number of draws.

        Args:
            features: A table of jets, or columns of one with the inputs of ``card.features``, shape (n, d + 4 count),
                or the constituents alone, shape (n, 4 count); in memory or memory-mapped.

        Raises:
            ValueError: The shape does not fit.
            NonFiniteFeatureError: The columns are not p_T-ordered constituents.
            HepcalError: A logit is not finite: a jet has absurd momenta.
        """
        block = self._constituents(features)
        several = self.draws > 1
        found = np.empty((4, len(block)))

        def summarise(part: slice, logits: np.ndarray) -> None:
            jets, scores = part.stop - part.start, expit(logits)
            found[:2, part] = scores.mean(0)[:jets], logits.mean(0)[:jets]
            if several:
                found[2:, part] = logits.std(0, ddof=1)[:jets], scores.std(0, ddof=1)[:jets]

        self._map(block, summarise)
        score, logit, sigma_logit, sigma_score = found
        if not several:
            return TaggerPrediction(score, logit, None, None, partial(self._logits, block))
        return TaggerPrediction(score, logit, sigma_logit, sigma_score, partial(self._logits, block))

    def _logits(self, block: Rows) -> np.ndarray:
        found = np.empty((self.draws, len(block)), dtype=np.float32)

        def keep(part: slice, logits: np.ndarray) -> None:
            found[:, part] = logits[:, : part.stop - part.start]

        self._map(block, keep)
        return found

    def _constituents(self, features: JetPairs | Rows) -> Rows:
        """Columns of all constituents, float32 of shape (n, 4 count), a view where possible."""
        spec = self.card.features
        momenta = constituents_of(spec)
        if isinstance(features, JetPairs):
            if features.spec.constituents != momenta:
                raise HepcalError(f"this tagger needs {momenta}, but the table holds {features.spec.listed}")
            features = features.features[:, features.spec.width - momenta.width :]
        if not isinstance(features, StoredRows):
            features = numbers("features", features, np.float32)
        if features.ndim != 2 or features.shape[1] not in (spec.width, momenta.width):
            raise ValueError(
                f"expected features of shape (n, {spec.width}) for {spec.listed}, or constituents of shape "
                f"(n, {momenta.width}); found {features.shape}"
            )
        # Of a large table on disk these are rows that are read where they are used.
        block = stored(features)[:, features.shape[1] - momenta.width :]
        check_rows(lambda rows, _: momenta.check(rows), block, np.broadcast_to(np.float32(0), len(block)))
        return block

    def _map(self, block: Rows, use: Callable[[slice, np.ndarray], None]) -> None:
        """Call ``use(part, logits)`` for all blocks of jets, with float64 logits (draws, BLOCK), the last ones padded.

        Sums over draws must be of whole blocks: numpy adds in an order that depends on the shape.
        """
        used = block[:, : 4 * self._lorentz.constituents]

        def work(part: slice, jets: torch.Tensor) -> None:
            logits = self._evaluate(jets[1:].to(self.device)).double().cpu().numpy()
            if not np.isfinite(logits).all():
                raise HepcalError("a logit is not a finite number: look for jets with absurd momenta")
            use(part, logits)

        # The row in front of a block, for a p_T, is not needed here.
        reco = np.broadcast_to(np.float32(0), len(block))
        map_blocks(work, used, reco, jets=BLOCK, workers=None if self.device.type == "cpu" else 1)

    def _evaluate(self, jets: torch.Tensor) -> torch.Tensor:
        """Logits (draws, b) of jets (4 P, b) in GeV."""
        prepared = self._lorentz.prepare(jets)
        found = jets.new_empty((self.draws, jets.shape[1]))
        for number, weights in enumerate(self._weights):
            hidden = (self._lorentz.forward(prepared, weights) - self._location) / self._scale
            for layer in self._dense[:-1]:
                hidden = torch.addmm(layer[number, :, -1:], layer[number, :, :-1], hidden).relu_()
            last = self._dense[-1][number]
            found[number] = torch.addmm(last[:, -1:], last[:, :-1], hidden)[0]
        return found

    # -- as data ------------------------------------------------------------------------------------------------

    def to(self, device: str) -> Tagger:
        """The same tagger on another device."""
        other = Tagger(self.card, self.tensors, device)
        other.content = self.content
        return other

    @staticmethod
    def load(path: str | Path, device: str = "cpu") -> Tagger:
        """Read a saved tagger; no code is executed.

        Raises:
            CalibratorFileError: The file is missing, damaged (its content does not match its hash), of another kind or
                of another version.
        """
        return Tagger.from_content(Tagger.read(path), device, str(path))

    @staticmethod
    def from_content(content: bytes, device: str = "cpu", where: str = "the tagger") -> Tagger:
        """A tagger from :attr:`content`.

        Args:
            content: Of the file.
            device: ``cpu``, ``cuda`` ...
            where: What messages call the file.

        Raises:
            CalibratorFileError: It is damaged, no tagger, or of another version.
        """
        text, _, tensors = Tagger.parsed(content, where)
        with Tagger.fitting(where):
            tagger = Tagger(TaggerCard.model_validate_json(text), tensors, device)
        tagger.content = content
        return tagger

    def __reduce__(self) -> tuple[Any, ...]:
        return Tagger.from_content, (self.content, str(self.device))
