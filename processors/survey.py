"""The pass before the pass: sums of weights, and the density of the true dijet mass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea.processor import ProcessorABC
from hepcal.processors.selection import dijet_mass
from pydantic import BaseModel, ConfigDict

from hepcal.errors import FilesetError
from hepcal.events.filesets import Fileset
from hepcal.events.inspection import FileInfo
from hepcal.events.normalisation import Normalisation, normalise
from hepcal.events.schemas import event_weight, is_simulation
from hepcal.events.truth import leading_jets, require_usable
from hepcal.tables.spectra import MassDensity

__all__ = ["Survey", "SurveyProcessor"]


class Survey(BaseModel):
    """What one pass over a whole fileset found.

    Attributes:
        norm: Factor on the file weights of each data set, so that all weights together sum to one, or to the
            ``cross_section`` [pb] of each data set where that is given.
        simulation: Which data sets have truth.
        density: Density of the true dijet mass under these weights; None if too few events have one.
        normalisation: Where the factors of simulated data sets are from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: dict[str, float]
    simulation: dict[str, bool]
    density: MassDensity | None
    normalisation: dict[str, Normalisation] = {}

    def factor(self, dataset: str) -> float:
        """Factor on the file weights of a data set.

        Raises:
            FilesetError: The survey did not see this data set.
        """
        if dataset not in self.norm:
            raise FilesetError(
                f"data set {dataset!r} was not surveyed; the survey covers {', '.join(map(repr, self.norm))}. "
                "Survey the fileset that is run"
            )
        return self.norm[dataset]

    @classmethod
    def from_output(cls, output: Mapping[str, Any], fileset: Fileset, files: Sequence[FileInfo] = ()) -> Survey:
        """From the output of :class:`SurveyProcessor`.

        Args:
            output: Of all events.
            fileset: The data sets.
            files: The files that were read (:attr:`hepcal.events.running.Run.files`): what NanoAOD says there of the
                events before a skim stands for the cross sections. Without it, the events that were read do.

        Raises:
            FilesetError: Some simulated data sets have a cross section and others have none, several have none and do
                not say how they are mixed, or weights of a data set do not sum to a positive number.
        """
        simulation = output["simulation"]
        # A data set of empty files has no events to weight.
        simulated = [name for name in simulation if simulation[name] and output["events"][name]]
        found = normalise({name: output["sum_of_weights"][name] for name in simulated}, files, fileset)
        norm = {name: found[name].factor if name in found else 1.0 for name in simulation}
        masses = None
        for name in simulated:
            part = output["masses"][name] * norm[name]
            masses = part if masses is None else masses + part
        return cls(
            norm=norm,
            simulation=simulation,
            density=None if masses is None else MassDensity.from_hist(masses),
            normalisation=found,
        )


class SurveyProcessor(ProcessorABC):  # type: ignore[misc]
    """Sums weights and fills the true dijet mass, by data set.

    Args:
        truth: Collection of particle-level jets.
        keep_leptons: Take particle-level jets that are prompt leptons, too.
    """

    def __init__(self, *, truth: str = "GenJet", keep_leptons: bool = False) -> None:
        self.truth, self.keep_leptons = truth, keep_leptons

    def process(self, events: ak.Array) -> dict[str, Any]:
        """One chunk."""
        dataset, weight = events.metadata["dataset"], event_weight(events)
        simulation = is_simulation(events, self.truth)
        masses = hist.Hist(MassDensity.axis(), storage=hist.storage.Weight())
        if simulation:
            chosen = leading_jets(events, self.truth, keep_leptons=self.keep_leptons)
            truth = chosen.jets[chosen.order]
            for name in ("eta", "phi", "mass"):
                require_usable(truth, events, self.truth, name)
            mass = dijet_mass(truth)
            found = np.isfinite(mass)
            masses.fill(mass[found], weight=weight[found])
        return {
            "events": {dataset: len(events)},
            "sum_of_weights": {dataset: float(weight.sum())},
            "simulation": {dataset: int(simulation)},
            "masses": {dataset: masses},
        }

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """Counts of chunks with truth to yes or no."""
        return {
            **accumulator,
            "simulation": {name: bool(flag) for name, flag in accumulator["simulation"].items()},
        }
