"""What sigma_pred should be: the spread of trainings on independent or bootstrapped samples.

sigma_pred claims to be the statistical error of a training. The frequentist reference for it is the scatter of the
predictions of trainings on samples of the same size: independent ones where they can be made (toys), bootstrap samples
of the one there is otherwise. The scatter of trainings from different starting points on the *same* sample is noise of
the optimiser, and is no reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hepcal.arrays import numbers
from hepcal.errors import TrainingError
from hepcal.methods.base import Method
from hepcal.methods.training import train
from hepcal.progress import Progress
from hepcal.tables.pairs import JetPairs

__all__ = ["SpreadRatio", "bootstrap_trainings", "independent_trainings", "spread_ratio"]

MIN_TRAININGS = 3


@dataclass(frozen=True, slots=True)
class SpreadRatio:
    """sigma_pred over the reference spread in bins; arrays of shape (bins,), NaN where a bin is empty.

    Attributes:
        edges: Bin edges, shape (bins + 1,).
        ratio: Root mean square of sigma_pred over that of the spread.
        ratio_unc: Its error from the finite number of trainings, by the jackknife: the trainings scatter all jets of a
            bin together.
        sigma_pred: Root mean square of sigma_pred [GeV].
        spread: Root mean square of the spread [GeV].
        jets: Number of jets.
    """

    edges: np.ndarray
    ratio: np.ndarray
    ratio_unc: np.ndarray
    sigma_pred: np.ndarray
    spread: np.ndarray
    jets: np.ndarray


def bootstrap_trainings(
    pairs: JetPairs, method: Method, test: JetPairs, *, n: int = 20, seed: int = 0, show: bool = True
) -> np.ndarray:
    """Predictions of trainings on bootstrap samples of a table.

    Events are drawn with replacement, by Poisson(1) multiplicities, all jets of an event together.

    Args:
        pairs: The table.
        method: The method.
        test: Jets to predict.
        n: Number of trainings.
        seed: Of the samples and the trainings.
        show: Report progress.

    Returns:
        ``pt_calib`` [GeV] by training, float64 of shape (n, jets).
    """
    _, number = np.unique(pairs.event, return_inverse=True)

    def sample(index: int) -> JetPairs:
        rng = np.random.default_rng([seed, index])
        multiplicity = rng.poisson(1, size=int(number.max()) + 1)[number]
        return pairs.take(np.repeat(np.arange(len(pairs)), multiplicity))

    return independent_trainings(sample, method, test, n=n, seed=seed, show=show)


def independent_trainings(
    sample: Callable[[int], JetPairs], method: Method, test: JetPairs, *, n: int = 20, seed: int = 0, show: bool = True
) -> np.ndarray:
    """Predictions of trainings on samples of their own.

    Args:
        sample: Makes the table of training i.
        method: The method.
        test: Jets to predict.
        n: Number of trainings.
        seed: Training i has the seed ``seed + i``.
        show: Report progress.

    Returns:
        ``pt_calib`` [GeV] by training, float64 of shape (n, jets).

    Raises:
        TrainingError: Fewer than three trainings, whose spread would say nothing.
    """
    if n < MIN_TRAININGS:
        raise TrainingError(f"a spread needs at least {MIN_TRAININGS} trainings, found {n}")
    found = []
    with Progress(f"Trainings of {method.name}", n, "trainings", show=show) as bar:
        for index in range(n):
            calibrator = train(sample(index), method, seed=seed + index, show=False)
            jets = test.select(calibrator.card.features)
            found.append(calibrator.predict(jets.features, jets.reco).mean.astype(np.float64))
            bar.advance(1)
    return np.stack(found)


def spread_ratio(
    sigma_pred: np.ndarray, trainings: np.ndarray, by: np.ndarray, edges: np.ndarray, weight: np.ndarray | None = None
) -> SpreadRatio:
    """sigma_pred over the spread of trainings, in bins.

    Args:
        sigma_pred: Statistical uncertainty [GeV], shape (jets,).
        trainings: Predictions [GeV] of other trainings, shape (n, jets).
        by: What the bins are of, shape (jets,).
        edges: Bin edges, shape (bins + 1,).
        weight: Shape (jets,); default one.

    Raises:
        TrainingError: Fewer than three trainings.
    """
    n = len(trainings)
    if n < MIN_TRAININGS:
        raise TrainingError(f"a spread needs at least {MIN_TRAININGS} trainings, found {n}")
    by, weight = numbers("by", by), np.ones(len(by)) if weight is None else numbers("weight", weight)
    sigma_pred, trainings = numbers("sigma_pred", sigma_pred), numbers("trainings", trainings)
    # Spread of all trainings, and of all but one.
    kept = [np.arange(n), *(np.delete(np.arange(n), i) for i in range(n))]
    variances = np.stack([trainings[rows].astype(np.float64).var(axis=0, ddof=1) for rows in kept])
    bins = np.digitize(by, edges) - 1
    rows = []
    for index in range(len(edges) - 1):
        inside = bins == index
        total = weight[inside].sum()
        if not total > 0:
            rows.append((np.nan,) * 4 + (0,))
            continue
        claimed = np.sqrt((weight[inside] * sigma_pred[inside].astype(np.float64) ** 2).sum() / total)
        spread = np.sqrt((variances[:, inside] * weight[inside]).sum(axis=1) / total)
        ratio = claimed / spread
        error = np.sqrt((n - 1) / n * np.sum((ratio[1:] - ratio[1:].mean()) ** 2))
        rows.append((ratio[0], error, claimed, spread[0], int(inside.sum())))
    ratio, error, claimed, spread, jets = (np.asarray(column) for column in zip(*rows, strict=True))
    return SpreadRatio(np.asarray(edges, dtype=np.float64), ratio, error, claimed, spread, jets)
