"""What a run sees of the inputs of a calibrator, to be compared with its training."""

from __future__ import annotations

import awkward as ak
import numpy as np
from hepcal.processors.selection import LeadingPair

from hepcal.events.columns import FlatJets
from hepcal.events.matching import leading
from hepcal.methods.calibrator import Calibrator
from hepcal.tables.input_histograms import InputHistograms

__all__ = ["of_data", "of_simulation"]

Seen = dict[str, InputHistograms]


def of_simulation(calibrator: Calibrator, pair: LeadingPair, events: ak.Array, weight: np.ndarray) -> Seen:
    """The inputs of the matched jets at fixed true p_T, in the bins of the training; nothing where it left none.

    Args:
        calibrator: What was trained.
        pair: The jets.
        events: Their events.
        weight: Of the events, shape (events,).
    """
    booked = calibrator.input_histograms.get("truth")
    if booked is None:
        return {}
    jets = FlatJets(pair.reco)
    truth = ak.to_numpy(ak.flatten(pair.truth.pt))[ak.to_numpy(ak.flatten(pair.matched))]
    spec = calibrator.card.features
    table, reco = spec.table(jets.flat, events, jets.event_index)
    return {"truth": booked.filled(spec, table, reco, truth, weight[jets.event_index])}


def of_data(calibrator: Calibrator, jets: ak.Array, events: ak.Array) -> Seen:
    """The same of the two leading jets of collision data, at fixed detector-level p_T."""
    booked = calibrator.input_histograms.get("reco")
    if booked is None:
        return {}
    spec = calibrator.card.features
    flat = FlatJets(jets[leading(jets)])
    table, reco = spec.table(flat.flat, events, flat.event_index)
    return {"reco": booked.filled(spec, table, reco, None, np.ones(len(reco)))}
