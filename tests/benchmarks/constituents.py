"""Time and memory of training on constituents: a table in memory, one on disk, and tables larger than memory.

    python tests/benchmarks/constituents.py [--rounds 15] [--updates 100] [--jets 500000 1000000 2000000]

The network of arXiv:2003.11099 (100-100-50-50-2) as a Bayesian one, batches of 500, one thread, on synthetic jets with
100 constituents, 400 floats each. First 50,000 jets: an update from inputs in memory against one whose inputs are read
from the file (in the page cache) for each batch, as a ratio inside a round (see ``rounds.py``), and the peak memory of
both trainings. Then tables of the given numbers of jets, written part by part to ``--directory`` (1.6 kB per jet;
deleted afterwards), each trained for the same number of updates in a process of its own.

Memory is that of the whole ``hepcal.train``: hashes, checks, standardisation, updates and the closure of the held-out
jets included. ``anonymous`` is what the process allocates (RssAnon), ``file`` what it maps of libraries and of tables
(RssFile); both are sampled every 5 ms, above what the process has when the table is opened. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rounds import ROUNDS, play

import hepcal
from hepcal.methods.calibrator import transforms_of
from hepcal.methods.training.inputs import network_inputs, raw_chunks
from hepcal.networks.objectives import TrainingSet
from hepcal.networks.optimisation import Loop
from hepcal.networks.scaling import InputScaling
from hepcal.tables import rows
from hepcal.tables.files import writing

METHOD = hepcal.BNN(hidden=(100, 100, 50, 50), batch=500, draws=10)
SMALL = 50_000
# Jets that are made at once; further ones have the same constituents, scaled and in another order.
PART = 20_000
UPDATES_PER_ROUND = 10
MIB = 2**20


def shapes(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Massless constituents (PART, 4 count) of jets of 1 GeV in their frame, and how many there are."""
    number = rng.integers(20, count + 1, PART)
    pt = -np.sort(-rng.exponential(size=(PART, count)) * (np.arange(count) < number[:, None]), axis=1)
    pt /= pt.sum(axis=1, keepdims=True)
    eta, phi = rng.normal(0, 0.3, (2, PART, count))
    vectors = np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)
    return vectors.reshape(PART, -1).astype(np.float32), number


def write_table(directory: Path, jets: int) -> None:
    """A table of jets of 400 to 1000 GeV whose response depends on the number of constituents."""
    rng = np.random.default_rng(1)
    spec = hepcal.Features(constituents=hepcal.Constituents(), pt="pt")
    table, number = shapes(rng, 100)
    with writing(directory) as writer:
        for start in range(0, jets, PART):
            n = min(PART, jets - start)
            chosen, reco = rng.permutation(PART)[:n], rng.uniform(400, 1000, n).astype(np.float32)
            response = 1 + 0.002 * (number[chosen] - 60) + 0.08 * rng.standard_normal(n)
            writer.append("features", table[chosen] * reco[:, None])
            writer.append("reco", reco)
            writer.append("truth", (reco * response).astype(np.float32))
            writer.append("weight", np.ones(n))
            writer.append("event", np.arange(start, start + n))
        card = {"version": 1, "spec": spec.model_dump(mode="json"), "source": {"schema": "arrays"}}
        writer.finish(card)


# -- time --------------------------------------------------------------------------------------------------------------


def updates(pairs: hepcal.JetPairs) -> Loop:
    """The training loop on a table, ready to make updates."""
    generator, cpu = torch.Generator().manual_seed(2), torch.device("cpu")
    weight = torch.ones(len(pairs))
    scaling = InputScaling.fit_chunks(partial(raw_chunks, pairs), transforms_of(pairs.spec), weight)
    target = torch.from_numpy((pairs.truth / pairs.reco - 1) / 0.1)
    table = network_inputs(pairs, scaling, cpu), target, weight
    judge = table[0][torch.arange(METHOD.batch)], target[: METHOD.batch], weight[: METHOD.batch]
    sample = TrainingSet(len(scaling.transforms), float(len(pairs)), target, np.asarray(pairs.event))
    return Loop(METHOD.objective(sample, generator), METHOD.descent, table, judge, generator)


