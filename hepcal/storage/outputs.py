"""Files that we write: whole or not at all, at a place that was found good before the work."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hepcal.errors import OutputError

__all__ = [
    "RESULT_NAMES",
    "ROOM",
    "beside",
    "filling",
    "prepare_directory",
    "prepare_file",
    "read_bytes",
    "refuse_others",
    "refuse_same",
    "replace_directory",
    "replacing",
    "reserve",
    "told",
    "write",
]

# Bytes that must be free before a job begins: more than a calibrator or the histograms of a run take.
ROOM = 32 * 2**20
# What a run, the demo and diagnostics leave, and calibrators that people keep beside it.
PLOTS = "plots"
RESULT_NAMES = ("hists.coffea", "hists.json", "summary.json", "diagnostics.json", PLOTS, "*.safetensors")


def write(path: Path, content: bytes | str) -> None:
    """Write a file, whole or not at all; an older one is there until the new one is complete.

    Raises:
        OutputError: It cannot be written; names the path.
    """
    with replacing(path) as part:
        part.write_bytes(content if isinstance(content, bytes) else content.encode())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place if nothing was raised.

    A symbolic link stays one: the file that it points to is replaced.

    Raises:
        OutputError: The place is a directory or a device, or the file cannot be written; names the path.
    """
    target = _target(path)
    scratch = None
    try:
        with told(f"write {path}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-"[:64], suffix=target.suffix)
            os.close(handle)
            yield Path(scratch)
            _settle(Path(scratch))
            Path(scratch).chmod(0o644)
            Path(scratch).replace(target)
    finally:
        if scratch is not None:
            Path(scratch).unlink(missing_ok=True)


@contextmanager
def filling(directory: Path) -> Iterator[Path]:
    """A directory to write files to, which go to ``directory`` together if nothing was raised.

    Raises:
        OutputError: They cannot be written; names the directory.
    """
    with told(f"write into {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".writing-") as scratch:
            yield Path(scratch)
            parts = sorted(Path(scratch).iterdir())
            for part in parts:
                _settle(part)
            for part in parts:
                part.replace(directory / part.name)


@contextmanager
def beside(place: Path, what: str) -> Iterator[Path]:
    """A hidden directory beside a place, on its file system; deleted in the end.

    Args:
        place: Of a directory; those above it are made.
        what: It is for, for messages.

    Raises:
        OutputError: It cannot be made.
    """
    with told(f"write {what}"):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-")
    try:
        yield Path(scratch.name)
    finally:
        with suppress(OSError):
            scratch.cleanup()


def replace_directory(target: Path, part: Path, older: Path) -> None:
    """Move a directory to its place, and what was there to ``older``; what fails is undone.

    Raises:
        OSError: It cannot be moved.
    """
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


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; never of a pipe or device, which would wait or have no end.

    Raises:
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "a directory" if path.is_dir() else "it is not a regular file")
    return path.read_bytes()


