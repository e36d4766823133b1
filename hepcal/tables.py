"""The files of a saved table: one ``.npy`` file per column, written rows after rows, and a card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hepcal.errors import PairsError

__all__ = ["CARD", "TableWriter", "writing"]

CARD = "table.json"


class TableWriter:
    """Appends rows to the columns of a table; see :func:`writing`.

    Args:
        path: An empty directory.
        files: Closes the files of the columns.

    Attributes:
        path: The same; the table is whole there after :meth:`finish`.
    """

    def __init__(self, path: Path, files: ExitStack) -> None:
        self.path, self._closing = path, files
        self._files: dict[str, BinaryIO] = {}
        self._headers: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self.finished = False

    def append(self, name: str, rows: np.ndarray) -> None:
        """Write rows (m, ...) of a column behind those that it has.

        Raises:
            PairsError: They are of another kind than those before.
        """
        rows = np.ascontiguousarray(rows)
        if name not in self._files:
            self._headers[name] = rows.dtype, (0, *rows.shape[1:])
            self._files[name] = self._closing.enter_context((self.path / f"{name}.npy").open("wb"))
            self._write_header(name)
        dtype, shape = self._headers[name]
        if rows.dtype != dtype or rows.shape[1:] != shape[1:]:
            raise PairsError(f"the column {name!r} holds {dtype} of {shape[1:]}, not {rows.dtype} of {rows.shape[1:]}")
        self._headers[name] = dtype, (shape[0] + len(rows), *shape[1:])
        self._files[name].write(rows.data)

    def finish(self, card: Mapping[str, Any]) -> None:
        """Write the card, and the number of rows into each column; nothing more can be appended.

        Args:
            card: Further entries beside ``rows`` and ``columns``, as JSON types.

        Raises:
            PairsError: There are no rows, or columns have different numbers of them.
        """
        rows = {name: shape[0] for name, (_, shape) in self._headers.items()}
        if not any(rows.values()):
            raise PairsError("the table would have no rows: no matched jets were found or chosen, nothing is written")
        if len(set(rows.values())) != 1:
            raise PairsError(f"columns of a table have as many rows; these have {rows}")
        for name, file in self._files.items():
            file.seek(0)
            self._write_header(name)
            file.close()
        content = {"rows": next(iter(rows.values())), "columns": list(rows), **card}
        (self.path / CARD).write_text(json.dumps(content, indent=1))
        self.finished = True

    def _write_header(self, name: str) -> None:
        # numpy leaves room for a growing number of rows: the header keeps its length.
        dtype, shape = self._headers[name]
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._files[name], header)


@contextmanager
def writing(directory: str | Path) -> Iterator[TableWriter]:
    """Write a table beside its place, and put it there if it was finished and nothing was raised.

    An older table is moved aside, the new one into its place, and the older one deleted after that. A process that is
    killed between the moves leaves both, whole, in a hidden directory beside the place.

    Args:
        directory: Of the table; an older table there is replaced.

    Raises:
        PairsError: The directory exists and is not a saved table.
    """
    target = Path(directory)
    if target.exists() and not (target / CARD).exists():
        raise PairsError(f"{target} exists and is not a training table; choose another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        part = Path(scratch) / "table"
        part.mkdir()
        with ExitStack() as files:
            writer = TableWriter(part, files)
            yield writer
        if writer.finished:
            _replace(target, part, Path(scratch) / "older")


def _replace(target: Path, part: Path, older: Path) -> None:
    """Move a table to its place, and what was there to ``older``; what fails is undone."""
    if not target.exists():
        part.rename(target)
        return
    target.rename(older)
    try:
        part.rename(target)
    except BaseException:
        # Else it would be deleted with its directory.
        older.rename(target)
        raise
