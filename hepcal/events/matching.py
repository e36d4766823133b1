"""Matching of particle-level to detector-level jets, one to one, vectorised over events."""

from __future__ import annotations

import awkward as ak
import numpy as np

__all__ = ["MAX_DR", "leading", "match"]

MAX_DR = 0.2


def match(truth: ak.Array, reco: ak.Array, max_dr: float = MAX_DR, index: str | None = "genJetIdx") -> ak.Array:
    """The detector-level partner of each particle-level jet.

    Candidates are all pairs of an event closer than ``max_dr`` in (eta, phi), or, where the detector-level jets carry
    the generator's index (``genJetIdx`` of NanoAOD jets), only the pairs it names. Pairs are taken in the order of
    their distance, each jet once, so the result is one to one and does not depend on the order of the jets (but for
    pairs at exactly equal distance, where the lower index wins).

    Args:
        truth: Particle-level jets with ``eta``, ``phi``, ``events * var``.
        reco: Detector-level jets with ``eta``, ``phi``, ``events * var``.
        max_dr: Largest distance sqrt(deta² + dphi²) of a pair.
        index: Field of ``reco`` with positions in ``truth``; not used where there is no such field, or None.

    Returns:
        ``events * var * ?int64`` shaped as ``truth``: position of the partner in ``reco``, None where there is none.
        ``reco[match(truth, reco)]`` lines the partners up with ``truth``.

    >>> truth = ak.Array([[{"eta": 0.0, "phi": 0.0}, {"eta": 1.0, "phi": 3.1}]])
    >>> reco = ak.Array([[{"eta": 1.05, "phi": -3.1}, {"eta": 0.5, "phi": 0.0}]])
    >>> match(truth, reco).tolist()
    [[None, 0]]
    """
    n_truth, n_reco = (ak.to_numpy(ak.num(jets)) for jets in (truth, reco))
    first_reco = np.cumsum(n_reco) - n_reco
    if index is not None and index in reco.fields:
        t, r = _indexed_pairs(reco[index], n_truth, n_reco)
    else:
        t, r = _all_pairs(n_truth, n_reco)
    truth_eta, truth_phi = (ak.to_numpy(ak.flatten(truth[name])).astype(np.float64) for name in ("eta", "phi"))
    reco_eta, reco_phi = (ak.to_numpy(ak.flatten(reco[name])).astype(np.float64) for name in ("eta", "phi"))
    dphi = np.remainder(truth_phi[t] - reco_phi[r] + np.pi, 2 * np.pi) - np.pi
    dr2 = (truth_eta[t] - reco_eta[r]) ** 2 + dphi**2
    near = dr2 < max_dr**2
    partner = _closest_first(t[near], r[near], dr2[near], len(truth_eta), len(reco_eta))
    local = partner - np.repeat(first_reco, n_truth)
    return ak.unflatten(ak.mask(local, partner >= 0), n_truth)


def leading(jets: ak.Array, n: int = 2) -> ak.Array:
    """Positions of the ``n`` jets of highest p_T in each event, highest first; fewer where an event has fewer."""
    return ak.argsort(jets.pt, axis=1, ascending=False, stable=True)[:, :n]


def _all_pairs(n_truth: np.ndarray, n_reco: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth_id = ak.unflatten(np.arange(n_truth.sum()), n_truth)
    reco_id = ak.unflatten(np.arange(n_reco.sum()), n_reco)
    t, r = ak.unzip(ak.cartesian([truth_id, reco_id]))
    return ak.to_numpy(ak.flatten(t)), ak.to_numpy(ak.flatten(r))


def _indexed_pairs(found: ak.Array, n_truth: np.ndarray, n_reco: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    index = ak.to_numpy(ak.flatten(found)).astype(np.int64)
    valid = (index >= 0) & (index < np.repeat(n_truth, n_reco))
    first_truth = np.repeat(np.cumsum(n_truth) - n_truth, n_reco)
    return (first_truth + index)[valid], np.flatnonzero(valid)


def _closest_first(t: np.ndarray, r: np.ndarray, dr2: np.ndarray, n_truth: int, n_reco: int) -> np.ndarray:
    """Greedy assignment by distance: pairs that are each other's best are settled, round by round."""
    partner = np.full(n_truth, -1, dtype=np.int64)
    order = np.lexsort((r, t, dr2))
    t, r = t[order], r[order]
    while t.size:
        best = np.zeros(t.size, dtype=np.int8)
        for side in (t, r):
            best[np.unique(side, return_index=True)[1]] += 1
        settled = best == 2
        partner[t[settled]] = r[settled]
        truth_taken, reco_taken = np.zeros(n_truth, dtype=bool), np.zeros(n_reco, dtype=bool)
        truth_taken[t[settled]] = reco_taken[r[settled]] = True
        left = ~(truth_taken[t] | reco_taken[r])
        t, r = t[left], r[left]
    return partner
