"""Shared samples and calibrators: real files where the shared folder is there, imitations of both layouts always."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import pytest
from coffea.nanoevents import NanoEventsFactory
from hypothesis import settings
from sample_files import delphes_file, nanoaod_file, toy_pairs

import hepcal
from hepcal.calibrators.base import Calibrator
from hepcal.demo import demo_fileset
from hepcal.features import DEFAULT_FEATURES, Features
from hepcal.filesets import Fileset
from hepcal.schemas import SCHEMAS

# Tests say what is right, not how fast a shared machine is.
settings.register_profile("hepcal", deadline=None)
settings.load_profile("hepcal")

SHARED = Path(__file__).parents[2] / "shared"
QUICK = hepcal.BNN(hidden=(32, 32), max_updates=400, patience=400, draws=10)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data, beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"the shared data folder {SHARED.name}/ is not beside this repository")
    return SHARED


@pytest.fixture(scope="session")
def demo_files() -> dict[str, Fileset]:
    """The embedded Pythia+Delphes dijets, ``train`` and ``test`` part."""
    return {part: demo_fileset(part) for part in ("train", "test")}


@pytest.fixture(scope="session")
def small_calibrator(demo_files: dict[str, Fileset]) -> Calibrator:
    """A Bayesian calibrator of Delphes jets, trained for a few seconds on the embedded dijets."""
    pairs = hepcal.JetPairs.from_fileset(demo_files["train"], show=False)
    return hepcal.train(pairs, QUICK, seed=1, show=False)


@pytest.fixture(scope="session")
def likelihood_calibrator(demo_files: dict[str, Fileset]) -> Calibrator:
    """A likelihood calibration of Delphes jets, with a Neyman belt, trained for a few seconds on the same dijets."""
    pairs = hepcal.JetPairs.from_fileset(demo_files["train"], show=False)
    return hepcal.train(pairs, hepcal.Likelihood(n=4, max_updates=600), seed=1, show=False)


@pytest.fixture(scope="session")
def train_on_toys() -> Callable[[Features], Calibrator]:
    """Train a small calibrator on toy jets with the given features; no file is read."""

    def train(spec: Features) -> Calibrator:
        return hepcal.train(toy_pairs(spec), QUICK.model_copy(update={"max_updates": 150}), seed=1, show=False)

    return train


@pytest.fixture(scope="session")
def nano_calibrator(train_on_toys: Callable[[Features], Calibrator]) -> Calibrator:
    """A calibrator with the default inputs of NanoAOD."""
    return train_on_toys(DEFAULT_FEATURES["nanoaod"])


@pytest.fixture(scope="session")
def rho_calibrator(train_on_toys: Callable[[Features], Calibrator]) -> Calibrator:
    """A calibrator of NanoAOD jets with the event-level input rho."""
    return train_on_toys(Features(inputs=("eta", "area", "event_rho"), pt="raw"))


@pytest.fixture(scope="session")
def write_delphes() -> Callable[..., Path]:
    """Writes a small file with the branch names of Delphes, see :func:`delphes_file`."""
    return delphes_file


@pytest.fixture(scope="session")
def write_nanoaod() -> Callable[..., Path]:
    """Writes a small file with the branch names of NanoAOD, see :func:`nanoaod_file`."""
    return nanoaod_file


@pytest.fixture(scope="session")
def read_events() -> Callable[..., ak.Array]:
    """Opens a file as coffea's Runner does, on virtual arrays."""

    def read(path: Path, schema: str, access_log: list[str] | None = None) -> ak.Array:
        layout = SCHEMAS[schema]
        return NanoEventsFactory.from_root(
            {str(path): layout.tree},
            schemaclass=layout.coffea,
            metadata={"filename": str(path), "dataset": "test"},
            access_log=access_log,
        ).events()

    return read


@pytest.fixture(scope="session")
def real_nanoaod(shared: Path, read_events: Callable[..., ak.Array]) -> Callable[[str], ak.Array]:
    """Events of a real NanoAOD file by name; each is opened once, since full NanoAOD takes seconds to open."""

    @functools.cache
    def read(name: str) -> ak.Array:
        return read_events(shared / "data" / "nanoaod" / name, "pfnano" if name == "pfnano.root" else "nanoaod")

    return read


@pytest.fixture
def fileset_of() -> Callable[..., Fileset]:
    """A fileset of the given files, in one data set, in this order."""

    def build(*paths: Path, name: str = "QCD", **metadata: Any) -> Fileset:
        return hepcal.load_fileset({name: {"files": [str(path) for path in paths], "metadata": metadata}})

    return build
