"""The whole main job on the embedded sample: train on one part, run and close on the other."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path

from hepcal.closure.records import Summary
from hepcal.events.executors import open_executor
from hepcal.events.filesets import Fileset, load_fileset
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.regression.bnn import BNN
from hepcal.methods.training import train
from hepcal.progress import step
from hepcal.storage.outputs import prepare_directory
from hepcal.tables.pairs import JetPairs
from hepcal.workflow import run_dijets

__all__ = ["run_demo"]

# Fewer updates than the default: 9,000 training jets, and a person waits.
METHOD = BNN(max_updates=8_000, patience=1_500)
SEED = 1


def demo_fileset(part: str) -> Fileset:
    """The ``train`` or the ``test`` part of the embedded sample, 5,000 events each."""
    letter = {"train": "a", "test": "b"}[part]
    with as_file(files("hepcal.data")) as folder:
        pattern = str(folder / f"qcd_{letter}*.root")
    return load_fileset({f"QCD dijets ({part} part)": {"files": [pattern], "metadata": {"schema": "delphes"}}})


def run_demo(directory: Path, *, workers: int = 2, show: bool = True) -> tuple[Calibrator, Summary]:
    """Train, save the calibrator as ``jets.safetensors``, run on dask workers, and write all results.

    Args:
        directory: Where everything is written.
        workers: Number of dask workers on this machine.
        show: Report progress.
    """
    prepare_directory(directory)
    pairs = JetPairs.from_fileset(demo_fileset("train"), show=show)
    calibrator = train(pairs, METHOD, seed=SEED, show=show)
    calibrator.save(directory / "jets.safetensors")
    with ExitStack() as stack:
        with step(f"Starting {workers} dask workers", show=show):
            executor = stack.enter_context(open_executor("dask", workers=workers))
        return calibrator, run_dijets(demo_fileset("test"), calibrator, executor, directory, chunksize=2_500, show=show)
