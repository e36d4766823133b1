"""From events to the rows of a training table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
from coffea.processor import ProcessorABC

from hepcal.errors import MissingFieldError, PairsError
from hepcal.events.features import Features
from hepcal.events.filesets import Fileset
from hepcal.events.inspection import FileInfo, Inspection, Skipped, copies
from hepcal.events.normalisation import Normalisation, normalise
from hepcal.events.schemas import event_weight
from hepcal.events.threshold import count, threshold_of
from hepcal.events.truth import Selection
from hepcal.progress import say

if TYPE_CHECKING:
    from hepcal.events.running import Run

__all__ = [
    "COLUMNS",
    "COUNTED",
    "PairsProcessor",
    "columns_of",
    "inputs_of",
    "selection_rows",
    "source_of",
    "weight_factors",
]

COLUMNS = ("features", "reco", "truth", "weight", "event")
# What is counted over all chunks: truth jets that were looked for, those with a partner, prompt leptons left out, and
# partners that lost constituents, or of which the file has none, and which are no rows.
COUNTED = ("truth_jets", "matched", "leptons", "truncated_jets", "without_constituents")
# Events of a file get consecutive ids from (position of the file in the fileset) << EVENT_BITS.
EVENT_BITS = 40


def inputs_of(
    inspected: Inspection, features: Features, jets: str, *, allow_skipped: bool = False
) -> tuple[str, Features, Inspection]:
    """The schema of files, the inputs with its defaults filled in, and the files that have them.

    Args:
        inspected: From :func:`hepcal.events.running.inspect`.
        features: Inputs.
        jets: Collection of detector-level jets.
        allow_skipped: Leave out files that lack a branch, as a run does.

    Raises:
        PairsError: The files have different schemas.
        MissingFieldError: A file lacks a branch that the inputs need, or all do.
    """
    files, skipped = inspected
    schemas = sorted({info.schema.name for info in files})
    if len(schemas) > 1 and not features.constituents:
        # PFNano is NanoAOD with constituents.
        schemas = sorted({info.schema.family for info in files})
    if len(schemas) > 1:
        raise PairsError(f"one training table needs files of one schema; found {', '.join(schemas)}")
    spec = features.resolved(schemas[0], jets)
    lacking = _lacking(files, spec, jets)
    if lacking and not (allow_skipped and len(lacking) < len(files)):
        raise next(iter(lacking.values()))
    for error in lacking.values():
        say(f"skipped: {error}")
    left_out = tuple(Skipped(path, str(error)) for path, error in lacking.items())
    return schemas[0], spec, (tuple(info for info in files if info.path not in lacking), skipped + left_out)


def _lacking(files: Sequence[FileInfo], spec: Features, jets: str) -> dict[str, MissingFieldError]:
    """What files lack that the inputs need, by path."""
    lacking = {}
    for info in files:
        more = info.schema.constituents(jets, info.branches) if spec.constituents else {}
        try:
            info.require(jets, (*spec.jet_fields, "eta", "phi"))
            for collection, fields in more.items():
                info.require(collection, fields)
        except MissingFieldError as error:
            lacking[info.path] = error
    return lacking


def source_of(
    done: Run, schema: str, selection: Selection, normalisation: Mapping[str, Normalisation]
) -> dict[str, Any]:
    """Provenance of a table, for its card and for people."""
    counts = {name: int(done.output[name]) for name in COUNTED}
    return {
        "schema": schema,
        "jets": selection.jets,
        "truth": selection.truth,
        "max_dr": selection.max_dr,
        "files": sorted(info.uuid for info in done.files),
        "events": done.events,
        "truth_jets": counts["truth_jets"],
        "leptons": counts["leptons"],
        "leptons_by": sorted(done.output["leptons_by"]),
        "keep_leptons": selection.keep_leptons,
        **threshold_of(done.output["threshold"]).source,
        "unmatched": counts["truth_jets"] - counts["matched"],
        "truncated_jets": counts["truncated_jets"],
        "without_constituents": counts["without_constituents"],
        "copies": copies(done.files),
        "skipped_files": [[skipped.path, skipped.reason] for skipped in done.skipped],
        "normalisation": {name: each.model_dump() for name, each in normalisation.items()},
    }


def selection_rows(source: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a selection left out, and what its threshold does, for people; tables of earlier versions do not say."""
    rows = []
    if source.get("keep_leptons"):
        rows.append(("leptons", "truth jets that are prompt leptons are kept"))
    elif by := ", ".join(source.get("leptons_by", ())):
        rows.append(("leptons", f"{source['leptons']} leading truth jets are prompt leptons, left out (by {by})"))
    elif "leptons" in source:
        rows.append(("leptons", "the files do not tell which truth jets are prompt leptons"))
    if limit := source.get("truncated_below"):
        at = f"{source['reco_threshold']:.1f} GeV in the files"
        rows.append(("threshold", f"{at}; below {limit:.1f} GeV it truncates the response, and jets are out of range"))
    if lost := source.get("without_constituents"):
        rows.append(("no constituents", f"{lost} matched jets of which the files have none, left out"))
    return rows


