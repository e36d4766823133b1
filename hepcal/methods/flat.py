"""Flat jets as a calibrator takes them: a table, or arrays of inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from hepcal.arrays import numbers, unmasked
from hepcal.errors import HepcalError, PairsError
from hepcal.events.features import Features
from hepcal.networks.scaling import MOMENTUM
from hepcal.tables.pairs import JetPairs
from hepcal.tables.random import identity_of, identity_of_rows
from hepcal.tables.rows import Rows, StoredRows, check_rows, selected, stored

__all__ = ["checked", "flat_jets", "inputs_of", "transforms_of"]


def flat_jets(
    spec: Features, features: JetPairs | Rows, reco: np.ndarray | None, event: np.ndarray | None
) -> tuple[Rows, np.ndarray, Callable[[], np.ndarray]]:
    """Inputs (n, d), detector-level p_T (n,), and what computes the identity of each jet (:mod:`hepcal.tables.random`).

    Args:
        spec: The inputs.
        features: A table, of which the columns are picked by name; or the inputs.
        reco: With inputs: detector-level p_T [GeV], shape (n,).
        event: With inputs: event ids, integers of shape (n,), if they are known.

    Raises:
        HepcalError: Arrays beside a table, or inputs without p_T.
        ValueError: As :func:`checked`, or there is not one event id per jet.
        PairsError: As :func:`inputs_of`.
    """
    if isinstance(features, JetPairs):
        if reco is not None or event is not None:
            raise HepcalError("a table brings its p_T and events along: predict(pairs), without further arrays")
        pairs = features
        features, reco, event = inputs_of(spec, pairs), pairs.reco, pairs.event
    elif reco is None:
        raise HepcalError("predict takes a table of jets, predict(pairs), or inputs and p_T, predict(features, reco)")
    features, reco = checked(spec, features, reco)
    if event is None:
        return features, reco, partial(identity_of_rows, reco, features)
    event = unmasked("event", event)
    if event.shape != reco.shape or event.dtype.kind not in "iu":
        raise ValueError(f"expected integer event ids of shape {reco.shape}, found {event.dtype} of {event.shape}")
    return features, reco, partial(identity_of, event, reco)


def inputs_of(spec: Features, pairs: JetPairs) -> Rows:
    """The columns of a table that are inputs, picked by name: values are untransformed in any table.

    Args:
        spec: The inputs.
        pairs: The table.

    Raises:
        PairsError: It lacks one, or its p_T or constituents are of another kind.
    """
    held = pairs.spec
    if (
        not {(f.name, f.of) for f in spec.inputs} <= {(f.name, f.of) for f in held.inputs}
        or spec.constituents not in (None, held.constituents)
        or spec.pt != held.pt
    ):
        raise PairsError(
            f"this calibrator needs the inputs {spec.listed} (p_T: {spec.pt}), "
            f"but the table holds {held.listed} (p_T: {held.pt})"
        )
    columns = held.columns_of(spec)
    # The columns of the table come in its order, those of the calibrator in its own.
    return pairs.features if columns == list(range(held.width)) else selected(pairs.features, columns)


def checked(spec: Features, features: Rows, reco: np.ndarray) -> tuple[Rows, np.ndarray]:
    """Inputs (n, d) and detector-level p_T (n,) as float32.

    Raises:
        ValueError: Shapes do not fit the inputs, or a value is missing, NaN or infinite.
    """
    features = stored(features if isinstance(features, StoredRows) else numbers("features", features, np.float32))
    reco = numbers("reco", reco, np.float32)
    if reco.ndim != 1 or features.shape != (len(reco), spec.width):
        raise ValueError(
            f"expected features of shape (n, {spec.width}) for {spec.listed} and reco of shape (n,); "
            f"found {features.shape} and {reco.shape}"
        )
    check_rows(spec.check, features, reco)
    return features, reco


def transforms_of(features: Features) -> tuple[str, ...]:
    """Transforms of all network inputs: ln p_T first, components of constituents last."""
    momenta = features.width - len(features.inputs)
    return ("log", *(feature.transform for feature in features.inputs), *[MOMENTUM] * momenta)
