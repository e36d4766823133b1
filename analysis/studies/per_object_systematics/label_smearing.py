"""The calibration uncertainty from labels with errors (arXiv:2003.11099, Eqs. 18 and 19, Figures 9 to 11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import typer
from networks import FOLDS, FRACTIONS, SEED, baseline, bayesian
from results import DataOption, Options, OutputOption, QuickOption
from samples import SLICES, inside, load
from slices import bootstrap

from hepcal.augment import smear_labels
from hepcal.evaluation.cross_fit import cross_fit

LABEL_EDGES = np.linspace(300, 1300, 101)


def signed_root(square: float) -> float:
    """Root of the size of a difference of variances, with its sign."""
    return float(np.sign(square) * np.sqrt(abs(square)))


def sigma_cal(
    variance: np.ndarray, before: np.ndarray, truth: np.ndarray, loss: np.ndarray, fraction: float
) -> np.ndarray:
    """sigma_cal, signed as its square, its ratio to the smearing, and that ratio without the loss of the prediction.

    Args:
        variance: sigma_stoch² of jets [GeV²], labels smeared.
        before: The same without smearing.
        truth: True p_T [GeV].
        loss: Squared residual against the truth with smearing less that without: noise in the labels makes the
            prediction worse, and sigma_stoch claims this, too.
        fraction: Of the smearing.
    """
    squared, smear = float(np.mean(variance) - np.mean(before)), fraction * np.sqrt(np.mean(truth**2))
    found = signed_root(squared)
    return np.array([found, found / smear, signed_root(squared - float(np.mean(loss))) / smear])


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """sigma_cal for labels smeared by 4 to 10 %, the same folds, seeds and draws as the training without smearing."""
    options = Options("label_smearing", data, output, quick)
    sample = load("top", data, output, 10_000 if quick else None)
    fractions = FRACTIONS[::3] if quick else FRACTIONS
    plain = baseline(sample, options)
    reco, truth = np.asarray(sample.pairs.reco), np.asarray(sample.pairs.truth, dtype=np.float64)
    found: dict[str, Any] = {
        "label_edges": LABEL_EDGES, "slices": {window: [] for window in SLICES},
        "truths": {w: np.histogram(truth[inside(reco, limits)], LABEL_EDGES)[0] for w, limits in SLICES.items()},
    }  # fmt: skip
    for fraction in fractions:
        labels = smear_labels(sample.pairs, fraction, seed=SEED)
        columns = cross_fit(labels, bayesian(quick=quick), folds=FOLDS, seed=SEED, store=options.trainings)
        for window, limits in SLICES.items():
            found["slices"][window].append(
                one(fraction, columns, plain, truth, np.asarray(labels.truth), inside(reco, limits))
            )
    options.finish(found)


def one(
    fraction: float, columns: dict[str, np.ndarray], plain: dict[str, np.ndarray], truth: np.ndarray,
    labels: np.ndarray, here: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """One fraction in one slice; the error is that of jets and of trainings, added in quadrature."""
    rows = np.flatnonzero(here)
    variance, before = (c["pt_calib_sigma_stoch"].astype(np.float64) ** 2 for c in (columns, plain))
    residual, residual_0 = ((truth - c["pt_calib"]) ** 2 for c in (columns, plain))
    loss = residual - residual_0

    def statistic(chosen: np.ndarray) -> np.ndarray:
        return sigma_cal(variance[chosen], before[chosen], truth[chosen], loss[chosen], fraction)

    value, error = bootstrap(lambda chosen: statistic(rows[chosen]), len(rows))
    each = np.array([statistic(np.flatnonzero(here & (plain["fold"] == k))) for k in range(FOLDS)])
    # Trainings share three quarters of their jets, so that their scatter is less than that of independent ones; the
    # scatter of five is the error that arXiv:2003.11099 gives.
    scatter = each.std(axis=0, ddof=1)
    unc = np.hypot(error, scatter / np.sqrt(FOLDS))
    shift = 0.5 * np.abs(plain[f"up_{fraction:g}"] - plain[f"down_{fraction:g}"])[rows]
    return {
        "fraction": fraction, "jets": len(rows), "sigma_smear": float(value[0] / value[1]),
        "sigma_cal": value[0], "sigma_cal_unc": unc[0], "ratio": value[1], "ratio_unc": unc[1],
        "ratio_jets_unc": error[1], "ratio_trainings_sd": scatter[1], "by_training": each[:, 1],
        "sigma_stoch": float(np.sqrt(variance[rows].mean())), "sigma_stoch_0": float(np.sqrt(before[rows].mean())),
        "sigma_pred": float(np.sqrt(np.mean(columns["pt_calib_sigma_pred"][rows].astype(np.float64) ** 2))),
        "mean": float(columns["pt_calib"][rows].mean()), "mean_0": float(plain["pt_calib"][rows].mean()),
        # Against the truth, not the labels.
        "rmse": float(np.sqrt(residual[rows].mean())), "rmse_0": float(np.sqrt(residual_0[rows].mean())),
        "ratio_less_loss": value[2], "ratio_less_loss_unc": unc[2],
        "input_shift": float(shift.mean()), "input_shift_expected": float(fraction * plain["pt_calib"][rows].mean()),
        "labels": np.histogram(labels[rows], LABEL_EDGES)[0],
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
