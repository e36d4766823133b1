"""The registry of methods: every line of it holds, and a method from elsewhere is one class and one entry point."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import hepcal
from hepcal.errors import CalibratorFileError, HepcalError, TrainingError, UnknownMethodError
from hepcal.methods import registry
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.inversion.calibrator import NumericalInversion

# All that a method is: its settings, its training and its calibrator. This one leaves the p_T as it is.
IDENTITY = '''
"""A method of another package."""

from typing import ClassVar

from hepcal.methods.base import Method
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.training.task import Learned


class Identity(Method):
    """The detector-level p_T [GeV] as it is."""

    name: ClassVar[str] = "identity"
    learner: ClassVar[str] = "toy_identity:learn"
    calibrator: ClassVar[str] = "toy_identity:IdentityCalibrator"


class IdentityCalibrator(Calibrator):
    """Calibrates nothing."""

    method = Identity

    def _evaluate(self, inputs, pt, *, replicas):
        return {"pt_calib": pt}


def learn(task):
    """There is nothing to learn."""
    return Learned({})
'''
TRY = """
import sys, numpy as np, hepcal
pairs = hepcal.JetPairs.open("table")
calibrator = hepcal.train(pairs, hepcal.Identity(), show=False)
calibrator.save("python.safetensors")
for name in ("python", "cli"):
    loaded = hepcal.Calibrator.load(f"{name}.safetensors")
    assert type(loaded).__name__ == "IdentityCalibrator"
    assert np.array_equal(loaded.predict(pairs).mean, pairs.reco)
assert "Identity" in hepcal.__all__
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with an installed distribution that has a method."""
    site = tmp_path / "site"
    info = site / "toy_identity-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_identity.py").write_text(IDENTITY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-identity\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hepcal.methods]\nidentity = toy_identity:Identity\n")
    return site


def run(site: Path, *arguments: str) -> str:
    environment = {"PYTHONPATH": str(site), "PATH": "", "COLUMNS": "200", "HOME": str(site)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=site.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_method_of_another_distribution_is_one_of_ours(elsewhere: Path, tiny_pairs: hepcal.JetPairs) -> None:
    tiny_pairs.save(elsewhere.parent / "table")
    assert "identity: The detector-level p_T [GeV] as it is" in run(elsewhere, "-m", "hepcal.cli", "train", "--help")
    run(elsewhere, "-m", "hepcal.cli", "train", "table", "--method", "identity", "--output", "cli.safetensors")
    run(elsewhere, "-c", TRY)
    shown = run(elsewhere, "-m", "hepcal.cli", "show", "cli.safetensors")
    assert "identity" in shown
    with pytest.raises(CalibratorFileError, match=r"unknown method 'identity'.*needs that installed"):
        hepcal.Calibrator.load(elsewhere.parent / "cli.safetensors")


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_line_of_the_registry_holds(name: str) -> None:
    method, calibrator = registry.method_of(name), registry.calibrator_of(name)
    assert getattr(hepcal, method.__name__) is method
    assert issubclass(calibrator, Calibrator)
    assert calibrator.method is method
    assert callable(registry.learner_of(name))
    assert method.needs_data == (name in registry.OF_DATA)
    if name not in registry.OF_DATA:
        assert method.follows_prior == (name in registry.REGRESSIONS)
    assert registry.titles()[name] == (method.__doc__ or "").splitlines()[0].rstrip(".") != ""


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UnknownMethodError, match="unknown method 'bmm'; known are bnn, ensemble"):
        registry.method_of("bmm")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no_such_module:Thing", "is not at 'no_such_module:Thing'"),
        ("hepcal.methods.base:Thing", "is not at 'hepcal.methods.base:Thing'"),
        ("hepcal.errors:HepcalError", "is no hepcal.methods.base.Method"),
        ("hepcal.methods.regression.mse:MSE", "is no hepcal.methods.base.Method with the name 'odd'"),
    ],
)
def test_an_entry_point_that_is_no_method_is_refused(place: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "places", lambda: {"odd": place})
    with pytest.raises(HepcalError, match=message):
        registry.method_of("odd")


@pytest.mark.parametrize(
    ("ask", "attribute", "place", "message"),
    [
        (
            registry.calibrator_of,
            "calibrator",
            "hepcal.errors:HepcalError",
            "is no hepcal.methods.calibrator.Calibrator",
        ),
        (registry.calibrator_of, "calibrator", "hepcal.methods.regression.bnn:BNNCalibrator", "of the method 'mse'"),
        (registry.calibrator_of, "calibrator", "hepcal.nowhere:Thing", "the calibrator of 'mse' is not at"),
        (registry.learner_of, "learner", "hepcal.methods.registry:METHODS", "is no function of a task"),
        (registry.learner_of, "learner", "no place", "the training of 'mse' is not at 'no place'"),
    ],
)
def test_a_method_that_names_something_else_is_refused(
    ask: Callable[[str], object], attribute: str, place: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hepcal.MSE, attribute, place)
    with pytest.raises(HepcalError, match=message):
        ask("mse")


def test_entry_points_come_last_and_may_not_take_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("identity", "toy_identity:Identity", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    monkeypatch.setattr(registry, "places", places := registry.places.__wrapped__)
    assert list(places())[-1] == "identity"
    assert registry.class_places()["Identity"] == "toy_identity:Identity"
    assert registry.titles()["identity"] == ""  # nothing is there to be read
    points.append(EntryPoint("mse", "toy_identity:Identity", registry.GROUP))
    with pytest.raises(
        HepcalError, match=r"'mse' = 'toy_identity:Identity' .* is taken by hepcal.methods.regression.mse"
    ):
        places()


def test_a_name_that_is_taken_is_refused(elsewhere: Path) -> None:
    points = elsewhere / "toy_identity-1.0.dist-info" / "entry_points.txt"
    points.write_text("[hepcal.methods]\nbnn = toy_identity:Identity\n")
    done = subprocess.run(
        [sys.executable, "-c", "import hepcal; hepcal.BNN"],
        env={"PYTHONPATH": str(elsewhere), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "has a name that is taken by hepcal.methods.regression.bnn:BNN" in done.stderr


def test_a_class_that_is_not_registered_is_refused_before_it_is_trained(tiny_pairs: hepcal.JetPairs) -> None:
    class Mine(NumericalInversion):
        """Under the name of another."""

    with pytest.raises(TrainingError, match="Mine is not what calibrator files mean by 'inversion'"):
        hepcal.train(tiny_pairs, Mine(), show=False)
    assert np.isfinite(hepcal.train(tiny_pairs, NumericalInversion(n=3), show=False).predict(tiny_pairs).mean).all()
