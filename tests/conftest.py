"""Shared samples and calibrators: real files where the shared folder is there, imitations of both layouts always."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
from coffea.nanoevents import NanoEventsFactory
from hypothesis import settings
from sample_files import delphes_file, nanoaod_file, toy_pairs

import hepcal
from hepcal.demo import demo_fileset
from hepcal.events.executors import ExecutorFactory, open_executor
from hepcal.events.features import DEFAULT_FEATURES, Features
from hepcal.events.filesets import Fileset
from hepcal.events.schemas import SCHEMAS
from hepcal.methods.base import Method
from hepcal.methods.calibrator import Calibrator

# Tests say what is right, not how fast a shared machine is.
settings.register_profile("hepcal", deadline=None)
settings.load_profile("hepcal")


def pytest_collection_finish() -> None:
    """What was imported lives as long as the tests: to look for garbage in it again and again took a sixth of them."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


# Files whose tests share what takes seconds to start or to open; with `--dist loadfile` they run on one worker.
TOGETHER = (
    {"test_constituents", "test_determinism", "test_executors", "test_pairs", "test_progress", "test_running"},
    {"test_jet_corrections", "test_nanoaod", "test_schemas"},
)
EXECUTORS = ("dask", "futures", "iterative")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The files of a row of ``TOGETHER`` count as one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return next((min(names) for names in TOGETHER if Path(path).stem in names), path)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of one executor follow each other, so that it starts once."""
    items.sort(key=lambda item: EXECUTORS.index(name) if (name := executor_of(item)) in EXECUTORS else len(EXECUTORS))


def executor_of(item: pytest.Item) -> Any:
    return item.callspec.params.get("executor") if hasattr(item, "callspec") else None


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


@pytest.fixture(scope="session", params=EXECUTORS)
def executor(request: Any) -> Iterator[ExecutorFactory]:
    """Each executor, with two workers where it has any; they start once for the tests of all files."""
    with open_executor(request.param, workers=None if request.param == "iterative" else 2) as factory:
        yield factory


@pytest.fixture
def fileset_of() -> Callable[..., Fileset]:
    """A fileset of the given files, in one data set, in this order."""

    def build(*paths: Path, name: str = "QCD", **metadata: Any) -> Fileset:
        return hepcal.load_fileset({name: {"files": [str(path) for path in paths], "metadata": metadata}})

    return build


NETWORKS = {"hidden": (8,), "max_updates": 30, "patience": 30, "learning_rate": 1e-2, "batch": 50}
# Every method, trained in a moment.
TINY: dict[str, Method] = {
    "bnn": hepcal.BNN(**NETWORKS, draws=4),
    "bnn_tails": hepcal.BNN(**NETWORKS, draws=4, head="tails", estimator="flipout"),
    "ensemble": hepcal.Ensemble(**NETWORKS, n=3, dropout=0.1),
    "ensemble_parts": hepcal.Ensemble(**NETWORKS, n=3, sample="parts", head="mixture"),
    "hessian": hepcal.Hessian(**NETWORKS, draws=5, directions=4, rank=4),
    "hessian_tails": hepcal.Hessian(**NETWORKS, draws=5, directions=3, rank=3, head="tails", error="sandwich"),
    "heteroscedastic": hepcal.Heteroscedastic(**NETWORKS),
    "dropout": hepcal.Dropout(**NETWORKS, draws=4),
    "mse": hepcal.MSE(**NETWORKS),
    "noisy_labels": hepcal.NoisyLabels(method=hepcal.BNN(**NETWORKS, draws=4), fraction=0.04),
    "inversion": hepcal.NumericalInversion(n=3),
    "generalised_inversion": hepcal.GeneralisedInversion(hidden=(8,), max_updates=30),
    "gaussian_ansatz": hepcal.GaussianAnsatz(hidden=(4,), epochs=1, iterations=1),
    "likelihood": hepcal.Likelihood(hidden=(8,), max_updates=30, n=3),
    "likelihood_of_eta": hepcal.Likelihood(hidden=(8,), max_updates=30, n=3, conditions=("eta",)),
    "likelihood_mode": hepcal.Likelihood(hidden=(8,), max_updates=30, n=3, reading="mode"),
    "summary_likelihood": hepcal.SummaryLikelihood(
        hidden=(8,), max_updates=30, n=3, summary=hepcal.Ensemble(**NETWORKS, n=3)
    ),
    "transport": hepcal.OptimalTransport(),
}


@pytest.fixture(scope="session")
def tiny_pairs() -> hepcal.JetPairs:
    """Five hundred toy jets with two inputs, two jets per event."""
    rng = np.random.default_rng(5)
    truth = 300 + rng.exponential(300, 500)
    eta, width = rng.uniform(-2, 2, 500), rng.normal(0, 1, 500)
    reco = truth * (0.95 - 0.02 * np.abs(eta)) * np.exp(0.08 * rng.normal(size=500) + 0.02 * width)
    return hepcal.JetPairs.from_arrays(
        np.stack([eta, width], axis=1), ["eta", "width"], reco=reco, truth=truth, event=np.arange(500) // 2
    )


@pytest.fixture(scope="session")
def train_tiny(tiny_pairs: hepcal.JetPairs) -> Callable[[str], Calibrator]:
    """Trains a method by its name in ``TINY``, anew at every call."""

    def train(name: str) -> Calibrator:
        data = 1.1 * tiny_pairs.reco[:300] if name == "transport" else None
        return hepcal.train(tiny_pairs, TINY[name], seed=3, show=False, data=data)

    return train


@pytest.fixture(scope="session")
def tiny_calibrator(train_tiny: Callable[[str], Calibrator]) -> Callable[[str], Calibrator]:
    """The same, trained once per session."""
    return functools.cache(train_tiny)


@pytest.fixture(scope="session")
def top_jets() -> hepcal.JetPairs:
    """Three hundred jets of up to eight massless constituents in 100 slots."""
    rng, n = np.random.default_rng(2), 300
    pt = np.sort(rng.exponential(40, (n, 8)) + 1, axis=1)[:, ::-1]
    block = np.zeros((n, 100, 4), dtype=np.float32)
    eta, phi = rng.normal(0, 0.2, (2, n, 8))
    block[:, :8] = np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)
    total = block.sum(axis=1)
    reco = np.hypot(total[:, 1], total[:, 2])
    return hepcal.JetPairs.from_arrays(
        block.reshape(n, -1), [], reco=reco, truth=reco * rng.normal(1.05, 0.1, n).clip(0.5),
        constituents=hepcal.Constituents(count=100),
    )  # fmt: skip
