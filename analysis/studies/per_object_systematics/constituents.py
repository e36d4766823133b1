"""The statistical error against the number of constituents: rare jets carry more of it (arXiv:2003.11099, Figure 6)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import typer
from networks import baseline
from results import DataOption, Options, OutputOption, QuickOption
from samples import inside, load
from scipy.stats import spearmanr
from slices import bootstrap

EDGES = np.array([1, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 101])
WINDOW = (500.0, 900.0)
SIGMA_EDGES = np.linspace(0, 60, 61)
SPARSE = 0.05


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """sigma_pred in bins of the number of constituents, 500 < p_T < 900 GeV, beside the number of training jets."""
    options = Options("constituents", data, output, quick)
    sample = load("top", data, output, 10_000 if quick else None)
    columns = baseline(sample, options)
    reco, number = np.asarray(sample.pairs.reco), sample.constituents
    here = np.flatnonzero(inside(reco, WINDOW))
    sigma, number = columns["pt_calib_sigma_pred"][here].astype(np.float64), number[here]
    relative = sigma / columns["pt_calib"][here]
    upper = float(np.quantile(number, 1 - SPARSE))
    bulk = inside(number, tuple(np.quantile(number, (0.25, 0.75))))

    def tail_over_bulk(rows: np.ndarray) -> np.ndarray:
        many, typical = number[rows] > upper, bulk[rows]
        return np.array([s[rows][many].mean() / s[rows][typical].mean() for s in (sigma, relative)])

    ratio, unc = bootstrap(tail_over_bulk, len(here))
    found: dict[str, Any] = {
        "edges": EDGES, "sigma_edges": SIGMA_EDGES, "histogram": np.histogram(sigma, SIGMA_EDGES)[0], "bins": [],
        "tail_above": upper, "tail_over_bulk": ratio[0], "tail_over_bulk_unc": unc[0],
        "relative_tail_over_bulk": ratio[1], "relative_tail_over_bulk_unc": unc[1],
        "rank_correlation": float(spearmanr(number, sigma).statistic),
    }  # fmt: skip
    for low, high in pairwise(EDGES):
        rows = np.flatnonzero(inside(number, (low, high)))
        if len(rows) < 20:
            found["bins"].append({"jets": len(rows)})
            continue
        value, error = bootstrap(lambda chosen, rows=rows: sigma[rows][chosen].mean(), len(rows))
        quartiles = np.quantile(sigma[rows], (0.25, 0.5, 0.75))
        stoch = columns["pt_calib_sigma_stoch"][here][rows].astype(np.float64)
        found["bins"].append({
            "jets": len(rows), "sigma_pred": float(value), "sigma_pred_unc": float(error), "quartiles": quartiles,
            "sigma_stoch": float(np.sqrt(np.mean(stoch**2))),
        })  # fmt: skip
    options.finish(found)


if __name__ == "__main__":
    typer.run(main)
