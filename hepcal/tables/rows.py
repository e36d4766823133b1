"""Rows of a table on disk: read where they are used, so that memory does not grow with the table.

A mapped file would do, but every page that was touched counts as memory of the process until the kernel wants it back,
and one row may bring in megabytes around it. Reading at a place costs a microsecond per row, and no memory.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, cast, overload

import numpy as np

from hepcal.errors import NonFiniteFeatureError, PairsError

__all__ = [
    "Rows",
    "StoredRows",
    "check_rows",
    "chunks",
    "open_column",
    "rows_at_once",
    "selected",
    "stored",
    "taken",
    "verify",
]

# Parts of a column on disk are copied to memory up to this size, and read where they are used beyond it.
LAZY_BYTES = 256 * 2**20
# Rows that are looked at together.
CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class _File:
    """Where the bytes of a mapped column are.

    Attributes:
        descriptor: Of the open file; the same file as the mapping, even if another one has its name by now.
        address: Of the first byte of the column in memory.
        offset: Of the same byte in the file.
    """

    descriptor: int
    address: int
    offset: int


# Of the mappings that open_column made; a file is closed with its mapping.
_FILES: weakref.WeakKeyDictionary[mmap.mmap, _File] = weakref.WeakKeyDictionary()
# Columns whose content was not compared with its hash yet: their name for people, size in bytes, and the hash.
_PROMISED: weakref.WeakKeyDictionary[mmap.mmap, tuple[Path, int, str]] = weakref.WeakKeyDictionary()

# Headers as numpy writes them; nothing else is evaluated, and no type that is not a number has a way in.
_HEADER = re.compile(
    rb"\{'descr': '([<>=]?[fiu][248]|\|[iu]1)', 'fortran_order': False, 'shape': \((\d{1,18},(?: \d{1,18})?)\), \} *\n"
)
_MAGIC = b"\x93NUMPY\x01\x00"


class StoredRows:
    """Chosen rows and columns of an array (n, d) in a file, which behave as an array that is only read.

    Indexing rows reads them into a new array. ``rows[:, columns]`` is again something that is not read yet, and
    ``rows[:, 3]`` one column. ``np.asarray`` reads everything. Several threads may read at once.

    Args:
        source: From :func:`open_column`, or a contiguous view of it: all rows in the file.
        rows: Rows of the source, integers of shape (n,); None: all.
        columns: Columns of the source; None: all.
    """

    ndim = 2

    def __init__(self, source: np.ndarray, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> None:
        # 64 bits: places in the file are computed from row numbers.
        self._rows = None if rows is None else np.asarray(rows, dtype=np.int64)
        # Held, since the file is closed with the mapping; its pages are not touched.
        self._source, self._columns = source, columns
        file = _file(source)
        assert file is not None  # noqa: S101 - what stored() asks for
        self._descriptor, self._offset = file.descriptor, file.offset + source.ctypes.data - file.address
        self.dtype = source.dtype
        self.shape = (len(source if rows is None else rows), source.shape[1] if columns is None else len(columns))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<StoredRows: {self.shape[0]} x {self.shape[1]} {self.dtype}, on disk>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Travels as the array that it stands for, as a memory-mapped one does.
        return np.asarray, (np.asarray(self),)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take in memory."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows on disk cannot become an array without a copy")
        found = np.empty(self.shape, dtype=self.dtype if dtype is None else dtype)
        for part, values in chunks(self):
            found[part] = values
        return found

    @overload
    def __getitem__(self, key: tuple[slice, int]) -> np.ndarray: ...

    @overload
    def __getitem__(self, key: tuple[Any, Any]) -> Rows: ...

    @overload
    def __getitem__(self, key: slice | int | list[int] | np.ndarray) -> np.ndarray: ...

    def __getitem__(self, key: Any) -> Rows:
        if not isinstance(key, tuple):
            return self._read(key)
        rows, columns = key
        if not (isinstance(rows, slice) and rows == slice(None)):
            found: np.ndarray = self._read(rows)[..., columns]
            return found
        if not isinstance(columns, int | np.integer):
            return self.select(columns)
        column = np.empty(len(self), dtype=self.dtype)
        for part, values in chunks(self):
            column[part] = values[:, columns]
        return column

    def take(self, rows: Any) -> StoredRows:
        """The given rows, in the given order; nothing is read."""
        return StoredRows(self._source, np.array(self._numbers(rows)), self._columns)

    def select(self, columns: Any) -> StoredRows:
        """The given columns, in the given order; nothing is read."""
        chosen = np.arange(self._source.shape[1]) if self._columns is None else self._columns
        return StoredRows(self._source, self._rows, chosen[columns])

    def reader(self, table: np.ndarray, column: int) -> Callable[[np.ndarray], None]:
        """What reads other rows into the same memory again and again.

        Args:
            table: Where to, of the same type, shape (n, D), contiguous.
            column: First of the columns to fill.

        Returns:
            A function of n indices of rows, none of them negative.
        """
        size = self.shape[1] * self.dtype.itemsize
        content, step = table.data.cast("B"), table.strides[0]
        first = column * self.dtype.itemsize
        parts = [(content[start : start + size],) for start in range(first, len(content), step)]

        def read(rows: np.ndarray) -> None:
            if self._columns is None:
                self._fill(parts, self._numbers(rows))
            else:
                table[:, column : column + self.shape[1]] = self[rows]

        return read

    def _numbers(self, key: Any) -> np.ndarray:
        """Rows of the source for an index of any kind, int64."""
        if self._rows is not None:
            return np.asarray(self._rows[key])
        if isinstance(key, slice):
            return np.arange(*key.indices(len(self)))
        if isinstance(key, np.ndarray) and key.dtype.kind == "i" and key.size and key.min() >= 0:
            if key.max() >= len(self):
                raise IndexError(f"row {key.max()} of {len(self)}")
            return key.astype(np.int64, copy=False)
        return np.asarray(np.arange(len(self))[key])

    def _read(self, key: Any) -> np.ndarray:
        """Rows as a new array."""
        numbers = self._numbers(key)
        rows = numbers.ravel()
        found = np.empty((len(rows), self._source.shape[1]), dtype=self.dtype)
        if found.size:
            # Rows that are neighbours in the file are one read.
            first = np.concatenate([[0], np.flatnonzero(rows[1:] != rows[:-1] + 1) + 1])
            ends = [*first[1:].tolist(), len(rows)]
            size = found.shape[1] * found.itemsize
            content = found.data.cast("B")
            self._fill(
                [(content[i * size : j * size],) for i, j in zip(first.tolist(), ends, strict=True)], rows[first]
            )
        found = found.reshape(*numbers.shape, found.shape[1])
        return found if self._columns is None else found[..., self._columns]

    def _fill(self, parts: Sequence[tuple[memoryview]], rows: np.ndarray) -> None:
        """Read one or more rows of the file into each part."""
        places = (self._offset + rows * (self._source.shape[1] * self.dtype.itemsize)).tolist()
        expected = sum(len(part) for (part,) in parts)
        if sum(map(os.preadv, repeat(self._descriptor), parts, places)) != expected:
            for (part,), place in zip(parts, places, strict=True):
                self._read_all(part, place)

    def _read_all(self, content: memoryview, place: int) -> None:
        """Read what may not come in one go."""
        done = 0
        while done < len(content):
            got = os.preadv(self._descriptor, [content[done:]], place + done)
            if got == 0:
                raise PairsError(f"a column of the table has no byte {place + done}: its file was cut or is damaged")
            done += got


# A column: in memory or mapped, or read where it is used.
Rows = np.ndarray | StoredRows


def open_column(path: Path, sha256: str = "") -> np.ndarray:
    """A column of a saved table, memory-mapped; :func:`stored` reads its rows from the same file.

    Args:
        path: A ``.npy`` file of numbers, as :func:`numpy.save` writes columns of shape (n,) or (n, d), n > 0.
        sha256: Hash of its content (without the header), if it is known: compared now, or for a large column of shape
            (n, d) by :func:`verify`.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is not such a file, has more or fewer bytes than its header promises, or another hash.
    """
    dtype, shape, offset = _header(path)
    column: np.ndarray = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    mapping = cast("mmap.mmap", column.base)
    if hasattr(os, "preadv"):
        descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(mapping, os.close, descriptor)
        _FILES[mapping] = _File(descriptor, column.ctypes.data, offset)
    if sha256:
        _PROMISED[mapping] = path, column.nbytes, sha256
        if column.ndim == 1 or column.nbytes <= LAZY_BYTES:
            verify(column)
    return column


def _header(path: Path) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Type and shape of a column, and where its content begins.

    A damaged header can promise anything: types without size, which numpy divides by, and more than there is.
    """
    with path.open("rb") as file:
        start = file.read(len(_MAGIC) + 2)
        length = int.from_bytes(start[len(_MAGIC) :], "little")
        found = _HEADER.fullmatch(file.read(length)) if start.startswith(_MAGIC) else None
        size = file.seek(0, os.SEEK_END)
    if found is None:
        raise ValueError(f"{path.name} is empty, damaged, or not a .npy file of numbers in rows")
    dtype = np.dtype(found[1].decode())
    shape = tuple(int(part) for part in found[2].split(b",") if part.strip())
    offset = len(_MAGIC) + 2 + length
    if size != offset + math.prod(shape) * dtype.itemsize or not shape[0]:
        raise ValueError(f"{path.name} has {size} bytes: more or fewer than {dtype} of {shape} need, or no rows")
    return dtype, shape, offset


