r"""Mean and variance of a Bayesian network in two passes, without weight draws.

Forwards, means and variances of the units are carried through the layers. For independent Gaussian weights of means M
and widths S, and independent inputs of means e and variances v, the pre-activations have exactly

.. math:: m = M e + b, \qquad v' = S^2 (e^2 + v) + s_b^2 + M^2 v

and, taken as Gaussian, leave a ReLU with the moments of a rectified Gaussian (as in arXiv:1502.05336).

Units of one layer are correlated, though, since they share the units before them. In trained posteriors few units
carry the signal, and without the correlations sigma_pred comes out two to four times too small. Backwards, derivatives
of the outputs therefore add what the covariances contribute, to first order in the ReLU: for a layer of variances V in
front of mean weights M, with d the derivatives by the pre-activations behind it, the output variance grows by

.. math:: \sum_j V_j \Big[ \big(\sum_i M_{ij} d_i\big)^2 - \sum_i M_{ij}^2 d_i^2 \Big]

What is missed: covariances in the variances of inner units, their higher orders in the ReLU, and that pre-activations
behind the first layer are not exactly Gaussian.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import torch

from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import SIGMA_FLOOR
from hepcal.networks.inference import with_bias_column

__all__ = ["MomentPropagation", "Propagation"]

# exp of less than -30 is 1e-13: nothing in float32, but on the way to denormals, which are very slow.
REACH = math.sqrt(30.0)
# Added to variances, so that a standard deviation can divide. In units of a standardised input.
VARIANCE_FLOOR = 1e-20
# Nodes of the Gauss-Hermite rule: exact for polynomials in the raw width up to degree 17.
NODES = 9


class MomentPropagation:
    """A mean-field posterior with a Gaussian likelihood, ready for inference without draws.

    Deterministic and several times faster than 50 draws, but it gives moments only: neither replicas nor
    correlations between jets.

    Args:
        layout: The network; its outputs are the mean and the raw width of the Gaussian head.
        mean: Means of all parameters, float32 of shape (count,).
        sigma: Widths of all parameters, same shape.
        device: Where to compute.

    Raises:
        ValueError: The network does not have two outputs.
    """

    def __init__(self, layout: DenseLayout, mean: torch.Tensor, sigma: torch.Tensor, device: torch.device) -> None:
        if layout.sizes[-1] != 2:
            raise ValueError(f"a Gaussian head has two outputs, the network has {layout.sizes[-1]}")
        self._propagation = Propagation(layout, mean, sigma, device)
        nodes, weights = np.polynomial.hermite.hermgauss(NODES)
        self._nodes = torch.from_numpy(math.sqrt(2) * nodes).to(device)
        self._weights = torch.from_numpy(weights / math.sqrt(math.pi)).to(device)

    def __call__(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, sigma_stoch and sigma_pred in units of the target scale.

        sigma_stoch² is the expected square of softplus(raw) + floor, by Gauss-Hermite quadrature over the raw width
        (arXiv:2003.11099, Eqs. 5-7, with the integral over the weights done on the moments).

        Args:
            inputs: Standardised inputs, float32 of shape (d, n); n = BLOCK on a CPU, see
                :class:`hepcal.networks.inference.WeightDraws`.

        Returns:
            float64 of shape (n,) each, new.
        """
        mean, variance = self._propagation(inputs)
        raw = mean[1] + variance[1].sqrt() * self._nodes[:, None]
        width = (torch.nn.functional.softplus(raw.float()) + SIGMA_FLOOR).double()
        return mean[0], (self._weights @ width.square_()).sqrt_(), variance[0].sqrt()


