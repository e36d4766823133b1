"""Labels with errors: the same method trained on labels as they are and on smeared ones, for sigma_cal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, SerializeAsAny, field_serializer, field_validator, model_validator

from hepcal.arrays import numbers
from hepcal.distributions import Distribution, Jets
from hepcal.distributions.prediction import Prediction
from hepcal.distributions.uncertainties import combine_draws, in_quadrature, signed_root
from hepcal.errors import CalibratorFileError
from hepcal.events.columns import REPLICAS
from hepcal.events.features import Features
from hepcal.methods.base import SIGMA_PRED, SIGMA_STOCH, SIGMA_TOT, Method
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Quantity
from hepcal.methods.hessian.calibrator import Hessian
from hepcal.methods.registry import is_regression, method_of, regressions
from hepcal.methods.regression.bnn import BNN
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.methods.regression.paired import paired
from hepcal.methods.regression.settings import DensityMethod
from hepcal.tables.rows import Rows

__all__ = ["BASELINE", "SMEARED", "CalibrationWidth", "NoisyLabels", "NoisyLabelsCalibrator"]

SIGMA_CAL, SIGMA_SCALE = (f"pt_calib_sigma_{kind}" for kind in ("cal", "scale"))
BASELINE, SMEARED = "baseline", "smeared"
# What a prediction has beside the columns.
SQUARED, SQUARED_ERROR = "sigma_cal_squared", "sigma_cal_squared_error"
BASELINE_MEAN, BASELINE_PRED = "baseline_mean", "baseline_sigma_pred"


class NoisyLabels(Method):
    """A regression on labels with errors and on labels without, for sigma_cal.

    What the errors of the references of a calibration sample add to every jet (arXiv:2003.11099, Sec. 5). The method is
    trained twice: a baseline on the labels of the table, and a second time on labels smeared by their errors, with the
    same seed, split, order of jets and random numbers, so that fluctuations cancel in the difference sigma_cal² =
    sigma_stoch² - sigma_stoch,0² (Eq. 19). That is a difference of large numbers: for a small smearing it may come out
    negative, which is kept (``Prediction.sigma_cal_squared``), and ``pt_calib_sigma_cal`` is NaN.

    Only errors that are independent from jet to jet show in a width. An error common to all labels moves ``pt_calib``
    and no sigma, whatever is trained: give it as ``common``, a scale nuisance beside the sigmas.

    ``pt_calib`` and its density are those of the training on smeared labels: the density contains the label noise.

    Attributes:
        method: What is trained: BNN, Ensemble, Hessian, Heteroscedastic or Dropout. ``validation`` is its, too. The
            replicas of Hessian have the width of its network: sigma_cal has no error of its own then.
        fraction: Relative error of all labels, so that label = truth (1 + fraction xi) (Eq. 18); None: the table's
            ``truth_error`` per jet.
        fresh: Draw new labels for every batch instead of fixed ones. The labels of a real sample are fixed; fresh ones
            give the same sigma_stoch for many jets, and a smaller sigma_pred.
        common: Relative error of the reference common to all jets. It becomes the column ``pt_calib_sigma_scale``
            [GeV] and the shift-type systematic ``calib_cal``, and is not part of sigma_tot.
    """

    name: ClassVar[str] = "noisy_labels"
    learner: ClassVar[str] = "hepcal.methods.noisy_labels.learning:learn"
    calibrator: ClassVar[str] = "hepcal.methods.noisy_labels.calibrator:NoisyLabelsCalibrator"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH, SIGMA_PRED, SIGMA_CAL, SIGMA_TOT)
    follows_prior: ClassVar[bool] = True
    can_collapse: ClassVar[bool] = True
    resumes: ClassVar[bool] = True

    method: SerializeAsAny[DensityMethod] = BNN()
    fraction: Annotated[float, Field(ge=0, lt=1)] | None = None
    fresh: bool = False
    common: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __init__(self, method: DensityMethod | dict[str, Any] | None = None, /, **settings: Any) -> None:
        # The method reads best in front: NoisyLabels(BNN(), fraction=0.04).
        if method is not None:
            if "method" in settings:
                raise TypeError("NoisyLabels got the method twice, in front and by its name")
            settings["method"] = method
        super().__init__(**settings)

    @field_validator("method", mode="before")
    @classmethod
    def _named(cls, method: Any) -> Any:
        """From a mapping with the name of the method, as in a card or a configuration file."""
        if not isinstance(method, dict):
            return method
        settings = dict(method)
        name = settings.pop("method", None)
        if not is_regression(name, DensityMethod):
            known = ", ".join(regressions(DensityMethod))
            raise ValueError(f"noisy labels need 'method', one of {known}; found {name!r}")
        return method_of(name).model_validate(settings)

    @field_validator("method")
    @classmethod
    def _paired(cls, method: DensityMethod) -> DensityMethod:
        # Its error is found from each of two networks, with the same random numbers.
        return method if isinstance(method, Hessian) else paired(method, "a pair of trainings")

    @field_serializer("method")
    def _with_name(self, method: DensityMethod) -> dict[str, Any]:
        return {"method": method.name, **method.model_dump(mode="json")}

    @model_validator(mode="before")
    @classmethod
    def _one_validation(cls, settings: Any) -> Any:
        """The share of held-out events is that of the method."""
        if not isinstance(settings, dict) or "validation" in settings:
            return settings
        method = settings.get("method")
        found = method.get("validation") if isinstance(method, dict) else getattr(method, "validation", None)
        return settings if found is None else {**settings, "validation": found}

    @model_validator(mode="after")
    def _fitting(self) -> NoisyLabels:
        if not is_regression(self.method.name, DensityMethod):
            known = ", ".join(regressions(DensityMethod))
            raise ValueError(f"noisy labels need one of {known}, found {self.method.name!r}")
        if self.validation != self.method.validation:
            raise ValueError(f"validation is {self.validation} here and {self.method.validation} in the method")
        return self

    @property
    def promised(self) -> Quantity:
        """See :attr:`Method.promised`: that of the method."""
        return self.method.promised

    def keeps(self, spec: Features) -> Features:
        """See :meth:`Method.keeps`: those of the method."""
        return self.method.keeps(spec)

    @property
    def sigmas(self) -> tuple[str, ...]:
        """Columns of uncertainties that come with these settings."""
        pred = (SIGMA_PRED,) if SIGMA_PRED in self.method.uncertainties else ()
        return (SIGMA_STOCH, *pred, SIGMA_CAL, SIGMA_TOT, *((SIGMA_SCALE,) if self.common else ()))


class NoisyLabelsCalibrator(Calibrator):
    """Two trained sets of networks: on the labels as they are, and on smeared ones.

    Draw k of one belongs to draw k of the other: they come from the same random numbers.
    """

    method = NoisyLabels
    sigmas = NoisyLabels.uncertainties
    beside = (SQUARED, SQUARED_ERROR, BASELINE_MEAN, BASELINE_PRED)

    def _prepare(self) -> None:
        settings = NoisyLabels.model_validate(self.card.settings)
        self.sigmas, self._common = settings.sigmas, settings.common
        self.baseline, self.smeared = (self._networks_of(name, settings.method.name) for name in (BASELINE, SMEARED))
        self.block = min(self.baseline.block, self.smeared.block)
        self.replicas = self.smeared.replicas
        self._width_errors = bool(self.replicas) and self.smeared.widths_vary

    def _networks_of(self, name: str, method: str) -> NetworkCalibrator:
        """One of the two trainings as a calibrator."""
        part = self.part(name, method)
        if not isinstance(part, NetworkCalibrator):
            raise CalibratorFileError(f"the {name!r} training is of the method {method!r}, which has no networks")
        return part

    def _predicted(self, features: Rows, reco: np.ndarray, identity: Callable[[], np.ndarray]) -> Prediction:
        """As of any calibrator, with the signed sigma_cal², its error, and the prediction of the baseline."""
        more = (SQUARED, BASELINE_MEAN, *((BASELINE_PRED,) if self.replicas else ()))
        more += (SQUARED_ERROR,) if self._width_errors else ()
        columns = self._columns(features, reco, more=more)
        inside, stoch = columns["pt_calib_in_range"], columns[SIGMA_STOCH]
        return Prediction(
            mean=columns["pt_calib"],
            sigma_stoch=stoch,
            sigma_pred=columns.get(SIGMA_PRED),
            in_range=inside,
            components=self.components(features, reco),
            sigma_cal_squared=columns[SQUARED],
            sigma_cal_squared_error=columns.get(SQUARED_ERROR),
            baseline=Prediction(
                mean=columns[BASELINE_MEAN],
                sigma_stoch=stoch,
                sigma_pred=columns.get(BASELINE_PRED),
                in_range=inside,
                components=self.baseline.components(features, reco),
                identity=identity,
            ),
            identity=identity,
        )

    def components(self, features: Rows, reco: np.ndarray) -> Callable[[Jets], Distribution] | None:
        """See :meth:`Calibrator.components`: those of the training on smeared labels."""
        return self.smeared.components(features, reco)

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        """Columns [GeV], and what a prediction has beside them [GeV, GeV²]; all variances in float64."""
        trainings = (self.smeared, self.baseline)
        (mean, variance), (mean_0, variance_0) = (part.moments_by_network(inputs, pt) for part in trainings)
        # What is stored is what is added up.
        stoch = np.sqrt(variance_0.mean(axis=0)).astype(np.float32)
        squared = (variance.mean(axis=0) - variance_0.mean(axis=0)).astype(np.float32)
        found = {
            "pt_calib": mean.mean(axis=0),
            SIGMA_STOCH: stoch,
            SIGMA_CAL: signed_root(squared),
            **({SIGMA_SCALE: self._common * np.abs(mean.mean(axis=0))} if self._common else {}),
            SQUARED: squared,
            BASELINE_MEAN: mean_0.mean(axis=0),
        }
        if not self.replicas:
            return {**found, SIGMA_TOT: in_quadrature(stoch, signed=squared)}
        pred, pred_0 = (
            combine_draws(means, np.sqrt(variances))[2].astype(np.float32)
            for means, variances in ((mean, variance), (mean_0, variance_0))
        )
        found |= {SIGMA_PRED: pred, BASELINE_PRED: pred_0}
        found |= {SIGMA_TOT: in_quadrature(stoch, pred, signed=squared)}
        if self._width_errors:
            found |= {SQUARED_ERROR: (variance - variance_0).std(axis=0, ddof=1)}
        return found | ({REPLICAS: mean.T} if replicas else {})


@dataclass(frozen=True, slots=True)
class CalibrationWidth:
    """sigma_cal of a selection of jets, such as a slice in p_T (arXiv:2003.11099, Eq. 19 and Fig. 10).

    Attributes:
        sigma_stoch: Root of the mean sigma_stoch² of the training on smeared labels [GeV].
        sigma_stoch_error: Its error [GeV]; NaN if unknown.
        sigma_stoch_0: That of the baseline [GeV].
        sigma_stoch_0_error: Its error [GeV].
        squared_error: Error of sigma_cal² [GeV²].
    """

    sigma_stoch: float
    sigma_stoch_error: float
    sigma_stoch_0: float
    sigma_stoch_0_error: float
    squared_error: float

    @classmethod
    def of(cls, prediction: Prediction, weight: np.ndarray | None = None) -> CalibrationWidth:
        """From a prediction of the jets of the selection, by :meth:`NoisyLabelsCalibrator.predict`.

        Errors are spreads over the draws of the means over the jets, of the paired difference for sigma_cal²; NaN for
        single networks, of which draws, if any, differ in their means alone. Jets share the draws, so more jets do not
        make them smaller. See ``sigma_cal_squared_error`` of :class:`~hepcal.distributions.prediction.Prediction` for
        what they are; the spread of repeated trainings, with :meth:`from_widths`, is the reference.

        Args:
            prediction: Of at least one jet.
            weight: Of the jets, shape (n,), of either sign; default one.

        Raises:
            ValueError: The prediction has no baseline, or the weights do not sum to a positive number.
        """
        if prediction.baseline is None:
            raise ValueError("sigma_cal needs a baseline: predict with a calibrator of hepcal.NoisyLabels")
        weight = np.ones(len(prediction)) if weight is None else numbers("weight", weight)
        if not weight.sum() > 0:
            raise ValueError(f"the weights of {len(weight)} jets sum to {weight.sum():g}")
        squares = [
            sum(found.variances() @ weight[jets] for jets, found in part.parts()) / weight.sum()
            for part in (prediction, prediction.baseline)
        ]
        if prediction.sigma_cal_squared_error is None:
            squares = [each.mean(keepdims=True) for each in squares]
        widths = [(float(np.sqrt(each.mean())), _spread(each)) for each in squares]
        (sigma, error), (sigma_0, error_0) = ((width, spread / (2 * width)) for width, spread in widths)
        return cls(sigma, error, sigma_0, error_0, _spread(squares[0] - squares[1]))

    @classmethod
    def from_widths(cls, sigma_stoch: tuple[float, float], sigma_stoch_0: tuple[float, float]) -> CalibrationWidth:
        """From two widths [GeV] with independent errors, e.g. means and their errors over repeated trainings.

        The error is that of error propagation, delta sigma_cal = sqrt((sigma_stoch delta sigma_stoch)² + (sigma_stoch,0
        delta sigma_stoch,0)²) / sigma_cal: where sigma_stoch,0 is twice the smearing, an error of 1 % on both widths
        is one of 6 % on sigma_cal.
        """
        parts = [width * error for width, error in (sigma_stoch, sigma_stoch_0)]
        return cls(*sigma_stoch, *sigma_stoch_0, 2 * math.hypot(*parts))

    @property
    def squared(self) -> float:
        """sigma_cal² with its sign [GeV²]."""
        return self.sigma_stoch**2 - self.sigma_stoch_0**2

    @property
    def sigma_cal(self) -> float:
        """Its root [GeV]; NaN where it is negative."""
        return float(signed_root(np.array(self.squared)))

    @property
    def error(self) -> float:
        """Error of sigma_cal [GeV] by that of its square; NaN where the square is not positive."""
        return self.squared_error / (2 * self.sigma_cal) if self.squared > 0 else float("nan")


def _spread(values: np.ndarray) -> float:
    """Standard deviation with S - 1; NaN for a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
