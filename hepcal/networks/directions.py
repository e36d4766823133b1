"""A Gaussian of all weights as a few dozen directions, whose squares sum to the variance of the predictions."""

from __future__ import annotations

import torch

from hepcal.networks.curvature import WeightPosterior
from hepcal.networks.dense import DenseLayout
from hepcal.networks.jacobian import JacobianRows

__all__ = ["directions"]


def directions(
    posterior: WeightPosterior, rows: JacobianRows, layout: DenseLayout, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Directions in the space of the weights; along all of them together, predictions vary as under the posterior.

    Half of them are the leading ones: those that hold most of the variance of the predictions, each in units of its own
    standard deviation. Of what is left, spread over hundreds of directions, the others are random draws, with the
    same expected squares and products: a local part that only averages see is neither dropped nor made common.

    Args:
        posterior: Of the weights.
        rows: Derivatives of the predictions of typical jets.
        layout: The network.
        count: How many directions.
        generator: Random numbers.

    Returns:
        float64 of shape (count, weights).
    """
    covariance = posterior.covariance(rows)
    sigma = covariance.diagonal().clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    values, vectors = torch.linalg.eigh(covariance / sigma[:, None] / sigma)
    if not values[-1] > 0:
        # Nothing moves the predictions, such as those of a network whose outputs are stuck.
        return torch.zeros((count, layout.count), dtype=torch.float64, device=covariance.device)
    # Beyond the rank of the covariance there is nothing but rounding.
    there = int((values > values[-1] * 1e-9).sum())
    leading = min((count + 1) // 2, there)
    values, vectors = values[-leading:].flip(0), vectors[:, -leading:].flip(1)
    # Signs of eigenvectors are those of the library: fixed, so that files do not depend on it.
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1.0, 1.0)
    along = vectors / sigma[:, None] / values.sqrt()
    lead = posterior.shared(rows, along)
    if count == leading:
        return lead
    drawn = posterior.draw(count - leading, layout, generator)
    rest = drawn - (rows.along(drawn, layout).T @ along) @ lead
    return torch.cat([lead, rest / (count - leading) ** 0.5])
