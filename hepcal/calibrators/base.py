"""The calibrator protocol: a frozen object that predicts, attaches columns and saves itself as data."""

from __future__ import annotations

import importlib.metadata
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import awkward as ak
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from hepcal.calibrators import cache, files
from hepcal.columns import FlatJets, attach
from hepcal.errors import CalibratorFileError, HepcalError, SchemaError
from hepcal.features import Features
from hepcal.networks.scaling import InputScaling, TargetScaling
from hepcal.prediction import Prediction
from hepcal.schemas import detector_pt

__all__ = ["CARD_VERSION", "Calibrator", "Card", "SourceCard", "device_of", "transforms_of"]

Quantity = Literal["mean", "median", "mode"]
Inference = Literal["draws", "moments"]
# Of the file format: one that this code does not read is refused.
CARD_VERSION: Literal[2] = 2


class SourceCard(BaseModel):
    """What a calibrator was trained on.

    Attributes:
        schema_name: Layout of the files (or ``arrays``).
        files: Unique ids of the training files (ROOT UUIDs), to notice when a calibrator meets them again.
        sha256: Hash of the training table.
        jets: Jets the gradient saw.
        n_eff: Their effective number.
        validation_jets: Jets held out for stopping.
        seed: Seed of the training.
        reco_threshold: Smallest detector-level p_T in the training files [GeV]; zero if unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_name: str
    files: tuple[str, ...]
    sha256: str
    jets: int
    n_eff: float
    validation_jets: int
    seed: int
    reco_threshold: float = 0.0


class Card(BaseModel):
    """The part of a calibrator file that people read.

    Attributes:
        version: Version of the file format.
        method: Name of the method.
        quantity: What ``pt_calib`` promises: mean, median or mode.
        settings: Settings of the training.
        features: Inputs and p_T convention.
        target_location: Location of the standardised target.
        target_scale: Its scale.
        source: What it was trained on.
        figures: Training and validation figures.
        history: Held-out loss against updates.
        versions: Versions of the software that trained it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = CARD_VERSION
    method: str
    quantity: Quantity
    settings: dict[str, Any]
    features: Features
    target_location: float
    target_scale: float
    source: SourceCard
    figures: dict[str, float]
    history: tuple[tuple[int, float], ...]
    versions: dict[str, str]

    @staticmethod
    def software() -> dict[str, str]:
        """Versions to store in :attr:`versions`."""
        return {name: importlib.metadata.version(name) for name in ("hepcal", "torch", "numpy")}


