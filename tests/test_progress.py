"""Progress: lines in a log, whatever the executor does with its own output."""

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
