"""Numerical inversion: a curve of mean reco p_T against truth, its bootstrap replicas, and the spread around it."""

from __future__ import annotations

import numpy as np
import torch

from hepcal.errors import TrainingError
from hepcal.methods.inversion.calibrator import TABLE_KNOTS, NumericalInversion, continued
from hepcal.methods.training.curves import (
    LEAST_SPREAD,
    Basis,
    Equations,
    PenalisedSpline,
    Polynomial,
    least_squares,
    normal_equations,
    positive_solution,
    solution,
)
from hepcal.methods.training.task import Learned, Task
from hepcal.statistics import n_eff
from hepcal.tables.pairs import JetPairs
from hepcal.tables.signed_weights import Cells

__all__ = ["effective_weights", "learn", "truth_intervals", "truth_support"]

# Jets beyond either end of the truth support: with fewer, the last bit of a curve would follow single jets.
EDGE_JETS = 10
# Of an interval between knots: the mean of one is then known to a tenth of the resolution.
INTERVAL_JETS = 100
# Least slope of g in units of its mean slope; below it, inversion makes the resolution more than ten times worse.
LEAST_SLOPE = 0.1
# Share of the bootstrap samples that must fall somewhere before data are said to contradict a rising response.
CONTRADICTED = 0.975
ROWS_AT_ONCE = 50_000
# Terms that smoothness leaves alone: a parabola for the mean, so that a curvature is not shrunk away; a straight line
# for the variance.
FREE_TERMS, FREE_TERMS_SPREAD = 3, 2


def truth_support(truth: np.ndarray) -> tuple[float, float]:
    """Truth range [GeV] beyond whose ends lie ten jets each (fewer in tables of less than 2000).

    Raises:
        TrainingError: All truth values are (nearly) the same.
    """
    beyond = min(EDGE_JETS, len(truth) // 200)
    ends = np.partition(np.asarray(truth, dtype=np.float64), (beyond, len(truth) - 1 - beyond))
    low, high = float(ends[beyond]), float(ends[len(truth) - 1 - beyond])
    if not high > 1.01 * low:
        raise TrainingError(f"truth p_T lies between {low:g} and {high:g} GeV: too narrow a range to learn a response")
    return low, high


def truth_intervals(truth: np.ndarray, weight: np.ndarray, count: int, signed: np.ndarray | None = None) -> np.ndarray:
    """Edges [GeV] of at most ``count`` intervals of equal width in ln p_T, joined until each has 100 effective jets.

    The error of a cubic spline is least with a density of knots that goes as the ninth root of that of the jets: nearly
    evenly, on a scale on which the response is smooth.

    Args:
        truth: [GeV], shape (n,).
        weight: Shape (n,).
        count: Number of intervals to begin with.
        signed: The signed weights that ``weight`` was made of, which say how many jets are effective; default: those.
    """
    edges = np.geomspace(truth.min(), truth.max(), count + 1)
    edges[[0, -1]] = truth.min(), truth.max()  # not left to rounding
    sums = np.histogram(truth, edges, weights=weight)[0]
    squares = np.histogram(truth, edges, weights=(weight if signed is None else signed) ** 2)[0]
    kept, total, square = [float(edges[0])], 0.0, 0.0
    for number in range(count):
        total, square = total + float(sums[number]), square + float(squares[number])
        if total > 0 and total**2 >= INTERVAL_JETS * square:
            kept.append(float(edges[number + 1]))
            total, square = 0.0, 0.0
    return np.array([*(kept[:-1] if len(kept) > 1 else kept), edges[-1]])


def effective_weights(
    truth: np.ndarray, weight: np.ndarray, edges: np.ndarray, signed: np.ndarray | None = None
) -> np.ndarray:
    """Weights that sum to the effective number of jets in every interval of truth.

    A factor that depends on truth alone changes no mean at fixed truth. Without it, a sample of slices with weights
    over many orders of magnitude would be fitted where the weights are large and nowhere else.

    Args:
        truth: [GeV], shape (n,).
        weight: Shape (n,).
        edges: Of the intervals [GeV].
        signed: See :func:`truth_intervals`.
    """
    number = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, len(edges) - 2)
    sums = np.bincount(number, weight, len(edges) - 1)
    squares = np.bincount(number, (weight if signed is None else signed) ** 2, len(edges) - 1)
    return np.asarray(weight * (np.maximum(sums, 0) / np.where(squares > 0, squares, 1))[number])


