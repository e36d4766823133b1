"""The histograms: named axes, Weight storage, filled by processors, read by metrics and plots.

Two quantities are judged in the same way: ``pt`` (one entry per matched jet) and ``mjj`` (one per event whose two
leading particle-level jets are matched). For each there are

``<quantity>_response``
    value over truth, in bins of truth (and |eta| for ``pt``).
``<quantity>_pull``
    (truth - calibrated value) / sigma_tot.
``<quantity>_sums``
    weighted sums of the terms in :data:`TERMS`, so that means are exact and not binned.
``pt_pt_truth_pairs``, ``pt_abs_eta_pairs``, ``pt_inclusive_pairs`` and ``..._pair_sums``
    pairs of jets of one event, for the errors (:mod:`hepcal.closure.same_event`); an event has one dijet mass.
``<quantity>``
    the spectrum at truth, reco and calib level; collision data are there under the weighting ``data``.

and ``matching`` counts the leading particle-level jets that have, or lack, a partner. Two category axes are common:
``weighting`` (``qcd``: the weights of the files, ``bsm``: the resonance) and ``level`` (``reco``: before, ``calib``:
after calibration).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hist
import numpy as np

from hepcal.closure.flavours import FLAVOURS, book_flavours
from hepcal.closure.same_event import book_pairs, fill_pairs

__all__ = [
    "QUANTITIES",
    "TERMS",
    "Binning",
    "book",
    "compared",
    "fill_flavours",
    "fill_matching",
    "fill_spectrum",
    "fill_terms",
    "fill_truth",
    "merge",
]

QUANTITIES = ("pt", "mjj")
WEIGHTINGS = ("qcd", "bsm")
LEVELS = ("reco", "calib")
# ``bias`` is response - 1; ``pulled`` counts the entries with a pull, ``judged`` those with an interval.
TERMS = (
    "jets",
    "value",
    "truth",
    "response",
    "bias",
    "pulled",
    "pull",
    "pull_squared",
    "within_sigma_tot",
    "judged",
    "covered_68",
    "sigma_stoch",
    "sigma_pred",
    "in_range",
)
# Groups of jets whose pairs are filled, and the axes of truth that make them.
GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "pt": {"pt_truth": ("pt_truth",), "abs_eta": ("abs_eta",), "inclusive": ()},
    "mjj": {},
}


@dataclass(frozen=True, slots=True)
class Binning:
    """Bin edges; masses and momenta in GeV.

    Attributes:
        pt_truth: Bins of particle-level p_T.
        abs_eta: Bins of |eta| of the particle-level jet.
        mjj_truth: Bins of the particle-level dijet mass.
        response_bins: Bins of the response between 0 and 2.
        pull_bins: Bins of the pull between -10 and 10.
        mjj_spectrum: Number of bins, start and stop of the mass spectrum.
        pt_spectrum: The same for p_T.
    """

    pt_truth: Sequence[float] = (
        20,
        30,
        50,
        80,
        120,
        180,
        250,
        350,
        500,
        700,
        900,
        1000,
        1200,
        1500,
        2000,
        3000,
        5000,
    )
    abs_eta: Sequence[float] = (0, 0.8, 1.3, 2.5, 5.2)
    mjj_truth: Sequence[float] = (
        0, 250, 500, 1000, 1500, 2000, 2200, 2400, 2600, 2700, 2800, 2900, 3000, 3200, 3500, 4000, 5000, 7000
    )  # fmt: skip
    response_bins: int = 400
    pull_bins: int = 200
    mjj_spectrum: tuple[int, float, float] = (140, 0, 7000)
    pt_spectrum: tuple[int, float, float] = (150, 0, 3000)


def book(binning: Binning | None = None) -> dict[str, hist.Hist]:
    """Empty histograms, by name."""
    binning = binning or Binning()
    dataset = hist.axis.StrCategory([], growth=True, name="dataset", label="Data set")
    weighting = _category(WEIGHTINGS, "weighting", "Weighting")
    spectrum_weighting = _category((*WEIGHTINGS, "data"), "weighting", "Weighting")
    level = _category(LEVELS, "level", "Level")
    all_levels = _category(("truth", *LEVELS), "level", "Level")
    term = _category(TERMS, "term", "Summed term")
    eta = hist.axis.Variable(binning.abs_eta, name="abs_eta", label=r"Particle-level jet $|\eta|$")
    truths = {
        "pt": (
            hist.axis.Variable(binning.pt_truth, name="pt_truth", label=r"Particle-level jet $p_T$ [GeV]"),
            eta,
        ),
        "mjj": (hist.axis.Variable(binning.mjj_truth, name="mjj_truth", label=r"Particle-level $m_{jj}$ [GeV]"),),
    }
    symbol = {"pt": r"p_T", "mjj": r"m_{jj}"}
    spectrum = {
        "pt": hist.axis.Regular(*binning.pt_spectrum, name="pt", label=r"Jet $p_T$ [GeV]"),
        "mjj": hist.axis.Regular(*binning.mjj_spectrum, name="mjj", label=r"Dijet mass $m_{jj}$ [GeV]"),
    }
    out = {}
    for name in QUANTITIES:
        s = symbol[name]
        response = hist.axis.Regular(
            binning.response_bins, 0, 2, name="response", label=rf"Response ${s} / {s}^{{\mathrm{{truth}}}}$"
        )
        pull = hist.axis.Regular(
            binning.pull_bins, -10, 10, name="pull",
            label=rf"Pull $({s}^{{\mathrm{{truth}}}} - {s}^{{\mathrm{{calib}}}}) / \sigma_{{\mathrm{{tot}}}}$",
        )  # fmt: skip
        out[f"{name}_response"] = _weighted(dataset, weighting, level, *truths[name], response)
        out[f"{name}_pull"] = _weighted(dataset, weighting, *truths[name], pull)
        out[f"{name}_sums"] = _weighted(dataset, weighting, level, *truths[name], term)
        out[name] = _weighted(dataset, spectrum_weighting, all_levels, spectrum[name])
        for group, names in GROUPS[name].items():
            chosen = [axis for axis in truths[name] if axis.name in names]
            out |= book_pairs(f"{name}_{group}", (dataset, weighting, level), chosen)
    matched = _category(("matched", "unmatched"), "partner", "Detector-level partner")
    out["matching"] = _weighted(dataset, *truths["pt"], matched)
    return out


def merge(by_dataset: Mapping[str, Mapping[str, hist.Hist]]) -> dict[str, hist.Hist]:
    """Histograms of single data sets to one set with all of them on the ``dataset`` axis, in alphabetical order.

    Chunks of one data set add up quickly; with many data sets on a growing axis each addition would copy them all.
    """
    merged: dict[str, hist.Hist] = {}
    for dataset in sorted(by_dataset):
        for name, part in by_dataset[dataset].items():
            merged[name] = merged[name] + part if name in merged else part
    return merged


def _category(names: Sequence[str], name: str, label: str) -> hist.axis.StrCategory:
    return hist.axis.StrCategory(names, name=name, label=label, overflow=False)


def _weighted(*axes: Any) -> hist.Hist:
    return hist.Hist(*axes, storage=hist.storage.Weight())


def fill_spectrum(
    hists: Mapping[str, hist.Hist],
    quantity: str,
    level: str,
    values: np.ndarray,
    weights: Mapping[str, np.ndarray],
    dataset: str,
) -> None:
    """Fill a spectrum for every weighting.

    Args:
        hists: From :func:`book`.
        quantity: ``pt`` or ``mjj``.
        level: ``truth``, ``reco`` or ``calib``.
        values: [GeV], shape (n,).
        weights: Weight of each entry by weighting, shape (n,) each.
        dataset: Name of the data set.
    """
    for weighting, weight in weights.items():
        hists[quantity].fill(dataset=dataset, weighting=weighting, level=level, weight=weight, **{quantity: values})


def fill_truth(
    hists: Mapping[str, hist.Hist],
    quantity: str,
    truth: Mapping[str, np.ndarray],
    levels: Mapping[str, Mapping[str, np.ndarray]],
    weights: Mapping[str, np.ndarray],
    dataset: str,
    event: np.ndarray | None = None,
) -> None:
    """Fill everything that compares a quantity with its truth.

    Args:
        hists: From :func:`book`.
        quantity: ``pt`` or ``mjj``.
        truth: The truth axes of that quantity: ``pt_truth`` and ``abs_eta``, or ``mjj_truth``; shape (n,) each.
        levels: For ``reco`` and ``calib``: ``value`` [GeV] and, where the method provides them, ``sigma_stoch``,
            ``sigma_pred``, ``sigma_tot`` [GeV], ``in_range``, and ``covered_68``: whether the truth lies in the
            central 68.27 % interval; shape (n,) each.
        weights: Weight of each entry by weighting, shape (n,) each.
        dataset: Name of the data set.
        event: Number of the event of each entry, rising, shape (n,); None: each entry has its own.
    """
    true_value = truth[f"{quantity}_truth"].astype(np.float64)
    for level, given in levels.items():
        terms = compared(given, true_value)
        for weighting, weight in weights.items():
            label = {"dataset": dataset, "weighting": weighting}
            where = {**label, **truth}
            hists[f"{quantity}_response"].fill(**where, level=level, response=terms["response"], weight=weight)
            if "pull" in terms:
                hists[f"{quantity}_pull"].fill(**where, pull=terms["pull"], weight=weight * terms["pulled"])
            fill_terms(hists[f"{quantity}_sums"], {**where, "level": level}, terms, weight)
            for group, names in GROUPS[quantity].items() if event is not None else ():
                chosen = {name: truth[name] for name in names}
                place = {**label, "level": level}
                fill_pairs(hists, f"{quantity}_{group}", chosen, terms, weight, np.asarray(event), place)


def fill_flavours(
    hists: dict[str, hist.Hist],
    pt_truth: np.ndarray,
    flavour: np.ndarray,
    levels: Mapping[str, Mapping[str, np.ndarray]],
    weights: Mapping[str, np.ndarray],
    dataset: str,
    event: np.ndarray,
) -> None:
    """Fill the closure of p_T by flavour; its histograms are booked when the first file knows flavours.

    Args:
        hists: From :func:`book`; gets :func:`hepcal.closure.flavours.book_flavours`.
        pt_truth: Shape (n,).
        flavour: From :func:`hepcal.closure.flavours.flavour_of`, shape (n,).
        levels: As in :func:`fill_truth`.
        weights: Weight of each jet by weighting, shape (n,) each.
        dataset: Name of the data set.
        event: Number of the event of each jet, rising, shape (n,).
    """
    if "pt_flavour_sums" not in hists:
        dataset_axis, weighting_axis, level_axis, truth_axis, _, response = hists["pt_response"].axes
        dataset_axis = hist.axis.StrCategory([], growth=True, name="dataset", label=dataset_axis.label)
        common = (dataset_axis, weighting_axis, level_axis)
        hists |= book_flavours(common, truth_axis, response, hists["pt_sums"].axes["term"])
    truth = pt_truth.astype(np.float64)
    for level, given in levels.items():
        terms = compared(given, truth)
        for weighting, weight in weights.items():
            for number, name in enumerate(FLAVOURS):
                chosen = flavour == number
                if not chosen.any():
                    continue
                where = {"dataset": dataset, "weighting": weighting, "level": level, "flavour": name}
                columns = {term: values[chosen] for term, values in terms.items()}
                place = {"pt_truth": pt_truth[chosen]}
                response = columns["response"]
                hists["pt_flavour_response"].fill(**where, **place, response=response, weight=weight[chosen])
                fill_terms(hists["pt_flavour_sums"], {**where, **place}, columns, weight[chosen])
                fill_pairs(hists, "pt_flavour", place, columns, weight[chosen], event[chosen], where)


def fill_terms(sums: hist.Hist, where: Mapping[str, Any], terms: Mapping[str, np.ndarray], weight: np.ndarray) -> None:
    """Fill weighted sums of terms, shape (n,) each."""
    for term, values in terms.items():
        sums.fill(**where, term=term, weight=weight * values)


def compared(columns: Mapping[str, np.ndarray], truth: np.ndarray) -> dict[str, np.ndarray]:
    """The terms of a level, float64 of shape (n,) each; those that the method does not provide are left out.

    A pull is that of an entry inside the training support whose sigma_tot is positive and finite: beyond the support
    a method extrapolates, and its uncertainty says nothing.

    Args:
        columns: As in :func:`fill_truth`.
        truth: Shape (n,).
    """
    value = columns["value"].astype(np.float64)
    terms = {
        "jets": np.ones_like(value),
        "value": value,
        "truth": truth,
        "response": value / truth,
        "bias": (value - truth) / truth,
    }
    terms |= {
        name: columns[name].astype(np.float64) for name in ("sigma_stoch", "sigma_pred", "in_range") if name in columns
    }
    if "sigma_tot" in columns:
        sigma = columns["sigma_tot"].astype(np.float64)
        there = (sigma > 0) & np.isfinite(sigma) & columns.get("in_range", np.ones(len(sigma), dtype=bool))
        pull = np.where(there, (truth - value) / np.where(there, sigma, 1), 0.0)
        terms |= {"pulled": there.astype(np.float64), "pull": pull, "pull_squared": pull**2}
        terms["within_sigma_tot"] = (np.abs(truth - value) < np.nan_to_num(sigma)).astype(np.float64)
    if "covered_68" in columns:
        terms |= {"judged": terms["jets"], "covered_68": columns["covered_68"].astype(np.float64)}
    return terms


def fill_matching(
    hists: Mapping[str, hist.Hist],
    pt_truth: np.ndarray,
    abs_eta: np.ndarray,
    matched: np.ndarray,
    weight: np.ndarray,
    dataset: str,
) -> None:
    """Count leading particle-level jets with and without a partner; arrays of shape (n,)."""
    for partner, chosen in (("matched", matched), ("unmatched", ~matched)):
        hists["matching"].fill(
            dataset=dataset,
            pt_truth=pt_truth[chosen],
            abs_eta=abs_eta[chosen],
            partner=partner,
            weight=weight[chosen],
        )
