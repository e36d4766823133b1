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
from hepcal.progress import say
from hepcal.reweighting import Resonance

__all__ = ["run_dijets", "trained_on", "warn_if_trained_on"]

TRUTH_FIELDS = ("pt", "eta", "phi", "mass")


def run_dijets(
    fileset: Fileset,
    calibrator: Calibrator,
    executor: ExecutorFactory,
    directory: Path,
    *,
    resonance: Resonance | None = None,
    chunksize: int = running.DEFAULT_CHUNKSIZE,
    allow_skipped: bool = False,
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
        show: Report progress.

    Returns:
        The summary.

    Raises:
        ReadError: Files cannot be used.
        IncompleteRunError: Not every planned event was processed.
    """
    from hepcal import plot

    resonance = resonance or Resonance()
    options: dict[str, Any] = {"chunksize": chunksize, "allow_skipped": allow_skipped, "show": show}
    fields = {"Jet": tuple(dict.fromkeys((*calibrator.uses, "pt", "eta", "phi", "mass")))}
    surveyed = running.run(fileset, SurveyProcessor(), executor, title="Surveying", fields=fields, **options)
    fileset = fileset.without({skipped.path for skipped in surveyed.skipped})
    survey = Survey.from_output(surveyed.output, fileset)
    done = running.run(
        fileset,
        DijetProcessor(calibrator, survey, resonance),
        executor,
        title="Calibrating",
        fields=fields,
        **options,
    )
    if done.skipped:
        # The survey counted a file that failed only now: its weights would normalise events that are not there.
        return run_dijets(
            fileset.without({skipped.path for skipped in done.skipped}),
            calibrator, executor, directory, resonance=resonance,
            chunksize=chunksize, allow_skipped=allow_skipped, show=show,
        )  # fmt: skip
    hists, counts = done.output["hists"], done.output["counts"]
    summary = results.summarise(
        hists,
        events={
            "read": sum(c["events"] for c in counts.values()),
            "skipped_files": [{"file": s.path, "reason": s.reason} for s in surveyed.skipped],
            "selected": sum(c["selected"] for c in counts.values()),
            "outside_density": sum(c["outside_density"] for c in counts.values()),
            "without_truth": sorted(name for name, has_truth in survey.simulation.items() if not has_truth),
        },
        calibrator={"method": calibrator.card.method, "sha256": calibrator.sha256},
        extra={
            "datasets": counts,
            "resonance": resonance.model_dump(),
            "mass_density": None if survey.density is None else {
                "sha256": survey.density.sha256, **survey.density.model_dump()
            },
            "trained_on": trained_on(calibrator, done.files),
        },
    )  # fmt: skip
    results.write(directory, hists, summary)
    for name in summary["events"]["without_truth"]:
        say(f"data set {name!r} has no particle-level jets: columns were attached, its truth histograms are empty")
    plot.write(directory, hists, summary)
    return summary


def trained_on(calibrator: Calibrator, files: tuple[running.FileInfo, ...]) -> list[str]:
    """Paths of the files that the calibrator was trained on."""
    training = set(calibrator.card.source.files)
    return [info.path for info in files if info.uuid in training]


def warn_if_trained_on(summary: Mapping[str, Any]) -> None:
    """Say so if a closure was computed with training events."""
    if summary["trained_on"]:
        say(
            f"WARNING: this calibrator was trained on {len(summary['trained_on'])} of these files "
            f"({summary['trained_on'][0]} ...): the closure below is not an independent test"
        )
