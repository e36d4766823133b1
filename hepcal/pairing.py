"""From events to the rows of a training table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np
from coffea.processor import ProcessorABC

from hepcal.features import Features
from hepcal.filesets import Fileset
from hepcal.matching import leading, match
from hepcal.reweighting import dataset_factors
from hepcal.schemas import detector_pt, event_weight, truth_jets

if TYPE_CHECKING:
    from hepcal.running import Run

__all__ = ["COLUMNS", "PairsProcessor", "columns_of", "source_of"]

COLUMNS = ("features", "reco", "truth", "weight", "event")
# Events of a file get consecutive ids from (position of the file in the fileset) << EVENT_BITS.
EVENT_BITS = 40


def source_of(done: Run, schema: str) -> dict[str, Any]:
    """Provenance of a table, for its card and for people."""
    matched = sum(len(rows["reco"]) for _, rows in done.output["chunks"].values())
    return {
        "schema": schema,
        "files": sorted(info.uuid for info in done.files),
        "events": done.events,
        "truth_jets": int(done.output["truth_jets"]),
        "reco_threshold": min(done.output["threshold"]),
        "unmatched": int(done.output["truth_jets"]) - matched,
        "skipped_files": [[skipped.path, skipped.reason] for skipped in done.skipped],
    }


def columns_of(output: Mapping[str, Any], fileset: Fileset) -> dict[str, np.ndarray]:
    """Columns in the order of the fileset, weighted by cross section where the data sets give one."""
    cross_sections = {dataset.name: dataset.metadata.get("cross_section") for dataset in fileset.datasets}
    factors: dict[str, float] = {}
    if any(value is not None for value in cross_sections.values()):
        # Rounded, so that sums taken over chunks in another order give the same table.
        found = dataset_factors(output["sum_of_weights"], cross_sections)
        factors = {name: float(f"{factor:.9e}") for name, factor in found.items()}
    chunks = []
    for key in sorted(output["chunks"]):
        dataset, rows = output["chunks"][key]
        chunks.append({**rows, "weight": rows["weight"] * factors.get(dataset, 1.0)})
    return {name: np.concatenate([rows[name] for rows in chunks]) for name in COLUMNS}


class PairsProcessor(ProcessorABC):  # type: ignore[misc]
    """Collects the rows of a training table.

    Args:
        features: Resolved feature specification.
        order: Position of each file in the fileset; makes event ids and row order independent of the execution.
    """

    def __init__(self, features: Features, order: Mapping[str, int]) -> None:
        self.features = features
        self.order = dict(order)

    def process(self, events: ak.Array) -> dict[str, Any]:
        """Rows of one chunk, keyed by its place in the fileset."""
        where, weight = events.metadata, event_weight(events)
        truth = truth_jets(events)
        partner = match(truth, events.Jet)
        first = leading(truth)
        truth_pt, partner = truth[first].pt, partner[first]
        matched = ~ak.is_none(partner, axis=1)
        event = np.repeat(np.arange(len(events)), ak.to_numpy(ak.sum(matched, axis=1)))
        jets = ak.flatten(events.Jet[ak.drop_none(partner)])
        features, reco = self.features.table(jets, events, event)
        file = self.order[where["filename"]]
        rows = {
            "features": features,
            "reco": reco,
            "truth": ak.to_numpy(ak.flatten(truth_pt[matched])).astype(np.float32),
            "weight": weight[event],
            "event": (file << EVENT_BITS) + where["entrystart"] + event.astype(np.int64),
        }
        return {
            "chunks": {(file, where["entrystart"]): (where["dataset"], rows)},
            "truth_jets": int(ak.sum(ak.num(truth_pt))),
            "sum_of_weights": {where["dataset"]: float(weight.sum())},
            "threshold": [float(ak.min(detector_pt(events.Jet, self.features.pt or "pt")) or np.inf)],
        }

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """Nothing to do."""
        return accumulator
