"""Where the training of a Gaussian Ansatz begins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hepcal.errors import TrainingError
from hepcal.methods.ansatz.calibrator import Start
from hepcal.methods.ansatz.network import AnsatzLayout, AnsatzNetworks
from hepcal.methods.training.curves import Polynomial, least_squares, normal_equations, solution
from hepcal.networks.dense import DenseLayout
from hepcal.statistics import weighted_quantiles

__all__ = ["inversion", "starting_point"]

# Of the fit of reco against truth; a quadratic one that is not clearly monotonic gives way to a straight line.
DEGREE = 2
LEAST_SLOPE = 0.2
GRID = 513
WIDTH_BINS = 10
# Rows and iterations of the fits that put a network on a known function.
FITTED_ROWS = 20_000
FIT_ITERATIONS = 40
# A network that is that close to a straight line, in standard deviations, needs no fit of its hidden layers.
STRAIGHT = 1e-3
# Truth values that stand for the spectrum in the start of A.
NODES = 64

Function = Callable[[np.ndarray], np.ndarray]


def starting_point(
    layout: AnsatzLayout, start: Start, x: np.ndarray, z: np.ndarray, weight: np.ndarray, generator: torch.Generator
) -> torch.Tensor:
    """Parameters to begin with, float64 of shape (count,).

    A begins where the loss is smallest for the B and C of the start: at -ln of the mean of e^((z - B)² C / 2) over the
    truth spectrum, for which e^T has the mean one at each x.

    Args:
        layout: The networks.
        start: ``inversion``, ``mse`` or ``random``.
        x: Standardised inputs, shape (n, d); the first is the measured counterpart of z.
        z: Standardised truth, shape (n,).
        weight: Shape (n,); negative ones count in the fit of reco against truth, and not for the hidden layers.
        generator: Random numbers.

    Raises:
        TrainingError: The first input does not grow with the truth.
    """
    chosen = torch.randperm(len(z), generator=generator, device="cpu")[:FITTED_ROWS].numpy()
    flat = layout.start(generator).double()
    parts = layout.split(flat)
    rows = torch.from_numpy(x[chosen])
    z_rows, w_rows = torch.from_numpy(z[chosen]), torch.from_numpy(np.maximum(weight[chosen], 0))
    b, c = np.zeros(len(chosen)), np.full(len(chosen), -1.0)
    if start == "inversion":
        inverse, curvature = inversion(x[:, 0], z, weight)
        b, c = inverse(x[chosen, 0]), curvature(z[chosen])
        _set_line(layout.parts["b_line"], parts["b_line"], x[chosen], b, w_rows.numpy(), slice(0, 1))
    elif start == "mse":
        _set_line(layout.parts["b_line"], parts["b_line"], x, z, weight, slice(None))
    argument = np.log(np.expm1(-c)) if layout.constrained else c
    with_z = torch.cat([rows, z_rows[:, None]], 1)
    last = slice(layout.inputs, None)
    _set_line(layout.parts["c_line"], parts["c_line"], with_z.numpy(), argument, w_rows.numpy(), last)
    if start == "inversion" and not layout.affine:
        _bend(layout, parts, "b", rows, torch.from_numpy(b), w_rows)
        _bend(layout, parts, "c", with_z, torch.from_numpy(argument), w_rows)
    nodes = weighted_quantiles(z, np.maximum(weight, 0), ((np.arange(NODES) + 0.5) / NODES).tolist())
    target = _normaliser(AnsatzNetworks(layout, flat), rows, torch.from_numpy(nodes))
    _fit(layout.parts["a"], parts["a"], rows, target, w_rows)
    return flat


def inversion(x: np.ndarray, z: np.ndarray, weight: np.ndarray) -> tuple[Function, Function]:
    """Numerical inversion by a low-order weighted fit g of x against z (arXiv:2205.05084, Eqs. 10, 11).

    Args:
        x: Measured values, shape (n,).
        z: Truth, shape (n,).
        weight: Weights, shape (n,).

    Returns:
        B_0 = g^-1 as a function of x, continued in a straight line outside the range of the fit, and
        C_0 = -g'(z)² / Var[x | z] as a function of z, the variance being the exponential of a straight line.

    Raises:
        TrainingError: x does not grow with z.
    """
    grid = np.linspace(z.min(), z.max(), GRID)
    for degree in range(DEGREE, 0, -1):
        g = _polynomial(z, x, weight, degree)
        values = g(grid)
        slope = (values[-1] - values[0]) / (grid[-1] - grid[0])
        if slope > 0 and np.diff(values).min() > LEAST_SLOPE * slope * (grid[1] - grid[0]):
            break
    else:
        raise TrainingError("numerical inversion finds no start: the detector-level p_T does not grow with the truth")
    width = _log_variance(z, x - g(z), weight)
    derivative = g.deriv()

    def inverse(x: np.ndarray) -> np.ndarray:
        inside: np.ndarray = np.interp(x, values, grid)
        outside = np.where(x < values[0], (x - values[0]) / derivative(grid[0]), 0)
        return inside + np.where(x > values[-1], (x - values[-1]) / derivative(grid[-1]), outside)

    return inverse, lambda z: -(derivative(z) ** 2) / np.exp(width(z))


def _polynomial(z: np.ndarray, y: np.ndarray, weight: np.ndarray, degree: int) -> np.polynomial.Polynomial:
    """Weighted least squares in powers of truth scaled to -1 ... 1; weights of either sign."""
    low, high = float(z.min()), float(z.max())
    basis = Polynomial(degree, low, high)
    (fit,) = least_squares(normal_equations(basis, z, y, weight[:, None], 1.0), np.empty((0, degree + 1)))
    return np.polynomial.Polynomial(solution(*fit), domain=(low, high))


def _log_variance(z: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> np.polynomial.Polynomial:
    """Logarithm of the variance of residuals as a straight line in z, from bins of equal numbers of events."""
    points, values = [], []
    for rows in np.array_split(np.argsort(z, kind="stable"), WIDTH_BINS):
        total = weight[rows].sum()
        variance = np.sum(weight[rows] * residual[rows] ** 2) / total if total > 0 else 0.0
        if variance > 0:
            points.append(np.mean(z[rows]))
            values.append(np.log(variance))
    if len(points) < WIDTH_BINS // 2:
        raise TrainingError("numerical inversion finds no start: too many negative weights, or no resolution at all")
    return np.polynomial.Polynomial.fit(points, values, 1).convert()


def _set_line(
    layout: DenseLayout, flat: torch.Tensor, x: np.ndarray, target: np.ndarray, weight: np.ndarray, columns: slice
) -> None:
    """Put a straight line on a target by weighted least squares, in some of its inputs; the others get zero."""
    used = np.concatenate([x[:, columns], np.ones((len(x), 1))], 1)
    weighted = used.T * weight
    found = np.linalg.lstsq(weighted @ used, weighted @ target, rcond=None)[0]
    (line, offset), *_ = layout.split(flat)
    assert offset is not None  # noqa: S101 - lines have an offset
    line[0, columns] = torch.from_numpy(found[:-1])
    offset[0] = float(found[-1])


def _bend(
    layout: AnsatzLayout,
    parts: dict[str, torch.Tensor],
    name: str,
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
) -> None:
    """Put the hidden layers of B or C on what the straight line leaves."""
    rest = target - layout.parts[f"{name}_line"].forward(parts[f"{name}_line"], x)[:, 0]
    if float((weight * rest**2).sum() / weight.sum()) > STRAIGHT**2:
        _fit(layout.parts[f"{name}_bend"], parts[f"{name}_bend"], x, rest, weight)


def _fit(layout: DenseLayout, flat: torch.Tensor, x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> None:
    """Least squares by L-BFGS, in place."""
    moving = flat.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [moving], max_iter=FIT_ITERATIONS, history_size=FIT_ITERATIONS, line_search_fn="strong_wolfe"
    )
    share = weight / weight.sum()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (share * (layout.forward(moving, x)[:, 0] - target) ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    if torch.isfinite(moving).all():
        flat.copy_(moving.detach())


@torch.no_grad()
def _normaliser(networks: AnsatzNetworks, x: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """-ln of the mean of e^(T - A) over the truth spectrum, of mean zero over the events; shape (n,)."""
    found = []
    for rows in torch.split(x, 1024):
        t = networks(rows, nodes[:, None].expand(-1, len(rows))) - networks.a(rows)
        found.append(-torch.logsumexp(t, 0))
    target = torch.cat(found)
    return target - target.mean()
