"""A fileset with any fault is refused before anything runs, and the message says what and where."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coffea.dataset_tools import DataGroupSpec, DatasetSpec

from hepcal.errors import FilesetError, HepcalError, NormalisationWarning
from hepcal.events.filesets import RESERVED_METADATA, Fileset, load_fileset
from hepcal.events.filespecs import Expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files (content does not matter here) and a nested one."""
    (tmp_path / "deep").mkdir()
    for name in ("b.root", "a.root", "c.root", "deep/d.root"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, content: Any) -> Path:
    path = folder / "fileset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def names(fileset: Fileset) -> list[str]:
    return [Path(path).name for path in fileset.paths]


def refusal(folder: Path, content: Any) -> str:
    path = write(folder, content)
    with pytest.raises(FilesetError) as caught:
        load_fileset(path)
    message = str(caught.value)
    assert str(path) in message, "the message must name the fileset"
    return message


# -- what is accepted -------------------------------------------------------------------------------------------------


def test_files_may_be_a_mapping_to_trees_or_a_list(folder: Path) -> None:
    fileset = load_fileset(
        write(
            folder,
            {
                "mapping": {"files": {"a.root": "Events", "b.root": None}, "metadata": {"schema": "nanoaod"}},
                "listed": {"files": ["c.root"], "treename": "Delphes"},
                "bare": ["deep/d.root"],
            },
        )
    )
    assert [dataset.name for dataset in fileset.datasets] == ["mapping", "listed", "bare"]
    assert [list(dataset.files.values()) for dataset in fileset.datasets] == [["Events", None], ["Delphes"], [None]]
    assert fileset.datasets[0].metadata == {"schema": "nanoaod"}
    assert names(fileset) == ["a.root", "b.root", "c.root", "d.root"]


