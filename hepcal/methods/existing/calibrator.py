"""Corrections that are in the files already, as calibrators: the p_T as it is, and regressions stored as columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from hepcal.errors import CalibratorFileError, HepcalError, TrainingError
from hepcal.events.features import Feature, Features
from hepcal.methods.base import SIGMA_STOCH, Method
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Card, Quantity, SourceCard
from hepcal.methods.refusals import refuse_overflow
from hepcal.tables.rows import Rows

__all__ = ["Column", "ColumnCalibrator", "ExistingColumn", "Identity", "IdentityCalibrator", "Unchanged", "learn"]

Base = Literal["pt", "raw"]
Factors = tuple[Annotated[str, Field(min_length=1)], ...]
SOURCE = SourceCard(schema_name="", files=(), sha256="", jets=0, n_eff=0.0, validation_jets=0, seed=0)


def learn(task: Any) -> Any:
    """There is nothing to learn.

    Raises:
        TrainingError: Always.
    """
    raise TrainingError(
        f"{task.method.name!r} exists and is not trained: hepcal.Identity() and hepcal.Column(...) are calibrators"
    )


class _Existing(Method, ABC):
    """Settings of a calibration that exists."""

    learner: ClassVar[str] = "hepcal.methods.existing.calibrator:learn"

    of: Base

    @property
    @abstractmethod
    def fields(self) -> tuple[str, ...]:
        """Columns that it reads beside the p_T."""

    @property
    def formula(self) -> str:
        """What ``pt_calib`` is, for people."""
        return "pt (1 - rawFactor)" if self.of == "raw" else "pt"


class Unchanged(_Existing):
    """The p_T of the file, or the raw one, as it is: settings of :func:`Identity`."""

    name: ClassVar[str] = "identity"
    calibrator: ClassVar[str] = "hepcal.methods.existing.calibrator:IdentityCalibrator"
    follows_prior: ClassVar[bool] = False

    @property
    def fields(self) -> tuple[str, ...]:
        """None."""
        return ()


class ExistingColumn(_Existing):
    """A regression whose factor on p_T is a column of the file: settings of :func:`Column`.

    Whether it follows the truth spectrum of its training is not known, so that it is taken to do.
    """

    name: ClassVar[str] = "column"
    calibrator: ClassVar[str] = "hepcal.methods.existing.calibrator:ColumnCalibrator"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH,)
    follows_prior: ClassVar[bool] = True

    factor: Factors
    sigma: str | None = None
    tag: str | None = None
    working_point: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    tagged: Factors = ()

    @model_validator(mode="after")
    def _fitting(self) -> ExistingColumn:
        if not self.factor:
            raise ValueError("a column needs the name of its factor, such as 'PNetRegPtRawCorr'")
        if (self.tag is None) != (not self.tagged):
            raise ValueError("the factors of tagged jets need the column of a tagger, and the other way round")
        if {"pt", "rawFactor"} & {*self.fields}:
            raise ValueError("p_T and rawFactor are no corrections: say of='raw' or of='pt'")
        return self

    @property
    def formula(self) -> str:
        """See :attr:`_Existing.formula`."""
        plain = " ".join((super().formula, *self.factor))
        other = f", {' '.join(self.tagged)} where {self.tag} > {self.working_point:g}"
        return plain if self.tag is None else plain + other

    @property
    def fields(self) -> tuple[str, ...]:
        """Factors, width, tagger, and factors of tagged jets."""
        chosen = (*self.factor, self.sigma, self.tag, *self.tagged)
        return tuple(dict.fromkeys(name for name in chosen if name is not None))


class _ExistingCalibrator(Calibrator, ABC):
    """A calibrator without a training: a formula of the p_T and columns, in float64, rounded once."""

    trained = False
    settings: _Existing

    def _prepare(self) -> None:
        settings = self.method.model_validate(self.card.settings)
        if not isinstance(settings, _Existing) or self.card.features != _features(settings):
            raise CalibratorFileError("the inputs of the card are not those of its settings")
        self.settings = settings

    @abstractmethod
    def _of(self, columns: Mapping[str, np.ndarray], pt: np.ndarray) -> dict[str, np.ndarray]:
        """Columns [GeV] from those of the file and p_T [GeV], float64."""

    def _columns(
        self, features: Rows, reco: np.ndarray, *, replicas: bool = False, more: tuple[str, ...] = (),
        truth: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        if replicas or more or truth is not None:
            raise HepcalError(f"the method {self.card.method!r} has neither replicas nor intervals")
        given = {name: np.asarray(features[:, i], dtype=np.float64) for i, name in enumerate(self.settings.fields)}
        found = self._of(given, np.asarray(reco, dtype=np.float64))
        positive = found["pt_calib"] > 0
        columns: dict[str, np.ndarray] = {name: found[name].astype(np.float32) for name in ("pt_calib", *self.sigmas)}
        columns["pt_calib_in_range"] = positive
        refuse_overflow(columns)
        return columns

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.settings.formula}>"

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        """Never asked: standardised inputs would round what a file has exactly.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError


