"""Taggers of the studies: tops against QCD fat jets, each jet scored by a training that has not seen it."""

from __future__ import annotations

import numpy as np
from networks import FOLDS, SEED
from results import Options
from samples import Sample

import hepcal
from hepcal.evaluation.cross_fit import folds_of
from hepcal.methods.card import Card
from hepcal.progress import Progress
from hepcal.tagging import LoLa, Tagger, train
from hepcal.tagging.training import classes_of

__all__ = ["lola", "scores", "tagger"]


def lola(*, quick: bool, **changes: object) -> LoLa:
    """The Lorentz-layer tagger, Bayesian unless said otherwise."""
    settings: dict[str, object] = {"bayesian": True, "prior_width": 0.1}
    if quick:
        settings["max_updates"] = 500
    return LoLa.model_validate({**settings, **changes})


def tagger(
    signal: hepcal.JetPairs, background: hepcal.JetPairs, method: LoLa, options: Options, name: str, seed: int = SEED
) -> Tagger:
    """A trained tagger, from the file of an earlier run if there is one."""
    path = options.trainings / f"tagger-{name}{'-quick' if options.quick else ''}.safetensors"
    if path.exists():
        found = Tagger.load(path)
        card = found.card
        classes = (part.sha256 for part in classes_of(signal, background))
        wanted = (method.model_dump(mode="json"), *classes, seed, Card.software())
        if wanted == (card.settings, card.signal_sha256, card.background_sha256, card.seed, card.versions):
            return found
    found = train(signal, background, method, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save(path)
    return found


def scores(top: Sample, qcd: Sample, options: Options) -> dict[str, np.ndarray]:
    """Out-of-fold score, logit and its error for tops and QCD jets; keys end in ``_top`` and ``_qcd``."""
    method = lola(quick=options.quick)
    samples = {"top": top.pairs, "qcd": qcd.pairs}
    folds = {name: folds_of(pairs, FOLDS, SEED) for name, pairs in samples.items()}
    found = {
        f"{kind}_{name}": np.full(len(pairs), np.nan)
        for name, pairs in samples.items()
        for kind in ("score", "logit", "sigma_logit")
    }
    with Progress("Cross-fitting the tagger", FOLDS, "trainings") as bar:
        for k in range(FOLDS):
            rest = {name: pairs.take(np.flatnonzero(folds[name] != k)) for name, pairs in samples.items()}
            trained = tagger(rest["top"], rest["qcd"], method, options, f"fold{k}", SEED + k)
            for name, pairs in samples.items():
                rows = np.flatnonzero(folds[name] == k)
                prediction = trained.predict(np.asarray(pairs.features)[rows])
                for kind in ("score", "logit", "sigma_logit"):
                    found[f"{kind}_{name}"][rows] = getattr(prediction, kind)
            bar.advance(1)
    return found
