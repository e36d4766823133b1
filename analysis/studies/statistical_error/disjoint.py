"""sigma_pred over the spread of trainings on disjoint samples, by method and size of the sample."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import numpy as np
import typer
from drawing import draw
from samples import Sample, qcd, qcd_signed, top, toy

import hepcal
from hepcal.evaluation.spread import spread_ratio
from hepcal.methods.base import NetworkMethod
from hepcal.methods.card import Card
from hepcal.progress import Progress

SAMPLES = {"qcd": qcd, "toy": toy, "qcd_signed": qcd_signed, "top": top}
METHODS: dict[str, NetworkMethod] = {
    "hessian": hepcal.Hessian(),
    "sandwich": hepcal.Hessian(error="sandwich"),
    "retrained": hepcal.Hessian(retrainings=4),
    "bnn": hepcal.BNN(),
    "ensemble": hepcal.Ensemble(n=8),
    "dropout": hepcal.Dropout(),
}
TRAININGS, QUICK_TRAININGS = 20, 4


def training(name: str, data: Path, output: Path, method_name: str, size: int, k: int, same: bool) -> Path:
    """One training and what it predicts, as a file; found again if it is there.

    ``same``: all of them on sample 0, from other starts, for what is due to the procedure alone.
    """
    sample, method = SAMPLES[name](data, output / "tables"), METHODS[method_name]
    settings = json.dumps([method.name, method.model_dump(mode="json"), Card.software()], sort_keys=True)
    tag = hashlib.sha256(settings.encode()).hexdigest()[:8]
    path = output / "trainings" / f"{name}_{size}_{method_name}_{tag}_{'same' if same else 'disjoint'}_{k}.npz"
    if path.exists():
        return path
    begun = process_time()
    calibrator = hepcal.train(sample.part(0 if same else k, size), method, seed=1_000 + k, show=False)
    seconds = process_time() - begun
    found = sample.predict(calibrator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as scratch:
        part = Path(scratch) / path.name
        of_card = calibrator.card.figures
        scale = {name: of_card[name] for name in ("retraining_scale", "retraining_scale_error") if name in of_card}
        np.savez(part, seconds=seconds, converged=of_card["converged"], **found, **scale)
        part.replace(path)
    return path


def figures(sample: Sample, files: Iterable[Path]) -> dict[str, Any]:
    """Ratios of one method and size, in bins and over all jets, of jets and of event observables."""
    content = [dict(np.load(file)) for file in files]
    pt = np.stack([each["pt"] for each in content])
    out: dict[str, Any] = {
        "trainings": len(content),
        "cpu_seconds": float(np.mean([each["seconds"] for each in content])),
        "converged": float(np.mean([each["converged"] for each in content])),
        "spread": float(np.sqrt(pt.var(axis=0, ddof=1).mean())),
    }
    if "retraining_scale" in content[0]:
        # What retrainings made of each error, how that differs from training to training, and what each said of it.
        scale = np.array([each["retraining_scale"] for each in content])
        said = np.array([each["retraining_scale_error"] for each in content])
        out["retraining_scale"] = {
            "mean": scale.mean(),
            "scatter": scale.std(ddof=1),
            "said": np.sqrt((said**2).mean()),
        }
    if "sigma_pred" not in content[0]:
        return out
    claims = np.stack([each["sigma_pred"] for each in content])
    sigma = np.sqrt(np.square(claims).mean(0))
    everything = np.zeros(pt.shape[1]), np.array([-1.0, 1.0])
    for name, (values, edges) in {**sample.bins, "all": everything}.items():
        ratio = spread_ratio(sigma, pt, values, edges)
        # Each training makes a claim of its own: how these differ is an error of the ratio, too.
        inside = [np.digitize(values, edges) - 1 == index for index in range(len(edges) - 1)]
        each = np.array([[np.sqrt(np.square(c[i]).mean()) for i in inside] for c in claims]) / ratio.sigma_pred
        scatter = each.std(axis=0, ddof=1)
        out[name] = {
            "edges": edges, "ratio": ratio.ratio, "ratio_unc": ratio.ratio_unc, "sigma_pred": ratio.sigma_pred,
            "spread": ratio.spread, "training_to_training": scatter,
        }  # fmt: skip
    if "replicas" in content[0]:
        observed = np.stack([each["observables"] for each in content])
        claimed = np.stack([each["replicas"].std(axis=0, ddof=1) for each in content])
        spread = observed.std(axis=0, ddof=1)
        error = 1 / np.sqrt(2 * (len(content) - 1))
        out["observables"] = {
            name: {"ratio": r, "ratio_unc": r * error, "claimed": c, "spread": s}
            for name, r, c, s in zip(
                sample.observables, np.sqrt(np.square(claimed).mean(0)) / spread,
                np.sqrt(np.square(claimed).mean(0)), spread, strict=True,
            )
        }  # fmt: skip
    return out


def slopes(by_size: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """d ln / d ln N of the spread and of sigma_pred."""
    sizes = sorted(by_size)
    found = {"spread": [by_size[n]["spread"] for n in sizes]}
    if all("all" in by_size[n] for n in sizes):
        found["sigma_pred"] = [by_size[n]["all"]["sigma_pred"][0] for n in sizes]
    return {name: float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) for name, values in found.items()}


def plain(value: Any) -> Any:
    """For JSON: lists, and numbers of at most five digits; None for NaN."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value


