"""Arrays that users give: numbers, none of them missing.

A masked array of numpy forgets its mask in ``np.asarray``, and what lies under it, often a fill value, would count.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from hepcal.errors import HepcalError, MissingValueError

__all__ = ["Readable", "UncomputedArrayError", "numbers", "refuse_dask_awkward", "unmasked"]

# With what is tested to work; dask-awkward itself is never imported.
DASK_AWKWARD = (
    "this is a dask-awkward array, of which nothing is computed yet: run a processor with coffea's Runner, which reads "
    "on demand, too, calibrate jets by partition, dask_awkward.map_partitions(calibrator, events.Jet), or compute() "
    "arrays of numbers before passing them"
)


class Readable(Protocol):
    """Rows (n, d) of numbers that can be read: an array, or what reads them from disk where they are used."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class UncomputedArrayError(HepcalError, TypeError):
    """An array of which only a plan is there."""


class NoNumberError(HepcalError, ValueError):
    """An array of something else than real numbers."""


def refuse_dask_awkward(*arrays: Any) -> None:
    """Refuse what only a dask graph can fill.

    Raises:
        UncomputedArrayError: An array is of dask-awkward; says what to do.
    """
    if any(type(array).__module__.partition(".")[0] == "dask_awkward" for array in arrays):
        raise UncomputedArrayError(DASK_AWKWARD)


def unmasked(name: str, values: Any) -> np.ndarray:
    """The same as an array without a mask.

    Args:
        name: Of the argument, for the message.
        values: An array, a column of pandas or awkward, or a list.

    Raises:
        MissingValueError: A value is masked, None or ``pandas.NA``; counts them and says where the first is.
        UncomputedArrayError: It is an array of dask-awkward.
    """
    refuse_dask_awkward(values)
    found = values if isinstance(values, np.ndarray) else _as_array(values)
    if isinstance(found, np.ma.MaskedArray):
        _refuse_missing(name, np.ma.getmaskarray(found))
        found = np.asarray(np.ma.getdata(found))
    if found.dtype == object:
        _refuse_missing(name, np.asarray(np.frompyfunc(_is_missing, 1, 1)(found), dtype=bool))
    return found


def numbers(name: str, values: Any, dtype: Any = np.float64) -> np.ndarray:
    """The same as an array of one type, without a mask; a copy only where the type is another.

    Raises:
        MissingValueError: As :func:`unmasked`.
        NoNumberError: They are no real numbers.
    """
    found = unmasked(name, values)
    try:
        if found.dtype.kind in "cmM":
            raise TypeError("they have no one size")
        return np.asarray(found, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise NoNumberError(f"{name!r} must hold real numbers, found {found.dtype} ({error})") from error


def _as_array(values: Any) -> np.ndarray:
    """As numpy's, with the mask of what has one of another kind."""
    library = type(values).__module__.partition(".")[0]
    if library == "awkward":
        import awkward as ak

        return np.asanyarray(ak.to_numpy(values, allow_missing=True))
    if library == "pandas":
        return np.ma.array(np.asarray(values), mask=_of_pandas(values))
    if isinstance(values, list | tuple) and any(isinstance(part, np.ma.MaskedArray) for part in values):
        return np.asanyarray(np.ma.stack(values))
    return np.asanyarray(values)


def _of_pandas(values: Any) -> np.ndarray:
    """Which values are missing in columns of types that are not numpy's: numpy sees NaN, or a fill value."""
    missing = np.asarray(values.isna())
    columns = [values.dtype] if hasattr(values, "dtype") else list(values.dtypes)
    return missing & [not isinstance(column, np.dtype) for column in columns]


def _is_missing(value: Any) -> bool:
    return value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType")


def _refuse_missing(name: str, missing: np.ndarray) -> None:
    if missing.any():
        first = tuple(int(index) for index in np.argwhere(missing)[0])
        raise MissingValueError(
            f"{missing.sum()} of {missing.size} values of {name!r} are masked or missing, first at index "
            f"{first[0] if len(first) == 1 else first}: leave these jets out, in all arrays alike, before passing them"
        )
