"""Figures of each study by title: functions from the content of its JSON file to a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import figures_densities as densities
import figures_tagging as tagging
import figures_truth as truth
import figures_widths as widths
from matplotlib.figure import Figure

__all__ = ["DRAWN"]

# Titles name the figure or table of arXiv:2003.11099 that a figure stands for.
DRAWN: dict[str, dict[str, Callable[[Mapping[str, Any]], Figure]]] = {
    "truth": {
        "figure_2": truth.samples, "figure_3": truth.truth_in_slices, "figure_3_definitions": truth.definitions,
        "mass": truth.by_mass,
    },
    "resolution": {"figure_4": widths.against_pt},
    "training_size": {"figure_5": widths.against_size, "figure_7": widths.with_ensemble},
    "constituents": {"figure_6": widths.against_constituents},
    "mixtures": {**densities.MIXTURES, "table_2": densities.ends},
    "label_smearing": {
        "figure_9": densities.labels, "figure_10": densities.sigma_cal, "figure_11": densities.input_shifts,
    },
    "top_like": {"scores": tagging.scores, "prior_scan": tagging.prior_scan, "table_1": tagging.table_1},
    "augmentations": {
        "leading": tagging.leading, "noise_and_pileup": tagging.noise_and_pileup, "slopes": tagging.slopes,
        **tagging.DISTRIBUTIONS,
    },
    "schedule": {"schedules": widths.schedules},
}  # fmt: skip
