"""JSON and YAML of others: within bounds, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hepcal
from hepcal.config import TrainingConfig
from hepcal.errors import FilesetError, TrainingError
from hepcal.storage.documents import parse_json, parse_yaml, sealed, unsealed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=30)
@given(content=VALUES)
def test_json_is_read_as_the_library_reads_it(content: object) -> None:
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False), json.dumps(content, indent=1)):
        assert parse_json(text) == content


@settings(max_examples=30)
@given(content=st.dictionaries(st.text(), VALUES, max_size=3).filter(lambda found: "sha256" not in found))
def test_a_seal_holds_for_the_same_content_only(content: dict[str, object]) -> None:
    found = json.loads(json.dumps(sealed(content)))
    assert unsealed(found, "mark") == content
    with pytest.raises(ValueError, match="does not match its hash"):
        unsealed(found | {"mark": 1}, "mark")
    with pytest.raises(ValueError, match="but no hash"):
        unsealed(content | {"mark": 1}, "mark")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200 + "]" * 200, "nested more than 100"),
        ("[" * 10**6, "nested more than 100"),
        ('{"a":' * 10**5, "nested more than 100"),
        ("9" * 301, "integer of 301 digits"),
        ("9" * 10_000, "integer of 10000 digits"),
        ("NaN", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("1e999", "beyond 64 bits"),
        ('{"a": 1, "b": 2, "a": 3}', "keep one of each: 'a'"),
        (b"\xff\xfe{}", "utf-8"),
        ("{'a': 1}", "Expecting"),
        ("", "Expecting"),
    ],
)
def test_json_beyond_the_bounds_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_text_without_an_end_is_looked_at_once() -> None:
    """Of a million quotes: a search of the rest at each of them would not end."""
    with pytest.raises(ValueError, match="Unterminated string"):
        parse_json('"' + '\\"' * 1_000_000)


def test_brackets_in_text_are_no_nesting() -> None:
    assert parse_json(json.dumps("[" * 1000 + '"' + "{" * 1000)) == "[" * 1000 + '"' + "{" * 1000


BOMB = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n".encode() for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, r"an alias \(\*name\)"),
        (b"method: \xff\xfe", "codec can't decode"),
        (b"settings: " + b"[" * 50_000, "nested more than 100"),
        (b"settings: {n: " + b"9" * 5_000 + b"}", "an integer of 5000 digits"),
        (b"settings: {l2: .inf}", "not a finite number"),
        (b"settings: {l2: .nan}", "not a finite number"),
        (b"method: bnn\nmethod: mse\n", "listed twice in one object, keep one of each: method"),
        (b"- 1\n- 2\n", "a list, not keys and values"),
        (b"just text", "a str, not keys and values"),
        (b"method: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (b"settings: {n: 2021-99-99}", "month must be in"),
        (b"? [a]\n: 1\n", "unhashable"),
        (b"settings: {n: !!int ''}", "does not fit its tag"),
        (b"settings: {n: !!bool 3}", "does not fit its tag"),
        (b"method: " + b"x" * 2**21, "bytes"),
        (b"1: 2\n", "should be a valid string|Extra inputs|keys must be strings|Keys should be strings"),
    ],
)
def test_a_configuration_that_is_none_is_an_error_of_ours(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(TrainingError, match=message) as caught:
        TrainingConfig.read(tmp_path / "c.yaml")
    assert "c.yaml is not a training configuration" in str(caught.value)


def test_yaml_is_read_as_before() -> None:
    text = b"a: 1\nb: [1.5, x, true, null, 0x1f, 1_000]\nc: {d: 'e', f: \"g\"}\n"
    assert parse_yaml(text) == {"a": 1, "b": [1.5, "x", True, None, 31, 1000], "c": {"d": "e", "f": "g"}}
    assert parse_yaml(b"") is None


@pytest.mark.parametrize(
    "value", [True, False, "12", float("nan"), float("inf"), -1, 0, 10**400, 10**290 * 10**20, [], {}]
)
def test_odd_cross_sections_are_refused(tmp_path: Path, value: object) -> None:
    (tmp_path / "a.root").write_bytes(b"")
    content = {"QCD": {"files": ["a.root"], "metadata": {"cross_section": value}}}
    (tmp_path / "f.json").write_text(json.dumps(content))
    with pytest.raises(FilesetError, match=r"cross_section must be a positive number|f\.json is not valid JSON"):
        hepcal.load_fileset(tmp_path / "f.json")
    with pytest.raises(FilesetError, match="cross_section must be a positive number"):
        hepcal.load_fileset(content)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": ' * 10**5, "9" * 10**4, "[1]", '{"QCD": {"files": ["\\u0000"]}}'])
def test_a_fileset_that_is_none_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(FilesetError, match=r"f\.json"):
        hepcal.load_fileset(tmp_path / "f.json")


def test_a_fileset_is_a_file_with_an_end() -> None:
    """A device would fill the memory."""
    with pytest.raises(FilesetError, match="/dev/full: it is not a regular file"):
        hepcal.load_fileset("/dev/full")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(FilesetError):
        hepcal.load_fileset({"QCD": {"files": ["é" * 300]}})
