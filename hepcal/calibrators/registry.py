"""Methods and calibrators by name."""

from __future__ import annotations

from hepcal.calibrators.base import Calibrator
from hepcal.calibrators.bnn import BNNCalibrator
from hepcal.calibrators.dropout import DropoutCalibrator
from hepcal.calibrators.ensemble import EnsembleCalibrator
from hepcal.calibrators.heteroscedastic import HeteroscedasticCalibrator
from hepcal.calibrators.method import Method
from hepcal.calibrators.mse import MSECalibrator

__all__ = ["CALIBRATORS", "METHODS"]

CALIBRATORS: dict[str, type[Calibrator]] = {
    calibrator.method.name: calibrator
    for calibrator in (
        BNNCalibrator,
        HeteroscedasticCalibrator,
        MSECalibrator,
        DropoutCalibrator,
        EnsembleCalibrator,
    )
}
METHODS: dict[str, type[Method]] = {name: calibrator.method for name, calibrator in CALIBRATORS.items()}
