"""The whole job as functions: survey, run, results. The command line and the demo are thin skins over these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hepcal import results, running
from hepcal.calibrators.base import Calibrator
from hepcal.executors import ExecutorFactory
from hepcal.filesets import Fileset
from hepcal.processors.dijet import DijetProcessor
from hepcal.processors.survey import Survey, SurveyProcessor
from hepcal.progress import say, step
from hepcal.reweighting import Resonance

__all__ = ["run_dijets", "trained_on", "warn_if_trained_on"]


def run_dijets(
    fileset: Fileset,
    calibrator: Calibrator,
    executor: ExecutorFactory,
    directory: Path,
    *,
    resonance: Resonance | None = None,
    chunksize: int = running.DEFAULT_CHUNKSIZE,
    allow_skipped: bool = False,
    plots: bool = True,
    show: bool = True,
) -> dict[str, Any]:
    """Survey the files, calibrate their dijets, and write histograms, summary and plots.

    Args:
        fileset: What to run on.
        calibrator: The calibration.
        executor: From :func:`hepcal.executors.open_executor`.
        directory: Where results are written.
        resonance: The resonance of the ``bsm`` weighting.
        chunksize: Events per chunk; results do not depend on it.
        allow_skipped: Leave out files that fail, whole, and list them in the summary.
        plots: Draw.
        show: Report progress.

    Returns:
        The summary.

    Raises:
        ReadError: Files cannot be used.
        IncompleteRunError: Not every planned event was processed.
    """
    resonance = resonance or Resonance()
    options: dict[str, Any] = {"chunksize": chunksize, "allow_skipped": allow_skipped, "show": show}
    survey, done, skipped = _survey_and_fill(fileset, calibrator, executor, resonance, options)
    hists, counts = done.output["hists"], done.output["counts"]
    density = survey.density
    summary = results.summarise(
        hists,
        events={
            "read": sum(c["events"] for c in counts.values()),
            "skipped_files": [{"file": s.path, "reason": s.reason} for s in skipped],
            "selected": sum(c["selected"] for c in counts.values()),
            "outside_density": sum(c["outside_density"] for c in counts.values()),
            "without_truth": sorted(name for name, has_truth in survey.simulation.items() if not has_truth),
        },
        calibrator={"method": calibrator.card.method, "sha256": calibrator.sha256},
        extra={
            "datasets": counts,
            "resonance": resonance.model_dump(),
            "mass_density": None if density is None else {"sha256": density.sha256, **density.model_dump()},
            "trained_on": trained_on(calibrator, done.files),
        },
    )
    results.write(directory, hists, summary)
    if plots:
        from hepcal import plot

        with step("Drawing", show=show):
            plot.write(directory, hists, summary)
    return summary


def _survey_and_fill(
    fileset: Fileset,
    calibrator: Calibrator,
    executor: ExecutorFactory,
    resonance: Resonance,
    options: Mapping[str, Any],
) -> tuple[Survey, running.Run, tuple[running.Skipped, ...]]:
    """Both passes over the same files: a file that fails in the second is left out of the first as well.

    Otherwise its weights would normalise events that are not there.
    """
    fields = {"Jet": tuple(dict.fromkeys((*calibrator.uses, "pt", "eta", "phi", "mass")))}
    skipped: tuple[running.Skipped, ...] = ()
    while True:
        surveyed = running.run(fileset, SurveyProcessor(), executor, title="Surveying", fields=fields, **options)
        fileset = fileset.without({lost.path for lost in surveyed.skipped})
        survey = Survey.from_output(surveyed.output, fileset)
        processor = DijetProcessor(calibrator, survey, resonance)
        done = running.run(fileset, processor, executor, title="Calibrating", fields=fields, **options)
        fileset = fileset.without({lost.path for lost in done.skipped})
        skipped += surveyed.skipped + done.skipped
        if not done.skipped:
            return survey, done, skipped


def trained_on(calibrator: Calibrator, files: tuple[running.FileInfo, ...]) -> list[str]:
    """Paths of the files that the calibrator was trained on."""
    training = set(calibrator.card.source.files)
    return [info.path for info in files if info.uuid in training]


def warn_if_trained_on(summary: Mapping[str, Any]) -> None:
    """Say so if a closure was computed with training events."""
    if summary["trained_on"]:
        say(
            f"WARNING: this calibrator was trained on {len(summary['trained_on'])} of these files "
            f"({summary['trained_on'][0]} ...): the closure above is not an independent test"
        )
