"""Where a response density puts the truth: inversion of its median, another quantile, its mean, or its maximum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from hepcal.methods.likelihood.forward import STEPS, ForwardDensity, LogResponse

__all__ = ["ConditionalInverse", "Inverse", "Reading", "TabulatedInverse", "inverse_of"]

# A probability: the truth of which x is that quantile. Or: of which x is the mean, or which makes x most probable.
Reading = float | Literal["mean", "mode"]

# Distance of the nodes, in half central widths of the response.
NODE_DISTANCE = 1.5
# Of a scan for the maximum: nodes on each side of the median inversion, and how far they reach in half central widths.
SCANNED, SCAN_REACH = 12, 2.5
# Of a search that only says where to look.
SCOUT_STEPS = 10
# A response that falls with the truth this steeply cannot be inverted; the slope is held here.
STEEPEST = -0.9
# Nodes of a table inside the support, and how far in ln p_T it goes on beyond: further than any jet.
NODES, BEYOND = 1024, 50.0


class Inverse(ABC):
    """Inversion of a response density.

    Args:
        density: What is inverted.
    """

    def __init__(self, density: ForwardDensity) -> None:
        self.density = density

    @abstractmethod
    def __call__(
        self, log_x: torch.Tensor, conditions: torch.Tensor, *readings: Reading, few: tuple[Reading, ...] = ()
    ) -> list[torch.Tensor]:
        """Ln truth by every network, float64 of shape (S, n), for each reading.

        Args:
            log_x: ln of the measured value, float64 of shape (S, n) or (1, n).
            conditions: Standardised conditions (c, n).
            readings: What is inverted.
            few: The same, where the answer of a few networks will do: fewer rows may be returned. They come last.
        """


class ConditionalInverse(Inverse):
    """Jet by jet, for densities with conditions: a block of jets at once, without a table."""

    def __call__(
        self, log_x: torch.Tensor, conditions: torch.Tensor, *readings: Reading, few: tuple[Reading, ...] = ()
    ) -> list[torch.Tensor]:
        """See :meth:`Inverse.__call__`.

        A few networks find the place, by a parabola through three nodes and a Newton step. There, every network makes
        a Newton step of its own, which is as long as the networks differ.
        """
        step = NODE_DISTANCE * self.density.scale
        center = log_x.mean(0) - self.density.location
        nodes = [self.density(center + i * step, conditions, scouts=True) for i in (-1, 0, 1)]
        wanted = [0.5 if reading == "mode" else reading for reading in (*readings, *few)]
        found = []
        for number, values in enumerate(scouted(nodes, wanted)):
            place, slope = between(log_x.mean(0), center, step, values)
            place = self._at(log_x.mean(0)[None], conditions, wanted[number], place, slope, scouts=True).mean(0)
            scouts = number >= len(readings)
            found.append(self._at(log_x, conditions, wanted[number], place, slope, scouts=scouts))
            if number < len(readings) and readings[number] == "mode":
                found[-1] = maximum(self.density, log_x, conditions, found[-1].mean(0))
        return found

    def _at(
        self, log_x: torch.Tensor, conditions: torch.Tensor, reading: Reading, place: torch.Tensor,
        slope: torch.Tensor, *, scouts: bool,
    ) -> torch.Tensor:  # fmt: skip
        """The Newton step of every network, or of the scouts, from a place (n,) where the scouts saw a slope (n,)."""
        low, high = self.density.support
        slope = torch.where((place > low) & (place < high), slope, 0.0).clamp_min(STEEPEST)
        found = read(self.density(place, conditions, scouts=scouts), reading, (log_x.mean(0) - place).float())
        return place + (log_x[: len(found)] - place - found) / (1 + slope)


class TabulatedInverse(Inverse):
    """By tables of every network, made once per reading, for densities that depend on the truth alone."""

    def __init__(self, density: ForwardDensity) -> None:
        super().__init__(density)
        low, high = density.support
        ends = torch.tensor([low - BEYOND, high + BEYOND], dtype=torch.float64, device="cpu")
        inside = torch.linspace(low, high, NODES, dtype=torch.float64, device="cpu")
        self._grid = torch.cat([ends[:1], inside, ends[1:]])
        self._tables: dict[Reading, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self,
        log_x: torch.Tensor,
        conditions: torch.Tensor,  # noqa: ARG002
        *readings: Reading,
        few: tuple[Reading, ...] = (),
    ) -> list[torch.Tensor]:
        """See :meth:`Inverse.__call__`."""
        return [self._looked_up(log_x, reading) for reading in (*readings, *few)]

    def _looked_up(self, log_x: torch.Tensor, reading: Reading) -> torch.Tensor:
        if reading not in self._tables:
            # Two threads may both make it, and make the same.
            self._tables[reading] = self._table(reading)
        x, zeta = self._tables[reading]
        measured = log_x.expand(len(x), -1).numpy()
        return torch.from_numpy(np.stack([np.interp(*row) for row in zip(measured, x, zeta, strict=True)]))

    @torch.no_grad()
    def _table(self, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
        """Ln x in rising order and ln truth, (S, nodes) each."""
        grid, none = self._grid, torch.empty((0, len(self._grid)), dtype=torch.float32, device="cpu")
        if reading == "mode":
            # The other way round: the most probable truth for measured values all over the range.
            log_x = grid[None] + self.density.location
            start = self._looked_up(log_x, 0.5).mean(0)
            zeta = maximum(self.density, log_x, none, start).numpy()
            return np.broadcast_to(log_x.numpy(), zeta.shape), zeta
        x = (grid + read(self.density(grid, none), reading)).numpy()
        # Where it does not rise, which is outside the support, the larger truth counts.
        return np.maximum.accumulate(x, axis=1), np.broadcast_to(grid.numpy(), x.shape)


def inverse_of(density: ForwardDensity, *, conditional: bool) -> Inverse:
    """The inverse for a density with or without conditions."""
    return ConditionalInverse(density) if conditional else TabulatedInverse(density)


def read(response: LogResponse, reading: Reading, near: torch.Tensor | None = None) -> torch.Tensor:
    """What is to be equal to u = ln x - zeta, float64 of shape (S, n)."""
    if reading == "mean":
        return response.log_mean().double()
    assert not isinstance(reading, str)  # noqa: S101 - the mode is found by another way
    return response.quantile(reading, near).double()


def scouted(nodes: list[LogResponse], readings: Sequence[Reading]) -> list[list[torch.Tensor]]:
    """What is read at each node, mean over the networks, float64 of shape (n,), for each reading."""
    probabilities = [reading for reading in readings if not isinstance(reading, str)]
    rows, networks = len(probabilities) * len(nodes), len(nodes[0].mean)
    levels = torch.tensor(probabilities, dtype=torch.float64, device="cpu").repeat_interleave(len(nodes) * networks)[
        :, None
    ]
    # All at once: with few networks, the calls cost more than the numbers.
    quantiles = LogResponse.together(nodes * len(probabilities)).quantile(levels, steps=SCOUT_STEPS).double()
    means = iter(quantiles.view(rows, networks, -1).mean(1))
    return [
        [next(means) if not isinstance(reading, str) else read(node, reading).mean(0) for node in nodes]
        for reading in readings
    ]


def between(
    log_x: torch.Tensor, center: torch.Tensor, step: float, values: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve zeta + m(zeta) = ln x for m known at three nodes, by a parabola between and straight lines beyond.

    Args:
        log_x: ln x, shape (n,).
        center: The middle node, shape (n,).
        step: Distance between nodes.
        values: m at the nodes, shape (n,) each.

    Returns:
        zeta and the slope of m there, shape (n,) each.
    """
    left, middle, right = values
    slope, bend = 0.5 * (right - left), 0.5 * (right + left) - middle
    t = (log_x - center - middle) / step
    for _ in range(STEPS):
        inside = t.clamp(-1, 1)
        by_t = slope + 2 * bend * inside
        m = middle + slope * inside + bend * inside**2 + by_t * (t - inside)
        t = t - ((center - log_x + m) / step + t) / (1 + by_t / step).clamp_min(1 + STEEPEST)
    return center + step * t, (slope + 2 * bend * t.clamp(-1, 1)) / step


def maximum(
    density: ForwardDensity, log_x: torch.Tensor, conditions: torch.Tensor, start: torch.Tensor
) -> torch.Tensor:
    """Ln truth of the largest likelihood (arXiv:2205.05084, Eq. 12), float64 of shape (S, n).

    A scan around a start (n,), and a parabola through its best three nodes.
    """
    step = SCAN_REACH * density.scale / SCANNED
    offsets = torch.arange(-SCANNED, SCANNED + 1, dtype=torch.float64, device="cpu") * step
    heights = torch.stack(
        [
            density(start + offset, conditions).log_density((log_x - start - offset).float()).double()
            for offset in offsets
        ]
    )
    best = heights.argmax(0).clamp(1, 2 * SCANNED - 1)
    left, middle, right = (heights.gather(0, (best + i)[None])[0] for i in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp_max(-1e-12)
    return start + offsets[best] + step * (0.5 * (left - right) / bend).clamp(-1, 1)
