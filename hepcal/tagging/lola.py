"""LoLa: settings of the tagger, its network with or without a posterior, and what its training minimises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from hepcal.distributions import Distribution
from hepcal.methods.base import NetworkMethod, Positive, PositiveFloat
from hepcal.networks.bayesian import START_RHO, MeanFieldPosterior, gaussian_kl, log_softplus
from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import Head
from hepcal.networks.inference import BLOCK
from hepcal.networks.objectives import ACTIVE_NATS, HELD_OUT_SAMPLES, HELD_OUT_SEED, Objective, TrainingSet
from hepcal.networks.optimisation import ScheduleName
from hepcal.statistics import CENTRAL, weighted_quantiles
from hepcal.tagging.lorentz import LorentzLayout, PreparedJets

__all__ = ["ClassHead", "LoLa", "LoLaNetwork", "TaggerObjective"]


class ClassHead(Head):
    """One logit: ln of the probability of signal over that of background. A class has no width and no density."""

    outputs = 1
    has_density = False

    def start(self, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.start`."""
        return torch.logit(target.mean(), eps=1e-6)[None]

    def nll(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross entropy of targets 0 and 1."""
        logit = outputs[..., 0]
        return binary_cross_entropy_with_logits(logit, target.expand_as(logit), reduction="none")

    @torch.no_grad()
    def gradient(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See :meth:`Head.gradient`."""
        return torch.sigmoid(outputs) - target.unsqueeze(-1)

    def distribution(self, outputs: torch.Tensor) -> Distribution:
        """There is none.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a class is not stochastic given its probability: there is no density")

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """The logit: errors of a probability live there."""
        return outputs[..., 0]

    @torch.no_grad()
    def fisher_root(self, outputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG002
        """See :meth:`Head.fisher_root`; exact: p (1 - p)."""
        probability = torch.sigmoid(outputs)
        return (probability * (1 - probability)).sqrt()[None]


class LoLa(NetworkMethod):
    """Lorentz-layer tagger (arXiv:1707.08966), deterministic or Bayesian.

    Attributes:
        bayesian: Gaussian weights in all layers, with the statistical error of the training per jet.
        prior_width: Width of the Gaussian prior of every weight. Without a posterior it sets the L2 strength
            1 / (2 prior_width² N) per jet.
        draws: Weight draws saved with a Bayesian tagger; sigma_logit has a relative error of 1/sqrt(2 (draws - 1)).
        constituents: Hardest constituents that are used, at most.
        leading: Hardest constituents that enter the Lorentz layer as vectors of their own, beside sums.
        combinations: Trainable linear combinations of constituents.
    """

    name: ClassVar[str] = "lola"

    bayesian: bool = True
    prior_width: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.1
    draws: Annotated[int, Field(ge=2)] = 50
    constituents: Annotated[int, Field(ge=2)] = 60
    leading: Positive = 20
    combinations: Positive = 15
    hidden: tuple[Positive, ...] = (100, 100, 50)
    batch: Positive = 500
    schedule: ScheduleName = "cosine"
    learning_rate: PositiveFloat = 3e-3
    max_updates: Positive = 4_000

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> TaggerObjective:
        """The negative ELBO per jet, or cross entropy with L2."""
        network = LoLaNetwork(*self.layouts(sample.inputs // 4), generator, self.prior_width, bayesian=self.bayesian)
        return TaggerObjective(network, sample.n_eff, self.prior_width, self.networks)

    def layouts(self, slots: int) -> tuple[LorentzLayout, DenseLayout]:
        """The Lorentz layer and the dense layers for jets with so many slots."""
        used = min(self.constituents, slots)
        lorentz = LorentzLayout(used, min(self.leading, used), self.combinations)
        return lorentz, DenseLayout((lorentz.outputs, *self.hidden, 1))

    def build_head(self) -> Head:
        """See :meth:`NetworkMethod.build_head`."""
        return ClassHead()

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return self.draws if self.bayesian else 1


class LoLaNetwork(torch.nn.Module):
    """Lorentz layer, fixed standardisation, dense layers; all weights Gaussian, or none.

    Args:
        lorentz: Combination and Lorentz layer.
        dense: Dense layers behind it.
        generator: Random numbers for the starting means.
        prior_width: Widths do not start beyond it.
        bayesian: Whether weights have widths.
    """

    location: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        lorentz: LorentzLayout,
        dense: DenseLayout,
        generator: torch.Generator,
        prior_width: float,
        *,
        bayesian: bool,
    ) -> None:
        super().__init__()
        start = min(START_RHO, math.log(math.expm1(min(prior_width, 1.0))))
        self.layout, self.bayesian = lorentz, bayesian
        self.mean = torch.nn.Parameter(lorentz.start(generator))
        rho = torch.full((lorentz.count,), start if bayesian else -math.inf, dtype=torch.float32, device="cpu")
        self.rho = torch.nn.Parameter(rho, requires_grad=bayesian)
        self.dense = MeanFieldPosterior(dense, generator, start, frozen=not bayesian)
        self.register_buffer("location", torch.zeros(lorentz.outputs, dtype=torch.float32, device="cpu"))
        self.register_buffer("scale", torch.ones(lorentz.outputs, dtype=torch.float32, device="cpu"))

    @torch.no_grad()
    def standardise(self, jets: torch.Tensor, weight: torch.Tensor) -> None:
        """Fix the standardisation behind the Lorentz layer, for its starting weights: median, half 68.27 % width.

        Args:
            jets: Typical jets (n, 4 P) [GeV].
            weight: Shape (n,).
        """
        found = self.layout.forward(self.layout.prepare(jets.T.contiguous()), self.mean.detach().cpu())
        for output, values in enumerate(found.double().numpy()):
            low, middle, high = weighted_quantiles(values, weight.double().numpy(), CENTRAL)
            width = float(high - low) / 2
            # A number that most jets share, such as that of an empty slot, keeps its unit.
            self.location[output], self.scale[output] = float(middle), width if width > 1e-3 else 1.0

    def forward(self, jets: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Logits (b, 1) of jets (b, 4 P) for a loss.

        The Lorentz layer has one weight draw for all jets, the dense layers one for every jet (local
        reparametrisation, see :class:`hepcal.networks.bayesian.MeanFieldPosterior`).
        """
        prepared = self.layout.prepare(jets.T.contiguous())
        if not self.bayesian:
            return self.dense.layout.forward(self.dense.mean, self._standardised(prepared, self.mean))
        noise = torch.randn(self.layout.count, generator=generator, dtype=torch.float32, device="cpu").to(jets.device)
        x = self._standardised(prepared, self.mean + softplus(self.rho) * noise)
        logits: torch.Tensor = self.dense(x, generator, "local")
        return logits

    def _standardised(self, jets: PreparedJets, weights: torch.Tensor) -> torch.Tensor:
        """Inputs (b, outputs) of the dense layers."""
        found = self.layout.forward(jets, weights)
        return ((found - self.location.unsqueeze(-1)) / self.scale.unsqueeze(-1)).T.contiguous()

    def kl(self, prior_width: float) -> torch.Tensor:
        """KL divergence from the prior summed over all weights; without widths its L2 counterpart."""
        return self._each(prior_width).sum()

    def _each(self, prior_width: float) -> torch.Tensor:
        mean = torch.cat([self.mean, self.dense.mean])
        if not self.bayesian:
            return 0.5 * (mean / prior_width) ** 2
        rho = torch.cat([self.rho, self.dense.rho])
        return gaussian_kl(mean, softplus(rho), prior_width, log_softplus(rho))

    @torch.no_grad()
    def figures(self, prior_width: float) -> dict[str, float]:
        """KL divergence [nats] and share of weights away from the prior by more than a tenth of a nat."""
        if not self.bayesian:
            return {}
        each = self._each(prior_width).double()
        return {"kl": float(each.sum()), "active_weights": float((each > ACTIVE_NATS).double().mean())}

    @torch.no_grad()
    def draw(self, draws: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Weights as a tagger keeps them, on the CPU: one network, or draws of the posterior."""
        if not self.bayesian:
            lorentz, dense = self.mean.detach().cpu()[None], self.dense.mean.detach().cpu()[None]
        else:
            noise = torch.randn((draws, self.layout.count), generator=generator, dtype=torch.float32, device="cpu")
            lorentz = self.mean.detach().cpu() + softplus(self.rho.detach().cpu()) * noise
            dense = self.dense.draw(draws, generator)
        scaling = {"feature_location": self.location.cpu(), "feature_scale": self.scale.cpu()}
        return {"lorentz_draws": lorentz, "dense_draws": dense, **scaling}


class TaggerObjective(Objective):
    """Weighted mean of the cross entropy plus KL / N, or plus the L2 term that a Gaussian prior means.

    Args:
        network: The tagger.
        n_eff: Effective number of training jets.
        prior_width: Width of the prior.
        draws: Weight draws to keep.
    """

    module: LoLaNetwork

    def __init__(self, network: LoLaNetwork, n_eff: float, prior_width: float, draws: int) -> None:
        self.module, self.n_eff, self.prior_width, self.draws = network, n_eff, prior_width, draws
        self.head = ClassHead()

    def loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """See :meth:`Objective.loss`."""
        nll = self.head.nll(self.module(x, generator), y)
        return (w * nll).mean() + self.module.kl(self.prior_width) / self.n_eff

    @torch.no_grad()
    def held_out_loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The same with held-out jets, block by block."""
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        samples = HELD_OUT_SAMPLES if self.module.bayesian else 1
        total = 0.0
        for jets, target, weight in zip(*(torch.split(part, BLOCK) for part in (x, y, w)), strict=True):
            for _ in range(samples):
                nll = self.head.nll(self.module(jets, generator), target)
                total += float(torch.sum(weight.double() * nll.double())) / samples
        kl = float(self.module.kl(self.prior_width).double())
        return torch.tensor([total / float(w.double().sum()) + kl / self.n_eff], dtype=torch.float64, device="cpu")

    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """See :meth:`Objective.tensors`."""
        return self.module.draw(self.draws, generator)

    def figures(self) -> dict[str, float]:
        """See :meth:`Objective.figures`."""
        return self.module.figures(self.prior_width)
