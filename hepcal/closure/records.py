"""What stands in ``summary.json``, as types: the summary is JSON, and its names are those of the file."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

__all__ = [
    "CalibratorRecord",
    "EventsRecord",
    "Figure",
    "Figures",
    "LevelFigures",
    "Listed",
    "ResonanceRecord",
    "RunRecord",
    "Samples",
    "SkippedRecord",
    "Summary",
    "UnmatchedRecord",
]

# A figure in bins, None where there is none.
Listed = list[float | None]
# The names of such figures, of :class:`hepcal.closure.metrics.Closure`.
Figure = Literal[
    "share",
    "n_eff",
    "response_mean",
    "response_mean_unc",
    "response_median",
    "response_median_unc",
    "bias",
    "resolution",
    "resolution_unc",
    "pull_mean",
    "pull_sd",
    "pull_half68",
    "coverage_68",
    "coverage_68_unc",
    "within_sigma_tot",
    "within_sigma_tot_unc",
    "sigma_stoch",
    "sigma_pred",
    "in_range",
]


class Figures(TypedDict, total=False):
    """Figures in bins, as :meth:`hepcal.closure.metrics.Closure.as_dict` gives them: only those that are not empty."""

    edges: list[float]
    share: Listed
    n_eff: Listed
    response_mean: Listed
    response_mean_unc: Listed
    response_median: Listed
    response_median_unc: Listed
    bias: Listed
    resolution: Listed
    resolution_unc: Listed
    pull_mean: Listed
    pull_sd: Listed
    pull_half68: Listed
    coverage_68: Listed
    coverage_68_unc: Listed
    within_sigma_tot: Listed
    within_sigma_tot_unc: Listed
    sigma_stoch: Listed
    sigma_pred: Listed
    in_range: Listed
    sum_ratio: float | None


class LevelFigures(Figures, total=False):
    """Figures of one quantity at one level in bins of its truth, and beside them in one bin and in other bins.

    Attributes:
        inclusive: Over all bins.
        abs_eta: In bins of |eta|; of jets.
        flavour: Of the jets of one flavour, by its name, where files know flavours.
        flavour_known: Share of the jets, by weight, in such files.
    """

    inclusive: Figures
    abs_eta: Figures
    flavour: dict[str, Figures]
    flavour_known: float


# By weighting, quantity and level.
Samples = dict[str, dict[str, dict[str, LevelFigures]]]


class _CalibratorRecord(TypedDict):
    method: str
    sha256: str


class CalibratorRecord(_CalibratorRecord, total=False):
    """Which calibrator it was; summaries of earlier versions do not say what it calibrates to."""

    quantity: str
    follows_prior: bool
    needs_data: bool


class SkippedRecord(TypedDict):
    """A file that was left out, and why."""

    file: str
    reason: str


class _EventsRecord(TypedDict):
    read: int
    skipped_files: list[SkippedRecord]
    selected: int
    simulated: int
    outside_density: int
    without_truth: list[str]


class EventsRecord(_EventsRecord, total=False):
    """Numbers of events, and the files and data sets that a reader must know; what is not there is of later versions.

    Attributes:
        copies: Paths of files of equal UUID, which seem to be the same.
        leptons: Leading truth jets that are prompt leptons, left out.
    """

    copies: list[list[str]]
    leptons: int


class UnmatchedRecord(TypedDict):
    """Share of truth jets without a partner in bins of truth p_T [GeV]."""

    edges: list[float]
    fraction: Listed


class ResonanceRecord(TypedDict, total=False):
    """The resonance of BSM weights: see :func:`hepcal.closure.resonance.shown`."""

    mass: float
    width: float
    n_eff: float
    density_range: list[float] | None
    inside_density: float | None
    norm: float | None


class RunRecord(TypedDict, total=False):
    """What a run adds to its figures; summaries of earlier versions lack some of it.

    Attributes:
        datasets: Counts of events by data set.
        normalisation: :class:`hepcal.events.normalisation.Normalisation` by data set, as JSON.
        resonance: Of the BSM weights.
        mass_density: :class:`hepcal.tables.spectra.MassDensity` as JSON, with its hash.
        trained_on: Paths of the files that the calibrator was trained on.
        inputs: Each :class:`hepcal.tables.input_differences.Difference` as JSON, by data set; None where nothing can be
            said.
    """

    datasets: dict[str, dict[str, int]]
    normalisation: dict[str, dict[str, Any]]
    resonance: ResonanceRecord
    mass_density: dict[str, Any] | None
    trained_on: list[str]
    inputs: dict[str, list[dict[str, Any]] | None]


class Summary(RunRecord):
    """The content of ``summary.json``, but for hashes."""

    schema_version: int
    hepcal: str
    calibrator: CalibratorRecord
    events: EventsRecord
    samples: Samples
    unmatched: UnmatchedRecord
