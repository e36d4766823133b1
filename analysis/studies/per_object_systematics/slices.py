"""Figures of a selection of jets: squared error against the claimed widths, with bootstrap errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["bootstrap", "shortest_interval", "skewness", "slice_figures"]

RESAMPLINGS = 200
PROBABILITY = 0.6827


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, *, resamplings: int = RESAMPLINGS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A statistic of n jets and its standard error, from jets drawn with replacement.

    Args:
        statistic: From rows to numbers, shape (k,) or a number.
        n: Number of jets.
        resamplings: How often.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    value = np.asarray(statistic(np.arange(n)), dtype=np.float64)
    drawn = np.stack([statistic(rng.integers(0, n, n)) for _ in range(resamplings)])
    return value, drawn.std(axis=0, ddof=1)


def slice_figures(columns: Mapping[str, np.ndarray], truth: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """sqrt(MSE), bias and the mean claimed widths of some jets [GeV]; errors end in ``_unc``.

    Widths are roots of mean variances. ``rmse_over_stoch`` has the error of the ratio, jets drawn together.

    Args:
        columns: ``pt_calib`` and its sigmas, shape (n,).
        truth: True p_T [GeV].
        rows: The jets of the slice.
    """
    residual = (truth - columns["pt_calib"]).astype(np.float64)[rows]
    parts = {
        name: columns[f"pt_calib_sigma_{name}"].astype(np.float64)[rows] ** 2
        for name in ("stoch", "pred", "tot")
        if f"pt_calib_sigma_{name}" in columns
    }

    def statistic(chosen: np.ndarray) -> np.ndarray:
        rmse = np.sqrt(np.mean(residual[chosen] ** 2))
        sigmas = [np.sqrt(np.mean(part[chosen])) for part in parts.values()]
        return np.array([rmse, residual[chosen].mean(), *sigmas, rmse / sigmas[0], rmse / sigmas[-1]])

    names = ("rmse", "bias", *parts, "rmse_over_stoch", "rmse_over_tot")
    value, error = bootstrap(statistic, len(rows))
    found: dict[str, float] = {"jets": len(rows)}
    for name, number, unc in zip(names, value, error, strict=True):
        found[name], found[f"{name}_unc"] = float(number), float(unc)
    return found


def skewness(values: np.ndarray) -> float:
    """Third standardised moment."""
    centred = values - values.mean()
    return float(np.mean(centred**3) / np.mean(centred**2) ** 1.5)


def shortest_interval(values: np.ndarray, probability: float = PROBABILITY) -> tuple[float, float]:
    """The shortest interval that holds a share of the values."""
    ordered = np.sort(values)
    held = int(np.ceil(probability * len(ordered)))
    widths = ordered[held - 1 :] - ordered[: len(ordered) - held + 1]
    first = int(np.argmin(widths))
    return float(ordered[first]), float(ordered[first + held - 1])
