"""Augmentations of whole tables, as frozen settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hepcal.augment import four_vectors
from hepcal.augment.four_vectors import LARGEST_MU, Augmented, Frame
from hepcal.errors import PairsError
from hepcal.storage.outputs import beside, reserve
from hepcal.tables.files import prepare
from hepcal.tables.pairs import JetPairs
from hepcal.tables.random import identity_of

__all__ = ["Augmentation", "OverlayPileup", "ScaleConstituents", "ScaleLeading", "SmearConstituents"]

# Jets that are read and written together, to bound memory.
ROWS_AT_ONCE = 16_384

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]


class Augmentation(BaseModel, ABC):
    """A change of the constituents of jets; call it on a table.

    Scalar features stay as they are, also those that the constituents would determine, such as a mass or a number of
    constituents. Jets are told apart by their event and their p_T, so a second augmentation with the same seed draws
    other numbers where the first has moved the p_T.

    Attributes:
        update_reco: The detector-level p_T follows: times the p_T of the sum of the constituents over what it was,
            since a jet is the sum of its constituents.

    Raises:
        pydantic.ValidationError: A setting is unknown or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]

    update_reco: bool = True

    @abstractmethod
    def on_constituents(self, block: np.ndarray, identity: np.ndarray, frame: Frame) -> Augmented:
        """The change of constituents alone.

        Args:
            block: Columns of the layout [GeV], shape (n, 4 count).
            identity: Of the jets, uint64 of shape (n,).
            frame: That of the layout.
        """

    def __call__(self, pairs: JetPairs, directory: str | Path | None = None) -> JetPairs:
        """The table with changed constituents.

        Args:
            pairs: A table with constituents.
            directory: Where to write the new table, for tables larger than the memory; it is opened memory-mapped.

        Returns:
            A new table; its ``source`` lists what was done under ``augmentations``.

        Raises:
            PairsError: The table has no constituents, or the directory is something else than a table.
            OutputError: It cannot be written, or there is no room.
        """
        if directory is None:
            return self._changed(pairs, np.empty(pairs.features.shape, dtype=np.float32))
        target = Path(directory)
        prepare(target)
        with beside(target, f"the table {target}") as scratch:
            path = scratch / "features.npy"
            features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=pairs.features.shape)
            reserve(path, target)
            self._changed(pairs, features).save(target)
        return JetPairs.open(target)

    def _changed(self, pairs: JetPairs, features: np.ndarray) -> JetPairs:
        """Fill the features of a new table."""
        layout, scalars = pairs.spec.constituents, len(pairs.spec.inputs)
        if layout is None:
            raise PairsError(
                f"{self.name} changes constituents, and the table has none: its inputs are {pairs.spec.listed}"
            )
        reco, left_out = np.array(pairs.reco, dtype=np.float32), 0
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            part = np.asarray(pairs.features[rows])
            identity = identity_of(np.asarray(pairs.event[rows]), reco[rows])
            found = self.on_constituents(part[:, scalars:], identity, layout.frame)
            features[rows, :scalars] = part[:, :scalars]
            features[rows, scalars:] = found.constituents
            left_out += int(found.left_out.sum())
            if self.update_reco:
                reco[rows] = reco[rows] * found.ratio
        done = {"name": self.name, **self.model_dump(mode="json"), "left_out": left_out}
        source = {**pairs.source, "augmentations": [*pairs.source.get("augmentations", []), done]}
        return replace(pairs, features=features, reco=reco, source=source)


class ScaleConstituents(Augmentation):
    """A coherent shift of the scale; see :func:`hepcal.augment.scale_constituents`.

    Attributes:
        fraction: All four-vectors are scaled by 1 + this.
    """

    name: ClassVar[str] = "scale_constituents"

    fraction: Annotated[float, Field(gt=-1, allow_inf_nan=False)]

    def on_constituents(self, block: np.ndarray, identity: np.ndarray, frame: Frame) -> Augmented:  # noqa: ARG002
        """See :meth:`Augmentation.on_constituents`."""
        return four_vectors.scale_constituents(block, self.fraction, frame=frame)


class ScaleLeading(Augmentation):
    """The leading constituent harder or softer; see :func:`hepcal.augment.scale_leading`.

    Attributes:
        factor: On its four-vector.
    """

    name: ClassVar[str] = "scale_leading"

    factor: Positive

    def on_constituents(self, block: np.ndarray, identity: np.ndarray, frame: Frame) -> Augmented:  # noqa: ARG002
        """See :meth:`Augmentation.on_constituents`."""
        return four_vectors.scale_leading(block, self.factor, frame=frame)


class SmearConstituents(Augmentation):
    """Noise on every constituent; see :func:`hepcal.augment.smear_constituents`.

    Attributes:
        sigma: Its relative width.
        seed: Of the random numbers.
    """

    name: ClassVar[str] = "smear_constituents"

    sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    seed: Seed = 0

    def on_constituents(self, block: np.ndarray, identity: np.ndarray, frame: Frame) -> Augmented:
        """See :meth:`Augmentation.on_constituents`."""
        return four_vectors.smear_constituents(block, self.sigma, seed=self.seed, identity=identity, frame=frame)


class OverlayPileup(Augmentation):
    """Soft particles on top; see :func:`hepcal.augment.overlay_pileup`.

    Attributes:
        mu: Mean number of particles per jet.
        radius: They lie within this distance of the jet axis.
        mean_pt: Mean of their p_T [GeV].
        seed: Of the random numbers.
    """

    name: ClassVar[str] = "overlay_pileup"

    mu: Annotated[float, Field(ge=0, le=LARGEST_MU)]
    radius: Positive
    mean_pt: Positive = 1.0
    seed: Seed = 0

    def on_constituents(self, block: np.ndarray, identity: np.ndarray, frame: Frame) -> Augmented:
        """See :meth:`Augmentation.on_constituents`."""
        return four_vectors.overlay_pileup(
            block, self.mu, radius=self.radius, mean_pt=self.mean_pt, seed=self.seed, identity=identity, frame=frame
        )
