"""Disjoint training samples, and jets to predict: QCD dijets, also with signed weights, constituents, and a toy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
from coffea.nanoevents import NanoEventsFactory
from hepcal.processors.selection import LeadingPair, dijet_mass

import hepcal
from hepcal.events.features import DEFAULT_FEATURES
from hepcal.events.schemas import SCHEMAS
from hepcal.methods.calibrator import Calibrator

__all__ = ["Sample", "qcd", "qcd_signed", "top", "toy"]

TRAIN_FILES, TEST_EVENTS = 28, 3_000
# Of the dijet mass [GeV]: a tenth of the events are above.
MASS_ABOVE = 3_000.0
ETA_EDGES = (0.0, 0.5, 1.0, 1.5, 2.5)
RECO = 100.0
# Fat jets [GeV], and how many are predicted.
TOP_PT, TOP_EDGES, TOP_TESTED = (400.0, 1000.0), (400.0, 500.0, 600.0, 700.0, 800.0, 1000.0), 3_000


@dataclass(frozen=True)
class Sample:
    """Where trainings come from, and what they are asked.

    Attributes:
        title: What it is, for figures.
        sizes: Jets per training.
        part: Training table k of so many jets, disjoint from those of all other k.
        predict: ``pt_calib``, ``pt_calib_sigma_pred`` [GeV] of the test jets, and numbers of event observables.
        bins: By name, what the test jets are binned in and the edges.
    """

    title: str
    sizes: tuple[int, ...]
    part: Callable[[int, int], hepcal.JetPairs]
    predict: Callable[[Calibrator], dict[str, np.ndarray]]
    bins: dict[str, tuple[np.ndarray, np.ndarray]]
    observables: tuple[str, ...] = field(default=())


def qcd(data: Path, tables: Path) -> Sample:
    """Jets of 28 files in parts; the first 3,000 events of the other two files are predicted."""
    files = sorted((data / "qcd").glob("*.root"))
    if not (tables / "qcd").is_dir():
        content: dict[str, Any] = {
            "QCD": {"files": {str(file): "Delphes" for file in files[:TRAIN_FILES]}, "metadata": {"schema": "delphes"}}
        }
        hepcal.JetPairs.from_fileset(content).save(tables / "qcd")
    pairs = hepcal.JetPairs.open(tables / "qcd")
    events = np.unique(np.asarray(pairs.event))
    order = np.random.default_rng(2011).permutation(len(events))
    jets = _dijets(files[TRAIN_FILES:])
    pt, eta = (np.asarray(ak.flatten(jets[name])) for name in ("pt", "eta"))

    def part(k: int, size: int) -> hepcal.JetPairs:
        chosen = events[order[k * size // 2 : (k + 1) * size // 2]]
        return pairs.take(np.flatnonzero(np.isin(np.asarray(pairs.event), chosen)))

    def predict(calibrator: Calibrator) -> dict[str, np.ndarray]:
        found = calibrator(jets, replicas=calibrator.replicas > 0)
        out = {"pt": np.asarray(ak.flatten(found.pt_calib), dtype=np.float64)}
        if "pt_calib_sigma_pred" in calibrator.columns:
            out["sigma_pred"] = np.asarray(ak.flatten(found.pt_calib_sigma_pred), dtype=np.float64)
        mass = dijet_mass(calibrator(jets, replace=True))
        out["observables"] = _observables(mass)
        if calibrator.replicas:
            # Both jets of an event scale with their p_T, and so does the mass: with the root of the product.
            ratio = np.asarray(ak.to_numpy(found.pt_calib_replicas)) / np.asarray(found.pt_calib)[..., None]
            out["replicas"] = np.stack([_observables(mass * np.sqrt(r)) for r in ratio.prod(axis=1).T])
        return out

    edges = np.quantile(pt, np.linspace(0, 1, 7))
    bins = {"pt": (pt, np.round(edges)), "abs_eta": (np.abs(eta), np.array(ETA_EDGES))}
    title = "QCD dijets, Pythia 8 + Delphes"
    observables = ("mean dijet mass", f"events above {MASS_ABOVE:.0f} GeV")
    return Sample(title, (2_000, 5_000, 14_000), part, predict, bins, observables=observables)


def qcd_signed(data: Path, tables: Path) -> Sample:
    """The same with the weight -1 for a fifth of the events, at random, in training: what is predicted is the same."""
    sample = qcd(data, tables)

    def part(k: int, size: int) -> hepcal.JetPairs:
        found = sample.part(k, size)
        _, number = np.unique(np.asarray(found.event), return_inverse=True)
        sign = np.where(np.random.default_rng([3, k, size]).uniform(size=number.max() + 1) < 0.2, -1.0, 1.0)
        return replace(found, weight=sign[number])

    return replace(sample, title=f"{sample.title}, 20 % negative weights", sizes=(14_000,), part=part)


def top(data: Path, tables: Path) -> Sample:
    """Fat jets of tops with up to 100 constituents each: 401 inputs."""
    if not (tables / "top").is_dir():
        content = {
            "top": {"files": {str(file): "Delphes" for file in sorted(data.glob("top/*isr_off*.root"))}, "metadata": {}}
        }
        features = hepcal.Features(constituents=hepcal.Constituents())
        hepcal.JetPairs.from_fileset(content, features, jets="FatJet", truth="Particle[0]", chunksize=10_000).save(
            tables / "top"
        )
    pairs = hepcal.JetPairs.open(tables / "top")
    inside = np.flatnonzero((np.asarray(pairs.reco) > TOP_PT[0]) & (np.asarray(pairs.reco) < TOP_PT[1]))
    rows = np.random.default_rng(2011).permutation(inside)
    test = pairs.take(np.sort(rows[-TOP_TESTED:]))

    def part(k: int, size: int) -> hepcal.JetPairs:
        return pairs.take(np.sort(rows[k * size : (k + 1) * size]))

    def predict(calibrator: Calibrator) -> dict[str, np.ndarray]:
        found = calibrator.predict(test)
        out = {"pt": found.mean.astype(np.float64)}
        return out if found.sigma_pred is None else {**out, "sigma_pred": found.sigma_pred.astype(np.float64)}

    pt = np.asarray(test.reco, dtype=np.float64)
    return Sample("top fat jets, constituents", (2_000,), part, predict, {"pt": (pt, np.array(TOP_EDGES))})


def _dijets(files: list[Path]) -> ak.Array:
    """Two matched leading jets per event."""
    layout = SCHEMAS["delphes"]
    found = []
    for file in files:
        events = NanoEventsFactory.from_root({str(file): layout.tree}, schemaclass=layout.coffea).events()
        pair = LeadingPair.of(events, DEFAULT_FEATURES["delphes"].jet_fields)
        found.append(ak.materialize(ak.drop_none(pair.reco[pair.complete])))
    return ak.to_packed(ak.concatenate(found)[:TEST_EVENTS])


def _observables(mass: np.ndarray) -> np.ndarray:
    """Mean mass [GeV], and how many events are above, counted smoothly over one percent of the mass."""
    share = 0.5 * (1 + np.tanh((mass / MASS_ABOVE - 1) / 0.01))
    return np.array([mass.mean(), share.sum()])


def toy(data: Path, tables: Path) -> Sample:  # noqa: ARG001
    """y = 0.6 + 0.3 x sin(2 pi x) with noise 0.03 + 0.05 x, x uniform in (0, 1)."""

    def part(k: int, size: int) -> hepcal.JetPairs:
        rng = np.random.default_rng([7, k, size])
        x = rng.uniform(0, 1, size)
        y = 0.6 + 0.3 * x * np.sin(2 * np.pi * x) + (0.03 + 0.05 * x) * rng.standard_normal(size)
        return hepcal.JetPairs.from_arrays(x[:, None], ["x"], reco=np.full(size, RECO), truth=RECO * y)

    x = (np.arange(3_000) + 0.5) / 3_000

    def predict(calibrator: Calibrator) -> dict[str, np.ndarray]:
        found = calibrator.predict(x[:, None], np.full(len(x), RECO))
        out = {"pt": found.mean.astype(np.float64)}
        return out if found.sigma_pred is None else {**out, "sigma_pred": found.sigma_pred.astype(np.float64)}

    return Sample("toy", (1_000, 10_000, 100_000), part, predict, {"x": (x, np.linspace(0, 1, 7))})
