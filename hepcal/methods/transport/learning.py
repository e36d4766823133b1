"""The map of optimal transport, from simulated jets and the p_T of data."""

from __future__ import annotations

import numpy as np
import torch

from hepcal.errors import TrainingError
from hepcal.methods.training.task import Learned, Task
from hepcal.methods.transport.calibrator import OptimalTransport
from hepcal.methods.transport.maps import QuantileMap, TransportError

__all__ = ["learn"]


def learn(task: Task) -> Learned:
    """Map the detector-level p_T of the jets to learn from to that of data.

    Figures: ``data_values`` and ``data_n_eff``; ``interpolation_error`` [GeV], the largest change by keeping some knots
    only, and ``interpolation_error_in_sigma``, the same over the statistical error of the map, over the jets to learn
    from; on the held-out jets ``distance_before`` and ``distance_after``, the mean distance [GeV] of the quantiles of
    simulation and data, and ``out_of_range``, the share of their weight.

    Raises:
        TrainingError: The data are not positive p_T, or a sample makes no distribution.
    """
    settings = OptimalTransport.model_validate(task.method.model_dump())
    data, data_weight = _data(task)
    pairs, held_out = task.fitted, task.held_out
    try:
        h = QuantileMap.fit(pairs.reco, data, pairs.weight, data_weight, simulation_event=pairs.event)
        before = QuantileMap.fit(held_out.reco, data, held_out.weight, data_weight).distance()
        after = QuantileMap.fit(h(held_out.reco), data, held_out.weight, data_weight).distance()
    except TransportError as error:
        raise TrainingError(f"no map from simulation to data: {error}") from error
    knots, moved, error_ = _table(h, settings.knots)
    off = np.abs(np.interp(pairs.reco, knots, moved) - h(pairs.reco))
    outside = h.out_of_range(held_out.reco)
    figures = {
        "data_values": float(len(data)),
        "data_n_eff": h.data.n_eff,
        "interpolation_error": float(off.max()),
        "interpolation_error_in_sigma": float(np.max(off / h.error(pairs.reco))),
        "distance_before": before,
        "distance_after": after,
        "out_of_range": float(held_out.weight[outside].sum() / held_out.weight.sum()),
    }
    tensors = {"map_simulation": knots, "map_data": moved, "map_error": error_}
    return Learned({name: torch.from_numpy(values) for name, values in tensors.items()}, figures=figures)


def _data(task: Task) -> tuple[np.ndarray, np.ndarray | None]:
    """Detector-level p_T of data and weights, refused if they are none."""
    data = task.data
    assert data is not None  # noqa: S101 - required of methods that need them
    if data.ndim != 1:
        raise TrainingError(f"data must be detector-level p_T [GeV] of shape (m,), found shape {data.shape}")
    if not (data > 0).all():
        raise TrainingError(f"{np.sum(~(data > 0))} of {len(data)} p_T of data are NaN or not positive")
    return data, task.data_weight


def _table(h: QuantileMap, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knots (x, h, error of h), float32; rounding may make x equal, of which the first is kept."""
    x, moved = h.knots(count)
    knots, first = np.unique(x.astype(np.float32), return_index=True)
    return knots, moved[first].astype(np.float32), h.error(x[first]).astype(np.float32)
