"""Ratios of running times on a shared machine: all cases once per round, compared within the round.

A load that comes and goes slows the cases of one round alike; a ratio taken inside a round and its median over the
rounds are steady where seconds are not. Order within a round rotates, so that no case always follows the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Gemm", "Quartiles", "Rounds", "play"]

ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Median and quartiles over the rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Quartiles:
        """From one value per round, shape (rounds,)."""
        return cls(*(float(value) for value in np.quantile(values, [0.25, 0.5, 0.75])))

    def __str__(self) -> str:
        digits = 3 if self.median < 1 else 2 if self.median < 10 else 1
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} - {self.high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds of every case in every round.

    Attributes:
        seconds: One array of shape (rounds,) per case.
    """

    seconds: Mapping[str, np.ndarray]

    def speed_up(self, case: str, reference: str) -> Quartiles:
        """How many times faster than the reference, (time of the reference) / (time of the case) per round."""
        return Quartiles.of(self.seconds[reference] / self.seconds[case])

    def share(self, case: str, flops: float, peak: str, peak_flops: float) -> Quartiles:
        """Rate of ``flops`` floating-point operations over the rate of the peak case in the same rounds."""
        return Quartiles.of(flops / self.seconds[case] / (peak_flops / self.seconds[peak]))

    def rate(self, case: str, operations: float) -> Quartiles:
        """Operations per second."""
        return Quartiles.of(operations / self.seconds[case])


class Gemm:
    """A large square float32 product: what this machine can do at best.

    Args:
        size: Rows and columns.
    """

    def __init__(self, size: int = 2048) -> None:
        generator = torch.Generator().manual_seed(0)
        self._left, self._right = (torch.randn((size, size), generator=generator) for _ in range(2))
        self._product = torch.empty((size, size))
        self.flops = 2.0 * size**3

    def __call__(self) -> None:
        torch.mm(self._left, self._right, out=self._product)


def play(
    cases: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, clock: Callable[[], float] = time.process_time
) -> Rounds:
    """Run every case once per round and note its time; one round before is not counted.

    Args:
        cases: What to run.
        rounds: Number of rounds.
        clock: ``time.process_time`` (CPU seconds of all threads) or ``time.perf_counter`` (wall clock).
    """
    if rounds < 1:
        raise ValueError(f"at least one round is needed, found {rounds}")
    for work in cases.values():
        work()
    seconds = {name: np.empty(rounds) for name in cases}
    names = list(cases)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            cases[name]()
            seconds[name][number] = clock() - start
    return Rounds(seconds)
