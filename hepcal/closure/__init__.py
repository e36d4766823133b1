"""Whether a calibration closes, from the histograms of a run: response, bias, resolution, coverage, files, tables.

::

    hists, summary = hepcal.closure.load_hists(directory), hepcal.closure.load_summary(directory)
    figures = hepcal.closure.closure(hists, "pt", "calib")
    figures.bias, figures.bias_unc
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepcal.closure.metrics import Closure, by_flavour, closure
    from hepcal.closure.results import load_hists, load_summary, summarise

# Names are loaded when they are first used: a worker that fills histograms needs no tables.
_HOMES = {
    "Closure": "metrics",
    "by_flavour": "metrics",
    "closure": "metrics",
    "load_hists": "results",
    "load_summary": "results",
    "summarise": "results",
}

__all__ = ["Closure", "by_flavour", "closure", "load_hists", "load_summary", "summarise"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"hepcal.closure.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hepcal.closure' has no attribute {name!r}; it has {', '.join(__all__)}")
