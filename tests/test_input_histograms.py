"""Distributions of the inputs at fixed p_T: another detector is seen, another spectrum is not."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NETWORKS
from sample_files import delphes_file
from typer.testing import CliRunner

import hepcal
from hepcal.cli.commands import app
from hepcal.closure import results
from hepcal.errors import CalibratorFileError, HepcalWarning, InputsDifferWarning
from hepcal.evaluation import diagnostics
from hepcal.events.executors import open_executor
from hepcal.events.features import Features
from hepcal.events.filesets import Fileset
from hepcal.methods.calibrator import Calibrator
from hepcal.storage.artefact import CARD_KEY
from hepcal.storage.tensors import pack
from hepcal.tables.input_differences import ALL, RESPONSE, Difference, notable
from hepcal.tables.input_histograms import InputHistograms
from hepcal.workflow import run_dijets

SPEC = Features(inputs=("eta", "charged", "rest"), pt="pt")


def toy(n: int, seed: int, response: float = 1.0, charged: float = 0.0, power: float = 6.0) -> hepcal.JetPairs:
    """Jets of a falling spectrum; ``charged`` depends on p_T and on the response, forward jets have less of it."""
    rng = np.random.default_rng(seed)
    truth = 200 * rng.uniform(size=n) ** (-1 / (power - 1))
    eta, noise = rng.normal(0, 1.2, n), rng.normal(size=n)
    number = 10 * np.log(truth / 20) - 2 * np.abs(eta) + 5 * rng.normal(size=n) + charged
    reco = response * truth * np.exp(0.1 * noise + 0.004 * (number - 20))
    table = np.stack([eta, number, rng.exponential(1, n)], axis=1)
    return hepcal.JetPairs.from_arrays(table, SPEC.names, reco=reco, truth=truth)


def found(training: hepcal.JetPairs, sample: hepcal.JetPairs, condition: Any = "truth") -> list[Difference]:
    trained = InputHistograms.of(condition, SPEC, training.features, training.reco, training.truth, training.weight)
    assert trained is not None
    seen = trained.filled(SPEC, sample.features, sample.reco, sample.truth, sample.weight)
    return trained.differences(SPEC, seen)


@pytest.fixture(scope="module")
def training() -> hepcal.JetPairs:
    return toy(60_000, seed=1)


def weighted(pairs: hepcal.JetPairs, weight: np.ndarray) -> hepcal.JetPairs:
    return dataclasses.replace(pairs, weight=weight)


# -- no false alarms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("jets", [50, 1_000, 20_000])
@pytest.mark.parametrize("condition", ["truth", "reco"])
def test_an_independent_sample_of_the_same_detector_says_nothing(
    condition: str, jets: int, seed: int, training: hepcal.JetPairs
) -> None:
    differences = found(training, toy(jets, seed=10 + seed), condition)
    assert differences
    assert not notable(differences)
    # As often beyond two standard errors as the largest of eleven correlated numbers is.
    assert np.mean([d.significance > 3.5 for d in differences]) < 0.2


SPECTRA: dict[str, Callable[[hepcal.JetPairs], hepcal.JetPairs]] = {
    "steeper": lambda pairs: weighted(pairs, pairs.truth.astype(float) ** -4),
    "harder": lambda pairs: weighted(pairs, pairs.truth.astype(float) ** 4),
    "resonance": lambda pairs: weighted(pairs, np.exp(-0.5 * ((pairs.truth - 420) / 20) ** 2) + 1e-12),
    "cut in truth": lambda pairs: pairs.take(np.flatnonzero(pairs.truth > 330)),
    "cut in reco": lambda pairs: pairs.take(np.flatnonzero(pairs.reco > 330)),
    "weights of both signs": lambda pairs: weighted(pairs, np.where(np.arange(len(pairs)) % 5, 1.0, -1.0)),
    "slices": lambda pairs: weighted(pairs, np.where(pairs.truth > 400, 1e-5, 1.0)),
    "no matter what unit": lambda pairs: weighted(pairs, np.full(len(pairs), 1e-30)),
}


@pytest.mark.parametrize("name", sorted(SPECTRA))
@pytest.mark.parametrize("condition", ["truth", "reco"])
def test_another_spectrum_says_nothing(name: str, condition: str, training: hepcal.JetPairs) -> None:
    differences = found(training, SPECTRA[name](toy(40_000, seed=2)), condition)
    assert differences
    assert not notable(differences)


@pytest.mark.parametrize("name", ["slices", "weights of both signs", "no matter what unit", "steeper"])
def test_a_weighted_training_says_nothing_either(name: str, training: hepcal.JetPairs) -> None:
    assert not notable(found(SPECTRA[name](training), toy(40_000, seed=3)))


# -- another detector -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jets", [1_000, 20_000])
def test_a_lower_response_is_said_with_its_size(jets: int, training: hepcal.JetPairs) -> None:
    worst = notable(found(training, toy(jets, seed=4, response=0.95)))
    assert [d.quantity for d in worst] == [RESPONSE]
    assert worst[0].region == ALL
    assert worst[0].median / worst[0].expected == pytest.approx(0.95, abs=0.01)
    # 5 % of a response that is spread by 10 % and by the other input.
    assert worst[0].shift == pytest.approx(-0.5, abs=0.1)


def test_an_input_that_moves_is_named_and_the_spectrum_hides_nothing(training: hepcal.JetPairs) -> None:
    sample = SPECTRA["harder"](toy(20_000, seed=5, charged=-1.0))
    # One in a spread of five; the response follows by 0.4 % in a spread of 10 %, which is not worth a word.
    (worst,) = notable(found(training, sample))
    assert worst.quantity == "charged"
    assert worst.shift == pytest.approx(-0.2, abs=0.05)


def test_collision_data_are_compared_without_truth(training: hepcal.JetPairs) -> None:
    trained = InputHistograms.of("reco", SPEC, training.features, training.reco, training.truth, training.weight)
    assert trained is not None
    sample = toy(20_000, seed=6, charged=-1.5)
    seen = trained.filled(SPEC, sample.features, sample.reco, None, np.ones(len(sample)))
    worst = notable(trained.differences(SPEC, seen))
    assert [d.quantity for d in worst] == ["charged"]
    assert worst[0].condition == "reco"


def test_a_difference_in_one_region_is_found_there(training: hepcal.JetPairs) -> None:
    sample = toy(40_000, seed=7)
    forward = np.abs(sample.features[:, 0]) > 2.5
    other = dataclasses.replace(sample, reco=np.where(forward, 0.8 * sample.reco, sample.reco))
    assert {(d.quantity, d.region) for d in notable(found(training, other))} == {(RESPONSE, "|eta| > 2.5")}


def test_the_detector_variation_of_the_shared_sample_is_seen(shared: Path) -> None:
    """A response 5 % lower passed with 99.8 % in range and without a word."""

    def read(*numbers: int, kind: str = "qcd/qcd_pthat1000_cms") -> hepcal.JetPairs:
        paths = [str(shared / "data" / f"{kind}_{number:02d}.root") for number in numbers]
        return hepcal.JetPairs.from_fileset({"QCD": {"files": paths}}, show=False)

    training, same = read(1, 2), read(21)
    other = read(1, kind="qcd_variation/qcd_pthat1000_cmsvar")
    for condition, expected in (("truth", RESPONSE), ("reco", "DeltaPhi")):
        trained = InputHistograms.of(
            condition, training.spec, training.features, training.reco, training.truth, training.weight
        )
        assert trained is not None
        by_sample = [
            notable(trained.differences(p.spec, trained.filled(p.spec, p.features, p.reco, p.truth, p.weight)))
            for p in (same, other)
        ]
        assert by_sample[0] == []
        assert expected in [d.quantity for d in by_sample[1]]
        if condition == "truth":
            assert by_sample[1][0].median / by_sample[1][0].expected == pytest.approx(0.947, abs=0.005)


# -- constituents, tables on disk -------------------------------------------------------------------------------------


def test_constituents_are_compared_by_a_summary() -> None:
    rng, layout = np.random.default_rng(8), hepcal.Constituents(count=40)

    def jets(n: int, most: int) -> hepcal.JetPairs:
        number = rng.integers(4, most, n)
        share = rng.exponential(1, (n, 40)) * (np.arange(40) < number[:, None])
        pt = -np.sort(-share, axis=1) / share.sum(axis=1, keepdims=True) * rng.uniform(300, 500, (n, 1))
        block = np.stack([pt, pt, np.zeros_like(pt), np.zeros_like(pt)], axis=-1).reshape(n, -1)
        reco = pt.sum(axis=1)
        truth = reco * np.exp(rng.normal(0, 0.1, n))
        return hepcal.JetPairs.from_arrays(block, [], reco=reco, truth=truth, constituents=layout)

    training, same, fewer = jets(6_000, 36), jets(3_000, 36), jets(3_000, 30)
    trained = InputHistograms.of(
        "truth", training.spec, training.features, training.reco, training.truth, training.weight
    )
    assert trained is not None
    assert trained.content.shape[1:3] == (1, 4)
    assert sum(values.nbytes for values in trained.arrays().values()) < 20_000
    by_sample = [
        notable(trained.differences(p.spec, trained.filled(p.spec, p.features, p.reco, p.truth, p.weight)))
        for p in (same, fewer)
    ]
    assert by_sample[0] == []
    assert by_sample[1][0].quantity == "number of constituents"


def test_sums_do_not_depend_on_the_parts(training: hepcal.JetPairs) -> None:
    trained = InputHistograms.of("truth", SPEC, training.features, training.reco, training.truth, training.weight)
    assert trained is not None

    def seen(rows: np.ndarray) -> InputHistograms:
        part = training.take(rows)
        return trained.filled(SPEC, part.features, part.reco, part.truth, part.weight)

    parts = [seen(rows) for rows in np.array_split(np.random.default_rng(0).permutation(len(training)), 7)]
    total = sum(parts[1:], parts[0])
    np.testing.assert_array_equal(total.content, trained.content)
    np.testing.assert_array_equal(total.squares, trained.squares)
    assert total.smallest == trained.smallest
    back = InputHistograms.from_arrays("truth", trained.arrays())
    np.testing.assert_array_equal(back.content, trained.content)
    np.testing.assert_array_equal(back.edges, trained.edges)


# -- calibrators, run and diagnose ------------------------------------------------------------------------------------


def scaled(fraction: float) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        content["Jet"]["PT"] = fraction * content["Jet"]["PT"]

    return edit


@pytest.fixture(scope="module")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fileset]:
    """Toy jets of the same detector, and of one with a response 10 % lower."""
    here = tmp_path_factory.mktemp("toys")
    paths = {
        "train": [delphes_file(here / f"train{i}.root", 3_000, seed=i) for i in range(2)],
        "same": [delphes_file(here / "same.root", 1_500, seed=5)],
        "other": [delphes_file(here / "other.root", 1_500, seed=6, edit=scaled(0.9))],
    }
    return {
        name: hepcal.load_fileset({name: {"files": [str(path) for path in given]}}) for name, given in paths.items()
    }


@pytest.fixture(scope="module")
def trained(toy_files: dict[str, Fileset]) -> Calibrator:
    pairs = hepcal.JetPairs.from_fileset(toy_files["train"], show=False)
    return hepcal.train(pairs, hepcal.Heteroscedastic(**NETWORKS), seed=1, show=False)


@pytest.mark.parametrize(("name", "chunksize"), [("same", 400), ("other", 10_000), ("other", 400)])
def test_a_run_warns_of_another_detector(
    name: str,
    chunksize: int,
    toy_files: dict[str, Fileset],
    trained: Calibrator,
    tmp_path: Path,
) -> None:
    with (
        open_executor("iterative") as executor,
        warnings.catch_warnings(record=True, action="always", category=HepcalWarning) as found,
    ):
        run_dijets(toy_files[name], trained, executor, tmp_path, chunksize=chunksize, plots=False, show=False)
    differences = json.loads((tmp_path / "summary.json").read_text())["inputs"][name]
    inclusive = {d["quantity"]: d for d in differences if d["region"] == ALL}
    if name == "same":
        assert not found
        return
    assert [warning.category for warning in found] == [InputsDifferWarning]
    said = str(found[0].message)
    assert "the data set 'other' differs from the training of this calibrator" in said
    assert "response lower by" in said
    response = inclusive[RESPONSE]
    assert response["median"] / response["expected"] == pytest.approx(0.9, abs=0.01)
    assert f"{100 * (response['median'] / response['expected'] - 1):+.1f} %" in said
    # The number is that of all events, whatever the chunks.
    assert response["distance"] == pytest.approx(0.4, abs=0.1)


def test_a_diagnosis_warns_of_another_detector(toy_files: dict[str, Fileset], trained: Calibrator) -> None:
    same, other = (hepcal.JetPairs.from_fileset(toy_files[name], show=False) for name in ("same", "other"))
    quiet = diagnostics.diagnose({"toy": trained}, same, show=False)
    assert quiet["toy"].differences
    with pytest.warns(InputsDifferWarning, match="this sample differs from the training of toy"):
        loud = diagnostics.diagnose({"toy": trained}, other, show=False)
    content = json.loads(json.dumps(loud["toy"].as_dict(), allow_nan=False))["inputs"]
    assert next(d["quantity"] for d in content if d["region"] == ALL) == RESPONSE


def test_show_repeats_the_warning_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = {
        "samples": {},
        "events": {"read": 1, "selected": 1, "simulated": 1, "skipped_files": [], "without_truth": [],
                   "outside_density": 0},
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert CliRunner().invoke(app, ["show", str(tmp_path)]).exit_code == 0
    one = Difference(RESPONSE, ALL, 0.3, 40.0, -0.5, 0.92, 0.97, "truth")
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "inputs": {"full": [dataclasses.asdict(one)]}}))
    found = CliRunner().invoke(app, ["show", str(tmp_path)])
    assert found.exit_code == 0
    assert found.stderr.startswith("WARNING: at fixed true p_T, the data set 'full' differs from the training")
    assert found.stderr.count("WARNING") == 1
    assert "response lower by 0.50 widths (-5.2 %" in found.stderr


def without_histograms(calibrator: Calibrator) -> Calibrator:
    """As the versions before wrote it."""
    kept = {name: tensor for name, tensor in calibrator.tensors.items() if not name.startswith("histogram")}
    return type(calibrator)(calibrator.card, kept)


def test_calibrators_without_distributions_say_nothing(
    toy_files: dict[str, Fileset], trained: Calibrator, tmp_path: Path
) -> None:
    old = without_histograms(trained)
    with open_executor("iterative") as executor:
        summary = run_dijets(toy_files["other"], old, executor, tmp_path, plots=False, show=False)
    assert summary["inputs"] == {"other": None}
    found = diagnostics.diagnose({"old": old}, hepcal.JetPairs.from_fileset(toy_files["other"], show=False), show=False)
    assert found["old"].differences is None
    assert dict(results.describe_card(old))["inputs kept"].startswith("none")
    assert "bins of true p_T" in dict(results.describe_card(trained))["inputs kept"]


def test_distributions_are_small_and_change_no_prediction(trained: Calibrator) -> None:
    old = without_histograms(trained)
    assert len(trained.content) - len(old.content) < 100_000
    features, reco = np.zeros((5, trained.card.features.width)), np.full(5, 300.0)
    np.testing.assert_array_equal(trained.predict(features, reco).mean, old.predict(features, reco).mean)


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "edges"])
def test_damaged_distributions_are_refused(damage: str, trained: Calibrator) -> None:
    tensors = {name: tensor.clone() for name, tensor in trained.tensors.items()}
    if damage == "missing":
        del tensors["histogram_truth_edges"]
    elif damage == "shape":
        tensors["histogram_truth_content"] = tensors["histogram_truth_content"][:, :, 1:].contiguous()
    elif damage == "nan":
        tensors["histogram_reco_squares"][0, 0] = float("nan")
    else:
        tensors["histogram_reco_pt_edges"][1] = 1e9
    content = pack(CARD_KEY, trained.card.model_dump_json(), tensors)
    with pytest.raises(CalibratorFileError, match=r"histogram|do not rise"):
        Calibrator.from_content(content)


def test_a_few_heavy_or_signed_jets_of_the_same_detector_are_no_other_one() -> None:
    """Steep or signed weights leave a few effective jets, of which many may lie where others are rare."""
    rng, found = np.random.default_rng(1), []
    spec = hepcal.Features(inputs=("x",), pt="pt")

    def jets(n: int, power: float, negative: float) -> tuple[np.ndarray, ...]:
        truth = 100 * (1 - rng.uniform(0, 0.98, n)) ** -0.5
        weight = np.where(rng.uniform(size=n) < negative, -1.0, 1.0) * (truth / 100) ** power
        return rng.normal(size=(n, 1)), truth * rng.normal(0.9, 0.09, n), truth, weight

    trained = InputHistograms.of("truth", spec, *jets(20_000, 0, 0))
    for number in range(1_500):
        other = jets((30, 100, 400)[number % 3], (0, -5, -8)[number // 3 % 3], (0, 0.2)[number % 2])
        found += notable(trained.differences(spec, trained.filled(spec, *other)))
    assert not found
