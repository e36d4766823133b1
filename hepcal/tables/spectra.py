"""Event weights: a resonance or a flat spectrum from falling-spectrum events, and effective numbers of events.

Weights that depend on the truth alone leave the response p(reco | truth) as it is. Where the events carry weights w of
their own (slices of the generated spectrum), a target density t(z) is reached in two ways that agree (arXiv:2205.05084,
Eq. 45): w t(z) / p(z) with the *weighted* density p of the sample, or t(z) / p(z) with the *unweighted* one, and w
dropped. The first keeps the mixture of slices at each z, the second has the larger n_eff. Mixing them gives neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import hist
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.ndimage import gaussian_filter1d

from hepcal.arrays import numbers
from hepcal.errors import PairsError
from hepcal.statistics import longest_run, n_eff

__all__ = [
    "Convention",
    "MassDensity",
    "Resonance",
    "Reweighted",
    "TruthDensity",
    "flattening_weights",
    "resonance_weights",
]

Convention = Literal["weighted", "unweighted"]

MASS_BIN = 25.0
SMOOTHING_BINS = 2.0
MASS_BINS = 480
MIN_N_EFF = 50
# Bins of the density of a truth: their relative width, and the effective number of entries of those in its support.
BIN_RATIO = 1.05
MIN_BIN_N_EFF = 25


class MassDensity(BaseModel):
    """Density of the true dijet mass over a whole sample, p_QCD of arXiv:2205.05084, Eq. 45.

    A weighted histogram of 25 GeV bins, smoothed with a Gaussian of two bins and interpolated in its logarithm. It is
    made in one pass over all events before any is reweighted, never from a chunk.

    Attributes:
        start: Centre of the first bin [GeV].
        density: Density at the bin centres [1/GeV], all positive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float
    density: tuple[float, ...]

    @model_validator(mode="after")
    def _positive(self) -> MassDensity:
        if len(self.density) < 2 or min(self.density) <= 0:
            raise ValueError("a mass density needs at least two bins, all positive")
        return self

    @staticmethod
    def axis() -> hist.axis.Regular:
        """The axis that :meth:`from_hist` expects: 0 to 12 TeV."""
        return hist.axis.Regular(
            MASS_BINS, 0, MASS_BIN * MASS_BINS, name="mjj_truth", label="Particle-level $m_{jj}$ [GeV]"
        )

    @classmethod
    def from_hist(cls, masses: hist.Hist) -> MassDensity | None:
        """From a one-dimensional histogram over :meth:`axis`; None if n_eff < 50: too few events to speak of a density.

        The support is the longest run of bins where the smoothed content is positive.
        """
        content = np.asarray(masses.values(), dtype=np.float64)
        smooth = gaussian_filter1d(content, SMOOTHING_BINS, mode="constant")
        first, last = longest_run(smooth > 0)
        if last - first < 2 or content.sum() ** 2 < MIN_N_EFF * np.sum(masses.variances()):
            return None
        smooth = smooth[first:last]
        density = tuple(float(d) for d in smooth / (smooth.sum() * MASS_BIN))
        return cls(start=float(MASS_BIN * (first + 0.5)), density=density)

    @property
    def sha256(self) -> str:
        """Hash of the content, rounded so that the order in which chunks were merged does not change it."""
        rounded = f"{self.start:g} " + " ".join(f"{d:.9e}" for d in self.density)
        return hashlib.sha256(rounded.encode()).hexdigest()

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest mass [GeV] with a density."""
        return self.start, self.start + MASS_BIN * (len(self.density) - 1)

    def __call__(self, mass: np.ndarray) -> np.ndarray:
        """Density [1/GeV] at masses [GeV] of shape (n,); NaN outside the support."""
        centers = self.start + MASS_BIN * np.arange(len(self.density))
        falling = np.interp(numbers("mass", mass), centers, np.log(self.density), left=np.nan, right=np.nan)
        return np.asarray(np.exp(falling))


class Resonance(BaseModel):
    """A Gaussian resonance in the true dijet mass.

    Attributes:
        mass: Its mass M [GeV].
        width: Its width Gamma [GeV]; the paper uses 10.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mass: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2800.0
    width: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 100.0

    def weights(self, mass: np.ndarray, weight: np.ndarray, density: MassDensity) -> tuple[np.ndarray, np.ndarray]:
        """BSM weights, w N(m; M, Gamma) / p_QCD(m) (arXiv:2205.05084, Eq. 45) with the weighted density.

        Args:
            mass: True dijet mass [GeV], shape (n,); NaN where an event has none.
            weight: Weight of each event in the QCD sample, shape (n,), the weights that made the density.
            density: Its density.

        Returns:
            The weights, zero outside the support of the density, and whether each event was inside; shape (n,).
        """
        falling, weight = density(mass), numbers("weight", weight)
        inside = np.isfinite(falling)
        peak = np.exp(-0.5 * ((mass - self.mass) / self.width) ** 2) / (np.sqrt(2 * np.pi) * self.width)
        return np.where(inside, weight * peak / np.where(inside, falling, 1), 0.0), inside


