"""Distributions of the inputs at fixed p_T, and how those of another sample differ: another detector shows itself.

A calibrator keeps what its training saw. The distribution of an input at fixed *true* p_T and |eta| does not depend on
the spectrum, on weights or on a cut on either; neither does that of the response. At fixed detector-level p_T, which is
all that there is in data, the spectrum enters through the resolution, and a small difference proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.special import ndtri

from hepcal.events.features import Features
from hepcal.tables.input_differences import ALL, RESPONSE, Condition, Difference
from hepcal.tables.rows import Rows, chunks

__all__ = ["ABS_ETA", "CONDITIONS", "InputHistograms", "described", "names_of", "quantities"]

CONDITIONS: tuple[Condition, ...] = ("truth", "reco")
CONSTITUENTS = ("number of constituents", "p_T share of the hardest constituent", "p_T sum of constituents / jet p_T")
# Bins of p_T: about 10 % wide, so that another spectrum within one moves nothing, up to 24 of them.
LOG_STEP = 0.1
MAX_PT_BINS = 24
JETS_PER_PT_BIN = 100
# Share of the jets beyond either end, which are not compared.
BEYOND = 1e-3
# Inner ends of the regions of |eta|, where that is among the inputs; the last one has no end.
ABS_ETA = (0.8, 1.3, 2.5)
# Bins of each input, with equal numbers of jets.
BINS = 12
# Jets that say where the bins are; all of them fill.
JETS_FOR_EDGES = 200_000
BYTES_FOR_EDGES = 32 * 2**20
# Cells with fewer effective jets of the training are not compared.
MIN_N_EFF = 30.0
# At fixed detector-level p_T, cells are not compared either where another spectrum of the truth, steeper or flatter by
# this power, moves the cumulative distribution of an input by more than this.
OTHER_SPECTRUM = 4.0
MOVED = 0.03


SUMS = ("content", "squares")


@dataclass(frozen=True, slots=True)
class InputHistograms:
    """Weighted histograms of q quantities, in B bins of p_T and E regions of |eta|, each with K bins of its own.

    Attributes:
        condition: The p_T that is held fixed.
        pt_edges: Of the bins of p_T [GeV], shape (B + 1,).
        edges: Inner edges of the bins of each quantity in each bin of p_T, shape (B, q, K - 1).
        content: Sum of weights, float64 of shape (B, E, q, K).
        squares: Sum of squared weights of a cell, float64 of shape (B, E).
        smallest: Smallest detector-level p_T [GeV], float64 of shape (); infinite without jets.
    """

    condition: Condition
    pt_edges: np.ndarray
    edges: np.ndarray
    content: np.ndarray
    squares: np.ndarray
    smallest: np.ndarray

    @classmethod
    def of(
        cls,
        condition: Condition,
        spec: Features,
        features: Rows,
        reco: np.ndarray,
        truth: np.ndarray,
        weight: np.ndarray,
    ) -> InputHistograms | None:
        """Those of a training table; None if there is nothing to compare.

        Args:
            condition: The p_T that is held fixed.
            spec: What the features are.
            features: Shape (n, d), in memory or on disk.
            reco: Detector-level p_T [GeV], shape (n,).
            truth: True p_T [GeV], shape (n,).
            weight: Shape (n,), of either sign.
        """
        if not names_of(spec, condition):
            return None
        some_jets = min(JETS_FOR_EDGES, BYTES_FOR_EDGES // (4 * max(spec.width, 1)))
        rows = slice(None, None, -(-len(reco) // some_jets))
        some = quantities(condition, spec, np.asarray(features[rows]), reco[rows], truth[rows])
        pt = {"truth": truth, "reco": reco}[condition][rows].astype(np.float64)
        pt_edges = _pt_edges(pt)
        place = np.digitize(pt, pt_edges) - 1
        levels = np.arange(1, BINS) / BINS
        edges = np.stack(
            [
                np.quantile(some[inside if (inside := place == b).any() else slice(None)], levels, axis=0).T
                for b in range(len(pt_edges) - 1)
            ]
        )
        # Kept in float32, as a calibrator saves them: the same numbers decide before and after.
        empty = cls.empty(condition, spec, pt_edges.astype(np.float32), edges.astype(np.float32))
        if condition == "truth":
            return empty.filled(spec, features, reco, truth, weight)
        relative = truth.astype(np.float64) / np.median(truth)
        weights = [weight, weight * relative**-OTHER_SPECTRUM, weight * relative**OTHER_SPECTRUM]
        found, *others = empty._all_filled(spec, features, reco, truth, weights)
        return found._where_stable(others)

    @classmethod
    def empty(cls, condition: Condition, spec: Features, pt_edges: np.ndarray, edges: np.ndarray) -> InputHistograms:
        """Nothing filled yet."""
        shape = len(pt_edges) - 1, (len(ABS_ETA) + 1 if "eta" in spec.names else 1)
        content = np.zeros((*shape, edges.shape[1], edges.shape[2] + 1))
        return cls(condition, pt_edges, edges, content, np.zeros(shape), np.array(np.inf))

    def _where_stable(self, others: Sequence[InputHistograms]) -> InputHistograms:
        """Without the cells in which other spectra of the truth move the inputs."""
        here, *there = (np.cumsum(each._densities(), axis=-1) for each in (self, *others))
        moves = np.max([np.abs(each - here).max(axis=(2, 3)) for each in there], axis=0) > MOVED
        return replace(self, content=self.content * ~moves[..., None, None], squares=np.where(moves, 0, self.squares))

    def _densities(self) -> np.ndarray:
        """Contents of the cells as shares, of the shape of :attr:`content`; zero where there are none."""
        return np.asarray(self.content / np.where(self.weight > 0, self.weight, np.inf)[..., None, None])

    def filled(
        self, spec: Features, features: Rows, reco: np.ndarray, truth: np.ndarray | None, weight: np.ndarray
    ) -> InputHistograms:
        """With other jets instead, in the same bins; arguments as for :meth:`of`, the truth only where it is held."""
        return self._all_filled(spec, features, reco, truth, [weight])[0]

    def _all_filled(
        self,
        spec: Features,
        features: Rows,
        reco: np.ndarray,
        truth: np.ndarray | None,
        weights: Sequence[np.ndarray],
    ) -> list[InputHistograms]:
        """The same with several weights; the table is read once."""
        sums = [(np.zeros_like(self.content), np.zeros_like(self.squares)) for _ in weights]
        for part, values in chunks(features):
            true = None if truth is None else truth[part]
            found = quantities(self.condition, spec, values, reco[part], true)
            pt = reco[part] if true is None or self.condition == "reco" else true
            cell, inside = self._cells(pt, spec, values)
            for weight, (content, squares) in zip(weights, sums, strict=True):
                w = np.asarray(weight[part], dtype=np.float64)[inside]
                squares += np.bincount(cell, w**2, squares.size).reshape(squares.shape)
                content += self._contents(cell, found[inside], w)
        smallest = np.min(reco, initial=np.inf)
        return [replace(self, content=content, squares=squares, smallest=smallest) for content, squares in sums]

    def _cells(self, pt: np.ndarray, spec: Features, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the cell of each jet within the range, and which jets those are."""
        row = np.digitize(np.asarray(pt, dtype=np.float32), self.pt_edges) - 1
        inside = (row >= 0) & (row < len(self.pt_edges) - 1)
        region = 0
        if "eta" in spec.names:
            region = np.digitize(np.abs(values[inside, spec.names.index("eta")]), ABS_ETA)
        return row[inside] * self.squares.shape[1] + region, inside

    def _contents(self, cell: np.ndarray, found: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Sums of weights in all bins, of the shape of :attr:`content`."""
        _, regions, q, bins = self.content.shape
        out = np.zeros((self.squares.size, q, bins))
        # Jets of one bin of p_T share their edges.
        order = np.argsort(cell // regions, kind="stable")
        for jets in np.split(order, np.cumsum(np.bincount(cell // regions, minlength=len(self.edges)))[:-1]):
            for column in range(q if len(jets) else 0):
                edges = self.edges[cell[jets[0]] // regions, column]
                place = cell[jets] * bins + np.searchsorted(edges, found[jets, column], side="right")
                out[:, column] += np.bincount(place, weight[jets], len(out) * bins).reshape(-1, bins)
        return out.reshape(self.content.shape)

    def __add__(self, other: InputHistograms) -> InputHistograms:
        """Both samples together; they have the same bins."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in SUMS}
        return replace(self, **sums, smallest=np.minimum(self.smallest, other.smallest))

    @property
    def weight(self) -> np.ndarray:
        """Sum of weights of the cells, shape (B, E)."""
        return np.asarray(self.content[:, :, 0].sum(axis=-1))

    @property
    def n_eff(self) -> np.ndarray:
        """Effective number of jets in the cells, shape (B, E)."""
        return np.asarray(self.weight**2 / np.maximum(self.squares, 1e-300))

    def differences(self, spec: Features, other: InputHistograms) -> list[Difference]:
        """How another sample in the same bins differs from this one: of all jets, and by region of |eta|.

        Bins of p_T count with the weight that they have in the other sample, in both. Nothing where no cell has 30
        effective jets in the training, and some in the other sample. At fixed truth, bins whose response a threshold of
        the detector-level p_T cuts in either sample are left out.
        """
        usable = (self.n_eff >= MIN_N_EFF) & (self.weight > 0) & (other.weight > 0) & (other.n_eff > 0)
        usable &= ~self._cut_at(max(float(self.smallest), float(other.smallest)))[:, None]
        regions = {ALL: usable}
        for index, label in enumerate(_regions() if usable.shape[1] > 1 else ()):
            regions[label] = usable & (np.arange(usable.shape[1]) == index)
        return [
            found
            for label, cells in regions.items()
            if cells.any()
            for found in self._differences(names_of(spec, self.condition), other, label, cells)
        ]

    def _cut_at(self, threshold: float) -> np.ndarray:
        """Bins of truth whose response would lack its lower end with a threshold [GeV] of reco p_T, shape (B,)."""
        if self.condition == "reco":
            return np.zeros(len(self.edges), dtype=bool)
        # Twice as far below the median as the first edge: 2.8 standard deviations, or more on a tail.
        lowest = 2 * self.edges[:, 0, 0] - self.edges[:, 0, (BINS - 1) // 2]
        return np.asarray(threshold > self.pt_edges[:-1] * lowest)

    def _differences(
        self, names: tuple[str, ...], other: InputHistograms, label: str, cells: np.ndarray
    ) -> Iterator[Difference]:
        share = np.where(cells, other.weight, 0) / other.weight[cells].sum()
        there, here = other._densities(), self._densities()
        observed, expected = (np.einsum("be,beqk->qk", share, each) for each in (there, here))
        below, seen = (np.cumsum(each, axis=1)[:, :-1].clip(0, 1) for each in (expected, observed))
        apart = np.abs(np.cumsum(observed - expected, axis=1)[:, :-1])
        per_jet = np.sum(share[cells] ** 2 * (1 / other.n_eff[cells] + 1 / self.n_eff[cells]))
        # A bin that is all but empty in the training has no error of its own: that of one jet.
        # A few jets where others are rare prove nothing: where the share seen has the larger error, that one counts,
        # and below 30 effective jets the largest that there can be.
        of_one = np.maximum(below * (1 - below), seen * (1 - seen))
        error = np.sqrt(np.maximum(of_one, 1.0 if per_jet * MIN_N_EFF > 1 else per_jet) * per_jet)
        scores = _scores(expected)
        shift = ((observed - expected) * scores).sum(1) / np.sqrt((expected * scores**2).sum(1).clip(1e-12))
        medians = [self._medians(each, share) for each in (there, here)]
        for i, name in enumerate(names):
            yield Difference(
                quantity=name,
                region=label,
                distance=float(apart[i].max()),
                significance=float((apart[i] / error[i]).max()),
                shift=float(shift[i]),
                median=float(medians[0][i]),
                expected=float(medians[1][i]),
                condition=self.condition,
            )

    def _medians(self, density: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Medians of the quantities, shape (q,): averages over the bins of p_T."""
        rows = share.sum(axis=1)
        at = np.einsum("be,beqk->bqk", share, density) / np.where(rows > 0, rows, 1)[:, None, None]
        below = np.cumsum(at, axis=2)[:, :, :-1]
        each = np.array(
            [
                [np.interp(0.5, np.maximum.accumulate(c), e) for c, e in zip(cdf, edges, strict=True)]
                for cdf, edges in zip(below, self.edges, strict=True)
            ]
        )
        return np.asarray(rows @ each)

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers, float32, by name."""
        names = [field.name for field in fields(self) if field.name != "condition"]
        return {name: np.asarray(getattr(self, name), dtype=np.float32) for name in names}

    @classmethod
    def from_arrays(cls, condition: Condition, arrays: Mapping[str, np.ndarray]) -> InputHistograms:
        """The opposite of :meth:`arrays`."""
        sums = {name: arrays[name].astype(np.float64) for name in (*SUMS, "smallest")}
        return cls(condition, arrays["pt_edges"], arrays["edges"], **sums)


def described(histograms: Mapping[Condition, InputHistograms]) -> str:
    """What a calibrator can compare other samples with, for people."""
    return (
        "; ".join(
            f"{found.content.shape[2]} distributions in {len(found.edges)} bins of "
            f"{'true' if condition == 'truth' else 'detector-level'} p_T, "
            f"{found.pt_edges[0]:.0f} to {found.pt_edges[-1]:.0f} GeV"
            for condition, found in histograms.items()
        )
        or "none: another detector cannot be told"
    )


def names_of(spec: Features, condition: Condition) -> tuple[str, ...]:
    """What is compared: the inputs but |eta|, which is held fixed, a summary of the constituents, the response."""
    inputs = tuple(name for name in spec.names if name != "eta")
    momenta = CONSTITUENTS if spec.constituents else ()
    return (*((RESPONSE,) if condition == "truth" else ()), *inputs, *momenta)


def quantities(
    condition: Condition, spec: Features, features: np.ndarray, reco: np.ndarray, truth: np.ndarray | None
) -> np.ndarray:
    """The quantities of :func:`names_of` of n jets, float32 of shape (n, q)."""
    kept = [i for i, name in enumerate(spec.names) if name != "eta"]
    columns = [features[:, kept]]
    if condition == "truth":
        assert truth is not None  # noqa: S101 - what is held fixed
        columns.insert(0, (reco / truth)[:, None])
    if spec.constituents is not None:
        momenta = spec.constituents.vectors(features[:, len(spec.inputs) :])
        pt = np.hypot(momenta[..., 1], momenta[..., 2])
        total = np.hypot(momenta[..., 1].sum(1), momenta[..., 2].sum(1))
        columns.append(np.stack([(pt > 0).sum(axis=1), pt[:, 0] / pt.sum(axis=1), total / reco], axis=1))
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _pt_edges(pt: np.ndarray) -> np.ndarray:
    """Equal steps of ln p_T over all jets but a thousandth at either end."""
    low, high = np.quantile(pt, (BEYOND, 1 - BEYOND))
    high = max(high, low * (1 + 1e-3))
    steps = min(np.ceil(np.log(high / low) / LOG_STEP), MAX_PT_BINS, len(pt) // JETS_PER_PT_BIN)
    return np.geomspace(low, high, max(int(steps), 1) + 1)


def _regions() -> tuple[str, ...]:
    inner = (f"|eta| {low:g}-{high:g}" for low, high in zip((0.0, *ABS_ETA[:-1]), ABS_ETA, strict=True))
    return (*inner, f"|eta| > {ABS_ETA[-1]:g}")


def _scores(expected: np.ndarray) -> np.ndarray:
    """Normal scores of the bins of (q, K) probabilities: where their middle ranks are in a standard Gaussian."""
    middle = np.cumsum(expected, axis=1) - expected / 2
    scores = ndtri(middle.clip(1e-4, 1 - 1e-4))
    return np.asarray(scores - (expected * scores).sum(1, keepdims=True))
