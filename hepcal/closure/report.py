"""The closure of a run for people: tables in bins of truth, and what a reader of them must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from hepcal.closure.records import CalibratorRecord, Figure, Figures, LevelFigures, Samples, Summary
from hepcal.statistics import MIN_N_EFF

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["closure_tables", "notes"]

Column = tuple[Figure, str, float, str]  # figure, title, factor, format
COLUMNS: Sequence[Column] = (
    ("n_eff", "n_eff", 1, "{:.0f}"),
    ("bias", "bias [%]", 100, "{:+.2f}"),
    ("response_mean_unc", "±", 100, "{:.2f}"),
    ("response_median", "median", 1, "{:.4f}"),
    ("response_median_unc", "±", 1, "{:.4f}"),
    ("resolution", "resol. [%]", 100, "{:.2f}"),
    ("resolution_unc", "±", 100, "{:.2f}"),
    ("pull_sd", "pull sd", 1, "{:.2f}"),
    ("pull_half68", "pull 68 %", 1, "{:.2f}"),
    ("coverage_68", "cover. [%]", 100, "{:.1f}"),
    ("within_sigma_tot", "in ±σ [%]", 100, "{:.1f}"),
    ("sigma_stoch", "σ_stoch [GeV]", 1, "{:.1f}"),
    ("sigma_pred", "σ_pred [GeV]", 1, "{:.1f}"),
)
FLAVOUR_COLUMNS: Sequence[Column] = (*COLUMNS[:7], COLUMNS[9])
NAMES = {"pt": "jet p_T", "mjj": "dijet mass"}
# Below this share of a resonance where the sample has events, its figures are those of something else.
WHOLE = 0.99
# The sum of its weights may be off by this much.
AMISS = 0.05


def closure_tables(summary: Summary, title: str = "") -> list[Table]:
    """Closure before and after calibration in bins of truth, one table per weighting and quantity, and by flavour.

    All bins with n_eff of at least 30 are shown.
    """
    tables = []
    for weighting, quantities in summary["samples"].items():
        for quantity, levels in quantities.items():
            if not any(_enough(figures["inclusive"], 0) for figures in levels.values()):
                continue
            name = f"{NAMES[quantity]}, {weighting.upper()} weights{title}"
            tables.append(_closure_table(levels, name))
            if weighting == "qcd" and (flavours := levels.get("calib", {}).get("flavour")):
                tables.append(_flavour_table(flavours, f"{name}, by flavour, after calibration"))
    return tables


def _closure_table(levels: Mapping[str, LevelFigures], title: str) -> Table:
    columns = _filled([part for figures in levels.values() for part in (figures, figures["inclusive"])], COLUMNS)
    table = _table(title, ("truth [GeV]", "level"), columns)
    for index, label in _bins(next(iter(levels.values()))):
        for level, figures in levels.items():
            if _enough(figures, index):
                table.add_row(label, level, *_cells(figures, index, columns))
    table.add_section()
    ratios = []
    for level, figures in levels.items():
        table.add_row("all", level, *_cells(figures["inclusive"], 0, columns))
        if figures["sum_ratio"] is not None:
            ratios.append(f"sum({level})/sum(truth) = {figures['sum_ratio']:.4f}")
    table.caption = " ".join(ratios)
    return table


def _flavour_table(flavours: Mapping[str, Figures], title: str) -> Table:
    columns = _filled(list(flavours.values()), FLAVOUR_COLUMNS)
    table = _table(title, ("truth [GeV]", "flavour"), columns)
    for index, label in _bins(next(iter(flavours.values()))):
        rows = [(name, figures) for name, figures in flavours.items() if _enough(figures, index)]
        for name, figures in rows:
            table.add_row(label, name, *_cells(figures, index, columns))
        if rows:
            table.add_section()
    return table


def _table(title: str, first: Sequence[str], columns: Sequence[Column]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for label in first:
        table.add_column(label, no_wrap=True, min_width=9 if "GeV" in label else None)
    for _, label, _, _ in columns:
        table.add_column(label, justify="right")
    return table


def _bins(figures: Figures) -> list[tuple[int, str]]:
    return [(i, f"{low:.0f}-{high:.0f}") for i, (low, high) in enumerate(pairwise(figures["edges"]))]


def _filled(parts: Sequence[Figures], columns: Sequence[Column]) -> Sequence[Column]:
    """Those columns that hold a number somewhere."""
    return [each for each in columns if any(value is not None for part in parts for value in part.get(each[0]) or ())]


def _enough(figures: Figures, index: int) -> bool:
    return bool((figures["n_eff"][index] or 0) >= MIN_N_EFF)


def _cells(figures: Figures, index: int, columns: Sequence[Column]) -> list[str]:
    found = [(figures.get(name), factor, form) for name, _, factor, form in columns]
    cells = [(None if listed is None else listed[index], factor, form) for listed, factor, form in found]
    return ["-" if value is None else form.format(factor * value) for value, factor, form in cells]


def notes(summary: Summary) -> list[str]:
    """What a reader of the closure tables must know, in sentences."""
    events = summary["events"]
    simulated = f"{events['selected']} of {events['simulated']} simulated ones have two matched jets"
    out = [f"{events['read']} events read; {simulated}."]
    out += [f"Skipped: {skipped['file']} ({skipped['reason']})" for skipped in events["skipped_files"]]
    out += [f"Counted twice? {', '.join(paths)} have the same UUID." for paths in events.get("copies", ())]
    out += [f"No truth in data set {name!r}: its truth histograms are empty." for name in events["without_truth"]]
    out += _out_of_range(summary["samples"])
    known = summary["samples"].get("qcd", {}).get("pt", {}).get("calib", {}).get("flavour_known")
    if known is not None and abs(known - 1) > 1e-6:
        out.append(f"Only files with {100 * known:.1f} % of the jets know flavours: closure by flavour is of these.")
    out += _resonance(summary)
    if events["outside_density"]:
        out.append(f"{events['outside_density']} events lie outside the mass density and have BSM weight zero.")
    if summary["samples"]:
        out.append(_what_closes(summary["calibrator"]))
        out.append(
            "Pulls are of jets inside the training support. 'cover.' is the share of truths in the central 68.27 % "
            "interval; on a skewed response it is not the share within ±σ_tot, nor has it to do with 'pull sd'."
        )
    return out


def _out_of_range(samples: Samples) -> list[str]:
    """The share of the weight of what lies outside the training support."""
    out = []
    for weighting, quantities in samples.items():
        whole = {q: levels.get("calib", {}).get("inclusive", {}) for q, levels in quantities.items()}
        shares = {q: figures.get("in_range") for q, figures in whole.items() if figures and _enough(figures, 0)}
        listed = [
            f"{100 * (1 - share[0]):.2f} % ({NAMES[q]})"
            for q, share in shares.items()
            if share and share[0] is not None
        ]
        if listed:
            out.append(f"Out of the training range, {weighting.upper()} weights: {', '.join(listed)}.")
    return out


def _resonance(summary: Summary) -> list[str]:
    """Whether the sample can show the resonance at all."""
    bsm, resonance = summary["samples"].get("bsm", {}).get("mjj", {}).get("calib"), summary.get("resonance") or {}
    if not summary["samples"]:
        return []
    if bsm is None:
        return ["No BSM closure: fewer than 50 effective events with a true dijet mass, or none near the resonance."]
    out = []
    place = f"the resonance at {resonance['mass']:g} GeV" if "mass" in resonance else "the resonance"
    n_eff, inside = bsm["inclusive"]["n_eff"][0], resonance.get("inside_density")
    if n_eff is not None and n_eff < MIN_N_EFF:
        out.append(f"No BSM closure: {n_eff:.1f} effective events for {place}; figures need {MIN_N_EFF}.")
    norm = resonance.get("norm")
    if inside is not None and norm is not None and not (inside > WHOLE and abs(norm - 1) < AMISS):
        low, high = resonance["density_range"] or []
        out.append(
            f"WARNING: {100 * inside:.3g} % of {place} lies where the sample has events ({low:.0f} to {high:.0f} GeV), "
            f"and its weights sum to {norm:.2f} of what they should: BSM figures are those of this part of it."
        )
    return out


def _what_closes(calibrator: CalibratorRecord) -> str:
    """What the declared quantity and the prior mean for the tables."""
    if calibrator.get("needs_data", False):
        return (
            "pt_calib moves simulation to data; no closure in truth is promised, and another truth spectrum would give "
            "another map."
        )
    if calibrator.get("follows_prior", True):
        return (
            "sum(calib)/sum(truth) is close to one by construction for a regression of the truth and proves nothing; "
            "the bias in bins of truth shows the dependence on the training spectrum."
        )
    column = {"mean": "'bias'", "median": "'median'"}.get(calibrator["quantity"], "neither 'bias' nor 'median'")
    return (
        f"pt_calib is the {calibrator['quantity']} of its method and does not depend on the training spectrum inside "
        f"its support, at fixed composition: in bins of truth {column} shows its closure. On a skewed response no "
        "calibration closes in mean and median at once."
    )
