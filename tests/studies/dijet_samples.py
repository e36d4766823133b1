"""Dijets of the shared QCD samples: the mass at both levels, and the jets that it is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import numpy as np
from coffea.nanoevents import NanoEventsFactory
from hepcal.processors.selection import LeadingPair, dijet_mass

import hepcal
from hepcal.events.features import DEFAULT_FEATURES
from hepcal.events.schemas import SCHEMAS

__all__ = ["Dijets", "files_of"]


def files_of(folder: Path, first: int, last: int) -> list[Path]:
    """Files ``first`` to ``last`` of a folder, counted from one."""
    return sorted(folder.glob("*.root"))[first - 1 : last]


@dataclass(frozen=True)
class Dijets:
    """One row per event with two matched leading particle-level jets; all events weigh one.

    Attributes:
        reco: Mass of the two detector-level jets, uncalibrated [GeV], float64 of shape (n,).
        truth: Mass of the two particle-level jets [GeV], shape (n,).
        jets: The two detector-level jets of each event with the default inputs, ``n * var * Jet``.
        events: Number of events read; those without two matched jets have no row.
    """

    reco: np.ndarray
    truth: np.ndarray
    jets: ak.Array
    events: int

    def __len__(self) -> int:
        return len(self.reco)

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Dijets:
        """Read files in the layout of Delphes."""
        layout, features = SCHEMAS["delphes"], DEFAULT_FEATURES["delphes"].jet_fields
        parts, events = [], 0
        for path in paths:
            read = NanoEventsFactory.from_root({str(path): layout.tree}, schemaclass=layout.coffea).events()
            pair = LeadingPair.of(read, features)
            parts.append((pair.mass_truth[pair.complete], ak.materialize(ak.drop_none(pair.reco[pair.complete]))))
            events += len(read)
        jets = ak.concatenate([jets for _, jets in parts])
        return cls(dijet_mass(jets), np.concatenate([truth for truth, _ in parts]), jets, events)

    def pairs(self, weight: np.ndarray | None = None) -> hepcal.JetPairs:
        """The table of the mass itself, without features; rows of weight zero are left out."""
        rows = slice(None) if weight is None else np.flatnonzero(weight)
        return hepcal.JetPairs.from_arrays(
            np.empty((len(self.reco[rows]), 0)), [], reco=self.reco[rows], truth=self.truth[rows],
            weight=None if weight is None else weight[rows],
        )  # fmt: skip

    def from_jets(self, calibrator: hepcal.Calibrator) -> tuple[np.ndarray, np.ndarray]:
        """Mass of the two calibrated jets [GeV], and whether both are inside the training support; shape (n,) each."""
        jets = calibrator(self.jets, replace=True)
        return dijet_mass(jets), ak.to_numpy(ak.all(jets.pt_calib_in_range, axis=1))
