"""What README.md and the docstrings show is run as it stands, on the embedded sample and with short trainings."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import json
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import typer
from click.testing import Result
from conftest import NETWORKS, TINY
from typer.testing import CliRunner

import hepcal
from hepcal import tagging
from hepcal.cli.commands import app
from hepcal.errors import CollapsedWarning
from hepcal.events.filesets import Fileset
from hepcal.methods.calibrator import Calibrator

README = Path(__file__).parents[1] / "README.md"
PACKAGE = Path(hepcal.__file__).parent
# Not python: the trees of exceptions and warnings.
NO_CODE = {"hepcal.errors"}
SHORT = {name: TINY[name] for name in ("bnn", "likelihood", "mse")}


def module_name(path: Path) -> str:
    return ".".join(["hepcal", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


PACKAGE_MODULES = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def docstrings() -> Iterator[tuple[str, str]]:
    """Code after ``::`` in the docstrings of the package, by the module that it is in."""
    for name, text in PACKAGE_MODULES.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for found in re.findall(r"::\n\n((?:    .*\n|\n)+)", ast.get_docstring(node) or ""):
                if name not in NO_CODE:
                    yield name, textwrap.dedent(found)


@pytest.fixture(scope="module")
def results_of_a_run(
    tmp_path_factory: pytest.TempPathFactory, demo_files: dict[str, Fileset], small_calibrator: Calibrator
) -> Path:
    """Directory of a run over the first file."""
    from hepcal.events.executors import open_executor
    from hepcal.workflow import run_dijets

    directory = tmp_path_factory.mktemp("run") / "results"
    first = hepcal.load_fileset({"QCD": [str(next(iter(demo_files["train"].paths)))]})
    with open_executor("iterative") as executor:
        run_dijets(first, small_calibrator, executor, directory, plots=False, show=False)
    return directory


@pytest.fixture
def at_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    demo_files: dict[str, Fileset],
    small_calibrator: Calibrator,
    read_events: Callable[..., ak.Array],
) -> dict[str, Any]:
    """A directory with what the snippets open, short trainings, and the names that they take for granted."""
    monkeypatch.chdir(tmp_path)
    small_calibrator.save("jets.safetensors")
    first = next(iter(demo_files["train"].paths))
    Path("qcd.json").write_text(json.dumps({"QCD": {"files": {str(first): "Delphes"}}}))
    monkeypatch.setattr("hepcal.train", shortened(hepcal.train))
    monkeypatch.setattr("hepcal.cross_fit", shortened(hepcal.cross_fit))
    events = read_events(Path(first), "delphes")[:200]
    prediction = small_calibrator.predict(pairs := hepcal.JetPairs.from_fileset("qcd.json", show=False))
    return {
        "hepcal": hepcal, "np": np, "events": events, "pairs": pairs, "test_pairs": pairs, "test": pairs,
        "calibrator": small_calibrator, "bnn": small_calibrator, "ensemble": small_calibrator, "method": hepcal.MSE(),
        "prediction": prediction, "value": prediction.mean, "low": prediction.mean - 50, "high": prediction.mean + 50,
        "truth": pairs.truth, "weight": pairs.weight, "event": pairs.event, "features": pairs.features,
        "reco": pairs.reco, "eta": pairs.features[:, 0], "pt": np.array([500.0, 1000.0])
    }  # fmt: skip


def shortened(train: Callable[..., Any]) -> Callable[..., Any]:
    """The same with a small, short training of the method that is asked for."""

    @functools.wraps(train)
    def short(pairs: hepcal.JetPairs, method: Any, **options: Any) -> Any:
        changes = {k: v for k, v in NETWORKS.items() if k in type(method).model_fields}
        changes |= {"draws": 4} if "draws" in type(method).model_fields else {}
        return train(pairs, type(method).model_validate(method.model_dump() | changes), **options, show=False)

    return short


def test_the_readme_calibrates_jets_in_three_lines(at_work: dict[str, Any]) -> None:
    snippet = next(block for block in blocks("python") if "matched_gen" in block)
    events = at_work["events"]
    jets, truth = events.Jet[:, :1], events.GenJet[:, :1]
    at_work["events"] = ak.zip({"Jet": ak.with_field(jets, truth, "matched_gen")}, depth_limit=1)
    run(snippet.replace("...\n", ""), at_work)
    assert np.median(ak.flatten(at_work["response"])) == pytest.approx(1, abs=0.2)


def test_the_readme_trains_and_predicts(at_work: dict[str, Any]) -> None:
    run(next(block for block in blocks("python") if "calibrator.save" in block), at_work)
    assert at_work["calibrator"].card.method == "bnn"
    assert len(at_work["prediction"]) == len(at_work["pairs"])


@pytest.mark.parametrize("method", ["Likelihood", "SummaryLikelihood", "MSE"])
def test_the_readme_predicts_with_the_other_methods_it_names(method: str, at_work: dict[str, Any]) -> None:
    """``predict(pairs.features, pairs.reco)`` failed for methods that keep other inputs than the table has."""
    del at_work["prediction"]
    lines = next(block for block in blocks("python") if "calibrator.save" in block).splitlines()
    kept = [line for line in lines if line.startswith(("calibrator", "prediction ="))]
    small = {
        "Likelihood": "n=3",
        "SummaryLikelihood": "n=3, summary=hepcal.MSE(hidden=(8,), max_updates=30)",
        "MSE": "",
    }[method]
    run("\n".join(kept).replace("hepcal.BNN()", f"hepcal.{method}({small})"), at_work)
    assert len(at_work["prediction"]) == len(at_work["pairs"])


def test_the_readme_reads_constituents_augments_and_tags(
    at_work: dict[str, Any], monkeypatch: pytest.MonkeyPatch, top_jets: hepcal.JetPairs
) -> None:
    constituents, more = (
        next(b for b in blocks("python") if word in b) for word in ("Features(constituents", "tagging.train")
    )
    monkeypatch.setattr(hepcal.JetPairs, "from_fileset", lambda *_, **__: top_jets)
    # The jets of fat-jet files are read in test_constituents.
    lines = [line for line in constituents.splitlines() if not line.startswith("jets = ")]
    run("\n".join(lines), at_work)
    assert at_work["calibrator"].card.features.constituents.count == 100
    monkeypatch.setattr(tagging, "train", short_tagger(tagging.train))
    with pytest.warns(CollapsedWarning):  # both classes are the same
        run(more, {**at_work, "pairs": top_jets, "top": top_jets, "qcd": top_jets})


def short_tagger(train: Callable[..., Any]) -> Callable[..., Any]:
    def short(signal: Any, background: Any, method: Any, **options: Any) -> Any:
        quick = {"max_updates": 20, "patience": 20, "constituents": 4, "hidden": (4,), "draws": 3}
        fitting = {k: v for k, v in quick.items() if k in type(method).model_fields}
        return train(signal, background, method.model_copy(update=fitting), **options, show=False)

    return short


def with_examples() -> list[str]:
    """Modules whose docstrings hold examples with ``>>>``."""
    return sorted({name for name in PACKAGE_MODULES if ">>> " in PACKAGE_MODULES[name]})


@pytest.mark.parametrize("module", with_examples())
def test_examples_with_their_results_hold(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module), raise_on_error=True)
    assert found.attempted > 0


# All tables are the same here: signal and background, training and test.
@pytest.mark.filterwarnings("ignore::hepcal.errors.CollapsedWarning", "ignore::hepcal.errors.NotIndependentWarning")
@pytest.mark.parametrize(("module", "code"), list(docstrings()), ids=lambda value: str(value)[:30])
def test_examples_in_docstrings_run(
    module: str,
    code: str,
    at_work: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    top_jets: hepcal.JetPairs,
    request: pytest.FixtureRequest,
) -> None:
    from hepcal.closure import results
    from hepcal.evaluation import score

    monkeypatch.setattr(tagging, "train", short_tagger(tagging.train))
    if module.startswith("hepcal.tagging"):
        at_work |= {"signal": top_jets, "background": top_jets, "pairs": top_jets, "is_signal": np.arange(300) % 2}
    if module.startswith(("hepcal.plot", "hepcal.closure")):
        from hepcal.evaluation import closure_in_truth

        at_work["directory"] = request.getfixturevalue("results_of_a_run")
        at_work["hists"] = results.load_hists(at_work["directory"])
        at_work["scores"] = score(at_work["prediction"], at_work["truth"])
        at_work |= {"values": {"BNN": at_work["value"]}, "edges": (900, 1100, 2000)}
        at_work["closure"] = closure_in_truth(at_work["value"], at_work["truth"], edges=(900, 1100, 2000))
    if module == "hepcal.evaluation.priors":
        at_work |= vars(importlib.import_module(module))
        monkeypatch.setattr(hepcal.evaluation.priors, "MIN_BIN_N_EFF", 5, raising=False)
    if module == "hepcal.evaluation.diagnostics":
        monkeypatch.setattr(
            "hepcal.evaluation.diagnostics.train", shortened(importlib.import_module("hepcal.methods.training").train)
        )
    run(code, at_work)


def run(code: str, names: dict[str, Any]) -> None:
    """Run a snippet: data files of the repository, nothing foreign."""
    exec(compile(code, "snippet", "exec"), names)  # noqa: S102


def test_every_python_block_of_the_readme_is_run_above() -> None:
    markers = ("matched_gen", "calibrator.save", "Features(constituents", "tagging.train")
    assert [sum(marker in block for marker in markers) for block in blocks("python")] == [1] * len(markers)


# -- the command line -------------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """Calls of ``hepcal`` in the shell blocks and in code spans of README.md."""
    text = README.read_text()
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    calls = [part for line in lines + spans for part in line.split("&&")]
    found = [shlex.split(call, comments=True) for call in calls]
    return [call for call in found if call and call[0] == "hepcal" and len(call) > 1]


def test_every_command_and_option_of_the_readme_exists() -> None:
    group = typer.main.get_command(app)
    assert len(commands()) > 8
    for call in commands():
        command = group.commands[call[1]]  # type: ignore[attr-defined]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in call[2:] if word.startswith("-")} <= known, call
        result: Result = CliRunner().invoke(app, [call[1], "--help"])
        assert result.exit_code == 0


def test_every_option_that_the_readme_mentions_is_one_of_a_command() -> None:
    group = typer.main.get_command(app)
    known = {
        name for command in group.commands.values() for p in command.params for name in (*p.opts, *p.secondary_opts)
    }  # type: ignore[attr-defined]
    mentioned = set(re.findall(r"`(--[a-z][a-z-]+)", README.read_text()))
    assert mentioned <= known
