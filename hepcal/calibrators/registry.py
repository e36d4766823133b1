"""Methods and calibrators by name."""

from __future__ import annotations

from hepcal.calibrators.base import Calibrator
from hepcal.calibrators.bnn import BNN, BNNCalibrator
from hepcal.calibrators.method import Method
from hepcal.calibrators.mse import MSE, MSECalibrator

__all__ = ["CALIBRATORS", "METHODS"]

METHODS: dict[str, type[Method]] = {"bnn": BNN, "mse": MSE}
CALIBRATORS: dict[str, type[Calibrator]] = {"bnn": BNNCalibrator, "mse": MSECalibrator}
