"""Methods and calibrators by name."""

from __future__ import annotations

from hepcal.calibrators.ansatz import AnsatzCalibrator
from hepcal.calibrators.base import Calibrator
from hepcal.calibrators.bnn import BNNCalibrator
from hepcal.calibrators.dropout import DropoutCalibrator
from hepcal.calibrators.ensemble import EnsembleCalibrator
from hepcal.calibrators.generalised import GeneralisedInversionCalibrator
from hepcal.calibrators.heteroscedastic import HeteroscedasticCalibrator
from hepcal.calibrators.inversion import NumericalInversionCalibrator
from hepcal.calibrators.likelihood import LikelihoodCalibrator
from hepcal.calibrators.method import Method
from hepcal.calibrators.mse import MSECalibrator
from hepcal.calibrators.summary import SummaryLikelihoodCalibrator
from hepcal.calibrators.transport import TransportCalibrator

__all__ = ["CALIBRATORS", "METHODS"]

CALIBRATORS: dict[str, type[Calibrator]] = {
    calibrator.method.name: calibrator
    for calibrator in (
        BNNCalibrator,
        HeteroscedasticCalibrator,
        MSECalibrator,
        DropoutCalibrator,
        EnsembleCalibrator,
        NumericalInversionCalibrator,
        GeneralisedInversionCalibrator,
        AnsatzCalibrator,
        LikelihoodCalibrator,
        SummaryLikelihoodCalibrator,
        TransportCalibrator,
    )
}
METHODS: dict[str, type[Method]] = {name: calibrator.method for name, calibrator in CALIBRATORS.items()}
