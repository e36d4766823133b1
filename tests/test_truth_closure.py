"""Closure in bins of truth: closed forms, statistical errors against repetitions, weights and clusters."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from hepcal.evaluation import closure_in_truth, coverage_in_truth, paired_resolution_gain
from hepcal.evaluation.estimators import core, mean, median_line, quantiles, standard_error
from hepcal.statistics import n_eff

EDGES = (900.0, 1000.0, 1200.0, 1500.0)
FIGURES = ("mean", "median", "core", "resolution", "core_resolution", "slope", "resolution_over_slope")


def exact_gaussian(n, mean, sigma):
    """Values at equidistant quantiles: moments and quantiles without noise."""
    return mean + sigma * ndtri((np.arange(n) + 0.5) / n)


def skewed(rng, n):
    """A core of 5 % and a low tail, like the response of jets."""
    tail = rng.random(n) < 0.25
    return np.where(tail, rng.normal(0.88, 0.12, n), rng.normal(0.99, 0.05, n))


def sample(n=3000, seed=1, draw=None):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(EDGES[0], EDGES[-1], n)
    response = rng.normal(1, 0.07, n) if draw is None else draw(rng, n)
    return response * truth, truth, rng


def columns(closure, without=()):
    return {name: c for name, c in closure.as_dict().items() if name not in without}


def same(left, right, rel=1e-9):
    assert left.keys() == right.keys()
    for name, column in left.items():
        assert np.array(column, dtype=float) == pytest.approx(
            np.array(right[name], dtype=float), rel=rel, abs=1e-9, nan_ok=True
        ), name


# -- known answers ----------------------------------------------------------------------------------------------------


def test_gaussian_response_closes_alike_in_mean_median_and_core():
    n, scale, sigma = 20_000, 0.97, 0.06
    truth = np.full(n, 1000.0)
    closure = closure_in_truth(exact_gaussian(n, scale, sigma) * truth, truth, edges=(900, 1100))
    for name in ("mean", "median", "core"):
        assert getattr(closure, name) == pytest.approx([scale - 1], abs=2e-5), name
    assert closure.resolution == pytest.approx([sigma / scale], rel=2e-3)
    assert closure.core_resolution == pytest.approx([sigma / scale], rel=0.01)
    assert closure.mean_unc == pytest.approx([sigma / np.sqrt(n)], rel=1e-3)
    assert closure.median_unc == pytest.approx([np.sqrt(np.pi / 2) * sigma / np.sqrt(n)], rel=0.02)
    # The two quantiles of a Gaussian: 0.9617 sigma / sqrt(n) for half their distance.
    assert closure.resolution_unc == pytest.approx([0.9617 * sigma / scale / np.sqrt(n)], rel=0.03)
    assert np.isnan(closure.slope).all()


def test_core_width_is_that_before_truncation():
    x = exact_gaussian(100_000, 0.0, 1.0)
    peak, width = core(x, np.ones(len(x)), len(x))
    assert peak.value == pytest.approx(0, abs=1e-3)
    assert width.value == pytest.approx(1, rel=0.01)
    inside = np.abs(x) < 1.5
    assert x[inside].std() == pytest.approx(0.743, abs=0.002)  # what a fit without the truncation would say


def test_core_of_a_mixture_is_its_peak():
    peak, tail = exact_gaussian(17_000, 0.99, 0.04), np.linspace(0.4, 0.85, 3_000)
    response = np.concatenate([peak, tail])
    truth = np.full(len(response), 1000.0)
    closure = closure_in_truth(response * truth, truth, edges=(900, 1100))
    assert closure.core == pytest.approx([-0.01], abs=1e-3)
    assert closure.core_resolution == pytest.approx([0.04 / 0.99], rel=0.01)
    assert closure.mean == pytest.approx([0.85 * 0.99 + 0.15 * 0.625 - 1], abs=1e-4)
    # The median of the mixture is the quantile (0.5 - 0.15) / 0.85 of the peak.
    assert closure.median == pytest.approx([0.99 + 0.04 * ndtri(0.35 / 0.85) - 1], abs=1e-4)


@pytest.mark.parametrize("slope", [0.7, 1.0])
def test_slope_of_the_median_is_found_in_and_over_bins(slope):
    """A value that shrinks towards 1200 GeV, with a skewed error relative to the truth."""
    _, truth, rng = sample(60_000)
    middle = 1200 + slope * (truth - 1200)
    noise = rng.exponential(0.05, len(truth)) - 0.05 * np.log(2)  # median zero
    closure = closure_in_truth(middle + noise * truth, truth, edges=EDGES)
    assert (np.abs(closure.slope - slope) < 4 * closure.slope_unc).all()
    assert closure.slope_all == pytest.approx(slope, abs=4 * closure.slope_all_unc)
    assert closure.slope_all_unc < 0.005
    assert closure.resolution_over_slope == pytest.approx(
        closure.resolution * (1 + closure.median) / closure.slope, rel=1e-12
    )


def test_apparent_resolution_of_shrinkage_is_undone_by_the_slope():
    """f(x) = 1200 + k (x - 1200) is k times as narrow as x and knows nothing more."""
    value, truth, _ = sample(60_000)
    edges = (1150, 1250)
    plain = closure_in_truth(value, truth, edges=edges)
    shrunk = closure_in_truth(1200 + 0.8 * (value - 1200), truth, edges=edges)
    assert shrunk.resolution == pytest.approx(0.8 * plain.resolution, rel=0.02)
    assert shrunk.resolution_over_slope == pytest.approx(plain.resolution_over_slope, rel=0.02)


def test_perfect_values():
    truth = np.linspace(900, 1499, 1000)
    closure = closure_in_truth(truth, truth, edges=EDGES)
    for name in FIGURES:
        expected = 1.0 if name == "slope" else 0.0
        assert getattr(closure, name) == pytest.approx(np.full(3, expected), abs=1e-12), name
        assert getattr(closure, f"{name}_unc") == pytest.approx(np.zeros(3), abs=1e-12), name


@pytest.mark.parametrize("shape", ["uniform", "laplace", "two peaks", "cauchy"])
def test_core_of_other_shapes_ends_at_their_middle(shape):
    rng = np.random.default_rng(4)
    draw = {
        "uniform": lambda: rng.uniform(0.8, 1.2, 4000),
        "laplace": lambda: rng.laplace(1, 0.05, 4000),
        "two peaks": lambda: np.concatenate([rng.normal(0.9, 0.03, 2000), rng.normal(1.1, 0.03, 2000)]),
        "cauchy": lambda: 1 + 0.05 * rng.standard_cauchy(4000),
    }
    values = draw[shape]()
    peak, width = core(values, np.ones(4000), 4000)
    unc = standard_error(peak.influence, np.ones(4000))
    assert peak.value == pytest.approx(1, abs=5 * unc)
    assert 0.02 < width.value < 0.25


# -- statistical errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["gaussian", "skewed"])
def test_errors_are_those_of_repetitions_with_weights_and_two_jets_per_event(shape):
    """200 repetitions: the pulls of all figures have a standard deviation of 1 +- 0.15 (its own error is 0.05)."""
    draw = None if shape == "gaussian" else skewed
    events, rows = 800, []
    for repetition in range(200):
        value, truth, rng = sample(2 * events, 100 + repetition, draw)
        weight = np.repeat(rng.choice([0.3, 1.0, 2.0], events), 2)
        # Both jets of an event share part of their fluctuation.
        event = np.repeat(np.arange(events), 2)
        value = value * np.repeat(1 + 0.02 * rng.standard_normal(events), 2)
        found = closure_in_truth(value, truth, weight, edges=(900, 1500), event=event)
        rows.append([(getattr(found, name)[0], getattr(found, f"{name}_unc")[0]) for name in FIGURES])
    value, unc = np.moveaxis(np.array(rows), -1, 0)
    pulls = (value - value.mean(axis=0)) / unc
    for name, sd in zip(FIGURES, pulls.std(axis=0), strict=True):
        assert sd == pytest.approx(1, abs=0.15), name


def test_duplicated_jets_in_one_event_carry_no_information():
    value, truth, _ = sample(2000)
    event = np.arange(2000)
    single = closure_in_truth(value, truth, edges=EDGES, event=event)
    doubled = [np.repeat(column, 2) for column in (value, truth)]
    clustered = closure_in_truth(*doubled, edges=EDGES, event=np.repeat(event, 2))
    same(columns(clustered), columns(single))
    independent = closure_in_truth(*doubled, edges=EDGES)
    for name in ("mean", "median"):
        ratio = getattr(independent, f"{name}_unc") / getattr(clustered, f"{name}_unc")
        assert ratio == pytest.approx(np.full(3, 1 / np.sqrt(2)), rel=0.1), name
        assert (getattr(independent, f"{name}_unc") < getattr(clustered, f"{name}_unc")).all()
    assert independent.n_eff == pytest.approx(2 * single.n_eff)


def test_an_integer_weight_is_so_many_repetitions_of_a_jet():
    value, truth, rng = sample(1500, draw=skewed)
    weight = rng.integers(1, 4, len(value))
    weighted = closure_in_truth(value, truth, weight, edges=EDGES, event=np.arange(len(value)))
    repeated = [np.repeat(column, weight) for column in (value, truth, np.arange(len(value)))]
    found = closure_in_truth(*repeated[:2], edges=EDGES, event=repeated[2])
    same(columns(found), columns(weighted))


def test_errors_without_events_are_those_of_single_jets():
    value, truth, rng = sample(2000)
    weight = rng.choice([-0.5, 1.0, 2.0], 2000)
    same(
        columns(closure_in_truth(value, truth, weight, edges=EDGES)),
        columns(closure_in_truth(value, truth, weight, edges=EDGES, event=rng.permutation(2000))),
    )


def test_negative_weights_subtract_what_was_added_twice():
    value, truth, rng = sample(6000)
    extra = rng.uniform(0.3, 0.8, 1500) * truth[:1500]
    values = np.concatenate([value, extra, extra])
    truths = np.concatenate([truth, truth[:1500], truth[:1500]])
    weight = np.concatenate([np.ones(6000), np.ones(1500), -np.ones(1500)])
    found = closure_in_truth(values, truths, weight, edges=EDGES)
    plain = closure_in_truth(value, truth, edges=EDGES)
    for name in ("mean", "core", "median", "resolution", "share"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), abs=2e-3), name
    assert (found.mean_unc > plain.mean_unc).all()


def test_figures_are_linearised_by_their_influence():
    """Giving one jet a little more weight moves a figure by its influence."""
    value, truth, _ = sample(4000, draw=skewed)
    response, weight = value / truth, np.ones(4000)

    def estimate(w):
        return [mean(response, w), *median_line(response, truth, w, 4000.0)]

    base, jet, extra = estimate(weight), 17, 1e-3
    moved = weight.copy()
    moved[jet] += extra
    predicted = [extra * b.influence[jet] / 4000 for b in base]
    found = [m.value - b.value for m, b in zip(estimate(moved), base, strict=True)]
    assert found[0] == pytest.approx(predicted[0], rel=1e-3)
    # The smoothing spreads the step of the median over its width.
    assert np.sign(found[1:]) == pytest.approx(np.sign(predicted[1:]))


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(0.01, 100), factor=st.floats(1e-9, 1e9), seed=st.integers(0, 100))
def test_units_and_the_scale_of_weights_do_not_matter(scale, factor, seed):
    value, truth, rng = sample(600, seed)
    weight = rng.uniform(0.2, 2, 600)
    plain = closure_in_truth(value, truth, weight, edges=EDGES)
    scaled = closure_in_truth(scale * value, scale * truth, factor * weight, edges=np.multiply(EDGES, scale))
    same(columns(scaled, ("edges", "truth")), columns(plain, ("edges", "truth")), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(factor=st.floats(0.5, 2), seed=st.integers(0, 100))
def test_a_factor_on_the_values_moves_closure_and_leaves_relative_resolutions(factor, seed):
    value, truth, _ = sample(600, seed)
    plain, scaled = (closure_in_truth(f * value, truth, edges=EDGES) for f in (1, factor))
    for name in ("mean", "median", "core"):
        assert 1 + getattr(scaled, name) == pytest.approx(factor * (1 + getattr(plain, name)), rel=1e-6), name
    for name in ("resolution", "core_resolution", "resolution_over_slope"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-6), name
    assert scaled.slope == pytest.approx(factor * plain.slope, rel=1e-6)


# -- bins -------------------------------------------------------------------------------------------------------------


def test_bins_of_another_number_with_a_cut_on_truth():
    value, truth, rng = sample(4000)
    eta = rng.uniform(-2.5, 2.5, 4000)
    cut = truth > 1000
    edges = (0, 0.8, 1.3, 2.5)
    by_weight = closure_in_truth(value, truth, cut.astype(float), edges=edges, by=np.abs(eta))
    selected = closure_in_truth(value[cut], truth[cut], edges=edges, by=np.abs(eta[cut]))
    same(columns(by_weight), columns(selected))
    assert selected.n_eff.sum() == cut.sum()
    assert selected.share.sum() == pytest.approx(1)


def test_low_edges_belong_to_their_bin_and_shares_count_all_jets():
    truth = np.array([800.0, *np.full(20, 900.0), *np.full(60, 1000.0), *np.full(19, 1500.0)])
    closure = closure_in_truth(truth, truth, edges=EDGES)
    assert list(closure.n_eff) == [20, 60, 0]
    assert closure.share == pytest.approx([0.2, 0.6, 0])
    assert closure.truth[:2] == pytest.approx([900, 1000])
    assert np.isnan(closure.truth[2])


def test_bins_of_few_jets_have_no_figures():
    value, truth, _ = sample(9)
    closure = closure_in_truth(value, truth, edges=(900, 1500))
    assert closure.n_eff == [9]
    for name in FIGURES:
        assert np.isnan(getattr(closure, name)).all(), name
    assert json.loads(json.dumps(closure.as_dict()))["mean"] == [None]


def test_share_inside_the_support():
    value, truth, rng = sample(3000)
    inside = rng.random(3000) < 0.9
    closure = closure_in_truth(value, truth, edges=(900, 1500), in_range=inside)
    assert closure.in_range == pytest.approx([inside.mean()])
    assert np.isnan(closure_in_truth(value, truth, edges=(900, 1500)).in_range).all()


def test_the_support_does_not_select():
    """A cut on the calibrated value keeps the jets that fluctuated inwards: the mean of a truncated Gaussian."""
    n, z, sigma, low = 20_000, 1850.0, 0.05, 1800.0
    truth, value = np.full(n, z), exact_gaussian(n, z, sigma * z)
    inside, edge = value > low, (1 - low / z) / sigma
    closure = closure_in_truth(value, truth, edges=(1800, 1900), in_range=inside)
    assert closure.mean == pytest.approx([0], abs=1e-5)
    assert closure.n_eff == [n]
    assert closure.in_range == pytest.approx([ndtr(edge)], abs=1e-4)
    cut = closure_in_truth(value[inside], truth[inside], edges=(1800, 1900))
    gained = sigma * np.exp(-(edge**2) / 2) / np.sqrt(2 * np.pi) / ndtr(edge)
    assert cut.mean == pytest.approx([gained], rel=1e-3)
    assert gained > 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": np.ones(3)}, r"value has the shape \(3,\); expected that of truth"),
        ({"value": np.full(40, np.nan)}, "value is not finite in 40 of 40 jets"),
        ({"truth": np.zeros(40)}, "40 jets have a truth that is not positive"),
        ({"weight": np.full(40, np.inf)}, "weight is not finite in 40"),
        ({"edges": (1, 1)}, "bin edges must increase"),
        ({"edges": (1,)}, "bin edges must increase"),
        ({"event": np.ones(40)}, "event ids are integers"),
        ({"by": np.ones(3)}, r"what to bin in has the shape \(3,\); expected one number per jet, 40"),
        ({"by": np.ones(41)}, r"what to bin in has the shape \(41,\)"),
        ({"by": np.ones((40, 1))}, r"what to bin in has the shape \(40, 1\)"),
        # The last jets have no weight, and are counted all the same.
        ({"by": np.ones(38), "weight": np.arange(40) < 38}, r"what to bin in has the shape \(38,\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    given = {"value": np.ones(40), "truth": np.ones(40), "weight": None, "edges": (0, 2), **change}
    with pytest.raises(ValueError, match=message):
        closure_in_truth(**given)


# -- coverage ---------------------------------------------------------------------------------------------------------


def test_coverage_of_a_belt_is_nominal_in_every_bin():
    value, truth, _ = sample(30_000)
    found = coverage_in_truth(value / 1.07, value / 0.93, truth, edges=EDGES)
    assert (np.abs(found.coverage - 0.6827) < 4 * found.coverage_unc).all()
    total = found.coverage + found.below + found.above
    assert total == pytest.approx(np.ones(3))
    p, n = found.coverage, found.n_eff
    assert found.coverage_unc == pytest.approx(np.sqrt(p * (1 - p) / n))


def test_coverage_of_pit_values_in_bins_of_truth():
    _, truth, rng = sample(8000)
    pit = rng.random(8000)
    found = coverage_in_truth(0.25, 0.75, pit, edges=EDGES, by=truth)
    assert (np.abs(found.coverage - 0.5) < 4 * found.coverage_unc).all()


def test_sides_and_events_of_coverage():
    truth = np.repeat(np.linspace(900, 1499, 500), 2)
    low, high = np.full(1000, -np.inf), np.where(np.arange(1000) % 4 < 2, 2000.0, 100.0)
    event = np.arange(1000) // 2
    found = coverage_in_truth(low, high, truth, edges=(900, 1500), event=event)
    assert (found.coverage[0], found.below[0], found.above[0]) == (0.5, 0, 0.5)
    # Both jets of an event agree: 500 independent yes or no.
    assert found.coverage_unc == pytest.approx([np.sqrt(0.25 / 500)])
    assert json.loads(json.dumps(found.as_dict()))["below"] == [0]


def test_intervals_that_end_before_they_start_are_refused():
    with pytest.raises(ValueError, match="1 intervals end below their start"):
        coverage_in_truth(np.array([1.0, 3.0]), 2.0, np.ones(2), edges=(0, 2))


# -- paired gain ------------------------------------------------------------------------------------------------------


def test_paired_gain_is_the_ratio_and_its_error_that_of_repetitions():
    rows = []
    for seed in range(60):
        value, truth, rng = sample(1000, 300 + seed)
        other = value * rng.normal(1, 0.03, 1000)
        found = paired_resolution_gain(value, other, truth, edges=(900, 1500), n=60)
        rows.append((found.ratio[0], found.ratio_unc[0]))
    ratio, unc = np.array(rows).T
    assert ratio.mean() == pytest.approx(0.07 / np.hypot(0.07, 0.03), rel=0.01)
    assert unc.mean() == pytest.approx(ratio.std(ddof=1), rel=0.3)
    single = closure_in_truth(value, truth, edges=(900, 1500)), closure_in_truth(other, truth, edges=(900, 1500))
    assert (found.resolution_a, found.resolution_b) == (single[0].resolution, single[1].resolution)
    # Pairing pays: errors in quadrature are larger.
    apart = np.hypot(*(c.resolution_unc[0] / c.resolution[0] for c in single))
    assert unc.mean() < 0.8 * apart


def test_paired_gain_of_the_same_values_is_one_without_error():
    value, truth, _ = sample(300)
    found = paired_resolution_gain(1.1 * value, value, truth, edges=EDGES, n=10)
    assert found.ratio == pytest.approx(np.ones(3))
    assert found.ratio_unc == pytest.approx(np.zeros(3), abs=1e-12)


def test_paired_gain_draws_whole_events():
    value, truth, rng = sample(1500)
    other = value * rng.normal(1, 0.03, 1500)
    event = np.arange(1500)
    single = paired_resolution_gain(value, other, truth, edges=EDGES, event=event)
    doubled = [np.repeat(column, 2) for column in (value, other, truth)]
    clustered = paired_resolution_gain(*doubled, edges=EDGES, event=np.repeat(event, 2))
    assert clustered.ratio_unc == pytest.approx(single.ratio_unc, rel=1e-9)
    apart = paired_resolution_gain(*doubled, edges=EDGES)
    assert apart.ratio_unc.mean() < 0.85 * single.ratio_unc.mean()
    with pytest.raises(ValueError, match="at least two replicas"):
        paired_resolution_gain(value, other, truth, edges=EDGES, n=1)


# -- pieces -----------------------------------------------------------------------------------------------------------


def test_standard_error_of_a_weighted_mean():
    rng = np.random.default_rng(3)
    values, weight = rng.normal(size=500), rng.uniform(-0.2, 2, 500)
    found = mean(values, weight)
    expected = np.sqrt(np.sum((weight * (values - found.value)) ** 2)) / weight.sum()
    assert standard_error(found.influence, weight) == pytest.approx(expected)
    assert np.isnan(standard_error(values, -np.ones(500)))


def test_quantiles_of_a_uniform_have_the_binomial_error():
    n = 4000
    values = (np.arange(n) + 0.5) / n
    for p, found in zip((0.1, 0.5, 0.9), quantiles(values, np.ones(n), (0.1, 0.5, 0.9)), strict=True):
        assert found.value == pytest.approx(p, abs=1 / n)
        assert standard_error(found.influence, np.ones(n)) == pytest.approx(np.sqrt(p * (1 - p) / n), rel=0.01)
    assert n_eff(np.ones(n)) == n


@pytest.mark.parametrize(
    "module", ["evaluation", "evaluation.priors", "tables.spectra", "statistics", "methods.registry"]
)
def test_imports_stay_light(module):
    heavy = ["torch", "dask", "matplotlib", "coffea"]
    code = f"import sys, hepcal.{module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