def show_time(directory: Path, rounds: int) -> None:
    """Print the time of an update in memory and streamed."""
    loops = {}
    for name, lazy in (("in memory", False), ("streamed", True)):
        rows.LAZY_BYTES = 0 if lazy else 2**60
        loops[name] = updates(hepcal.JetPairs.open(directory).take(np.arange(SMALL)))

    def work(loop: Loop) -> None:
        for _ in range(UPDATES_PER_ROUND):
            loop.step()

    timed = play({name: partial(work, loop) for name, loop in loops.items()}, rounds)
    print(f"{SMALL} jets x 400 inputs, batch {METHOD.batch}, one thread, CPU time; median (quartiles)")
    for name in loops:
        print(f"  {name:10s} {timed.rate(name, UPDATES_PER_ROUND)} updates per second")
    print(f"  an update streamed takes {timed.speed_up('in memory', 'streamed')} times as long")


# -- memory ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Memory of a training above that of the process before [MiB], and how long it took [s of CPU]."""

    anonymous: float
    file: float
    seconds: float


def resident() -> tuple[float, float]:
    """RssAnon and RssFile of this process [MiB]."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    found = {name: value for name, value in lines if name in ("RssAnon", "RssFile")}
    return tuple(int(found[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def train(directory: Path, count: int, *, lazy: bool | None) -> Memory:
    """Train on a saved table and watch the memory; ``lazy`` reads it from disk or not, whatever its size."""
    if lazy is not None:
        rows.LAZY_BYTES = 0 if lazy else 2**60
    pairs, method = hepcal.JetPairs.open(directory), METHOD.model_copy(update={"max_updates": count})
    before, started, done = resident(), time.process_time(), threading.Event()
    peak = list(before)

    def watch() -> None:
        while not done.wait(0.005):
            peak[:] = (max(pair) for pair in zip(peak, resident(), strict=True))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        hepcal.train(pairs, method, seed=1, show=False)
    finally:
        done.set()
        watching.join()
    anonymous, file = (high - low for high, low in zip(peak, before, strict=True))
    return Memory(anonymous, file, time.process_time() - started)


def train_apart(directory: Path, count: int, *, lazy: bool | None = None) -> Memory:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", str(directory), "--updates", str(count)]
    command += [] if lazy is None else ["--lazy", str(int(lazy))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def show_memory(directory: Path, jets: list[int], count: int) -> None:
    """Print the peak memory of trainings on growing tables."""
    print(f"\npeak memory of a training with {count} updates, above the process before [MiB]; CPU time [s]")
    print(f"  {'jets':>9s} {'table':>8s}  {'where':10s} {'anonymous':>10s} {'file':>8s} {'time':>7s}")

    def show(n: int, where: str, found: Memory) -> None:
        numbers = f"{found.anonymous:10.0f} {found.file:8.0f} {found.seconds:7.1f}"
        print(f"  {n:9d} {n * 1600 / MIB:8.0f}  {where:10s} {numbers}", flush=True)

    for where, lazy in (("in memory", False), ("streamed", True)):
        show(SMALL, where, train_apart(directory / "small", count, lazy=lazy))
    found = []
    for n in jets:
        place = directory / f"{n}"
        write_table(place, n)
        try:
            found.append(train_apart(place, count))
        finally:
            for path in place.iterdir():
                path.unlink()
            place.rmdir()
        show(n, "streamed" if n * 1600 > rows.LAZY_BYTES else "in memory", found[-1])
    if len(jets) > 1:
        slope = np.polyfit(jets, [one.anonymous for one in found], 1)[0] * MIB
        print(f"  anonymous memory grows by {slope:.0f} bytes per jet; a row of the table has 1628")


def main() -> None:
    """Time, weigh, print."""
    parser = argparse.ArgumentParser(description="Time and memory of training on tables of constituents")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--jets", type=int, nargs="*", default=[500_000, 1_000_000, 2_000_000])
    parser.add_argument("--directory", type=Path, help="Where tables are written for a while; default: a new one")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lazy", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        found = train(arguments.child, arguments.updates, lazy=None if arguments.lazy is None else bool(arguments.lazy))
        print(json.dumps(vars(found)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        directory = Path(scratch)
        write_table(directory / "small", SMALL)
        if arguments.rounds:
            show_time(directory / "small", arguments.rounds)
        show_memory(directory, arguments.jets, arguments.updates)


if __name__ == "__main__":
    main()
