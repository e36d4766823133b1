"""Progress: lines in a log, whatever the executor does with its own output."""

import io
import sys

import pytest
from hepcal.processors import SurveyProcessor

from hepcal import progress
from hepcal.demo import demo_fileset
from hepcal.events.running import run


def test_every_executor_reports_while_it_runs_or_is_silent(executor, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    run(demo_fileset("test"), SurveyProcessor(), executor, chunksize=2_500, show=False)
    assert capsys.readouterr() == ("", "")
    run(demo_fileset("test"), SurveyProcessor(), executor, chunksize=1_000, title="Surveying")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Surveying")]
    assert lines[0] == "Surveying: 5000 events"
    assert any(" of 5000 events" in line for line in lines[1:-1])
    assert lines[-1].startswith("Surveying: done after 5000 events")


def interrupted(bar: progress.Progress) -> None:
    bar.advance(10)
    raise KeyboardInterrupt


class Terminal(io.StringIO):
    """Standard error at which a person sits."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_a_last_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress.Progress("Training", 40, "updates") as bar:
        bar.advance(10, "held-out loss 1.25")
        bar.advance(30)
    shown = terminal.getvalue()
    assert "40/40" in shown
    assert shown.count("held-out loss 1.25") >= 2
    assert "Training: done after 40 updates in" in shown.splitlines()[-1]


def test_what_stops_says_where(capsys):
    with pytest.raises(KeyboardInterrupt), progress.Progress("Training", 40, "updates") as bar:
        interrupted(bar)
    assert "Training: stopped after 10 updates in" in capsys.readouterr().err


def test_a_step_tells_its_duration_and_is_silent_when_it_is_told_to(monkeypatch, capsys):
    with progress.step("Drawing", show=False):
        pass
    assert capsys.readouterr().err == ""
    with progress.step("Drawing"):
        pass
    first, last = capsys.readouterr().err.splitlines()
    assert first == "Drawing ..."
    assert last.startswith("Drawing: done in ")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress.step("Drawing"):
        pass
    assert "Drawing: done in " in terminal.getvalue().splitlines()[-1]
