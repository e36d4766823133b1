"""Curves through jets: weighted least squares in truth p_T, by polynomials and by splines that bend as asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline
from scipy.optimize import nnls

from hepcal.errors import TrainingError

__all__ = [
    "LEAST_SPREAD",
    "Basis",
    "Equations",
    "PenalisedSpline",
    "Polynomial",
    "least_squares",
    "normal_equations",
    "positive_solution",
    "solution",
]

CUBIC = 3
# Of the response: a noise below this is none; ten times the rounding of float32.
LEAST_SPREAD = 1e-6
# Smoothness is searched for on a grid of so many values; the fit hardly depends on it.
STRENGTHS = 121


@dataclass(frozen=True)
class Equations:
    """Normal equations of many weighted fits of k functions to the same jets.

    Attributes:
        gram: Sum of w a aᵀ, shape (fits, k, k).
        moment: Sum of w a y, shape (fits, k).
        square: Sum of w y², shape (fits,).
        number: Sum of w, shape (fits,): the effective number of jets.
    """

    gram: np.ndarray
    moment: np.ndarray
    square: np.ndarray
    number: np.ndarray

    def __add__(self, other: Equations) -> Equations:
        return Equations(*(getattr(self, part) + getattr(other, part) for part in vars(self)))


class Basis(ABC):
    """Functions of truth, fitted to the response reco / truth by weighted least squares.

    Dividing by truth gives jets of all p_T about the same noise, so that the fit is close to the most precise one.
    """

    @abstractmethod
    def design(self, truth: np.ndarray, derivative: int = 0) -> np.ndarray:
        """Values, or derivatives, of all functions, float64 of shape (n, k)."""

    def smoothness(self, equations: Equations) -> np.ndarray:
        """Rows (r, k) whose squares, added to the first of the fits, make it as smooth as its data ask for."""
        return np.empty((0, equations.gram.shape[1]))

    def rising(self, rows: np.ndarray, values: np.ndarray, least_slope: float) -> np.ndarray:  # noqa: ARG002
        """Coefficients (k,) of the best curve with at least this slope, where the form can promise that."""
        return solution(rows, values)


class Polynomial(Basis):
    """Powers of centred and scaled truth.

    Args:
        degree: Highest power.
        low: Smallest truth [GeV].
        high: Largest truth [GeV].
    """

    def __init__(self, degree: int, low: float, high: float) -> None:
        self.center, self.scale = (low + high) / 2, (high - low) / 2
        self._powers = [np.polynomial.Polynomial.basis(power) for power in range(degree + 1)]

    def design(self, truth: np.ndarray, derivative: int = 0) -> np.ndarray:
        """See :meth:`Basis.design`."""
        v = (np.asarray(truth, dtype=np.float64) - self.center) / self.scale
        columns = [power.deriv(derivative)(v) / self.scale**derivative for power in self._powers]
        return np.stack(columns, axis=1)


class PenalisedSpline(Basis):
    """Cubic B-splines of truth that bend no more than the data ask for.

    The fit minimises the weighted squares plus lambda times the integral of (zᵐ g⁽ᵐ⁾)² d ln z: a mean square on the
    scale of ln p_T. Without evidence for more, the curve is a polynomial of degree m - 1. lambda is that of the largest
    restricted likelihood (Wood, J. R. Statist. Soc. B 73 (2011) 3), so that ends with few jets do not swing.

    Where coefficients rise, the curve rises: an I-spline with positive ones (Ramsay, Statist. Sci. 3 (1988) 425).

    Args:
        knots: Ends of the range and inner knots [GeV], rising.
        order: m.
    """

    def __init__(self, knots: np.ndarray, order: int) -> None:
        full = np.concatenate([[knots[0]] * CUBIC, knots, [knots[-1]] * CUBIC])
        count = len(full) - CUBIC - 1
        # With these coefficients the curve is the straight line g(z) = z.
        self.line = np.array([full[i + 1 : i + 1 + CUBIC].mean() for i in range(count)])
        self._splines = BSpline(full, np.eye(count), CUBIC)
        self.order = order
        at, share = np.polynomial.legendre.leggauss(2 * CUBIC)
        half = np.diff(knots)[:, None] / 2
        z = (knots[:-1, None] + half * (1 + at)).ravel()
        self.bend = self.design(z, order) * np.sqrt((half * share).ravel() * z ** (2 * order - 1))[:, None]

    def design(self, truth: np.ndarray, derivative: int = 0) -> np.ndarray:
        """See :meth:`Basis.design`."""
        return np.asarray(self._splines(np.asarray(truth, dtype=np.float64), nu=derivative))

    def smoothness(self, equations: Equations) -> np.ndarray:
        """See :meth:`Basis.smoothness`."""
        gram, moment, square, number = (part[0] for part in vars(equations).values())
        root = np.linalg.inv(cholesky(gram))
        stiffness, axes = np.linalg.eigh(root @ self.bend.T @ self.bend @ root.T)
        penalised = len(self.line) - self.order
        stiffness = np.append(np.zeros(self.order), stiffness[self.order :])
        strengths = np.geomspace(1e-4 / stiffness[-1], 1e8 / stiffness[self.order], STRENGTHS)
        shrink = 1 + strengths[:, None] * stiffness
        explained = ((axes.T @ (root @ moment)) ** 2 / shrink).sum(1)
        left = np.maximum(square - explained, number * LEAST_SPREAD**2)
        cost = (number - self.order) * np.log(left) + np.log(shrink).sum(1) - penalised * np.log(strengths)
        return np.asarray(np.sqrt(strengths[np.argmin(cost)]) * self.bend)

    def rising(self, rows: np.ndarray, values: np.ndarray, least_slope: float) -> np.ndarray:
        """See :meth:`Basis.rising`; the curve also starts above zero."""
        count = len(self.line)
        steps = np.tril(np.broadcast_to(np.append(self.line[0], np.diff(self.line)), (count, count)))
        floor = least_slope * self.line
        return np.asarray(floor + steps @ positive_solution(rows @ steps, values - rows @ floor))


def least_squares(equations: Equations, extra: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The fits as rows (k + r, k) and values (k + r,) whose squared differences they minimise.

    Args:
        equations: Of the fits.
        extra: Rows (r, k) that are added to each, with values zero. As rows and not as a matrix, they may be many
            orders of magnitude stronger than the data without a loss of digits.

    Raises:
        TrainingError: The equations do not determine a curve.
    """
    found = []
    for gram, moment in zip(equations.gram, equations.moment, strict=True):
        lower = cholesky(gram)
        values = np.concatenate([np.linalg.solve(lower, moment), np.zeros(len(extra))])
        found.append((np.concatenate([lower.T, extra]), values))
    return found


