"""The threshold of the files, and the p_T below which it truncates p(reco | truth).

A file holds jets above a cut on one variable, the p_T that it stores (on NanoAOD the corrected one, whatever p_T is
calibrated). Below some truth a part of the jets is lost to that cut, and what is left of p(reco | truth) has another
median. Both numbers are properties of the selection: they are read off counts of all jets, which add up to the same for
any chunks and order, and which no single jet moves.

**The cut** c is the sharp lower edge of the spectrum of the stored p_T in each data set, the highest of several; or the
response times the truth at which half of the truth jets find a partner, where that is clearly higher.

**The limit** follows from the response r and its relative width s (from the upper side, which a cut leaves alone), both
measured in bins of the truth p: of a Gaussian the cut takes the share f = Phi((c / (r p) - 1) / s), and the median of
the rest is off by s Phi⁻¹((1 + f) / 2). That is less than 1 % where r p > c / (1 - k s), with
k = -Phi⁻¹(2 Phi(0.01 / s) - 1): 1.2 c for s = 10 %, 2.4 c for 30 %. Responses have longer tails than a Gaussian: the
limit is at least 1.5 c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.special import ndtr, ndtri

from hepcal.errors import PairsError

__all__ = ["MARGIN", "Threshold", "count", "known_cut", "threshold_of"]

# What the median may be off by, relative.
TOLERANCE = 0.01
# Least limit, in units of the cut.
MARGIN = 1.5
# Bins in ln p_T [GeV] of all jets and of the truth, and in ln response.
LOWEST, HIGHEST = 1.0, 20_000.0
STEP, TRUTH_STEP, RESPONSE_STEP = 0.005, float(np.log(1.2)), 0.02
SMALLEST_RESPONSE, LARGEST_RESPONSE = 0.1, 10.0
# Jets below the edge of a spectrum that do not make it: as many at least, and this share.
STRAY_JETS, STRAY_SHARE = 3, 1e-3
# An edge is sharp where the first tenth above it holds this share of the jets of the first fifth: about a half at a
# cut, a quarter or less in the tail of a distribution.
SHARP = 0.4
LEAST_AT_EDGE, LEAST_IN_BIN, LEAST_FOR_WIDTH = 20, 20, 50
ONE_SIGMA = float(ndtr(1.0))

Counts = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a threshold does.

    Attributes:
        reco: Detector-level p_T [GeV] that corresponds to the cut; zero if there is none.
        truncated_below: Detector-level p_T [GeV] below which no calibration can be right.
        truth: The truth p_T [GeV] at that limit.
    """

    reco: float
    truncated_below: float
    truth: float

    @property
    def source(self) -> dict[str, float]:
        """As entries of the provenance of a table."""
        return {
            "reco_threshold": self.reco,
            "truncated_below": self.truncated_below,
            "truncated_below_truth": self.truth,
        }


def _bins(low: float, high: float, step: float) -> int:
    return round(float(np.log(high / low)) / step)


