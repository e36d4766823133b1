"""How much of a resonance a sample can show: a falling spectrum reweighted where it has no events shows its own end."""

from __future__ import annotations

from collections.abc import Mapping

import hist
from scipy.special import ndtr

from hepcal.closure.metrics import closure
from hepcal.closure.records import ResonanceRecord
from hepcal.tables.spectra import MassDensity, Resonance

__all__ = ["shown"]


def shown(resonance: Resonance, density: MassDensity | None, hists: Mapping[str, hist.Hist]) -> ResonanceRecord:
    """The resonance as it stands in ``summary.json``.

    Args:
        resonance: The ``bsm`` weighting.
        density: Density of the true mass of the sample; None if it has too few events.
        hists: Filled histograms.

    Returns:
        ``mass`` and ``width`` [GeV]; ``n_eff``, the effective number of events with its weights; ``density_range``
        [GeV], where the sample has a density, ``inside_density``, the share of the resonance in there, and ``norm``,
        the sum of its weights over that of the sample, which is that share but for fluctuations; None where there is no
        density.
    """
    found: ResonanceRecord = {"mass": resonance.mass, "width": resonance.width, "n_eff": 0.0}
    if density is None:
        return {**found, "density_range": None, "inside_density": None, "norm": None}
    sums = {name: _weight(hists, name) for name in ("qcd", "bsm")}
    low, high = ((end - resonance.mass) / resonance.width for end in density.range)
    return {
        **found,
        "n_eff": float(closure(hists, "mjj", "reco", "bsm", total=True).n_eff[0]),
        "density_range": list(density.range),
        "inside_density": float(ndtr(high) - ndtr(low)),
        "norm": sums["bsm"] / sums["qcd"] if sums["qcd"] else None,
    }


def _weight(hists: Mapping[str, hist.Hist], weighting: str) -> float:
    """Sum of weights of the dijets."""
    chosen = {"weighting": hist.loc(weighting), "level": hist.loc("reco"), "term": hist.loc("jets")}
    return float(hists["mjj_sums"][chosen].project("mjj_truth").view(flow=True)["value"].sum())
