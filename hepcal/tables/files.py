"""The files of a saved table: one ``.npy`` file per column, written rows after rows, and a card.

The card holds type, shape and a hash of the content of each column, and a hash of itself; tables without them were
written before there were any.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hepcal.errors import PairsError
from hepcal.storage.documents import parse_json, sealed, unsealed
from hepcal.storage.outputs import beside, read_bytes, refuse_others, replace_directory, require_room, told
from hepcal.tables.rows import open_column

__all__ = ["CARD", "TableWriter", "open_columns", "prepare", "read_card", "source_in", "writing"]

CARD = "table.json"
# Kinds of the entries of a source that this code reads.
SOURCE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("schema", "jets", "truth", "files", "leptons_by"), (str,)),
    **dict.fromkeys(("events", "truth_jets", "unmatched", "truncated_jets", "leptons", "without_constituents"), (int,)),
    **dict.fromkeys(("reco_threshold", "truncated_below", "truncated_below_truth", "max_dr"), (int, float)),
    "keep_leptons": (bool,),
}
LISTS = ("files", "leptons_by")


class TableWriter:
    """Appends rows to the columns of a table; see :func:`writing`.

    Args:
        path: An empty directory.
        files: Closes the files of the columns.
        place: Where the table will be, for messages.

    Attributes:
        path: The same; the table is whole there after :meth:`finish`.
    """

    def __init__(self, path: Path, files: ExitStack, place: Path) -> None:
        self.path, self._closing, self._place = path, files, place
        self._files: dict[str, BinaryIO] = {}
        self._headers: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._hashes: dict[str, Any] = {}
        self.finished = False

    def append(self, name: str, rows: np.ndarray) -> None:
        """Write rows (m, ...) of a column behind those that it has.

        Raises:
            PairsError: They are of another kind than those before.
            OutputError: They cannot be written.
        """
        rows = np.ascontiguousarray(rows)
        with told(f"write the table {self._place}"):
            self._append(name, rows)

    def _append(self, name: str, rows: np.ndarray) -> None:
        if name not in self._files:
            self._headers[name] = rows.dtype, (0, *rows.shape[1:])
            self._files[name] = (self.path / f"{name}.npy").open("wb")
            self._closing.callback(_close, self._files[name])
            self._hashes[name] = hashlib.sha256()
            self._write_header(name)
        dtype, shape = self._headers[name]
        if rows.dtype != dtype or rows.shape[1:] != shape[1:]:
            raise PairsError(f"the column {name!r} holds {dtype} of {shape[1:]}, not {rows.dtype} of {rows.shape[1:]}")
        self._headers[name] = dtype, (shape[0] + len(rows), *shape[1:])
        self._hashes[name].update(rows.data)
        self._files[name].write(rows.data)

    def finish(self, card: Mapping[str, Any]) -> None:
        """Write the card, and the number of rows into each column; nothing more can be appended.

        Args:
            card: Further entries beside ``rows`` and ``columns``, as JSON types.

        Raises:
            PairsError: There are no rows, or columns have different numbers of them, or the card holds what is not
                JSON, such as NaN.
            OutputError: They cannot be written.
        """
        rows = {name: shape[0] for name, (_, shape) in self._headers.items()}
        if not any(rows.values()):
            raise PairsError("the table would have no rows: no matched jets were found or chosen, nothing is written")
        if len(set(rows.values())) != 1:
            raise PairsError(f"columns of a table have as many rows; these have {rows}")
        files = {
            name: {"dtype": dtype.str, "shape": list(shape), "sha256": self._hashes[name].hexdigest()}
            for name, (dtype, shape) in sorted(self._headers.items())
        }
        content = {"rows": next(iter(rows.values())), "columns": list(rows), **card, "files": files}
        try:
            text = json.dumps(sealed(content), indent=1, allow_nan=False)
        except ValueError as error:
            raise PairsError(f"the provenance of the table holds what JSON cannot: {error}; {dict(card)}") from error
        with told(f"write the table {self._place}"):
            for name, file in self._files.items():
                file.seek(0)
                self._write_header(name)
                file.close()
            (self.path / CARD).write_text(text)
        self.finished = True

    def _write_header(self, name: str) -> None:
        # numpy leaves room for a growing number of rows: the header keeps its length.
        dtype, shape = self._headers[name]
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._files[name], header)


def _close(file: BinaryIO) -> None:
    """Of a table that is whole it is closed already; of another one, what does not fit on the disk does not matter."""
    with suppress(OSError):
        file.close()


@contextmanager
def writing(directory: str | Path) -> Iterator[TableWriter]:
    """Write a table beside its place, and put it there if it was finished and nothing was raised.

    An older table is moved aside, the new one into its place, and the older one deleted after that. A process that is
    killed between the moves leaves both, whole, in a hidden directory beside the place.

    Args:
        directory: Of the table; an older table there is replaced.

    Raises:
        PairsError: The directory exists and is not a saved table, or holds more than one.
        OutputError: It cannot be written, or there is no room.
    """
    target = Path(directory)
    prepare(target)
    with beside(target, f"the table {target}") as scratch:
        part = scratch / "table"
        part.mkdir()
        with ExitStack() as files:
            writer = TableWriter(part, files, target)
            yield writer
        if writer.finished:
            with told(f"write the table {target}"):
                replace_directory(target, part, scratch / "older")


def prepare(target: Path) -> None:
    """Refuse a place where a table could not be written after the work, before it; raises as :func:`writing`."""
    with told(f"write the table {target}"):
        if target.is_dir() and any(target.iterdir()):
            if not (target / CARD).exists():
                raise PairsError(f"{target} exists and is not a training table; choose another directory")
            # All of it is deleted once the new table is there.
            refuse_others(target, (CARD, "*.npy"), "a training table and more")
        elif target.exists() and not target.is_dir():
            raise PairsError(f"{target} exists and is not a training table; choose another directory")
        require_room(target.parent)


def read_card(directory: Path) -> dict[str, Any]:
    """The card of a table.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON, no object, or was changed after it was written.
    """
    card = parse_json(read_bytes(directory / CARD))
    if not isinstance(card, dict):
        raise ValueError(f"{CARD} holds a {type(card).__name__}, not an object")
    try:
        return unsealed(card, "files")
    except ValueError as error:
        raise ValueError(f"{CARD}: {error}") from error


def source_in(card: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of the rows in a card; entries that nothing here knows are kept.

    Raises:
        ValueError: An entry is not of the kind that is written.
    """
    source = card.get("source")
    if not isinstance(source, dict):
        raise ValueError(f"{CARD} has no source")
    for name, value in source.items():
        if name not in SOURCE:
            continue
        kinds = SOURCE[name]
        inside = value if isinstance(value, list) and name in LISTS else [value]
        # A truth value is an integer, too, but no number of anything.
        truth_value = isinstance(value, bool) and bool not in kinds
        if truth_value or not all(isinstance(one, kinds) for one in inside):
            raise ValueError(f"{CARD}: the entry {name!r} of the source cannot be {value!r}")
    for name, others in (("max_dr", ("jets", "truth")), ("truth_jets", ("unmatched",))):
        if name in source and not set(others) <= source.keys():
            raise ValueError(f"{CARD}: the source has {name!r} without {' and '.join(others)}")
    return source


