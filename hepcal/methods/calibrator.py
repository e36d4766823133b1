"""The calibrator protocol: a frozen object that predicts, attaches columns and saves itself as data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import awkward as ak
import numpy as np
import torch

from hepcal.arrays import refuse_dask_awkward
from hepcal.distributions import Distribution, Jets
from hepcal.distributions.on_demand import OfJets
from hepcal.distributions.prediction import Prediction
from hepcal.errors import CalibratorFileError, HepcalError, UnknownMethodError
from hepcal.events.columns import COVERED, REPLICAS, FlatJets, attach, type_of_attached
from hepcal.events.raw_momentum import detector_pt
from hepcal.methods import cache
from hepcal.methods.base import Method
from hepcal.methods.card import CARD_VERSION, Card
from hepcal.methods.flat import flat_jets, transforms_of
from hepcal.methods.interval_coverage import covered, has_interval, padded
from hepcal.methods.refusals import refuse_foreign, refuse_overflow, refuse_taken
from hepcal.methods.registry import calibrator_of, owner, places
from hepcal.methods.training_inputs import histograms_of
from hepcal.networks.devices import device_of
from hepcal.networks.inference import BLOCK
from hepcal.networks.parallel import map_blocks
from hepcal.networks.scaling import InputScaling, TargetScaling
from hepcal.storage.artefact import Artefact, digest
from hepcal.tables.input_differences import Condition
from hepcal.tables.input_histograms import InputHistograms
from hepcal.tables.pairs import JetPairs
from hepcal.tables.rows import Rows

__all__ = ["Calibrator", "device_of", "transforms_of"]

Inference = Literal["draws", "moments"]

# Shift-type systematics by the column with their size.
SHIFTS = {"pt_calib_sigma_pred": "calib_pred", "pt_calib_sigma_scale": "calib_cal"}


class Calibrator(Artefact[Card], ABC):
    """A trained, frozen calibration. Made by :func:`hepcal.train` or :meth:`load`.

    Call it on jets to attach columns, or :meth:`predict` on arrays. It has no random numbers: the same jet gets the
    same bits in any chunk, order, executor or number of workers.

    Args:
        card: What it is.
        tensors: Its numbers, float32.
        device: Where it computes.
        inference: How uncertainties come about: ``draws`` for all methods; see :meth:`with_inference`.
    """

    noun = "calibrator"
    method: ClassVar[type[Method]]
    # Columns of uncertainties: those that the method declares; of some they depend on the settings, so on the object.
    sigmas: tuple[str, ...] = ()
    # What `_evaluate` gives for predictions beside the columns.
    beside: tuple[str, ...] = ()
    # Networks whose predictions of one jet can be had one by one, for correlations between jets.
    replicas: int = 0
    # Jets that are computed at once.
    block: int = BLOCK
    # Whether it was trained, or is a correction that exists.
    trained: ClassVar[bool] = True
    # Whether one evaluation gives the columns and what they cover.
    judges: bool = False
    # What the training saw of the inputs, by the p_T that is held fixed; nothing in files of earlier versions.
    input_histograms: Mapping[Condition, InputHistograms] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "method" in vars(cls) and "sigmas" not in vars(cls):
            cls.sigmas = cls.method.uncertainties

    def __init__(
        self, card: Card, tensors: Mapping[str, torch.Tensor], device: str = "cpu", inference: Inference = "draws"
    ) -> None:
        # The moments are those of a posterior; a network that has one says itself if its likelihood allows them.
        if inference == "moments" and "posterior_mean" not in tensors:
            raise HepcalError("moments need a Bayesian network with a Gaussian likelihood: use draws")
        super().__init__(card, tensors)
        self.inference, self.device = inference, device_of(device)
        inputs = 1 + card.features.width
        for part in ("mean", "scale", "low", "high"):
            self.require(f"input_{part}", (inputs,), positive=part == "scale")
        if not (card.target_scale > 0 and math.isfinite(card.target_location) and card.features.pt):
            raise CalibratorFileError("the card has no usable target scale, target location or p_T convention")
        self.inputs = InputScaling(
            transforms_of(card.features),
            *(self.tensors[f"input_{part}"] for part in ("mean", "scale", "low", "high")),
        )
        self.target = TargetScaling(card.target_location, card.target_scale)
        self.input_histograms = histograms_of(card.features, self.tensors)
        self._prepare()

    def _prepare(self) -> None:
        """Derived tensors that are not saved."""

    def predict(
        self, features: JetPairs | Rows, reco: np.ndarray | None = None, *, event: np.ndarray | None = None
    ) -> Prediction:
        """Calibrated p_T and uncertainties of flat jets; densities are computed for the jets that ask for them.

        Args:
            features: A table of jets, of which the columns are picked by name; or untransformed inputs in the order
                of ``card.features``, shape (n, d).
            reco: With inputs: detector-level p_T [GeV], shape (n,).
            event: With inputs: event ids, integers of shape (n,), by which ``prediction.sample`` tells jets apart.

        Raises:
            ValueError: The shapes do not fit the calibrator, or a value is missing, NaN or infinite.
            PairsError: The table lacks an input, or its p_T or constituents are of another kind.
        """
        features, reco, identity = flat_jets(self.card.features, features, reco, event)
        return self._predicted(features, reco, identity)

    def _predicted(self, features: Rows, reco: np.ndarray, identity: Callable[[], np.ndarray]) -> Prediction:
        """The prediction of checked inputs."""
        columns = self._columns(features, reco)
        return Prediction(
            mean=columns["pt_calib"],
            sigma_stoch=columns.get("pt_calib_sigma_stoch"),
            sigma_pred=columns.get("pt_calib_sigma_pred"),
            in_range=columns["pt_calib_in_range"],
            components=self.components(features, reco),
            belt=self.belt(features, reco),
            by_network=self._by_network(features, reco),
            identity=identity,
        )

    def _by_network(self, features: Rows, reco: np.ndarray) -> Callable[[Jets], np.ndarray] | None:
        """Predictions (draws, jets) of some of the jets by every network, where there is no density of the truth."""
        if not self.replicas or self.components(features, reco) is not None:
            return None
        return OfJets(self._replicas, features, reco)

    def _replicas(self, features: Rows, reco: np.ndarray) -> np.ndarray:
        """Predictions (draws, jets) [GeV] by every network."""
        return self._columns(features, reco, replicas=True)[REPLICAS].T

    def belt(
        self,
        features: Rows,  # noqa: ARG002
        reco: np.ndarray,  # noqa: ARG002
    ) -> Callable[[float], tuple[np.ndarray, np.ndarray]] | None:
        """Confidence intervals of the true p_T by a Neyman belt; None if the method has none of its own.

        Args:
            features: Untransformed inputs in the order of ``card.features``, float32 of shape (n, d).
            reco: Detector-level p_T [GeV], float32 of shape (n,).

        Returns:
            Computes lower and upper ends [GeV], shape (n,) each, from a probability.
        """
        return None

    def components(self, features: Rows, reco: np.ndarray) -> Callable[[Jets], Distribution] | None:  # noqa: ARG002
        """Predictive distributions of the true p_T; None if the method has none.

        Args:
            features: As for :meth:`belt`.
            reco: As for :meth:`belt`.

        Returns:
            Computes those of some of the jets [GeV], one per network and jet.
        """
        return None

    def pt_by_network(self, inputs: torch.Tensor, pt: np.ndarray) -> np.ndarray:
        """Calibrated p_T [GeV] of one block by every network, shape (networks, jets); one row without replicas.

        Args:
            inputs: Standardised inputs (1 + d, jets), ln p_T first, as :attr:`inputs` gives them.
            pt: Detector-level p_T [GeV], float64 of shape (jets,).
        """
        found = self._evaluate(inputs, pt, replicas=bool(self.replicas))
        return found[REPLICAS].T if self.replicas else found["pt_calib"][None]

    def part(self, name: str, method: str) -> Calibrator:
        """A calibrator that this one is made of, such as a summary, on the same device.

        Args:
            name: Of the part in the card, and of its tensors in front of a dot.
            method: That it must be of.

        Raises:
            CalibratorFileError: The card has no such part, or its tensors do not fit.
        """
        card = self.card.parts.get(name)
        if card is None or card.method != method:
            raise CalibratorFileError(f"the card has no {name!r} training of the method {method!r}")
        shared = {k: v for k, v in self.tensors.items() if k.startswith("input_")}
        # A part may standardise the inputs in a way of its own.
        own = {k.removeprefix(f"{name}."): v for k, v in self.tensors.items() if k.startswith(f"{name}.")}
        return calibrator_of(method)(card, {**shared, **own}, str(self.device))

    def _judged(self, inputs: torch.Tensor, pt: np.ndarray, truth: np.ndarray, *, replicas: bool) -> dict[str, Any]:
        """As :meth:`_evaluate`, with :data:`COVERED` for the truth (jets,) [GeV]; for :attr:`judges` only."""
        raise NotImplementedError

    @abstractmethod
    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        """Columns [GeV] of one block.

        Args:
            inputs: Standardised inputs (1 + d, jets), ln p_T first.
            pt: Detector-level p_T [GeV], float64 of shape (jets,).
            replicas: Also give :data:`REPLICAS`, shape (jets, replicas).

        Returns:
            ``pt_calib`` and :attr:`sigmas`, shape (jets,), maybe :attr:`beside`, and nothing else but
            ``pt_calib_in_range``, bool, where it is not only the inputs that decide.
        """

    def _columns(
        self, features: Rows, reco: np.ndarray, *, replicas: bool = False, more: tuple[str, ...] = (),
        truth: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """The columns of :attr:`columns` for flat jets; ``more``, :data:`REPLICAS`; :data:`COVERED` with a truth."""
        names = (*self.columns, *more)
        columns = {name: np.empty(len(reco), dtype=bool if name.endswith("in_range") else np.float32) for name in names}
        if replicas:
            columns[REPLICAS] = np.empty((len(reco), self.replicas), dtype=np.float32)

        def work(part: slice, block: torch.Tensor) -> None:
            inputs, pt = self.inputs(block), block[0].double().numpy()
            if truth is not None and self.judges:
                found = self._judged(inputs, pt, padded(truth, part, len(pt)), replicas=replicas)
            else:
                found = self._evaluate(inputs, pt, replicas=replicas)
            self._require_columns(found, columns, len(pt))
            found.setdefault("pt_calib_in_range", self.inputs.inside(inputs).numpy())
            for name, column in columns.items():
                column[part] = found[name][: part.stop - part.start]

        if inside := truth is not None and self.judges:
            columns[COVERED] = np.empty(len(reco), dtype=bool)
        self._map(work, features, reco)
        refuse_overflow(columns)
        if truth is not None and not inside:
            columns[COVERED] = covered(self, features, reco, truth)
        return columns

    def _require_columns(self, found: Any, wanted: Mapping[str, np.ndarray], jets: int) -> None:
        """Refuse an evaluation that is not what the method declares, before it is broadcast or left out.

        Raises:
            HepcalError: A column is missing, of another shape than (jets,), or declared nowhere.
        """
        method = f"the method {self.card.method!r}{owner(self.card.method)}"
        if not isinstance(found, dict):
            raise HepcalError(f"{method} evaluates to {type(found).__name__}, not to columns by name")
        for name in wanted:
            if name not in found and name != "pt_calib_in_range":
                raise HepcalError(f"{method} declares the column {name!r} and does not evaluate it")
            shape = np.shape(found.get(name, wanted[name][:1]))
            if name in found and (not shape or shape[0] != jets or len(shape) != wanted[name].ndim):
                raise HepcalError(f"{method} evaluates {name!r} of {jets} jets to the shape {shape}")
        for name in found.keys() - wanted.keys():
            if name not in {"pt_calib_in_range", REPLICAS, COVERED, *self.beside}:
                raise HepcalError(f"{method} evaluates {name!r}, which its uncertainties do not declare")
        if (inside := found.get("pt_calib_in_range")) is not None and inside.dtype != bool:
            raise HepcalError(f"{method} evaluates 'pt_calib_in_range' to {inside.dtype}, not to booleans")

    def _map(self, work: Callable[[slice, torch.Tensor], None], features: Rows, reco: np.ndarray) -> None:
        """All blocks of the jets, on all cores that this process may use, or on the device."""
        map_blocks(work, features, reco, jets=self.block, workers=None if self.device.type == "cpu" else 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the attached columns."""
        return ("pt_calib", *self.sigmas, "pt_calib_in_range")

    @property
    def uncertainties(self) -> tuple[str, ...]:
        """Shift-type systematics: records with ``up`` and ``down`` jet collections."""
        return tuple(shift for size, shift in SHIFTS.items() if size in self.sigmas)

    @property
    def uses(self) -> tuple[str, ...]:
        """Jet fields that are read."""
        return self.card.features.jet_fields

    def reco(self, jets: ak.Array) -> ak.Array:
        """Detector-level p_T [GeV] that the calibration starts from, in the layout of ``jets``."""
        return detector_pt(jets, self.card.features.pt or "pt")

    def __call__(
        self,
        jets: ak.Array,
        event: ak.Array | None = None,
        *,
        replace: bool = False,
        replicas: bool = False,
        truth: ak.Array | None = None,
        prefix: str = "",
    ) -> ak.Array:
        """Attach the calibration to jets, lazily.

        Before or after a jet energy correction, the same jet gets the same numbers: raw p_T is read from ``pt_raw`` or
        ``pt_orig`` where a correction left them, else from ``pt (1 - rawFactor)``, and what cannot be known is refused
        (:mod:`hepcal.events.raw_momentum`). After ``replace=True``, and in every shifted collection, ``pt_raw`` is
        there for coffea's ``CorrectedJetsFactory`` (``ptRaw``) and Type-1 MET, and ``pt (1 - rawFactor)`` is raw p_T.
        Variations that a correction attached before, such as ``JES_Total``, stay as they are: calibrate them one by
        one.

        Args:
            jets: Detector-level jets, ``events * var * Jet`` or ``events * Jet``; missing ones are allowed.
            event: The events, for calibrators with event-level inputs such as ``event_rho``, and for constituents of
                Delphes jets.
            replace: Also set ``pt`` to ``pt_calib``, scale ``mass`` alike, and keep ``pt_orig`` and ``mass_orig``. Of
                NanoAOD jets, update ``rawFactor``, and keep ``rawFactor_orig``, ``pt_raw`` and ``mass_raw``.
            replicas: Also attach ``pt_calib_replicas``, the p_T [GeV] by every weight draw or ensemble member, a list
                of :attr:`replicas` numbers per jet. Replica k of all jets of all events is one network: the spread
                of an observable computed per replica is its statistical error, correlations between jets included.
            prefix: Put before the names of columns and records, so that several calibrators stand side by side:
                ``"bnn_"`` gives ``bnn_pt_calib`` and ``bnn_calib_pred``.
            truth: True p_T [GeV] of the jets, in their layout, of simulation: also attach ``pt_calib_covered``, whether
                it lies in the central 68.27 % interval of its prediction (:mod:`hepcal.methods.interval_coverage`).

        Returns:
            The jets with the fields :attr:`columns` (GeV, float32; ``pt_calib_in_range`` bool) and one record per
            name in :attr:`uncertainties`. The jets in such a record carry what ``replace`` keeps.

        Raises:
            MissingFieldError: The jets lack a field in :attr:`uses`; raised at once.
            SchemaError: The jets are of another layout than those of the training, or their raw p_T cannot be known;
                raised at once.
            HepcalError: The jets have columns of these names, the events are not theirs, or the method has no
                replicas; raised at once.
            UncomputedArrayError: They are arrays of dask-awkward: ``dask_awkward.map_partitions(calibrator, jets)``.
            NonFiniteFeatureError: A feature is NaN or infinite, or a jet has no constituents and the calibrator uses
                them; raised when a column is first read.
        """
        refuse_dask_awkward(jets, event, truth)
        flat = FlatJets(jets)
        if ak.backend(jets) == "typetracer":
            options = partial(self, replace=replace, replicas=replicas, prefix=prefix)
            return type_of_attached(options, jets, event=event, truth=truth)
        refuse_taken(jets, (f"{prefix}pt_calib", *(prefix + shift for shift in SHIFTS.values())))
        refuse_foreign(jets, self.card)
        self.card.features.require(jets, event)
        if event is not None and len(event) != len(jets):
            raise HepcalError(f"{len(jets)} lists of jets but {len(event)} events: pass the events of these jets")
        if replicas and not self.replicas:
            raise HepcalError(f"the method {self.card.method!r} is a single network: it has no replicas")
        if truth is not None and not has_interval(self):
            raise HepcalError(f"the method {self.card.method!r} has no interval that could cover a truth")
        true_pt = None if truth is None else flat.flattened(truth)

        def evaluate() -> dict[str, np.ndarray]:
            index = None if event is None else flat.event_index
            return self._columns(*self.card.features.table(flat.flat, event, index), replicas=replicas, truth=true_pt)

        shifts = {shift: size for size, shift in SHIFTS.items() if shift in self.uncertainties}
        count = self.replicas if replicas else 0
        covered = truth is not None
        return attach(
            flat, evaluate, self.columns, shifts, replicas=count, covered=covered, replace=replace, prefix=prefix
        )

    def __repr__(self) -> str:
        card = self.card
        inputs = f"ln(pt), {card.features.listed}"
        return f"<{type(self).__name__}: {card.method}, {card.source.jets} training jets, inputs {inputs}>"

    # -- as data ------------------------------------------------------------------------------------------------

    @staticmethod
    def load(path: str | Path, device: str = "cpu") -> Calibrator:
        """Open a calibrator file. No code in it is ever executed.

        Args:
            path: File written by :meth:`save`.
            device: ``cpu``, ``cuda`` ...

        Raises:
            CalibratorFileError: The file is missing, damaged (its content does not match its hash), or not a
                calibrator.
        """
        content = Calibrator.read(path)
        return _shared(content, digest(content), device, where=str(path))

    @staticmethod
    def from_content(
        content: bytes, device: str = "cpu", inference: Inference = "draws", where: str = "the calibrator"
    ) -> Calibrator:
        """A calibrator from :attr:`content`, of the class that its method names.

        Args:
            content: Of the file.
            device: ``cpu``, ``cuda`` ...
            inference: See :meth:`with_inference`.
            where: What messages call the file.

        Raises:
            CalibratorFileError: It is damaged, no calibrator, of another version, or of an unknown method.
        """
        text, entries, tensors = Calibrator.parsed(content, where)
        if (kind := entries.get("kind", Calibrator.noun)) != Calibrator.noun:
            raise CalibratorFileError(f"{where} is no calibrator but a {kind}: open it with hepcal.tagging.Tagger.load")
        if (version := entries.get("version")) != CARD_VERSION:
            raise CalibratorFileError(
                f"{where} is a calibrator file of version {version}; this hepcal reads version {CARD_VERSION}. "
                "Train it again, or use the hepcal that wrote it"
            )
        with Calibrator.fitting(where):
            card = Card.model_validate_json(text)
            calibrator = _class_of(card)(card, tensors, device, inference)
        calibrator.content = content
        return calibrator

    def to(self, device: str) -> Calibrator:
        """The same calibrator on another device."""
        return self._again(device, self.inference)

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
        return self._again(str(self.device), inference)

    def _again(self, device: str, inference: Inference) -> Calibrator:
        """The same calibrator, with the same file."""
        other = type(self)(self.card, self.tensors, device, inference)
        other.content = self.content
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        # Travels as its file's bytes: no path has to exist on a worker, and each process builds it once.
        return _shared, (self.content, self.sha256, str(self.device), self.inference)


def _class_of(card: Card) -> type[Calibrator]:
    try:
        return calibrator_of(card.method)
    except UnknownMethodError as error:
        raise CalibratorFileError(
            f"unknown method {card.method!r}; here are {', '.join(places())}. A method of another distribution needs "
            "that installed"
        ) from error


def _shared(
    content: bytes,
    sha256: str,
    device: str,
    inference: Inference = "draws",
    where: str = "a calibrator sent to this worker",
) -> Calibrator:
    """The calibrator with this content, one for all of the process.

    Raises:
        CalibratorFileError: The content does not match its hash, is damaged, or names an unknown method.
    """

    def build() -> Calibrator:
        if digest(content) != sha256:
            raise CalibratorFileError(f"{where} does not match its hash {sha256[:12]}: it was changed or damaged")
        return Calibrator.from_content(content, device, inference, where)

    return cache.get(sha256, device, inference, build)
