"""One calibrator per process: built once from its bytes, then found by content hash, device and inference.

coffea unpickles a processor for every chunk; without this, a calibrator inside it would be built as often.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepcal.methods.calibrator import Calibrator, Inference

__all__ = ["get", "loads"]

# More than any one job holds at a time; the oldest goes first.
CAPACITY = 16

_calibrators: dict[tuple[str, str, str], Calibrator] = {}
_lock = threading.Lock()
_loads = 0


def get(sha256: str, device: str, inference: Inference, build: Callable[[], Calibrator]) -> Calibrator:
    """The calibrator with the content of this hash, built only if this process has not built it before."""
    global _loads
    with _lock:
        found = _calibrators.get((sha256, device, inference))
        if found is not None:
            return found
        calibrator = build()
        if len(_calibrators) >= CAPACITY:
            _calibrators.pop(next(iter(_calibrators)))
        _calibrators[sha256, device, inference] = calibrator
        _loads += 1
        return calibrator


def loads() -> int:
    """How many calibrators this process has built from bytes."""
    return _loads
