"""The Gaussian Ansatz (arXiv:2205.03413; arXiv:2205.05084, Eq. 35) and its Donsker-Varadhan loss (Eq. 14).

For one truth value z and inputs x,

    T(x, z) = A(x) + (z - B(x))² C(x, z) / 2,

the form of Eq. 35 with D = 0. At the minimum of the loss T is ln p(x | z) - ln p(x) up to a constant: B(x) is the z of
largest likelihood whatever the truth spectrum of the training, and -1 / C(x, B(x)) its variance (Eqs. 36, 37). C is
negative by construction, so that B is the maximum of T for every x; where the likelihood has one global maximum this
costs no generality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import linear, softplus

from hepcal.networks.dense import DenseLayout

__all__ = [
    "AnsatzLayout",
    "AnsatzNetworks",
    "DVRValue",
    "Pairing",
    "dvr_loss",
    "dvr_loss_in_blocks",
    "dvr_value",
    "grid_maximum",
]

# Pairs whose hidden layers stay in the cache.
PAIRS = 8192


@dataclass(frozen=True, slots=True)
class AnsatzLayout:
    """Where the parameters of A, B and C sit in one flat vector.

    B and the argument of C are a straight line plus, unless ``affine``, a dense ReLU network; A is a dense network.

    Attributes:
        inputs: Number d of inputs x.
        hidden: Units of the hidden layers.
        affine: Whether B and the argument of C are straight lines.
        constrained: Whether C = -softplus(argument), negative everywhere, or C = argument.
    """

    inputs: int
    hidden: tuple[int, ...]
    affine: bool = False
    constrained: bool = True

    @property
    def parts(self) -> dict[str, DenseLayout]:
        """Layouts by name, in the order of the flat vector."""
        x, xz = self.inputs, self.inputs + 1
        found = {"a": DenseLayout((x, *self.hidden, 1)), "b_line": DenseLayout((x, 1)), "c_line": DenseLayout((xz, 1))}
        if not self.affine:
            found["b_bend"] = DenseLayout((x, *self.hidden, 1))
            found["c_bend"] = DenseLayout((xz, *self.hidden, 1))
        return found

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(part.count for part in self.parts.values())

    def split(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of a flat vector (count,) by the names of :attr:`parts`."""
        found, start = {}, 0
        for name, part in self.parts.items():
            found[name] = flat[start : start + part.count]
            start += part.count
        return found

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Random hidden layers, all outputs zero.

        The kinks of the first layer are spread over standardised inputs: with zero biases all would lie at one point.
        """
        flat = torch.zeros(self.count, dtype=torch.float32, device="cpu")
        for name, values in self.split(flat).items():
            layout = self.parts[name]
            if name.endswith("_line"):
                continue
            values.copy_(layout.start(generator))
            (first, kinks), (last, _) = layout.split(values)[0], layout.split(values)[-1]
            assert kinks is not None  # noqa: S101 - these layouts have biases
            kinks.copy_(
                -(first * torch.randn(first.shape, generator=generator, dtype=torch.float32, device="cpu")).sum(1)
            )
            last.zero_()
        return flat


class AnsatzNetworks:
    """A, B and C with given parameters.

    Args:
        layout: Their form.
        flat: Parameters, shape (count,).
        dtype: What is computed with, and the dtype of all arguments; default: that of the parameters.
    """

    def __init__(self, layout: AnsatzLayout, flat: torch.Tensor, dtype: torch.dtype | None = None) -> None:
        if flat.shape != (layout.count,):
            raise ValueError(f"expected {layout.count} parameters, found a tensor of shape {tuple(flat.shape)}")
        self.layout, self.flat, self.dtype = layout, flat, dtype or flat.dtype
        self._layouts = layout.parts
        self._parts = layout.split(flat.to(self.dtype))

    def renewed(self) -> AnsatzNetworks:
        """The same parameters with a graph of their own."""
        return AnsatzNetworks(self.layout, self.flat, self.dtype)

    def a(self, x: torch.Tensor) -> torch.Tensor:
        """A(x) for standardised inputs (n, d), shape (n,)."""
        return self._layouts["a"].forward(self._parts["a"], x)[:, 0]

    def b(self, x: torch.Tensor) -> torch.Tensor:
        """B(x), the calibrated standardised truth, shape (n,)."""
        found = self._layouts["b_line"].forward(self._parts["b_line"], x)
        if not self.layout.affine:
            found = found + self._layouts["b_bend"].forward(self._parts["b_bend"], x)
        return found[:, 0]

    def c(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """C(x, z) for standardised truth of shape (n,), or (k, n): k values for each x."""
        argument = self.c_argument(x, z)
        return -softplus(argument) if self.layout.constrained else argument

    def c_argument(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """What the sign constraint is applied to; shape of z."""
        found = _on_pairs(self._layouts["c_line"], self._parts["c_line"], x, z)
        if not self.layout.affine:
            found = found + _on_pairs(self._layouts["c_bend"], self._parts["c_bend"], x, z)
        return found

    def __call__(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """T(x, z); shape of z."""
        return self.a(x) + 0.5 * (z - self.b(x)) ** 2 * self.c(x, z)


def _on_pairs(layout: DenseLayout, flat: torch.Tensor, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """A network of (x, z) for each x (n, d) with its z (n,) or (k, n); shape of z.

    The first layer is the sum of a part of x, computed once, and one of z.
    """
    (weight, bias), *rest = layout.split(flat)
    units = linear(x, weight[:, :-1], bias) + z[..., None] * weight[:, -1]
    for weight, bias in rest:
        units = linear(torch.relu(units), weight, bias)
    return units[..., 0]


@dataclass(frozen=True, slots=True)
class Pairing:
    """Pairs (x_i, z_j) that stand for the product of the marginals; pair (i, j) has the weight w_i w_j.

    The first partner of each x is its own truth, which is one of the n pairs: without it T of a lone event far from
    all others could grow without bound.

    Attributes:
        partner: Index j of the truth for each x_i, int64 of shape (1 + k, n), j = i in the first row.
        log_weight: ln |w_i w_j|, minus the logarithm of the sum over all pairs, float64 of the same shape. Where a
            pair stands for several, their number is part of the weight.
        sign: Sign of w_i w_j, of the same shape; None if none is negative.
    """

    partner: torch.Tensor
    log_weight: torch.Tensor
    sign: torch.Tensor | None

    @classmethod
    def draw(cls, z: torch.Tensor, weight: torch.Tensor, cells: int, generator: torch.Generator) -> Pairing:
        """Every x meets one truth value, drawn at random, of each cell of the truth range.

        A pair of a cell with m of the n events stands for m pairs. Plain permutations are the case of one cell: there
        an x in the tail of the spectrum seldom meets a z that its likelihood knows, and then with a large e^T. Cells
        are equal in the mean of two shares: that of the events and that of the range.

        Args:
            z: Truth, shape (n,).
            weight: Weights, shape (n,), of either sign.
            cells: Number of cells; empty ones are left out.
            generator: Random numbers, on the CPU.
        """
        n = len(z)
        truth, order = z.cpu().double().sort(stable=True)
        width = (truth[-1] - truth[0]).clamp_min(1e-300)
        position = (
            0.5 * (torch.arange(n, dtype=torch.float32, device="cpu") + 0.5) / n + 0.5 * (truth - truth[0]) / width
        )
        counts = torch.bincount((cells * position).long().clamp_max(cells - 1), minlength=cells)
        columns = []
        for events in torch.split(order, counts[counts > 0].tolist()):
            # Each event of the cell is used equally often, up to one.
            shuffled = events[torch.randperm(len(events), generator=generator, device="cpu")]
            columns.append(shuffled[torch.randperm(n, generator=generator, device="cpu") % len(events)])
        return cls.of(torch.stack(columns).to(z.device), weight, counts[counts > 0].to(z.device))

    @classmethod
    def of(cls, partner: torch.Tensor, weight: torch.Tensor, stands_for: torch.Tensor | None = None) -> Pairing:
        """From partners, int64 of shape (k, n), in rows that stand for so many pairs (k,) each; default one."""
        own, weight = torch.arange(len(weight), device=weight.device), weight.double()
        product = weight * weight[partner] * (partner != own)
        if stands_for is not None:
            product = product * stands_for[:, None]
        product = torch.cat([weight.square()[None], product])
        log_weight = product.abs().log() - product.sum().log()
        sign = product.sign() if bool((product < 0).any()) else None
        return cls(torch.cat([own[None], partner]), log_weight, sign)

    def log_mean(self, t: torch.Tensor) -> torch.Tensor:
        """Logarithm of the weighted mean of e^t over all pairs (1 + k, n); NaN where negative weights outweigh."""
        exponent = t.double() + self.log_weight
        if self.sign is None:
            return torch.logsumexp(exponent.reshape(-1), 0)
        top = exponent.detach().max()
        return top + (self.sign * (exponent - top).exp()).sum().log()

    def share(self, t: torch.Tensor, log_mean: torch.Tensor) -> torch.Tensor:
        """Share of each pair (1 + k, n) in the weighted mean of e^t, float64."""
        share = (t.double() + self.log_weight - log_mean).exp()
        return share if self.sign is None else share * self.sign


def dvr_loss(
    networks: AnsatzNetworks, x: torch.Tensor, z: torch.Tensor, weight: torch.Tensor, pairing: Pairing
) -> torch.Tensor:
    """-(E_joint[T] - ln E_marginals[e^T]), Eq. 14, at least -I(X; Z) [nats] in the limit of many events.

    It does not change when a constant is added to T.

    Args:
        networks: A, B, C.
        x: Standardised inputs, shape (n, d).
        z: Standardised truth, shape (n,).
        weight: Weights, shape (n,): the first term is the mean with them, the second has w_i w_j.
        pairing: Partners of these n events among themselves.

    Returns:
        A scalar with a gradient; NaN or infinite where the weights or T allow none.
    """
    t = networks(x, z[pairing.partner])
    return pairing.log_mean(t) - (weight.double() * t[0]).sum() / weight.double().sum()


def dvr_loss_in_blocks(
    networks: AnsatzNetworks, x: torch.Tensor, z: torch.Tensor, weight: torch.Tensor, pairing: Pairing
) -> torch.Tensor:
    """:func:`dvr_loss` of a whole sample, its gradient added to that of ``networks.flat``; without a graph.

    Memory is that of a block of rows: a first pass finds the mean of e^T, a second one its gradient.
    """
    truth = z[pairing.partner]
    parts = _blocks(truth)
    with torch.no_grad():
        t = torch.cat([networks(x[part], truth[:, part]) for part in parts], 1)
        log_mean = pairing.log_mean(t)
        slope = pairing.share(t, log_mean)
        scaled = weight.double() / weight.double().sum()
        slope[0] -= scaled
        slope = slope.to(t.dtype)
    for part in parts:
        # The views of the flat vector lose their graph in each backward pass.
        networks = networks.renewed()
        networks(x[part], truth[:, part]).backward(slope[:, part])  # type: ignore[no-untyped-call]
    return log_mean - (scaled * t[0]).sum()


def _blocks(truth: torch.Tensor) -> list[slice]:
    """Rows of (k, n) pairs whose hidden layers stay in the cache."""
    rows = max(1, PAIRS // len(truth))
    return [slice(start, start + rows) for start in range(0, truth.shape[1], rows)]


@dataclass(frozen=True, slots=True)
class DVRValue:
    """The mutual information [nats] that T shows on a sample: minus the loss.

    Attributes:
        value: The estimate; not more than I(X; Z) but for its error.
        influence: What each event adds to it, shape (n,), of mean zero; the difference of two values on one sample
            has the error of the difference of their influences.
    """

    value: float
    influence: torch.Tensor

    @property
    def unc(self) -> float:
        """Statistical error of the value."""
        return _error(self.influence)

    def unc_of_difference(self, other: DVRValue) -> float:
        """Statistical error of the difference of two values on one sample."""
        return _error(self.influence - other.influence)


def _error(influence: torch.Tensor) -> float:
    return float((influence - influence.mean()).square().mean().sqrt()) / math.sqrt(len(influence))


@torch.no_grad()
def dvr_value(
    networks: AnsatzNetworks, x: torch.Tensor, z: torch.Tensor, weight: torch.Tensor, pairing: Pairing
) -> DVRValue:
    """Minus :func:`dvr_loss`, and its statistical error: first order in the events, as x and as z."""
    truth = z[pairing.partner]
    t = torch.cat([networks(x[part], truth[:, part]) for part in _blocks(truth)], 1).double()
    log_mean = pairing.log_mean(t)
    share = pairing.share(t, log_mean)
    scaled = weight.double() / weight.double().sum()
    mean = (scaled * t[0]).sum()
    as_z = torch.zeros_like(t[0]).index_add_(0, pairing.partner.reshape(-1), share.reshape(-1))
    influence = len(z) * (scaled * (t[0] - mean + 2) - share.sum(0) - as_z)
    return DVRValue(float(mean - log_mean), influence)


@torch.no_grad()
def grid_maximum(networks: AnsatzNetworks, x: torch.Tensor, low: float, high: float, points: int = 256) -> torch.Tensor:
    """The z in [low, high] where T(x, z) is largest, by a grid and a finer one around its best point.

    Args:
        networks: A, B, C.
        x: Standardised inputs, shape (n, d).
        low: Lower end of the grid.
        high: Upper end.
        points: Of each grid; the answer is exact to (high - low) / points² or better.

    Returns:
        Shape (n,).
    """
    grid = torch.linspace(low, high, points, dtype=x.dtype, device=x.device)
    step = (high - low) / (points - 1)
    found = []
    for part in torch.split(x, max(1, PAIRS // points)):
        around = grid[networks(part, grid[:, None].expand(-1, len(part))).argmax(0)]
        fine = (around + torch.linspace(-step, step, points, dtype=x.dtype, device=x.device)[:, None]).clamp(low, high)
        found.append(fine.gather(0, networks(part, fine).argmax(0, keepdim=True))[0])
    return torch.cat(found)