def verify(column: Rows) -> None:
    """Read a column of a saved table through, once, and compare it with its hash, where it has one.

    Large ones are not read when a table is opened, but when rows of it are first taken, selected or gone through.

    Raises:
        PairsError: It was changed or damaged after it was written.
    """
    mapping = _mapping(column._source if isinstance(column, StoredRows) else column)
    if mapping is None or mapping not in _PROMISED:
        return
    path, size, sha256 = _PROMISED[mapping]
    digest, first = hashlib.sha256(), len(mapping) - size
    file = _FILES.get(mapping)
    for start in range(0, size, CHUNK_BYTES):
        wanted = min(CHUNK_BYTES, size - start)
        # Read, not mapped: pages that were touched count as memory of the process.
        digest.update(
            os.pread(file.descriptor, wanted, file.offset + start)
            if file
            else mapping[first + start : first + start + wanted]
        )
    if digest.hexdigest() != sha256:
        raise PairsError(f"{path} does not match its hash (sha256): it was changed or damaged after it was written")
    del _PROMISED[mapping]


def stored(column: Rows) -> Rows:
    """A large column (n, d) on disk as :class:`StoredRows`; others as they are.

    Args:
        column: In memory, from :func:`open_column`, or rows on disk already.
    """
    if isinstance(column, StoredRows) or column.ndim != 2 or column.nbytes <= LAZY_BYTES or _file(column) is None:
        return column
    return StoredRows(column)


