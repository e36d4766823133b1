"""How fast the job of ``hepcal run`` is, and how much of its time the networks take.

    python tests/benchmarks/job.py [FILESET] [--calibrator FILE] [--against FILE] [--rounds 15] [--files 2]
                                   [--chunksize 100000]

The second pass of ``hepcal run`` (``DijetProcessor`` through coffea's Runner, iterative executor, one process, one
thread, CPU time), without opening files beforehand and drawing afterwards: reading, matching, features, networks,
histograms. It is compared with the same pass for another calibrator, for a stand-in that attaches the same columns
without networks, and with the first pass, the survey. The default fileset is the embedded sample; the default
calibrators are short trainings on its other part, of :class:`hepcal.Hessian` and, to compare with, of
:class:`hepcal.BNN`. Each round runs every case once, and ratios are taken inside a round (see ``rounds.py``).

The share of the networks is found twice: from the times of the two variants, and with a clock around the networks.
The latter leaves out what belongs to them, such as cutting blocks and turning outputs into GeV.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from hepcal.processors.dijet import DijetProcessor
from hepcal.processors.survey import Survey, SurveyProcessor
from rounds import ROUNDS, Quartiles, play

import hepcal
from hepcal.demo import demo_fileset
from hepcal.distributions.prediction import Prediction
from hepcal.events import running
from hepcal.events.columns import REPLICAS
from hepcal.events.executors import open_executor
from hepcal.events.filesets import Dataset, Fileset, load_fileset
from hepcal.methods.calibrator import Calibrator
from hepcal.networks.inference import WeightDraws
from hepcal.networks.parallel import threads
from hepcal.networks.tangents import Tangents
from hepcal.workflow import MOMENTUM

WITH, AGAINST = "with the calibrator", "with the other calibrator"
WITHOUT, SURVEY = "stand-in without networks", "survey (first pass)"


class Untouched(Calibrator):
    """The columns of a calibrator, and its inputs read and checked, but without networks: pt_calib = pt.

    Args:
        original: Whose columns.
    """

    def __init__(self, original: Calibrator) -> None:
        super().__init__(original.card, original.tensors)
        self.like, self.replicas = original, original.replicas
        # Constant uncertainties, so that no histogram gets an empty column.
        self._relative = dict.fromkeys(original.sigmas, 0.1)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.like.columns

    @property
    def uncertainties(self) -> tuple[str, ...]:
        return self.like.uncertainties

    def __reduce__(self) -> tuple[type[Untouched], tuple[Calibrator]]:
        # coffea pickles processors, and a calibrator comes back as what its file says: with networks.
        return Untouched, (self.like,)

    def predict(self, features: np.ndarray, reco: np.ndarray) -> Prediction:
        raise NotImplementedError("the job attaches columns")

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        raise NotImplementedError("nothing is evaluated")

    def _columns(
        self, features: np.ndarray, reco: np.ndarray, *, replicas: bool = False, **_: object
    ) -> dict[str, np.ndarray]:
        pt = reco.astype(np.float32)
        found = {name: np.float32(relative) * pt for name, relative in self._relative.items()}
        if replicas:
            found[REPLICAS] = pt[:, None] * np.linspace(0.9, 1.1, self.replicas, dtype=np.float32)
        return {"pt_calib": pt, "pt_calib_in_range": np.ones(len(pt), dtype=bool), **found}


class NetworkClock:
    """Adds up the CPU time inside :class:`WeightDraws` and :class:`Tangents`.

    Attributes:
        seconds: Since the start, or :meth:`reset`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[NetworkClock]:
        """Inside, every call of networks is timed."""
        originals = {kind: kind.__call__ for kind in (WeightDraws, Tangents)}

        def timed(original: Callable[..., object]) -> Callable[..., object]:
            def call(networks: object, inputs: torch.Tensor) -> object:
                start = time.process_time()
                outputs = original(networks, inputs)
                self.seconds += time.process_time() - start
                return outputs

            return call

        for kind, original in originals.items():
            kind.__call__ = timed(original)  # type: ignore[method-assign]
        try:
            yield self
        finally:
            for kind, original in originals.items():
                kind.__call__ = original  # type: ignore[method-assign]

    def noting(self, work: Callable[[], object], notes: list[float]) -> Callable[[], object]:
        """The same work; its share of network time is appended to ``notes``."""

        def noted() -> None:
            self.seconds, start = 0.0, time.process_time()
            work()
            notes.append(self.seconds / (time.process_time() - start))

        return noted


