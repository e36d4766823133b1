"""Prediction: a distribution of the true p_T per jet, its moments and its split into uncertainties.

How they add up: :mod:`hepcal.distributions.uncertainties`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import awkward as ak
import numpy as np

from hepcal.arrays import numbers, unmasked
from hepcal.distributions import Distribution, Jets
from hepcal.distributions.intervals import highest_density, modes, quantiles
from hepcal.distributions.on_demand import Chosen, ChosenBelt
from hepcal.distributions.uncertainties import in_quadrature, signed_root
from hepcal.errors import HepcalError
from hepcal.tables.random import RandomByJet, identity_of_rows

__all__ = ["NoDensityError", "Prediction"]

JETS_AT_ONCE = 4096


class NoDensityError(HepcalError, TypeError):
    """A method that predicts a number only was asked for a distribution."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prediction:
    """Calibrated p_T of n jets with uncertainties, all in GeV, float32 of shape (n,).

    ``prediction[10:20]``, or with a mask or indices, is that of some of the jets. It can be pickled where its
    functions can, as those of a calibrator.

    Attributes:
        mean: The value attached as ``pt_calib``, whatever the method declares (for a Bayesian network the posterior
            mean).
        sigma_stoch: What more training data would not remove: root of the mean variance over draws; None if the
            method does not provide it. With a baseline, that of the baseline, sigma_stoch,0.
        sigma_pred: Spread of the predicted mean over the draws (S - 1); None if the method does not provide it.
        in_range: Whether all inputs lie within the training support, bool of shape (n,).
        components: The predictive distributions [GeV] of a slice of the jets, computed when asked for; None if the
            method predicts a number only.
        belt: Lower and upper ends [GeV] of the confidence intervals of all jets by probability, for methods that have
            no density of the truth but know the response.
        by_network: Predictions (draws, jets) [GeV] of a slice of the jets by every network, for methods that have
            networks without a density of the truth.
        sigma_cal_squared: Calibration uncertainty squared [GeV²], sigma_stoch² of the training on noisy labels minus
            sigma_stoch,0² (arXiv:2003.11099, Eq. 19), with its sign; None without a baseline.
        sigma_cal_squared_error: Its spread over the draws [GeV²] (S - 1), draw k of one training paired with draw k of
            the other; None for single networks. How far the networks themselves leave it open: draws of an ensemble
            (each its own bootstrap sample) hold the statistical error of labels and jets, those of a posterior what
            its weights allow. It is not the scatter of the labels in a slice, and jets have it in common.
        baseline: The prediction of the training without noise, ``sigma_stoch`` is its; None if there is none.
        identity: What tells each jet from all others, for random numbers: uint64 of shape (n,), or what computes it;
            None: the predicted numbers do.

    With a baseline, mean, ``sigma_pred``, density, mode and intervals are those of the training on noisy labels: the
    density is that of a label, wider than that of the truth by the noise.

    Methods that need a distribution raise :class:`NoDensityError` where there is none.
    """

    mean: np.ndarray
    sigma_stoch: np.ndarray | None
    sigma_pred: np.ndarray | None
    in_range: np.ndarray
    components: Callable[[Jets], Distribution] | None = None
    belt: Callable[[float], tuple[np.ndarray, np.ndarray]] | None = None
    by_network: Callable[[Jets], np.ndarray] | None = None
    sigma_cal_squared: np.ndarray | None = None
    sigma_cal_squared_error: np.ndarray | None = None
    baseline: Prediction | None = None
    identity: np.ndarray | Callable[[], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def __repr__(self) -> str:
        if not len(self):
            return "<Prediction: 0 jets>"
        sigmas = {kind: getattr(self, f"sigma_{kind}") for kind in ("stoch", "pred", "cal", "tot")}
        medians = [f"sigma_{kind} {np.median(sigma):.3g}" for kind, sigma in sigmas.items() if sigma is not None]
        has = "densities" if self.components is not None else "intervals" if self.belt is not None else "numbers only"
        return (
            f"<Prediction: {len(self)} jets of {self.mean.min():.4g} to {self.mean.max():.4g} GeV, "
            f"{100 * np.mean(self.in_range):.4g} % in range, {has}; medians [GeV]: {', '.join(medians) or 'no sigmas'}>"
        )

    def __getitem__(self, key: slice | np.ndarray | list[int] | list[bool]) -> Prediction:
        """The prediction of some of the jets, by a slice, indices or a mask; ``[3:4]`` is one jet, ``[3]`` none.

        Raises:
            TypeError: The key is a single number.
            IndexError: A mask of another length, or an index that is not there.
            MissingValueError: A value of the key is itself masked or missing.
        """
        if np.ndim(key) != 1 and not isinstance(key, slice):  # type: ignore[arg-type]
            raise TypeError(f"a prediction is cut by a slice, indices or a mask, found {key!r}; [3:4] is one jet")
        rows = np.arange(len(self))[key if isinstance(key, slice | list) else unmasked("key", key)]
        parts = {field.name: getattr(self, field.name) for field in fields(self)} | {"identity": self._identities()}

        def chosen(name: str, part: Any) -> Any:
            if part is None or isinstance(part, np.ndarray | Prediction):
                return part if part is None else part[rows]
            return ChosenBelt(part, rows) if name == "belt" else Chosen(part, rows)

        return Prediction(**{name: chosen(name, part) for name, part in parts.items()})

    @property
    def sigma_cal(self) -> np.ndarray | None:
        """Calibration uncertainty [GeV], NaN where its square came out negative; None without a baseline."""
        return None if self.sigma_cal_squared is None else signed_root(self.sigma_cal_squared).astype(np.float32)

    @property
    def sigma_tot(self) -> np.ndarray | None:
        """Total uncertainty, sigma_tot² = sigma_stoch² + sigma_pred² (arXiv:2003.11099, Eq. 5); None without parts.

        With a baseline, plus sigma_cal² with its sign (Eq. 19): nothing is counted twice and nothing clipped.
        """
        parts = [part for part in (self.sigma_stoch, self.sigma_pred) if part is not None]
        return in_quadrature(*parts, signed=self.sigma_cal_squared).astype(np.float32) if parts else None

    def replicas(self) -> np.ndarray:
        """Predicted mean of every weight draw [GeV], float32 of shape (draws, n); one row for a single network.

        The draws are the same for all jets, so the spread of an event observable computed per replica carries the
        right correlations between jets.

        Raises:
            NoDensityError: The method predicts a number only.
        """
        if self.by_network is not None:
            return self.by_network(slice(0, len(self)))
        return np.concatenate([part.means().astype(np.float32) for _, part in self.parts()], axis=1)

    def density(self, pt: np.ndarray) -> np.ndarray:
        """Predictive density p(p_T | jet) [1/GeV], averaged over the draws (arXiv:2003.11099, Eq. 1).

        Args:
            pt: Where to evaluate [GeV], shape (points,) for all jets, or (n, points).

        Returns:
            float64 of shape (n, points).
        """
        points = self._points(pt)
        return np.concatenate([part.density(points[jets]) for jets, part in self.parts()])

    def cdf(self, pt: np.ndarray) -> np.ndarray:
        """Predicted probability that the true p_T is smaller, averaged over the draws.

        Args:
            pt: Where to evaluate [GeV], shape (points,) for all jets, or (n, points).

        Returns:
            float64 of shape (n, points).
        """
        points = self._points(pt)
        return np.concatenate([part.cdf(points[jets]) for jets, part in self.parts()])

    def pit(self, truth: np.ndarray) -> np.ndarray:
        """Probability integral transform: the predicted cdf at the true p_T, uniform if the prediction is right.

        Args:
            truth: True p_T [GeV], shape (n,).

        Returns:
            float64 of shape (n,).

        Raises:
            ValueError: There is not one truth per jet.
        """
        if (truth := numbers("truth", truth)).shape != (len(self),):
            raise ValueError(f"expected one true p_T per jet, shape ({len(self)},), found {truth.shape}")
        return self.cdf(truth[:, None])[:, 0]

    def quantile(self, probabilities: float | np.ndarray) -> np.ndarray:
        """p_T below which the averaged distribution holds given probabilities [GeV].

        Args:
            probabilities: Between 0 and 1, a number or shape (q,).

        Returns:
            float64 of shape (n, q), to 1e-6 of sigma_tot.

        Raises:
            ValueError: A probability is not between 0 and 1.
        """
        wanted = np.atleast_1d(numbers("probabilities", probabilities))
        if wanted.ndim != 1:
            raise ValueError(f"quantiles take a list of probabilities, found shape {wanted.shape}")
        for probability in wanted:
            _require_probability(float(probability))
        return np.concatenate([quantiles(part, wanted) for _, part in self.parts()])

    def median(self) -> np.ndarray:
        """p_T with half of the probability on each side [GeV], float64 of shape (n,)."""
        return self.quantile(0.5)[:, 0]

    def mode(self) -> np.ndarray:
        """Most probable p_T [GeV], float64 of shape (n,): highest point of the density, to 1e-3 of sigma_tot."""
        return np.concatenate([modes(part) for _, part in self.parts()])

    def highest_density(self, probability: float = 0.6827) -> ak.Array:
        """The highest-density set: the intervals in which the density exceeds one level (arXiv:2003.11099, Sec. 4).

        It is the smallest set with its probability. A distribution with several peaks can have several intervals.

        Args:
            probability: Probability inside all intervals of a jet together, between 0 and 1; met to 1e-5.

        Returns:
            Type n * var * {low, high} [GeV], float64, in rising order.

        Raises:
            ValueError: The probability is not between 0 and 1.
        """
        _require_probability(probability)
        lows, highs, counts = [], [], []
        for _, part in self.parts():
            low, high, there = highest_density(part, probability)
            lows.append(low[there])
            highs.append(high[there])
            counts.append(there.sum(axis=1))
        flat = ak.zip({"low": np.concatenate(lows), "high": np.concatenate(highs)})
        return ak.unflatten(flat, np.concatenate(counts))

    def interval(self, probability: float = 0.6827) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the highest-density interval [GeV], float64 of shape (n,) each.

        Both ends have the same density (arXiv:2003.11099, Sec. 4). Where the highest-density set is disconnected, its
        outermost ends are returned; :meth:`highest_density` lists the pieces.

        Methods that learn the response instead of the truth give the central confidence interval of a Neyman belt.

        Args:
            probability: Probability inside, between 0 and 1.

        Raises:
            ValueError: The probability is not between 0 and 1.
        """
        _require_probability(probability)
        if self.belt is not None:
            return self.belt(probability)
        low, high = np.empty(len(self)), np.empty(len(self))
        for jets, part in self.parts():
            lows, highs, there = highest_density(part, probability)
            low[jets] = lows[:, 0]
            high[jets] = np.take_along_axis(highs, there.sum(axis=1)[:, None] - 1, axis=1)[:, 0]
        return low, high

    def sample(self, size: int, seed: int | None = None, *, rng: np.random.Generator | None = None) -> np.ndarray:
        """Random true p_T from the predictive distributions [GeV].

        A row uses one weight draw for all jets, so that event observables computed per row carry the correlation
        between jets; the stochastic noise of every jet is its own. Draws take turns, in a shuffled order.

        Args:
            size: Number of rows.
            seed: Of random numbers that belong to the jets: the same jet gets the same ones in any part, order or
                chunk, and another jet others. Jets are told apart by event and detector-level p_T where they come
                from a table or with ``predict(..., event=event)``, otherwise by all that is known of them.
            rng: Instead, a generator, to be passed on from part to part: every call draws new numbers.

        Returns:
            float64 of shape (size, n).

        Raises:
            ValueError: Not one of seed and generator is given, or the size is negative.
        """
        if size < 0:
            raise ValueError(f"the number of rows is not negative, found {size}")
        if (seed is None) == (rng is None):
            raise ValueError("random numbers come from a seed or a generator: sample(size, seed=1) or (size, rng=rng)")
        order = (rng or np.random.default_rng(seed)).permutation(self._distribution(slice(0, 0)).draws)
        draw = order[np.arange(size) % len(order)]
        if rng is not None:
            return np.concatenate([part.sample(draw, rng) for _, part in self.parts()], axis=1)
        identity, seed = self._identities(), int(seed or 0)
        parts = [part.sample(draw, RandomByJet(seed, identity[jets])) for jets, part in self.parts()]
        return np.concatenate(parts, axis=1)

    def _identities(self) -> np.ndarray:
        """What tells the jets apart, uint64 of shape (n,)."""
        if self.identity is None:
            sigmas = (self.sigma_stoch, self.sigma_pred)
            return identity_of_rows(self.mean, *(sigma for sigma in sigmas if sigma is not None))
        return self.identity() if callable(self.identity) else self.identity

    def _distribution(self, jets: slice) -> Distribution:
        if self.components is None:
            raise NoDensityError("this method predicts a single number per jet: it has no draws, density or interval")
        return self.components(jets)

    def parts(self) -> Iterator[tuple[slice, Distribution]]:
        """The jets in parts that bound the memory, with their distributions [GeV]; an empty part if there are none.

        Raises:
            NoDensityError: The method predicts a single number per jet.
        """
        for start in range(0, max(len(self), 1), JETS_AT_ONCE):
            jets = slice(start, min(start + JETS_AT_ONCE, len(self)))
            yield jets, self._distribution(jets)

    def _points(self, pt: np.ndarray) -> np.ndarray:
        pt = np.atleast_1d(numbers("pt", pt))
        return np.broadcast_to(pt, (len(self), pt.shape[-1]))


def _require_probability(probability: float) -> None:
    if not 0 < probability < 1:
        raise ValueError(f"a probability lies between 0 and 1, found {probability}; one sigma is 0.6827")
