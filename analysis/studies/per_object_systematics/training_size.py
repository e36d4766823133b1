"""Uncertainties against the size of the training sample (arXiv:2003.11099, Figures 5 and 7), Bayesian and ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer
from networks import SEED, bayesian, schedule
from results import DataOption, Options, OutputOption, QuickOption
from samples import SLICES, Sample, inside, load
from slices import slice_figures

import hepcal
from hepcal.evaluation.cross_fit import cross_fit

SIZES = (2_000, 5_000, 10_000, 20_000, 40_000)
QUICK_SIZES = (1_000, 4_000)
TRAININGS = 5
# Tenths of the sample: nine of them hold more than 40,000 jets to train on. Five tenths are tested.
FOLDS = 10
MEMBERS, QUICK_MEMBERS = 20, 5
FROM = 10_000


def part_of(table: hepcal.JetPairs, k: int, size: int) -> hepcal.JetPairs:
    """A random part of a training table."""
    rows = np.random.default_rng([SEED, k, size]).permutation(len(table))[:size]
    return table.take(np.sort(rows))


def slope(sizes: list[int], values: list[float]) -> float:
    """Of ln(values) against ln(sizes)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def scan(
    sample: Sample, method: hepcal.Ensemble | hepcal.BNN, sizes: tuple[int, ...], trainings: int, options: Options
) -> dict[str, Any]:
    """Figures in all slices by size: of every training, their mean and their standard deviation."""
    truth, reco = np.asarray(sample.pairs.truth), np.asarray(sample.pairs.reco)
    out: dict[str, Any] = {window: [] for window in SLICES}
    for size in sizes:
        columns = cross_fit(
            sample.pairs, method, folds=FOLDS, seed=SEED, only=tuple(range(trainings)), store=options.trainings,
            train_on=partial(part_of, size=size),
        )  # fmt: skip
        for window, limits in SLICES.items():
            each = [
                slice_figures(columns, truth, np.flatnonzero(inside(reco, limits) & (columns["fold"] == k)))
                for k in range(trainings)
            ]
            out[window].append({"size": size, "trainings": each, **summary(each)})
    return out


def summary(each: list[Mapping[str, float]]) -> dict[str, float]:
    """Mean over trainings and their standard deviation."""
    found = {}
    for name in ("rmse", "stoch", "pred", "tot", "rmse_over_stoch"):
        values = np.array([training[name] for training in each])
        found[name] = float(values.mean())
        found[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return found


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """sigma_stoch and sigma_pred for 2,000 jets to all that there are, five trainings each, and an ensemble beside."""
    options = Options("training_size", data, output, quick)
    sample = load("top", data, output, 10_000 if quick else None)
    largest = len(sample.pairs) * (FOLDS - 1) // FOLDS
    sizes = QUICK_SIZES if quick else (*SIZES, largest)
    settings = schedule(quick=quick)
    ensemble = hepcal.Ensemble(
        n=QUICK_MEMBERS if quick else MEMBERS,
        # sigma_pred is the spread of the networks, as in the paper.
        starts=1,
        dropout=0.1,
        **{**settings, "max_updates": settings["max_updates"] // 4},
    )
    found: dict[str, Any] = {
        "sizes": sizes, "members": ensemble.n,
        "bayesian": scan(sample, bayesian(quick=quick), sizes, 2 if quick else TRAININGS, options),
        "ensemble": scan(sample, ensemble, sizes, 1, options),
    }  # fmt: skip
    for kind in ("bayesian", "ensemble"):
        for window in SLICES:
            points = found[kind][window]
            late = [point["stoch"] for point in points if point["size"] >= (0 if quick else FROM)]
            found[f"{kind}_{window}"] = {
                "pred_slope": slope([p["size"] for p in points], [p["pred"] for p in points]),
                "stoch_spread": (max(late) - min(late)) / float(np.mean(late)),
            }
    options.finish(found)


if __name__ == "__main__":
    typer.run(main)
