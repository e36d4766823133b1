"""Inputs of networks from a table: in memory, or gathered from disk batch by batch where the table is large."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from hepcal.networks.objectives import Inputs
from hepcal.networks.scaling import InputScaling
from hepcal.tables.pairs import JetPairs
from hepcal.tables.rows import StoredRows, chunks, rows_at_once, stored

__all__ = ["StreamedInputs", "input_tensor", "network_inputs", "raw_chunks"]


def raw_chunks(pairs: JetPairs) -> Iterator[tuple[slice, torch.Tensor]]:
    """Untransformed inputs (1 + d, m), float32, detector-level p_T first, of some jets at a time, in order.

    The same memory is filled again for every chunk.
    """
    features = stored(pairs.features)
    width = 1 + features.shape[1]
    step = rows_at_once(4 * width)
    block = torch.empty((width, min(step, len(pairs))), dtype=torch.float32, device="cpu")
    for start in range(0, len(pairs), step):
        part = slice(start, min(start + step, len(pairs)))
        raw = block[:, : part.stop - part.start]
        content = raw.numpy()
        content[0], content[1:] = pairs.reco[part], features[part].T
        yield part, raw


class StreamedInputs:
    """Standardised inputs of a table on disk, read and computed anew for every batch.

    They have the bits of those that :func:`network_inputs` makes in memory.

    Args:
        features: Features (n, d) of the table.
        reco: Detector-level p_T [GeV], shape (n,).
        scaling: Their standardisation.
        place: Where batches go.
    """

    def __init__(self, features: StoredRows, reco: np.ndarray, scaling: InputScaling, place: torch.device) -> None:
        self._features, self._reco, self._scaling, self._place = features, np.asarray(reco), scaling, place
        # Batches have the same size: their memory is used again.
        self._raw = torch.empty((0, 0), dtype=torch.float32, device="cpu")
        self._read: Callable[[np.ndarray], None]

    def __len__(self) -> int:
        return len(self._reco)

    def __getitem__(self, rows: torch.Tensor, /) -> torch.Tensor:
        """Inputs (..., 1 + d) of jets (...,), on the device."""
        chosen = rows.flatten().cpu().numpy()
        if len(chosen) != len(self._raw):
            self._raw = torch.empty((len(chosen), 1 + self._features.shape[1]), dtype=torch.float32, device="cpu")
            self._read = self._features.reader(self._raw.numpy(), 1)
        self._raw.numpy()[:, 0] = self._reco[chosen]
        self._read(chosen)
        return self._scaling.by_jet(self._raw).view(*rows.shape, -1).to(self._place)

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """As that of a tensor, for the first dimension."""
        if dim != 0:
            raise ValueError(f"jets are the dimension 0, not {dim}")
        return self[index]


def network_inputs(pairs: JetPairs, scaling: InputScaling, place: torch.device) -> Inputs:
    """Standardised inputs (n, 1 + d) on a device, ln p_T first: a tensor, or streamed where the table is on disk."""
    features = stored(pairs.features)
    if isinstance(features, StoredRows):
        return StreamedInputs(features, pairs.reco, scaling, place)
    return input_tensor(pairs, scaling, place)


def input_tensor(pairs: JetPairs, scaling: InputScaling, place: torch.device) -> torch.Tensor:
    """Standardised inputs (n, 1 + d) on a device, ln p_T first, float32, all in memory."""
    x = torch.empty((len(pairs), 1 + pairs.features.shape[1]), dtype=torch.float32, device="cpu")
    content = x.numpy()
    for part, values in chunks(pairs.features):
        content[part, 0], content[part, 1:] = pairs.reco[part], values
        scaling.by_jet(x[part], out=x[part])
    return x.to(place)
