"""Errors of medians, means and resolutions against a bootstrap over events, in histograms of a run and from arrays."""

from __future__ import annotations

from collections.abc import Mapping

import hist
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hepcal.closure import hists
from hepcal.closure.metrics import Closure, closure
from hepcal.evaluation import TruthClosure, closure_in_truth
from hepcal.statistics import CENTRAL, Cumulative, monotone, weighted_quantiles

Columns = dict[str, np.ndarray]
EDGES = np.array([100.0, 200.0, 400.0])
BINNING = hists.Binning(pt_truth=EDGES, abs_eta=(0, 1.3, 2.5))
FIGURES = ("mean", "median", "resolution")


def dijets(events: int, negative: float, seed: int = 1, shared: float = 0.6) -> Columns:
    """Two jets per event, mostly in one bin of truth, with a response skewed to low values.

    A part of the response is common to both jets. Weights are those of the event, spread, larger where the response
    is, and negative in a share of the events.
    """
    rng = np.random.default_rng(seed)
    event = np.repeat(np.arange(events), 2)
    xi = shared * rng.normal(size=events)[event] + np.sqrt(1 - shared**2) * rng.normal(size=2 * events)
    tail = np.where(rng.random(2 * events) < 0.3, rng.exponential(0.15, 2 * events), 0)
    response = 0.98 + 0.08 * xi - tail
    truth = rng.uniform(100, 400, events)[event] * rng.uniform(0.95, 1.05, 2 * events)
    mean = np.bincount(event, response) / 2
    weight = np.exp(rng.normal(0, 0.3, events)) * (1 + 3 * np.clip(mean - 1, -0.3, 0.3))
    sign = np.where(rng.random(events) < negative, -1.0, 1.0)
    return {
        "event": event,
        "truth": truth,
        "abs_eta": np.abs(rng.normal(0, 1, 2 * events)),
        "response": response,
        "weight": (weight * sign)[event],
    }


def filled(jets: Mapping[str, np.ndarray], weight: np.ndarray | None = None) -> dict[str, hist.Hist]:
    booked = hists.book(BINNING)
    level = {"value": jets["truth"] * jets["response"]}
    axes = {"pt_truth": jets["truth"], "abs_eta": jets["abs_eta"]}
    weights = {"qcd": jets["weight"] if weight is None else weight}
    hists.fill_truth(booked, "pt", axes, {"reco": level}, weights, "toy", event=jets["event"])
    return booked


def from_arrays(jets: Mapping[str, np.ndarray], by: str = "truth") -> TruthClosure:
    edges = {"truth": EDGES, "abs_eta": np.array(BINNING.abs_eta), "inclusive": (0, 2)}[by]
    number = np.ones(len(jets["truth"])) if by == "inclusive" else jets[by]
    value = jets["truth"] * jets["response"]
    return closure_in_truth(value, jets["truth"], jets["weight"], edges=edges, by=number, event=jets["event"])


def figures_of(response: np.ndarray, weight: np.ndarray) -> tuple[float, ...]:
    low, middle, high = weighted_quantiles(response, weight, CENTRAL)
    return float(np.average(response, weights=weight)), float(middle), float((high - low) / 2 / middle)


def bootstrap(jets: Mapping[str, np.ndarray], inside: np.ndarray, replicas: int) -> np.ndarray:
    """Spread of the figures over replicas in which every event has a Poisson multiplicity, shape (3,)."""
    rng = np.random.default_rng(7)
    event = np.unique(jets["event"][inside], return_inverse=True)[1]
    order = np.argsort(jets["response"][inside])
    response, weight, event = (c[order] for c in (jets["response"][inside], jets["weight"][inside], event))
    found = [figures_of(response, weight * rng.poisson(1, event.max() + 1)[event]) for _ in range(replicas)]
    return np.asarray(np.std(found, axis=0, ddof=1))


def errors(found: Closure | TruthClosure, row: int) -> list[float]:
    mean = found.response_mean_unc if isinstance(found, Closure) else found.mean_unc
    median = found.response_median_unc if isinstance(found, Closure) else found.median_unc
    return [float(column[row]) for column in (mean, median, found.resolution_unc)]


@pytest.mark.parametrize("negative", [0.0, 0.2, 0.4])
def test_the_error_is_the_spread_of_a_bootstrap_over_events(negative: float) -> None:
    """Within ten per cent, of which 2.2 are the bootstrap's own, on the mean over five samples."""
    ratios = np.empty((5, 2, 3))
    for seed in range(5):
        jets = dijets(4_000 if negative < 0.4 else 12_000, negative, seed)
        inside = (jets["truth"] >= EDGES[0]) & (jets["truth"] < EDGES[1])
        spread = bootstrap(jets, inside, 400)
        ratios[seed, 0] = errors(closure(filled(jets), "pt", "reco"), 0) / spread
        ratios[seed, 1] = errors(from_arrays(jets), 0) / spread
    for kind, found in zip(("run", "arrays"), ratios.mean(axis=0), strict=True):
        text = ", ".join(f"{name} {ratio:.3f}" for name, ratio in zip(FIGURES, found, strict=True))
        print(f"{100 * negative:.0f} % negative, {kind}: {text} (each {ratios.std(axis=0).max():.3f})")
    assert ratios.mean(axis=0) == pytest.approx(np.ones((2, 3)), abs=0.1)


