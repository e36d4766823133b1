"""Whether a trained network says the same of every jet, although the jets are not the same."""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2

from hepcal.methods.calibrator import Calibrator
from hepcal.methods.training.task import raw_inputs
from hepcal.statistics import CENTRAL, n_eff, weighted_quantiles
from hepcal.tables.pairs import JetPairs

__all__ = ["misses_dependence", "sensitivity"]

# Jets that are asked, and jets per input that take part.
ASKED_JETS = 20_000
JETS_PER_INPUT = 10
# Pulls beyond this count as this.
LARGEST_PULL = 5.0
# Probability that jets without any dependence show one.
BY_CHANCE = 1e-3


def sensitivity(mean: np.ndarray, sigma: np.ndarray, weight: np.ndarray) -> float:
    """How much predictions depend on the inputs: spread over jets of the mean in units of sigma, or of ln sigma.

    Half the central 68.27 % width each, so that absurd jets do not count. Zero if a network says the same of every
    jet, as one does whose posterior has collapsed to the prior.
    """

    def half_width(values: np.ndarray) -> float:
        low, high = weighted_quantiles(values.astype(np.float64), weight, (CENTRAL[0], CENTRAL[2]))
        return float(high - low) / 2

    typical = weighted_quantiles(sigma.astype(np.float64), weight, (0.5,))[0]
    return max(half_width(mean) / float(typical), half_width(np.log(sigma)))


def misses_dependence(calibrator: Calibrator, pairs: JetPairs) -> bool:
    """Whether pulls, or their squares, depend on the inputs by more than chance: a constant is not all there is.

    Where they do not, a network that says the same of every jet is as good as the jets allow.

    Args:
        calibrator: A finished one with sigma_tot.
        pairs: Jets that it learned from, no weight of which is negative.
    """
    jets = pairs.take(np.linspace(0, len(pairs) - 1, min(len(pairs), ASKED_JETS)).astype(np.int64))
    prediction = calibrator.predict(jets.features, jets.reco)
    if prediction.sigma_tot is None:
        return False
    used = max(1, len(jets) // JETS_PER_INPUT)
    inputs = calibrator.inputs(raw_inputs(jets)).double().numpy()[:used].clip(-LARGEST_PULL, LARGEST_PULL)
    pull = ((jets.truth - prediction.mean) / prediction.sigma_tot).astype(np.float64)
    pull = pull.clip(-LARGEST_PULL, LARGEST_PULL)
    return any(_explained(values, inputs, jets.weight) for values in (pull, pull**2))


def _explained(values: np.ndarray, inputs: np.ndarray, weight: np.ndarray) -> bool:
    """Whether inputs (d, n) and their squares explain more of values (n,) than they would by chance."""
    root = np.sqrt(weight / weight.sum())
    terms = np.concatenate([inputs, inputs**2])
    centred = (terms - (terms @ root**2)[:, None]) * root
    rest = (values - values @ root**2) * root
    fitted = centred.T @ np.linalg.lstsq(centred.T, rest, rcond=1e-6)[0]
    total = float(rest @ rest)
    share = float(fitted @ fitted) / total if total > 0 else 0.0
    return n_eff(weight) * share > float(chi2.isf(BY_CHANCE, len(terms)))