def main(
    data: Annotated[Path, typer.Option(help="Folder with qcd/ and top/.")],
    output: Annotated[Path, typer.Option(help="Where tables, trainings, results and figures go.")] = Path("results"),
    sample: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SAMPLES)}; default: all.")] = None,
    method: Annotated[list[str] | None, typer.Option(help=f"{', '.join(METHODS)}; default: hessian.")] = None,
    same: Annotated[bool, typer.Option(help="Also other starts on one sample: the part of the procedure.")] = False,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Four trainings of the smallest size.")] = False,
) -> None:
    """Train on disjoint samples, compare, and add to ``disjoint.json``. What was finished is not trained again."""
    target = output / "disjoint.json"
    found: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for name in sample or list(SAMPLES):
            source = SAMPLES[name](data, output / "tables")
            sizes = source.sizes[:1] if quick else source.sizes
            for method_name in method or ["hessian"]:
                rows = found.setdefault(name, {}).setdefault(method_name, {})
                for size in sizes:
                    for kind in (False, True) if same else (False,):
                        files = trained(pool, name, data, output, method_name, size, kind, quick)
                        key = "same_sample" if kind else "disjoint"
                        rows.setdefault(str(size), {})[key] = plain(figures(source, files))
                    print(summary(name, method_name, size, rows[str(size)]), flush=True)
                    if len(known := [n for n in source.sizes if str(n) in rows]) > 1:
                        rows["slopes"] = plain(slopes({n: rows[str(n)]["disjoint"] for n in known}))
                    rows[str(size)]["versions"] = Card.software()
                    write(found, target)
    draw(found, output / "figures")


def write(found: Mapping[str, Any], target: Path) -> None:
    """The numbers so far, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as scratch:
        part = Path(scratch) / target.name
        part.write_text(json.dumps(found, indent=1))
        part.replace(target)


def trained(
    pool: ProcessPoolExecutor, name: str, data: Path, output: Path, method: str, size: int, same: bool, quick: bool
) -> list[Path]:
    """All trainings of one kind."""
    count = QUICK_TRAININGS if quick else TRAININGS
    waiting = [pool.submit(training, name, data, output, method, size, k, same) for k in range(count)]
    title = f"{name}, {method}, {size} jets{', one sample' if same else ''}"
    files = []
    with Progress(title, count, "trainings") as bar:
        for each in waiting:
            files.append(each.result())
            bar.advance(1)
    return files


def summary(name: str, method: str, size: int, found: Mapping[str, Any]) -> str:
    """One line per size."""
    of = found["disjoint"]
    line = f"{name} {method:9s} {size:6d} jets: spread {of['spread']:.3g} GeV, {of['cpu_seconds']:.1f} s"
    if "all" in of:
        if scale := of.get("retraining_scale"):
            line += f"\n    retraining scale: {scale['mean']:.2f}, from one to the next {scale['scatter']:.2f}"
        bins = {key: value for key, value in of.items() if isinstance(value, dict) and "edges" in value}
        for key, each in bins.items():
            ratios = " ".join(
                "-" if r is None else f"{r:.2f}±{e:.2f}" for r, e in zip(each["ratio"], each["ratio_unc"], strict=True)
            )
            line += f"\n    {key}: {ratios}"
        line += f"\n    one training to the next: {of['all']['training_to_training'][0]:.2f}"
    for key, each in of.get("observables", {}).items():
        line += f"\n    {key}: {each['ratio']:.2f}±{each['ratio_unc']:.2f}"
    if "same_sample" in found:
        share = (found["same_sample"]["spread"] / of["spread"]) ** 2
        line += f"\n    procedure: {100 * share:.0f} % of the variance"
    return line


if __name__ == "__main__":
    typer.run(main)