def _filled(values: np.ndarray, low: float, high: float, step: float) -> np.ndarray:
    """Bin of each value; values outside are in the first or last one, those that are no numbers in the first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.log(np.asarray(values, dtype=np.float64) / low) / step
    last = _bins(low, high, step) - 1
    return np.asarray(np.clip(np.nan_to_num(place, nan=0, posinf=last, neginf=0), 0, last).astype(np.int64))


def _in_truth(truth: np.ndarray) -> np.ndarray:
    return np.bincount(_filled(truth, LOWEST, HIGHEST, TRUTH_STEP), minlength=_bins(LOWEST, HIGHEST, TRUTH_STEP))


def _in_response(truth: np.ndarray, pt: np.ndarray) -> np.ndarray:
    rows, columns = (
        _bins(LOWEST, HIGHEST, TRUTH_STEP),
        _bins(SMALLEST_RESPONSE, LARGEST_RESPONSE, RESPONSE_STEP),
    )
    response = _filled(np.asarray(pt, dtype=np.float64) / truth, SMALLEST_RESPONSE, LARGEST_RESPONSE, RESPONSE_STEP)
    both = _filled(truth, LOWEST, HIGHEST, TRUTH_STEP) * columns + response
    return np.bincount(both, minlength=rows * columns).reshape(rows, columns)


def count(stored: np.ndarray, truth: np.ndarray, matched: np.ndarray, pt: np.ndarray, reco: np.ndarray) -> Counts:
    """Counts of jets; those of parts of a sample add up.

    Args:
        stored: p_T [GeV] of all detector-level jets, the one that the files cut on.
        truth: p_T [GeV] of the truth jets that were looked for, shape (t,).
        matched: Which of them have a partner, bool of shape (t,).
        pt: ``stored`` of the partners, shape (n,).
        reco: Detector-level p_T [GeV] of the partners, the one that is calibrated, shape (n,).
    """
    bins = _bins(LOWEST, HIGHEST, STEP)
    return {
        "stored": np.bincount(_filled(stored, LOWEST, HIGHEST, STEP), minlength=bins),
        "truth": _in_truth(truth),
        "matched": _in_truth(truth[matched]),
        "response_stored": _in_response(truth[matched], pt),
        "response": _in_response(truth[matched], reco),
    }


def threshold_of(counts: Mapping[str, Counts], cut: float | None = None) -> Threshold:
    """The threshold of a selection.

    Args:
        counts: From :func:`count`, by data set.
        cut: The cut on the stored p_T [GeV], if it is known.
    """
    if not counts:
        return Threshold(0.0, 0.0, 0.0)
    total = {name: np.sum([part[name] for part in counts.values()], axis=0) for name in next(iter(counts.values()))}
    if cut is None:
        edge = max(_edge(part["stored"]) for part in counts.values())
        cut = max(edge, _turn_on(total, edge))
    if cut <= 0:
        return Threshold(0.0, 0.0, 0.0)
    truth, response, width = _usable(total["response_stored"], cut)
    # The p_T that is calibrated in units of the stored one.
    ratio = _quantile(_near(total["response"], truth), 0.5) / _quantile(_near(total["response_stored"], truth), 0.5)
    if not len(truth):
        return Threshold(*(float(f"{value:.6g}") for value in (cut * ratio, MARGIN * cut * ratio, MARGIN * cut)))
    limit = _limit(cut, truth, response, width)
    below = limit * ratio * float(np.interp(np.log(limit), np.log(truth), response))
    return Threshold(*(float(f"{value:.6g}") for value in (cut * ratio, below, limit)))


def _near(response: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts of the response of the jets closest to the cut that it leaves alone; of all, if there are none."""
    if not len(truth):
        return np.asarray(response.sum(axis=0))
    lowest = int(_filled(truth[:1], LOWEST, HIGHEST, TRUTH_STEP)[0])
    last = lowest + 1
    while last < len(response) and response[lowest:last].sum() < LEAST_FOR_WIDTH:
        last += 1
    return np.asarray(response[lowest:last].sum(axis=0))


def known_cut(cut: float, reco: np.ndarray, truth: np.ndarray) -> Threshold:
    """What a known cut on the detector-level p_T of matched jets does.

    Args:
        cut: The cut [GeV].
        reco: Detector-level p_T [GeV] of the jets that passed it, shape (n,).
        truth: Their truth p_T [GeV], shape (n,).

    Raises:
        PairsError: The cut is no positive number, or there is not one truth for each jet.
    """
    if not (isinstance(cut, Real) and np.isfinite(cut) and cut > 0):
        raise PairsError(f"a threshold is a positive p_T [GeV], found {cut!r}: leave it out if there is none")
    if np.shape(reco) != np.shape(truth):
        raise PairsError(f"truth has the shape {np.shape(truth)}; expected {np.shape(reco)}, as reco")
    truth = np.asarray(truth)
    return threshold_of({"": count(reco, truth, np.ones(len(truth), dtype=bool), reco, reco)}, cut)