class IdentityCalibrator(_ExistingCalibrator):
    """p_T as it is: what every other calibration is compared with."""

    method = Unchanged

    def _of(self, columns: Mapping[str, np.ndarray], pt: np.ndarray) -> dict[str, np.ndarray]:  # noqa: ARG002
        return {"pt_calib": pt}


class ColumnCalibrator(_ExistingCalibrator):
    """A factor on p_T from columns of the file."""

    method = ExistingColumn
    settings: ExistingColumn

    def _prepare(self) -> None:
        super()._prepare()
        self.sigmas = (SIGMA_STOCH,) if self.settings.sigma else ()

    def _of(self, columns: Mapping[str, np.ndarray], pt: np.ndarray) -> dict[str, np.ndarray]:
        settings = self.settings
        factor = np.prod([columns[name] for name in settings.factor], axis=0)
        if settings.tag is not None:
            other = np.prod([columns[name] for name in settings.tagged], axis=0)
            factor = np.where(columns[settings.tag] > settings.working_point, other, factor)
        found = {"pt_calib": pt * factor}
        return found | ({SIGMA_STOCH: pt * np.abs(columns[settings.sigma])} if settings.sigma else {})


def Identity(*, of: Base = "pt") -> IdentityCalibrator:  # noqa: N802 - it makes a calibrator, as Column does
    """The p_T as it is, as a calibrator: ``pt_calib`` is that of the file, or the raw one.

    Args:
        of: ``pt``, the p_T of the file with the corrections in it, or ``raw``, ``pt (1 - rawFactor)``.
    """
    return IdentityCalibrator(*_parts(Unchanged(of=of)))


def Column(  # noqa: N802
    factor: str | Sequence[str],
    *,
    of: Base = "raw",
    sigma: str | None = None,
    tagged: tuple[str, float, str | Sequence[str]] | None = None,
    quantity: Quantity = "mean",
) -> ColumnCalibrator:
    """A regression that is stored in the files, as a calibrator.

    ``pt_calib`` is p_T times a column, such as ``PNetRegPtRawCorr`` of NanoAOD, and ``pt_calib_sigma_stoch`` p_T times
    another, such as ``PNetRegPtRawRes``, half of the central 68 % of the predicted ratio. Of tagged jets, CMS takes the
    neutrinos into the correction, too::

        pnet = hepcal.Column("PNetRegPtRawCorr", sigma="PNetRegPtRawRes")
        with_neutrinos = ("PNetRegPtRawCorr", "PNetRegPtRawCorrNeutrino")
        pnet_b = hepcal.Column("PNetRegPtRawCorr", tagged=("btagPNetB", 0.245, with_neutrinos))

    Jets whose factor is not positive (outside of what the regression was made for) are out of range.

    Args:
        factor: Field of the jets, or several that are multiplied.
        of: The p_T that they multiply: ``raw``, ``pt (1 - rawFactor)``, or ``pt``, that of the file.
        sigma: Field with the width of the ratio; default: none, and no column of it.
        tagged: Field of a tagger, a working point, and the factors of jets above it.
        quantity: What the regression promises: ``mean``, ``median`` or ``mode``.

    Raises:
        pydantic.ValidationError: A name is empty, or is that of a p_T.
    """
    settings: dict[str, Any] = {"factor": _names(factor), "of": of, "sigma": sigma}
    if tagged is not None:
        tag, working_point, factors = tagged
        settings |= {"tag": tag, "working_point": working_point, "tagged": _names(factors)}
    return ColumnCalibrator(*_parts(ExistingColumn.model_validate(settings), quantity))


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _features(settings: _Existing) -> Features:
    return Features(inputs=tuple(Feature(name=name) for name in settings.fields), pt=settings.of)


def _parts(settings: _Existing, quantity: Quantity = "mean") -> tuple[Card, dict[str, torch.Tensor]]:
    """Card and tensors: the inputs are not standardised, and have no range."""
    spec = _features(settings)
    card = Card(
        method=settings.name, quantity=quantity, settings=settings.model_dump(mode="json", exclude={"validation"}),
        features=spec,
        target_location=0.0, target_scale=1.0, source=SOURCE, figures={}, history=(), versions=Card.software(),
    )  # fmt: skip
    wide = torch.finfo(torch.float32).max
    values = {"mean": 0.0, "scale": 1.0, "low": -wide, "high": wide}
    tensors = {
        f"input_{part}": torch.full((1 + spec.width,), value, dtype=torch.float32, device="cpu")
        for part, value in values.items()
    }
    return card, tensors
