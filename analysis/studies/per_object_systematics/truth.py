"""What the true p_T of the top is at a given fat-jet p_T: the distribution that a perfect network would predict.

Nothing is trained. Slices are in the fat-jet p_T (arXiv:2003.11099, Eq. 13). Without initial-state radiation the
distribution is asymmetric, since a jet can lose constituents and not win any; with it, both sides are alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import typer
from results import DataOption, Options, OutputOption, QuickOption
from samples import RADIUS, SLICES, Sample, inside, load
from slices import bootstrap, shortest_interval, skewness

EDGES = np.linspace(400, 1100, 71)
RATIO_EDGES = np.linspace(0.6, 1.9, 66)
PT_EDGES = np.arange(400, 1001, 40)
MASS_EDGES = np.arange(40, 301, 10)
# Bins with fewer jets than this have no mean.
FEW = 10
# Relative distance from the fat-jet p_T beyond which jets count as far off, on either side.
FAR = 0.1


def figures_of(truth: np.ndarray, reco: np.ndarray, scale: float) -> dict[str, Any]:
    """Moments and the shortest 68.27 % interval of truth / reco, times a p_T [GeV], and the shares far from 1."""
    values = (truth / reco).astype(np.float64) * scale

    def statistic(rows: np.ndarray) -> np.ndarray:
        chosen = values[rows]
        low, high = shortest_interval(chosen)
        asymmetry = (high + low - 2 * np.median(chosen)) / (high - low)
        below, above = np.mean(chosen < (1 - FAR) * scale), np.mean(chosen > (1 + FAR) * scale)
        return np.array([
            chosen.mean(), np.median(chosen), chosen.std(), skewness(chosen), low, high, asymmetry, below, above
        ])  # fmt: skip

    found, error = bootstrap(statistic, len(values))
    names = ("mean", "median", "sd", "skewness", "low", "high", "asymmetry", "below", "above")
    out: dict[str, Any] = {"jets": len(values)}
    for name, value, unc in zip(names, found, error, strict=True):
        out[name], out[f"{name}_unc"] = value, unc
    return out


def selections(sample: Sample, *, isr: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Truth and jets to look at, by name."""
    everything = np.ones(len(sample.pairs), dtype=bool)
    if isr:
        return {"ISR on": (sample.pairs.truth, everything)}
    return {
        "ISR off": (sample.pairs.truth, everything),
        "ISR off, first copy of the top": (sample.first_copy, everything),
        f"ISR off, all quarks within {RADIUS}": (sample.pairs.truth, sample.contained),
        "ISR off, not all quarks within": (sample.pairs.truth, ~sample.contained),
    }


def by_mass(sample: Sample, limits: tuple[float, float]) -> dict[str, Any]:
    """Mean of truth / fat-jet p_T and its error in bins of the mass of all constituents [GeV].

    The top has a mass, so that a jet that is too light has lost energy: what a calibration from constituents can use.
    """
    rows = np.flatnonzero(inside(np.asarray(sample.pairs.reco), limits))
    energy, *momentum = (
        np.asarray(sample.pairs.features[rows], dtype=np.float64).reshape(len(rows), -1, 4).sum(axis=1).T
    )
    mass = np.sqrt(np.maximum(energy**2 - np.sum(np.square(momentum), axis=0), 0))
    ratio = (np.asarray(sample.pairs.truth)[rows] / np.asarray(sample.pairs.reco)[rows]).astype(np.float64)
    jets = np.histogram(mass, MASS_EDGES)[0].astype(np.float64)
    jets[jets < FEW] = np.nan
    sums = [np.histogram(mass, MASS_EDGES, weights=ratio**power)[0] / jets for power in (1, 2)]
    return {"edges": MASS_EDGES, "jets": jets, "ratio": sums[0], "ratio_unc": np.sqrt((sums[1] - sums[0] ** 2) / jets)}


def main(
    data: DataOption = Path("../shared/data"), output: OutputOption = Path("results"), quick: QuickOption = False
) -> None:
    """Moments, intervals and histograms of the true p_T in slices of the fat-jet p_T."""
    options = Options("truth", data, output, quick)
    jets = 10_000 if quick else None
    found: dict[str, Any] = {"edges": EDGES, "ratio_edges": RATIO_EDGES, "pt_edges": PT_EDGES, "far": FAR, "slices": {}}
    samples = {"top": load("top", data, output, jets), "top_isr": load("top_isr", data, output, jets)}
    for name, sample in samples.items():
        reco = np.asarray(sample.pairs.reco)
        for label, (truth, kept) in selections(sample, isr=name == "top_isr").items():
            for window, limits in SLICES.items():
                rows = inside(reco, limits) & kept
                # In the wide slice values are brought to one jet p_T by their ratio.
                narrow = limits[1] - limits[0] < 50
                scale = float(reco[rows].mean())
                entry = figures_of(truth[rows], np.full(rows.sum(), scale) if narrow else reco[rows], scale)
                entry["histogram"] = np.histogram(truth[rows], EDGES)[0]
                entry["ratio_histogram"] = np.histogram(truth[rows] / reco[rows], RATIO_EDGES)[0]
                found["slices"].setdefault(window, {})[label] = entry
        found[f"{name}_jets"] = np.histogram(reco, PT_EDGES)[0]
        found[f"{name}_truth"] = np.histogram(sample.pairs.truth, PT_EDGES)[0]
        found[f"{name}_constituents"] = np.histogram(sample.constituents, np.arange(0, 102, 2))[0]
        found[f"{name}_contained"] = float(sample.contained.mean())
    found["mass"] = {w: by_mass(samples["top"], limits) for w, limits in SLICES.items()}
    found["constituent_edges"] = np.arange(0, 102, 2)
    options.finish(found)


if __name__ == "__main__":
    typer.run(main)
