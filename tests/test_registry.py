"""The registry of methods: every line of it holds, and a method from elsewhere is one class and one entry point."""

import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import hepcal
from hepcal.config import TrainingConfig
from hepcal.errors import CalibratorFileError, HepcalError, MethodWarning, TrainingError, UnknownMethodError
from hepcal.methods import registry
from hepcal.methods.base import SIGMA_STOCH, Method, NetworkMethod
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.inversion.calibrator import NumericalInversion
from hepcal.methods.training.task import Learned

# All that a method is: its settings, its training and its calibrator. This one leaves the p_T as it is.
IDENTITY = '''
"""A method of another package."""

from typing import ClassVar

from hepcal.methods.base import Method
from hepcal.methods.base import SIGMA_STOCH, Method
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.training.task import Learned


class Plain(Method):
    """The detector-level p_T [GeV] as it is."""

    name: ClassVar[str] = "plain"
    learner: ClassVar[str] = "toy_plain:learn"
    calibrator: ClassVar[str] = "toy_plain:PlainCalibrator"
    follows_prior: ClassVar[bool] = False


class PlainCalibrator(Calibrator):
    """Calibrates nothing."""

    method = Plain

    def _evaluate(self, inputs, pt, *, replicas):
        return {"pt_calib": pt}


def learn(task):
    """There is nothing to learn."""
    return Learned({})
'''
TRY = """
import sys, numpy as np, hepcal
from hepcal.cli import main
def command(*arguments):
    sys.argv = ["hepcal", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code
pairs = hepcal.JetPairs.open("table")
command("train", "table", "--method", "plain", "--output", "cli.safetensors")
calibrator = hepcal.train(pairs, hepcal.Plain(), show=False)
calibrator.save("python.safetensors")
for name in ("python", "cli"):
    loaded = hepcal.Calibrator.load(f"{name}.safetensors")
    assert type(loaded).__name__ == "PlainCalibrator"
    assert np.array_equal(loaded.predict(pairs).mean, pairs.reco)
assert "Plain" in hepcal.__all__
command("show", "cli.safetensors")
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with an installed distribution that has a method."""
    site = tmp_path / "site"
    info = site / "toy_plain-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_plain.py").write_text(IDENTITY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hepcal.methods]\nplain = toy_plain:Plain\n")
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
    assert "plain: The detector-level p_T [GeV] as it is" in run(elsewhere, "-m", "hepcal.cli", "train", "--help")
    assert "plain" in run(elsewhere, "-c", TRY)
    with pytest.raises(CalibratorFileError, match=r"unknown method 'plain'.*needs that installed"):
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
    monkeypatch.setattr(registry, "_known", lambda: ({"odd": place}, {}))
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


