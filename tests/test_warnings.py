"""Warnings are of classes of ours, may be filtered, and are printed once by the command line."""

import contextlib
import dataclasses
import json
import shutil
import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from sample_files import nanoaod_file
from typer.testing import CliRunner

import hepcal
from hepcal import errors, workflow
from hepcal.cli import app, main
from hepcal.cli.printing import warnings_printed
from hepcal.demo import demo_fileset
from hepcal.errors import HepcalWarning
from hepcal.evaluation.spread import independent_trainings
from hepcal.events.executors import open_executor
from hepcal.events.inspection import inspect
from hepcal.methods import registry
from hepcal.tables.input_differences import ALL, RESPONSE, Difference, warn_if_inputs_differ

ANOTHER = dataclasses.asdict(Difference(RESPONSE, ALL, 0.3, 40.0, -0.5, 0.92, 0.97, "truth"))
# A prior that allows no function of the inputs.
TIGHT = hepcal.BNN(hidden=(16, 16), max_updates=300, patience=300, draws=5, prior_width=1e-3)


def toy(seed: int = 1) -> hepcal.JetPairs:
    """Jets whose response depends on eta, and whose second input is nearly the truth."""
    rng = np.random.default_rng(seed)
    truth, eta = rng.uniform(500, 1500, 500), rng.uniform(-2, 2, 500)
    reco = truth * (0.95 - 0.1 * np.abs(eta)) * rng.normal(1, 0.05, 500)
    features = np.stack([eta, truth * rng.normal(1, 0.05, 500)], axis=1)
    return hepcal.JetPairs.from_arrays(features, ["eta", "second_pt"], reco=reco, truth=truth)


def inputs_differ(folder: Path) -> None:
    warn_if_inputs_differ({"inputs": {"full": [ANOTHER]}})


def not_independent(folder: Path) -> None:
    workflow.warn_if_trained_on({"trained_on": ["a.root"]})


def collapsed(folder: Path) -> None:
    hepcal.train(toy(), TIGHT, seed=1, show=False)


def conditions(folder: Path) -> None:
    method = hepcal.Likelihood(hidden=(8,), max_updates=20, n=2, conditions=("second_pt",))
    hepcal.train(toy(), method, seed=1, show=False)


def curvature(folder: Path) -> None:
    method = hepcal.Hessian(hidden=(32, 32), max_updates=100, patience=100, prior_width=3.0, curvature=100)
    hepcal.train(toy(), method, seed=1, show=False)


def duplicated_files(folder: Path) -> None:
    first = folder / "first.root"
    if not first.exists():
        shutil.copy(nanoaod_file(first, 5), folder / "copy.root")
    inspect(hepcal.load_fileset({"tt": [str(first), str(folder / "copy.root")]}), show=False)


def method(folder: Path) -> None:
    points = [EntryPoint("mse", "other:Thing", registry.GROUP)]
    with mock.patch.object(registry, "entry_points", return_value=points):
        registry._known.__wrapped__()


def normalisation(folder: Path) -> None:
    (folder / "any.root").touch()
    metadata = {"cross_section": 2.0, "kfactor": 1.2}
    hepcal.load_fileset({"tt": {"files": {str(folder / "any.root"): "Events"}, "metadata": metadata}})


def checkpoint(folder: Path) -> None:
    pairs = toy()
    method = hepcal.NumericalInversion(n=3)
    pairs = hepcal.JetPairs.from_arrays(pairs.features[:, :1], ["eta"], reco=pairs.reco, truth=pairs.truth)
    hepcal.train(pairs, method, show=False, checkpoint=folder / "state")


GIVEN = {
    errors.InputsDifferWarning: inputs_differ,
    errors.NotIndependentWarning: not_independent,
    errors.CollapsedWarning: collapsed,
    errors.ConditionsWarning: conditions,
    errors.CurvatureWarning: curvature,
    errors.DuplicatedFilesWarning: duplicated_files,
    errors.MethodWarning: method,
    errors.NormalisationWarning: normalisation,
    errors.CheckpointWarning: checkpoint,
}
each = pytest.mark.parametrize("kind", GIVEN, ids=lambda kind: kind.__name__)


