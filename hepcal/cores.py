"""How many cores this process may use: of those that the machine has, what affinity and cgroup quotas leave.

A batch system gives a job some of the cores of a node by one of the two; one worker per core of the *machine* would
have them fight for a few.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from hepcal.errors import HepcalError

__all__ = ["VARIABLE", "chosen_threads", "usable_cores"]

VARIABLE = "HEPCAL_THREADS"


def chosen_threads() -> int | None:
    """Worker threads that ``HEPCAL_THREADS`` asks for; None where it is not set.

    Raises:
        HepcalError: It is not a positive integer.
    """
    wanted = os.environ.get(VARIABLE, "").strip()
    if not wanted:
        return None
    if not wanted.isdecimal() or int(wanted) == 0:
        raise HepcalError(f"{VARIABLE} must be a positive integer, found {wanted!r}")
    return int(wanted)


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least one.

    The affinity (``taskset``, Slurm, cpusets), and no more than the quota of CPU time of its cgroup and of those around
    it, versions 1 and 2 (containers, systemd), rounded up.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([found, *map(math.ceil, _quotas(root))]))


@lru_cache(maxsize=16)
def _quotas(root: Path) -> tuple[float, ...]:
    """Quotas in units of one core, of the cgroups of this process and all around them; read once, for speed."""
    found = []
    for folder in _cgroups(root):
        # Version 2: "200000 100000", or "max 100000"; version 1 has a file for each, and -1 for no limit.
        values = _read(folder / "cpu.max").split()
        values = values or [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if len(values) == 2 and all(value.isdecimal() and int(value) for value in values):
            found.append(int(values[0]) / int(values[1]))
    return tuple(found)


def _cgroups(root: Path) -> Iterator[Path]:
    """Folders of the cgroups that may limit the CPU time of this process; a container does not see all of them."""
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, controllers, place = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for base in {mounted / controllers, mounted / "cpu"} if controllers else {mounted}:
            folder = base / place.strip("/")
            yield folder
            yield from (parent for parent in folder.parents if parent.is_relative_to(base))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not this version of cgroups, or not this system
        return ""
