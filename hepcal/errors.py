"""The exceptions of hepcal.

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
``arrays.UncomputedArrayError``, ``columns.JetLayoutError``, ``plot.NothingToDrawError``,
``prediction.NoDensityError``, ``result_files.ResultError``, ``transport.TransportError``.

None of them derives from :class:`OSError`: coffea's ``skipbadfiles`` drops chunks whose error chain
contains one, and an error of ours must never be a reason to lose events silently.
"""

from __future__ import annotations

__all__ = [
    "CalibratorFileError",
    "ExecutorError",
    "FilesetError",
    "HepcalError",
    "IncompleteRunError",
    "MissingFieldError",
    "MissingValueError",
    "NonFiniteFeatureError",
    "OutputError",
    "PairsError",
    "ReadError",
    "SchemaError",
    "TrainingError",
    "UnknownMethodError",
]


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