@pytest.mark.parametrize("negative", [0.0, 0.4])
@pytest.mark.parametrize(("axis", "by"), [("pt_truth", "truth"), ("abs_eta", "abs_eta"), (None, "inclusive")])
def test_a_run_and_arrays_give_the_same_figures_and_errors(negative: float, axis: str | None, by: str) -> None:
    jets = dijets(6_000, negative, seed=2)
    booked, plain = filled(jets), from_arrays(jets, by)
    found = closure(booked, "pt", "reco", axis=axis, total=axis is None)
    assert found.n_eff == pytest.approx(plain.n_eff, rel=1e-9)
    assert found.bias == pytest.approx(plain.mean, rel=1e-9)
    assert found.response_mean_unc == pytest.approx(plain.mean_unc, rel=1e-6)
    assert found.response_median == pytest.approx(plain.median + 1, abs=2e-3)
    assert found.resolution == pytest.approx(plain.resolution, abs=2e-3)
    # The spread of a quantile is a matter of the few jets around it; a histogram sees them through its bins.
    assert found.response_median_unc == pytest.approx(plain.median_unc, rel=0.15)
    assert found.resolution_unc == pytest.approx(plain.resolution_unc, rel=0.15)


def test_three_jets_with_a_negative_weight_have_an_error() -> None:
    """Responses 1, 1, 1.2 with weights 1, 1, -1, a hundred times: 0.8 ± 0.49 each."""
    times = 400
    jets = {
        "event": np.arange(3 * times),
        "truth": np.full(3 * times, 150.0),
        "abs_eta": np.zeros(3 * times),
        "response": np.tile([1.0, 1.0, 1.2], times),
        "weight": np.tile([1.0, 1.0, -1.0], times),
    }
    found = closure(filled(jets), "pt", "reco")
    assert found.response_mean[0] == pytest.approx(0.8)
    assert found.response_mean_unc[0] == pytest.approx(0.4899 / np.sqrt(times), rel=1e-3)


def test_a_bin_of_few_events_has_no_figures() -> None:
    jets = dijets(200, 0.0)
    few = {name: column[:58] for name, column in jets.items()} | {"truth": np.full(58, 150.0), "weight": np.ones(58)}
    found = closure(filled(few), "pt", "reco")
    assert found.n_eff[0] == pytest.approx(29)
    for name in ("response_mean", "response_mean_unc", "response_median", "bias", "resolution", "resolution_unc"):
        assert np.isnan(getattr(found, name)[0]), name
    assert np.isnan(found.sum_ratio)
    assert np.isnan(from_arrays(few).median[0])


def test_two_jets_that_are_one_have_the_error_of_one() -> None:
    jets = dijets(3_000, 0.2, shared=0.0)
    one = {name: column[::2] for name, column in jets.items()}
    twice = {name: np.repeat(column, 2) for name, column in one.items()}
    single, double = (closure(filled(each), "pt", "reco") for each in (one, twice))
    assert double.n_eff == pytest.approx(single.n_eff, rel=1e-9)
    assert double.response_mean_unc == pytest.approx(single.response_mean_unc, rel=1e-6)
    assert double.response_median_unc == pytest.approx(single.response_median_unc, rel=0.03)
    assert double.resolution_unc == pytest.approx(single.resolution_unc, rel=0.06)


def test_sums_do_not_depend_on_chunks() -> None:
    jets = dijets(500, 0.2)
    whole, parts = (
        filled(jets),
        [filled({n: c[part] for n, c in jets.items()}) for part in (slice(300), slice(300, None))],
    )
    for name, booked in whole.items():
        added = parts[0][name] + parts[1][name]
        for one, other in ((booked.values(flow=True), added.values(flow=True)),):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12, err_msg=name)


def test_quantiles_of_signed_weights_are_not_pushed_to_one_side() -> None:
    """The running maximum alone is too low a median by many of its errors where 40 % of the weights are negative."""
    rng = np.random.default_rng(5)
    medians = []
    for _ in range(300):
        weight = np.where(rng.random(2_000) < 0.4, -1.0, 1.0)
        medians.append(weighted_quantiles(rng.normal(size=2_000), weight, (0.5,))[0])
    assert np.mean(medians) == pytest.approx(0, abs=4 * np.std(medians) / np.sqrt(300))


def test_a_monotone_sum_stays_as_it_is() -> None:
    rising = np.cumsum(np.random.default_rng(1).exponential(size=50))
    np.testing.assert_array_equal(monotone(rising), rising)
    np.testing.assert_array_equal(monotone(np.array([0.0, 2, 1, 3])), [0, 1.5, 1.5, 3])


def test_the_spread_of_a_median_is_the_exact_one() -> None:
    n = 401
    found = Cumulative.of(stats.norm.ppf((np.arange(n) + 0.5) / n), np.ones(n)).spread(0.5)
    assert found == pytest.approx(np.sqrt(np.pi / 2 / n), rel=0.01)


@given(factor=st.floats(1e-12, 1e12), half=st.integers(1, 40))
def test_the_unit_of_the_weights_does_not_choose_between_two_medians(factor: float, half: int) -> None:
    """Half of the weight lies at or below one: the median is the smallest value that reaches it."""
    values = np.repeat([1.0, 2.0], half)
    assert weighted_quantiles(values, np.full(2 * half, factor), (0.5,)).tolist() == [1.0]
    assert weighted_quantiles([1, 2, 3], np.multiply([0.1, 0.2, 0.3], factor), (0.5,)).tolist() == [2.0]
