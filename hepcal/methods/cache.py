"""One calibrator per process: built once from its bytes, then found by content hash, device and inference.

coffea unpickles a processor for every chunk; without this, a calibrator inside it would be built as often.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hepcal.errors import CalibratorFileError, UnknownMethodError
from hepcal.methods import files

if TYPE_CHECKING:
    from hepcal.methods.calibrator import Calibrator, Inference

__all__ = ["get", "loads"]

# More than any one job holds at a time; the oldest goes first.
CAPACITY = 16

_calibrators: dict[tuple[str, str, str], Calibrator] = {}
_lock = threading.Lock()
_loads = 0


def get(
    content: bytes,
    sha256: str,
    device: str,
    inference: Inference = "draws",
    where: str = "a calibrator sent to this worker",
) -> Calibrator:
    """The calibrator with this content, built only if this process has not built it before.

    Raises:
        CalibratorFileError: The content does not match its hash, is damaged, or names an unknown method.
    """
    global _loads
    with _lock:
        found = _calibrators.get((sha256, device, inference))
        if found is not None:
            return found
        if files.sha256(content) != sha256:
            raise CalibratorFileError(f"{where} does not match its hash {sha256[:12]}: it was changed or damaged")
        calibrator = _build(content, device, inference, where)
        if len(_calibrators) >= CAPACITY:
            _calibrators.pop(next(iter(_calibrators)))
        _calibrators[sha256, device, inference] = calibrator
        _loads += 1
        return calibrator


def loads() -> int:
    """How many calibrators this process has built from bytes."""
    return _loads


def _build(content: bytes, device: str, inference: Inference, where: str) -> Calibrator:
    from hepcal.methods.card import CARD_VERSION, Card
    from hepcal.methods.registry import calibrator_of, places

    text, tensors = files.parse(content, where)
    version = files.parse_card(text, where).get("version")
    if version != CARD_VERSION:
        raise CalibratorFileError(
            f"{where} is a calibrator file of version {version}; this hepcal reads version {CARD_VERSION}. "
            "Train it again, or use the hepcal that wrote it"
        )
    try:
        card = Card.model_validate_json(text)
        calibrator = calibrator_of(card.method)(card, tensors, device, inference)
    except ValidationError as error:
        raise CalibratorFileError(f"{where}: its card is not valid: {error}") from error
    except CalibratorFileError as error:
        raise CalibratorFileError(f"{where}: {error}") from error
    except UnknownMethodError as error:
        raise CalibratorFileError(
            f"{where}: unknown method {card.method!r}; here are {', '.join(places())}. A method of another "
            "distribution needs that installed"
        ) from error
    except KeyError as error:
        raise CalibratorFileError(f"{where}: missing tensor {error}") from error
    except files.MISFITS as error:
        raise CalibratorFileError(
            f"{where}: its card and its tensors do not fit each other ({type(error).__name__}: {error})"
        ) from error
    # Also of a file that another version wrote: what is hashed, sent and saved are the bytes that were read.
    calibrator.content = content
    return calibrator
