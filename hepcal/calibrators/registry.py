"""Methods and calibrators by name."""

from __future__ import annotations

from hepcal.calibrators.ansatz import AnsatzCalibrator
from hepcal.calibrators.base import Calibrator
from hepcal.calibrators.generalised import GeneralisedInversionCalibrator
from hepcal.calibrators.inversion import NumericalInversionCalibrator
from hepcal.calibrators.likelihood import LikelihoodCalibrator
from hepcal.calibrators.method import Method
from hepcal.calibrators.noisy_labels import NoisyLabelsCalibrator
from hepcal.calibrators.summary import SUMMARIES, SummaryLikelihoodCalibrator
from hepcal.calibrators.transport import TransportCalibrator

__all__ = ["CALIBRATORS", "METHODS"]

_OTHERS: tuple[type[Calibrator], ...] = (
    NumericalInversionCalibrator,
    GeneralisedInversionCalibrator,
    AnsatzCalibrator,
    LikelihoodCalibrator,
    SummaryLikelihoodCalibrator,
    NoisyLabelsCalibrator,
    TransportCalibrator,
)
CALIBRATORS: dict[str, type[Calibrator]] = {
    **SUMMARIES,
    **{calibrator.method.name: calibrator for calibrator in _OTHERS},
}
METHODS: dict[str, type[Method]] = {name: calibrator.method for name, calibrator in CALIBRATORS.items()}