def test_paths_are_relative_to_the_json_file(folder: Path, tmp_path_factory: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_fileset(write(folder, {"d": ["a.root"]})).paths == (str(folder / "a.root"),)


def test_paths_of_a_mapping_are_relative_to_the_working_directory(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    assert names(load_fileset({"d": ["a.root", "deep/*.root"]})) == ["a.root", "d.root"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.root", ["a.root", "b.root", "c.root"]),
        ("[ab].root", ["a.root", "b.root"]),
        ("**/*.root", ["a.root", "b.root", "c.root", "d.root"]),
        ("?.root", ["a.root", "b.root", "c.root"]),
    ],
)
def test_wildcards_expand_in_sorted_order(folder: Path, pattern: str, found: list[str]) -> None:
    assert names(load_fileset(write(folder, {"d": [pattern]}))) == found


def test_a_tree_named_beside_a_wildcard_holds_for_every_match(folder: Path) -> None:
    fileset = load_fileset(write(folder, {"d": {"files": {"*.root": "Events"}}}))
    assert set(fileset.datasets[0].files.values()) == {"Events"}


def test_a_file_name_with_brackets_is_a_file_not_a_pattern(folder: Path) -> None:
    (folder / "run[1].root").touch()
    assert names(load_fileset(write(folder, {"d": ["run[1].root"]}))) == ["run[1].root"]


def test_a_wildcard_works_in_a_folder_with_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "data[2026]"
    folder.mkdir()
    (folder / "a.root").touch()
    assert names(load_fileset(write(folder, {"d": ["*.root"]}))) == ["a.root"]


def test_a_url_is_taken_as_it_is(folder: Path) -> None:
    url = "root://eos.example//store/a.root"
    assert load_fileset(write(folder, {"d": [url]})).paths == (url,)


def test_metadata_of_the_user_pass_through(folder: Path) -> None:
    metadata = {"schema": "nanoaod", "cross_section": 831.76, "year": 2022, "isMC": True}
    assert load_fileset(write(folder, {"d": {"files": ["a.root"], "metadata": metadata}})).datasets[0].metadata == (
        metadata
    )


def test_a_fileset_that_was_checked_is_returned_as_it_is(folder: Path) -> None:
    fileset = load_fileset(str(write(folder, {"d": ["a.root"]})))
    assert load_fileset(fileset) is fileset


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"tt": {"files": ["a.root"], "metdata": {}}}, ["'tt'", "unknown key 'metdata'", "metadata"]),
        ({"tt": {"files": ["a.root"], "tree": "Events"}}, ["'tt'", "unknown key 'tree'", "treename"]),
        ({"tt": {"file": ["a.root"]}}, ["'tt'", "no 'files'", "file"]),
        ({"tt": "absent.root"}, ["'tt'", "no such file", "absent.root"]),
        ({"tt": 3}, ["'tt'", "no 'files'"]),
        ({"tt": {"files": "a.root"}}, ["'tt'", "[path, ...]", "str"]),
        ({"tt": {"files": [5]}}, ["'tt'", "5"]),
        ({"tt": {"files": {"a.root": {"tree": "Events"}}}}, ["'tt'", "'a.root'", "unknown key 'tree'", "object_path"]),
        ({"tt": {"files": []}}, ["'tt'", "no files"]),
        ({}, ["no data set"]),
        ({"tt": ["a.root", "a.root"]}, ["'tt'", "a.root twice"]),
        ({"tt": ["*.root", "a.root"]}, ["'tt'", "a.root twice"]),
        ({"tt": ["a.root", "./deep/../a.root"]}, ["'tt'", "a.root twice"]),
        ({"tt": ["*.root", "[a-b].root"]}, ["'tt'", "a.root twice", "b.root twice"]),
        ({"tt": ["a.root"], "dy": ["*.root"]}, ["a.root", "'tt'", "'dy'", "count twice"]),
        ({"tt": ["a.root"], "dy": ["deep/../a.root"]}, ["a.root", "'tt'", "'dy'", "count twice"]),
        ({"tt": ["a.root", "lost.root"]}, ["'tt'", "no such file", "lost.root"]),
        ({"tt": ["deep"]}, ["'tt'", "no such file", "deep"]),
        ({"tt": ["nothing_*.root"]}, ["'tt'", "no file matches", "nothing_*.root"]),
        ({"tt": {"files": ["a.root"], "metadata": ["schema"]}}, ["'tt'", "metadata must be an object", "list"]),
        ({"tt": {"files": ["a.root"], "metadata": {"schema": "NanoAOD"}}}, ["'tt'", "'NanoAOD'", "nanoaod, pfnano"]),
        ([{"files": ["a.root"]}], ["list", "expected"]),
        ("{'tt': ['a.root']}", ["not valid JSON", "line 1"]),
        ("", ["not valid JSON"]),
        ("[" * 100_000, ["not valid JSON"]),
        ('{"tt": ' + "9" * 5000 + "}", ["not valid JSON"]),
        ({"tt": ["http://[bad/*.root"]}, ["wildcards of URLs"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else None,
)
def test_a_fault_is_named_with_its_place(folder: Path, content: Any, said: list[str]) -> None:
    message = refusal(folder, content)
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    "cross_section", [0, -1.5, "831", float("nan"), float("inf"), True, 10**400, [1], "File weights"]
)
def test_a_cross_section_is_a_positive_number(folder: Path, cross_section: Any) -> None:
    with pytest.raises(FilesetError, match=r"'tt'.*cross_section must be a positive number \[pb\]"):
        load_fileset({"tt": {"files": [str(folder / "a.root")], "metadata": {"cross_section": cross_section}}})


@pytest.mark.parametrize("name", sorted(RESERVED_METADATA))
def test_metadata_names_that_coffea_sets_itself_are_refused(folder: Path, name: str) -> None:
    message = refusal(folder, {"tt": {"files": ["a.root"], "metadata": {name: 1}}})
    assert f"'tt': the metadata name {name!r} is reserved" in message


def test_a_symbolic_link_does_not_hide_a_duplicate(folder: Path) -> None:
    (folder / "link.root").symlink_to(folder / "a.root")
    assert "a.root twice" in refusal(folder, {"tt": ["a.root", "link.root"]})
    assert "count twice" in refusal(folder, {"tt": ["a.root"], "dy": ["link.root"]})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"tt": ["a.root"], "tt": ["b.root"]}', "tt"),
        ('{"tt": {"files": {"a.root": "Events", "a.root": "Events"}}}', "a.root"),
    ],
)
def test_a_key_repeated_in_json_is_refused_not_lost(folder: Path, text: str, key: str) -> None:
    message = refusal(folder, text)
    assert "listed twice" in message
    assert repr(key) in message


def test_all_faults_come_in_one_message(folder: Path) -> None:
    message = refusal(folder, {"tt": ["lost.root", "gone.root"], "dy": {"files": ["a.root"], "tree": "Events"}})
    assert len(message.splitlines()) == 4
    assert all(part in message for part in ("lost.root", "gone.root", "'tree'"))


def test_a_missing_fileset_is_named(tmp_path: Path) -> None:
    with pytest.raises(FilesetError, match=r"cannot read the fileset .*no_fileset.json: No such file"):
        load_fileset(tmp_path / "no_fileset.json")


