"""Files carry hashes of their content: what was changed after it was written is refused, and older files still load."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import hepcal
from hepcal.closure import hists as booking
from hepcal.closure import results
from hepcal.errors import CalibratorFileError, HepcalError, PairsError, TrainingError
from hepcal.methods.card import Card
from hepcal.networks.checkpoints import Checkpoint
from hepcal.storage.artefact import CARD_KEY
from hepcal.storage.tensors import pack
from hepcal.tables import rows

# Written by commit 882d3cb, before there were hashes: Bayesian network of ln p_T and eta, three draws.
OLD = Path(__file__).parent / "data" / "calibrator_882d3cb.safetensors"
JETS = np.array([[0.5], [-1.0], [0.0]], dtype=np.float32), np.array([80, 200, 400], dtype=np.float32)

RNG = np.random.default_rng(3)
TRUTH = RNG.uniform(50, 500, 300)
TABLE = hepcal.JetPairs.from_arrays(RNG.normal(0, 1, (300, 1)), ["eta"], reco=TRUTH * 0.95, truth=TRUTH)
QUICK = hepcal.MSE(hidden=(4,), max_updates=40, patience=40)


@pytest.fixture(scope="module")
def calibrator() -> Any:
    return hepcal.train(TABLE, QUICK, show=False)


def content_start(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


# -- calibrators ------------------------------------------------------------------------------------------------------


def test_every_changed_bit_of_the_tensors_is_noticed(calibrator: Any, tmp_path: Path) -> None:
    start, whole = content_start(calibrator.content), calibrator.content
    for place in range(start * 8, len(whole) * 8, 61):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "x").write_bytes(changed)
        with pytest.raises(CalibratorFileError, match="does not match its hash"):
            hepcal.Calibrator.load(tmp_path / "x")


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'\\"pt\\":\\"pt\\"', b'\\"pt\\":\\"raw\\"'), (b'\\"seed\\":0', b'\\"seed\\":1'), (b'\\"eta\\"', b'\\"phi\\"')],
)
def test_a_changed_card_is_noticed(calibrator: Any, tmp_path: Path, old: bytes, new: bytes) -> None:
    start = content_start(calibrator.content)
    header = calibrator.content[8:start]
    assert old in header
    header = header.replace(old, new)
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + calibrator.content[start:])
    with pytest.raises(CalibratorFileError, match="does not match its hash"):
        hepcal.Calibrator.load(tmp_path / "x")


def test_a_hash_that_lost_its_name_is_noticed(calibrator: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(calibrator.content.replace(b"hepcal_sha256", b"hepcal_sha257"))
    with pytest.raises(CalibratorFileError, match="unknown entry 'hepcal_sha257'"):
        hepcal.Calibrator.load(tmp_path / "x")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("not JSON", "its card is not JSON"),
        ("[1, 2]", "its card is no JSON object but a list"),
        ('"text"', "no JSON object but a str"),
        ("[" * 100_000, "nested more than 100 levels"),
        ('{"version": ' + "9" * 5000 + "}", "an integer of 5000 digits"),
        ('{"version": 2, "version": 2}', "listed twice in one object, keep one of each: 'version'"),
        ('{"version": NaN}', "NaN"),
        ('{"version": 3}', "of version 3"),
    ],
)
def test_a_card_that_is_none_is_an_error_of_ours(tmp_path: Path, card: str, message: str) -> None:
    (tmp_path / "x").write_bytes(save({"a": torch.zeros(2)}, metadata={"hepcal_card": card}))
    with pytest.raises(CalibratorFileError, match=message):
        hepcal.Calibrator.load(tmp_path / "x")
    with pytest.raises(CalibratorFileError, match="x holds no tagger" if message == "of version 3" else message):
        hepcal.tagging.Tagger.load(tmp_path / "x")


def test_equal_calibrators_have_equal_bytes(calibrator: Any) -> None:
    text = calibrator.card.model_dump_json()
    assert len({pack(CARD_KEY, text, calibrator.tensors) for _ in range(30)}) == 1


def test_a_calibrator_from_before_the_hashes_gives_the_same_numbers(tmp_path: Path) -> None:
    old = hepcal.Calibrator.load(OLD)
    found = old.predict(*JETS)
    # What commit 882d3cb gave, to the last bit but one of float32 on other processors.
    assert found.mean == pytest.approx([86.69666290283203, 213.84477233886719, 425.22976684570312], rel=3e-7)
    assert found.sigma_pred == pytest.approx(
        [float.fromhex(bits) for bits in ("0x1.454afep-2", "0x1.762422p-2", "0x1.cc1bb6p-2")], rel=1e-4
    )
    assert old.sha256 == "9366ab85f4c68017cf2446bdf3858e3617768968aaf4d3cc8cbe0d1c27c04b14"
    for again in (old.to("cpu"), old.with_inference("draws")):
        again.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == OLD.read_bytes()


@pytest.mark.parametrize("scale", [9e37, 3e38])
def test_a_prediction_that_is_not_finite_is_an_error(tmp_path: Path, scale: float) -> None:
    content = OLD.read_bytes()
    tensors = load(content)
    tensors["draws"] = tensors["draws"].clone()
    tensors["draws"][0, -1] = scale
    tensors["draws"][0, -2] = scale
    card = json.loads(content[8 : content_start(content)])["__metadata__"]["hepcal_card"]
    (tmp_path / "x").write_bytes(pack(CARD_KEY, card, tensors))
    with (
        np.errstate(all="ignore"),
        pytest.raises(HepcalError, match="not a finite number"),
    ):
        hepcal.Calibrator.load(tmp_path / "x").predict(*JETS)


# -- tables -----------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["features", "reco", "truth", "weight", "event"])
def test_a_changed_bit_of_a_column_is_noticed(tmp_path: Path, name: str) -> None:
    TABLE.save(tmp_path / "t")
    flip(tmp_path / "t" / f"{name}.npy", -3)
    with pytest.raises(PairsError, match=rf"{name}\.npy does not match its hash"):
        hepcal.JetPairs.open(tmp_path / "t")


def test_features_of_a_large_table_are_compared_when_rows_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TABLE.save(tmp_path / "t")
    monkeypatch.setattr(rows, "LAZY_BYTES", 100)
    assert hepcal.JetPairs.open(tmp_path / "t").sha256 == TABLE.sha256
    flip(tmp_path / "t" / "features.npy", -3)
    table = hepcal.JetPairs.open(tmp_path / "t")
    for use in (
        lambda: table.take(np.arange(5)),
        lambda: table.split(0.5, 1),
        table.check,
        lambda: table.save(tmp_path / "copy"),
        lambda: hepcal.train(table, QUICK, show=False),
        lambda: hepcal.train(table, hepcal.NumericalInversion(n=3), show=False),
    ):
        with pytest.raises(PairsError, match=r"features\.npy does not match its hash"):
            use()
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["spec"].update(pt="raw"), "does not match its hash"),
        (lambda card: card["source"].update(schema="delphes"), "does not match its hash"),
        (lambda card: card.pop("sha256"), "has 'files', but no hash"),
        (lambda card: card.update(rows=299), "does not match its hash"),
    ],
)
def test_a_changed_card_of_a_table_is_noticed(tmp_path: Path, change: Any, message: str) -> None:
    TABLE.save(tmp_path / "t")
    card = json.loads((tmp_path / "t" / "table.json").read_text())
    change(card)
    (tmp_path / "t" / "table.json").write_text(json.dumps(card))
    with pytest.raises(PairsError, match=message):
        hepcal.JetPairs.open(tmp_path / "t")


def older(directory: Path) -> dict[str, Any]:
    """A table as it was written before there were hashes."""
    TABLE.save(directory)
    card = json.loads((directory / "table.json").read_text())
    card = {name: value for name, value in card.items() if name not in ("sha256", "files")}
    (directory / "table.json").write_text(json.dumps(card, indent=1))
    return dict(card)


def test_a_table_from_before_the_hashes_opens(tmp_path: Path) -> None:
    older(tmp_path / "t")
    assert hepcal.JetPairs.open(tmp_path / "t").sha256 == TABLE.sha256


HEADER = b"\x93NUMPY\x01\x00"


def header(text: str) -> bytes:
    padded = text.encode().ljust(117) + b"\n"
    return HEADER + len(padded).to_bytes(2, "little") + padded


@pytest.mark.parametrize(
    "content",
    [
        b"",
        HEADER,
        header("{'descr': '|V0', 'fortran_order': False, 'shape': (300,), }"),
        header("{'descr': '|S0', 'fortran_order': False, 'shape': (300,), }"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (300,), }") + bytes(2400),
        header("{'descr': '<f4', 'fortran_order': True, 'shape': (300,), }") + bytes(1200),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-300,), }") + bytes(1200),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (), }") + bytes(4),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (300, 0), }"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999999,), }") + bytes(1200),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (300,), }") + bytes(1204),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (300,), }") + bytes(1196),
        header("{'descr': '<i4', 'fortran_order': False, 'shape': (300,), }") + bytes(1200),
        header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (300,), }") + bytes(1200),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 90),
    ],
)
def test_headers_of_columns_promise_what_is_there(tmp_path: Path, content: bytes) -> None:
    older(tmp_path / "t")
    (tmp_path / "t" / "reco.npy").write_bytes(content)
    with pytest.raises(PairsError, match="is not a training table"):
        hepcal.JetPairs.open(tmp_path / "t")


@pytest.mark.parametrize(
    ("name", "value"),
    [("spec", None), ("spec", {"inputs": None}), ("spec", {"inputs": ["x", "x"]}), ("spec", []), ("source", 3),
     ("source", {"files": 7}), ("source", {"reco_threshold": "x"}), ("source", {"max_dr": 0.2}),
     ("rows", -1), ("rows", "x"), ("columns", 5), ("version", 2), ("files", 3), ("rows", True)],
)  # fmt: skip
def test_a_card_of_a_table_with_an_odd_entry_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    card = older(tmp_path / "t") | {name: value}
    (tmp_path / "t" / "table.json").write_text(json.dumps(card))
    with pytest.raises(PairsError, match="is not a training table"):
        hepcal.JetPairs.open(tmp_path / "t")


# -- checkpoints and results ------------------------------------------------------------------------------------------


def test_a_checkpoint_of_a_training_on_negative_weights_is_not_continued(tmp_path: Path) -> None:
    """Versions before these trained on them as they are, and their checkpoints agree in all the rest."""
    weight = np.where(np.arange(len(TABLE)) % 50 == 0, -1.0, 1.0)
    table, method = dataclasses.replace(TABLE, weight=weight), hepcal.MSE(hidden=(4,), max_updates=5, patience=5)
    identity = {
        "table": table.sha256, "method": "mse", "settings": method.model_dump(mode="json"), "seed": 1, "device": "cpu",
        "versions": Card.software(),
    }  # fmt: skip
    Checkpoint(tmp_path / "state", identity).save({}, {"update": 3})
    with pytest.raises(TrainingError, match="belongs to another training: weights differ"):
        hepcal.train(table, method, seed=1, checkpoint=tmp_path / "state", show=False)


def test_a_changed_checkpoint_is_refused(calibrator: Any, tmp_path: Path) -> None:
    place = tmp_path / "state"
    hepcal.train(TABLE, QUICK, show=False, checkpoint=place)
    whole = place.read_bytes()
    for position in range(content_start(whole), len(whole), 299):
        changed = bytearray(whole)
        changed[position] ^= 16
        place.write_bytes(changed)
        with pytest.raises(TrainingError, match="is not a checkpoint of a training: its content"):
            hepcal.train(TABLE, QUICK, show=False, checkpoint=place)
    # As it was before there were hashes.
    text = json.loads(whole[8 : content_start(whole)])["__metadata__"]["hepcal_checkpoint"]
    place.write_bytes(save(load(whole), metadata={"hepcal_checkpoint": text}))
    assert hepcal.train(TABLE, QUICK, show=False, checkpoint=place).content == calibrator.content


def test_changed_results_are_refused(tmp_path: Path) -> None:
    summary = {"schema_version": 1, "events": {"read": 5}}
    results.write(tmp_path, booking.book(), summary)
    assert results.load_summary(tmp_path) == summary
    assert set(results.load_hists(tmp_path)) > set(booking.book())
    for name, old, new in (("summary.json", '"read": 5', '"read": 6'), ("hists.json", "[0.0,", "[1.0,")):
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text(whole.replace(old, new, 1))
        with pytest.raises(HepcalError, match=rf"cannot read {name} \(ValueError: .* does not match its hash"):
            (results.load_summary if name == "summary.json" else results.load_hists)(tmp_path)
        (tmp_path / name).write_text(whole)


def test_results_from_before_the_hashes_load(tmp_path: Path) -> None:
    summary = {"schema_version": 1, "events": {"read": 5}}
    results.write(tmp_path, booking.book(), summary)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert results.load_summary(tmp_path) == summary
    assert results.load_hists(tmp_path)["pt"] == booking.book()["pt"]
