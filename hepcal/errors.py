"""The exceptions and warnings of hepcal.

::

    HepcalError
    ├── FilesetError            a fileset is malformed, or names files that are not there
    ├── ReadError               a ROOT file cannot be read, or lacks its tree
    ├── SchemaError             no schema fits a file, or jets and schema disagree
    ├── MissingFieldError       a collection lacks a field (a branch) that is needed
    ├── NonFiniteFeatureError   NaN or infinity where a number is needed
    ├── MissingValueError       a masked or missing value in an array
    ├── PairsError              a training table cannot be built, saved or opened
    ├── TrainingError           a training cannot start, or diverged
    ├── UnknownMethodError      there is no method of this name
    ├── CalibratorFileError     a calibrator file is damaged, foreign or does not match its hash
    ├── OutputError             a file or directory cannot be written, or is something else
    ├── ExecutorError           workers cannot be started, reached or used
    └── IncompleteRunError      not every planned event was processed

Errors of one part of the package derive from :class:`HepcalError`, too, and stand beside what raises them:
``arrays.UncomputedArrayError``, ``plot.panels.NothingToDrawError``,
``arrays.NoNumberError``, ``closure.files.ResultError``, ``distributions.prediction.NoDensityError``,
``events.columns.JetLayoutError``, ``events.running.NothingLeftError``, ``transport.maps.TransportError``.

None of them derives from :class:`OSError`: coffea's ``skipbadfiles`` drops chunks whose error chain
contains one, and an error of ours must never be a reason to lose events silently.

What a result is worth, if it is worth less than it seems, is a warning, whatever ``show`` says of progress::

    HepcalWarning
    ├── InputsDifferWarning     a sample is of another detector or other jets than those of the training
    ├── NotIndependentWarning   a calibrator is judged on files that it was trained on
    ├── CollapsedWarning        a trained network says the same of every jet
    ├── CurvatureWarning        the statistical error of a network depends on how many jets its curvature is taken from
    ├── ConditionsWarning       conditions of a likelihood say much of the truth, which their response drops
    ├── DuplicatedFilesWarning  files seem to hold the same events, which count twice
    ├── MethodWarning           a method of another distribution cannot be offered
    ├── NormalisationWarning    what would scale events is not read, or not there
    └── CheckpointWarning       a checkpoint is not written

Filter them as any others, e.g. ``warnings.simplefilter("error", hepcal.errors.NotIndependentWarning)`` in a job that
must not close on its training events. The command line prints each once, whatever the filters.
"""

from __future__ import annotations

import sys
import warnings

__all__ = [
    "CalibratorFileError",
    "CheckpointWarning",
    "CollapsedWarning",
    "ConditionsWarning",
    "CurvatureWarning",
    "DuplicatedFilesWarning",
    "ExecutorError",
    "FilesetError",
    "HepcalError",
    "HepcalWarning",
    "IncompleteRunError",
    "InputsDifferWarning",
    "MissingFieldError",
    "MissingValueError",
    "NonFiniteFeatureError",
    "MethodWarning",
    "NormalisationWarning",
    "NotIndependentWarning",
    "OutputError",
    "PairsError",
    "ReadError",
    "SchemaError",
    "TrainingError",
    "UnknownMethodError",
    "warn",
]

# What stands between a line of an analysis and a warning; torch wraps functions that need gradients.
INSIDE = ("hepcal", "torch")


class HepcalError(Exception):
    """Anything that hepcal refuses, with the place and the way out in its message."""


class FilesetError(HepcalError, ValueError):
    """A fileset is malformed, lists a file twice or names files that are not there."""


class ReadError(HepcalError):
    """A ROOT file cannot be read, or does not contain the tree that the fileset names."""


class SchemaError(HepcalError, ValueError):
    """No schema fits a file, or jets of another schema were given to a calibrator."""


class MissingFieldError(HepcalError, LookupError):
    """An input collection lacks a field that is needed."""


class NonFiniteFeatureError(HepcalError, ValueError):
    """A feature, p_T or weight is NaN or infinite."""


class MissingValueError(HepcalError, ValueError):
    """An array that was given has masked or missing values."""


class PairsError(HepcalError, ValueError):
    """A training table cannot be built, saved or opened."""


class TrainingError(HepcalError, ValueError):
    """A training cannot start with these settings, or its loss stopped being finite."""


class UnknownMethodError(HepcalError, LookupError):
    """There is no method of this name."""


class CalibratorFileError(HepcalError, ValueError):
    """A calibrator file is damaged, is not one of ours, or does not match its hash."""


class OutputError(HepcalError):
    """A file or a directory cannot be written, or its place holds something that must not be replaced."""


class ExecutorError(HepcalError, ValueError):
    """Workers cannot be started or reached, there are none, or they cannot do the work."""


class IncompleteRunError(HepcalError, RuntimeError):
    """The events processed are not the events planned."""


class HepcalWarning(UserWarning):
    """Anything that a result is worth less for than it seems, or that was asked for and is not done."""


class InputsDifferWarning(HepcalWarning):
    """A sample is of another detector, or of other jets, than those that a calibrator was trained on."""


class NotIndependentWarning(HepcalWarning):
    """A calibrator is judged on files that it was trained on."""


class CollapsedWarning(HepcalWarning):
    """A trained network says the same of every jet, or a tagger is no better than chance."""


class ConditionsWarning(HepcalWarning):
    """The conditions of a likelihood say much of the truth, which the response given them drops."""


class CurvatureWarning(HepcalWarning):
    """The statistical error of a network still depends on how many jets its curvature was taken from."""


class DuplicatedFilesWarning(HepcalWarning):
    """Files seem to be copies of each other: events that are in both count twice."""


class MethodWarning(HepcalWarning):
    """A method of another distribution cannot be offered."""


class NormalisationWarning(HepcalWarning):
    """Metadata that look like a factor of the cross section are not read, or simulation has no weights."""


class CheckpointWarning(HepcalWarning):
    """A checkpoint is not written; the training goes on."""


def warn(text: str, category: type[HepcalWarning]) -> None:
    """Warn of the line outside of hepcal that led here: filters then count by the lines of an analysis."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)
