"""The command line from end to end, on few events."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from typer.testing import CliRunner

import hepcal
from hepcal.cli import commands as cli
from hepcal.demo import demo_fileset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("cli")
    for part in ("train", "test"):
        shutil.copy(demo_fileset(part).paths[0], base / f"{part}.root")
        (base / f"{part}.json").write_text(json.dumps({"qcd": {"files": {f"{part}.root": "Delphes"}}}))
    settings = {"settings": {"hidden": [16, 16], "max_updates": 200, "patience": 200, "draws": 5}}
    (base / "quick.yaml").write_text(json.dumps(settings))
    return base


@dataclasses.dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def hepcal_command(folder, *arguments):
    """The command as a user runs it, but in this process: importing everything anew costs seconds each time."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["hepcal", *arguments]),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def trained(folder):
    done = hepcal_command(folder, "train", "train.json", "--config", "quick.yaml", "--seed", "2")
    assert done.returncode == 0, done.stderr
    assert "Calibrator in jets.safetensors" in done.stdout
    return folder


def test_pairs_then_train_equals_training_from_the_fileset(trained):
    done = hepcal_command(trained, "pairs", "train.json", "--executor", "iterative")
    assert done.returncode == 0, done.stderr
    assert "leading truth jets" in done.stdout
    again = ("train", "pairs", "--config", "quick.yaml", "--seed", "2", "--output", "again.safetensors")
    assert hepcal_command(trained, *again).returncode == 0
    assert (trained / "again.safetensors").read_bytes() == (trained / "jets.safetensors").read_bytes()
    shown = hepcal_command(trained, "show", "pairs")
    assert "DeltaEta" in shown.stdout


def test_constituents_of_fat_jets_are_read_and_trained_on(folder):
    quick = {"settings": {"hidden": [8], "max_updates": 20, "draws": 2}, "features": {"constituents": {"count": 5}}}
    (folder / "five.yaml").write_text(json.dumps(quick))
    sample = str(Path(__file__).parent / "data" / "top_demo.root")
    (folder / "top.json").write_text(json.dumps({"top": {"files": {sample: "Delphes"}}}))
    jets = ("--jets", "FatJet", "--truth", "Particle[0]", "--config", "five.yaml", "--executor", "iterative")
    done = hepcal_command(folder, "pairs", "top.json", *jets, "--output", "top_pairs")
    assert done.returncode == 0, done.stderr
    for said in ("FatJet to Particle[0], within dR < 1.2", "0 of 400 truth particles", "to their 5 constituents"):
        assert said in done.stdout
    for source, options in (("top.json", jets), ("top_pairs", ("--config", "five.yaml"))):
        done = hepcal_command(folder, "train", source, *options, "--output", f"{source}.safetensors")
        assert done.returncode == 0, done.stderr
        assert "ln(pt), 5 constituents (jet frame)" in done.stdout
    assert (folder / "top.json.safetensors").read_bytes() == (folder / "top_pairs.safetensors").read_bytes()
    calibrator = ("--calibrator", "top_pairs.safetensors", "--output", "top_diagnostics")
    done = hepcal_command(folder, "diagnose", "top.json", *calibrator, *jets[:4], "--executor", "iterative")
    assert done.returncode == 0, done.stderr


