"""Constituents of jets as inputs: p_T-ordered four-vectors in slots of fixed number, empty ones zero and last."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hepcal.errors import NonFiniteFeatureError

__all__ = ["COMPONENTS", "Constituents"]

COMPONENTS = ("E", "px", "py", "pz")
# Rows that are looked at together, to bound memory.
ROWS_AT_ONCE = 65_536


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

    def check(self, block: np.ndarray) -> None:
        """Refuse columns that are not p_T-ordered constituents.

        Args:
            block: Shape (n, 4 count), in memory or memory-mapped.

        Raises:
            NonFiniteFeatureError: A component is NaN or infinite, a slot of no energy has a momentum, or an empty slot
                comes before an occupied one; counts the jets.
        """
        bad: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(block), ROWS_AT_ONCE):
            part = self.vectors(np.asarray(block[start : start + ROWS_AT_ONCE]))
            filled = part[..., 0] > 0
            for problem, where in (
                ("with a component that is NaN or infinite", ~np.isfinite(part).all(axis=(1, 2))),
                ("with a momentum in a slot without energy", (~filled & (part != 0).any(axis=2)).any(axis=1)),
                ("with an empty slot before an occupied one", (~filled[:, :-1] & filled[:, 1:]).any(axis=1)),
            ):
                bad.setdefault(problem, []).append(start + np.flatnonzero(where))
        for problem, found in bad.items():
            if len(jets := np.concatenate(found)):
                raise NonFiniteFeatureError(
                    f"{len(jets)} of {len(block)} jets have constituents {problem}, first at jet {int(jets[0])}; "
                    f"columns are {', '.join(COMPONENTS)} of each slot in falling p_T"
                )