# -- as people have them ----------------------------------------------------------------------------------------------


DOCUMENT = {"tt": {"files": {"a.root": "Events"}, "metadata": {"schema": "NanoAODSchema"}}}
YAML = "tt:\n  files: {a.root: Events}\n  metadata: {schema: coffea.nanoevents.NanoAODSchema}\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.json", json.dumps(DOCUMENT)),
        ("f.JSON.gz", json.dumps(DOCUMENT)),
        ("f.json.gz", json.dumps(DOCUMENT)),
        ("f.yaml", YAML),
        ("f.yml", YAML),
        ("f.yaml.gz", YAML),
    ],
)
def test_a_document_may_be_json_or_yaml_compressed_or_not(folder: Path, name: str, content: str) -> None:
    data = content.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (dataset,) = load_fileset(folder / name).datasets
    assert dataset.name == "tt"
    assert dataset.files == {str(folder / "a.root"): "Events"}
    assert dataset.metadata == {"schema": "nanoaod"}


@pytest.mark.parametrize("name", ["ttbar.txt", "ttbar.list", "ttbar.v2.txt.gz"])
def test_a_list_of_paths_is_a_data_set_of_its_name(folder: Path, name: str) -> None:
    data = b"# two files\na.root\n\n  b.root  # the second\n"
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (dataset,) = load_fileset(str(folder / name)).datasets
    assert dataset.name == "ttbar"
    assert list(dataset.files.items()) == [(str(folder / "a.root"), None), (str(folder / "b.root"), None)]


@pytest.mark.parametrize(
    ("source", "name", "files"),
    [
        ("a.root", "a", ["a.root"]),
        ("[ab].root", None, ["a.root", "b.root"]),
        (["b.root", "a.root"], "events", ["b.root", "a.root"]),
        (["root://store//x/tt_1.root", "root://store//x/tt_2.root"], "tt", None),
        ("root://store//x/QCD_Pt-15.root", "QCD_Pt-15", None),
        (("deep/../a.root",), "a", ["a.root"]),
    ],
)
def test_files_alone_are_a_data_set_of_their_name(
    folder: Path, source: Any, name: str | None, files: list[str] | None, monkeypatch: Any
) -> None:
    monkeypatch.chdir(folder)
    (dataset,) = load_fileset(source).datasets
    # Of a pattern that begins with a wildcard, the folder.
    assert dataset.name == (name or "events")
    urls = [source] if isinstance(source, str) else source
    assert list(dataset.files) == ([str(folder / file) for file in files] if files else list(urls))


