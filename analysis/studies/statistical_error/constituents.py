"""Does the statistical error fall with the number of jets? Top fat jets, from 401 inputs of constituents to five sums.

Ensembles of eight networks, two on each of four bootstrap samples, tell what other events change from what another
start does (``hepcal.distributions.uncertainties``). All predict the same jets. With the error of the mean of
a regression goes the number of parameters that the jets determine: of N jets of resolution sigma, p of them leave an
error of sigma (p / N)^(1/2) at a typical jet, so that p = N (spread / sigma_stoch)².
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import numpy as np
import typer
from disjoint import write
from drawing import draw_constituents
from samples import top

import hepcal
from hepcal.methods.base import NetworkMethod
from hepcal.methods.card import Card
from hepcal.progress import Progress

SIZES, QUICK_SIZES = (2_000, 5_000, 10_000, 20_000, 40_000), (1_000, 4_000)
TESTED = 3_000
NETWORKS, SAMPLES = 8, 4
# Networks of one ensemble see the same updates at every size.
SCHEDULE: dict[str, Any] = {"schedule": "cosine", "max_updates": 5_000, "patience": 5_000}
FEW = 10
SUMS = ("mass_over_pt", "constituents", "dispersion", "leading_share")
# What is changed, and the inputs that remain of 100 constituents: all, ten, or sums over them.
CASES: dict[str, tuple[str, NetworkMethod]] = {
    "401 inputs": ("all", hepcal.Ensemble(n=NETWORKS, **SCHEDULE)),
    "401 inputs, prior width 0.03": ("all", hepcal.Ensemble(n=NETWORKS, prior_width=0.03, **SCHEDULE)),
    "401 inputs, updates with N": ("all", hepcal.Ensemble(n=NETWORKS, **SCHEDULE)),
    "41 inputs": ("few", hepcal.Ensemble(n=NETWORKS, **SCHEDULE)),
    "5 inputs": ("sums", hepcal.Ensemble(n=NETWORKS, **SCHEDULE)),
}
# As many passes over the jets at each size, for which the largest take too long.
GROWING, GROWING_SIZES = "401 inputs, updates with N", (5_000, 10_000, 20_000)


def jets_with(inputs: str, table: hepcal.JetPairs) -> hepcal.JetPairs:
    """The same jets with fewer inputs."""
    spec = table.spec.constituents
    if inputs == "all" or spec is None:
        return table
    vectors = spec.vectors(np.asarray(table.features))
    common: dict[str, Any] = {"reco": np.asarray(table.reco), "truth": np.asarray(table.truth)}
    if inputs == "few":
        few = hepcal.Constituents(count=FEW)
        return hepcal.JetPairs.from_arrays(vectors[:, :FEW].reshape(len(table), -1), [], constituents=few, **common)
    energy, px, py, pz = vectors.sum(axis=1, dtype=np.float64).T
    pt = np.hypot(vectors[..., 1], vectors[..., 2]).astype(np.float64)
    mass = np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0))
    sums = (
        mass / table.reco,
        (vectors[..., 0] > 0).sum(axis=1),
        np.sqrt(np.square(pt).sum(axis=1)) / pt.sum(axis=1),
        pt.max(axis=1) / pt.sum(axis=1),
    )
    return hepcal.JetPairs.from_arrays(np.stack(sums, axis=1).astype(np.float32), list(SUMS), **common)


def one(case: str, size: int, table: hepcal.JetPairs) -> dict[str, float]:
    """An ensemble trained on some of the jets, on the last of them."""
    inputs, method = CASES[case]
    if case == GROWING:
        updates = SCHEDULE["max_updates"] * size // SIZES[1]
        method = method.model_copy(update={"max_updates": updates, "patience": updates})
    order = np.random.default_rng(7).permutation(len(table))
    test, fitted = (
        jets_with(inputs, table.take(np.sort(rows))) for rows in (order[:TESTED], order[TESTED : TESTED + size])
    )
    begun = process_time()
    calibrator = hepcal.train(fitted, method, seed=size, show=False)
    seconds = process_time() - begun
    found = calibrator.predict(test)
    sigma = float(np.sqrt(np.square(found.sigma_pred).mean()))
    stoch = float(np.sqrt(np.square(found.sigma_stoch).mean()))
    share = calibrator.card.figures["sample_share"]
    return {
        "sigma_pred": sigma,
        "sample_share": share,
        "sigma_stoch": stoch,
        "rmse": float(np.sqrt(np.mean(np.square(found.mean - test.truth)))),
        "cpu_seconds": seconds,
        **of_one_training(size, sigma, stoch, share),
    }


def of_one_training(size: int, sigma: float, stoch: float, share: float) -> dict[str, float]:
    """The spread of single trainings [GeV] and the parameters that it stands for.

    sigma_pred is the error of the mean of the ensemble: of the variance of one training, what the events contribute
    counts 1 + 1/4 times, and what the start contributes an eighth.
    """
    spread = sigma / (share * (1 + 1 / SAMPLES) + (1 - share) / NETWORKS) ** 0.5
    return {"spread": spread, "parameters": size * (spread / stoch) ** 2}


def main(
    data: Annotated[Path, typer.Option(help="Folder with qcd/ and top/.")],
    output: Annotated[Path, typer.Option(help="Where tables, results and figures go.")] = Path("results"),
    case: Annotated[list[str] | None, typer.Option(help=f"{'; '.join(CASES)}. Default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two small sizes.")] = False,
) -> None:
    """Train, and add to ``constituents.json``. What is there is not trained again."""
    top(data, output / "tables")
    pairs = hepcal.JetPairs.open(output / "tables" / "top")
    reco = np.asarray(pairs.reco)
    table = pairs.take(np.flatnonzero((reco > 400) & (reco < 1_000)))
    target = output / "constituents.json"
    found: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {"versions": Card.software()}
    todo = [
        (name, size)
        for name in case or CASES
        for size in (QUICK_SIZES if quick else GROWING_SIZES if name == GROWING else SIZES)
    ]
    todo = [(name, size) for name, size in todo if str(size) not in found.get(name, {})]
    with Progress("Fat jets", len(todo), "ensembles") as bar:
        for name, size in todo:
            found.setdefault(name, {})[str(size)] = one(name, size, table)
            write(found, target)
            bar.advance(1)
    for name, rows in found.items():
        if name != "versions":
            typer.echo(summary(name, rows))
    draw_constituents(found, output / "figures")


def summary(name: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """A line per size."""
    lines = [name]
    for size, row in rows.items():
        lines.append(
            f"  {int(size):6d} jets: spread {row['spread']:.1f} GeV ({100 * row['sample_share']:.0f} % of the "
            f"variance from events), rmse {row['rmse']:.1f} GeV, {row['parameters']:.0f} parameters"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
