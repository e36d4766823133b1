"""The configuration of ``hepcal train``, and the example files that ship with the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

import hepcal
from hepcal.config import TrainingConfig
from hepcal.errors import FilesetError, HepcalError, TrainingError
from hepcal.events.features import DEFAULT_FEATURES
from hepcal.methods.base import Method

ANALYSIS = Path(__file__).parents[1] / "analysis"
CONFIGS = sorted((ANALYSIS / "configs").glob("*.yaml"))
FILESETS = sorted((ANALYSIS / "filesets").glob("*.json"))
DATA = (ANALYSIS / "../../shared/data").resolve()


def write(path: Path, text: str) -> Path:
    config = path / "config.yaml"
    config.write_text(text)
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_example_configs_build_a_method(path: Path) -> None:
    config = TrainingConfig.read(path)
    method = config.build()
    assert method.name == config.method
    assert set(config.settings) <= set(type(method).model_fields)
    # The command in the first line is the one to copy.
    assert path.read_text().startswith(f"# hepcal train FILESET --config analysis/configs/{path.name} --output ")


def test_the_example_configs_are_those_that_the_documentation_names() -> None:
    assert {path.stem for path in CONFIGS} >= {
        "bnn",
        "constituents",
        "ensemble",
        "gaussian_ansatz",
        "generalised_inversion",
        "hessian",
        "inversion",
        "likelihood",
        "mse",
        "summary_likelihood",
        "tails",
    }


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("bnn", hepcal.BNN),
        ("hessian", hepcal.Hessian),
        ("mse", hepcal.MSE),
        ("inversion", hepcal.NumericalInversion),
        ("generalised_inversion", hepcal.GeneralisedInversion),
        ("gaussian_ansatz", hepcal.GaussianAnsatz),
    ],
)
def test_example_configs_show_all_settings_with_their_defaults(name: str, method: type[Method]) -> None:
    config = TrainingConfig.read(ANALYSIS / "configs" / f"{name}.yaml")
    assert set(config.settings) == set(method.model_fields)
    assert config.build() == method()


def test_the_example_config_shows_the_default_features() -> None:
    assert TrainingConfig.read(ANALYSIS / "configs" / "bnn.yaml").features == DEFAULT_FEATURES["delphes"]


def test_the_config_for_intervals_differs_from_the_defaults_by_its_head() -> None:
    assert TrainingConfig.read(ANALYSIS / "configs" / "tails.yaml").build() == hepcal.BNN(head="tails")


def test_the_config_for_statistical_errors_is_a_bootstrap_ensemble() -> None:
    built = TrainingConfig.read(ANALYSIS / "configs" / "ensemble.yaml").build()
    assert built == hepcal.Ensemble(head="tails")
    assert built.model_dump()["sample"] == "bootstrap"


def test_the_configs_without_a_prior_are_the_defaults() -> None:
    for name, method in (("likelihood", hepcal.Likelihood), ("summary_likelihood", hepcal.SummaryLikelihood)):
        assert TrainingConfig.read(ANALYSIS / "configs" / f"{name}.yaml").build() == method()


def test_no_config_means_the_method_of_the_command_line() -> None:
    assert TrainingConfig.read(None, "mse").build() == hepcal.MSE()


def test_an_empty_config_means_the_method_of_the_command_line(tmp_path: Path) -> None:
    assert TrainingConfig.read(write(tmp_path, "# nothing\n"), "mse").build() == hepcal.MSE()


def test_the_config_chooses_the_method(tmp_path: Path) -> None:
    config = TrainingConfig.read(write(tmp_path, "method: mse\nsettings: {hidden: [8]}\n"))
    assert config.build() == hepcal.MSE(hidden=(8,))


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("methods: bnn\n", "methods"),
        ("method: bnn\nfeature: {inputs: [eta]}\n", "feature"),
        ("features: {inputs: [{name: eta, transforms: abs}]}\n", "transforms"),
        ("features: {inputs: [{name: eta, transform: cube}]}\n", "transform"),
        ("features: {inputs: [eta, eta]}\n", "eta"),
        ("method: forest\n", "forest"),
        ("- bnn\n", "config.yaml"),
        ("method: [\n", "config.yaml"),
    ],
)
def test_unknown_keys_and_malformed_files_are_refused_by_name(tmp_path: Path, text: str, culprit: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TrainingError, match=culprit) as caught:
        TrainingConfig.read(path, "bnn")
    assert str(path) in str(caught.value)


def test_a_method_that_needs_data_is_sent_to_python(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"'transport' maps simulation to data.* train it in Python") as caught:
        TrainingConfig.read(write(tmp_path, "method: transport\n"))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(TrainingError, match="unknown method 'forest'") as caught:
        TrainingConfig.read(write(tmp_path, "method: forest\n"))
    assert "transport" not in str(caught.value)


def test_a_missing_config_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere\.yaml"):
        TrainingConfig.read(tmp_path / "nowhere.yaml", "bnn")


@pytest.mark.parametrize(
    "settings",
    [
        {"prior_widht": 0.1},
        {"prior_width": -0.1},
        {"draws": 1},
        {"validation": 1.0},
        {"hidden": [0]},
    ],
    ids=str,
)
def test_unknown_or_impossible_settings_are_refused_by_name(tmp_path: Path, settings: dict[str, object]) -> None:
    config = TrainingConfig.read(write(tmp_path, yaml.safe_dump({"settings": settings})), "bnn")
    with pytest.raises(HepcalError, match=next(iter(settings))):
        config.build()


def test_settings_of_one_method_are_refused_by_another(tmp_path: Path) -> None:
    config = TrainingConfig.read(write(tmp_path, "method: mse\nsettings: {prior_width: 0.1}\n"))
    with pytest.raises(TrainingError, match="prior_width"):
        config.build()


PROMISED = {
    "qcd": ("qcd/qcd_pthat1000_cms", range(1, 31)),
    "qcd_train": ("qcd/qcd_pthat1000_cms", range(1, 11)),
    "qcd_test": ("qcd/qcd_pthat1000_cms", range(21, 31)),
    "qcd_fatjets": ("qcd_fatjets/qcd_fatjets_isr_off", range(1, 4)),
    "top": ("top/ttbar_had_isr_off", range(1, 6)),
    "top_isr": ("top/ttbar_had_isr_on", range(1, 3)),
}


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not beside this checkout")
@pytest.mark.parametrize("path", FILESETS, ids=lambda path: path.name)
def test_example_filesets_name_the_files_they_promise(path: Path) -> None:
    name, numbers = PROMISED[path.stem]
    found = [Path(name).resolve() for name in hepcal.load_fileset(path).paths]
    assert found == [DATA / f"{name}_{number:02d}.root" for number in numbers]


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not beside this checkout")
def test_training_and_test_files_are_disjoint() -> None:
    train, test = (hepcal.load_fileset(ANALYSIS / "filesets" / f"qcd_{part}.json").paths for part in ("train", "test"))
    assert len(train) == len(test) == 10
    assert not set(train) & set(test)


@pytest.mark.parametrize("path", FILESETS, ids=lambda path: path.name)
def test_example_filesets_away_from_the_sample_say_what_is_missing(tmp_path: Path, path: Path) -> None:
    copied = tmp_path / path.name
    copied.write_text(path.read_text())
    with pytest.raises(FilesetError, match=rf"no file matches .*{PROMISED[path.stem][0]}"):
        hepcal.load_fileset(copied)


def test_a_method_that_contradicts_the_command_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="asks for the method 'mse', the command line for 'bnn'"):
        TrainingConfig.read(write(tmp_path, "method: mse\n"), "bnn")


def test_features_that_a_saved_table_lacks_are_refused(tmp_path: Path) -> None:
    table = hepcal.JetPairs.from_arrays(np.ones((3, 1)), ["eta"], reco=np.ones(3), truth=np.ones(3))
    TrainingConfig.read(write(tmp_path, "features: {inputs: [eta]}\n")).require(table)
    with pytest.raises(TrainingError, match="asks for the features mass"):
        TrainingConfig.read(write(tmp_path, "features: {inputs: [mass]}\n")).require(table)


def test_the_config_of_constituents_chooses_them_alone(tmp_path: Path) -> None:
    config = TrainingConfig.read(ANALYSIS / "configs" / "constituents.yaml")
    assert config.features == hepcal.Features(constituents=hepcal.Constituents(count=100, frame="jet"))
    assert config.build() == hepcal.BNN()
    columns, five = np.zeros((3, 20)), hepcal.Constituents(count=5)
    columns[:, :2] = 1
    table = hepcal.JetPairs.from_arrays(columns, [], reco=np.ones(3), truth=np.ones(3), constituents=five)
    TrainingConfig.read(write(tmp_path, "features: {constituents: {count: 5}}\n")).require(table)
    with pytest.raises(TrainingError, match=r"asks for the features 100 constituents.* made with 5 constituents"):
        config.require(table)
    with_mass = hepcal.JetPairs.from_arrays(
        np.hstack([np.ones((3, 1)), columns]), ["mass"], reco=np.ones(3), truth=np.ones(3), constituents=five
    )
    with pytest.raises(TrainingError, match=r"asks for the features 5 constituents.* made with mass, 5 constituents"):
        TrainingConfig.read(write(tmp_path, "features: {constituents: {count: 5}}\n")).require(with_mass)


def test_a_table_without_inputs_is_named_so(tmp_path: Path) -> None:
    table = hepcal.JetPairs.from_arrays(np.ones((3, 0)), [], reco=np.ones(3), truth=np.ones(3))
    with pytest.raises(TrainingError, match=r"asks for the features eta .* made with none \(p_T: pt\)"):
        TrainingConfig.read(write(tmp_path, "features: {inputs: [eta]}\n")).require(table)
    with pytest.raises(TrainingError, match=r"asks for the features none \(p_T: raw\)"):
        TrainingConfig.read(write(tmp_path, "features: {pt: raw}\n")).require(table)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_example_configs_ask_for_inputs_that_are_there(path: Path) -> None:
    config = TrainingConfig.read(path)
    config.require_inputs(config.build())


@pytest.mark.parametrize("name", ["eta", "event_rho", "DeltaEta"])
def test_a_method_may_ask_for_what_any_layout_has(name: str) -> None:
    config = TrainingConfig(method="likelihood", settings={"conditions": (name,)})
    if any(name in features.names for features in DEFAULT_FEATURES.values()):
        config.require_inputs(config.build())
    else:
        with pytest.raises(TrainingError, match=f"no input {name} among"):
            config.require_inputs(config.build())
    with pytest.raises(TrainingError, match=rf"'likelihood' cannot learn from these features: no input {name} among"):
        config.model_copy(update={"features": hepcal.Features(inputs=("mass",))}).require_inputs(config.build())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{hiden: [3]}", r"hiden: there is no such setting, known are validation, hidden, batch, "),
        ("{max_updates: 1e4}", r"max_updates: .*found '1e4' \(YAML takes it for a text: write 10000\)"),
        ("{prior_width: -1}", r"prior_width: Input should be greater than or equal to 0.000001, found -1"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_file(tmp_path: Path, settings: str, message: str) -> None:
    path = write(tmp_path, f"method: bnn\nsettings: {settings}\n")
    with pytest.raises(TrainingError, match=message) as caught:
        TrainingConfig.read(path).build()
    assert str(caught.value).startswith(f"{path}: settings of 'bnn': ")
    assert "pydantic" not in str(caught.value)
