"""Trainings on labels with errors and without, for the calibration uncertainty."""
