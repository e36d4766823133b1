"""Objectives: what a training loop minimises, with gradients written by hand or found by autograd."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import softplus

from hepcal.networks.backprop import LocalBackprop, NetworkBackprop
from hepcal.networks.bayesian import (
    Estimator,
    MeanFieldPosterior,
    gaussian_kl,
    log_softplus,
    standard_normal,
)
from hepcal.networks.heads import Head
from hepcal.networks.members import Members
from hepcal.tables.signed_weights import Cells

__all__ = ["Batch", "ElboObjective", "Inputs", "MembersObjective", "Objective", "Table", "TrainingSet"]

# Inputs (b, d), standardised targets (b,), and weights (b,) of mean one over the table; with a leading dimension for
# networks that see different jets or weights.
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Inputs(Protocol):
    """Standardised inputs of all jets of a table: a tensor (n, d), or what reads rows of a large one from disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: torch.Tensor, /) -> torch.Tensor:
        """Inputs (..., d) of the jets ``rows`` (...,)."""

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """Inputs (b, d) of the jets ``index`` (b,); ``dim`` is 0."""


# The same of all jets of a training.
Table = tuple[Inputs, torch.Tensor, torch.Tensor]

HELD_OUT_SAMPLES = 4
HELD_OUT_SEED = 20031109
ACTIVE_NATS = 0.1
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What a method may know of its training sample before it begins.

    Attributes:
        inputs: Number of network inputs.
        n_eff: Effective number of jets: divides the KL term.
        target: Standardised targets, shape (n,).
        event: Event of each jet, int64 of shape (n,): jets of one event are drawn together.
        cells: The signed weights that those of the table were made of, if it had negative ones.
    """

    inputs: int
    n_eff: float
    target: torch.Tensor
    event: np.ndarray
    cells: Cells | None = None


class Objective(ABC):
    """What a training loop needs to know of a method."""

    module: torch.nn.Module
    members: int = 1

    @property
    def rows(self) -> int | None:
        """Rows to shuffle for one pass, if they are not those of the table."""
        return None

    def table_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of the table that :meth:`batch` takes for some of those that are shuffled."""
        return rows

    def batch(self, table: Table, rows: torch.Tensor) -> Batch:
        """The batch of some rows of the table."""
        x, y, w = table
        return x.index_select(0, rows), y.index_select(0, rows), w.index_select(0, rows)

    @abstractmethod
    def loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Loss of a batch, a scalar that autograd can differentiate; summed over members."""

    def backward(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> None:
        """Write the gradient of :meth:`loss` to the parameters of the module."""
        for parameter in self.module.parameters():
            parameter.grad = None
        self.loss(x, y, w, generator).backward()  # type: ignore[no-untyped-call]

    @abstractmethod
    def held_out_loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Loss of held-out jets, float64 of shape (members,), with the same random numbers each time."""

    @abstractmethod
    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """What the finished calibrator keeps."""

    def figures(self) -> dict[str, float]:
        """What a training report should say of the trained networks."""
        return {}