def weight_factors(
    sum_of_weights: Mapping[str, float], files: Sequence[FileInfo], fileset: Fileset
) -> dict[str, Normalisation]:
    """What scales the weights of data sets to their cross sections; empty if no data set gives one.

    Args:
        sum_of_weights: Of the events that were read, by data set.
        files: The files that were read.
        fileset: Their data sets.

    Raises:
        FilesetError: As :func:`hepcal.events.normalisation.normalise`.
    """
    with_events = {info.dataset for info in files if info.entries}
    if not any(dataset.cross_section is not None for dataset in fileset.datasets if dataset.name in with_events):
        return {}
    found = normalise({name: sum_of_weights[name] for name in sum_of_weights if name in with_events}, files, fileset)
    # Rounded, so that sums taken over chunks in another order give the same table.
    return {name: each.model_copy(update={"factor": float(f"{each.factor:.9e}")}) for name, each in found.items()}


def columns_of(output: Mapping[str, Any], factors: Mapping[str, Normalisation]) -> dict[str, np.ndarray]:
    """Columns in the order of the fileset, weights multiplied by the factors of their data sets.

    Chunks are taken out of ``output`` as they are copied: the table is in memory once, not twice.
    """
    chunks = output["chunks"]
    rows = sum(len(chunk["reco"]) for _, chunk in chunks.values())
    columns: dict[str, np.ndarray] = {}
    start = 0
    for key in sorted(chunks):
        dataset, chunk = chunks.pop(key)
        chunk["weight"] = chunk["weight"] * (factors[dataset].factor if dataset in factors else 1.0)
        for name in COLUMNS:
            part = chunk.pop(name)
            if name not in columns:
                columns[name] = np.empty((rows, *part.shape[1:]), dtype=part.dtype)
            columns[name][start : start + len(part)] = part
        start += len(part)
    return columns


class PairsProcessor(ProcessorABC):  # type: ignore[misc]
    """Collects the rows of a training table.

    Args:
        features: Resolved feature specification.
        order: Position of each file in the fileset; makes event ids and row order independent of the execution.
        selection: The jets and their truth.
    """

    def __init__(self, features: Features, order: Mapping[str, int], selection: Selection) -> None:
        self.features = features
        self.order = dict(order)
        self.selection = selection

    def process(self, events: ak.Array) -> dict[str, Any]:
        """Rows of one chunk, keyed by its place in the fileset."""
        where, weight = events.metadata, event_weight(events)
        all_jets, found = events[self.selection.jets], self.selection.pairs(events)
        matched = ~ak.is_none(found.partner, axis=1)
        event = np.repeat(np.arange(len(events)), ak.to_numpy(ak.sum(matched, axis=1)))
        jets = ak.flatten(all_jets[ak.drop_none(found.partner)])
        stored = self.features.with_constituents(jets, events, event)
        file, all_truth, chosen = self.order[where["filename"]], _flat(found.truth.pt), _flat(matched).copy()
        chosen[chosen] = stored
        jets, event = jets[stored], event[stored]
        features, reco = self.features.table(jets, events, event)
        rows = {
            "features": features,
            "reco": reco,
            "truth": all_truth[chosen].astype(np.float32),
            "weight": weight[event],
            "event": (file << EVENT_BITS) + where["entrystart"] + event.astype(np.int64),
        }
        counts = count(_flat(all_jets.pt), all_truth, chosen, ak.to_numpy(jets.pt), reco)
        return {
            "chunks": {(file, where["entrystart"]): (where["dataset"], rows)},
            "truth_jets": len(all_truth),
            "matched": len(stored),
            "without_constituents": int(np.sum(~stored)),
            "truncated_jets": self.features.truncated(jets, events, event),
            "leptons": found.leptons,
            "leptons_by": {found.told_by} if found.told_by else set(),
            "sum_of_weights": {where["dataset"]: float(weight.sum())},
            "threshold": {where["dataset"]: counts},
        }

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """Nothing to do."""
        return accumulator


def _flat(lists: ak.Array) -> np.ndarray:
    found: np.ndarray = ak.to_numpy(ak.flatten(lists))
    return found
