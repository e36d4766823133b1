"""What calibrators and taggers share: a card and tensors in one file, and what is required of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import save

import hepcal
from hepcal.errors import CalibratorFileError, OutputError
from hepcal.storage import outputs
from hepcal.storage.artefact import CARD_KEY, Artefact, digest


class Card(BaseModel):
    """A card with one entry."""

    name: str


class Toy(Artefact[Card]):
    """The least that can be saved."""

    noun = "toy"


TOY = Toy(Card(name="a"), {"x": torch.tensor([1.0, -2.0]), "n": torch.tensor([1, 2])})


def test_equal_content_gives_equal_bytes_and_comes_back(tmp_path: Path) -> None:
    TOY.save(tmp_path / "toy.safetensors")
    content = Toy.read(tmp_path / "toy.safetensors")
    text, entries, tensors = Toy.parsed(content, "here")
    again = Toy(Card.model_validate_json(text), dict(reversed(tensors.items())))
    assert (entries, again.card) == ({"name": "a"}, TOY.card)
    assert again.content == TOY.content == content
    assert again.sha256 == digest(content)


@pytest.mark.parametrize(
    ("name", "shape", "positive", "message"),
    [
        ("y", (2,), False, "missing tensor 'y'"),
        ("x", (3,), False, r"tensor 'x' is torch.float32 of \(2,\); the card asks for float32 of \(3,\)"),
        ("n", (2,), False, r"tensor 'n' is torch.int64 of \(2,\); the card asks for float32"),
        ("x", (2,), True, "tensor 'x' holds values that are not positive"),
    ],
)
def test_what_the_card_asks_for_is_required(name: str, shape: tuple[int, ...], positive: bool, message: str) -> None:
    assert TOY.require("x", (2,)) is TOY.tensors["x"]
    with pytest.raises(CalibratorFileError, match=message):
        TOY.require(name, shape, positive=positive)


def test_messages_name_the_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(CalibratorFileError, match=r"cannot read the toy .*absent"):
        Toy.read(tmp_path / "absent")
    with pytest.raises(CalibratorFileError, match="here is damaged or not a toy file"):
        Toy.parsed(TOY.content[:-1], "here")
    with pytest.raises(CalibratorFileError, match=f"not one of hepcal: it has no '{CARD_KEY}'"):
        Toy.parsed(save(dict(TOY.tensors)), "here")
    with pytest.raises(CalibratorFileError, match="here: its card is not valid"), Toy.fitting("here"):
        Card.model_validate_json("{}")
    with pytest.raises(CalibratorFileError, match=r"do not fit each other \(ZeroDivisionError"), Toy.fitting("here"):
        _ = 1 / 0


def test_a_calibrator_from_its_bytes_keeps_them(small_calibrator: Any) -> None:
    again = hepcal.Calibrator.from_content(small_calibrator.content)
    assert type(again) is type(small_calibrator)
    assert again is not small_calibrator
    assert again.content is small_calibrator.content


def test_files_that_belong_together_are_replaced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    def written(text: str) -> None:
        with outputs.filling(tmp_path / "run") as part:
            for name in ("a", "b"):
                (part / name).write_text(text)

    written("old")
    monkeypatch.setattr(outputs.os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write into .*run: No space left"):
        written("new")
    assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir()} == {"a": "old", "b": "old"}