def some_files(fileset: Fileset, count: int) -> Fileset:
    """The first files of every data set."""
    return Fileset(tuple(Dataset(d.name, dict(list(d.files.items())[:count]), d.metadata) for d in fileset.datasets))


def short_training(method: type[hepcal.BNN | hepcal.Hessian]) -> Calibrator:
    """A calibrator of the default size: what it predicts does not matter for its speed."""
    pairs = hepcal.JetPairs.from_fileset(demo_fileset("train"), show=False)
    return hepcal.train(pairs, method(max_updates=500, patience=500), seed=1, show=False)


def cases(
    fileset: Fileset, calibrator: Calibrator, other: Calibrator, chunksize: int
) -> tuple[dict[str, Callable[[], object]], int]:
    """The passes, and the number of events of each."""
    fields = {"Jet": tuple(dict.fromkeys((*calibrator.uses, *other.uses, *MOMENTUM)))}
    inspected = running.inspect(fileset, fields, show=False)

    def job(processor: object) -> running.Run:
        with open_executor("iterative") as executor:
            return running.run(fileset, processor, executor, chunksize=chunksize, show=False, inspected=inspected)

    surveyed = job(SurveyProcessor())
    survey = Survey.from_output(surveyed.output, fileset)
    processors: Mapping[str, object] = {
        WITH: DijetProcessor(calibrator, survey),
        AGAINST: DijetProcessor(other, survey),
        WITHOUT: DijetProcessor(Untouched(calibrator), survey),
        SURVEY: SurveyProcessor(),
    }
    return {name: lambda processor=processor: job(processor) for name, processor in processors.items()}, surveyed.events


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description="Events per second of the main job")
    parser.add_argument("fileset", nargs="?", help="default: the embedded sample")
    parser.add_argument("--calibrator", help="default: a short training of Hessian")
    parser.add_argument("--against", help="default: a short training of BNN")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--files", type=int, default=2, help="files per data set")
    parser.add_argument("--chunksize", type=int, default=running.DEFAULT_CHUNKSIZE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fileset = load_fileset(arguments.fileset) if arguments.fileset else demo_fileset("test")
    calibrator, other = (
        Calibrator.load(path) if path else short_training(method)
        for path, method in ((arguments.calibrator, hepcal.Hessian), (arguments.against, hepcal.BNN))
    )
    notes: list[float] = []
    clock = NetworkClock()
    with threads(1), clock.running():
        jobs, events = cases(some_files(fileset, arguments.files), calibrator, other, arguments.chunksize)
        timed = play({**jobs, WITH: clock.noting(jobs[WITH], notes)}, arguments.rounds)
    print(f"\n{events} events, {calibrator!r} against {other!r}, one process, one thread, CPU time; median (quartiles)")
    for name in timed.seconds:
        print(f"  {name:28s} {timed.rate(name, events)} events/s")
    both = events / (timed.seconds[WITH] + timed.seconds[SURVEY])
    print(f"  {'both passes':28s} {Quartiles.of(both)} events/s")
    derived = Quartiles.of(1 - timed.seconds[WITHOUT] / timed.seconds[WITH])
    print(f"  share of the networks in the second pass: {derived} from the two variants,")
    # The first note is of the round that is not counted.
    print(f"  {Quartiles.of(np.array(notes[1:]))} with a clock around them")
    print(f"  second pass {timed.speed_up(WITH, AGAINST)} times as fast as that of the other calibrator")
    print(f"  second pass over that of the stand-in: {timed.speed_up(WITHOUT, WITH)} times its time")


if __name__ == "__main__":
    main()