def solution(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The least-squares coefficients, shape (k,)."""
    scale = 1 / np.linalg.norm(rows, axis=0)
    return np.asarray(np.linalg.lstsq(rows * scale, values)[0] * scale)


def positive_solution(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The least-squares coefficients without negative ones, shape (k,)."""
    scale = 1 / np.linalg.norm(rows, axis=0)
    return np.asarray(nnls(rows * scale, values)[0] * scale)


def cholesky(gram: np.ndarray) -> np.ndarray:
    """Lower factor (k, k) of a Gram matrix, whatever the units of its rows.

    Raises:
        TrainingError: The matrix is singular or not positive.
    """
    diagonal = np.diag(gram)
    try:
        scale = np.sqrt(np.where(diagonal > 0, diagonal, np.nan))
        lower = np.linalg.cholesky(gram / scale[:, None] / scale)
        if not np.isfinite(lower).all():
            raise np.linalg.LinAlgError
    except np.linalg.LinAlgError as error:
        raise TrainingError(
            "the jets do not determine a curve of reco against truth p_T: there are too few of them, too many negative "
            "weights, or too few different truth values. Use fewer knots or a lower degree"
        ) from error
    return np.asarray(lower * scale[:, None])


def normal_equations(
    basis: Basis, truth: np.ndarray, response: np.ndarray, weights: np.ndarray, scale: np.ndarray | float
) -> Equations:
    """Normal equations of many fits to the same jets with different weights.

    Args:
        basis: Functions of truth.
        truth: [GeV], shape (n,).
        response: What is fitted by basis / scale, shape (n,).
        weights: Shape (n, fits).
        scale: What the functions are divided by, shape (n,), or one number.
    """
    a = basis.design(truth) / np.reshape(scale, (-1, 1))
    i, j = np.triu_indices(a.shape[1])
    y = np.reshape(response, (-1, 1))
    sums = weights.T @ np.concatenate([a[:, i] * a[:, j], a * y, y * y], axis=1)
    gram = np.empty((weights.shape[1], a.shape[1], a.shape[1]))
    gram[:, i, j] = gram[:, j, i] = sums[:, : len(i)]
    return Equations(gram, sums[:, len(i) : -1], sums[:, -1], weights.sum(0))
