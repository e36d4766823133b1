"""Response of jets before and after calibration."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
from coffea.processor import ProcessorABC
from hepcal.processors.selection import LeadingPair, collections_of

from hepcal.closure import flavours, hists
from hepcal.events.columns import COVERED
from hepcal.events.schemas import event_weight, is_simulation
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.interval_coverage import has_interval

__all__ = ["ResponseProcessor", "fields_for", "fill_jets", "truth_for"]


class ResponseProcessor(ProcessorABC):  # type: ignore[misc]
    """Fills p_T response, pulls and spectra of the leading two jets, weighted as in the files.

    Args:
        calibrator: Attaches the calibration.
        binning: Bins, if not the default ones.
        jets: Collection of detector-level jets; default: that of the training, ``Jet``.
        truth: Collection of particle-level jets; default: that of the training, ``GenJet``.
        keep_leptons: Take particle-level jets that are prompt leptons, too.
    """

    def __init__(
        self,
        calibrator: Calibrator,
        binning: hists.Binning | None = None,
        *,
        jets: str | None = None,
        truth: str | None = None,
        keep_leptons: bool = False,
    ) -> None:
        self.jets, self.truth = collections_of(calibrator.card, jets, truth)
        self.keep_leptons = keep_leptons
        self.calibrator = calibrator
        self.binning = binning

    def process(self, events: ak.Array) -> dict[str, Any]:
        """One chunk of simulated events; collision data leave the histograms empty."""
        booked, dataset = hists.book(self.binning), events.metadata["dataset"]
        if is_simulation(events, self.truth):
            fields = fields_for(self.calibrator, events[self.jets])
            pair = LeadingPair.of(events, fields, jets=self.jets, truth=self.truth, keep_leptons=self.keep_leptons)
            jets = self.calibrator(pair.reco, event=events, truth=truth_for(self.calibrator, pair))
            fill_jets(booked, self.calibrator, pair, jets, {"qcd": event_weight(events)}, dataset)
        return {"events": len(events), "hists": {dataset: booked}}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """One set of histograms with all data sets on its axis, in alphabetical order."""
        return {**accumulator, "hists": hists.merge(accumulator["hists"])}


def fields_for(calibrator: Calibrator, jets: ak.Array) -> tuple[str, ...]:
    """Fields of detector-level jets to read: those of the calibrator, and their flavour where the file has one."""
    return (*calibrator.card.features.fields_of(jets), *flavours.flavour_fields(jets.fields))


def truth_for(calibrator: Calibrator, pair: LeadingPair) -> ak.Array | None:
    """What a calibrator needs to say which truths its intervals cover; None if it has no intervals."""
    return pair.truth.pt if has_interval(calibrator) else None


def fill_jets(
    booked: dict[str, Any],
    calibrator: Calibrator,
    pair: LeadingPair,
    jets: ak.Array,
    weights: dict[str, np.ndarray],
    dataset: str,
) -> None:
    """Fill the ``pt`` and ``matching`` histograms with calibrated jets.

    Args:
        booked: From :func:`hepcal.closure.hists.book`.
        calibrator: What calibrated the jets.
        pair: The selected jets.
        jets: Its detector-level jets with calibrated columns.
        weights: Weight of each event by weighting, shape (events,) each.
        dataset: Name of the data set.
    """
    here = ak.to_numpy(ak.flatten(pair.matched))
    event = np.repeat(np.arange(len(pair.truth)), ak.to_numpy(ak.num(pair.truth)))
    pt_truth, abs_eta = (
        ak.to_numpy(ak.flatten(pair.truth.pt)),
        np.abs(ak.to_numpy(ak.flatten(pair.truth.eta))),
    )
    hists.fill_matching(booked, pt_truth, abs_eta, here, weights["qcd"][event], dataset)
    found = ak.drop_none(ak.flatten(jets))
    calib = {"value": found.pt_calib, "in_range": found.pt_calib_in_range}
    calib |= {name.removeprefix("pt_calib_"): found[name] for name in found.fields if name.startswith("pt_calib_sigma")}
    calib |= {"covered_68": found[COVERED]} if COVERED in found.fields else {}
    levels = {
        "reco": {"value": ak.to_numpy(calibrator.reco(found))},
        "calib": {name: ak.to_numpy(column) for name, column in calib.items()},
    }
    truth = {"pt_truth": pt_truth[here], "abs_eta": abs_eta[here]}
    per_jet = {name: weight[event][here] for name, weight in weights.items()}
    hists.fill_truth(booked, "pt", truth, levels, per_jet, dataset, event[here])
    if names := flavours.flavour_fields(found.fields):
        known = flavours.flavour_of({name: ak.to_numpy(found[name]) for name in names})
        hists.fill_flavours(booked, truth["pt_truth"], known, levels, per_jet, dataset, event[here])
    for level, values in (("truth", truth["pt_truth"]), *((name, c["value"]) for name, c in levels.items())):
        hists.fill_spectrum(booked, "pt", level, values, per_jet, dataset)
