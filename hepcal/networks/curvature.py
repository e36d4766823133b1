r"""The posterior of all weights of a trained network, with all their correlations, from the curvature of its loss.

Around the optimum of the loss per jet, (1/N) sum_i w_i l_i + lambda/2 \|w\|², with the expected Fisher information F_i
of the outputs of jet i and J_i their derivatives by the weights, the curvature is

.. math:: H = \frac{1}{N} \sum_i w_i J_i^T F_i J_i + \lambda .

* Laplace (MacKay 1992): a posterior N(w*, H^-1 / n) for n effective jets, which trusts the likelihood.
* Sandwich (White 1982; the infinitesimal jackknife): what other events would have changed,
  H^-1 (1/N² sum over events of s_e s_e^T) H^-1 with s_e = sum_{i in e} w_i g_i, g_i = J_i^T dl_i/do. It asks nothing of
  the likelihood but its optimum: made for skewed responses and for weights.

The sums run over some of the jets. With R the rows of F^(1/2) J, inverses are those of a matrix over the rows of R,

.. math:: H^{-1} v = \lambda^{-1} \big(v - R^T (R R^T + \lambda N)^{-1} R v\big),

and no matrix over the weights is ever made.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch

from hepcal.networks.dense import DenseLayout
from hepcal.networks.jacobian import JacobianRows

__all__ = ["Curvature", "Laplace", "Sandwich", "WeightPosterior"]


class Curvature:
    """H of a trained network.

    Args:
        fisher: Rows whose squares sum to the Fisher information of all jets: (w F)^(1/2) J, m of them.
        total: Sum of the weights of those jets.
        decay: lambda, per jet.
    """

    def __init__(self, fisher: JacobianRows, total: float, decay: float) -> None:
        self.fisher, self.decay, self.total = fisher, decay, total
        gram = fisher.kernel(fisher)
        gram.diagonal().add_(decay * total)
        self.cholesky = torch.linalg.cholesky(gram)

    def solved(self, products: torch.Tensor) -> torch.Tensor:
        """(R R^T + lambda N)^-1 times products (m, s) with the rows of R."""
        return torch.cholesky_solve(products, self.cholesky)

    def inverse(self, rows: JacobianRows, coefficients: torch.Tensor) -> torch.Tensor:
        """H^-1 times sums of rows with coefficients (m', s), shape (s, count)."""
        back = self.solved(self.fisher.kernel(rows) @ coefficients)
        return (rows.combined(coefficients) - self.fisher.combined(back)) / self.decay

    def between(self, left: JacobianRows, right: JacobianRows) -> torch.Tensor:
        """Products of rows over H^-1, shape (m', m'')."""
        back = self.solved(self.fisher.kernel(right))
        return (left.kernel(right) - left.kernel(self.fisher) @ back) / self.decay


class WeightPosterior(ABC):
    """A Gaussian of all weights around those of a network."""

    @abstractmethod
    def covariance(self, rows: JacobianRows) -> torch.Tensor:
        """Covariance (m, m) of numbers of which ``rows`` are the derivatives."""

    @abstractmethod
    def shared(self, rows: JacobianRows, coefficients: torch.Tensor) -> torch.Tensor:
        """Covariance of the weights with sums of such numbers with coefficients (m, s), shape (s, count)."""

    @abstractmethod
    def draw(self, count: int, layout: DenseLayout, generator: torch.Generator) -> torch.Tensor:
        """Random deviations of the weights, shape (count, weights)."""


class Laplace(WeightPosterior):
    """H^-1 / n.

    Args:
        curvature: H.
        n_eff: Effective number of jets of the training.
    """

    def __init__(self, curvature: Curvature, n_eff: float) -> None:
        self._curvature, self._n_eff = curvature, n_eff

    def covariance(self, rows: JacobianRows) -> torch.Tensor:
        """See :meth:`WeightPosterior.covariance`."""
        return self._curvature.between(rows, rows) / self._n_eff

    def shared(self, rows: JacobianRows, coefficients: torch.Tensor) -> torch.Tensor:
        """See :meth:`WeightPosterior.shared`."""
        return self._curvature.inverse(rows, coefficients) / self._n_eff

    def draw(self, count: int, layout: DenseLayout, generator: torch.Generator) -> torch.Tensor:
        """See :meth:`WeightPosterior.draw`: draws of the prior, moved to what the jets say (Matheron's rule)."""
        curvature, fisher = self._curvature, self._curvature.fisher
        device = fisher.inputs[0].device
        prior = normal((count, layout.count), generator, device) / math.sqrt(curvature.decay * self._n_eff)
        noise = normal((len(fisher), count), generator, device) * math.sqrt(curvature.total / self._n_eff)
        return prior - fisher.combined(curvature.solved(fisher.along(prior, layout) + noise))


class Sandwich(WeightPosterior):
    """H^-1 (sum over events of s s^T) H^-1.

    Args:
        curvature: H.
        gradients: Derivatives of the loss of each jet by the weights, m of them.
        influence: By event, what its jets and those that share its cells count in the mean loss of the whole sample,
            shape (m, events): columns are the s_e / N, so that the sum of their squares is the covariance of the mean.
    """

    def __init__(self, curvature: Curvature, gradients: JacobianRows, influence: torch.Tensor) -> None:
        self._curvature, self._gradients, self._influence = curvature, gradients, influence
        # What the Fisher rows take off, by event: solved once.
        self._back = curvature.solved(curvature.fisher.kernel(gradients) @ influence)

    def _by_event(self, rows: JacobianRows) -> torch.Tensor:
        """What each event changes in numbers of which ``rows`` are the derivatives, shape (m', events)."""
        found = rows.kernel(self._gradients) @ self._influence - rows.kernel(self._curvature.fisher) @ self._back
        return found / self._curvature.decay

    def _moved(self, events: torch.Tensor) -> torch.Tensor:
        """How sums over the events with coefficients (events, s) move the weights, shape (s, count)."""
        own, back = self._influence @ events, self._back @ events
        return (self._gradients.combined(own) - self._curvature.fisher.combined(back)) / self._curvature.decay

    def covariance(self, rows: JacobianRows) -> torch.Tensor:
        """See :meth:`WeightPosterior.covariance`."""
        found = self._by_event(rows)
        return found @ found.T

    def shared(self, rows: JacobianRows, coefficients: torch.Tensor) -> torch.Tensor:
        """See :meth:`WeightPosterior.shared`."""
        return self._moved(self._by_event(rows).T @ coefficients)

    def draw(self, count: int, layout: DenseLayout, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """See :meth:`WeightPosterior.draw`: sums of what the events change, with random signs and sizes."""
        return self._moved(normal((self._influence.shape[1], count), generator, self._influence.device))


def normal(shape: tuple[int, int], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Standard normal numbers of a generator on the CPU, float64, on a device."""
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(device)
