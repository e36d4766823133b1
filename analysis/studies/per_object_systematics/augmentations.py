"""How the Bayesian tagger answers to changed jets (response tests of arXiv:1904.10004): mean and error of its logit.

1. the leading constituent scaled by 0.9 to 1.1; 2. independent noise on every constituent; 3. soft pile-up; 4. the
slopes of test 1 for a tagger that was trained with 10 % noise. Before the sigmoid the error is that of the network;
after it, the closed interval narrows it where the mean is near its ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import typer
from networks import FOLDS, SEED
from results import DataOption, Options, OutputOption, QuickOption
from samples import RADIUS, load
from slices import bootstrap
from taggers import lola, tagger

import hepcal
from hepcal.augment import Augmentation, OverlayPileup, ScaleLeading, SmearConstituents
from hepcal.evaluation.cross_fit import folds_of
from hepcal.progress import Progress
from hepcal.tagging import Tagger, auc

FACTORS = (0.9, 0.95, 1.0, 1.05, 1.1)
NOISE = (0.1, 0.2, 0.3, 0.4)
PILEUP = (5.0, 20.0, 50.0)
TRAINED_WITH = 0.1
KINDS = ("logit", "sigma_logit", "score", "sigma_score")
EDGES = {
    "logit": np.linspace(-10, 10, 81), "sigma_logit": np.linspace(0, 2, 101),
    "score": np.linspace(0, 1, 51), "sigma_score": np.linspace(0, 0.5, 101),
}  # fmt: skip


def changes() -> dict[str, dict[str, Augmentation]]:
    """The augmentations of the tests by their strength."""
    return {
        "leading": {f"{f:g}": ScaleLeading(factor=f) for f in FACTORS},
        "noise": {f"{s:g}": SmearConstituents(sigma=s, seed=SEED) for s in NOISE},
        "pileup": {f"{mu:g}": OverlayPileup(mu=mu, radius=RADIUS, mean_pt=1.0, seed=SEED) for mu in PILEUP},
    }


def columns_of(trained: Tagger, pairs: hepcal.JetPairs) -> dict[str, np.ndarray]:
    """Mean and error before and after the sigmoid."""
    found = trained.predict(np.asarray(pairs.features))
    return {kind: np.asarray(getattr(found, kind), dtype=np.float64) for kind in KINDS}


def figures_of(columns: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Means and histograms, and the mean change of each jet with its error."""
    out: dict[str, Any] = {}
    for kind in KINDS:
        change = columns[kind] - before[kind]
        out[kind] = {
            "mean": columns[kind].mean(), "change": change.mean(), "change_unc": change.std() / np.sqrt(len(change)),
            "change_sd": change.std(), "histogram": np.histogram(columns[kind], EDGES[kind])[0],
        }  # fmt: skip
    return out


def slopes(scaled: list[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Per jet, slope of logit and score against the factor on the leading constituent: least squares."""
    x = np.array(FACTORS) - np.mean(FACTORS)
    logit, score = (
        np.tensordot(x, np.stack([c[k] for c in scaled]), axes=1) / np.sum(x**2) for k in ("logit", "score")
    )
    return logit, score


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """Response of a Bayesian tagger to scaled leading constituents, noise and pile-up; also trained with noise."""
    options = Options("augmentations", data, output, quick)
    jets = 10_000 if quick else None
    samples = [load(name, data, output, jets).pairs for name in ("top", "qcd")]
    folds = [folds_of(pairs, FOLDS, SEED) for pairs in samples]
    fitted = [pairs.take(np.flatnonzero(fold != 0)) for pairs, fold in zip(samples, folds, strict=True)]
    tested = [pairs.take(np.flatnonzero(fold == 0)) for pairs, fold in zip(samples, folds, strict=True)]
    noisy = [SmearConstituents(sigma=TRAINED_WITH, seed=SEED)(pairs) for pairs in fitted]
    method = lola(quick=quick)
    trained = {
        "plain": tagger(*fitted, method, options, "fold0"),
        "noise": tagger(*noisy, method, options, "fold0-noise"),
    }
    found: dict[str, Any] = {"edges": EDGES, "factors": FACTORS, "trained_with": TRAINED_WITH, "taggers": {}}
    slope: dict[str, dict[str, np.ndarray]] = {}
    for name, one in trained.items():
        entry: dict[str, Any] = {}
        before = [columns_of(one, pairs) for pairs in tested]
        both = np.concatenate([part["score"] for part in before])
        entry["auc"], entry["auc_unc"] = auc(both, np.repeat([True, False], [len(pairs) for pairs in tested]))
        for sample, pairs, start in zip(("top", "qcd"), tested, before, strict=True):
            entry[sample] = {}
            with Progress(f"Response of {name}, {sample}", 12, "tests") as bar:
                for test, strengths in changes().items():
                    changed = {}
                    for strength, augmentation in strengths.items():
                        changed[strength] = columns_of(one, augmentation(pairs))
                        bar.advance(1)
                    entry[sample][test] = {s: figures_of(columns, start) for s, columns in changed.items()}
                    if test == "leading":
                        logit, score = slopes(list(changed.values()))
                        slope.setdefault(sample, {})[name] = logit
                        means = [changed[f"{f:g}"]["logit"].mean() for f in FACTORS]
                        entry[sample]["slope_logit"], entry[sample]["slope_score"] = logit.mean(), score.mean()
                        entry[sample]["slope_logit_unc"] = logit.std() / np.sqrt(len(logit))
                        entry[sample]["monotonic"] = bool(np.all(np.diff(means) > 0) or np.all(np.diff(means) < 0))
        found["taggers"][name] = entry
    for sample, by_tagger in slope.items():
        # Sensitivity of single jets, whatever its sign, and of the mean.
        def ratio(rows: np.ndarray, by_tagger: dict[str, np.ndarray] = by_tagger) -> np.ndarray:
            plain, noise = by_tagger["plain"][rows], by_tagger["noise"][rows]
            return np.array(
                [
                    np.sqrt(np.mean(noise**2) / np.mean(plain**2)),
                    noise.mean() / plain.mean(),
                ]
            )

        value, unc = bootstrap(ratio, len(by_tagger["plain"]))
        found.setdefault("slope_ratio", {})[sample] = {
            "rms": value[0], "rms_unc": unc[0], "mean": value[1], "mean_unc": unc[1],
        }  # fmt: skip
    options.finish(found)


if __name__ == "__main__":
    typer.run(main)
