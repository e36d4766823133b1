"""Event weights: a resonance from falling-spectrum events, and effective numbers of events."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated

import hist
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.ndimage import gaussian_filter1d

from hepcal.errors import FilesetError

__all__ = ["MassDensity", "Resonance", "dataset_factors", "n_eff"]

MASS_BIN = 25.0
SMOOTHING_BINS = 2.0
MASS_BINS = 480
MIN_N_EFF = 50


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
        first, last = _longest_run(smooth > 0)
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
        falling: np.ndarray = np.exp(np.interp(mass, centers, np.log(self.density), left=np.nan, right=np.nan))
        return falling


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
        falling = density(mass)
        inside = np.isfinite(falling)
        peak = np.exp(-0.5 * ((mass - self.mass) / self.width) ** 2) / (np.sqrt(2 * np.pi) * self.width)
        return np.where(inside, weight * peak / np.where(inside, falling, 1), 0.0), inside


def dataset_factors(sums: Mapping[str, float], cross_sections: Mapping[str, float | None]) -> dict[str, float]:
    """Factors on the file weights of simulated data sets.

    Args:
        sums: Sum of the file weights of each data set.
        cross_sections: Cross section [pb] of each data set, or None.

    Returns:
        Factors that make the weights of a data set sum to its cross section where all give one; where none does, all
        weights together sum to one, so that data sets count by their weights.

    Raises:
        FilesetError: Only some data sets give a cross section, or weights do not sum to a positive number.
    """
    without = [name for name in sums if cross_sections.get(name) is None]
    if without and len(without) < len(sums):
        raise FilesetError(
            f"data sets without a cross_section [pb] in their metadata: {', '.join(without)}; "
            "give one to all simulated data sets, or to none"
        )
    if bad := [name for name, total in sums.items() if not total > 0]:
        raise FilesetError(f"the weights of data set {', '.join(bad)} do not sum to a positive number")
    pooled = sum(sums.values())
    return {name: (cross_sections.get(name) or total / pooled) / total for name, total in sums.items()}


def n_eff(weight: np.ndarray) -> float:
    """Effective number of entries, (sum w)² / sum w²; zero for none."""
    squares = float(np.sum(np.square(weight)))
    return float(np.sum(weight)) ** 2 / squares if squares else 0.0


def _longest_run(flags: Sequence[bool] | np.ndarray) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]])))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])
