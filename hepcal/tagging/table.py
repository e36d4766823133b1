"""Jets of two classes as one training table: constituents, a label, weights of equal sums."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from hepcal.arrays import numbers, unmasked
from hepcal.errors import HepcalError, TrainingError
from hepcal.events.constituents import Constituents
from hepcal.events.features import Features
from hepcal.statistics import n_eff
from hepcal.tables.pairs import JetPairs
from hepcal.tables.rows import Rows, chunks, stored, taken

__all__ = ["ClassJets", "ClassTable", "constituents_of", "coordinates"]

TINY = 1e-12


@dataclass(frozen=True, slots=True)
class ClassJets:
    """Jets of one class.

    Attributes:
        features: float32 of shape (n, width): scalar inputs, which are not used, and constituents behind them.
        weight: float64 of shape (n,).
        event: int64 of shape (n,); jets of one event are held out together.
        spec: The columns.
        files: Unique ids of the files that they come from.
    """

    features: Rows
    weight: np.ndarray
    event: np.ndarray
    spec: Features
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, jets: JetPairs | np.ndarray, weight: np.ndarray | None, name: str) -> ClassJets:
        """From a table, or from constituents (n, 4 count) in the jet frame.

        Args:
            jets: The jets.
            weight: Shape (n,); default that of the table, or one.
            name: For messages.

        Raises:
            TrainingError: There are no constituents, shapes disagree, a number is not finite, or the weights do not
                sum to a positive number.
        """
        if isinstance(jets, JetPairs):
            found = cls(jets.features, jets.weight, jets.event, jets.spec, tuple(jets.source.get("files", ())))
        else:
            block = numbers(name, jets, np.float32)
            if block.ndim != 2 or block.shape[1] % 4 or not block.shape[1]:
                raise TrainingError(f"{name}: expected constituents of shape (n, 4 count), found {block.shape}")
            spec = Features(constituents=Constituents(count=block.shape[1] // 4), pt="pt")
            found = cls(block, np.ones(len(block)), np.arange(len(block)), spec)
        if weight is not None:
            found = replace(found, weight=numbers(f"weight of {name}", weight))
        found._check(name)
        return found

    def _check(self, name: str) -> None:
        if self.spec.constituents is None:
            raise TrainingError(f"{name}: the table has no constituents; read it with Features(constituents=...)")
        if self.weight.shape != (len(self),) or not np.isfinite(self.weight).all():
            raise TrainingError(f"{name}: {len(self)} jets need as many finite weights, found {self.weight.shape}")
        if not self.weight.sum() > 0:
            raise TrainingError(f"{name}: the weights of {len(self)} jets sum to {self.weight.sum():g}")
        first = len(self.spec.inputs)
        for part, rows in chunks(self.features):
            try:
                self.spec.constituents.check(rows[:, first:])
            except HepcalError as error:
                raise TrainingError(f"{name}, jets from {part.start} on: {error}") from error

    def __len__(self) -> int:
        return len(self.features)

    @property
    def sha256(self) -> str:
        """Hash of the columns and of what they are."""
        digest = hashlib.sha256(self.spec.model_dump_json().encode())
        for column in (self.features, self.weight, self.event):
            for _, rows in chunks(column):
                digest.update(np.ascontiguousarray(rows).data)
        return digest.hexdigest()

    def take(self, rows: np.ndarray) -> ClassJets:
        """The given rows; raises as :meth:`hepcal.JetPairs.take`."""
        rows = rows if isinstance(rows, slice) else unmasked("rows", rows)
        return replace(self, features=taken(self.features, rows), weight=self.weight[rows], event=self.event[rows])

    def split(self, fraction: float, seed: int) -> tuple[ClassJets, ClassJets]:
        """Split by event into a part of about ``fraction`` and the rest, as :meth:`hepcal.JetPairs.split` does."""
        events = np.unique(self.event)
        shuffled = np.random.default_rng(seed).permutation(events)
        first = np.isin(self.event, shuffled[: round(fraction * len(events))])
        return self.take(np.flatnonzero(first)), self.take(np.flatnonzero(~first))


class ClassTable:
    """Signal in front of background: constituents that are read when they are asked for, labels and weights.

    Weights have the mean one over the table, and equal sums in both classes: the network learns the probability of
    signal in a mixture of as much signal as background.

    Args:
        signal: Its jets.
        background: Its jets.
        slots: Constituents per jet that are used.

    Raises:
        TrainingError: The weights of a class do not sum to a positive number.
    """

    def __init__(self, signal: ClassJets, background: ClassJets, slots: int) -> None:
        self._parts = [stored(part.features) for part in (signal, background)]
        first = len(signal.spec.inputs)
        self._columns = slice(first, first + 4 * slots)
        self._signal = len(signal)
        total = len(signal) + len(background)
        weights = []
        for name, part in (("signal", signal), ("background", background)):
            if not len(part) or not part.weight.sum() > 0:
                raise TrainingError(f"the weights of {len(part)} {name} jets sum to {part.weight.sum():g}")
            weights.append(part.weight * (total / (2 * part.weight.sum())))
        self.weight = np.concatenate(weights)
        self.is_signal = np.arange(total) < self._signal

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def n_eff(self) -> float:
        """Effective number of jets, (sum w)² / sum w², of the balanced weights."""
        return n_eff(self.weight)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Constituents, float32 of shape (b, 4 slots), of jets (b,)."""
        found = np.empty((len(rows), self._columns.stop - self._columns.start), dtype=np.float32)
        signal = rows < self._signal
        for part, members, offset in zip(self._parts, (signal, ~signal), (0, self._signal), strict=True):
            found[members] = part[rows[members] - offset][:, self._columns]
        return found

    def __getitem__(self, rows: torch.Tensor, /) -> torch.Tensor:
        """The same as a tensor on the device of ``rows``."""
        chosen = rows.flatten().cpu().numpy()
        return torch.from_numpy(self.read(chosen)).view(*rows.shape, -1).to(rows.device)

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """As that of a tensor, for the first dimension."""
        if dim != 0:
            raise ValueError(f"jets are the dimension 0, not {dim}")
        return self[index]

    def labels(self, place: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets, one for signal and zero for background, and weights, float32 of shape (n,)."""
        target, weight = (torch.from_numpy(part.astype(np.float32)) for part in (self.is_signal, self.weight))
        return target.to(place), weight.to(place)


def coordinates(jets: ClassJets) -> np.ndarray:
    """What the sign of a weight may depend on, float64 of shape (4, n).

    Ln p_T and ln (m / p_T) of the sum of the constituents, their number, and the share of the first in the energy.
    """
    first, found = len(jets.spec.inputs), np.empty((4, len(jets)))
    for part, rows in chunks(jets.features):
        momenta = rows[:, first:].reshape(len(rows), -1, 4).astype(np.float64)
        energy, x, y, z = momenta.sum(1).T
        pt = np.hypot(x, y).clip(TINY)
        mass = np.sqrt((energy**2 - x**2 - y**2 - z**2).clip(0))
        share = momenta[:, 0, 0] / energy.clip(TINY)
        found[:, part] = np.log(pt), np.log(mass / pt + TINY), (momenta[:, :, 0] > 0).sum(1), share
    return found


def constituents_of(spec: Features) -> Constituents:
    """The constituents of columns that have some."""
    assert spec.constituents is not None  # noqa: S101 - checked where the columns came in
    return spec.constituents
