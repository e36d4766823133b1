"""Squared error of jets that look like tops (arXiv:2003.11099, Table 1), and the prior scan of the tagger."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import typer
from networks import FOLDS, SEED, baseline, bayesian
from results import DataOption, Options, OutputOption, QuickOption
from samples import SLICES, Sample, inside, load
from slices import bootstrap
from taggers import lola, scores, tagger

from hepcal.evaluation.cross_fit import cross_fit
from hepcal.progress import Progress
from hepcal.tagging import auc, calibration_error

SHARES = (1.0, 0.75, 0.5, 0.25)
PT_EDGES = np.arange(400, 1001, 50)
WIDTHS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


def selected(score: np.ndarray, reco: np.ndarray) -> dict[float, np.ndarray]:
    """The most top-like shares of the jets, cut at the same share in bins of p_T, so that no p_T is preferred."""
    rank = np.empty(len(score))
    for low, high in pairwise(PT_EDGES):
        rows = np.flatnonzero(inside(reco, (low, high)))
        rank[rows] = np.argsort(np.argsort(-score[rows], kind="stable"), kind="stable") / max(len(rows), 1)
    return {share: rank < share for share in SHARES}


def table(
    residuals: dict[float, np.ndarray],
    kept: dict[float, np.ndarray],
    here: np.ndarray,
    folds: dict[float, np.ndarray],
    centre: float,
) -> list[dict[str, Any]]:
    """sqrt(MSE) by selection, and its difference from that of all jets by a bootstrap of the same jets.

    Args:
        residuals: truth - pt_calib [GeV] by selection, NaN where a training of the selection did not see the jet.
        kept: The selections.
        here: The slice.
        folds: Which training tested which jet, by selection.
        centre: p_T that the errors are given relative to [GeV].
    """
    rows = np.flatnonzero(here)

    def rmse(chosen: np.ndarray) -> np.ndarray:
        picked = rows[chosen]
        each = [np.sqrt(np.mean(residuals[s][picked[kept[s][picked]]] ** 2)) for s in SHARES]
        return np.array([*each, *(each[i] - each[0] for i in range(1, len(each)))])

    value, unc = bootstrap(rmse, len(rows))
    out = []
    for i, share in enumerate(SHARES):
        tested = [here & kept[share] & (folds[share] == k) for k in range(FOLDS)]
        by_training = [np.sqrt(np.mean(residuals[share][jets] ** 2)) for jets in tested]
        entry = {
            "share": share, "jets": int((here & kept[share]).sum()), "rmse": value[i], "rmse_unc": unc[i],
            "rmse_sd": float(np.std(by_training, ddof=1)), "relative": 100 * value[i] / centre,
        }  # fmt: skip
        if i:
            entry |= {"change": value[len(SHARES) + i - 1], "change_unc": unc[len(SHARES) + i - 1]}
        out.append(entry)
    return out


def prior_scan(top: Sample, qcd: Sample, options: Options) -> dict[str, Any]:
    """AUC of taggers with priors of many widths, on one fold, and of the deterministic one."""
    from hepcal.evaluation.cross_fit import folds_of

    folds = [folds_of(sample.pairs, FOLDS, SEED) for sample in (top, qcd)]
    fitted = [s.pairs.take(np.flatnonzero(f != 0)) for s, f in zip((top, qcd), folds, strict=True)]
    tested = [s.pairs.take(np.flatnonzero(f == 0)) for s, f in zip((top, qcd), folds, strict=True)]
    features = np.concatenate([np.asarray(part.features) for part in tested])
    is_top = np.repeat([True, False], [len(part) for part in tested])
    # Taggers are trained on as many tops as QCD jets; their scores are probabilities for such a mixture only.
    balance = np.concatenate([np.full(len(part), 1 / len(part)) for part in tested])
    widths = WIDTHS[1:5:2] if options.quick else WIDTHS
    methods = {f"{w:g}": lola(quick=options.quick, prior_width=w) for w in widths}
    methods["deterministic"] = lola(quick=options.quick, bayesian=False)
    out: dict[str, Any] = {}
    with Progress("Prior scan of the tagger", len(methods), "trainings") as bar:
        for name, method in methods.items():
            # With the width of all other taggers it is the training of the first fold.
            stored = "fold0" if method == lola(quick=options.quick) else f"prior{name}"
            trained = tagger(*fitted, method, options, stored)
            found = trained.predict(features)
            area, error = auc(found.score, is_top)
            ece, ece_unc = calibration_error(found.score, is_top, balance)
            sigma = None if found.sigma_logit is None else float(np.median(found.sigma_logit))
            out[name] = {
                "auc": area, "auc_unc": error, "ece": ece, "ece_unc": ece_unc, "sigma_logit": sigma,
                "collapsed": bool(trained.card.figures["collapsed"]),
            }  # fmt: skip
            bar.advance(1)
    return out


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """sqrt(MSE) of the most top-like 100, 75, 50 and 25 % of the jets, by one network and by networks of their own."""
    options = Options("top_like", data, output, quick)
    jets = 10_000 if quick else None
    top, qcd = load("top", data, output, jets), load("qcd", data, output, jets)
    found: dict[str, Any] = {"prior_scan": prior_scan(top, qcd, options)}
    scored = scores(top, qcd, options)
    both = np.concatenate([scored["score_top"], scored["score_qcd"]])
    is_top = np.repeat([True, False], [len(top.pairs), len(qcd.pairs)])
    area, error = auc(both, is_top)
    found |= {"auc": area, "auc_unc": error}
    found["scores"] = {name: np.histogram(scored[f"score_{name}"], np.linspace(0, 1, 51))[0] for name in ("top", "qcd")}
    reco, truth = np.asarray(top.pairs.reco), np.asarray(top.pairs.truth, dtype=np.float64)
    kept = selected(scored["score_top"], reco)
    found["contained"] = {
        str(share): {
            window: float(top.contained[rows & inside(reco, limits)].mean()) for window, limits in SLICES.items()
        }
        for share, rows in kept.items()
    }
    plain = baseline(top, options)
    same = dict.fromkeys(SHARES, truth - plain["pt_calib"])
    own, own_folds = {1.0: same[1.0]}, {1.0: plain["fold"]}
    for share in () if quick else SHARES[1:]:
        rows = np.flatnonzero(kept[share])
        columns = cross_fit(
            top.pairs.take(rows), bayesian(quick=quick), folds=FOLDS, seed=SEED, store=options.trainings
        )
        own[share], own_folds[share] = np.full(len(truth), np.nan), np.full(len(truth), -1)
        own_folds[share][rows] = columns["fold"]
        own[share][rows] = truth[rows] - columns["pt_calib"]
    for window, limits in SLICES.items():
        here = inside(reco, limits)
        centre = float(np.mean(limits))
        folds = dict.fromkeys(SHARES, plain["fold"])
        found.setdefault("one_network", {})[window] = table(same, kept, here, folds, centre)
        if not quick:
            found.setdefault("own_networks", {})[window] = table(own, kept, here, own_folds, centre)
    options.finish(found)


if __name__ == "__main__":
    typer.run(main)
