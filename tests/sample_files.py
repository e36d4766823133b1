"""Small files in the layouts of NanoAOD and Delphes, and the toy jets in them: the one place where tests make files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

import hepcal
from hepcal.events.features import Features

__all__ = ["Edit", "ToyJets", "delphes_file", "nano_inputs", "nanoaod_file", "toy_pairs"]

# -- toy jets ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ToyJets:
    """Flat jets with the truth they come from; p_T and mass in GeV.

    The detector measures 0.95 of the true p_T with a resolution of 8 %, and keeps the order of the particle-level
    jets; directions are smeared by 0.01, far less than the distance between jets.
    """

    counts: np.ndarray
    pt_truth: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    mass: np.ndarray
    shift: np.ndarray

    @classmethod
    def draw(cls, events: int, seed: int) -> ToyJets:
        rng = np.random.default_rng(seed)
        counts = rng.integers(0, 4, events)
        n = int(counts.sum())
        truth = 100 + rng.exponential(200, n)
        # Jets of one event are 2 pi / 3 apart: neither overlap nor a swap of partners is possible.
        turn = np.concatenate([np.arange(c) for c in counts]) if n else np.empty(0)
        phi = np.remainder(turn * 2 * np.pi / 3 + np.repeat(rng.uniform(0, 2 * np.pi, events), counts), 2 * np.pi)
        pt = truth * 0.95 * np.exp(rng.normal(0, 0.08, n))
        return cls(counts, truth, pt, rng.uniform(-2, 2, n), phi - np.pi, 0.1 * pt, rng.normal(0, 0.01, n))

    def lists(self, fields: dict[str, np.ndarray]) -> ak.Array:
        """The given flat fields as one list of records per event."""
        return ak.unflatten(ak.zip(fields), self.counts)


def nano_inputs(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Jet fields of NanoAOD beyond the momentum, shape (n,) each."""
    fractions = rng.dirichlet((6, 2, 0.2, 2.5), n).T
    return {
        "area": rng.normal(0.5, 0.02, n),
        "nConstituents": rng.integers(5, 60, n),
        **dict(zip(("chHEF", "neHEF", "chEmEF", "neEmEF"), fractions, strict=True)),
    }


def toy_pairs(spec: Features) -> hepcal.JetPairs:
    """A training table of toy jets for features of NanoAOD."""
    rng = np.random.default_rng(7)
    toys = ToyJets.draw(1500, seed=7)
    n = len(toys.pt)
    known = {"eta": toys.eta, "mass": toys.mass, "event_rho": rng.uniform(5, 60, n), **nano_inputs(rng, n)}
    table = np.stack([known[name] for name in spec.names], axis=1)
    pairs = hepcal.JetPairs.from_arrays(table, spec.names, reco=toys.pt, truth=toys.pt_truth)
    return dataclasses.replace(pairs, spec=spec)


# -- files in the two layouts -----------------------------------------------------------------------------------------

Edit = Callable[[dict[str, Any]], None]
Trees = Mapping[str, Mapping[str, np.ndarray]]


def delphes_file(
    path: Path, events: int = 60, seed: int = 0, edit: Edit | None = None, more: Trees | None = None
) -> Path:
    """Write a small file in the layout of Delphes.

    Args:
        path: Where to write.
        events: Number of events, 0 included.
        seed: Different seeds give different events.
        edit: Changes the collections (``Event``, ``GenJet``, ``Jet``) in place before they are written.
        more: Other trees of flat branches, by name.
    """
    rng = np.random.default_rng(seed)
    toys = ToyJets.draw(events, seed)
    n = len(toys.pt)
    direction = {"Eta": toys.eta, "Phi": toys.phi}
    jets = {
        "PT": toys.pt,
        "Eta": toys.eta + toys.shift,
        "Phi": toys.phi,
        "Mass": toys.mass,
        "DeltaEta": rng.uniform(0, 0.1, n),
        "DeltaPhi": rng.uniform(0, 0.1, n),
        "NCharged": rng.integers(3, 60, n),
        "NNeutrals": rng.integers(1, 30, n),
        "NeutralEnergyFraction": rng.uniform(0, 1, n),
        "EhadOverEem": rng.exponential(2, n),
    }
    event = {"Number": np.arange(events), "Weight": np.ones(events)}
    content = {
        "Event": ak.unflatten(ak.zip(event), np.ones(events, dtype=np.int64)),
        "GenJet": toys.lists({"PT": toys.pt_truth, **direction, "Mass": 0.1 * toys.pt_truth}),
        "Jet": toys.lists(jets),
    }
    return _write(
        path, "Delphes", content, edit, more, lambda name: f"{name}_size", lambda name, b: f"{name}/{name}.{b}"
    )


