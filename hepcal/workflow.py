"""The whole job as functions: survey, run, results. The command line and the demo are thin skins over these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hepcal.closure import results
from hepcal.closure.records import Summary
from hepcal.closure.resonance import shown
from hepcal.errors import NotIndependentWarning, ReadError, SchemaError, warn
from hepcal.evaluation.diagnostics import Diagnosis, PriorPoint
from hepcal.events import running
from hepcal.events.executors import ExecutorFactory
from hepcal.events.filesets import Fileset
from hepcal.events.inspection import copies
from hepcal.events.normalisation import require_comparable, say_normalisation
from hepcal.events.schemas import SCHEMAS
from hepcal.methods.calibrator import Calibrator
from hepcal.processors.dijet import DijetProcessor
from hepcal.processors.selection import collections_of
from hepcal.processors.survey import Survey, SurveyProcessor
from hepcal.progress import step
from hepcal.storage import outputs
from hepcal.tables.input_differences import warn_if_inputs_differ
from hepcal.tables.input_histograms import InputHistograms
from hepcal.tables.spectra import Resonance

__all__ = ["compared_inputs", "run_dijets", "trained_on", "warn_if_trained_on", "write_diagnoses"]

MOMENTUM = ("pt", "eta", "phi", "mass")


def run_dijets(
    fileset: Fileset,
    calibrator: Calibrator,
    executor: ExecutorFactory,
    directory: Path,
    *,
    resonance: Resonance | None = None,
    jets: str | None = None,
    truth: str | None = None,
    chunksize: int = running.DEFAULT_CHUNKSIZE,
    allow_skipped: bool = False,
    plots: bool = True,
    show: bool = True,
) -> Summary:
    """Survey the files, calibrate their dijets, and write histograms, summary and plots.

    Args:
        fileset: What to run on.
        calibrator: The calibration.
        executor: From :func:`hepcal.events.executors.open_executor`.
        directory: Where results are written; looked at before the first event. It may hold those of an earlier run.
        resonance: The resonance of the ``bsm`` weighting.
        jets: Collection of detector-level jets; default: that of the training.
        truth: Collection of particle-level jets; default: that of the training.
        chunksize: Events per chunk; results do not depend on it.
        allow_skipped: Leave out files that fail, whole, and list them in the summary.
        plots: Draw.
        show: Report progress.

    Returns:
        The summary.

    Raises:
        ReadError: Files cannot be used.
        SchemaError: Files of another layout than those of the training, or its truth are no particle-level jets.
        FilesetError: Weights of several data sets cannot be compared.
        IncompleteRunError: Not every planned event was processed.
        OutputError: The directory holds something else, or cannot be written.
    """
    outputs.prepare_directory(directory)
    jets, truth = collections_of(calibrator.card, jets, truth)
    fields = {jets: tuple(dict.fromkeys((*calibrator.uses, *MOMENTUM)))}
    inspected = running.inspect(fileset, fields, allow_skipped=allow_skipped, show=show)
    _require_schema(calibrator, inspected[0])
    require_comparable(inspected[0], fileset)
    if not any(info.entries for info in inspected[0]):
        raise ReadError(f"none of the {len(inspected[0])} files has an event: look at the trees of the fileset")
    resonance = resonance or Resonance()
    options: dict[str, Any] = {"chunksize": chunksize, "allow_skipped": allow_skipped, "show": show}
    survey, done, skipped = _survey_and_fill(fileset, inspected, calibrator, executor, resonance, jets, truth, options)
    summary = _summary(calibrator, survey, resonance, done, skipped)
    results.write(directory, done.output["hists"], summary)
    if plots:
        from hepcal import plot

        with step("Drawing", show=show):
            plot.write(directory, done.output["hists"], summary)
    # At the end: where warnings are made errors, the results are there all the same.
    warn_if_inputs_differ(summary)
    warn_if_trained_on(summary)
    return summary


def _require_schema(calibrator: Calibrator, files: Sequence[running.FileInfo]) -> None:
    trained = calibrator.card.source.schema_name
    for info in files:
        # Arrays are of no kind, and corrections that exist were trained on nothing here.
        if trained in SCHEMAS and info.schema.family != SCHEMAS[trained].family:
            raise SchemaError(
                f"{info.path} is a {info.schema.name} file, but this calibrator was trained on {trained} jets: "
                "fields of the same name do not mean the same there. Train one on files of this kind"
            )


def _survey_and_fill(
    fileset: Fileset,
    inspected: running.Inspection,
    calibrator: Calibrator,
    executor: ExecutorFactory,
    resonance: Resonance,
    jets: str,
    truth: str,
    options: Mapping[str, Any],
) -> tuple[Survey, running.Run, tuple[running.Skipped, ...]]:
    """Both passes over the same files: a file that fails in the second is left out of the first as well.

    Otherwise its weights would normalise events that are not there.
    """
    files, skipped = inspected
    # The truth of a closure is that of the training.
    keep = calibrator.card.source.keep_leptons
    surveyor = SurveyProcessor(truth=truth, keep_leptons=keep)
    while True:
        surveyed = running.run(fileset, surveyor, executor, title="Surveying", inspected=(files, ()), **options)
        survey = Survey.from_output(surveyed.output, fileset, surveyed.files)
        processor = DijetProcessor(calibrator, survey, resonance, jets=jets, truth=truth, keep_leptons=keep)
        done = running.run(fileset, processor, executor, title="Calibrating", inspected=(surveyed.files, ()), **options)
        skipped += surveyed.skipped + done.skipped
        if not done.skipped:
            say_normalisation(survey.normalisation if options["show"] else {})
            return survey, done, skipped
        files = done.files


def _summary(
    calibrator: Calibrator,
    survey: Survey,
    resonance: Resonance,
    done: running.Run,
    skipped: Sequence[running.Skipped],
) -> Summary:
    counts, density = done.output["counts"], survey.density
    simulated = [c for name, c in counts.items() if survey.simulation[name]]
    return results.summarise(
        done.output["hists"],
        events={
            "read": done.events,
            "copies": copies(done.files),
            "skipped_files": [{"file": s.path, "reason": s.reason} for s in skipped],
            "selected": sum(c["selected"] for c in simulated),
            "simulated": sum(c["events"] for c in simulated),
            "outside_density": sum(c["outside_density"] for c in simulated),
            "leptons": sum(c["leptons"] for c in simulated),
            "without_truth": sorted(name for name, has_truth in survey.simulation.items() if not has_truth),
        },
        calibrator={
            "method": calibrator.card.method,
            "quantity": calibrator.card.quantity,
            "follows_prior": calibrator.method.follows_prior,
            "needs_data": calibrator.method.needs_data,
            "sha256": calibrator.sha256,
        },
        extra={
            "datasets": counts,
            "normalisation": {name: each.model_dump() for name, each in survey.normalisation.items()},
            "resonance": shown(resonance, density, done.output["hists"]),
            "mass_density": None if density is None else {"sha256": density.sha256, **density.model_dump()},
            "trained_on": trained_on(calibrator, done.files),
            "inputs": compared_inputs(calibrator, done.output["inputs"]),
        },
    )


def trained_on(calibrator: Calibrator, files: tuple[running.FileInfo, ...]) -> list[str]:
    """Paths of the files that the calibrator was trained on."""
    training = set(calibrator.card.source.files)
    return [info.path for info in files if info.uuid in training]


def compared_inputs(
    calibrator: Calibrator, seen: Mapping[str, Mapping[str, InputHistograms]]
) -> dict[str, list[dict[str, Any]] | None]:
    """How the inputs of each data set differ from those of the training.

    As :class:`hepcal.tables.input_differences.Difference`; None where it cannot be said: of calibrators of earlier
    versions, or without inputs in data.
    """
    found: dict[str, list[dict[str, Any]] | None] = {}
    for dataset, by_condition in sorted(seen.items()):
        found[dataset] = None
        for condition, here in by_condition.items():
            trained = calibrator.input_histograms[here.condition]
            assert condition == here.condition  # noqa: S101 - how the processor names them
            found[dataset] = [asdict(d) for d in trained.differences(calibrator.card.features, here)] or None
    return found


def warn_if_trained_on(summary: Summary) -> None:
    """Warn if a closure was computed with training events."""
    if summary["trained_on"]:
        warn(
            f"this calibrator was trained on {len(summary['trained_on'])} of these files "
            f"({summary['trained_on'][0]} ...): this closure is not an independent test",
            NotIndependentWarning,
        )


def write_diagnoses(
    directory: Path, diagnoses: Mapping[str, Diagnosis], *, points: Sequence[PriorPoint] = (), label: str = ""
) -> list[Path]:
    """Write ``diagnostics.json`` and its plots.

    Args:
        directory: Made if needed; plots go to ``plots/`` in it.
        diagnoses: From :func:`hepcal.evaluation.diagnostics.diagnose`.
        points: From :func:`hepcal.evaluation.diagnostics.scan_prior`.
        label: To write above the axes.

    Returns:
        The plots.
    """
    content = _finite(
        {
            "diagnoses": {name: found.as_dict() for name, found in diagnoses.items()},
            "prior_scan": [asdict(point) for point in points],
        }
    )
    outputs.write(directory / "diagnostics.json", json.dumps(content, indent=1, allow_nan=False))
    with step("Drawing"):
        return _draw_diagnoses(directory / "plots", diagnoses, points, label)


def _finite(content: Any) -> Any:
    """The same for JSON, None for NaN and infinite numbers: a loss or score may be one."""
    if isinstance(content, Mapping):
        return {name: _finite(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(each) for each in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content


def _draw_diagnoses(
    directory: Path, diagnoses: Mapping[str, Diagnosis], points: Sequence[PriorPoint], label: str
) -> list[Path]:
    from hepcal import plot
    from hepcal.plot.panels import save

    directory.mkdir(exist_ok=True)
    scores = {name: found.scores for name, found in diagnoses.items()}
    in_pt = {name: found.pt_calib for name, found in diagnoses.items()}
    in_eta = {name: found.abs_eta for name, found in diagnoses.items() if found.abs_eta is not None}
    histories = {name: found.history for name, found in diagnoses.items()}
    scanned = [(point.prior_width, point.nll, point.nll_unc, point.collapsed) for point in points]
    figures: dict[str, partial[Any]] = {
        "coverage": partial(plot.coverage, scores),
        "pit": partial(plot.pit, scores),
        "quantile_calibration": partial(plot.quantile_calibration, scores),
        "history": partial(plot.history, histories),
        "prior_scan": partial(plot.prior_scan, scanned),
    }
    figures["coverage_68_abs_eta"] = partial(plot.scores_in_bins, in_eta, "coverage_68", r"$|\eta|$")
    for figure in ("coverage_68", "pull_sd", "crps", "width_68"):
        figures[f"{figure}_pt_calib"] = partial(plot.scores_in_bins, in_pt, figure)
    return [path for name, draw in figures.items() for path in save(directory, name, partial(draw, label=label))]
