"""What every finished training must pass: figures no acceptable one has are refused, not saved."""

from __future__ import annotations

import numpy as np

from hepcal.distributions.prediction import Prediction
from hepcal.errors import TrainingError
from hepcal.methods.calibrator import Calibrator
from hepcal.statistics import weighted_quantiles
from hepcal.tables.pairs import JetPairs

__all__ = ["require_sane"]

# Of the jets inside the support: share whose figures may be absurd.
ABSURD_SHARE = 0.005
# Factor beyond the smallest and largest truth / reco of the sample (all but two in a thousand) from which pt_calib /
# reco is absurd, on either side.
BEYOND_FACTOR = 3.0
IN_THOUSAND = 1e-3
# Largest sum of pt_calib over that of the truth, or the inverse.
SUM_FACTOR = 2.0
# Largest typical sigma_tot / reco in units of the root mean square of truth / reco.
LARGEST_SIGMA = 3.0


def require_sane(calibrator: Calibrator, jets: JetPairs, fitted: JetPairs) -> None:
    """Refuse a calibrator that does not describe jets of its own sample.

    Jets outside of its support do not count, but all of them must have finite numbers.

    Args:
        calibrator: A finished one.
        jets: Held-out jets of the training, no weight of which is negative.
        fitted: Those that it learned from, which say what truth / reco is like.

    Raises:
        TrainingError: p_T or uncertainties are not finite; p_T is not positive, or absurd against the spread of truth /
            reco, for more than 0.5 % of the jets; the sums of p_T differ by more than a factor 2; the uncertainties are
            not positive, or typically more than three times truth / reco. Says the figures.
    """
    prediction = calibrator.predict(jets.features, jets.reco)
    faults = _not_numbers(prediction)
    used = np.flatnonzero(prediction.in_range & (jets.weight > 0))
    if not faults and len(used):
        mean, part = prediction.mean[used].astype(np.float64), jets.take(used)
        faults, usual = _signs(mean), (fitted.truth / fitted.reco).astype(np.float64)
        faults += _sizes(prediction, used, part, usual)
        # A map between distributions has no truth to aim at.
        if not calibrator.method.needs_data:
            faults += [*_spread(mean, part, usual), *_sums(mean, part)]
    if faults:
        raise TrainingError(
            f"the training of {calibrator.method.name!r} ended in a calibrator that is not to be used: on "
            f"{len(jets)} held-out jets of its sample, {'; '.join(faults)}. Look for absurd rows or weights in the "
            "table, take more jets, or lower the learning rate or the size of the network"
        )


def _not_numbers(prediction: Prediction) -> list[str]:
    """Numbers that are not finite."""
    found = {"pt_calib": prediction.mean}
    found |= {f"sigma_{kind}": getattr(prediction, f"sigma_{kind}") for kind in ("stoch", "pred", "tot")}
    bad = {name: int(np.sum(~np.isfinite(v))) for name, v in found.items() if v is not None}
    return [f"{name} is not finite for {count}" for name, count in bad.items() if count]


def _signs(mean: np.ndarray) -> list[str]:
    """p_T that are not positive."""
    bad = mean <= 0
    return [f"pt_calib is not positive for {bad.sum()}, down to {mean.min():.4g} GeV"] if _too_many(bad) else []


def _sizes(prediction: Prediction, used: np.ndarray, jets: JetPairs, usual: np.ndarray) -> list[str]:
    """Uncertainties that are negative, or larger than the p_T."""
    if prediction.sigma_tot is None:
        return []
    sigma = prediction.sigma_tot[used].astype(np.float64)
    typical = float(weighted_quantiles(sigma / jets.reco, jets.weight, (0.5,))[0])
    # Absurd truths in the sample are told by an absurd, and right, sigma.
    largest = LARGEST_SIGMA * float(np.sqrt(np.mean(usual**2)))
    faults = [f"sigma_tot is negative for {(sigma < 0).sum()}"] if (sigma < 0).any() else []
    return faults + ([f"sigma_tot is typically {typical:.3g} times reco p_T"] if typical > largest else [])


def _spread(mean: np.ndarray, jets: JetPairs, usual: np.ndarray) -> list[str]:
    """pt_calib / reco far beyond what truth / reco is in the sample."""
    factor = mean / jets.reco
    low, high = (float(end) for end in np.quantile(usual, (IN_THOUSAND, 1 - IN_THOUSAND)))
    bad = (factor < low / BEYOND_FACTOR) | (factor > high * BEYOND_FACTOR)
    if not _too_many(bad):
        return []
    found = f"between {factor.min():.4g} and {factor.max():.4g}, and for {bad.sum()} jets far beyond the"
    return [f"pt_calib / reco lies {found} {low:.4g} to {high:.4g} of truth / reco"]


def _sums(mean: np.ndarray, jets: JetPairs) -> list[str]:
    """Sums of p_T that differ; few jets of large weight say nothing."""
    ratio = float(np.sum(jets.weight * mean) / np.sum(jets.weight * jets.truth))
    good = 1 / SUM_FACTOR < ratio < SUM_FACTOR
    return [] if good else [f"the sum of pt_calib is {ratio:.4g} times that of the truth"]


def _too_many(bad: np.ndarray) -> bool:
    return bool(np.sum(bad) > ABSURD_SHARE * len(bad))
