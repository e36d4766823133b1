"""Squared error of the Bayesian network against the width that it claims (arXiv:2003.11099, Eq. 14 and Figure 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import typer
from networks import baseline
from results import DataOption, Options, OutputOption, QuickOption
from samples import RANGE, SLICES, inside, load
from slices import slice_figures

EDGES = np.arange(RANGE[0], RANGE[1] + 1, 40)
# Boundary effects reach about 200 GeV into the range of the training.
BOUNDARY = 200.0


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """sqrt(MSE), sigma_stoch and sigma_tot in slices and in 40 GeV bins of the fat-jet p_T, five-fold cross-fitted."""
    options = Options("resolution", data, output, quick)
    sample = load("top", data, output, 10_000 if quick else None)
    columns = baseline(sample, options)
    reco, truth = np.asarray(sample.pairs.reco), np.asarray(sample.pairs.truth)
    found: dict[str, Any] = {"jets": len(reco), "slices": {}, "edges": EDGES}
    for window, limits in SLICES.items():
        here = inside(reco, limits)
        for label, kept in (("all", here), ("contained", here & sample.contained)):
            entry = slice_figures(columns, truth, np.flatnonzero(kept))
            entry["rmse_uncalibrated"] = float(np.sqrt(np.mean((truth - reco)[kept].astype(np.float64) ** 2)))
            entry["sd_uncalibrated"] = float((truth - reco)[kept].std())
            entry["by_training"] = [
                slice_figures(columns, truth, np.flatnonzero(kept & (columns["fold"] == k)))
                for k in range(columns["fold"].max() + 1)
            ]
            found["slices"].setdefault(window, {})[label] = entry
    bins = [np.flatnonzero(inside(reco, (low, low + 40))) for low in EDGES[:-1]]
    found["bins"] = [
        {
            **slice_figures(columns, truth, rows),
            "boundary": bool(low < RANGE[0] + BOUNDARY or low + 40 > RANGE[1] - BOUNDARY),
        }
        for low, rows in zip(EDGES, bins, strict=False)
    ]
    options.finish(found)


if __name__ == "__main__":
    typer.run(main)
