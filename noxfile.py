#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.10.14"]
# ///
"""What is checked before a change lands, each in its own environment: ``nox -l`` lists it, ``nox`` runs the default.

Arguments after ``--`` go on to the tool: ``nox -s tests -- tests/test_matching.py -x``.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"

PROJECT = nox.project.load_toml("pyproject.toml")
HERE = Path(__file__).parent
# The versions that are known to work together.
TESTED = ("-c", "constraints.txt")
# Reading, matching, training, inference, columns, jobs, plots and files: where a dependency that is too old shows.
SMOKE = (
    "calibrators", "cli", "columns", "config", "constituents", "damaged_files", "executors", "flattening", "inference",
    "inversion", "jet_corrections", "nanoaod", "pairs", "plot", "public_api", "results", "running", "schemas",
    "transport",
)  # fmt: skip


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling and configuration files, by pre-commit; nothing is installed but its hooks."""
    session.install("pre-commit>=4")
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Types and the direction of imports, of the installed package: hepcal.processors is only there."""
    session.install(*TESTED, ".[test]")
    session.chdir(session.create_tmp())
    site = session.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True)
    configuration = str(HERE / "pyproject.toml")
    session.chdir(str(site).strip())
    session.run("lint-imports", "--config", configuration, "--no-cache")
    session.run("mypy", "--config-file", configuration, "--cache-dir", str(HERE / ".mypy_cache"), "-p", "hepcal")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, as in README.md but in one process per core."""
    session.install(*TESTED, "-e", ".[test]")
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session(python="3.11", default=False)
def minimums(session: nox.Session) -> None:
    """A part of the tests with the oldest versions that pyproject.toml allows, on the oldest Python."""
    constraints = Path(session.create_tmp()) / "minimums.txt"
    constraints.write_text("\n".join(oldest(PROJECT["project"]["dependencies"])) + "\n")
    session.log("%s", " ".join(constraints.read_text().split()))
    session.install("-c", str(constraints), "-e", ".[test]")
    files = session.posargs or [f"tests/test_{name}.py" for name in SMOKE]
    # What an old version says of newer ones is not our mistake: warnings are no errors here.
    session.run("pytest", "-n", "auto", "--dist", "loadfile", "-o", "filterwarnings=default", *files)


def oldest(requirements: list[str]) -> list[str]:
    """``name==version`` for each ``name[extra]>=version``; all requirements of the package have a lower bound."""
    pins = []
    for requirement in requirements:
        match = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"{requirement!r} is not of the form name>=version")
        pins.append(f"{match[1]}=={match[2]}")
    return pins


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The notebooks, from start to end; the examples of README.md and of docstrings run in tests."""
    session.install(*TESTED, "-e", ".[test]")
    session.run("pytest", "-n", "auto", "-m", "notebook", *session.posargs)


@nox.session(default=False)
def studies(session: nox.Session) -> None:
    """The long studies behind the tables of README.md: hours, with the samples of shared/ beside the clone."""
    session.install(*TESTED, "-e", ".[test]")
    session.run("pytest", "-m", "study", "tests/studies", *session.posargs)


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Speed against other libraries, as ratios; ``-- training`` picks one of tests/benchmarks. Wants free cores."""
    session.install(*TESTED, "-e", ".[test,bench]")
    name, *arguments = session.posargs or ["inference"]
    session.run("python", f"tests/benchmarks/{name}.py", *arguments)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """The source distribution and the wheel, in dist/."""
    session.install("build")
    session.run("python", "-m", "build", *session.posargs)


if __name__ == "__main__":
    nox.main()