@dataclass(frozen=True, slots=True)
class Reweighted:
    """New weights of n events.

    Attributes:
        weight: float64 of shape (n,); zero outside the support of the density.
        inside: Whether each event is inside, bool of shape (n,).
    """

    weight: np.ndarray
    inside: np.ndarray

    @property
    def n_eff(self) -> float:
        """Effective number of events, (sum w)² / sum w²."""
        return n_eff(self.weight)

    @property
    def outside(self) -> int:
        """Number of events outside the support of the density."""
        return int(np.sum(~self.inside))


def resonance_weights(
    mass: np.ndarray,
    weight: np.ndarray | None = None,
    resonance: Resonance | None = None,
    *,
    convention: Convention = "weighted",
) -> Reweighted:
    """BSM weights of a whole sample, with its own density, in one of the two conventions.

    Args:
        mass: True dijet mass [GeV] of all events, shape (n,); NaN where an event has none.
        weight: Their weights, shape (n,); None for one each.
        resonance: Default: 2800 GeV with a width of 100 GeV.
        convention: ``weighted``: w N(m; M, Gamma) / weighted density; ``unweighted``: N(m; M, Gamma) / unweighted
            density, the weights dropped.

    Raises:
        ValueError: The shapes differ, there are too few events for a density, or weights of either sign would be
            dropped, which are a subtraction and no choice of where to generate.
    """
    mass, weight = _sample(mass, weight, convention)
    filled = hist.Hist(MassDensity.axis(), storage=hist.storage.Weight())
    filled.fill(mass, weight=weight)
    density = MassDensity.from_hist(filled)
    if density is None:
        raise ValueError(f"n_eff of the masses is below {MIN_N_EFF}: too few events for a density")
    return Reweighted(*(resonance or Resonance()).weights(mass, weight, density))


class TruthDensity(BaseModel):
    """Density of a falling truth spectrum, a power law between the centres of logarithmic bins.

    Attributes:
        edges: Bin edges [GeV], positive and increasing, shape (bins + 1,).
        density: Mean density in the bins [1/GeV], all positive, shape (bins,).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...]
    density: tuple[float, ...]

    @model_validator(mode="after")
    def _positive(self) -> TruthDensity:
        if len(self.density) < 2 or min(self.density) <= 0 or len(self.edges) != len(self.density) + 1:
            raise ValueError("a truth density needs at least two bins, all positive, and one edge more")
        if min(self.edges) <= 0 or min(np.diff(self.edges)) <= 0:
            raise ValueError(f"the edges of a truth density are positive and increase, found {self.edges}")
        return self

    @classmethod
    def from_sample(
        cls,
        truth: np.ndarray,
        weight: np.ndarray | None = None,
        *,
        edges: Sequence[float] | np.ndarray | None = None,
        convention: Convention = "weighted",
    ) -> TruthDensity:
        """From a whole sample; the support is the longest run of bins of positive content with n_eff of at least 25.

        Args:
            truth: True values [GeV], shape (n,), positive.
            weight: Their weights, shape (n,); None for one each.
            edges: Bin edges [GeV]; default: bins of 5 % over the range of the sample.
            convention: ``unweighted`` drops the weights.

        Raises:
            PairsError: A truth is NaN, infinite or not positive, or a weight NaN or infinite; says where.
            ValueError: The shapes differ, weights of either sign would be dropped, or fewer than two bins hold enough.
        """
        truth, weight = _sample(truth, weight, convention)
        _require_positive(truth)
        if not len(truth):
            raise ValueError("there are no jets to take a density of")
        if edges is None:
            # A little beyond the largest value, which the last bin would leave out.
            low, high = truth.min(), truth.max() * (1 + 1e-9)
            edges = np.geomspace(low, high, max(2, round(np.log(high / low) / np.log(BIN_RATIO))) + 1)
        edges = numbers("edges", edges)
        content, squares = (np.histogram(truth, edges, weights=weight**power)[0] for power in (1, 2))
        first, last = longest_run((content > 0) & (content**2 >= MIN_BIN_N_EFF * squares))
        if last - first < 2:
            raise ValueError(f"fewer than two neighbouring bins have n_eff of {MIN_BIN_N_EFF}: too few for a density")
        edges, content = edges[first : last + 1], content[first:last]
        density = content / (content.sum() * np.diff(edges))
        return cls(edges=tuple(map(float, edges)), density=tuple(map(float, density)))

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest truth [GeV] with a density."""
        return self.edges[0], self.edges[-1]

    def __call__(self, truth: np.ndarray) -> np.ndarray:
        """Density [1/GeV] at truths [GeV] of shape (n,); NaN outside the support."""
        truth, edges, height = numbers("truth", truth), np.log(self.edges), np.log(self.density)
        centres = (edges[1:] + edges[:-1]) / 2
        slopes = np.diff(height) / np.diff(centres)
        inside = (truth >= self.edges[0]) & (truth <= self.edges[-1])
        at = np.log(np.where(inside, truth, self.edges[0]))
        # The power law of the two bins at either end goes on to its edge.
        piece = np.clip(np.searchsorted(centres, at) - 1, 0, len(slopes) - 1)
        return np.where(inside, np.exp(height[piece] + slopes[piece] * (at - centres[piece])), np.nan)