def nanoaod_file(
    path: Path, events: int = 60, seed: int = 0, edit: Edit | None = None, more: Trees | None = None
) -> Path:
    """Write a small file in the layout of NanoAOD: corrected jets, generator index, weights of both signs.

    Args:
        path: Where to write.
        events: Number of events, 0 included.
        seed: Different seeds give different events.
        edit: Changes the branches and collections (``Jet``, ``GenJet``, ``GenPart``, ``genWeight`` ...) in place.
        more: Other trees of flat branches, by name, such as ``Runs``.
    """
    rng = np.random.default_rng(seed)
    toys = ToyJets.draw(events, seed)
    n = len(toys.pt)
    raw_factor = rng.uniform(-0.1, 0.2, n)
    jets = {
        "pt": toys.pt / (1 - raw_factor),
        "eta": toys.eta + toys.shift,
        "phi": toys.phi,
        "mass": toys.mass / (1 - raw_factor),
        "rawFactor": raw_factor,
        **nano_inputs(rng, n),
        "genJetIdx": ak.to_numpy(ak.flatten(ak.local_index(ak.unflatten(toys.pt, toys.counts)))).astype(np.int32),
    }
    truth = {"pt": toys.pt_truth, "eta": toys.eta, "phi": toys.phi, "mass": 0.1 * toys.pt_truth}
    parton = {**truth, "pdgId": np.full(n, 21), "genPartIdxMother": np.full(n, -1), "status": np.full(n, 23)}
    content = {
        "run": np.ones(events, dtype=np.uint32),
        "luminosityBlock": np.ones(events, dtype=np.uint32),
        "event": np.arange(events, dtype=np.uint64),
        "genWeight": rng.choice([-1.0, 2.0], events),
        "fixedGridRhoFastjetAll": rng.uniform(5, 60, events),
        "GenPart": toys.lists(parton),
        "GenJet": toys.lists(truth),
        "Jet": toys.lists(jets),
    }
    return _write(path, "Events", content, edit, more, lambda name: f"n{name}", lambda name, b: f"{name}_{b}")


def _write(
    path: Path,
    tree: str,
    content: dict[str, Any],
    edit: Edit | None,
    more: Trees | None,
    counter: Callable[[str], str],
    branch: Callable[[str, str], str],
) -> Path:
    if edit is not None:
        edit(content)
    content = {name: _single_precision(values) for name, values in content.items()}
    types = {name: ak.type(values).content for name, values in content.items()}
    with uproot.recreate(path) as out:
        out.mktree(tree, types, counter_name=counter, field_name=branch).extend(content)
        for name, branches in (more or {}).items():
            out.mktree(name, {key: values.dtype for key, values in branches.items()}).extend(dict(branches))
    return path


def _single_precision(values: Any) -> ak.Array:
    """Floats and signed integers as 32 bits, as in real files."""

    def narrow(layout: ak.contents.Content, **_: Any) -> ak.contents.Content | None:
        narrower = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
        if not layout.is_numpy or layout.dtype not in narrower:
            return None
        return ak.contents.NumpyArray(layout.data.astype(narrower[layout.dtype]))

    return ak.transform(narrow, ak.Array(values))