def test_every_class_is_tried_and_documented():
    assert set(GIVEN) == set(HepcalWarning.__subclasses__())
    for kind in (HepcalWarning, *GIVEN):
        assert issubclass(kind, UserWarning)
        assert kind.__name__ in errors.__all__
        assert f"{kind.__name__} " in errors.__doc__ or f"{kind.__name__}\n" in errors.__doc__
    from hepcal.networks.checkpoints import CheckpointWarning

    assert CheckpointWarning is errors.CheckpointWarning


@each
def test_each_can_be_an_error_or_nothing(kind, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", kind)
        with pytest.raises(kind, match=r"^(?!WARNING)"):
            GIVEN[kind](tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kind)
        GIVEN[kind](tmp_path)
    assert capsys.readouterr() == ("", "")


@each
def test_each_names_the_line_of_the_analysis(kind, tmp_path):
    with pytest.warns(kind) as found:
        GIVEN[kind](tmp_path)
    assert {warning.filename for warning in found} == {__file__}


@each
def test_the_command_line_prints_each_once(kind, tmp_path, capsys):
    with warnings_printed():
        GIVEN[kind](tmp_path)
        GIVEN[kind](tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("WARNING: ")
    assert said.count("WARNING") == 1
    assert ".py" not in said


def test_the_command_line_leaves_other_warnings_as_they_are(capsys):
    before = warnings.showwarning
    with pytest.warns(UserWarning, match="^of another package$"), warnings_printed():
        warnings.warn("of another package", UserWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(RuntimeWarning), warnings_printed():  # an error by the settings of these tests
        warnings.warn("of another package", RuntimeWarning, stacklevel=1)
    assert warnings.showwarning is before


@pytest.fixture
def result(tmp_path):
    """A result whose inputs differ in one data set."""
    events = {"read": 1, "selected": 1, "simulated": 1, "skipped_files": [], "without_truth": [], "outside_density": 0}
    (tmp_path / "summary.json").write_text(
        json.dumps({"samples": {}, "events": events, "inputs": {"full": [ANOTHER], "same": None}})
    )
    return tmp_path


def test_app_and_main_print_each_once_per_run(result, capsys):
    before = warnings.showwarning
    for _ in range(2):
        done = CliRunner().invoke(app, ["show", str(result)])
        assert done.exit_code == 0
        assert done.stderr.count("WARNING: at fixed true p_T, the data set 'full' differs") == 1
        assert done.stderr.count("WARNING") == 1
        with mock.patch.object(sys, "argv", ["hepcal", "show", str(result)]), contextlib.suppress(SystemExit):
            main()
        assert capsys.readouterr().err == done.stderr
    assert warnings.showwarning is before


def test_many_trainings_of_one_line_warn_once():
    with warnings.catch_warnings(record=True, action="default", category=HepcalWarning) as found:
        independent_trainings(toy, TIGHT, toy(9), n=3, show=False)
    assert [warning.category for warning in found] == [errors.CollapsedWarning]


def test_a_closure_on_training_files_warns_in_python_and_keeps_its_results(small_calibrator, tmp_path):
    """As an error, too: a job that must not close on its training events stops, with the results on disk."""
    with warnings.catch_warnings(), open_executor("iterative") as executor:
        warnings.simplefilter("error", errors.NotIndependentWarning)
        with pytest.raises(errors.NotIndependentWarning, match=r"was trained on .* of these files"):
            workflow.run_dijets(
                demo_fileset("train"), small_calibrator, executor, tmp_path / "out", plots=False, show=False
            )
    assert hepcal.closure.load_summary(tmp_path / "out")["trained_on"]


def test_a_run_without_events_is_refused(small_calibrator, write_delphes, tmp_path):
    path = write_delphes(tmp_path / "empty.root", 0)
    fileset = hepcal.load_fileset({"empty": {"files": [str(path)], "metadata": {"schema": "delphes"}}})
    with (
        open_executor("iterative") as executor,
        pytest.raises(errors.ReadError, match="none of the 1 files has an event"),
    ):
        workflow.run_dijets(fileset, small_calibrator, executor, tmp_path / "out", show=False)
    assert not (tmp_path / "out" / "summary.json").exists()