def flattening_weights(
    truth: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    density: Callable[[np.ndarray], np.ndarray] | None = None,
    edges: Sequence[float] | np.ndarray | None = None,
    convention: Convention = "weighted",
) -> Reweighted:
    """Weights that make the spectrum of truth flat within the support of its density: w / p(z), or 1 / p(z).

    n_eff falls with the ratio of the densities at both ends.

    Args:
        truth: True values [GeV] of all jets, shape (n,).
        weight: Their weights, shape (n,); None for one each.
        density: Density [1/GeV], NaN outside its support, made with the weights of the same ``convention``; default:
            the :class:`TruthDensity` of this sample.
        edges: Bin edges of the default density [GeV].
        convention: ``weighted`` keeps the weights and needs the weighted density, ``unweighted`` drops both.

    Raises:
        PairsError: As in :meth:`TruthDensity.from_sample`, or the density is no positive number at a truth.
        ValueError: As there; edges are given beside a density.
    """
    truth, weight = _sample(truth, weight, convention)
    if density is not None and edges is not None:
        raise ValueError("edges are those of a density that is not given")
    _require_positive(truth)
    found = (density or TruthDensity.from_sample(truth, weight, edges=edges))(truth)
    inside = ~np.isnan(found)
    _require("density", found, ~inside | ((found > 0) & (found < np.inf)), "zero, negative or infinite at a truth")
    return Reweighted(np.where(inside, weight / np.where(inside, found, 1), 0.0), inside)


def _require_positive(truth: np.ndarray) -> None:
    _require("truth", truth, np.isfinite(truth) & (truth > 0), "NaN, infinite or not positive")


def _require(name: str, values: np.ndarray, good: np.ndarray, bad: str) -> None:
    """Refuse values that would make all weights NaN, or some of them zero without a word."""
    if not good.all():
        row = int(np.argmin(good))
        raise PairsError(
            f"{name!r} is {bad} in {np.sum(~good)} of {len(values)} rows, first in row {row} ({values[row]:g}): leave "
            "these rows out"
        )


def _sample(values: np.ndarray, weight: np.ndarray | None, convention: Convention) -> tuple[np.ndarray, np.ndarray]:
    """Values and the weights that a convention uses, in float64."""
    values = numbers("values", values)
    weight = np.ones(values.shape) if weight is None else numbers("weight", weight)
    if values.ndim != 1 or weight.shape != values.shape:
        raise ValueError(f"values of shape {values.shape} cannot have weights of shape {weight.shape}")
    _require("weight", weight, np.isfinite(weight), "NaN or infinite")
    if convention == "unweighted":
        if (weight < 0).any():
            raise ValueError(f"{(weight < 0).sum()} negative weights cannot be dropped: use the weighted convention")
        # An event of weight zero is not part of the sample, whatever the others weigh.
        weight = (weight > 0).astype(np.float64)
    return values, weight
