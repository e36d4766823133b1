"""Changes of constituents; four-vectors stay physical.

The layout is that of :class:`hepcal.events.constituents.Constituents`. A constituent that is scaled by a factor is
scaled as a four-vector, its mass included: E² - p² becomes factor² m², and massless stays massless. Afterwards the
slots are in falling p_T again, with the empty ones last. In the jet frame, all constituents turn with the axis of their
sum, so that it points where it did before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri, pdtr

from hepcal.arrays import unmasked
from hepcal.events.constituents import COMPONENTS
from hepcal.tables.random import uniform

__all__ = ["Augmented", "overlay_pileup", "scale_constituents", "scale_leading", "smear_constituents"]

Frame = Literal["jet", "lab"]
# Streams of random numbers: noise of constituents, number of pile-up particles, what these are.
NOISE, NUMBER, PARTICLES = 1, 2, 3
# Jets that are worked on at once, to bound memory.
JETS_AT_ONCE = 2048
# p_T of neighbours that differ by less (relative, squared) are in order as they are: float32 knows no better.
SAME_PT = 2e-6
# The most pile-up particles per jet, to bound memory.
LARGEST_MU = 1000.0

# From (jets, slots, 4) and the rows that these are: the new vectors, perhaps with more slots.
Change = Callable[[np.ndarray, slice], np.ndarray]


@dataclass(frozen=True, slots=True)
class Augmented:
    """Changed constituents of n jets.

    Attributes:
        constituents: Columns of the layout, float32 of shape (n, 4 count).
        ratio: p_T of the sum of all constituents, those left out included, over what it was; float64 of shape (n,);
            one for jets without constituents.
        left_out: Constituents that found no slot, the softest; int64 of shape (n,).
    """

    constituents: np.ndarray
    ratio: np.ndarray
    left_out: np.ndarray


def scale_constituents(block: np.ndarray, fraction: float, *, frame: Frame = "jet") -> Augmented:
    """All four-vectors scaled by 1 + ``fraction``: a coherent shift of the scale (arXiv:2003.11099, App. A).

    Args:
        block: Columns of the layout [GeV], shape (n, 4 count), in memory or memory-mapped.
        fraction: Above -1.
        frame: That of the layout.

    Raises:
        ValueError: The fraction is not above -1, or the block has another layout.
    """
    if not -1 < fraction < np.inf:
        raise ValueError(f"a scale 1 + f is positive: f lies above -1, found {fraction}")
    return _changed(block, frame, lambda vectors, _: vectors * (1 + fraction))


def scale_leading(block: np.ndarray, factor: float, *, frame: Frame = "jet") -> Augmented:
    """The four-vector of the leading constituent scaled by a factor; it may lead no more.

    Args:
        block: Columns of the layout [GeV], shape (n, 4 count).
        factor: Above zero.
        frame: That of the layout.

    Raises:
        ValueError: The factor is not positive, or the block has another layout.
    """
    if not 0 < factor < np.inf:
        raise ValueError(f"a factor on a four-vector is positive, found {factor}")

    def change(vectors: np.ndarray, _: slice) -> np.ndarray:
        vectors[:, 0] *= factor
        return vectors

    return _changed(block, frame, change)


def smear_constituents(
    block: np.ndarray, sigma: float, *, seed: int, identity: np.ndarray, frame: Frame = "jet"
) -> Augmented:
    """Every four-vector scaled by its own 1 + sigma xi, with xi Gaussian between -1/sigma and 1/sigma.

    The cut keeps factors positive, and on both sides it keeps their mean at one: no scale is shifted by noise. It is
    felt from sigma = 0.3 on: the spread of the factors is 0.298 there, and 0.382 at 0.4.

    Args:
        block: Columns of the layout [GeV], shape (n, 4 count).
        sigma: Relative width of the noise, not negative.
        seed: Of the random numbers.
        identity: Of the jets, uint64 of shape (n,); see :func:`hepcal.tables.random.identity_of`.
        frame: That of the layout.

    Raises:
        ValueError: The width is negative, or the arrays have other shapes.
    """
    if not 0 <= sigma < np.inf:
        raise ValueError(f"a width is not negative, found {sigma}")
    _require_identity(identity, block)
    tail = float(ndtr(-1 / sigma)) if sigma else 0.0

    def change(vectors: np.ndarray, rows: slice) -> np.ndarray:
        drawn = uniform(seed, identity[rows], vectors.shape[1], NOISE)
        xi = ndtri(np.ascontiguousarray(tail + (1 - 2 * tail) * drawn))
        return np.asarray(vectors * (1 + sigma * xi)[..., None])

    return _changed(block, frame, change)


def overlay_pileup(
    block: np.ndarray,
    mu: float,
    *,
    radius: float,
    mean_pt: float = 1.0,
    seed: int,
    identity: np.ndarray,
    frame: Frame = "jet",
) -> Augmented:
    """Soft massless particles on top: Poisson in number, uniform around the jet axis, exponential in p_T.

    The jet axis is that of the sum of the constituents. Where there are more particles than slots, the softest of all,
    constituents and pile-up alike, are left out and counted.

    Args:
        block: Columns of the layout [GeV], shape (n, 4 count).
        mu: Mean number of particles per jet, at most 1000.
        radius: They lie within this distance of the axis in eta and phi, uniformly in area.
        mean_pt: Mean of their p_T [GeV].
        seed: Of the random numbers.
        identity: Of the jets, uint64 of shape (n,); see :func:`hepcal.tables.random.identity_of`.
        frame: That of the layout.

    Raises:
        ValueError: A number is out of range, or the arrays have other shapes.
    """
    if not (0 <= mu <= LARGEST_MU and 0 < radius < np.inf and 0 < mean_pt < np.inf):
        raise ValueError(
            f"pile-up needs 0 <= mu <= {LARGEST_MU:g}, radius > 0 and mean_pt > 0; found {mu}, {radius}, {mean_pt}"
        )
    _require_identity(identity, block)
    below = pdtr(np.arange(int(mu + 12 * np.sqrt(mu)) + 30), mu)

    def change(vectors: np.ndarray, rows: slice) -> np.ndarray:
        jets = identity[rows]
        number = np.searchsorted(below, uniform(seed, jets, 1, NUMBER)[:, 0])
        most = int(number.max(initial=0))
        if most == 0:
            return vectors
        drawn = uniform(seed, jets, 3 * most, PARTICLES).reshape(len(jets), most, 3)
        soft = _particles(vectors.sum(axis=1), np.moveaxis(drawn, 2, 0).copy(), radius, mean_pt)
        soft[np.arange(most) >= number[:, None]] = 0
        return np.concatenate([vectors, soft], axis=1)

    return _changed(block, frame, change)


def _particles(jet: np.ndarray, drawn: np.ndarray, radius: float, mean_pt: float) -> np.ndarray:
    """Massless four-vectors (n, m, 4) around jets (n, 4), from uniform numbers (3, n, m)."""
    distance, angle = radius * np.sqrt(drawn[0]), 2 * np.pi * drawn[1]
    pt = -mean_pt * np.log(drawn[2])
    transverse = np.hypot(jet[:, 1], jet[:, 2])
    eta = np.arcsinh(np.divide(jet[:, 3], transverse, where=transverse > 0, out=np.zeros(len(jet))))
    eta = eta[:, None] + distance * np.cos(angle)
    phi = np.arctan2(jet[:, 2], jet[:, 1])[:, None] + distance * np.sin(angle)
    unit = np.stack([np.cosh(eta), np.cos(phi), np.sin(phi), np.sinh(eta)], axis=-1)
    return np.asarray(pt[..., None] * unit)


def _changed(block: np.ndarray, frame: Frame, change: Change) -> Augmented:
    """Apply a change to all jets, part by part."""
    block = unmasked("block", block)
    if block.ndim != 2 or block.shape[1] % len(COMPONENTS):
        raise ValueError(f"expected columns {', '.join(COMPONENTS)} of slots, shape (n, 4 count), found {block.shape}")
    count = block.shape[1] // len(COMPONENTS)
    out = Augmented(np.empty(block.shape, dtype=np.float32), np.ones(len(block)), np.zeros(len(block), dtype=np.int64))
    for start in range(0, len(block), JETS_AT_ONCE):
        rows = slice(start, start + JETS_AT_ONCE)
        vectors = np.asarray(block[rows], dtype=np.float64).reshape(-1, count, len(COMPONENTS))
        before = vectors.sum(axis=1)
        # The source may be a view: a change may write to its argument.
        found = change(vectors.copy(), rows)
        after = found.sum(axis=1)
        norms = [np.hypot(jet[:, 1], jet[:, 2]) for jet in (before, after)]
        np.divide(norms[1], norms[0], out=out.ratio[rows], where=norms[0] > 0)
        if frame == "jet":
            found = _turned(found, before, after)
        found = _ordered(found)
        out.left_out[rows] = np.count_nonzero(found[:, count:, 0] > 0, axis=1)
        out.constituents[rows] = found[:, :count].reshape(len(found), -1)
    return out


def _turned(vectors: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Rotated in phi and boosted along the beam by what the sum of a jet has moved; no p_T changes."""
    there = (before[:, 1:3] != 0).any(axis=1) & (after[:, 1:3] != 0).any(axis=1)
    phi, rapidity = (
        np.where(there, _axis(before, there)[part] - _axis(after, there)[part], 0)[:, None] for part in (0, 1)
    )
    energy, px, py, pz = np.moveaxis(vectors, 2, 0)
    cos, sin, cosh, sinh = np.cos(phi), np.sin(phi), np.cosh(rapidity), np.sinh(rapidity)
    return np.stack(
        [energy * cosh + pz * sinh, px * cos - py * sin, py * cos + px * sin, pz * cosh + energy * sinh], axis=-1
    )


def _axis(jet: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Azimuth and rapidity of jets (n, 4); zero where there is none."""
    energy, px, py, pz = jet.T
    return np.arctan2(py, px), np.arctanh(np.divide(pz, energy, out=np.zeros(len(jet)), where=there))


def _ordered(vectors: np.ndarray) -> np.ndarray:
    """In falling p_T, empty slots last; jets that are in order to float32 precision stay as they are."""
    pt_squared = np.where(vectors[..., 0] > 0, vectors[..., 1] ** 2 + vectors[..., 2] ** 2, -1.0)
    disordered = (pt_squared[:, 1:] > pt_squared[:, :-1] + SAME_PT * np.abs(pt_squared[:, :-1])).any(axis=1)
    order = np.argsort(-pt_squared[disordered], axis=1, kind="stable")
    vectors[disordered] = np.take_along_axis(vectors[disordered], order[..., None], axis=1)
    return vectors


def _require_identity(identity: np.ndarray, block: np.ndarray) -> None:
    if identity.shape != (len(block),):
        raise ValueError(f"expected one identity per jet, shape ({len(block)},), found {identity.shape}")
