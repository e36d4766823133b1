"""Constituents of jets as inputs: p_T-ordered four-vectors in slots of fixed number, empty ones zero and last."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import awkward as ak
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hepcal.arrays import Readable
from hepcal.errors import NonFiniteFeatureError, SchemaError
from hepcal.events.schemas import MOMENTUM

__all__ = ["COMPONENTS", "Constituents"]

COMPONENTS = ("E", "px", "py", "pz")
# Rows that are looked at together, to bound memory.
ROWS_AT_ONCE = 65_536
# The same for the float64 arithmetic of reading.
JETS_AT_ONCE = 8_192
# p_T of neighbours may rise by this (relative, squared): the float32 of a file knows no better, and augmented tables
# keep jets that are in order to half of it.
SAME_PT = np.float32(4e-6)
# Distance in (eta, phi) between a jet and the sum of its constituents; 0.03 is the largest in simulated fat jets.
MAX_AXIS_DR = 0.4


class Constituents(BaseModel):
    """How the constituents of a jet become columns: E, px, py, pz [GeV] of slot 1, of slot 2, and so on.

    Slots hold the constituents in falling p_T. An empty slot is four zeros; a slot is occupied where its energy is
    positive. The softest of more than ``count`` constituents are left out.

    Attributes:
        count: Slots.
        frame: ``jet``: all constituents rotated in phi and boosted along the beam so that their sum points along +x,
            which changes no p_T; ``lab``: as they are (arXiv:2003.11099).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(gt=0, le=1000)] = 100
    frame: Literal["jet", "lab"] = "jet"

    @property
    def width(self) -> int:
        """Columns of all slots."""
        return len(COMPONENTS) * self.count

    def __str__(self) -> str:
        return f"{self.count} constituents ({self.frame} frame)"

    def vectors(self, block: np.ndarray) -> np.ndarray:
        """Columns (n, 4 count) as four-vectors (n, count, 4), a view."""
        return block.reshape(len(block), self.count, len(COMPONENTS))

    def occupied(self, block: np.ndarray) -> np.ndarray:
        """Which slots of columns (n, 4 count) hold a constituent, bool of shape (n, count)."""
        filled: np.ndarray = self.vectors(block)[..., 0] > 0
        return filled

    def fill(self, block: np.ndarray, candidates: ak.Array, axis: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Write the constituents of jets into columns.

        The arithmetic is in float64. Energies are sqrt(p² + m²), where a mass below zero, a rounding of the file,
        counts as zero. The sum that defines the frame is that of all constituents, the ones left out included.

        Args:
            block: Zeros, float32 of shape (n, 4 count); written in place.
            candidates: ``n * {pt: var, eta: var, phi: var, mass: var}`` [GeV], in any order; those of zero p_T
                have no direction and are left out.
            axis: eta and phi of the jets, shape (n,) each, to make sure that the candidates are theirs.

        Raises:
            NonFiniteFeatureError: A value is NaN or infinite, a p_T is negative, or a jet has no constituents.
            SchemaError: The sum of the constituents of a jet does not point along ``axis``.
        """
        momenta = {name: ak.to_numpy(ak.flatten(candidates[name])) for name in MOMENTUM}
        counts = _usable(ak.to_numpy(ak.num(candidates["pt"])), momenta)
        ends = np.concatenate([[0], np.cumsum(counts)])
        astray = []
        for start in range(0, len(counts), JETS_AT_ONCE):
            rows = slice(start, min(start + JETS_AT_ONCE, len(counts)))
            here = slice(ends[rows.start], ends[rows.stop])
            # What overflows is infinite or NaN in the columns, and refused there.
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                part = _Momenta.ordered(counts[rows], *(momenta[name][here] for name in MOMENTUM))
                if axis is not None:
                    astray.append(part.distance(axis[0][rows], axis[1][rows]) > MAX_AXIS_DR)
                slot = np.arange(len(part.jet)) - (ends[rows] - ends[rows.start])[part.jet]
                kept = slot < self.count
                for component, values in enumerate(part.components(self.frame)):
                    self.vectors(block[rows])[part.jet[kept], slot[kept], component] = values[kept]
        if astray and (lost := np.concatenate(astray)).any():
            raise SchemaError(
                f"the constituents of {lost.sum()} of {len(counts)} jets sum to a momentum more than {MAX_AXIS_DR} "
                f"away from the jet in (eta, phi), first at jet {int(np.argmax(lost))}: the candidates of the events "
                "are not the constituents of these jets but, for example, all particles, or those of other jets, if "
                "they are not stored jet after jet"
            )

    def truncated(self, candidates: ak.Array) -> int:
        """How many jets have more than ``count`` constituents, those of zero p_T aside; reads nothing but the p_T."""
        return int(np.sum(ak.to_numpy(ak.sum(candidates["pt"] > 0, axis=1)) > self.count))

    def check(self, block: Readable) -> None:
        """Refuse columns that are not p_T-ordered constituents of jets that have some.

        Jets without constituents are refused here as in files: no augmentation makes one of a jet that has some.

        Args:
            block: Shape (n, 4 count), in memory or memory-mapped.

        Raises:
            NonFiniteFeatureError: A component is NaN or infinite, a slot of no energy has a momentum, an empty slot
                comes before an occupied one, a p_T is larger than that of the slot before, or all slots are empty;
                counts the jets.
        """
        bad: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(block), ROWS_AT_ONCE):
            part = self.vectors(np.asarray(block[start : start + ROWS_AT_ONCE]))
            filled = part[..., 0] > 0
            for problem, where in (
                ("constituents with a component that is NaN or infinite", ~np.isfinite(part).all(axis=(1, 2))),
                ("constituents with a momentum in a slot without energy", (~filled & (part != 0).any(2)).any(axis=1)),
                ("constituents with an empty slot before an occupied one", (~filled[:, :-1] & filled[:, 1:]).any(1)),
                ("constituents that are not in falling p_T", _rising(part)),
                ("no constituents", ~filled.any(axis=1)),
            ):
                bad.setdefault(problem, []).append(start + np.flatnonzero(where))
        for problem, found in bad.items():
            if len(jets := np.concatenate(found)):
                raise NonFiniteFeatureError(
                    f"{len(jets)} of {len(block)} jets have {problem}, first at jet {int(jets[0])}; "
                    f"columns are {', '.join(COMPONENTS)} of each slot in falling p_T"
                )


def _rising(vectors: np.ndarray) -> np.ndarray:
    """Which jets (n, count, 4) have a slot of more p_T than the one before, beyond rounding; bool of shape (n,)."""
    # What overflows is not finite or beyond any momentum, and refused or compared as infinite.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squared = vectors[..., 1] ** 2 + vectors[..., 2] ** 2
        limit = squared[:, :-1] * (1 + SAME_PT) + np.finfo(np.float32).tiny
    rising: np.ndarray = (squared[:, 1:] > limit).any(axis=1)
    return rising


def _usable(counts: np.ndarray, momenta: dict[str, np.ndarray]) -> np.ndarray:
    """Constituents per jet with a p_T; those without are taken out of ``momenta``."""

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            raise NonFiniteFeatureError(
                f"{bad.sum()} of {len(counts)} jets have {what}, first at jet {int(np.argmax(bad))}; "
                "select jets without this problem before calibrating"
            )

    jet = np.repeat(np.arange(len(counts)), counts)
    good = np.logical_and.reduce([np.isfinite(values) for values in momenta.values()]) & ~(momenta["pt"] < 0)
    refuse(
        np.bincount(jet[~good], minlength=len(counts)) > 0, "a constituent with a NaN, infinite or negative momentum"
    )
    if not (moving := momenta["pt"] > 0).all():
        momenta.update({name: values[moving] for name, values in momenta.items()})
        counts = np.bincount(jet[moving], minlength=len(counts))
    refuse(counts == 0, "no constituents")
    return counts


@dataclass(frozen=True)
class _Momenta:
    """Constituents of some jets, jet by jet in falling p_T; float64 arrays of shape (constituents,)."""

    jets: int
    jet: np.ndarray
    pt: np.ndarray
    phi: np.ndarray
    rapidity: np.ndarray
    transverse_mass: np.ndarray

    @classmethod
    def ordered(
        cls, counts: np.ndarray, pt: np.ndarray, eta: np.ndarray, phi: np.ndarray, mass: np.ndarray
    ) -> _Momenta:
        """From what files hold; equal p_T keep the order of the file."""
        jet = np.repeat(np.arange(len(counts)), counts)
        order = np.lexsort((-pt, jet))
        pt, eta, phi, mass = (values[order].astype(np.float64) for values in (pt, eta, phi, mass))
        transverse = np.hypot(pt, np.maximum(mass, 0))
        return cls(len(counts), jet, pt, phi, np.arcsinh(pt * np.sinh(eta) / transverse), transverse)

    def _summed(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.jet, weights=values, minlength=self.jets)

    @cached_property
    def sum_xy(self) -> tuple[np.ndarray, np.ndarray]:
        """Transverse momentum of each jet [GeV]."""
        return self._summed(self.pt * np.cos(self.phi)), self._summed(self.pt * np.sin(self.phi))

    @cached_property
    def sum_rapidity(self) -> np.ndarray:
        """Rapidity of the sum of the constituents of each jet."""
        # E + pz and E - pz are sums of positive terms: nothing cancels.
        plus, minus = (self._summed(self.transverse_mass * np.exp(s * self.rapidity)) for s in (1, -1))
        return np.asarray(np.log(plus / minus) / 2)

    def distance(self, eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """From the sum of the constituents of each jet to a direction, sqrt(deta² + dphi²)."""
        x, y = self.sum_xy
        z = self._summed(self.transverse_mass * np.sinh(self.rapidity))
        deta = np.arcsinh(z / np.hypot(x, y)) - eta
        dphi = np.remainder(np.arctan2(y, x) - phi + np.pi, 2 * np.pi) - np.pi
        return np.asarray(np.nan_to_num(np.hypot(deta, dphi), nan=np.inf))

    def components(self, frame: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """E, px, py, pz [GeV] in the frame."""
        phi, rapidity = self.phi, self.rapidity
        if frame == "jet":
            x, y = self.sum_xy
            phi, rapidity = phi - np.arctan2(y, x)[self.jet], rapidity - self.sum_rapidity[self.jet]
        return (
            self.transverse_mass * np.cosh(rapidity),
            self.pt * np.cos(phi),
            self.pt * np.sin(phi),
            self.transverse_mass * np.sinh(rapidity),
        )