@pytest.fixture
def entry_points_are(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Makes entry points, by name and value; returns what is left out, and why."""

    def given(*points: tuple[str, str]) -> dict[str, str]:
        found = [EntryPoint(name, value, registry.GROUP) for name, value in points]
        monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])
        known = registry._known.__wrapped__()
        monkeypatch.setattr(registry, "_known", lambda: known)
        return known[1]

    return given


def test_entry_points_come_last(entry_points_are: Callable[..., dict[str, str]]) -> None:
    assert entry_points_are(("plain", "toy_plain:Plain")) == {}
    assert list(registry.places())[-1] == "plain"
    assert registry.class_places()["Plain"] == "toy_plain:Plain"
    assert registry.titles()["plain"] == ""  # nothing is there to be read


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([("mse", "other:Thing")], "has a name that is taken by hepcal.methods.regression.mse:MSE"),
        ([("mine", "other:BNN")], "has a class of the name of hepcal's own hepcal.methods.regression.bnn:BNN"),
        ([("mine", "other:Calibrator")], "has a class of the name of hepcal.Calibrator"),
        ([("first", "one:Thing"), ("second", "two:Thing")], "has a class of the name of one:Thing"),
        ([("mine", "one:Thing"), ("mine", "two:Other")], "have one name: uninstall one of the distributions"),
        ([("mine", "other:train")], "has a class of the name of hepcal.train"),
        ([("mro", "other:Thing")], "has no name that a command line can offer"),
        ([("my-method", "other:Thing")], "has no name that a command line can offer"),
    ],
)
def test_what_would_hide_another_method_is_left_out_and_says_why(
    points: list[tuple[str, str]], reason: str, entry_points_are: Callable[..., dict[str, str]]
) -> None:
    with pytest.warns(MethodWarning, match=reason):
        refused = entry_points_are(*points)
    name = points[-1][0]
    assert list(refused) == [name]
    assert hepcal.BNN.name == "bnn"
    assert set(registry.METHODS) <= set(registry.places())
    if name not in registry.METHODS:
        assert name not in registry.places()
        with pytest.raises(HepcalError, match=reason):
            registry.method_of(name)


def test_a_broken_method_is_in_nobodys_way(entry_points_are: Callable[..., dict[str, str]]) -> None:
    entry_points_are(("gone", "no.such.module:Thing"))
    assert registry.titles()["gone"] == ""
    assert "bnn" in registry.regressions(hepcal.BNN)
    assert hepcal.SummaryLikelihood().summary.name == "ensemble"
    assert hepcal.NoisyLabels(fraction=0.1).method.name == "bnn"
    with pytest.raises(HepcalError, match=r"the method 'gone' is not at 'no.such.module:Thing': ModuleNotFoundError"):
        registry.method_of("gone")


def test_a_name_that_is_taken_is_left_out_with_a_warning(elsewhere: Path) -> None:
    points = elsewhere / "toy_plain-1.0.dist-info" / "entry_points.txt"
    points.write_text("[hepcal.methods]\nbnn = toy_plain:Plain\n")
    done = subprocess.run(
        [sys.executable, "-c", "import hepcal; print(hepcal.BNN.__module__)"],
        env={"PYTHONPATH": str(elsewhere), "PATH": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "hepcal.methods.regression.bnn\n"
    assert "of the distribution 'toy-plain'" in done.stderr
    assert "has a name that is taken by hepcal.methods.regression.bnn:BNN" in done.stderr


def sigma(jets: torch.Tensor) -> np.ndarray:
    return np.full(jets.shape[1], 5.0)


# What _evaluate and learn give, the uncertainties that are declared, and what is said of it.
ODD: dict[str, tuple[Any, Any, tuple[str, ...], str]] = {
    "one number": (lambda x, pt: {"pt_calib": pt[:1]}, Learned({}), (), r"'pt_calib' of 1024 jets to the shape \(1,\)"),
    "a scalar": (lambda x, pt: {"pt_calib": 5.0}, Learned({}), (), r"to the shape \(\)"),
    "two axes": (lambda x, pt: {"pt_calib": pt[:, None]}, Learned({}), (), r"to the shape \(1024, 1\)"),
    "nothing": (lambda x, pt: None, Learned({}), (), "evaluates to NoneType"),
    "no value": (lambda x, pt: {}, Learned({}), (), "declares the column 'pt_calib' and does not evaluate it"),
    "undeclared, of its own": (
        lambda x, pt: {"pt_calib": pt, "pt_calib_sigma_mine": sigma(x)}, Learned({}), (),
        "evaluates 'pt_calib_sigma_mine', which its uncertainties do not declare",
    ),
    "no booleans": (
        lambda x, pt: {"pt_calib": pt, "pt_calib_in_range": sigma(x)}, Learned({}), (), "to float64, not to booleans",
    ),
    "undeclared": (
        lambda x, pt: {"pt_calib": pt, SIGMA_STOCH: sigma(x)}, Learned({}), (),
        "evaluates 'pt_calib_sigma_stoch', which its uncertainties do not declare",
    ),
    "declared only": (
        lambda x, pt: {"pt_calib": pt}, Learned({}), (SIGMA_STOCH,), "declares the column 'pt_calib_sigma_stoch'",
    ),
    "learned nothing": (lambda x, pt: {"pt_calib": pt}, None, (), "gives NoneType, not a hepcal.methods"),
    "numpy": (lambda x, pt: {"pt_calib": pt}, Learned({"a": np.ones(2)}), (), "gives 'a' as ndarray: use torch"),
    "ours": (lambda x, pt: {"pt_calib": pt}, Learned({"input_mean": torch.ones(3)}), (), "which is that of the inputs"),
    "no tensors": (lambda x, pt: {"pt_calib": pt}, Learned(None), (), "gives NoneType, not tensors and figures"),  # type: ignore[arg-type]
    "figure of the card": (
        lambda x, pt: {"pt_calib": pt}, Learned({}, figures={"sum_ratio": 7.0}), (), "'sum_ratio', which every card",
    ),
    "no figure": (lambda x, pt: {"pt_calib": pt}, Learned({}, figures={"n": None}), (), "the figure 'n' as NoneType"),
}  # fmt: skip


def installed(
    monkeypatch: pytest.MonkeyPatch, evaluated: Any, learned: Any, uncertainties: tuple[str, ...]
) -> type[Method]:
    """A method of another distribution, of the name ``odd``."""
    declared = uncertainties

    class Odd(Method):
        """Of another distribution."""

        name: ClassVar[str] = "odd"
        learner: ClassVar[str] = "odd_plugin:learn"
        calibrator: ClassVar[str] = "odd_plugin:OddCalibrator"
        follows_prior: ClassVar[bool] = True
        uncertainties: ClassVar[tuple[str, ...]] = declared

    class OddCalibrator(Calibrator):
        """Its calibrator: what the method declares is what is attached."""

        method = Odd

        def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> Any:
            return evaluated(inputs, pt)

    module = types.ModuleType("odd_plugin")
    module.Odd, module.OddCalibrator, module.learn = Odd, OddCalibrator, lambda _: learned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd_plugin", module)
    monkeypatch.setattr(registry, "_known", lambda: ({**registry.METHODS, "odd": "odd_plugin:Odd"}, {}))
    return Odd


@pytest.mark.parametrize("name", ODD)
def test_what_is_not_as_declared_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tiny_pairs: hepcal.JetPairs
) -> None:
    *given, message = ODD[name]
    method = installed(monkeypatch, *given)
    with pytest.raises(HepcalError, match=message):
        hepcal.train(tiny_pairs, method(), show=False)


def test_what_a_method_declares_is_attached(monkeypatch: pytest.MonkeyPatch, tiny_pairs: hepcal.JetPairs) -> None:
    method = installed(monkeypatch, lambda x, pt: {"pt_calib": pt, SIGMA_STOCH: sigma(x)}, Learned({}), (SIGMA_STOCH,))
    calibrator = hepcal.train(tiny_pairs, method(), show=False)
    assert calibrator.columns == ("pt_calib", SIGMA_STOCH, "pt_calib_in_range")
    assert (calibrator.predict(tiny_pairs).sigma_stoch == 5).all()


@pytest.mark.parametrize("part", ["learner", "calibrator", "follows_prior"])
def test_a_method_that_says_too_little_is_refused(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = installed(monkeypatch, None, None, ())
    delattr(method, part)
    with pytest.raises(HepcalError, match=f"odd_plugin:Odd, the method 'odd', does not say {part}"):
        registry.method_of("odd")


def test_a_calibrator_that_evaluates_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method = installed(monkeypatch, None, None, ())

    class Empty(Calibrator):
        """No evaluation."""

    Empty.method = method
    monkeypatch.setattr(sys.modules["odd_plugin"], "OddCalibrator", Empty)
    with pytest.raises(HepcalError, match="the calibrator of 'odd', lacks _evaluate"):
        registry.calibrator_of("odd")


def test_names_of_hepcal_are_those_that_entry_points_may_not_take() -> None:
    methods = {place.rpartition(":")[2] for place in registry.METHODS.values()}
    assert set(registry.PUBLIC) | methods <= set(hepcal.__all__) <= set(registry.PUBLIC) | set(registry.class_places())


@pytest.mark.parametrize("sigmas", [(SIGMA_STOCH, "pt_calib_sigma_pred"), ()])
def test_columns_are_those_of_the_method(sigmas: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None, None, (SIGMA_STOCH,))
    monkeypatch.setattr(sys.modules["odd_plugin"].OddCalibrator, "sigmas", sigmas)
    with pytest.raises(HepcalError, match=r"the calibrator of 'odd', has sigmas = .* leave sigmas out"):
        registry.calibrator_of("odd")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("quantity", "average", "has quantity = 'average': it is one of mean, median, mode"),
        (
            "uncertainties",
            ("eta",),
            r"has uncertainties = \('eta',\): a tuple of columns whose names begin with pt_calib",
        ),
        ("uncertainties", SIGMA_STOCH, "has uncertainties = 'pt_calib_sigma_stoch': a tuple of columns"),
    ],
)
def test_a_method_that_declares_what_there_is_not_is_refused(
    attribute: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed(monkeypatch, None, None, ()), attribute, value)
    with pytest.raises(HepcalError, match=message):
        registry.method_of("odd")


def test_abstract_settings_and_a_calibrator_of_another_kind_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method = installed(monkeypatch, None, None, ())
    monkeypatch.setattr(sys.modules["odd_plugin"], "OddCalibrator", type("Other", (), {"method": method}))
    with pytest.raises(HepcalError, match=r"is no hepcal.methods.calibrator.Calibrator of the method 'odd'"):
        registry.calibrator_of("odd")
    named = {"__module__": __name__, "name": "odd", "learner": "a:b", "calibrator": "a:c", "follows_prior": True}
    monkeypatch.setattr(sys.modules["odd_plugin"], "Odd", type("Odd", (NetworkMethod,), named))
    with pytest.raises(HepcalError, match="the method 'odd', lacks build_head, networks, objective"):
        registry.method_of("odd")


def test_a_figure_of_numpy_is_a_number_of_the_card(
    monkeypatch: pytest.MonkeyPatch, tiny_pairs: hepcal.JetPairs
) -> None:
    learned = Learned({}, figures={"knots": np.float32(3)})  # type: ignore[dict-item]
    method = installed(monkeypatch, lambda x, pt: {"pt_calib": pt}, learned, ())
    assert type(hepcal.train(tiny_pairs, method(), show=False).card.figures["knots"]) is float


def test_what_its_classes_lack_is_said_before_the_training(
    monkeypatch: pytest.MonkeyPatch, tiny_pairs: hepcal.JetPairs
) -> None:
    method = installed(monkeypatch, None, None, ())
    module = sys.modules["odd_plugin"]
    monkeypatch.setattr(module, "learn", lambda _: pytest.fail("it was trained"))
    monkeypatch.setattr(module.OddCalibrator, "sigmas", (SIGMA_STOCH,))
    with pytest.raises(HepcalError, match="leave sigmas out"):
        hepcal.train(tiny_pairs, method(), show=False)
    with pytest.raises(HepcalError, match="leave sigmas out"):
        TrainingConfig(method="odd").build()


@pytest.mark.parametrize("damage", [b"\xff", b"nonsense\n"])
def test_entry_points_that_cannot_be_read_are_left_out(damage: bytes, elsewhere: Path) -> None:
    info = elsewhere / "damaged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: damaged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_bytes(b"[hepcal.methods]\n" + damage)
    done = subprocess.run(
        [sys.executable, "-c", "import hepcal; print('Plain' in dir(hepcal))"],
        env={"PYTHONPATH": str(elsewhere), "PATH": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True\n"
    assert "the entry points of the distribution 'damaged' cannot be read" in done.stderr


BROKEN = {"raises": "raise RuntimeError('no device')", "leaves": "raise SystemExit(3)", "misspelt": "class Plain(:"}


def test_help_lists_what_works_and_says_what_does_not(elsewhere: Path) -> None:
    for name, source in BROKEN.items():
        (elsewhere / f"{name}.py").write_text(source)
    points = "\n".join(f"{name} = {name}:{name.title()}" for name in BROKEN)
    (elsewhere / "toy_plain-1.0.dist-info" / "entry_points.txt").write_text(f"[hepcal.methods]\n{points}\n")
    shown = run(elsewhere, "-m", "hepcal.cli", "train", "--help")
    assert "Of other packages:" not in shown
    assert "- bnn: " in shown
    for name in BROKEN:
        assert f"- {name}: the method {name!r} is not at '{name}:{name.title()}'" in shown
    # Any exception, of which this one would end the process.
    done = subprocess.run(
        [sys.executable, "-m", "hepcal.cli", "train", "table", "--method", "leaves"],
        env={"PYTHONPATH": str(elsewhere), "PATH": ""}, cwd=elsewhere.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.startswith("hepcal: the method 'leaves' is not at")) == (1, True)
    assert "(it is of the distribution 'toy-plain')" in done.stderr


def test_a_class_that_is_not_registered_is_refused_before_it_is_trained(tiny_pairs: hepcal.JetPairs) -> None:
    class Mine(NumericalInversion):
        """Under the name of another."""

    with pytest.raises(TrainingError, match="Mine is not what calibrator files mean by 'inversion'"):
        hepcal.train(tiny_pairs, Mine(), show=False)
    assert np.isfinite(hepcal.train(tiny_pairs, NumericalInversion(n=3), show=False).predict(tiny_pairs).mean).all()