def learn(task: Task) -> Learned:
    """Fit g and the spread around it, refit g to bootstrap samples, check that it rises, and tabulate.

    Raises:
        TrainingError: The response does not rise with truth, or the jets do not determine it.
    """
    method = task.settings(NumericalInversion)
    low, high = truth_support(task.fitted.truth)
    inside = np.flatnonzero((task.fitted.truth >= low) & (task.fitted.truth <= high))
    pairs, cells = task.fitted.take(inside), None if task.cells is None else task.cells.take(inside)
    truth, signed = pairs.truth.astype(np.float64), None if cells is None else cells.signed
    edges = truth_intervals(truth, pairs.weight, method.knots, signed)
    weight = effective_weights(truth, pairs.weight, edges, signed)
    spline = method.form == "spline"
    basis = PenalisedSpline(edges, FREE_TERMS) if spline else Polynomial(method.degree, low, high)
    equations = _equations(basis, pairs, weight, _multiplicities(pairs, cells, method.n, task.seed))
    least = LEAST_SLOPE * _mean_slope(pairs, weight)
    # Replicas are as smooth as the fit to all jets: choosing anew would count the noise of the choice twice.
    systems = least_squares(equations, basis.smoothness(equations))
    free = np.stack([solution(*system) for system in systems])
    fits = np.stack([basis.rising(*system, least) for system in systems])
    knots = np.geomspace(low, high, TABLE_KNOTS)
    values, slopes, curvatures = (fits @ basis.design(knots, order).T for order in range(3))
    _require_rising(knots, free @ basis.design(knots, 1).T, slopes, values, least)
    spread = _spread(edges, pairs, weight, basis.design(truth) @ fits[0], knots)
    tensors = {
        "truth": knots,
        "reco": values[0],
        "slope": slopes[0],
        "curvature": curvatures[0],
        "spread": spread,
        "replicas": np.stack([_inverse(values[0], knots, replica) for replica in values[1:]]),
    }
    figures = {"truth_low": low, "truth_high": high, "intervals": float(len(edges) - 1)}
    figures |= {"fit_n_eff": n_eff(weight), "smallest_slope": float(slopes[0].min())}
    figures |= _curvature_figures(knots, slopes, curvatures, spread)
    saved = {name: torch.from_numpy(value.astype(np.float32)) for name, value in tensors.items()}
    return Learned(saved, figures=figures)


