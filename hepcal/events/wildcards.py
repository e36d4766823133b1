"""Patterns of paths to files, where every match is accounted for.

``glob`` leaves out directories that it may not read and keeps silent: half of a sample would be missing, and nobody
would know. Here whatever a pattern matches is a file, or a directory that is looked into, or a fault with its name.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["expand", "has_wildcard"]

ANY_DEPTH = "**"


def has_wildcard(path: str) -> bool:
    """Whether a path holds ``*``, ``?`` or ``[...]``."""
    return glob.has_magic(path)


def expand(pattern: str, base: Path) -> tuple[list[Path], list[str]]:
    """Files that a pattern matches, in sorted order, and what it matches that cannot be one.

    The pattern is that of :mod:`glob`: ``*`` and ``?`` match no hidden file, ``**`` any number of directories.

    Args:
        pattern: Absolute, or relative to ``base``.
        base: A directory.
    """
    path = base / pattern
    found = _Matches()
    # The base is a place, not a pattern, whatever its name.
    literal = len(base.parts) if path.parts[: len(base.parts)] == base.parts else 1
    found.walk(Path(*path.parts[:literal]), path.parts[literal:])
    return sorted(set(found.files), key=str), found.faults


class _Matches:
    """Files and faults of one pattern."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.faults: list[str] = []

    def walk(self, folder: Path, parts: tuple[str, ...], *, below: bool = False) -> None:
        """Match the parts of a pattern in a folder; ``below`` says that its folders are looked into anyhow."""
        part, rest = parts[0], parts[1:]
        if part == ANY_DEPTH:
            self._walk_any_depth(folder, rest or ("*",), frozenset())
        elif not glob.has_magic(part):
            self._take(folder / part, rest, below, must_exist=False)
        else:
            for name in self._names(folder):
                if fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith(".")):
                    self._take(folder / name, rest, below)

    def _walk_any_depth(self, folder: Path, rest: tuple[str, ...], around: frozenset[tuple[int, int]]) -> None:
        mode = self._mode(folder)
        if mode is None or not stat.S_ISDIR(mode):
            return
        here = folder.stat()
        if (here.st_dev, here.st_ino) in around:  # a symbolic link to a folder that it is in
            return
        around |= {(here.st_dev, here.st_ino)}
        self.walk(folder, rest, below=True)
        for name in self._names(folder):
            if not name.startswith("."):
                self._walk_any_depth(folder / name, rest, around)

    def _take(self, path: Path, rest: tuple[str, ...], below: bool, *, must_exist: bool = True) -> None:
        """A match of one part: a file if it was the last one, otherwise a directory to go on in."""
        mode = self._mode(path, must_exist=must_exist)
        if mode is None or (rest and not stat.S_ISDIR(mode)):
            return
        if rest:
            self.walk(path, rest)
        elif stat.S_ISREG(mode):
            self.files.append(path)
        elif not stat.S_ISDIR(mode):
            self._say(f"{path} matches, but is no regular file")
        elif not below:
            self._say(f"{path} matches, but is a directory: say {path.name}/* or **/* for the files in it")

    def _mode(self, path: Path, *, must_exist: bool = True) -> int | None:
        """Kind of what is there, links followed; None, and a fault, if nothing is, or nothing may be known of it."""
        try:
            return path.stat().st_mode
        except FileNotFoundError as error:
            if path.is_symlink():
                fault = f"{path} is a symbolic link to {path.readlink()}, which is not there"
            elif must_exist:
                fault = f"{path}: {error.strerror}"
            else:
                return None
        except NotADirectoryError:
            return None
        except OSError as error:
            fault = f"{path}: {error.strerror or error}"
        self._say(fault)
        return None

    def _names(self, folder: Path) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._say(f"{folder} cannot be read: {error.strerror or error}")
            return
        yield from names

    def _say(self, fault: str) -> None:
        if fault not in self.faults:
            self.faults.append(fault)
