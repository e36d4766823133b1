"""The schedule of the studies beside that of arXiv:2003.11099: batch 100, Adam with a constant step of 1e-4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import typer
from networks import FOLDS, SEED, bayesian
from results import DataOption, Options, OutputOption, QuickOption
from samples import SLICES, inside, load
from slices import bootstrap, slice_figures

from hepcal.evaluation import jet_scores
from hepcal.evaluation.cross_fit import cross_fit

__all__ = ["main"]

# Ten passes through the sample without a better held-out loss end the training of the paper.
PASSES = 10


def scored(calibrator: Any, pairs: Any) -> dict[str, np.ndarray]:
    """Columns, and the log score of the densities."""
    from hepcal.evaluation.cross_fit import uncertainties

    prediction = calibrator.predict(np.asarray(pairs.features), np.asarray(pairs.reco))
    figures = calibrator.card.figures
    progress = np.array([[figures["updates"], figures["held_out_loss"], figures["active_weights"], figures["kl"]]])
    return {
        **uncertainties(calibrator, pairs),
        "log_score": jet_scores(prediction, np.asarray(pairs.truth)).nll,
        "progress": np.repeat(progress, len(pairs), axis=0),
    }


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """One fold of the sample, trained by both schedules: squared error, widths and log score, paired by jet."""
    options = Options("schedule", data, output, quick)
    sample = load("top", data, output, 10_000 if quick else None)
    truth, reco = np.asarray(sample.pairs.truth), np.asarray(sample.pairs.reco)
    per_pass = int(len(sample.pairs) * (1 - 1 / FOLDS) * 0.9) // 100
    methods = {
        "studies": bayesian(quick=quick),
        "paper": bayesian(
            quick=quick, batch=100, learning_rate=1e-4, schedule="constant", patience=PASSES * per_pass,
            max_updates=4_000 if quick else 100_000,
        ),
    }  # fmt: skip
    found: dict[str, Any] = {}
    columns = {
        name: cross_fit(sample.pairs, method, folds=FOLDS, seed=SEED, only=(0,), read=scored, store=options.trainings)
        for name, method in methods.items()
    }
    for name, part in columns.items():
        tested = part["fold"] == 0
        updates, loss, active, kl = part["progress"][tested][0]
        found[name] = {
            "updates": updates, "held_out_loss": loss, "active_weights": active, "kl": kl,
            "settings": methods[name].model_dump(mode="json"),
            **{
                window: slice_figures(part, truth, np.flatnonzero(tested & inside(reco, limits)))
                for window, limits in SLICES.items()
            },
            "log_score": float(part["log_score"][tested].mean()),
        }  # fmt: skip
    rows = np.flatnonzero((columns["paper"]["fold"] == 0) & inside(reco, SLICES["500-800"]))

    def ratios(chosen: np.ndarray) -> np.ndarray:
        picked = rows[chosen]
        each = []
        for part in (columns["studies"], columns["paper"]):
            residual = (truth - part["pt_calib"]).astype(np.float64)[picked]
            sigmas = [
                np.sqrt(np.mean(part[f"pt_calib_sigma_{k}"][picked].astype(np.float64) ** 2)) for k in ("stoch", "pred")
            ]
            each.append([np.sqrt(np.mean(residual**2)), *sigmas])
        difference = (columns["studies"]["log_score"] - columns["paper"]["log_score"])[picked].mean()
        return np.array([*(np.array(each[0]) / np.array(each[1])), difference])

    value, unc = bootstrap(ratios, len(rows))
    names = ("rmse_ratio", "stoch_ratio", "pred_ratio", "log_score_difference")
    found["studies_over_paper"] = {
        **dict(zip(names, value, strict=True)), **{f"{n}_unc": u for n, u in zip(names, unc, strict=True)}
    }  # fmt: skip
    options.finish(found)


if __name__ == "__main__":
    typer.run(main)