def _multiplicities(pairs: JetPairs, cells: Cells | None, replicas: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (m, replicas) on the weights in bootstrap samples, and the row of each jet: Poisson(1) for each event.

    With signed weights there is a row for each jet (:meth:`Cells.resampled`).
    """
    _, event = np.unique(pairs.event, return_inverse=True)
    rng = np.random.default_rng([seed, replicas])
    multiplicity = rng.poisson(1, (int(event.max()) + 1, replicas)).astype(np.uint8)
    return (multiplicity, event) if cells is None else (cells.resampled(multiplicity[event]), np.arange(len(pairs)))


def _equations(
    basis: Basis, pairs: JetPairs, weight: np.ndarray, bootstrap: tuple[np.ndarray, np.ndarray]
) -> Equations:
    """Normal equations of the fit to all jets, then of those to bootstrap samples."""
    multiplicity, row = bootstrap
    total: Equations | None = None
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        w, truth = weight[rows, None], pairs.truth[rows].astype(np.float64)
        weights = np.concatenate([w, w * multiplicity[row[rows]]], axis=1)
        found = normal_equations(basis, truth, pairs.reco[rows] / truth, weights, truth)
        total = found if total is None else total + found
    assert total is not None  # noqa: S101 - a table is not empty
    return total


def _mean_slope(pairs: JetPairs, weight: np.ndarray) -> float:
    """Slope of the straight line through reco against truth.

    Raises:
        TrainingError: It does not rise.
    """
    truth = pairs.truth.astype(np.float64)
    line = Polynomial(1, float(truth.min()), float(truth.max()))
    found = normal_equations(line, truth, pairs.reco / truth, weight[:, None], truth)
    slope = float(solution(*least_squares(found, line.smoothness(found))[0])[1]) / line.scale
    if not slope > 0:
        raise TrainingError(f"reco p_T does not rise with truth p_T (slope {slope:.3g}): there is nothing to invert")
    return slope


def _require_rising(knots: np.ndarray, free: np.ndarray, slopes: np.ndarray, values: np.ndarray, least: float) -> None:
    """Refuse a response that cannot be inverted; arrays (1 + replicas, knots), the fit to all jets first.

    Raises:
        TrainingError: Says where, and in how many of the bootstrap samples.
    """
    often = (free[1:] <= least).mean(axis=0) >= CONTRADICTED
    bad = (slopes[0] <= 1.001 * least) | (values[0] <= 0) | ((free[0] <= least) & often)
    if bad.any():
        where = knots[bad]
        raise TrainingError(
            f"the mean of reco p_T does not rise with truth between {where[0]:.4g} and {where[-1]:.4g} GeV: it cannot "
            "be inverted there. Train on a truth range where it rises, or look for a cut or a threshold on reco p_T"
        )
    # A monotone spline cannot fall; a replica of it may lie at its least slope, and still has an inverse.
    falls = (slopes[1:] <= 0) | (values[1:] <= 0)
    if falls.any():
        where, count = knots[falls.any(axis=0)], int(falls.any(axis=1).sum())
        raise TrainingError(
            f"the mean of reco p_T rises with truth, but not so in {count} of {len(falls)} bootstrap samples, "
            f"between {where[0]:.4g} and {where[-1]:.4g} GeV: the jets are too few for this polynomial there. Use a "
            "lower degree, a spline or a narrower truth range"
        )


def _spread(edges: np.ndarray, pairs: JetPairs, weight: np.ndarray, mean: np.ndarray, at: np.ndarray) -> np.ndarray:
    """sd[reco | truth] [GeV] at truth values: a smooth curve through the squared residuals, relative to truth²."""
    truth = pairs.truth.astype(np.float64)
    squared = ((pairs.reco - mean) / truth) ** 2
    spline = PenalisedSpline(edges, FREE_TERMS_SPREAD)
    found = normal_equations(spline, truth, squared, weight[:, None], 1.0)
    # B-splines with positive coefficients are nowhere negative.
    variance = spline.design(at) @ positive_solution(*least_squares(found, spline.smoothness(found))[0])
    return np.asarray(at * np.sqrt(np.maximum(variance, LEAST_SPREAD**2)))


def _inverse(reco: np.ndarray, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Truth [GeV] at which a curve with ``values`` at ``truth`` has the values ``reco``."""
    return np.asarray(np.exp(continued(np.log(reco), np.log(values), np.log(truth))))


def _curvature_figures(
    knots: np.ndarray, slopes: np.ndarray, curvatures: np.ndarray, spread: np.ndarray
) -> dict[str, float]:
    """Largest relative curvature bias in the support, where it is, and its statistical error there."""
    bias = -0.5 * curvatures / slopes**3 * (spread**2 / knots)
    worst = int(np.argmax(np.abs(bias[0])))
    return {
        "curvature_bias": float(bias[0, worst]),
        "curvature_bias_at": float(knots[worst]),
        "curvature_bias_unc": float(bias[1:, worst].std(ddof=1)),
    }