def test_run_writes_everything_and_the_summary_has_its_keys(trained):
    done = hepcal_command(
        trained, "run", "test.json", "--calibrator", "jets.safetensors", "--executor", "iterative", "--output", "out"
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    names = {path.name for path in (trained / "out").iterdir()}
    assert names == {"hists.coffea", "hists.json", "summary.json", "plots"}
    plots = {path.suffix for path in (trained / "out" / "plots").iterdir()}
    assert plots == {".png", ".pdf"}
    summary = json.loads((trained / "out" / "summary.json").read_text())
    assert summary["schema_version"] == 2
    assert summary["events"]["read"] == 2_500
    assert summary["calibrator"]["sha256"] == hepcal.Calibrator.load(trained / "jets.safetensors").sha256
    assert set(summary["samples"]) == {"qcd", "bsm"}
    figures = summary["samples"]["bsm"]["mjj"]["calib"]
    bins = len(figures["edges"]) - 1
    for name in (
        "n_eff", "response_mean", "response_mean_unc", "response_median", "bias", "resolution", "pull_mean", "pull_sd",
        "pull_half68", "within_sigma_tot", "sigma_stoch", "sigma_pred",
    ):  # fmt: skip
        assert len(figures[name]) == bins
    assert isinstance(figures["sum_ratio"], float)
    # An interval is that of a jet; the mass of two has a sigma only.
    assert "coverage_68" not in figures
    assert len(summary["samples"]["qcd"]["pt"]["calib"]["coverage_68"]) > 0
    assert summary["resonance"]["n_eff"] == figures["inclusive"]["n_eff"][0]
    assert summary["resonance"]["norm"] == pytest.approx(1, abs=0.05)
    assert "Out of the training range, QCD weights:" in done.stdout
    for command in (("show", "out"), ("plot", "out"), ("show", "jets.safetensors")):
        assert hepcal_command(trained, *command).returncode == 0


def test_running_on_the_training_files_warns(trained):
    done = hepcal_command(
        trained,
        "run",
        "train.json",
        "--calibrator",
        "jets.safetensors",
        "--executor",
        "iterative",
        "-o",
        "same",
        "--no-plots",
    )
    assert done.returncode == 0, done.stderr
    assert "\nWARNING: this calibrator was trained on 1 of these files" in done.stderr
    assert done.stderr.count("WARNING") == 1
    assert ".py:" not in done.stderr


def test_a_bad_file_stops_the_run_unless_skipping_is_allowed(trained):
    (trained / "cut.root").write_bytes((trained / "test.root").read_bytes()[:50_000])
    fileset = {"qcd": {"files": {"test.root": "Delphes", "cut.root": "Delphes"}}}
    (trained / "bad.json").write_text(json.dumps(fileset))
    arguments = (
        "run",
        "bad.json",
        "--calibrator",
        "jets.safetensors",
        "--executor",
        "iterative",
        "-o",
        "bad",
        "--no-plots",
    )
    done = hepcal_command(trained, *arguments)
    assert done.returncode == 1
    assert "cut.root" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (trained / "bad").exists()
    done = hepcal_command(trained, *arguments, "--allow-skipped")
    assert done.returncode == 0, done.stderr
    events = json.loads((trained / "bad" / "summary.json").read_text())["events"]
    assert events["read"] == 2_500
    assert events["skipped_files"][0]["file"].endswith("cut.root")
    assert events["skipped_files"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "absent.json", "--calibrator", "jets.safetensors"), "cannot read the fileset"),
        (("run", "test.json", "--calibrator", "absent.safetensors"), "cannot read the calibrator"),
        (("show", "test.root"), "damaged or not a calibrator"),
        (("show", "."), "What can be shown is a calibrator file"),
        (("train", "train.json", "--config", "absent.yaml"), "absent.yaml"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_one(trained, arguments, message):
    done = hepcal_command(trained, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"settings": {"hidden": 0}}, (), "settings of 'bnn'"),
        ({"settings": {"hiden": [8]}}, (), "hiden"),
        ({"method": "likelihood", "settings": {"conditions": ["etaa"]}}, (), "no input etaa among"),
        (
            {"method": "likelihood", "settings": {"conditions": ["eta"]}, "features": {"inputs": ["mass"]}},
            (),
            "the method 'likelihood' cannot learn from these features: no input eta among mass",
        ),
        ({}, ("--device", "cuda:77"), "no device 'cuda:77' here"),
        ({}, ("--device", "toaster"), "no device 'toaster' here"),
        ({}, ("--device", "meta"), "no device 'meta' here"),
        ({}, ("--scheduler", "foo"), "no dask scheduler at 'foo'"),
        ({}, ("--scheduler", "tcp://h:1", "--executor", "futures"), "'futures' is asked for: leave one out"),
        ({}, ("--scheduler", "tcp://h:1", "--workers", "2"), "leave out the number of workers"),
    ],
)
def test_what_settings_can_tell_comes_before_events_are_read(folder, monkeypatch, settings, options, message):
    monkeypatch.setattr("hepcal.tables.reading.inspect", lambda *_, **__: pytest.fail("files were opened"))
    (folder / "bad.yaml").write_text(json.dumps(settings))
    done = hepcal_command(folder, "train", "train.json", "--config", "bad.yaml", *options, "--output", "bad.st")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "bad.st").exists()