class ElboObjective(Objective):
    """Weighted mean of the negative log-likelihood plus KL / N (arXiv:2003.11099, Eq. 8, divided by N).

    Args:
        posterior: The network.
        head: The likelihood.
        n_eff: Effective number of training jets.
        prior_width: Width of the prior.
        draws: Weight draws to keep.
        estimator: How weights are drawn in a batch.
        autograd: Never use the hand-written gradient, which exists for ``local``.
    """

    module: MeanFieldPosterior

    def __init__(
        self,
        posterior: MeanFieldPosterior,
        head: Head,
        n_eff: float,
        prior_width: float,
        draws: int,
        estimator: Estimator = "local",
        *,
        autograd: bool = False,
    ) -> None:
        self.module, self.head, self.n_eff, self.prior_width = posterior, head, n_eff, prior_width
        self.draws, self.estimator = draws, estimator
        self._by_hand = estimator == "local" and not autograd and not posterior.frozen
        self._backprop: LocalBackprop | None = None

    def loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Batch estimate of the negative ELBO per jet."""
        nll = self.head.nll(self.module(x, generator, self.estimator), y)
        return (w * nll).mean() + self.module.kl(self.prior_width) / self.n_eff

    def backward(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> None:
        """See :meth:`Objective.backward`."""
        if self._by_hand:
            self._backward_by_hand(x, y, w, generator)
        else:
            super().backward(x, y, w, generator)

    @torch.no_grad()
    def _backward_by_hand(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> None:
        posterior, rows = self.module, len(x)
        if self._backprop is None or self._backprop.rows != rows:
            self._backprop = LocalBackprop(posterior.layout, rows, x.device)
        backprop = self._backprop
        sigma = softplus(posterior.rho)
        backprop.mean.copy_(posterior.mean)
        torch.mul(sigma, sigma, out=backprop.variance)
        standard_normal(backprop.noise, generator)
        backprop(x, partial(self.head.gradient, target=y), (w / rows).unsqueeze(-1))
        # KL per jet: mean / (prior² N) by the mean, sigma / (prior² N) - 1 / (sigma N) by sigma.
        pull = 1 / (self.prior_width**2 * self.n_eff)
        by_rho = torch.sigmoid(posterior.rho)
        posterior.mean.grad = backprop.by_mean.add_(backprop.mean, alpha=pull)
        by_sigma = backprop.by_variance.add_(pull).mul_(sigma)
        by_sigma.mul_(by_rho)
        # d ln sigma / d rho, which is one where both vanish.
        posterior.rho.grad = by_sigma.addcdiv_(by_rho.add_(TINY), sigma.add_(TINY), value=-1 / self.n_eff)

    @torch.no_grad()
    def held_out_loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The same with held-out jets; the KL part makes it notice widths that still move."""
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        nll = torch.stack([self.head.nll(self.module(x, generator), y) for _ in range(HELD_OUT_SAMPLES)]).mean(0)
        return (weighted_mean(nll, w) + self.module.kl(self.prior_width).double() / self.n_eff)[None]

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """KL divergence [nats], and the share of weights that moved away from the prior by more than a tenth of a nat.

        Many weights of a good mean-field network stay at the prior; a collapsed one has next to none that do not.
        """
        if self.module.frozen:
            return {}
        module = self.module
        each = gaussian_kl(module.mean, module.sigma, self.prior_width, log_softplus(module.rho))
        return {"kl": float(each.double().sum()), "active_weights": float((each > ACTIVE_NATS).double().mean())}

    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Posterior and weight draws."""
        return {
            "posterior_mean": self.module.mean,
            "posterior_sigma": self.module.sigma,
            "draws": self.module.draw(self.draws, generator),
        }


class MembersObjective(Objective):
    """Deterministic networks, trained at once: weighted mean of the negative log-likelihood plus an L2 term.

    Args:
        networks: The networks, M of them.
        head: The likelihood.
        decay: L2 strength lambda in lambda * sum w², per jet.
        draws: Masks to keep of a network with dropout; None keeps the networks without dropout.
        multiplicity: How often each network sees each jet of the table, uint8 or float32 of shape (n, M), or (n, 1)
            where they see different jets; None: once.
        parts: Rows of the table for each network, int64 of shape (M, rows), if they see different jets.
        autograd: Never use the hand-written gradient.
    """

    module: Members

    def __init__(
        self,
        networks: Members,
        head: Head,
        decay: float,
        *,
        draws: int | None = None,
        multiplicity: torch.Tensor | None = None,
        parts: torch.Tensor | None = None,
        autograd: bool = False,
    ) -> None:
        self.module, self.head, self.decay, self.draws = networks, head, decay, draws
        self.members, self._autograd = networks.count, autograd
        self.multiplicity, self.parts = multiplicity, parts
        self._backprop: NetworkBackprop | None = None

    @property
    def rows(self) -> int | None:
        """See :attr:`Objective.rows`."""
        return None if self.parts is None else self.parts.shape[1]

    def table_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """See :meth:`Objective.table_rows`; of shape (M, b) where networks see different jets."""
        return rows if self.parts is None else self.parts.to(rows.device)[:, rows]

    def batch(self, table: Table, rows: torch.Tensor) -> Batch:
        """See :meth:`Objective.batch`; weights have the shape (b,) or (M, b), and so have targets.

        The table may have targets (n, M), one for each network.
        """
        x, y, w = table
        if self.parts is not None:
            rows = self.table_rows(rows)
            weight = w[rows]
            if self.multiplicity is not None:
                weight = weight * self.multiplicity[rows.cpu(), 0].to(weight.device)
            return x[rows], y[rows], weight
        weight = w[rows]
        if self.multiplicity is not None:
            weight = weight * self.multiplicity[rows.cpu()].T.to(weight.device)
        return x[rows], y[rows].T if y.ndim > 1 else y[rows], weight

    def loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See :meth:`Objective.loss`."""
        kept = self.module.all_dropout_factors(x.shape[-2], generator)
        nll = self.head.nll(self.module(x, kept), y)
        return (w * nll).mean(-1).sum() + self.decay * torch.sum(self.module.weights**2)

    def backward(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> None:
        """See :meth:`Objective.backward`."""
        # A device with its own queue is faster with the batched products of autograd.
        if self._autograd or x.device.type != "cpu":
            super().backward(x, y, w, generator)
        else:
            self._backward_by_hand(x, y, w, generator)

    @torch.no_grad()
    def _backward_by_hand(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> None:
        networks, rows = self.module, x.shape[-2]
        if self._backprop is None or self._backprop.rows != rows:
            self._backprop = NetworkBackprop(networks.layout, networks.weights, rows)
        backprop = self._backprop
        networks.weights.grad = backprop.gradient
        share = (w / rows).expand(self.members, rows).unsqueeze(-1)
        x, y = x.expand(self.members, *x.shape[-2:]), y.expand(self.members, rows)
        for number, group in enumerate(backprop.groups):
            drawn = [networks.dropout_factors(rows, generator) for _ in range(self.members)[group]]
            kept = [factors for factors in drawn if factors is not None]
            backprop(number, x[group], partial(self.head.gradient, target=y[group]), share[group], kept)
        if self.decay:
            backprop.gradient.add_(networks.weights, alpha=2 * self.decay)

    @torch.no_grad()
    def held_out_loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The same with held-out jets, without dropout."""
        targets = y.T if y.ndim > 1 else y.expand(self.members, -1)
        nll = torch.stack([self.head.nll(self.module.one(k, x), target) for k, target in enumerate(targets)])
        return weighted_mean(nll, w) + self.decay * torch.sum(self.module.weights**2, dim=1).double()

    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """The networks, or one network with many dropout masks."""
        if self.draws is None:
            return {"draws": self.module.weights}
        return {"network": self.module.weights[0], "draws": self.module.masked(self.draws, generator)}


def weighted_mean(values: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Weighted mean over the last dimension, float64."""
    w = w.double()
    return torch.sum(values.double() * w, dim=-1) / torch.sum(w)
