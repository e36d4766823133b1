"""What is computed for jets when it is asked for: of all jets, or of some of them. It can be pickled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepcal.distributions import Jets
from hepcal.tables.rows import Rows

__all__ = ["Chosen", "ChosenBelt", "OfJets"]


@dataclass(frozen=True, slots=True)
class OfJets:
    """What a method says of jets.

    Attributes:
        read: A method of a calibrator: a function of features and detector-level p_T.
        features: Of all jets, shape (n, d).
        reco: Detector-level p_T [GeV], shape (n,).
    """

    read: Callable[[Rows, np.ndarray], Any]
    features: Rows
    reco: np.ndarray

    def __call__(self, part: Jets) -> Any:
        """The same of a slice or of indices of the jets."""
        return self.read(self.features[part], self.reco[part])


@dataclass(frozen=True, slots=True)
class Chosen:
    """The same of some of the jets.

    Attributes:
        of: A function of a slice or of indices of all jets.
        rows: Indices of the chosen ones.
    """

    of: Callable[[Jets], Any]
    rows: np.ndarray

    def __call__(self, part: Jets) -> Any:
        """The same of a part of the chosen jets."""
        return self.of(self.rows[part])


@dataclass(frozen=True, slots=True)
class ChosenBelt:
    """Intervals of some of the jets by probability.

    Attributes:
        of: A function of a probability: lower and upper ends of all jets [GeV].
        rows: Indices of the chosen ones.
    """

    of: Callable[[float], tuple[np.ndarray, np.ndarray]]
    rows: np.ndarray

    def __call__(self, probability: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends [GeV]."""
        low, high = self.of(probability)
        return low[self.rows], high[self.rows]
