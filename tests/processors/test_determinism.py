"""The same jet gets the same bits on any executor, with any chunk size and number of workers."""

import sys

import awkward as ak
import cloudpickle
import numpy as np
import pytest
from coffea.processor import ProcessorABC
from hepcal.processors import DijetProcessor, Survey, SurveyProcessor

from hepcal.demo import demo_fileset
from hepcal.events.executors import open_executor
from hepcal.events.running import run
from hepcal.methods import cache

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LAYOUTS = [("iterative", 1), ("futures", 1), ("futures", 2), ("dask", 1), ("dask", 2)]


class ColumnProcessor(ProcessorABC):
    """All attached columns of all jets, by place in the file."""

    def __init__(self, calibrator):
        self.calibrator = calibrator

    def process(self, events):
        jets = self.calibrator(events.Jet)
        columns = {name: ak.to_numpy(ak.flatten(jets[name])) for name in self.calibrator.columns}
        columns["up"] = ak.to_numpy(ak.flatten(jets.calib_pred.up.pt))
        where = events.metadata
        return {"chunks": {(where["filename"], where["entrystart"]): columns}, "events": len(events)}

    def postprocess(self, accumulator):
        return accumulator


def attached(calibrator, executor, chunksize):
    out = run(demo_fileset("test"), ColumnProcessor(calibrator), executor, chunksize=chunksize, show=False).output
    chunks = [out["chunks"][key] for key in sorted(out["chunks"])]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def filled(calibrator, executor, chunksize):
    fileset = demo_fileset("test")
    surveyed = run(fileset, SurveyProcessor(), executor, chunksize=chunksize, show=False).output
    survey = Survey.from_output(surveyed, fileset)
    out = run(fileset, DijetProcessor(calibrator, survey), executor, chunksize=chunksize, show=False).output
    return survey, out


@pytest.fixture(scope="module")
def reference(small_calibrator):
    with open_executor("iterative") as executor:
        return attached(small_calibrator, executor, 5_000), filled(small_calibrator, executor, 5_000)


@pytest.mark.parametrize(
    ("executor", "chunksizes"),
    [("iterative", (500, 100_000)), ("futures", (700,)), ("dask", (1_250, 100_000))],
    indirect=["executor"],
)
def test_columns_are_bitwise_equal_and_histograms_to_1e12(small_calibrator, reference, executor, chunksizes):
    for chunksize in chunksizes:
        again = attached(small_calibrator, executor, chunksize), filled(small_calibrator, executor, chunksize)
        require_equal(reference, again)


@pytest.mark.study
@pytest.mark.parametrize(("name", "workers"), LAYOUTS)
def test_they_are_for_any_number_of_workers(small_calibrator, reference, name, workers):
    with open_executor(name, workers=workers) as executor:
        for chunksize in (500, 5_000, 100_000):
            again = attached(small_calibrator, executor, chunksize), filled(small_calibrator, executor, chunksize)
            require_equal(reference, again)


def require_equal(reference, again):
    (columns, (survey, out)), (columns_again, (survey_again, out_again)) = reference, again
    for column, values in columns.items():
        assert columns_again[column].tobytes() == values.tobytes(), column
    assert survey_again == survey
    assert out_again["counts"] == out["counts"]
    for key, expected in out["hists"].items():
        # Pairs of jets of one event have no variance of their own.
        for part in ("values", "variances") if expected.variances() is not None else ("values",):
            found, wanted = (getattr(h, part)(flow=True) for h in (out_again["hists"][key], expected))
            # Sums of signed terms (pulls) may cancel: their rounding is that of the terms, not of the sum.
            scale = np.abs(wanted).max() if key.endswith("_sums") else 0
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-15 * scale, err_msg=f"{key} {part}")


@pytest.mark.parametrize("executor", ["dask"], indirect=True)
def test_a_calibrator_is_built_once_per_worker_over_chunks_and_runs(small_calibrator, executor):
    card = small_calibrator.card.model_copy(update={"versions": {**small_calibrator.card.versions, "of": "this test"}})
    fresh = type(small_calibrator)(card, small_calibrator.tensors)
    client = executor(print).client
    before = client.run(cache.loads)
    for _ in range(2):
        # 5,000 events in chunks of 834: six chunks
        run(demo_fileset("test"), ColumnProcessor(fresh), executor, chunksize=834, show=False)
    loads = {worker: count - before[worker] for worker, count in client.run(cache.loads).items()}
    print(f"calibrators built by each of two workers in two runs of six chunks: {sorted(loads.values())}")
    assert len(loads) == 2
    assert set(loads.values()) <= {0, 1}
    assert sum(loads.values()) >= 1