def _edge(stored: np.ndarray) -> float:
    """Sharp lower edge [GeV] of a spectrum in bins of ln p_T; zero if there is none."""
    below = np.cumsum(stored)
    first = int(np.searchsorted(below, max(STRAY_JETS, STRAY_SHARE * below[-1]), side="right"))
    if first >= len(stored):
        return 0.0
    tenth, fifth = (stored[first : first + round(float(np.log(x)) / STEP)].sum() for x in (1.1, 1.2))
    # Two standard deviations below the share at most.
    if fifth < LEAST_AT_EDGE or tenth + np.sqrt(fifth) < SHARP * fifth:
        return 0.0
    return float(LOWEST * np.exp(STEP * first))


def _turn_on(total: Counts, edge: float) -> float:
    """Stored p_T [GeV] at which half of the truth jets find a partner, if clearly above the edge; else zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        efficiency = total["matched"] / total["truth"]
        error = np.sqrt(efficiency * (1 - efficiency) / total["truth"])
    enough = total["truth"] >= LEAST_IN_BIN
    if not enough.any():
        return 0.0
    plateau = float(np.max(efficiency[enough]))
    lost = enough & (efficiency + 2 * error < plateau / 2)
    good = np.flatnonzero(enough & (efficiency > plateau / 2))
    lost[good.min(initial=len(lost)) :] &= False
    if not lost.any():
        return 0.0
    first = int(np.flatnonzero(lost).max()) + 1
    found = LOWEST * np.exp(TRUTH_STEP * first) * _quantile(total["response_stored"][first:].sum(axis=0), 0.5)
    return float(found) if found > np.exp(TRUTH_STEP) * edge else 0.0


def _quantile(counts: np.ndarray, share: float) -> float:
    """Quantile of the response from its counts, linear within a bin; one if there are none."""
    below = np.concatenate([[0], np.cumsum(counts)])
    if below[-1] == 0:
        return 1.0
    place = np.interp(share * below[-1], below, np.arange(len(below)))
    return float(SMALLEST_RESPONSE * np.exp(RESPONSE_STEP * place))


def margin(width: np.ndarray) -> np.ndarray:
    """Least median detector-level p_T in units of the cut, for a relative width of the response."""
    share = 2 * ndtr(TOLERANCE / width) - 1
    room = 1 + width * ndtri(share)
    return np.maximum(MARGIN, np.where(room > 0, 1 / np.where(room > 0, room, 1), np.inf))


def _usable(response: np.ndarray, cut: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth p_T, median response and relative width in groups of bins that the cut leaves alone, from low to high p_T.

    The highest group is there in any case: all that a sample knows that lies at the cut as a whole.
    """
    found: list[tuple[float, float, float]] = []
    for group in _groups(response.sum(axis=1)):
        truth = LOWEST * np.exp(TRUTH_STEP * (np.average(group, weights=response[group].sum(axis=1)) + 0.5))
        median, upper = (_quantile(response[group].sum(axis=0), share) for share in (0.5, ONE_SIGMA))
        width = max(upper / median - 1, RESPONSE_STEP)
        if found and truth * median < cut * margin(np.array(width)):
            break
        found.append((truth, median, width))
    columns = np.array(found[::-1]).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def _groups(jets: np.ndarray) -> list[list[int]]:
    """Neighbouring bins with enough jets together for a width, the highest first."""
    groups: list[list[int]] = [[]]
    for i in reversed(np.flatnonzero(jets)):
        groups[-1].append(int(i))
        if jets[groups[-1]].sum() >= LEAST_FOR_WIDTH:
            groups.append([])
    return groups[:-1]


def _limit(cut: float, truth: np.ndarray, response: np.ndarray, width: np.ndarray) -> float:
    """Least truth p_T [GeV] from which on the cut moves no median by more than the tolerance.

    Outside of what is measured the response is constant, and its width that of a stochastic term, 1 / sqrt(p_T).
    """
    p = np.exp(np.arange(np.log(LOWEST), np.log(HIGHEST), STEP))
    nearest = np.clip(p, truth[0], truth[-1])
    widths = np.interp(np.log(p), np.log(truth), width) * np.sqrt(nearest / p)
    truncated = p * np.interp(np.log(p), np.log(truth), response) < cut * margin(widths)
    return float(p[min(np.flatnonzero(truncated).max(initial=-1) + 1, len(p) - 1)])