@pytest.mark.parametrize("seed", ["-1", str(2**64)])
def test_a_seed_beyond_those_of_torch_is_refused_before_events_are_read(folder, seed):
    done = hepcal_command(folder, "train", "train.json", "--seed", seed, "--output", "bad.st")
    assert done.returncode == 2
    assert "--seed" in done.stderr


@pytest.mark.parametrize("option", [("--bsm-mass", "inf"), ("--bsm-width", "inf")])
def test_a_resonance_that_is_none_is_refused(trained, option):
    done = hepcal_command(trained, "run", "test.json", "--calibrator", "jets.safetensors", *option, "-o", "none")
    assert done.returncode == 2
    assert option[0] in done.stderr
    assert not (trained / "none").exists()


def test_metadata_and_weights_are_refused_before_events_are_read(trained, monkeypatch):
    monkeypatch.setattr("hepcal.events.running.run", lambda *_, **__: pytest.fail("events were read"))
    monkeypatch.setattr("hepcal.tables.reading.run", lambda *_, **__: pytest.fail("events were read"))
    for name, metadata, message in (
        ("xsec", {"xsec": 10.4}, "'xsec' looks like a cross section"),
        ("none", {}, "data sets without a cross_section"),
    ):
        sets = {part: {"files": {f"{part}.root": "Delphes"}, "metadata": metadata} for part in ("train", "test")}
        (trained / f"{name}.json").write_text(json.dumps(sets))
        chosen = ("--calibrator", "jets.safetensors")
        for command in (("pairs",), ("train",), ("run", *chosen), ("diagnose", *chosen)):
            arguments = (command[0], f"{name}.json", *command[1:], "--executor", "iterative", "-o", "refused")
            done = hepcal_command(trained, *arguments)
            assert done.returncode == 1, command
            assert message in done.stderr
            assert not (trained / "refused").exists()


def test_several_calibrators_are_diagnosed_on_all_their_inputs(trained):
    """The first has fewer inputs than the second, and they come in another place."""
    for name, inputs in (("first", ["mass"]), ("second", ["eta", "mass"])):
        settings = {"hidden": [4], "max_updates": 20, "patience": 20}
        config = {"method": "mse", "settings": settings, "features": {"inputs": inputs}}
        (trained / f"{name}.yaml").write_text(json.dumps(config))
        made = ("train", "train.json", "--config", f"{name}.yaml", "--executor", "iterative", "-o", f"{name}.st")
        assert hepcal_command(trained, *made).returncode == 0
    chosen = ("--calibrator", "first.st", "--calibrator", "second.st")
    done = hepcal_command(trained, "diagnose", "test.json", *chosen, "--executor", "iterative", "-o", "both")
    assert done.returncode == 0, done.stderr
    assert set(json.loads((trained / "both" / "diagnostics.json").read_text())["diagnoses"]) == {"first", "second"}


def test_a_finished_training_leaves_no_checkpoint(trained):
    settings = {"hidden": [8], "max_updates": 300, "batch": 500}
    (trained / "gni.yaml").write_text(json.dumps({"method": "generalised_inversion", "settings": settings}))
    (trained / "states").mkdir()
    arguments = ("train", "pairs", "--config", "gni.yaml", "--checkpoint", "states/gni", "--output", "gni.safetensors")
    if not (trained / "pairs").is_dir():
        hepcal_command(trained, "pairs", "train.json", "--executor", "iterative")
    # Another seed is another training: a rest of the first would be refused.
    for seed in ("1", "2"):
        done = hepcal_command(trained, *arguments, "--seed", seed)
        assert done.returncode == 0, done.stderr
        assert list((trained / "states").iterdir()) == []