class Calibrator(ABC):
    """A trained, frozen calibration. Made by :func:`hepcal.train` or :meth:`load`.

    Call it on jets to attach columns, or :meth:`predict` on arrays. It has no random numbers: the same jet gets the
    same bits in any chunk, order, executor or number of workers.

    Args:
        card: What it is.
        tensors: Its numbers, float32.
        device: Where it computes.
        inference: How uncertainties come about: ``draws`` for all methods; see :meth:`with_inference`.
    """

    sigmas: ClassVar[tuple[str, ...]] = ()
    # Networks whose predictions of one jet can be had one by one, for correlations between jets.
    replicas: int = 0

    def __init__(
        self, card: Card, tensors: Mapping[str, torch.Tensor], device: str = "cpu", inference: Inference = "draws"
    ) -> None:
        self.card, self.inference = card, inference
        self.tensors: Mapping[str, torch.Tensor] = MappingProxyType(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )
        self.device = device_of(device)
        inputs = 1 + len(card.features.inputs)
        for part in ("mean", "scale", "low", "high"):
            self._require(f"input_{part}", (inputs,), positive=part == "scale")
        if not (card.target_scale > 0 and math.isfinite(card.target_location) and card.features.pt):
            raise CalibratorFileError("the card has no usable target scale, target location or p_T convention")
        self.inputs = InputScaling(
            transforms_of(card.features),
            *(self.tensors[f"input_{part}"] for part in ("mean", "scale", "low", "high")),
        )
        self.target = TargetScaling(card.target_location, card.target_scale)
        self._prepare()

    def _require(self, name: str, shape: tuple[int, ...], *, positive: bool = False) -> torch.Tensor:
        """A saved tensor, if it is what the card says."""
        tensor = self.tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise CalibratorFileError(
                f"tensor {name!r} is {tensor.dtype} of {tuple(tensor.shape)}; the card asks for float32 of {shape}"
            )
        if not torch.isfinite(tensor).all() or (positive and not (tensor > 0).all()):
            raise CalibratorFileError(
                f"tensor {name!r} holds values that are not {'positive' if positive else 'finite'}"
            )
        return tensor

    def _prepare(self) -> None:  # noqa: B027 - optional
        """Derived tensors that are not saved."""

    @abstractmethod
    def predict(self, features: np.ndarray, reco: np.ndarray) -> Prediction:
        """Calibrated p_T and uncertainties of flat jets.

        Args:
            features: Untransformed inputs in the order of ``card.features``, shape (n, d).
            reco: Detector-level p_T [GeV], shape (n,).

        Raises:
            ValueError: The shapes do not fit the calibrator.
        """

    @abstractmethod
    def _columns(self, features: np.ndarray, reco: np.ndarray, *, replicas: bool = False) -> dict[str, np.ndarray]:
        """The columns of :attr:`columns` for flat jets, float32 or bool, and :data:`REPLICAS` if asked for."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attached columns."""
        return ("pt_calib", *self.sigmas, "pt_calib_in_range")

    @property
    def uncertainties(self) -> tuple[str, ...]:
        """Shift-type systematics: records with ``up`` and ``down`` jet collections."""
        return ("calib_pred",) if "pt_calib_sigma_pred" in self.sigmas else ()

    @property
    def uses(self) -> tuple[str, ...]:
        """Jet fields that are read."""
        return self.card.features.jet_fields

    def reco(self, jets: ak.Array) -> ak.Array:
        """Detector-level p_T [GeV] that the calibration starts from, in the layout of ``jets``."""
        return detector_pt(jets, self.card.features.pt or "pt")

    def __call__(
        self, jets: ak.Array, event: ak.Array | None = None, *, replace: bool = False, replicas: bool = False
    ) -> ak.Array:
        """Attach the calibration to jets, lazily.

        Args:
            jets: Detector-level jets, ``events * var * Jet`` or ``events * Jet``; missing ones are allowed.
            event: The events, for calibrators with event-level inputs such as ``event_rho``.
            replace: Also set ``pt`` to ``pt_calib``, scale ``mass`` alike, and keep ``pt_orig`` and ``mass_orig``.
            replicas: Also attach ``pt_calib_replicas``, the p_T [GeV] by every weight draw or ensemble member, a list
                of :attr:`replicas` numbers per jet. Replica k of all jets of all events is one network: the spread
                of an observable computed per replica is its statistical error, correlations between jets included.

        Returns:
            The jets with the fields :attr:`columns` (GeV, float32; ``pt_calib_in_range`` bool) and one record per
            name in :attr:`uncertainties`.

        Raises:
            MissingFieldError: The jets lack a field in :attr:`uses`; raised at once.
            SchemaError: The jets are of another layout than those of the training; raised at once.
            HepcalError: The jets were calibrated before, the events are not theirs, or the method has no replicas;
                raised at once.
            NonFiniteFeatureError: A feature is NaN or infinite; raised when a column is first read.
        """
        flat = FlatJets(jets)
        self._refuse(jets, replace)
        self.card.features.require(jets, event)
        if event is not None and len(event) != len(jets):
            raise HepcalError(f"{len(jets)} lists of jets but {len(event)} events: pass the events of these jets")

        if replicas and not self.replicas:
            raise HepcalError(f"the method {self.card.method!r} is a single network: it has no replicas")

        def evaluate() -> dict[str, np.ndarray]:
            index = flat.event_index if self.card.features.event_names else None
            return self._columns(*self.card.features.table(flat.flat, event, index), replicas=replicas)

        shifts = {name: f"pt_calib_sigma_{name.removeprefix('calib_')}" for name in self.uncertainties}
        count = self.replicas if replicas else 0
        return attach(flat, evaluate, self.columns, shifts, replicas=count, replace=replace)

    def _refuse(self, jets: ak.Array, replace: bool) -> None:
        """Jets that were calibrated before, or that mean something else by the same names."""
        if "pt_orig" in jets.fields and (replace or "pt_calib" in jets.fields):
            raise HepcalError(
                "these jets have a field 'pt_orig': their pt was replaced by a calibrated one before. Calibrate the "
                "jets of the file, or rename the field if another correction made it"
            )
        if self.card.source.schema_name == "delphes" and "rawFactor" in jets.fields:
            raise SchemaError(
                "this calibrator was trained on Delphes jets; these are NanoAOD jets (they have a rawFactor)"
            )

    def __repr__(self) -> str:
        card = self.card
        inputs = ", ".join(("ln(pt)", *card.features.names))
        return f"<{type(self).__name__}: {card.method}, {card.source.jets} training jets, inputs {inputs}>"

    # -- as data ------------------------------------------------------------------------------------------------

    @cached_property
    def content(self) -> bytes:
        """The calibrator file as bytes: safetensors with a JSON card in the header."""
        return files.dump(self.card.model_dump_json(), self.tensors)

    @cached_property
    def sha256(self) -> str:
        """Hash of :attr:`content`; identifies the calibrator."""
        return files.sha256(self.content)

    def save(self, path: str | Path) -> None:
        """Write the calibrator to one file; an existing file is replaced only once the new one is complete."""
        files.write(Path(path), self.content)

    @staticmethod
    def load(path: str | Path, device: str = "cpu") -> Calibrator:
        """Open a calibrator file. No code in it is ever executed.

        Args:
            path: File written by :meth:`save`.
            device: ``cpu``, ``cuda`` ...

        Raises:
            CalibratorFileError: The file is missing, damaged, or not a calibrator.
        """
        content = files.read(Path(path))
        return cache.get(content, files.sha256(content), device, where=str(path))

    def to(self, device: str) -> Calibrator:
        """The same calibrator on another device."""
        return type(self)(self.card, self.tensors, device, self.inference)

    def with_inference(self, inference: Inference) -> Calibrator:
        """The same calibrator with another way to compute uncertainties.

        Args:
            inference: ``draws`` (the default everywhere), or ``moments``: means and variances carried through a
                Bayesian network with a Gaussian likelihood, several times faster and without the scatter of a finite
                number of draws, but approximate (:mod:`hepcal.networks.moments`). Densities and replicas always come
                from the draws. Not part of the saved file.

        Raises:
            HepcalError: The method has no moments, or there is no such inference.
        """
        if inference not in get_args(Inference):
            raise HepcalError(f"no inference {inference!r}; there are {', '.join(get_args(Inference))}")
        return type(self)(self.card, self.tensors, str(self.device), inference)

    def __reduce__(self) -> tuple[Any, ...]:
        # Travels as its file's bytes: no path has to exist on a worker, and each process builds it once.
        return cache.get, (self.content, self.sha256, str(self.device), self.inference)

    def _checked(self, features: np.ndarray, reco: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = np.asarray(features, dtype=np.float32)
        reco = np.asarray(reco, dtype=np.float32)
        names = self.card.features.names
        if reco.ndim != 1 or features.shape != (len(reco), len(names)):
            raise ValueError(
                f"expected features of shape (n, {len(names)}) for {', '.join(names)} and reco of shape (n,); "
                f"found {features.shape} and {reco.shape}"
            )
        self.card.features.check(features, reco)
        return features, reco


def device_of(name: str) -> torch.device:
    """A torch device.

    Raises:
        HepcalError: There is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise HepcalError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device


def transforms_of(features: Features) -> tuple[str, ...]:
    """Transforms of all network inputs: ln p_T first."""
    return ("log", *(feature.transform for feature in features.inputs))
