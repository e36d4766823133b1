"""Whatever a pattern matches is a file, a directory that was looked into, or a fault with its name."""

from __future__ import annotations

import errno
import glob
import os
import random
from pathlib import Path
from typing import Any

import pytest

from hepcal import load_fileset
from hepcal.errors import FilesetError
from hepcal.events.wildcards import expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.root", "2017/b.root", "2018/c.root", "2018/deep/d.root", ".hidden/e.root", "2018/.f.root"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(folder: Path, pattern: str) -> list[str]:
    found = load_fileset({"tt": [str(folder / pattern)]}).paths
    return [str(Path(path).relative_to(folder)) for path in found]


def refusal(folder: Path, pattern: str) -> str:
    with pytest.raises(FilesetError) as caught:
        load_fileset({"tt": [str(folder / pattern)]})
    return str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*.root", ["2017/b.root", "2018/c.root", "2018/deep/d.root", "a.root"]),
        ("**", ["2017/b.root", "2018/c.root", "2018/deep/d.root", "a.root"]),
        ("**/deep/*", ["2018/deep/d.root"]),
        ("201?/*.root", ["2017/b.root", "2018/c.root"]),
        ("201[8]/**/*.root", ["2018/c.root", "2018/deep/d.root"]),
        ("*/c.root", ["2018/c.root"]),
        ("2018/.*", ["2018/.f.root"]),
    ],
)
def test_patterns_mean_what_they_mean_in_a_shell(folder: Path, pattern: str, found: list[str]) -> None:
    assert names(folder, pattern) == found


@pytest.mark.parametrize("pattern", ["*.root", "**/*.root", "**"])
def test_a_dangling_link_that_matches_is_an_error(folder: Path, pattern: str) -> None:
    (folder / "lost.root").symlink_to(folder / "moved.root")
    message = refusal(folder, pattern)
    assert f"{folder / 'lost.root'} is a symbolic link to {folder / 'moved.root'}, which is not there" in message


@pytest.mark.parametrize("pattern", ["*/*.root", "**/*.root", "201*/x.root"])
def test_a_link_to_a_folder_that_is_not_mounted_is_an_error(folder: Path, pattern: str) -> None:
    (folder / "2016").symlink_to("/eos/not/mounted")
    (folder / "2019").symlink_to("/eos/not/mounted")
    message = refusal(folder, pattern)
    assert f"{folder / '2019'} is a symbolic link to /eos/not/mounted" in message
    assert ("2016" in message) == (pattern != "2019/x.root")


@pytest.mark.parametrize("pattern", ["*/*.root", "**/*.root", "201?/**/*.root"])
def test_a_folder_that_may_not_be_read_is_an_error(folder: Path, pattern: str, monkeypatch: Any) -> None:
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("2018"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{folder / '2018'} cannot be read: Permission denied" in refusal(folder, pattern)


def test_a_folder_that_may_not_be_searched_is_an_error(folder: Path, monkeypatch: Any) -> None:
    look = os.stat

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).endswith("2018/c.root"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return look(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    assert f"{folder / '2018/c.root'}: Permission denied" in refusal(folder, "*/*.root")


def test_a_folder_that_matches_is_an_error_unless_it_is_looked_into(folder: Path) -> None:
    (folder / "old.root").mkdir()
    (folder / "old.root" / "g.root").touch()
    assert f"{folder / 'old.root'} matches, but is a directory" in refusal(folder, "*.root")
    assert "2017 matches, but is a directory" in refusal(folder, "*")
    assert "old.root/g.root" in names(folder, "**/*.root")


def test_what_is_no_regular_file_is_an_error(folder: Path) -> None:
    os.mkfifo(folder / "pipe.root")
    assert "pipe.root matches, but is no regular file" in refusal(folder, "*.root")


def test_a_link_to_a_folder_around_it_does_not_go_round_for_ever(folder: Path) -> None:
    (folder / "2018" / "up").symlink_to(folder)
    assert names(folder, "**/c.root") == ["2018/c.root"]
    (folder / "loop.root").symlink_to(folder / "loop.root")
    assert "loop.root: Too many levels of symbolic links" in refusal(folder, "*.root")


def test_a_folder_reached_by_two_names_counts_its_files_twice_and_is_refused(folder: Path) -> None:
    (folder / "again").symlink_to(folder / "2017")
    assert "lists" in (message := refusal(folder, "*/b.root"))
    assert "2017/b.root twice, also as" in message
    assert "again/b.root" in message


def test_all_faults_of_a_pattern_are_named_at_once(folder: Path) -> None:
    for name in ("x.root", "y.root"):
        (folder / name).symlink_to("nowhere")
    message = refusal(folder, "*.root")
    assert "x.root is a symbolic link" in message
    assert "y.root is a symbolic link" in message


PATTERNS = (
    *("*", "**", "**/*.root", "*/*.root", "a/**/*.root", "[ab]/*", "?b/**", "**/a/*"),
    *("**/**/*.root", ".*", "*b*/**/b.root"),
)


def test_files_are_those_that_glob_finds(tmp_path: Path) -> None:
    """On random trees in a folder whose own name looks like a pattern."""
    rng = random.Random(5)  # noqa: S311
    for trial in range(40):
        top = tmp_path / f"w[{trial}"
        for _ in range(rng.randint(1, 12)):
            folder = top.joinpath(*rng.choices(["a", "b", "ab", "x1", ".h", "c.d"], k=rng.randint(0, 3)))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / rng.choice(["a.root", "b.root", "n.txt", ".hidden.root"])).touch()
        for pattern in PATTERNS:
            found = glob.glob(pattern, root_dir=top, recursive=True)  # noqa: PTH207 - what it is compared with
            expected = {path for path in found if (top / path).is_file()}
            assert {str(path.relative_to(top)) for path in expand(pattern, top)[0]} == expected, pattern
