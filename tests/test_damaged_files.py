"""Files that were damaged or altered are refused with an error of ours, or mean what they meant.

``HEPCAL_DAMAGED_FILES=5000`` tries as many per kind of file.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest

import hepcal
from hepcal import tagging
from hepcal.closure import hists as booking
from hepcal.closure import metrics, results
from hepcal.config import TrainingConfig
from hepcal.errors import CollapsedWarning, HepcalError
from hepcal.evaluation import cross_fit as crossfit

TRIES = int(os.environ.get("HEPCAL_DAMAGED_FILES", "20"))
RNG = np.random.default_rng(3)
N = 300
TRUTH = RNG.uniform(50, 500, N)
RECO = TRUTH * RNG.normal(0.95, 0.1, N)
TABLE = hepcal.JetPairs.from_arrays(RNG.normal(0, 1, (N, 1)), ["eta"], reco=RECO, truth=TRUTH)
QUICK: dict[str, Any] = {"hidden": (4,), "max_updates": 20, "patience": 20}
METHODS: dict[str, Any] = {
    "bnn": hepcal.BNN(**QUICK, draws=3),
    "mse": hepcal.MSE(**QUICK),
    "ensemble": hepcal.Ensemble(**QUICK, n=2),
    "dropout": hepcal.Dropout(**QUICK),
    "hessian": hepcal.Hessian(**QUICK, draws=3, directions=2),
    "heteroscedastic": hepcal.Heteroscedastic(**QUICK),
    "inversion": hepcal.NumericalInversion(n=2),
    "likelihood": hepcal.Likelihood(**QUICK),
    "generalised_inversion": hepcal.GeneralisedInversion(**QUICK),
    "optimal_transport": hepcal.OptimalTransport(),
}


@pytest.fixture(scope="module")
def calibrators() -> dict[str, Any]:
    more = {"optimal_transport": {"data": RECO * 1.05}}
    return {name: hepcal.train(TABLE, method, show=False, **more.get(name, {})) for name, method in METHODS.items()}


def trial(kind: str, number: int) -> random.Random:
    return random.Random(f"{kind} {number}")  # noqa: S311 - not a secret


@contextlib.contextmanager
def tried(counts: dict[str, int]) -> Any:
    """Counts what is accepted, and what is refused with an error of ours."""
    try:
        yield
        counts["accepted"] += 1
    except HepcalError:
        counts["refused"] += 1


def told(kind: str, counts: dict[str, int]) -> None:
    print(f"{kind}: {counts}")


def use(calibrator: Any) -> bytes:
    with np.errstate(all="ignore"):
        prediction = calibrator.predict(TABLE.features[:5, : calibrator.card.features.width], TABLE.reco[:5])
    results.rows_table("Calibrator", results.describe_card(calibrator))
    return prediction.mean.tobytes()


@pytest.mark.parametrize("name", METHODS)
def test_damaged_calibrators(calibrators, tmp_path, name):
    calibrator, path = calibrators[name], tmp_path / "x.safetensors"
    expected, counts = use(calibrator), {"accepted": 0, "refused": 0}
    for number in range(TRIES):
        path.write_bytes(damage.in_bytes(calibrator.content, trial(name, number)))
        with tried(counts):
            found = hepcal.Calibrator.load(path)
            assert found.card == calibrator.card
            assert use(found) == expected
    told(name, counts)
    assert counts["refused"] > 0.9 * TRIES


@pytest.mark.parametrize("name", METHODS)
def test_altered_calibrators_without_a_hash(calibrators, tmp_path, name):
    path, counts = tmp_path / "x.safetensors", {"accepted": 0, "refused": 0}
    for number in range(TRIES):
        path.write_bytes(damage.in_card(calibrators[name].content, "hepcal_card", trial(name, number)))
        with tried(counts):
            use(hepcal.Calibrator.load(path))
    told(f"{name} without a hash", counts)
    assert counts["refused"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, Path]:
    """A table, and one as it was before there were hashes."""
    folder = tmp_path_factory.mktemp("tables")
    TABLE.save(folder / "sealed")
    TABLE.save(folder / "plain")
    card = json.loads((folder / "plain" / "table.json").read_text())
    del card["sha256"], card["files"]
    card["source"] |= {"schema": "delphes", "jets": "Jet", "truth": "GenJet", "max_dr": 0.2, "files": ["ab"],
                       "reco_threshold": 10.0, "unmatched": 3, "truth_jets": 303, "truncated_jets": 0}  # fmt: skip
    (folder / "plain" / "table.json").write_text(json.dumps(card))
    return {"sealed": folder / "sealed", "plain": folder / "plain"}


@pytest.mark.parametrize("kind", ["sealed", "plain"])
def test_damaged_tables(tables, tmp_path, kind):
    counts, names = {"accepted": 0, "refused": 0}, [path.name for path in tables[kind].iterdir()]
    for number in range(TRIES):
        rng = trial(kind, number)
        shutil.copytree(tables[kind], tmp_path / "t", dirs_exist_ok=True)
        name = rng.choice([*names, "table.json"])
        path = tmp_path / "t" / name
        if name == "table.json" and rng.random() < 0.5:
            path.write_text(json.dumps(damage.in_json(json.loads(path.read_text()), rng)))
        elif name != "table.json" and rng.random() < 0.5:
            content = path.read_bytes()
            path.write_bytes(damage.in_bytes(content[:128], rng) + content[128:])
        else:
            path.write_bytes(damage.in_bytes(path.read_bytes(), rng))
        with tried(counts), np.errstate(all="ignore"):
            table = hepcal.JetPairs.open(tmp_path / "t")
            results.rows_table("Table", results.describe_pairs(table))
            table.check()
            if kind == "sealed":
                assert (table.sha256, table.source) == (TABLE.sha256, TABLE.source)
    told(f"table, {kind}", counts)
    assert counts["refused"] > 0.3 * TRIES


@pytest.fixture(scope="module")
def tagger() -> tuple[tagging.Tagger, np.ndarray]:
    """A tagger of jets with three constituents, and some jets."""
    rng = np.random.default_rng(1)
    columns = np.zeros((2, 60, 12), dtype=np.float32)
    columns[:, :, 1::4] = np.sort(rng.uniform(1, 50, (2, 60, 3)))[:, :, ::-1]
    columns[:, :, 3::4] = rng.normal(0, 1, (2, 60, 3))
    columns[:, :, 0::4] = np.hypot(columns[:, :, 1::4], columns[:, :, 3::4]) + 0.1
    settings: dict[str, Any] = {"max_updates": 10, "draws": 2, "hidden": (4,), "leading": 3}
    with pytest.warns(CollapsedWarning):  # both classes are alike
        return tagging.train(columns[0], columns[1], tagging.LoLa(**settings), show=False), columns[0]


@pytest.mark.parametrize("sealed", [True, False])
def test_damaged_taggers(tagger, tmp_path, sealed):
    (trained, jets), path = tagger, tmp_path / "x.safetensors"
    expected, counts = trained.predict(jets).score.tobytes(), {"accepted": 0, "refused": 0}
    for number in range(TRIES):
        rng = trial("tagger", number)
        damaged = (
            damage.in_bytes(trained.content, rng) if sealed else damage.in_card(trained.content, "hepcal_card", rng)
        )
        path.write_bytes(damaged)
        with tried(counts), np.errstate(all="ignore"):
            found = tagging.Tagger.load(path)
            score = found.predict(jets).score.tobytes()
            assert not sealed or (score == expected and found.card == trained.card)
    told(f"tagger, {'sealed' if sealed else 'without a hash'}", counts)
    assert counts["refused"] > 0.3 * TRIES


def test_damaged_stores_of_cross_fits(tmp_path):
    def fit() -> bytes:
        found = crossfit.cross_fit(TABLE, METHODS["mse"], folds=2, store=tmp_path, show=False)
        return found["pt_calib"].tobytes()

    expected, counts = fit(), {"accepted": 0, "refused": 0}
    path = sorted(tmp_path.iterdir())[0]
    whole = path.read_bytes()
    for number in range(TRIES):
        path.write_bytes(damage.in_bytes(whole, trial("store", number)))
        with tried(counts):
            assert fit() == expected
    told("store", counts)
    assert counts["refused"] > 0.3 * TRIES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "state"
    hepcal.train(TABLE, METHODS["mse"], show=False, checkpoint=path)
    return path.read_bytes()


@pytest.mark.parametrize("sealed", [True, False])
def test_damaged_checkpoints(checkpoint, calibrators, tmp_path, sealed):
    counts, path = {"accepted": 0, "refused": 0}, tmp_path / "state"
    for number in range(TRIES):
        rng = trial("checkpoint", number)
        if sealed:
            path.write_bytes(damage.in_bytes(checkpoint, rng))
        else:
            path.write_bytes(damage.in_card(checkpoint, "hepcal_checkpoint", rng))
        with tried(counts):
            found = hepcal.train(TABLE, METHODS["mse"], show=False, checkpoint=path)
            if sealed:
                assert found.content == calibrators["mse"].content
    told(f"checkpoint, {'sealed' if sealed else 'without a hash'}", counts)
    assert counts["refused"] > 0.3 * TRIES


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    filled = booking.book(
        booking.Binning(response_bins=4, pull_bins=4, mjj_spectrum=(4, 0, 7000), pt_spectrum=(4, 0, 3000))
    )
    events = {"read": 5, "simulated": 5, "selected": 4, "skipped_files": [{"file": "a", "reason": "b"}],
              "without_truth": [], "outside_density": 0}  # fmt: skip
    calibrator = {"method": "bnn", "quantity": "mean", "follows_prior": True, "needs_data": False, "sha256": "ab"}
    results.write(folder, filled, results.summarise(filled, events, calibrator, {"trained_on": []}))
    return folder


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", ["summary.json", "hists.json"])
def test_damaged_results(result, tmp_path, name, sealed):
    counts, path = {"accepted": 0, "refused": 0}, tmp_path / name
    shutil.copytree(result, tmp_path, dirs_exist_ok=True)
    summary = json.loads((result / "summary.json").read_text())
    if not sealed:
        summary = {key: value for key, value in summary.items() if "sha256" not in key}
        (tmp_path / "summary.json").write_text(json.dumps(summary))
    expected, whole = results.load_summary(result), (tmp_path / name).read_bytes()
    for number in range(TRIES):
        rng = trial(name, number)
        if sealed or rng.random() < 0.2:
            path.write_bytes(damage.in_bytes(whole, rng))
        else:
            path.write_text(json.dumps(damage.in_json(json.loads(whole), rng)))
        with tried(counts), results.whole(tmp_path), np.errstate(all="ignore"):
            found = results.load_summary(tmp_path)
            results.closure_tables(found)
            results.notes(found)
            if sealed:
                assert found == expected
            hists = results.load_hists(tmp_path)
            metrics.samples(hists)
    told(f"{name}, {'sealed' if sealed else 'without a hash'}", counts)
    assert counts["refused"] > 0.1 * TRIES


def test_damaged_filesets(tmp_path):
    (tmp_path / "a.root").write_bytes(b"root")
    content = {
        "QCD": {"files": {"a.root": "Events"}, "metadata": {"cross_section": 12.5, "schema": "nanoaod", "year": 2018}},
        "DY": {"files": ["*.txt", "root://far/b.root"], "treename": "Events"},
    }
    (tmp_path / "b.txt").write_bytes(b"root")
    path, counts = tmp_path / "f.json", {"accepted": 0, "refused": 0}
    for number in range(5 * TRIES):
        rng = trial("fileset", number)
        if rng.random() < 0.5:
            path.write_text(json.dumps(damage.in_json(content, rng)))
        else:
            path.write_bytes(damage.in_bytes(json.dumps(content).encode(), rng))
        with tried(counts):
            for dataset in hepcal.load_fileset(path).datasets:
                cross_section = dataset.metadata.get("cross_section")
                assert cross_section is None or 0 < float(cross_section) < float("inf")
    told("fileset", counts)
    assert counts["refused"] > TRIES


def test_damaged_configurations(tmp_path):
    text = b"method: bnn\nsettings:\n  hidden: [20, 20]\n  prior_width: 0.1\n  draws: 5\n"
    text += b"features:\n  inputs: [eta, mass]\n  pt: raw\n"
    path, counts = tmp_path / "c.yaml", {"accepted": 0, "refused": 0}
    for number in range(5 * TRIES):
        path.write_bytes(damage.in_bytes(text, trial("config", number)))
        with tried(counts):
            TrainingConfig.read(path).build()
    told("configuration", counts)
    assert counts["refused"] > TRIES