def test_a_file_that_no_checkpoint_was_written_to_is_kept(trained):
    (trained / "mine").write_text("mine")
    (trained / "one.yaml").write_text(json.dumps({"settings": {"n": 3}}))
    arguments = ("train", "train.json", "--executor", "iterative", "--method", "inversion", "--config", "one.yaml")
    done = hepcal_command(trained, *arguments, "--checkpoint", "mine", "--output", "one.safetensors")
    assert done.returncode == 0, done.stderr
    assert "writes no checkpoint: mine is not used" in done.stderr
    assert (trained / "mine").read_text() == "mine"


def saved_table(folder):
    rng = np.random.default_rng(1)
    truth = rng.uniform(50, 500, 200)
    hepcal.JetPairs.from_arrays(rng.normal(0, 1, (200, 1)), ["eta"], reco=truth, truth=truth).save(folder / "small")
    (folder / "mse.yaml").write_text(json.dumps({"method": "mse", "settings": {"hidden": [4], "max_updates": 5}}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "one.st", "--checkpoint", "one.st"), "one.st cannot be both the output and the checkpoint"),
        (("-o", "mse.yaml"), "mse.yaml cannot be both the config and the output"),
        (("-o", "train.json"), "train.json is another file, which would be replaced"),
        (("-o", "one.st", "--keep-leptons"), "small is a training table, .*: --keep-leptons would do nothing"),
        (("-o", "one.st", "--jets", "FatJet", "--workers", "2"), "--jets, --workers would do nothing"),
    ],
)
def test_options_that_would_destroy_or_do_nothing_are_refused(folder, options, message):
    saved_table(folder)
    done = hepcal_command(folder, "train", "small", "--config", "mse.yaml", *options)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert not (folder / "one.st").exists()
    assert "mse" in (folder / "mse.yaml").read_text()


def test_a_table_to_diagnose_was_read_before(trained):
    saved_table(trained)
    done = hepcal_command(trained, "diagnose", "small", "--calibrator", "jets.safetensors", "--truth", "GenJet")
    assert "small is a training table, whose events were read before" in done.stderr
    assert done.returncode == 1


def test_a_job_that_runs_out_of_time_leaves_nothing_half(folder, monkeypatch):
    """Batch systems send SIGTERM, which would leave the half table, and workers that nobody stops."""

    def terminated(_, writer):
        writer.append("reco", np.ones(3))
        assert len(list((folder / "late").iterdir())) == 1
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("hepcal.tables.writing.write_rows", terminated)
    before = signal.getsignal(signal.SIGTERM)
    done = hepcal_command(folder, "pairs", "train.json", "--executor", "iterative", "-o", "late/pairs")
    assert done.returncode == 128 + signal.SIGTERM
    assert list((folder / "late").iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_help_of_train_names_every_method():
    text = CliRunner().invoke(cli.app, ["train", "--help"], env={"TERM": "dumb", "COLUMNS": "150"}).stdout
    for method in cli.MethodChoice:
        assert re.search(rf"[•-] +{method.value}:", text), method


def test_help_names_every_command():
    text = CliRunner().invoke(cli.app, ["--help"], env={"TERM": "dumb", "COLUMNS": "100"}).stdout
    for command in ("demo", "pairs", "train", "run", "diagnose", "plot", "show"):
        assert command in text
    assert CliRunner().invoke(cli.app, ["--version"]).stdout.strip() == hepcal.__version__


def test_the_installed_command_fails_with_a_message_and_not_with_a_traceback(folder):
    done = subprocess.run(["hepcal", "show", "absent"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("hepcal: cannot read the calibrator absent")


@pytest.mark.parametrize("what", ["empty", "fileset.json"])
def test_what_cannot_be_shown_is_refused_with_what_can(what, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "fileset.json").write_text('{"QCD": {"files": ["a.root"]}}')
    done = hepcal_command(tmp_path, "show", what)
    assert done.returncode == 1
    assert what in done.stderr
    assert "a calibrator file (of 'hepcal train'), a training table" in done.stderr


def test_a_wrong_number_of_threads_is_noticed_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HEPCAL_THREADS", "banana")
    done = hepcal_command(tmp_path, "run", "nothing.json", "--calibrator", "nothing.safetensors")
    assert (done.returncode, done.stderr) == (1, "hepcal: HEPCAL_THREADS must be a positive integer, found 'banana'\n")