class Propagation:
    """Means and variances of the outputs of a mean-field posterior.

    Args:
        layout: The network.
        mean: Means of all parameters, float32 of shape (count,).
        sigma: Widths of all parameters, same shape.
        device: Where to compute.
    """

    def __init__(self, layout: DenseLayout, mean: torch.Tensor, sigma: torch.Tensor, device: torch.device) -> None:
        self._device = device
        self._layout = layout
        self._scratch = threading.local()
        last = len(layout.sizes) - 2
        layers = zip(layout.split(mean.detach()), layout.split(sigma.detach()), strict=True)
        self._layers = [
            _Layer.of(centre, width, first=number == 0, last=number == last).to(device)
            for number, (centre, width) in enumerate(layers)
        ]

    def __call__(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances of the outputs.

        Args:
            inputs: Standardised inputs without uncertainty, float32 of shape (d, n).

        Returns:
            float64 of shape (out, n) each, new.
        """
        stages, temporary = self._buffers(inputs.shape[1])
        stages[0].mean.copy_(inputs)
        for layer, source, target in zip(self._layers, stages, stages[1:], strict=False):
            torch.square(source.mean_and_one, out=source.square_and_one)
            hidden = target is not stages[-1]
            before = temporary[3, : len(target.mean)] if hidden else target.mean
            torch.mm(layer.to_mean, source.mean_and_one, out=before)
            if source is stages[0]:
                torch.mm(layer.to_noise, source.square_and_one, out=target.variance)
            else:
                source.square_and_one[:-1].add_(source.variance)
                torch.mm(layer.to_carried, source.variance, out=target.carried)
                torch.addmm(target.carried, layer.to_noise, source.square_and_one, out=target.variance)
            if hidden:
                _rectify(before, target, temporary)
        variance = stages[-1].variance.double()
        if len(stages) > 3:  # units of a first layer are independent, since the inputs are certain
            variance.add_(self._covariance(stages, temporary)).clamp_min_(0)
        return stages[-1].mean.double(), variance

    def _covariance(self, stages: list[_Stage], temporary: torch.Tensor) -> torch.Tensor:
        """What covariances of inner units add to the variances of the outputs, float64 of shape (out, n)."""
        first, *middle, last = stages[1:-1]
        # With g the derivative of an output by a unit, the layers add g² (4 V - gate² carried / 2) / 4. There is
        # nothing to take off behind the inputs, and behind the last hidden layer nothing to add.
        for stage in (*middle, last):
            stage.carried.mul_(stage.gate).mul_(stage.gate).mul_(-0.5)
        for stage in middle:
            stage.carried.add_(stage.variance)
        outer = 2 * self._layers[-1].to_mean[:, :-1]
        total = torch.mm(outer.square(), last.carried).double()
        for output, weights in zip(total, outer, strict=True):
            # Derivatives by the pre-activations, twice: gates come with a factor two, weights behind a ReLU with half.
            slopes = torch.mul(last.gate, weights[:, None], out=temporary[0, : len(last.gate)])
            for layer, stage in zip(self._layers[-2:0:-1], (*middle[::-1], first), strict=True):
                gradient, terms = temporary[1:3, : len(stage.mean)]
                torch.mm(layer.to_mean[:, :-1].T, slopes, out=gradient)
                torch.square(gradient, out=terms).mul_(stage.variance if stage is first else stage.carried)
                output.add_(terms.sum(0))
                if stage is not first:
                    slopes = torch.mul(gradient, stage.gate, out=temporary[0, : len(stage.mean)])
        return total / 4

    def _buffers(self, jets: int) -> tuple[list[_Stage], torch.Tensor]:
        """Workspace of the calling thread, allocated once per width of a block."""
        if getattr(self._scratch, "jets", None) != jets:
            sizes = self._layout.sizes
            self._scratch.stages = [_Stage.empty(size, jets, self._device) for size in sizes]
            self._scratch.temporary = torch.empty((4, max(sizes[1:]), jets), device=self._device, dtype=torch.float32)
            self._scratch.jets = jets
        return self._scratch.stages, self._scratch.temporary


@dataclass(frozen=True, slots=True)
class _Layer:
    """Matrices that turn moments of the units in front of a layer into those behind it, float32.

    The factors of :func:`_rectify` are included: a source behind a ReLU comes with twice its mean and four times its
    variance, a target in front of one gets twice its variance.

    Attributes:
        to_mean: (out, in + 1), from means and a one.
        to_noise: (out, in + 1), from squares and a one: the widths of the weights.
        to_carried: (out, in), from variances: the means of the weights.
    """

    to_mean: torch.Tensor
    to_noise: torch.Tensor
    to_carried: torch.Tensor

    @classmethod
    def of(
        cls,
        centre: tuple[torch.Tensor, torch.Tensor | None],
        width: tuple[torch.Tensor, torch.Tensor | None],
        *,
        first: bool,
        last: bool,
    ) -> _Layer:
        """From means and widths of weights and biases; squares and factors in float64."""
        mean = with_bias_column(*centre).double()
        noise = with_bias_column(*width).double().square()
        noise[:, -1] += VARIANCE_FLOOR
        carried = mean[:, :-1].square()
        if not first:
            mean[:, :-1] /= 2
            noise[:, :-1] /= 4
            carried /= 4
        if not last:
            noise *= 2
            carried *= 2
        return cls(mean.float(), noise.float(), carried.float())

    def to(self, device: torch.device) -> _Layer:
        """The same on a device."""
        return _Layer(self.to_mean.to(device), self.to_noise.to(device), self.to_carried.to(device))


@dataclass(frozen=True, slots=True)
class _Stage:
    """Moments of the units of one layer for a block of jets, with the factors of :func:`_rectify`.

    Attributes:
        mean_and_one: Means, and a row of ones that meets the biases.
        square_and_one: Expected squares, and a row of ones.
        mean: The means in ``mean_and_one``.
        variance: Variances.
        gate: Twice the probability that the unit is on.
        carried: The part of the variance in front of the ReLU that comes from the layer before.
    """

    mean_and_one: torch.Tensor
    square_and_one: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    gate: torch.Tensor
    carried: torch.Tensor

    @classmethod
    def empty(cls, size: int, jets: int, device: torch.device) -> _Stage:
        """Room for so many units and jets."""
        with_one = torch.ones((2, size + 1, jets), device=device, dtype=torch.float32)
        rest = torch.empty((3, size, jets), device=device, dtype=torch.float32)
        return cls(with_one[0], with_one[1], with_one[0, :-1], rest[0], rest[1], rest[2])


def _rectify(m: torch.Tensor, stage: _Stage, temporary: torch.Tensor) -> None:
    r"""Moments behind the ReLU; the variance takes the place of that before it.

    Before: the mean m and *twice* the variance v, so that z = m / sqrt(2 v) is one division. Behind:

    .. math:: 2 E = m (1 + \mathrm{erf} z) + \sqrt{2 v / \pi}\, e^{-z^2}, \qquad
              4 V = 2 v (1 + \mathrm{erf} z) + 2 \cdot 2 E (m - E)

    are left as *twice* the mean and *four times* the variance. The factors are in the matrices.
    """
    twice, v, gate = stage.mean, stage.variance, stage.gate
    width, z, bell = temporary[:3, : len(m)]
    torch.sqrt(v, out=width)
    torch.div(m, width, out=z).clamp_(-REACH, REACH)
    torch.erf(z, out=gate).add_(1)
    torch.square(z, out=bell).neg_().exp_()
    torch.mul(m, gate, out=twice).addcmul_(bell, width, value=1 / math.sqrt(math.pi))
    v.mul_(gate)
    torch.sub(m, twice, alpha=0.5, out=z).mul_(twice)
    # Of rounding size where the unit is off; a variance must not be negative.
    v.add_(z, alpha=2).clamp_min_(0)