def _settle(part: Path) -> None:
    # Some file systems say only here that there was no room.
    with part.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def told(what: str) -> Iterator[None]:
    """Inside, an error of the operating system becomes one of ours.

    Args:
        what: That cannot be done, as ``write`` and a path.

    Raises:
        OutputError: There was one.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot {what}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    """What an operating system says, without the name of a scratch file."""
    return error.strerror or str(error) or type(error).__name__


def _target(path: Path) -> Path:
    """Where a file goes: through symbolic links."""
    target = path.resolve() if path.is_symlink() else path
    with suppress(OSError):
        if not stat.S_ISREG(target.stat().st_mode):
            what = "a directory" if target.is_dir() else "a device, pipe or socket"
            raise OutputError(f"{path} is {what}, not a file: give the name of a file, such as jets.safetensors")
    return target


def prepare_file(path: str | Path, room: int = ROOM, mark: bytes = b"") -> None:
    """Refuse a place where a file could not be written after the work, before it.

    Args:
        path: Of the file; its directory need not exist yet, and is not made.
        room: Bytes that must be free.
        mark: What a file that is there, and would be replaced, must have among its first bytes, unless it is empty.

    Raises:
        OutputError: It is a directory or a device, another kind of file, or cannot be written, or there is no room;
            names the path.
    """
    path = Path(path)
    if not path.name:
        raise OutputError(f"{str(path)!r} is not the name of a file")
    target = _target(path)
    try:
        if target.exists() and mark not in (_start(target) or mark):
            raise OutputError(f"{path} is another file, which would be replaced: choose another name, or delete it")
        require_room(target.parent, room)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)} ({room} bytes are needed)") from error


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def refuse_same(**places: Path | None) -> None:
    """Refuse one file in two roles: what is written, or deleted, last would take the other with it.

    Args:
        places: By their roles.

    Raises:
        OutputError: Two are the same; names both roles.
    """
    roles: dict[Path, str] = {}
    for role, place in places.items():
        if place is not None and (other := roles.setdefault(place.resolve(), role)) != role:
            raise OutputError(f"{place} cannot be both the {other} and the {role}: give each a file of its own")


def prepare_directory(path: str | Path, names: tuple[str, ...] = RESULT_NAMES, room: int = ROOM) -> None:
    """The same for a directory of results; one that holds anything else is refused.

    Args:
        path: Of the directory.
        names: Patterns of what it may hold, beside what an interrupted job left.
        room: Bytes that must be free.

    Raises:
        OutputError: It is a file, holds something else, also under a name of ours, cannot be written, or there is no
            room.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is not a directory: results are several files, give the name of a directory")
        if path.exists():
            refuse_others(path, (*names, ".*-*"), "not only results of hepcal")
            for entry in path.glob("[!.]*"):
                _require_kind(entry)
        require_room(path, room)
    except OSError as error:
        raise OutputError(f"cannot write into {path}: {_reason(error)} ({room} bytes are needed)") from error


def _require_kind(entry: Path) -> None:
    """Refuse a file in the place of the directory of plots, and what is no file in the place of one."""
    found = entry.stat().st_mode if entry.exists() else stat.S_IFREG
    if not (stat.S_ISDIR(found) if entry.name == PLOTS else stat.S_ISREG(found)):
        raise OutputError(f"{entry} is not a {'directory' if entry.name == PLOTS else 'file'}: move it away")


def refuse_others(directory: Path, names: tuple[str, ...], what: str) -> None:
    """Refuse a directory that holds anything else.

    Raises:
        OutputError: It does; names what.
    """
    others = sorted(entry.name for entry in directory.iterdir() if not any(entry.match(name) for name in names))
    if others:
        listed = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise OutputError(f"{directory} holds {what}: {listed}. Choose a new or an empty directory")


def require_room(directory: Path, room: int = ROOM) -> None:
    """Take the room in a file that is deleted at once: the only way that knows of quotas, too.

    Args:
        directory: Need not exist yet: the nearest one above it that does is asked.
        room: Bytes.

    Raises:
        OSError: There is no room, or nothing can be written.
    """
    nearest = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    with tempfile.TemporaryFile(dir=nearest) as file:
        _allocate(file.fileno(), room)


def reserve(path: Path, place: Path) -> None:
    """Take the room of a file that is written through a mapping: where there is none, the process would be killed.

    Args:
        path: The file, of its full size.
        place: What it is for, for the message.

    Raises:
        OutputError: There is no room.
    """
    with told(f"write {place}"), path.open("rb+") as file:
        _allocate(file.fileno(), path.stat().st_size)


def _allocate(descriptor: int, size: int) -> None:
    allocate: Callable[[int, int, int], None] | None = getattr(os, "posix_fallocate", None)
    if allocate is None:
        os.truncate(descriptor, size)
    else:
        allocate(descriptor, 0, size)
