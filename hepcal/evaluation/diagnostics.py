"""Reports on trained calibrators: their scores on a sample, and how they depend on the prior.

::

    report = hepcal.evaluation.diagnostics.diagnose({"BNN": bnn, "ensemble": ensemble}, test_pairs)
    points = hepcal.evaluation.diagnostics.scan_prior(pairs, hepcal.BNN(), (1e-3, 1e-2, 0.1, 1.0))
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hepcal.errors import CollapsedWarning, InputsDifferWarning, NotIndependentWarning, TrainingError, warn
from hepcal.evaluation import BinnedScores, Scores, averaged, averaged_in_bins, jet_scores, score
from hepcal.events.schemas import SCHEMAS
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.flat import inputs_of
from hepcal.methods.regression.bnn import BNN
from hepcal.methods.training import train
from hepcal.progress import Progress, say
from hepcal.statistics import weighted_quantiles
from hepcal.tables.input_differences import Difference, notable, warning
from hepcal.tables.pairs import JetPairs

__all__ = ["Diagnosis", "PriorPoint", "diagnose", "scan_prior"]

PT_BINS = 8
# Up to the largest |eta| of the jets: barrel and endcap of the tracker, endcap without it, forward calorimeter.
ABS_ETA = (0.0, 0.8, 1.3, 2.5, 3.0, 5.2)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Scores of one calibrator on one sample.

    Attributes:
        scores: All jets.
        pt_calib: In bins of the calibrated p_T [GeV].
        abs_eta: In bins of |eta| up to that of the outermost jet, at most 5.2; None if eta is not among the inputs.
        training: Figures and history of the training, from the card.
        history: Pairs of update and held-out loss.
        differences: How the inputs and the response differ from those of the training, at fixed true p_T; None if
            that cannot be said (calibrators of earlier versions, or too few jets).
    """

    scores: Scores
    pt_calib: BinnedScores
    abs_eta: BinnedScores | None
    training: Mapping[str, float]
    history: tuple[tuple[int, float], ...]
    differences: tuple[Difference, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; None for NaN."""
        return {
            "scores": self.scores.as_dict(),
            "pt_calib": self.pt_calib.as_dict(),
            "abs_eta": None if self.abs_eta is None else self.abs_eta.as_dict(),
            "training": dict(self.training),
            "history": [list(point) for point in self.history],
            "inputs": None if self.differences is None else [asdict(found) for found in self.differences],
        }


def diagnose(
    calibrators: Mapping[str, Calibrator],
    pairs: JetPairs,
    *,
    pt_edges: Sequence[float] | None = None,
    show: bool = True,
) -> dict[str, Diagnosis]:
    """Score calibrators on the jets of a table, weighted.

    Args:
        calibrators: By the name to show.
        pairs: A table that none of them was trained on.
        pt_edges: Bins of the calibrated p_T [GeV]; default: eight with about as many jets in each.
        show: Report progress.

    Raises:
        TrainingError: The table has other inputs than a calibrator, its jets are of another layout, or its weights do
            not sum to a positive number.
    """
    weight = np.asarray(pairs.weight, dtype=np.float64)
    if not weight.sum() > 0:
        raise TrainingError(f"the weights of {len(weight)} jets sum to {weight.sum():g}: no figure can be made of them")
    inputs = [feature.name for feature in pairs.spec.inputs]
    abs_eta = np.abs(pairs.features[:, inputs.index("eta")]) if "eta" in inputs else None
    found = {}
    with Progress("Scoring", len(calibrators), "calibrators", show=show) as bar:
        predictions = {}
        for name, calibrator in calibrators.items():
            _require_inputs(name, calibrator, pairs)
            _warn_if_trained_on(name, calibrator, pairs)
            predictions[name] = calibrator.predict(pairs)
        if pt_edges is None:
            pt_edges = _edges([prediction.mean for prediction in predictions.values()], weight)
        for name, prediction in predictions.items():
            jets, in_eta = jet_scores(prediction, pairs.truth), None
            if abs_eta is not None:
                in_eta = averaged_in_bins(jets, weight, abs_eta, _eta_edges(abs_eta))
            found[name] = Diagnosis(
                scores=averaged(jets, weight),
                pt_calib=averaged_in_bins(jets, weight, prediction.mean, pt_edges),
                abs_eta=in_eta,
                training=calibrators[name].card.figures,
                history=calibrators[name].card.history,
                differences=_differences(name, calibrators[name], pairs),
            )
            bar.advance(1)
    return found


def _differences(name: str, calibrator: Calibrator, pairs: JetPairs) -> tuple[Difference, ...] | None:
    """How the table differs from the training, said where it is worth it."""
    trained, spec = calibrator.input_histograms.get("truth"), calibrator.card.features
    if trained is None:
        return None
    table = inputs_of(spec, pairs)
    seen = trained.filled(spec, table, pairs.reco, pairs.truth, pairs.weight)
    found = tuple(trained.differences(spec, seen))
    if differing := notable(found):
        warn(warning(name, "this sample", differing), InputsDifferWarning)
    return found or None


def _warn_if_trained_on(name: str, calibrator: Calibrator, pairs: JetPairs) -> None:
    source = calibrator.card.source
    common = set(source.files) & set(pairs.source.get("files", ()))
    if common or source.sha256 == pairs.sha256:
        warn(
            f"{name} was trained on {len(common) or 'all'} of these files: this is not an independent test",
            NotIndependentWarning,
        )


def _require_inputs(name: str, calibrator: Calibrator, pairs: JetPairs) -> None:
    trained, given = (
        SCHEMAS.get(str(each)) for each in (calibrator.card.source.schema_name, pairs.source.get("schema"))
    )
    if trained and given and trained.family != given.family:
        raise TrainingError(
            f"{name} was trained on {trained.label} jets, but the table is of {given.label} files: fields of the same "
            "name do not mean the same there. Take a table of files of its kind"
        )
    wanted, found = calibrator.card.features, pairs.spec
    if (
        not set(wanted.inputs) <= set(found.inputs)
        or wanted.constituents not in (None, found.constituents)
        or wanted.pt != found.pt
    ):
        raise TrainingError(
            f"{name} was trained on the inputs {wanted.listed} (p_T: {wanted.pt}), "
            f"but the table holds {found.listed} (p_T: {found.pt})"
        )


@dataclass(frozen=True, slots=True)
class PriorPoint:
    """One training of a prior scan, judged on other jets.

    Attributes:
        prior_width: Width of the prior.
        nll: Mean log score [nats, density in 1/GeV].
        nll_unc: Its statistical error; the points share their jets, so differences are known better.
        sigma_stoch: Mean stochastic uncertainty [GeV].
        sigma_pred: Mean statistical uncertainty [GeV].
        active_weights: Share of weights that left the prior.
        collapsed: Whether the network says the same of every jet.
    """

    prior_width: float
    nll: float
    nll_unc: float
    sigma_stoch: float
    sigma_pred: float
    active_weights: float
    collapsed: bool


def scan_prior(
    pairs: JetPairs, method: BNN, widths: Sequence[float], *, seed: int = 0, show: bool = True
) -> tuple[PriorPoint, ...]:
    """Train with priors of several widths; results should not depend on it over orders of magnitude.

    Args:
        pairs: The table; a fifth of its events judges.
        method: Everything but the width.
        widths: Widths of the prior.
        seed: Of the split and of all trainings.
        show: Report progress.
    """
    fitted, judge = pairs.split(0.8, seed)
    points = []
    with Progress("Prior scan", len(widths), "trainings", show=show) as bar, warnings.catch_warnings():
        # The scan looks for the collapse, and says at which widths it is.
        warnings.simplefilter("ignore", CollapsedWarning)
        for width in widths:
            changed = BNN.model_validate({**method.model_dump(), "prior_width": width})
            calibrator = train(fitted, changed, seed=seed, show=False)
            found = score(calibrator.predict(judge.features, judge.reco), judge.truth, judge.weight)
            figures = calibrator.card.figures
            points.append(
                PriorPoint(
                    prior_width=float(width),
                    nll=found.nll,
                    nll_unc=found.nll_unc,
                    sigma_stoch=found.sigma_stoch,
                    sigma_pred=found.sigma_pred,
                    active_weights=figures["active_weights"],
                    collapsed=bool(figures["collapsed"]),
                )
            )
            bar.advance(1, f"width {width:g}")
    return tuple(points)


def _eta_edges(abs_eta: np.ndarray) -> tuple[float, ...]:
    """Bins up to the outermost jet; says how many jets are beyond all of them."""
    if beyond := int(np.sum(abs_eta >= ABS_ETA[-1])):
        say(f"{beyond} of {len(abs_eta)} jets have |eta| of at least {ABS_ETA[-1]:g}: they are in no bin of it")
    return ABS_ETA[: max(2, 1 + int(np.searchsorted(ABS_ETA, abs_eta.max(initial=0.0), side="right")))]


def _edges(means: Sequence[np.ndarray], weight: np.ndarray) -> list[float]:
    """Bins of about equal weight for the first prediction, at round numbers, that hold those of all predictions."""
    inner = weighted_quantiles(means[0].astype(np.float64), weight, np.linspace(0, 1, PT_BINS + 1)[1:-1].tolist())
    low = float(np.floor(min(mean.min() for mean in means)))
    high = float(np.ceil(max(mean.max() for mean in means))) + 1.0
    for digits in range(2, 7):
        edges = sorted(
            {low, *(edge for edge in (float(f"{value:.{digits}g}") for value in inner) if low < edge < high), high}
        )
        if len(edges) == PT_BINS + 1:
            break
    return edges
