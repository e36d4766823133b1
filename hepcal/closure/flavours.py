"""Flavour of jets, where the files know it, and the histograms of the closure by flavour.

A calibration of p_T and inclusive features closes for a mixture of gluon and quark jets: its closure does not depend on
the spectrum at fixed composition only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hist
import numpy as np

from hepcal.closure.same_event import book_pairs

__all__ = ["FLAVOURS", "book_flavours", "flavour_fields", "flavour_of"]

FLAVOURS = ("gluon", "light", "c", "b", "none")
GLUON, LIGHT, CHARM, BOTTOM = 21, (1, 2, 3), 4, 5
# Fields of detector-level jets: by hadrons and by partons (NanoAOD), by partons (Delphes).
HADRON, PARTONS = "hadronFlavour", ("partonFlavour", "Flavor")


def flavour_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """Those of the fields of jets that tell their flavour."""
    return tuple(name for name in (HADRON, *PARTONS) if name in fields)


def flavour_of(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Flavour of each jet, as its place in :data:`FLAVOURS`.

    A heavy hadron in the jet decides; where hadrons are known and there is none, partons c and b do not count
    ("none").

    Args:
        columns: PDG codes of :func:`flavour_fields`, integers of shape (n,) each, at least one.

    Returns:
        int64 of shape (n,).
    """
    codes = {name: np.abs(column.astype(np.int64)) for name, column in columns.items()}
    size = len(next(iter(codes.values())))
    found = np.full(size, FLAVOURS.index("none"))
    for name in PARTONS:
        if name in codes:
            found[codes[name] == GLUON] = FLAVOURS.index("gluon")
            found[np.isin(codes[name], LIGHT)] = FLAVOURS.index("light")
    for code, flavour in ((CHARM, "c"), (BOTTOM, "b")):
        heavy = codes[HADRON] if HADRON in codes else codes[next(iter(codes))]
        found[heavy == code] = FLAVOURS.index(flavour)
    return found


def book_flavours(common: Sequence[Any], pt_truth: Any, response: Any, term: Any) -> dict[str, hist.Hist]:
    """Empty ``pt_flavour_*`` histograms, with the axes of those of p_T and that of the flavour in the place of |eta|.

    Args:
        common: Axes ``dataset``, ``weighting`` and ``level``.
        pt_truth: Axis of truth.
        response: Axis of the response.
        term: Axis of summed terms.
    """
    flavour = hist.axis.StrCategory(FLAVOURS, name="flavour", label="Flavour", overflow=False)
    axes = (*common, flavour, pt_truth)
    return {
        "pt_flavour_response": hist.Hist(*axes, response, storage=hist.storage.Weight()),
        "pt_flavour_sums": hist.Hist(*axes, term, storage=hist.storage.Weight()),
        **book_pairs("pt_flavour", common, (flavour, pt_truth)),
    }