def test_a_pattern_has_the_name_of_what_is_in_front_of_it(folder: Path) -> None:
    (folder / "QCD_HT500").mkdir()
    (folder / "QCD_HT500" / "nano_1.root").touch()
    for pattern, name in (("nano_*.root", "nano"), ("*.root", "QCD_HT500")):
        (dataset,) = load_fileset(folder / "QCD_HT500" / pattern).datasets
        assert dataset.name == name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("f.json.gz", b"{}", "cannot read the fileset .*f.json.gz: Not a gzipped file"),
        ("f.json.gz", gzip.compress(b"{}")[:-9], "cannot read the fileset .*f.json.gz"),
        ("f.yaml", b"tt: [a.root\n", "is not valid YAML"),
        ("f.yaml", b"tt: [a.root]\ntt: [b.root]\n", "listed twice"),
        ("f.yaml", b"tt: {files: [a.root], metadata: {cross_section: 0100}}", "0100, which YAML reads in base 8 or 60"),
        ("f.yaml", b"tt: {files: [a.root], metadata: {cross_section: 1:30}}", "1:30, which YAML reads in base 8 or 60"),
        ("f.yaml", b"tt: {files: [a.root], metadata: {cross_section: 1:30.5}}", "which YAML reads in base 8 or 60"),
        ("f.yaml", b"2018: {files: [a.root]}", "the name of a data set is text, not 2018: put it in quotes"),
        ("f.txt", b"# nothing\n", "lists no files: a path or a pattern is expected in each line"),
        ("f.txt", b"\xff\xfe", "is no list of paths"),
    ],
)
def test_a_source_that_is_damaged_is_refused(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(FilesetError, match=said):
        load_fileset(folder / name)


def test_a_compressed_document_without_bounds_is_refused(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("hepcal.events.fileset_sources.UNCOMPRESSED", 1_000)
    (folder / "f.json.gz").write_bytes(gzip.compress(b" " * 2_000))
    with pytest.raises(FilesetError, match="it holds more than 1000 bytes"):
        load_fileset(folder / "f.json.gz")


def test_of_a_folder_the_pattern_is_given(folder: Path) -> None:
    with pytest.raises(FilesetError, match=r"a directory: for the files in it, '.*/\*\.root'"):
        load_fileset(folder)


def test_a_missing_root_file_is_named(folder: Path) -> None:
    with pytest.raises(FilesetError, match=r"data set 'lost': no such file: .*lost\.root"):
        load_fileset(folder / "lost.root")


def test_a_fault_is_ours_and_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set") as caught:
        load_fileset({})
    assert isinstance(caught.value, HepcalError)
    assert not isinstance(caught.value, OSError)


# -- one file under several names -------------------------------------------------------------------------------------


def test_a_hard_link_is_the_same_file(folder: Path) -> None:
    (folder / "hard.root").hardlink_to(folder / "a.root")
    assert re.search(r"lists .*a.root twice, also as .*hard.root", refusal(folder, {"tt": ["[ah]*.root"]}))
    assert "count twice" in refusal(folder, {"tt": ["a.root"], "dy": ["hard.root"]})


@pytest.mark.parametrize("url", ["file://{}", "file://localhost{}", "FILE://{}", "local://{}"])
def test_a_file_url_is_a_path(folder: Path, url: str) -> None:
    (folder / "with space.root").touch()
    assert names(load_fileset({"tt": [url.format(folder / "a.root")]})) == ["a.root"]
    assert names(load_fileset({"tt": [url.format(folder / "[ab].root")]})) == ["a.root", "b.root"]
    assert names(load_fileset({"tt": [url.format(folder / "with%20space.root")]})) == ["with space.root"]
    assert "twice" in refusal(folder, {"tt": ["a.root", url.format(folder / "a.root")]})
    assert "count twice" in refusal(folder, {"tt": ["a.root"], "dy": [url.format(folder / "a.root")]})
    assert "no such file" in refusal(folder, {"tt": [url.format(folder / "absent.root")]})


def test_wildcards_of_urls_are_refused_not_taken_literally(folder: Path) -> None:
    assert "wildcards of URLs are not expanded" in refusal(folder, {"tt": ["root://eos.example//store/*.root"]})


def test_a_link_to_nothing_and_a_tree_behind_a_colon_are_explained(folder: Path) -> None:
    (folder / "gone.root").symlink_to("moved.root")
    assert "gone.root, a symbolic link to moved.root" in refusal(folder, {"tt": ["gone.root"]})
    assert "say {'" in (said := refusal(folder, {"tt": ["a.root:Events"]}))
    assert "a.root': 'Events'}" in said


# -- what is said of weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["xsec", "xs", "crossSection", "XSEC", "x_section", "cross-section", "xsec_pb", "xsecNNLO", "Cross_Section",
            "xs_13TeV", "sigma_pb", "crossSectionInFb", "effective_cross_section", "datasetXS", "genXSec", "total-xs"],
)  # fmt: skip
def test_a_cross_section_that_would_not_be_read_is_refused(folder: Path, key: str) -> None:
    message = refusal(folder, {"tt": {"files": ["a.root"], "metadata": {key: 831.76}}})
    assert f"'tt': the metadata name {key!r} looks like a cross section" in message
    assert "'cross_section' [pb]" in message
    for said in (831.76, "file weights"):
        fileset = load_fileset({"tt": {"files": [folder / "a.root"], "metadata": {key: 831.76, "cross_section": said}}})
        assert fileset.datasets[0].cross_section == (831.76 if said == 831.76 else None)
        assert fileset.datasets[0].mixes_by_file_weights == (said == "file weights")


@pytest.mark.parametrize("key", ["year", "sigma", "xsection_source", "process", "excess", "axes", "max_sections"])
def test_other_metadata_are_the_users(folder: Path, key: str) -> None:
    assert load_fileset({"tt": {"files": [folder / "a.root"], "metadata": {key: 1}}}).datasets[0].metadata == {key: 1}


@pytest.mark.parametrize("key", ["kfactor", "k_factor", "filter_efficiency", "BR", "sumw", "sum_genweights"])
def test_factors_that_are_not_read_are_named(folder: Path, key: str) -> None:
    with pytest.warns(NormalisationWarning, match=f"^data set 'tt': the metadata {key!r} are not read"):
        load_fileset({"tt": {"files": [folder / "a.root"], "metadata": {"cross_section": 2.0, key: 1.2}}})


