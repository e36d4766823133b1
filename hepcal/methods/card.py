"""The part of a calibrator file that people read."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from hepcal.errors import TrainingError
from hepcal.events.features import Features

__all__ = ["CARD_VERSION", "Card", "Quantity", "SourceCard", "joint_features"]

Quantity = Literal["mean", "median", "mode"]
# Of the file format: one that this code does not read is refused.
CARD_VERSION: Literal[2] = 2


class SourceCard(BaseModel):
    """What a calibrator was trained on.

    Attributes:
        schema_name: Layout of the files (or ``arrays``).
        files: Unique ids of the training files (ROOT UUIDs), to notice when a calibrator meets them again.
        sha256: Hash of the training table.
        jets: Jets the gradient saw.
        n_eff: Their effective number.
        validation_jets: Jets held out for stopping.
        seed: Seed of the training.
        reco_threshold: Detector-level p_T [GeV] of the threshold of the training files; zero if unknown or none.
        truncated_below: Detector-level p_T [GeV] below which jets are out of range because of it; zero if unknown.
        data_sha256: Hash of the p_T of data and of their weights, for methods that map simulation to data.
        collection: Detector-level collection, such as ``Jet`` or ``FatJet``; empty if unknown.
        truth: What the truth is: a collection, or one particle per event such as ``Particle[0]``; empty if unknown.
        keep_leptons: Whether particle-level jets that are prompt leptons were taken, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_name: str
    files: tuple[str, ...]
    sha256: str
    jets: int
    n_eff: float
    validation_jets: int
    seed: int
    reco_threshold: float = 0.0
    truncated_below: float = 0.0
    data_sha256: str = ""
    collection: str = ""
    truth: str = ""
    keep_leptons: bool = False


class Card(BaseModel):
    """The part of a calibrator file that people read.

    Attributes:
        version: Version of the file format.
        method: Name of the method.
        quantity: What ``pt_calib`` promises: mean, median or mode.
        settings: Settings of the training.
        features: Inputs and p_T convention.
        target_location: Location of the standardised target.
        target_scale: Its scale.
        source: What it was trained on.
        figures: Training and validation figures.
        history: Held-out loss against updates.
        versions: Versions of the software that trained it.
        parts: Cards of calibrators that this one is made of, such as a summary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = CARD_VERSION
    method: str
    quantity: Quantity
    settings: dict[str, Any]
    features: Features
    target_location: float
    target_scale: float
    source: SourceCard
    figures: dict[str, float]
    history: tuple[tuple[int, float], ...]
    versions: dict[str, str]
    parts: dict[str, Card] = {}

    @staticmethod
    def software() -> dict[str, str]:
        """Versions to store in :attr:`versions`."""
        return {name: importlib.metadata.version(name) for name in ("hepcal", "torch", "numpy")}


def joint_features(cards: Mapping[str, Card]) -> Features:
    """The inputs of several calibrators, so that one table serves all of them; none if none has any.

    Args:
        cards: By the name to show.

    Returns:
        Every input once, in an order that keeps that of every calibrator.

    Raises:
        TrainingError: They have different p_T conventions, transforms or meanings of one input, or orders.
    """
    specs = {name: card.features for name, card in cards.items()}
    if len({spec.pt for spec in specs.values()}) > 1:
        found = ", ".join(f"{name} from {spec.pt!r}" for name, spec in specs.items())
        raise TrainingError(f"the calibrators start from different detector-level p_T ({found}): take them one by one")
    momenta = {spec.constituents for spec in specs.values()} - {None}
    if len(momenta) > 1:
        found = "; ".join(f"{name}: {spec.constituents}" for name, spec in specs.items())
        raise TrainingError(f"the calibrators read constituents in different ways ({found}): take them one by one")
    inputs = {feature.name: feature for spec in specs.values() for feature in spec.inputs}
    order: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(inputs, ()))
    for name, spec in specs.items():
        for feature in spec.inputs:
            if feature != (other := inputs[feature.name]):
                raise TrainingError(
                    f"{name} has the input {feature.label!r} with the transform {feature.transform!r}, another "
                    f"calibrator {other.label!r} with {other.transform!r}: take them one by one"
                )
        for first, second in pairwise(spec.names):
            order.add(second, first)
    try:
        names = tuple(order.static_order())
    except CycleError as error:
        each = "; ".join(f"{name}: {', '.join(spec.names)}" for name, spec in specs.items())
        raise TrainingError(f"the calibrators have inputs in different orders ({each}): take one by one") from error
    constituents = next(iter(momenta), None)
    pt = next(iter(specs.values())).pt
    return Features(inputs=tuple(inputs[name] for name in names), constituents=constituents, pt=pt)
