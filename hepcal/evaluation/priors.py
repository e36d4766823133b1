"""How much a calibration depends on the spectrum it was trained with.

::

    tables = {"nominal": pairs, **spectra(pairs, [Flat(), Above(1150), Steeper(6)])}
    trained = {name: hepcal.train(table, method, seed=1) for name, table in tables.items()}
    dependence = prior_dependence(trained, test, edges=(900, 1000, 1200, 1500, 2000))
    dependence["flat"].sample, dependence["flat"].sample_unc

All tables have the response p(reco | truth) of the first one: their weights and cuts are in truth alone. A calibration
that learns the response only gives the same jets the same values, within its error; one that learns E[truth | reco]
moves with the spectrum (arXiv:2205.05084, Eq. 8). A cut at detector level would change the response itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hepcal.distributions.prediction import Prediction
from hepcal.distributions.uncertainties import in_quadrature
from hepcal.errors import PairsError
from hepcal.evaluation.binning import Jets, binned, plain
from hepcal.evaluation.estimators import effective_clusters, mean, quantiles, standard_error
from hepcal.statistics import MIN_N_EFF, weighted_mean
from hepcal.tables.spectra import Convention, flattening_weights

if TYPE_CHECKING:
    from hepcal.methods.calibrator import Calibrator
    from hepcal.tables.pairs import JetPairs

__all__ = ["Above", "Flat", "PriorDependence", "Shift", "Spectrum", "Steeper", "prior_dependence", "spectra"]

NAN = float("nan")


class Spectrum(Protocol):
    """Another truth spectrum of the same jets."""

    @property
    def name(self) -> str:
        """Short, for legends."""

    def __call__(self, pairs: JetPairs) -> JetPairs:
        """The table with this spectrum."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A flat spectrum between two truths; jets outside the support of the density are left out.

    Attributes:
        low: Smallest truth [GeV]; None for no limit.
        high: Largest truth [GeV]; None for no limit.
        convention: Whether the event weights are kept, see :func:`hepcal.tables.spectra.flattening_weights`.
    """

    low: float | None = None
    high: float | None = None
    convention: Convention = "weighted"

    @property
    def name(self) -> str:
        """``flat``, with its limits and the convention if it is not the default."""
        limits = [f"{sign} {end:g} GeV" for sign, end in ((">", self.low), ("<", self.high)) if end is not None]
        return " ".join(["flat", *limits, *(["(unweighted)"] if self.convention == "unweighted" else [])])

    def __call__(self, pairs: JetPairs) -> JetPairs:
        """The jets with weights over their density, the mean weight kept.

        Raises:
            PairsError: There are too few jets for a density.
        """
        low, high = (NAN if end is None else end for end in (self.low, self.high))
        inside = ~(pairs.truth < low) & ~(pairs.truth > high)
        chosen = pairs.take(np.flatnonzero(inside))
        try:
            found = flattening_weights(chosen.truth, chosen.weight, convention=self.convention)
        except ValueError as error:
            raise PairsError(f"the spectrum cannot be made flat: {error}") from error
        return _weighted(chosen, found.weight, self.name)


@dataclass(frozen=True, slots=True)
class Above:
    """The same spectrum above a truth.

    Attributes:
        truth: Smallest truth [GeV].
    """

    truth: float

    @property
    def name(self) -> str:
        """With the cut."""
        return f"above {self.truth:g} GeV"

    def __call__(self, pairs: JetPairs) -> JetPairs:
        """The jets above the cut.

        Raises:
            PairsError: There are none.
        """
        return _weighted(pairs, np.where(pairs.truth > self.truth, pairs.weight, 0.0), self.name)


@dataclass(frozen=True, slots=True)
class Steeper:
    """A steeper spectrum: an extra factor truth^-power.

    Attributes:
        power: May be negative, for a harder spectrum.
    """

    power: float

    @property
    def name(self) -> str:
        """With the power."""
        return f"times truth^{-self.power:g}"

    def __call__(self, pairs: JetPairs) -> JetPairs:
        """All jets, weighted."""
        truth = pairs.truth.astype(np.float64)
        return _weighted(pairs, pairs.weight * (truth / truth.mean()) ** -self.power, self.name)


def spectra(pairs: JetPairs, kinds: Sequence[Spectrum]) -> dict[str, JetPairs]:
    """Tables of the same jets with other truth spectra, by name.

    Jets of weight zero are left out; weights keep their mean. ``source["spectrum"]`` of a table names its spectrum.

    Raises:
        PairsError: No jet is left, or there are too few for a density.
        ValueError: Two spectra have the same name.
    """
    names = [kind.name for kind in kinds]
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"spectra need different names; more than one is called {', '.join(map(repr, again))}")
    return {kind.name: kind(pairs) for kind in kinds}


def _weighted(pairs: JetPairs, weight: np.ndarray, name: str) -> JetPairs:
    rows = np.flatnonzero(weight)
    total = weight[rows].sum()
    if not total > 0:
        raise PairsError(f"no jets of positive weight have the spectrum {name!r}")
    kept = pairs.take(rows)
    scale = kept.weight.mean() * len(rows) / total
    source = {**pairs.source, "spectrum": name}
    return dataclasses.replace(kept, weight=weight[rows] * scale, source=source)


@dataclass(frozen=True, slots=True)
class Shift:
    """Shift of the same jets between two trainings: value - reference value, relative to the reference value.

    Arrays have the shape (bins,), float64, NaN where n_eff is below 30. Errors are those of the finite test sample;
    the error of the two trainings themselves is in the pulls and in ``sample_training``.

    Attributes:
        edges: Bin edges, shape (bins + 1,).
        n_eff: Effective number of events compared.
        in_range: Share of jets inside the training support of both.
        mean: Mean relative shift (0.01 is 1 %).
        mean_unc: Its statistical error.
        median: Median relative shift.
        median_unc: Its statistical error.
        rms: Root mean square of the relative shift.
        largest: Relative shift of largest size, with its sign.
        pull_mean: Mean of shift / error, the error being the sigma_pred of both in quadrature; NaN where one has none.
            Trainings on parts of one table are correlated: their error is then overestimated.
        pull_rms: Root mean square of the same: one or below if the shift is statistical.
        sample: Relative shift of the mean value of the sample, all jets compared.
        sample_unc: Its statistical error.
        sample_training: Error of ``sample`` from the two trainings, if sigma_pred moved all jets together: an upper
            limit; NaN without sigma_pred.
    """

    edges: np.ndarray
    n_eff: np.ndarray
    in_range: np.ndarray
    mean: np.ndarray
    mean_unc: np.ndarray
    median: np.ndarray
    median_unc: np.ndarray
    rms: np.ndarray
    largest: np.ndarray
    pull_mean: np.ndarray
    pull_rms: np.ndarray
    sample: float
    sample_unc: float
    sample_training: float

    def as_dict(self) -> dict[str, Any]:
        """Lists and numbers for JSON, None for NaN."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class PriorDependence:
    """Shifts of the same jets between trainings of one method on several spectra.

    Attributes:
        reference: Name of the training that the others are compared with.
        shifts: Of the others, by name.
    """

    reference: str
    shifts: Mapping[str, Shift]

    def __getitem__(self, name: str) -> Shift:
        return self.shifts[name]

    @property
    def largest_sample(self) -> float:
        """Shift of the sample mean of largest size, with its sign: the prior dependence as one number.

        Trainings that have no jet to compare count for nothing; NaN if none has any.
        """
        known = (shift.sample for shift in self.shifts.values() if not np.isnan(shift.sample))
        return max(known, key=abs, default=NAN)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; None for NaN."""
        return {
            "reference": self.reference,
            "largest_sample": plain(self.largest_sample),
            "shifts": {name: shift.as_dict() for name, shift in self.shifts.items()},
        }


def prior_dependence(
    trained: Mapping[str, Calibrator | Prediction],
    test: JetPairs,
    *,
    edges: Sequence[float] | np.ndarray,
    by: np.ndarray | None = None,
    reference: str | None = None,
    only_in_range: bool = True,
) -> PriorDependence:
    """Shifts of the same jets between trainings on different spectra.

    Args:
        trained: Two or more trainings of one method, or their predictions of the test jets, by name of the spectrum.
        test: The jets; other events than those of the training.
        edges: Bin edges of the truth, or of ``by``; a low edge belongs to the bin, a high edge to the next one.
        by: What to bin in instead of truth, shape (n,).
        reference: Name of the training to compare with; default: the first.
        only_in_range: Compare only jets that are inside the training support of both: outside nothing is promised.

    Raises:
        ValueError: Fewer than two trainings, no such reference, a prediction of another number of jets, a value that
            is not finite, or the edges do not increase.
    """
    names = list(trained)
    reference = names[0] if reference is None and names else reference
    if len(names) < 2 or reference not in names:
        raise ValueError(f"a shift needs two trainings and one of them as reference, found {names} and {reference!r}")
    found = {name: _predicted(one, test) for name, one in trained.items()}
    base = found.pop(str(reference))
    shifts = {name: _shift(base, other, test, edges, by, only_in_range) for name, other in found.items()}
    return PriorDependence(str(reference), shifts)


def _predicted(trained: Calibrator | Prediction, test: JetPairs) -> Prediction:
    if not isinstance(trained, Prediction):
        table = test.select(trained.card.features)
        trained = trained.predict(table.features, table.reco)
    if len(trained) != len(test):
        raise ValueError(f"a prediction of {len(trained)} jets cannot be compared in a sample of {len(test)}")
    return trained


def _shift(
    base: Prediction, other: Prediction, test: JetPairs, edges: Sequence[float] | np.ndarray, by: np.ndarray | None,
    only_in_range: bool,
) -> Shift:  # fmt: skip
    inside = base.in_range & other.in_range
    first, second = base.mean.astype(np.float64), other.mean.astype(np.float64)
    sigmas = (base.sigma_pred, other.sigma_pred)
    error = None if sigmas[0] is None or sigmas[1] is None else in_quadrature(sigmas[0], sigmas[1])
    jets = Jets.checked(
        test.truth, test.weight, test.event, first=first, shift=second - first, error=error, inside=inside
    )
    edges, bins = binned(jets, by, edges)
    rows = [_figures(jets.take(rows), only_in_range) for rows in bins]
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    return Shift(edges=edges, **columns, **_sample(jets.take(np.concatenate(bins)), only_in_range))


def _figures(jets: Jets, only_in_range: bool) -> dict[str, float]:
    """Figures of the jets of one bin."""
    share = weighted_mean(jets["inside"], jets.weight)[0]
    if only_in_range:
        jets = jets.take(np.flatnonzero(jets["inside"]))
    weight, n_eff = jets.weight, effective_clusters(jets.weight, jets.cluster)
    names = ("mean", "mean_unc", "median", "median_unc", "rms", "largest", "pull_mean", "pull_rms")
    figures = dict.fromkeys(names, NAN) | {"n_eff": n_eff, "in_range": share}
    if n_eff < MIN_N_EFF or not weight.sum() > 0:
        return figures
    relative = jets["shift"] / jets["first"]
    average = mean(relative, weight)
    (middle,) = quantiles(relative, weight, (0.5,), jets.cluster)
    figures |= {
        "mean": average.value,
        "mean_unc": standard_error(average.influence, weight, jets.cluster),
        "median": middle.value,
        "median_unc": standard_error(middle.influence, weight, jets.cluster),
        "rms": _rms(relative, weight),
        "largest": float(relative[np.argmax(np.abs(relative))]),
    }
    if jets["error"] is not None and (jets["error"] > 0).all():
        pull = jets["shift"] / jets["error"]
        figures |= {"pull_mean": weighted_mean(pull, weight)[0], "pull_rms": _rms(pull, weight)}
    return figures


def _sample(jets: Jets, only_in_range: bool) -> dict[str, Any]:
    """Shift of the mean value of all jets compared."""
    if only_in_range:
        jets = jets.take(np.flatnonzero(jets["inside"]))
    average, _ = weighted_mean(jets["first"], jets.weight)
    shift = weighted_mean(jets["shift"], jets.weight)[0] / average
    influence = (jets["shift"] - shift * jets["first"]) / average
    together = NAN if jets["error"] is None else weighted_mean(jets["error"], jets.weight)[0] / average
    unc = standard_error(influence, jets.weight, jets.cluster)
    return {"sample": shift, "sample_unc": unc, "sample_training": together}


def _rms(values: np.ndarray, weight: np.ndarray) -> float:
    return float(np.sqrt(max(weighted_mean(values**2, weight)[0], 0.0)))
