"""One, two and three Gaussians per jet against the truth distribution (arXiv:2003.11099, Figure 8 and Table 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import typer
from networks import FOLDS, SEED, bayesian
from results import DataOption, Options, OutputOption, QuickOption
from samples import SLICES, inside, load
from scipy.interpolate import CubicSpline
from slices import PROBABILITY, bootstrap, shortest_interval, slice_figures

import hepcal
from hepcal.evaluation.cross_fit import cross_fit, uncertainties
from hepcal.methods.calibrator import Calibrator

# truth / fat-jet p_T at which densities are kept, and the finer grid between them.
GRID = np.linspace(0.5, 2.4, 191)
FINE = np.linspace(0.5, 2.4, 7601)
COMPONENTS = (1, 2, 3)
# For the mode of the truth: width of a Gaussian kernel, in truth / fat-jet p_T.
KERNEL = 0.012


def with_density(calibrator: Calibrator, pairs: hepcal.JetPairs) -> dict[str, np.ndarray]:
    """Columns, and the predicted density of truth / fat-jet p_T of every jet in the wide slice, zero for the others."""
    reco = np.asarray(pairs.reco, dtype=np.float64)
    found = uncertainties(calibrator, pairs)
    density = np.zeros((len(pairs), len(GRID)), dtype=np.float32)
    rows = np.flatnonzero(inside(reco, SLICES["500-800"]))
    wide = calibrator.predict(np.asarray(pairs.features)[rows], pairs.reco[rows])
    density[rows] = wide.density(GRID * reco[rows, None]) * reco[rows, None]
    return {**found, "density": density}


def highest(density: np.ndarray) -> tuple[float, float, float]:
    """Mode, and the outer ends of the set of highest density that holds 68.27 %, of a density on ``FINE``."""
    density = np.clip(density, 0, None)
    order = np.argsort(-density)
    held = np.cumsum(density[order])
    inside_set = np.sort(order[: int(np.searchsorted(held, PROBABILITY * held[-1])) + 1])
    return float(FINE[np.argmax(density)]), float(FINE[inside_set[0]]), float(FINE[inside_set[-1]])


def truth_mode(values: np.ndarray) -> float:
    """Highest point of the truth distribution, smoothed by a narrow kernel."""
    edges = np.append(FINE, 2 * FINE[-1] - FINE[-2]) - (FINE[1] - FINE[0]) / 2
    counts = np.histogram(values, edges)[0].astype(np.float64)
    kernel = np.exp(-0.5 * (np.arange(-200, 201) * (FINE[1] - FINE[0]) / KERNEL) ** 2)
    return float(FINE[np.argmax(np.convolve(counts, kernel, "same"))])


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """Mode and 68.27 % set of the mean predicted density in slices, for one to three Gaussians, and of the truth."""
    options = Options("mixtures", data, output, quick)
    sample = load("top", data, output, 10_000 if quick else None)
    reco, truth = np.asarray(sample.pairs.reco, dtype=np.float64), np.asarray(sample.pairs.truth, dtype=np.float64)
    found: dict[str, Any] = {"grid": GRID, "slices": {window: {"networks": {}} for window in SLICES}}
    for window, limits in SLICES.items():
        rows = np.flatnonzero(inside(reco, limits))
        ratio, scale = truth[rows] / reco[rows], float(reco[rows].mean())

        def statistic(chosen: np.ndarray, ratio: np.ndarray = ratio, scale: float = scale) -> np.ndarray:
            low, high = shortest_interval(ratio[chosen])
            return scale * np.array([truth_mode(ratio[chosen]), low, high, ratio[chosen].mean()])

        value, unc = bootstrap(statistic, len(rows))
        found["slices"][window] |= {
            "scale": scale, "jets": len(rows), "truth": dict(zip(("mode", "low", "high", "mean"), value, strict=True)),
            "truth_unc": dict(zip(("mode", "low", "high", "mean"), unc, strict=True)),
            "truth_density": np.histogram(ratio, np.linspace(0.5, 2.4, 96), density=True)[0],
        }  # fmt: skip
    for components in COMPONENTS:
        head = {} if components == 1 else {"head": "mixture", "components": components}
        columns = cross_fit(
            sample.pairs, bayesian(quick=quick, **head), folds=FOLDS, seed=SEED, read=with_density,
            key=[*GRID[[0, -1]].tolist(), len(GRID), *SLICES["500-800"]], store=options.trainings,
        )  # fmt: skip
        for window, limits in SLICES.items():
            rows = np.flatnonzero(inside(reco, limits))
            entry, scale = slice_figures(columns, truth, rows), found["slices"][window]["scale"]

            def ends(
                chosen: np.ndarray, rows: np.ndarray = rows, columns: dict[str, np.ndarray] = columns
            ) -> np.ndarray:
                mean = columns["density"][rows[chosen]].mean(axis=0, dtype=np.float64)
                return np.array(highest(CubicSpline(GRID, mean)(FINE)))

            value, unc = bootstrap(ends, len(rows), resamplings=50)
            for name, number, error in zip(("mode", "low", "high"), scale * value, scale * unc, strict=True):
                entry[name], entry[f"{name}_unc"] = float(number), float(error)
            entry["density"] = columns["density"][rows].mean(axis=0, dtype=np.float64)
            entry["mean"] = float(columns["pt_calib"][rows].mean())
            found["slices"][window]["networks"][str(components)] = entry
    options.finish(found)


if __name__ == "__main__":
    typer.run(main)