def taken(column: Rows, rows: Any) -> Rows:
    """The given rows of a column: a copy, or :class:`StoredRows` where that would be a large part of a file."""
    verify(column)
    found = stored(column)
    return _small(found.take(rows)) if isinstance(found, StoredRows) else found[rows]


def selected(column: Rows, columns: Any) -> Rows:
    """The given columns of a column (n, d), as :func:`taken` gives rows."""
    verify(column)
    found = stored(column)
    return _small(found.select(columns)) if isinstance(found, StoredRows) else found[:, columns]


def _small(rows: StoredRows) -> Rows:
    return rows if rows.nbytes > LAZY_BYTES else np.asarray(rows)


def rows_at_once(row_bytes: int) -> int:
    """Rows of a size that are looked at together."""
    return max(1, CHUNK_BYTES // max(1, row_bytes))


def chunks(column: Rows) -> Iterator[tuple[slice, np.ndarray]]:
    """All rows of a column of any shape (n, ...) in order, some at a time; not a copy where it is in memory."""
    verify(column)
    column = stored(column)
    step = rows_at_once(column.nbytes // max(1, len(column)))
    for start in range(0, len(column), step):
        part = slice(start, min(start + step, len(column)))
        yield part, column[part]


def check_rows(check: Callable[[Rows, np.ndarray], None], features: Rows, reco: np.ndarray) -> None:
    """Check features (n, d) and detector-level p_T (n,) some rows at a time.

    Args:
        check: Raises :class:`hepcal.errors.NonFiniteFeatureError` for bad rows, and counts them.
        features: In memory or on disk.
        reco: Detector-level p_T [GeV].
    """
    for part, values in chunks(features):
        try:
            check(values, reco[part])
        except NonFiniteFeatureError:
            # Once more with all rows, for their number and the place of the first.
            check(stored(features), reco)
            raise


def _mapping(column: np.ndarray) -> mmap.mmap | None:
    """The mapped file that an array is a part of, if it is of one."""
    base: Any = column
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _file(column: np.ndarray) -> _File | None:
    """The file that a contiguous array is a mapped part of; None if there is none, or not one of ours."""
    base = _mapping(column)
    return None if base is None or not column.flags.c_contiguous else _FILES.get(base)