def open_columns(directory: Path, card: Mapping[str, Any], names: tuple[str, ...], width: int) -> dict[str, np.ndarray]:
    """Columns of a table, memory-mapped, if they are what the card says.

    Columns of one number per row are read through and compared with their hash here, and so are features of up to
    :data:`hepcal.tables.rows.LAZY_BYTES`; larger ones when rows of them are first taken
    (:func:`hepcal.tables.rows.verify`).

    Args:
        directory: Of the table.
        card: From :func:`read_card`.
        names: Of the columns.
        width: Numbers per row of ``features``.

    Raises:
        OSError: A file cannot be opened.
        ValueError: A column is not what the card says.
    """
    rows, files = card.get("rows"), card.get("files")
    columns = {}
    for name in names:
        told = None if files is None else files[name]
        column = open_column(directory / f"{name}.npy", "" if told is None else told["sha256"])
        shape = (rows, width) if name == "features" else (rows,)
        kinds = "iu" if name == "event" else "f"
        known = told is None or (column.dtype.str, list(column.shape)) == (told["dtype"], told["shape"])
        if column.shape != shape or column.dtype.kind not in kinds or not known:
            raise ValueError(
                f"{CARD} does not fit the columns: {name} holds {column.dtype} of {column.shape}, expected {shape}"
            )
        columns[name] = column
    return columns
