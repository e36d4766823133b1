"""Calibrations that exist already, in columns of a file or as they are: nothing is trained."""
