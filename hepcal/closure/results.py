"""The results of a run as files: histograms, summary, and the closure table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hist
import numpy as np

import hepcal
from hepcal.closure import metrics
from hepcal.closure.files import ResultError, load_hists, load_summary, whole, write_files
from hepcal.closure.records import CalibratorRecord, EventsRecord, RunRecord, Summary
from hepcal.closure.report import closure_tables, notes
from hepcal.statistics import MIN_N_EFF
from hepcal.tables import input_histograms

if TYPE_CHECKING:
    from rich.table import Table

    from hepcal.evaluation.diagnostics import Diagnosis
    from hepcal.evaluation.scores import Scores
    from hepcal.methods.calibrator import Calibrator
    from hepcal.tables.pairs import JetPairs

__all__ = [
    "ResultError",
    "closure_tables",
    "derived",
    "load_hists",
    "load_summary",
    "notes",
    "scores_table",
    "summarise",
    "whole",
    "write",
]


def derived(hists: Mapping[str, hist.Hist]) -> dict[str, hist.Hist]:
    """Bias and resolution as histograms with errors, in bins of truth p_T, |eta| and dijet mass.

    Named ``<quantity>_bias`` and ``<quantity>_resolution`` (``pt_bias_abs_eta`` in bins of |eta|), with the axes
    weighting, level and truth, and the squared statistical error as variance; bins with n_eff below 30 hold zero with a
    zero error.
    """
    out = {}
    for quantity in ("pt", "mjj"):
        sums = hists[f"{quantity}_sums"]
        for axis in ("pt_truth", "abs_eta") if quantity == "pt" else ("mjj_truth",):
            tail = "_abs_eta" if axis == "abs_eta" else ""
            for figure in ("bias", "resolution"):
                axes = (sums.axes["weighting"], sums.axes["level"], sums.axes[axis])
                booked = hist.Hist(*axes, storage=hist.storage.Weight())
                for w, weighting in enumerate(axes[0]):
                    for v, level in enumerate(axes[1]):
                        found = metrics.closure(hists, quantity, level, weighting, axis)
                        error = found.response_mean_unc if figure == "bias" else found.resolution_unc
                        cells = np.nan_to_num(np.stack([getattr(found, figure), error**2], axis=-1))
                        booked.view()[w, v] = cells.view(booked.view().dtype)[:, 0]
                out[f"{quantity}_{figure}{tail}"] = booked
    return out


def summarise(
    hists: Mapping[str, hist.Hist],
    events: EventsRecord,
    calibrator: CalibratorRecord,
    extra: RunRecord,
) -> Summary:
    """The content of ``summary.json``.

    Args:
        hists: Filled histograms.
        events: What was read and selected.
        calibrator: Which calibrator it was.
        extra: What a run adds, such as the resonance.
    """
    matching = hists["matching"].project("pt_truth", "partner").values()
    with np.errstate(invalid="ignore"):
        share = matching[:, 1] / matching.sum(axis=1)
    return {
        "schema_version": 2,
        "hepcal": hepcal.__version__,
        "calibrator": calibrator.copy(),
        "events": events.copy(),
        "samples": metrics.samples(hists),
        "unmatched": {
            "edges": [float(edge) for edge in hists["matching"].axes["pt_truth"].edges],
            "fraction": [None if not np.isfinite(value) else float(value) for value in share],
        },
        **extra,
    }


def write(directory: Path, hists: Mapping[str, hist.Hist], summary: Summary) -> None:
    """Write ``hists.coffea``, ``hists.json`` (UHI) and ``summary.json``; each file appears complete or not at all.

    The summary holds hashes of the histograms and of itself, which :func:`load_hists` and :func:`load_summary` check.
    Plots of an earlier run in the same directory are removed: they show other histograms.

    Raises:
        OutputError: A file cannot be written.
        ResultError: A histogram or the summary holds a number that is not finite, for which JSON has no word; nothing
            is written.
    """
    write_files(directory, {**hists, **derived(hists)}, summary)
    for stale in (*directory.glob("plots/*.png"), *directory.glob("plots/*.pdf")):
        stale.unlink()


def describe_card(calibrator: Calibrator) -> list[tuple[str, str]]:
    """A calibrator as rows of a table."""
    card = calibrator.card
    inputs = [
        "ln(pt)",
        *(f"{f.transform}({f.label})" if f.transform != "identity" else f.label for f in card.features.inputs),
        *(() if card.features.constituents is None else (str(card.features.constituents),)),
    ]
    rows = [
        ("method", card.method),
        ("pt_calib is", f"the {card.quantity}"),
        ("columns", ", ".join(calibrator.columns)),
        ("systematics", ", ".join(calibrator.uncertainties) or "none"),
        ("detector-level p_T", {"raw": "pt (1 - rawFactor)", "pt": "pt"}[card.features.pt or "pt"]),
        ("inputs", ", ".join(inputs)),
        ("settings", ", ".join(f"{name}={value}" for name, value in card.settings.items())),
    ]
    if calibrator.trained:
        rows += _describe_training(calibrator)
    return [*rows, ("sha256", calibrator.sha256)]


def _describe_training(calibrator: Calibrator) -> list[tuple[str, str]]:
    card = calibrator.card
    return [
        ("trained on", f"{card.source.jets} jets (n_eff {card.source.n_eff:.0f}), {card.source.schema_name}"),
        *([("jets, truth", f"{card.source.collection}, {card.source.truth}")] if card.source.truth else []),
        ("held out", f"{card.source.validation_jets} jets"),
        ("inputs kept", input_histograms.described(calibrator.input_histograms)),
        ("seed", str(card.source.seed)),
        *((name.replace("_", " "), f"{value:.4g}") for name, value in card.figures.items()),
        ("trained with", ", ".join(f"{name} {version}" for name, version in card.versions.items())),
        ("training table", card.source.sha256),
        *([("data", card.source.data_sha256)] if card.source.data_sha256 else []),
    ]


SCORES: Sequence[tuple[str, str, float, str]] = (
    ("jets", "jets", 1, "{:.0f}"),
    ("pull_mean", "pull mean", 1, "{:+.2f}"),
    ("pull_sd", "pull sd", 1, "{:.2f}"),
    ("pull_half68", "pull 68 %", 1, "{:.2f}"),
    ("coverage_68", "cover. [%]", 100, "{:.1f}"),
    ("coverage_68_unc", "±", 100, "{:.1f}"),
    ("crps", "CRPS [GeV]", 1, "{:.2f}"),
    ("nll", "log score", 1, "{:.4f}"),
    ("width_68", "width [GeV]", 1, "{:.1f}"),
    ("sigma_stoch", "σ_stoch [GeV]", 1, "{:.1f}"),
    ("sigma_pred", "σ_pred [GeV]", 1, "{:.1f}"),
)


def scores_table(name: str, diagnosis: Diagnosis) -> Table:
    """Scores of one calibrator, in bins of calibrated p_T and |eta|; coverage is that of the central 68.27 %."""
    from rich.table import Table

    table = Table(title=f"{name}: uncertainties against the truth", title_justify="left")
    table.add_column("pt_calib [GeV], |eta|")
    for _, label, _, _ in SCORES:
        table.add_column(label, justify="right")
    table.add_row("all", *_score_cells(diagnosis.scores))
    for quantity, binned in (("", diagnosis.pt_calib), ("|eta| ", diagnosis.abs_eta)):
        if binned is None:
            continue
        table.add_section()
        for (low, high), scores in zip(pairwise(binned.edges), binned.bins, strict=True):
            table.add_row(f"{quantity}{low:g}-{high:g}", *_score_cells(scores))
    return table


def _score_cells(scores: Scores) -> list[str]:
    """Figures of too few jets are none, as in the closure; how many there are is said in any case."""
    values = [(figure, getattr(scores, figure), factor, form) for figure, _, factor, form in SCORES]
    enough = scores.n_eff >= MIN_N_EFF
    return [
        form.format(factor * value) if np.isfinite(value) and (enough or figure == "jets") else "-"
        for figure, value, factor, form in values
    ]


def describe_pairs(table: JetPairs) -> list[tuple[str, str]]:
    """A training table as rows of a table."""
    from hepcal.tables.from_events import selection_rows

    source = table.source
    rows = [
        ("jets", str(len(table))),
        ("events", str(len(np.unique(table.event)))),
        ("n_eff", f"{table.n_eff:.0f}"),
        ("truth p_T [GeV]", f"{table.truth.min():.1f} to {table.truth.max():.1f}"),
        ("reco p_T [GeV]", f"{table.reco.min():.1f} to {table.reco.max():.1f}"),
        ("inputs", f"ln(pt), {table.spec.listed}"),
        ("schema", str(source.get("schema", ""))),
    ]
    if "max_dr" in source:
        rows.append(("matched", f"{source['jets']} to {source['truth']}, within dR < {source['max_dr']:g}"))
    if truth_jets := source.get("truth_jets"):
        unmatched = source["unmatched"]
        what = "truth particles" if "[" in source.get("truth", "") else "leading truth jets"
        rows.append(("unmatched", f"{unmatched} of {truth_jets} {what} ({100 * unmatched / truth_jets:.2f} %)"))
    rows += selection_rows(source)
    if truncated := source.get("truncated_jets"):
        rows.append(("truncated", f"{truncated} jets, to their {table.spec.constituents}"))
    return rows + _weight_rows(source)


def _weight_rows(source: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What weights were scaled by, and files that may count twice."""
    rows = []
    for name, scale in source.get("normalisation", {}).items():
        total, origin = f"{scale['sum_of_weights']:.6g}", scale["origin"]
        rows.append((f"weights of {name}", f"{scale['cross_section']:g} pb for a sum of weights of {total} ({origin})"))
    for first, *others in source.get("copies", ()):
        rows.append(("copies?", f"{first} is also {', '.join(others)} (equal UUID)"))
    return rows


def rows_table(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Two columns: what, and its value."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table
