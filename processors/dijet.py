"""Dijets before and after calibration, as QCD and reweighted to a resonance."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
from coffea.processor import ProcessorABC
from hepcal.processors import inputs
from hepcal.processors.response import fields_for, fill_jets, truth_for
from hepcal.processors.selection import LeadingPair, collections_of, dijet_mass, jet_columns
from hepcal.processors.survey import Survey

from hepcal.closure import hists
from hepcal.distributions.uncertainties import in_quadrature
from hepcal.events.columns import REPLICAS
from hepcal.events.matching import leading
from hepcal.events.schemas import MOMENTUM, event_weight, is_simulation
from hepcal.events.truth import require_usable
from hepcal.methods.calibrator import Calibrator
from hepcal.tables.spectra import Resonance

__all__ = ["DijetProcessor"]

# For the spread over replicas, to bound memory.
EVENTS_AT_ONCE = 4096


class DijetProcessor(ProcessorABC):  # type: ignore[misc]
    """Fills response, bias, resolution, pulls and spectra of jets and dijet masses.

    Args:
        calibrator: Attaches the calibration.
        survey: Weights of the data sets and density of the true mass, from one earlier pass. Without it the file
            weights are used as they are, and there is no resonance.
        resonance: The resonance that the ``bsm`` weighting imitates; default M = 2.8 TeV, width 100 GeV.
        binning: Bins, if not the default ones.
        jets: Collection of detector-level jets; default: that of the training, ``Jet``.
        truth: Collection of particle-level jets; default: that of the training, ``GenJet``.
        keep_leptons: Take particle-level jets that are prompt leptons, too.
    """

    def __init__(
        self,
        calibrator: Calibrator,
        survey: Survey | None = None,
        resonance: Resonance | None = None,
        binning: hists.Binning | None = None,
        *,
        jets: str | None = None,
        truth: str | None = None,
        keep_leptons: bool = False,
    ) -> None:
        self.jets, self.truth = collections_of(calibrator.card, jets, truth)
        self.keep_leptons = keep_leptons
        self.calibrator = calibrator
        self.survey = survey
        self.resonance = resonance or Resonance()
        self.binning = binning

    def process(self, events: ak.Array) -> dict[str, Any]:
        """One chunk: histograms, and counts of events read, selected and outside the mass density."""
        dataset, booked = events.metadata["dataset"], hists.book(self.binning)
        if not is_simulation(events, self.truth):
            return self._process_data(events, booked, dataset)
        fields = fields_for(self.calibrator, events[self.jets])
        pair = LeadingPair.of(events, fields, jets=self.jets, truth=self.truth, keep_leptons=self.keep_leptons)
        pair.require_masses()
        replicas, truth_pt = bool(self.calibrator.replicas), truth_for(self.calibrator, pair)
        jets = self.calibrator(pair.reco, event=events, replicas=replicas, truth=truth_pt)
        weights, outside = self._weights(events, pair, dataset)
        fill_jets(booked, self.calibrator, pair, jets, weights, dataset)
        use = pair.complete
        truth = {"mjj_truth": pair.mass_truth[use]}
        levels = self._masses(jets[use])
        chosen = {name: weight[use] for name, weight in weights.items()}
        hists.fill_truth(booked, "mjj", truth, levels, chosen, dataset)
        for level, mass in (
            ("truth", truth["mjj_truth"]),
            *((name, c["value"]) for name, c in levels.items()),
        ):
            hists.fill_spectrum(booked, "mjj", level, mass, chosen, dataset)
        counts = {
            "events": len(events),
            "selected": int(use.sum()),
            "outside_density": outside,
            "leptons": pair.leptons,
        }
        seen = inputs.of_simulation(self.calibrator, pair, events, weights["qcd"])
        return {"counts": {dataset: counts}, "hists": {dataset: booked}, "inputs": {dataset: seen}}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """One set of histograms with all data sets on its axis, in alphabetical order."""
        return {**accumulator, "hists": hists.merge(accumulator["hists"])}

    def _weights(self, events: ak.Array, pair: LeadingPair, dataset: str) -> tuple[dict[str, np.ndarray], int]:
        """Weight of each event by weighting, and how many events the mass density does not cover."""
        weight = event_weight(events)
        if self.survey is None:
            return {"qcd": weight}, 0
        weight = weight * self.survey.factor(dataset)
        if self.survey.density is None:
            return {"qcd": weight}, 0
        bsm, inside = self.resonance.weights(pair.mass_truth, weight, self.survey.density)
        return {"qcd": weight, "bsm": bsm}, int(np.sum(np.isfinite(pair.mass_truth) & ~inside))

    def _masses(self, jets: ak.Array) -> dict[str, dict[str, np.ndarray]]:
        """Dijet mass and its uncertainties before and after calibration, for events with two calibrated jets.

        sigma_stoch of two jets is independent. sigma_pred of the mass is its spread over the replicas, which carry the
        correlation of the two jets; they come from the weight draws, also where sigma_pred of a jet does not. There is
        no interval of the mass: only what lies within its sigma_tot is counted, not its coverage.
        """
        reco, calib = at_scale(jets, self.calibrator.reco(jets)), at_scale(jets, jets.pt_calib)
        mass = dijet_mass(calib)
        columns: dict[str, np.ndarray] = {
            "value": mass,
            "in_range": ak.to_numpy(ak.all(jets.pt_calib_in_range, axis=1)),
        }
        if "pt_calib_sigma_stoch" in jets.fields:
            columns["sigma_stoch"] = mass_sigma(calib, mass, jets.pt_calib_sigma_stoch / jets.pt_calib)
        if REPLICAS in jets.fields:
            columns["sigma_pred"] = replica_spread(calib, jets)
        parts = [columns[name] for name in ("sigma_stoch", "sigma_pred") if name in columns]
        if "pt_calib_sigma_cal" in jets.fields:
            # With errors of the labels, what is independent between jets is all but sigma_pred.
            shared = jets.pt_calib_sigma_pred if "pt_calib_sigma_pred" in jets.fields else 0
            independent = np.sqrt(jets.pt_calib_sigma_tot**2 - shared**2)
            parts[0] = mass_sigma(calib, mass, independent / jets.pt_calib)
        if parts:
            columns["sigma_tot"] = in_quadrature(*parts)
        return {"reco": {"value": dijet_mass(reco)}, "calib": columns}

    def _process_data(self, events: ak.Array, booked: dict[str, Any], dataset: str) -> dict[str, Any]:
        """Collision data: spectra of the two jets that lead at each level; the truth histograms stay empty."""
        found = events[self.jets]
        jets = self.calibrator(jet_columns(found, self.calibrator.card.features.fields_of(found)), event=events)
        seen = inputs.of_data(self.calibrator, jets, events)
        jets = jets[ak.num(jets) >= 2]
        for name in MOMENTUM:
            require_usable(jets, events[ak.num(found) >= 2], self.jets, name)
        for level, pt in (("reco", self.calibrator.reco(jets)), ("calib", jets.pt_calib)):
            scaled = at_scale(jets, pt)
            scaled = scaled[leading(scaled)]
            flat = ak.to_numpy(ak.flatten(scaled.pt))
            hists.fill_spectrum(booked, "mjj", level, dijet_mass(scaled), {"data": np.ones(len(jets))}, dataset)
            hists.fill_spectrum(booked, "pt", level, flat, {"data": np.ones(len(flat))}, dataset)
        counts = {"events": len(events), "selected": len(jets), "outside_density": 0, "leptons": 0}
        return {"counts": {dataset: counts}, "hists": {dataset: booked}, "inputs": {dataset: seen}}


def at_scale(jets: ak.Array, pt: ak.Array) -> ak.Array:
    """Four-momenta of jets with another p_T; the mass scales along."""
    return ak.zip({"pt": pt, "eta": jets.eta, "phi": jets.phi, "mass": jets.mass * (pt / jets.pt)})


def replica_spread(calib: ak.Array, jets: ak.Array) -> np.ndarray:
    """Spread [GeV] of the dijet mass over the replicas of its two jets, with S - 1.

    Args:
        calib: Two jets per event at the calibrated scale.
        jets: The same with ``pt_calib`` and ``pt_calib_replicas``.

    Returns:
        float64 of shape (events,).
    """
    # The type allows missing jets; selected events have none.
    replicas, center = (
        [np.ma.getdata(ak.to_numpy(jets[name][:, i])) for i in (0, 1)] for name in (REPLICAS, "pt_calib")
    )
    squares = [ak.to_numpy(calib.mass[:, i]).astype(np.float64) ** 2 for i in (0, 1)]
    product = (dijet_mass(calib) ** 2 - squares[0] - squares[1]) / 2
    spread = np.empty(len(product))
    for start in range(0, len(spread), EVENTS_AT_ONCE):
        part = slice(start, start + EVENTS_AT_ONCE)
        first, second = (
            replica[part].astype(np.float64) / value[part, None]
            for replica, value in zip(replicas, center, strict=True)
        )
        # Four-momenta scale as a whole, so the invariants scale with the products of the two ratios.
        mass_squared = first**2 * squares[0][part, None] + second**2 * squares[1][part, None]
        mass_squared += 2 * first * second * product[part, None]
        spread[part] = np.sqrt(mass_squared).std(axis=1, ddof=1)
    return spread


def mass_sigma(jets: ak.Array, mass: np.ndarray, relative: ak.Array) -> np.ndarray:
    """Uncertainty [GeV] of a dijet mass from independent relative uncertainties of the two jets, linearised.

    With m² = m1² + m2² + 2 p1·p2 and jet i scaled by 1 + d, dm/dd = (m_i² + p1·p2) / m.

    Args:
        jets: Two jets per event with ``mass`` [GeV].
        mass: Dijet mass [GeV], shape (events,).
        relative: Relative uncertainty per jet, ``events * 2``.
    """
    squares = [ak.to_numpy(jets.mass[:, i]).astype(np.float64) ** 2 for i in (0, 1)]
    product = (mass**2 - squares[0] - squares[1]) / 2
    parts = [((squares[i] + product) / mass * ak.to_numpy(relative[:, i])) ** 2 for i in (0, 1)]
    return np.asarray(np.sqrt(parts[0] + parts[1]))
