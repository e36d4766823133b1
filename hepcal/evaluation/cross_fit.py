"""Cross-fitting: every jet of a sample is calibrated by a training that has not seen its event."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hepcal.errors import TrainingError
from hepcal.methods.base import Method
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Card
from hepcal.methods.training import train
from hepcal.progress import Progress
from hepcal.storage.outputs import filling, prepare_file
from hepcal.tables.pairs import JetPairs

__all__ = ["cross_fit", "folds_of", "uncertainties"]

# From a trained calibrator and jets that it has not seen to columns (jets, ...).
Read = Callable[[Calibrator, JetPairs], Mapping[str, np.ndarray]]
# Name of the hash beside the columns of a stored training.
SEAL = "sha256"


def uncertainties(calibrator: Calibrator, pairs: JetPairs) -> dict[str, np.ndarray]:
    """The columns that a calibrator attaches, for the jets of a table; float32 or bool of shape (n,).

    With a baseline also ``sigma_cal_squared`` [GeV²], with its sign, and ``sigma_cal_squared_error``.
    """
    table = pairs.select(calibrator.card.features)
    prediction = calibrator.predict(table.features, table.reco)
    found = {"pt_calib": prediction.mean, "pt_calib_in_range": prediction.in_range}
    for kind in ("stoch", "pred", "cal", "tot"):
        if (sigma := getattr(prediction, f"sigma_{kind}")) is not None:
            found[f"pt_calib_sigma_{kind}"] = sigma
    for name in ("sigma_cal_squared", "sigma_cal_squared_error"):
        if (variance := getattr(prediction, name)) is not None:
            found[name] = variance
    return found


def folds_of(pairs: JetPairs, folds: int, seed: int = 0) -> np.ndarray:
    """Fold of every jet, int64 of shape (n,), all jets of an event in one; folds are equal in events up to one.

    Args:
        pairs: The table.
        folds: Their number, at least two.
        seed: Of the random assignment, which depends on the set of event ids and not on the order of the jets.

    Raises:
        TrainingError: Fewer than two folds, or fewer events than folds.
    """
    events, number = np.unique(pairs.event, return_inverse=True)
    if not 2 <= folds <= len(events):
        raise TrainingError(f"{len(events)} events cannot be cut into {folds} folds; at least two are needed")
    fold: np.ndarray = (np.random.default_rng(seed).permutation(len(events)) % folds)[number]
    return fold


def cross_fit(
    pairs: JetPairs,
    method: Method,
    *,
    folds: int = 5,
    seed: int = 0,
    read: Read = uncertainties,
    key: Any = None,
    store: str | Path | None = None,
    only: tuple[int, ...] | None = None,
    train_on: Callable[[JetPairs, int], JetPairs] | None = None,
    device: str = "cpu",
    show: bool = True,
) -> dict[str, np.ndarray]:
    """Train once per fold on the other folds, and read the jets of the fold.

    Args:
        pairs: The table.
        method: The method.
        folds: Number of folds.
        seed: Of the folds; training k has the seed ``seed + k``.
        read: What to keep of each training: columns with one row per jet of the fold.
            With a store it must be a named function: what is stored is known by its name and by the ``key``.
        key: What else the columns depend on, such as constants of ``read``; anything that JSON can hold.
        store: Directory for the columns of each finished training; those that are there are not trained again.
        only: Folds to do; default: all. The jets of the others are NaN (False, -1) in the result.
        train_on: Changes the table of training k, e.g. to a part of it.
        device: Where to train and to predict.
        show: Report progress.

    Returns:
        The columns of ``read`` in the order of ``pairs``, and ``fold``, int64 of shape (n,).

    Raises:
        TrainingError: A training failed, a stored one is damaged, ``read`` has no name to store by, or a column of it
            is called ``fold`` or ``sha256``.
    """
    if store is not None and "<" in read.__qualname__:
        raise TrainingError(f"columns of {read.__qualname__} cannot be stored: give a function of a module as read")
    fold = folds_of(pairs, folds, seed)
    wanted = range(folds) if only is None else only
    out: dict[str, np.ndarray] = {"fold": fold}
    with Progress(f"Cross-fitting {method.name}", len(wanted), "trainings", show=show) as bar:
        for k in wanted:
            rows = np.flatnonzero(fold == k)
            table = pairs.take(np.flatnonzero(fold != k))
            if train_on is not None:
                table = train_on(table, k)
            judged = pairs.take(rows)
            place = None if store is None else Path(store)
            found = _stored(table, judged, method, seed + k, read, key, place, device)
            for name, values in found.items():
                if name in ("fold", SEAL):
                    raise TrainingError(f"a column of read is called {name!r}, a name that is taken")
                if name not in out:
                    out[name] = _empty(len(pairs), values)
                out[name][rows] = values
            bar.advance(1)
    return out


def _empty(n: int, values: np.ndarray) -> np.ndarray:
    """A column of what no training has filled yet."""
    nothing = {"b": False, "f": np.nan, "i": -1}.get(values.dtype.kind)
    if nothing is None:
        raise TrainingError(f"columns are numbers or bool, unsigned ones excluded; found {values.dtype}")
    return np.full((n, *values.shape[1:]), nothing, dtype=values.dtype)


def _stored(
    table: JetPairs, judged: JetPairs, method: Method, seed: int, read: Read, key: Any, store: Path | None, device: str
) -> dict[str, np.ndarray]:
    """The columns of one training, from the store if they are there."""
    if store is None:
        return _trained(table, judged, method, seed, read, device)
    identity = {
        "train": table.sha256,
        "test": judged.sha256,
        "method": method.name,
        "settings": method.model_dump(mode="json"),
        "seed": seed,
        "read": read.__qualname__,
        "device": device.split(":")[0],
        "versions": Card.software(),
        **({} if key is None else {"key": key}),
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = store / f"{method.name}-{name}.npz"
    if path.exists():
        return _read(path)
    prepare_file(path)
    found = _trained(table, judged, method, seed, read, device)
    with filling(store) as scratch:  # complete, or not there
        seal = np.frombuffer(_seal(found), dtype=np.uint8)
        np.savez(scratch / path.name, **found, **{SEAL: seal})  # type: ignore[arg-type]
    return found


def _read(path: Path) -> dict[str, np.ndarray]:
    """Columns of a stored training; those of older ones, which have no hash, as they are.

    Raises:
        TrainingError: They are damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            found = {name: content[name] for name in content.files}
        seal = found.pop(SEAL, None)
        if seal is not None and seal.tobytes() != _seal(found):
            raise ValueError("its content does not match its hash (sha256)")
    except (
        OSError,
        ValueError,
        LookupError,
        EOFError,
        RuntimeError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise TrainingError(f"{path} is not a stored training: {error}; delete it to train again") from error
    return found


def _seal(columns: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of the names, types, shapes and bytes of columns."""
    digest = hashlib.sha256()
    for name, values in sorted(columns.items()):
        digest.update(json.dumps([name, values.dtype.str, values.shape]).encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.digest()


def _trained(
    table: JetPairs, judged: JetPairs, method: Method, seed: int, read: Read, device: str
) -> dict[str, np.ndarray]:
    calibrator = train(table, method, seed=seed, device=device, show=False)
    return {name: np.asarray(values) for name, values in read(calibrator, judged).items()}