# -- filesets that coffea has preprocessed ----------------------------------------------------------------------------

UUID = "d48060b2-6a57-11ed-8e14-0600a8c0beef"
WHOLE = {"object_path": "Events", "steps": [[0, 30], [30, 50]], "num_entries": 50, "uuid": UUID}


def test_a_preprocessed_file_is_read_whole(folder: Path) -> None:
    described = {"files": {"a.root": WHOLE}, "form": "H4sI", "format": "root", "did": None, "metadata": None}
    (dataset,) = load_fileset(write(folder, {"tt": described})).datasets
    assert dict(dataset.files) == {str(folder / "a.root"): "Events"}
    assert dataset.expected == {str(folder / "a.root"): Expected(50, UUID.replace("-", ""))}


def test_the_objects_of_coffea_are_filesets(folder: Path) -> None:
    spec = DatasetSpec(files={str(folder / "a.root"): WHOLE, str(folder / "b.root"): "Events"}, metadata={"year": 1})
    for source in (DataGroupSpec({"tt": spec}), {"tt": spec}, {"tt": {"files": spec.files, "metadata": {"year": 1}}}):
        (dataset,) = load_fileset(source).datasets
        assert dict(dataset.files) == {str(folder / name): "Events" for name in ("a.root", "b.root")}
        assert dict(dataset.metadata) == {"year": 1}
        assert dataset.expected[str(folder / "a.root")].entries == 50
    with pytest.raises(FilesetError, match="DatasetSpec is not a fileset: give the data set a name"):
        load_fileset(spec)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": [[0, 30]]}, "steps choose 30 of 50 events, but files are read whole"),
        ({"steps": [[10, 50]]}, "steps choose 40 of 50 events"),
        ({"steps": [[0, 20], [30, 50]], "num_entries": None}, "steps choose 40 of the events"),
        ({"steps": [[0, 30], [0, 30]], "num_entries": None}, "steps choose 60 of the events"),
        ({"steps": [[0, 80], [80, 50]]}, "steps must be"),
        ({"steps": "all"}, "steps must be"),
        ({"num_entries": -1, "steps": None}, "num_entries must be"),
        ({"uuid": "abc"}, "uuid must be"),
        ({"format": "parquet", "object_path": None}, "format 'parquet': only ROOT files"),
        ({"object_path": 3}, "object_path must be"),
        ({"treename": "Events"}, "unknown key 'treename'"),
    ],
)
def test_a_description_that_cannot_be_followed_is_refused(folder: Path, change: Any, said: str) -> None:
    message = refusal(folder, {"tt": {"files": {"a.root": {**WHOLE, **change}}}})
    assert "'tt': 'a.root'" in message
    assert said in message


def test_a_description_of_one_file_does_not_fit_a_pattern(folder: Path) -> None:
    assert "matches 3 files, and num_entries or uuid" in refusal(folder, {"tt": {"files": {"*.root": WHOLE}}})
    assert len(load_fileset(write(folder, {"tt": {"files": {"*.root": {"object_path": "Events"}}}})).paths) == 3


# -- leaving files out ------------------------------------------------------------------------------------------------


def test_without_leaves_files_out_and_empty_data_sets(folder: Path) -> None:
    fileset = load_fileset(write(folder, {"tt": {"files": ["[ab].root"], "metadata": {"k": 1}}, "dy": ["c.root"]}))
    left = fileset.without({str(folder / "a.root"), str(folder / "c.root")})
    assert left.paths == (str(folder / "b.root"),)
    assert [(dataset.name, dataset.metadata) for dataset in left.datasets] == [("tt", {"k": 1})]
    assert len(fileset.paths) == 3, "the fileset itself does not change"
    assert fileset.without(set()) == fileset


def test_what_is_no_regular_file_is_said_to_be_none(folder: Path) -> None:
    os.mkfifo(folder / "pipe.root")
    assert "no such file: /dev/zero (it is a directory, a device or a pipe)" in refusal(folder, {"tt": ["/dev/zero"]})
    assert "pipe.root (it is" in refusal(folder, {"tt": ["pipe.root"]})


@pytest.mark.parametrize("number", [np.float32(3), np.int64(3), 3])
def test_a_cross_section_may_be_any_kind_of_number(folder: Path, number: Any) -> None:
    given = {"files": [folder / "a.root"], "metadata": {"cross_section": number}}
    assert load_fileset({"tt": given}).datasets[0].cross_section == 3.0
