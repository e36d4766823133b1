"""Closure figures against the same figures computed directly from the unbinned numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import hist
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from scipy import stats

from hepcal.closure import hists, metrics
from hepcal.closure.metrics import CENTRAL, Closure, closure, quantiles, samples

PT_EDGES = np.array([100.0, 200.0, 400.0, 800.0])
ETA_EDGES = np.array([0.0, 1.3, 2.5])
MJJ_EDGES = np.array([500.0, 1000.0, 3000.0])
BINNING = hists.Binning(pt_truth=PT_EDGES, abs_eta=ETA_EDGES, mjj_truth=MJJ_EDGES)
RESPONSE_BIN = 2 / BINNING.response_bins
PULL_BIN = 20 / BINNING.pull_bins
EXACT = {"rtol": 1e-12, "atol": 0}
CALIB_ONLY = {"pull_mean", "pull_sd", "pull_half68", "sigma_stoch", "sigma_pred", "in_range"}
CALIB_ONLY |= {f"{name}{unc}" for name in ("coverage_68", "within_sigma_tot") for unc in ("", "_unc")}


@dataclass(frozen=True)
class Toy:
    """Jets with a known response, some of them outside the truth bins."""

    truth: np.ndarray
    abs_eta: np.ndarray
    reco: np.ndarray
    calib: np.ndarray
    stoch: np.ndarray
    pred: np.ndarray
    in_range: np.ndarray
    covered: np.ndarray
    weight: np.ndarray

    @property
    def total(self) -> np.ndarray:
        return np.hypot(self.stoch, self.pred)

    def take(self, rows: np.ndarray) -> Toy:
        return Toy(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def gaussian_noise(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=n)


def skewed_noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """Mean zero, unit width, a long tail to low values, as jets have."""
    return 1 - rng.exponential(size=n)


def positive(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.uniform(0.2, 2, n)


def with_negative(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.1, -1.0, 1.0)


NOISES = {"gaussian": gaussian_noise, "skewed": skewed_noise}
WEIGHTS = {"ones": lambda rng, n: np.ones(n), "positive": positive, "negative": with_negative}


def make_toy(noise: str = "gaussian", weights: str = "positive", n: int = 60_000, seed: int = 1) -> Toy:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(60, 900, n)  # the bins end at 100 and 800 GeV
    width = 0.05 + 5 / truth
    xi = NOISES[noise](rng, n)
    return Toy(
        truth=truth,
        abs_eta=rng.uniform(0, 3, n),  # the bins end at 2.5
        reco=truth * (0.9 + 0.9 * width * xi),
        calib=truth * (1.02 + width * xi),
        stoch=truth * width,
        pred=truth * width / 4,
        in_range=rng.random(n) < 0.97,
        covered=rng.random(n) < 0.7,
        weight=WEIGHTS[weights](rng, n),
    )


def fill(
    booked: Mapping[str, hist.Hist], toy: Toy, dataset: str = "toy", weighting: str = "qcd", sigmas: bool = True
) -> None:
    calib = {"value": toy.calib, "in_range": toy.in_range}
    if sigmas:
        calib |= {"sigma_stoch": toy.stoch, "sigma_pred": toy.pred, "sigma_tot": toy.total, "covered_68": toy.covered}
    hists.fill_truth(
        booked,
        "pt",
        {"pt_truth": toy.truth, "abs_eta": toy.abs_eta},
        {"reco": {"value": toy.reco}, "calib": calib},
        {weighting: toy.weight},
        dataset,
    )


def filled(toy: Toy, **options: bool) -> dict[str, hist.Hist]:
    booked = hists.book(BINNING)
    fill(booked, toy, **options)
    return booked


def weighted_quantiles(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Central 68.27 % and median of unbinned values; signed weights by the mean of their sum's running extremes."""
    order = np.argsort(values)
    cumulative = np.cumsum(weight[order]) / weight.sum()
    lowest = np.minimum.accumulate(cumulative[::-1])[::-1]
    cumulative = (np.maximum.accumulate(cumulative) + lowest) / 2
    return values[order][np.searchsorted(cumulative, CENTRAL)]


def bins_of(values: np.ndarray, edges: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero((values >= low) & (values < high)) for low, high in itertools.pairwise(edges)]


def expected(toy: Toy, level: str) -> dict[str, float]:
    """The figures that are exact sums, and the quantiles, of one bin."""
    value, w = getattr(toy, level), toy.weight
    response, pull = value / toy.truth, (toy.truth - toy.calib) / toy.total
    low, median, high = weighted_quantiles(response, w)
    # Pulls are those of jets inside the support.
    within, inside = np.abs(pull) < 1, np.flatnonzero(toy.in_range)
    pull, pull_weight = pull[inside], w[inside]
    pull_low, _, pull_high = weighted_quantiles(pull, pull_weight)
    n_eff = w.sum() ** 2 / (w**2).sum()
    mean = np.average(response, weights=w)
    return {
        "n_eff": n_eff,
        "response_mean": mean,
        "response_mean_unc": np.sqrt(np.sum((w * (response - mean)) ** 2)) / w.sum(),
        "response_median": median,
        "bias": np.average((value - toy.truth) / toy.truth, weights=w),
        "resolution": (high - low) / 2 / median,
        "pull_mean": np.average(pull, weights=pull_weight),
        "pull_sd": np.sqrt(np.average((pull - np.average(pull, weights=pull_weight)) ** 2, weights=pull_weight)),
        "pull_half68": (pull_high - pull_low) / 2,
        "coverage_68": np.average(toy.covered, weights=w),
        "within_sigma_tot": np.average(within, weights=w),
        "sigma_stoch": np.average(toy.stoch, weights=w),
        "sigma_pred": np.average(toy.pred, weights=w),
        "in_range": np.average(toy.in_range, weights=w),
    }


# A quantile stays within its bin, whose contents are taken as evenly spread; sums are exact but for rounding, which is
# larger where a small number is the difference of two large ones.
ABSOLUTE = {"response_median": 0.2 * RESPONSE_BIN, "resolution": 0.2 * RESPONSE_BIN, "pull_half68": 0.1 * PULL_BIN}
RELATIVE = {"response_mean_unc": 1e-9, "pull_sd": 1e-10}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("level", ["reco", "calib"])
@pytest.mark.parametrize(
    ("axis", "column", "edges"), [("pt_truth", "truth", PT_EDGES), ("abs_eta", "abs_eta", ETA_EDGES)]
)
def test_every_figure_equals_the_unbinned_one(
    noise: str, weights: str, level: str, axis: str, column: str, edges: np.ndarray
) -> None:
    toy = make_toy(noise, weights)
    found = closure(filled(toy), "pt", level, axis=axis)
    np.testing.assert_array_equal(found.edges, edges)
    for position, rows in enumerate(bins_of(getattr(toy, column), edges)):
        for name, value in expected(toy.take(rows), level).items():
            figure = getattr(found, name)[position]
            if level == "reco" and name in CALIB_ONLY:
                assert np.isnan(figure)
            elif name in ABSOLUTE:
                assert figure == pytest.approx(value, rel=0, abs=ABSOLUTE[name]), name
            else:
                assert figure == pytest.approx(value, rel=RELATIVE.get(name, 1e-12), abs=1e-12), name
    for name in ("response_median", "response_mean", "bias", "resolution"):
        assert getattr(found, name).shape == (len(edges) - 1,)


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("width", [0.05, 0.1])
def test_a_gaussian_response_gives_its_scale_and_width(scale: float, width: float) -> None:
    n, rng = 100_000, np.random.default_rng(2)
    toy = replace(make_toy("gaussian", "ones", n), abs_eta=np.zeros(n))
    toy = replace(toy, calib=toy.truth * rng.normal(scale, width, n), weight=np.ones(n))
    found = closure(filled(toy), "pt", "calib", total=True)
    assert found.bias[0] == pytest.approx(scale - 1, abs=5 * width / np.sqrt(n))
    assert found.response_mean_unc[0] == pytest.approx(width / np.sqrt(n), rel=0.02)
    assert found.response_median[0] == pytest.approx(scale, abs=5 * 1.2533 * width / np.sqrt(n))
    assert found.resolution[0] == pytest.approx(width / scale, abs=5 * found.resolution_unc[0])
    assert found.resolution_unc[0] == pytest.approx(0.9617 * width / scale / np.sqrt(n), rel=0.03)


def test_the_error_of_the_resolution_is_the_scatter_over_repetitions() -> None:
    n, width, repetitions = 2_000, 0.08, 150
    rng = np.random.default_rng(3)
    toy = make_toy(n=n, weights="ones")
    measured, claimed = [], []
    for _ in range(repetitions):
        booked = hists.book(BINNING)
        fill(booked, replace(toy, calib=toy.truth * rng.normal(1, width, n)))
        found = closure(booked, "pt", "calib", total=True)
        measured.append(found.resolution[0])
        claimed.append(found.resolution_unc[0])
    # The scatter of 150 numbers is itself known to 6 %.
    assert np.mean(claimed) == pytest.approx(np.std(measured, ddof=1), rel=0.2)


def test_right_uncertainties_cover_68_percent_with_unit_pulls() -> None:
    n, rng = 100_000, np.random.default_rng(4)
    toy = make_toy(n=n, weights="ones")
    toy = replace(toy, calib=toy.truth + toy.total * rng.normal(size=n))
    found = closure(filled(toy), "pt", "calib", total=True)
    assert found.pull_mean[0] == pytest.approx(0, abs=5 / np.sqrt(n))
    assert found.pull_sd[0] == pytest.approx(1, abs=5 / np.sqrt(2 * n))
    assert found.pull_half68[0] == pytest.approx(1, abs=5 * 0.9617 / np.sqrt(n))
    assert found.within_sigma_tot[0] == pytest.approx(0.6827, abs=5 * np.sqrt(0.6827 * 0.3173 / n))
    assert found.within_sigma_tot_unc[0] == pytest.approx(np.sqrt(0.6827 * 0.3173 / n), rel=0.02)


def test_a_skewed_response_with_the_right_width_over_covers() -> None:
    """Unit spread of the pulls does not mean 68 % coverage: 1 - exp(-2) for this one-sided tail."""
    toy = make_toy("skewed", "ones", n=100_000)
    toy = replace(toy, calib=toy.truth * (1 + toy.stoch / toy.truth * skewed_noise(np.random.default_rng(5), 100_000)))
    toy = replace(toy, pred=np.zeros_like(toy.pred))
    found = closure(filled(toy), "pt", "calib", total=True)
    assert found.pull_sd[0] == pytest.approx(1, abs=0.03)
    assert found.within_sigma_tot[0] == pytest.approx(1 - np.exp(-2), abs=0.006)
    assert found.pull_half68[0] == pytest.approx(np.diff(stats.expon.ppf(np.array(CENTRAL)[[0, 2]]))[0] / 2, abs=0.02)


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("level", ["reco", "calib"])
def test_sum_ratio_is_over_all_entries_those_outside_the_bins_included(level: str, total: bool) -> None:
    toy = make_toy(weights="negative")
    ratio = np.sum(toy.weight * getattr(toy, level)) / np.sum(toy.weight * toy.truth)
    assert closure(filled(toy), "pt", level, total=total).sum_ratio == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("axis", ["pt_truth", "abs_eta"])
def test_total_is_one_bin_with_the_entries_outside_the_bins(axis: str) -> None:
    toy = make_toy(weights="positive")
    booked = filled(toy)
    found, binned = closure(booked, "pt", "calib", axis=axis, total=True), closure(booked, "pt", "calib", axis=axis)
    reference = expected(toy, "calib")
    for name in ("n_eff", "response_mean", "bias", "coverage_68", "sigma_stoch"):
        assert getattr(found, name) == pytest.approx([reference[name]], rel=1e-12)
    assert found.response_median == pytest.approx([reference["response_median"]], abs=0.2 * RESPONSE_BIN)
    np.testing.assert_array_equal(found.edges, binned.edges[[0, -1]])
    assert found.share == pytest.approx([1], rel=1e-12)
    assert binned.share.sum() < 0.99  # the toy reaches beyond the bins


def test_shares_are_of_all_entries() -> None:
    toy = make_toy(weights="positive")
    found = closure(filled(toy), "pt", "calib")
    parts = [toy.weight[rows].sum() for rows in bins_of(toy.truth, PT_EDGES)]
    np.testing.assert_allclose(found.share, np.array(parts) / toy.weight.sum(), **EXACT)


def test_data_sets_are_summed_by_weight() -> None:
    toy = make_toy(weights="positive")
    half = len(toy.truth) // 2
    parts = hists.book(BINNING)
    fill(parts, toy.take(np.arange(half)), dataset="low")
    fill(parts, toy.take(np.arange(half, 2 * half)), dataset="high")
    for name in ("n_eff", "response_mean", "pull_sd", "response_median"):
        figures = [getattr(closure(booked, "pt", "calib"), name) for booked in (parts, filled(toy))]
        np.testing.assert_allclose(*figures, rtol=1e-11)


@settings(deadline=None, max_examples=20)
@given(factor=st.floats(1e-12, 1e12), seed=st.integers(0, 2**16))
@example(factor=663856077148.0039, seed=14494)  # half of the weight on each side of an empty bin
def test_no_figure_depends_on_the_normalisation_of_the_weights(factor: float, seed: int) -> None:
    toy = make_toy(weights="negative", n=2_000, seed=seed)
    one, other = (closure(filled(t), "pt", "calib") for t in (toy, replace(toy, weight=toy.weight * factor)))
    for field in fields(Closure):
        np.testing.assert_allclose(getattr(one, field.name), getattr(other, field.name), rtol=1e-7, err_msg=field.name)


def test_dijet_masses_are_judged_in_the_same_way() -> None:
    toy = make_toy(weights="positive")
    scaled = replace(toy, **{name: 4 * getattr(toy, name) for name in ("truth", "reco", "calib", "stoch", "pred")})
    booked = hists.book(BINNING)
    hists.fill_truth(
        booked,
        "mjj",
        {"mjj_truth": scaled.truth},
        {
            "reco": {"value": scaled.reco},
            "calib": {
                "value": scaled.calib,
                "sigma_stoch": scaled.stoch,
                "sigma_pred": scaled.pred,
                "sigma_tot": scaled.total,
                "in_range": scaled.in_range,
                "covered_68": scaled.covered,
            },
        },
        {"bsm": scaled.weight},
        "toy",
    )
    found = closure(booked, "mjj", "calib", "bsm")
    np.testing.assert_array_equal(found.edges, MJJ_EDGES)
    for position, rows in enumerate(bins_of(scaled.truth, MJJ_EDGES)):
        reference = expected(scaled.take(rows), "calib")
        for name in ("n_eff", "bias", "pull_mean", "coverage_68", "sigma_pred"):
            assert getattr(found, name)[position] == pytest.approx(reference[name], rel=1e-12)


def test_an_empty_bin_is_nan_and_says_nothing_about_the_others() -> None:
    toy = make_toy()
    kept = toy.take(np.flatnonzero((toy.truth < 200) | (toy.truth >= 400)))
    found, full = (closure(filled(t), "pt", "calib") for t in (kept, toy))
    assert found.n_eff[1] == 0
    assert found.share[1] == 0
    for name in ("response_mean", "response_median", "bias", "resolution", "pull_sd", "coverage_68", "sigma_stoch"):
        assert np.isnan(getattr(found, name)[1])
        np.testing.assert_allclose(getattr(found, name)[[0, 2]], getattr(full, name)[[0, 2]], **EXACT)


def test_a_method_without_uncertainties_has_a_closure_and_no_pulls() -> None:
    toy = make_toy()
    found, full = closure(filled(toy, sigmas=False), "pt", "calib"), closure(filled(toy), "pt", "calib")
    np.testing.assert_array_equal(found.bias, full.bias)
    np.testing.assert_allclose(found.in_range, full.in_range, **EXACT)
    for name in CALIB_ONLY - {"in_range"}:
        assert np.isnan(getattr(found, name)).all()


# -- samples ----------------------------------------------------------------------------------------------------------

FIGURES = {"edges", "share", "n_eff", "response_mean", "response_mean_unc", "response_median", "bias"}
FIGURES |= {"response_median_unc", "resolution", "resolution_unc", "sum_ratio"}


def test_samples_are_nested_by_weighting_quantity_and_level() -> None:
    nested = samples(filled(make_toy()))
    assert {w: {q: list(levels) for q, levels in found.items()} for w, found in nested.items()} == {
        "qcd": {"pt": ["reco", "calib"]}
    }
    reco, calib = nested["qcd"]["pt"]["reco"], nested["qcd"]["pt"]["calib"]
    assert set(reco) == FIGURES | {"inclusive", "abs_eta"}
    assert set(calib) == FIGURES | CALIB_ONLY | {"inclusive", "abs_eta"}
    assert len(calib["bias"]) == len(PT_EDGES) - 1
    assert len(calib["abs_eta"]["bias"]) == len(ETA_EDGES) - 1
    assert calib["abs_eta"]["edges"] == ETA_EDGES.tolist()
    assert len(calib["inclusive"]["bias"]) == 1
    for part in ("inclusive", "abs_eta"):
        assert calib[part]["sum_ratio"] == pytest.approx(calib["sum_ratio"], rel=1e-12)


def test_samples_leave_out_what_a_method_does_not_provide() -> None:
    nested = samples(filled(make_toy(), sigmas=False))
    assert set(nested["qcd"]["pt"]["calib"]) == FIGURES | {"in_range", "inclusive", "abs_eta"}


def test_samples_hold_both_weightings_once_both_are_filled() -> None:
    booked = hists.book(BINNING)
    fill(booked, make_toy(), weighting="qcd")
    fill(booked, make_toy(seed=2), weighting="bsm")
    assert list(samples(booked)) == ["qcd", "bsm"]


def test_samples_hold_none_instead_of_nan() -> None:
    toy = make_toy()
    nested = samples(filled(toy.take(np.flatnonzero(toy.truth < 200))))
    assert nested["qcd"]["pt"]["calib"]["bias"][1:] == [None, None]
    assert nested["qcd"]["pt"]["calib"]["n_eff"][1:] == [0.0, 0.0]


def test_samples_of_nothing_are_nothing() -> None:
    assert samples(hists.book(BINNING)) == {}


# -- quantiles --------------------------------------------------------------------------------------------------------

EDGES = np.array([0.0, 1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("content", "probability", "quantile"),
    [
        ([0, 1, 1, 2, 0], 0.0, 0.0),
        ([0, 1, 1, 2, 0], 0.125, 0.5),
        ([0, 1, 1, 2, 0], 0.25, 1.0),
        ([0, 1, 1, 2, 0], 0.5, 2.0),
        ([0, 1, 1, 2, 0], 0.75, 3.0),
        ([0, 1, 1, 2, 0], 1.0, 4.0),
        ([1, 1, 1, 1, 0], 0.25, 0.0),  # an underflow moves the quantiles down
        ([1, 1, 1, 1, 0], 0.5, 1.0),
        ([1, 1, 1, 1, 0], 0.2, np.nan),  # below the first edge
        ([0, 1, 1, 1, 1], 0.75, 4.0),
        ([0, 1, 1, 1, 1], 0.8, np.nan),  # above the last edge
        ([0, 2, 0, 2, 0], 0.25, 0.5),
        ([0, 2, 0, 2, 0], 0.75, 3.0),
        ([0, 2, 0, 2, 0], 0.5, 1.5),  # any point of the empty bin is a median
        ([0, 0.1 + 0.2, 0, 0.3, 0], 0.5, 1.5),
        ([0, 0.3, 0, 0.1 + 0.2, 0], 0.5, 1.5),
        ([0, 4, -1, 1, 0], 0.5, 4 / 7),  # net 4, 3.5 of it in the first bin: between 4 and, from the right, 3
        ([0, 0, 0, 0, 0], 0.5, np.nan),
        ([0, -1, 0, -1, 0], 0.5, np.nan),
        ([0, 1, -1, 0, 0], 0.5, np.nan),  # a total of zero has no quantiles
        ([3, 0, 0, 0, 1], 0.5, np.nan),
    ],
)
def test_quantiles_of_bins_made_by_hand(content: list[float], probability: float, quantile: float) -> None:
    found = quantiles(np.array([content], dtype=float), EDGES, (probability,))
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(quantile, abs=1e-12, nan_ok=True)


def test_rows_are_independent_and_empty_ones_are_nan() -> None:
    contents = np.array([[0, 1, 1, 2, 0], [0, 0, 0, 0, 0], [0, 0, 4, 0, 0]], dtype=float)
    found = quantiles(contents, EDGES, (0.25, 0.5))
    np.testing.assert_allclose(found, [[1.0, np.nan, 1.25], [2.0, np.nan, 1.5]])


CONTENTS = stn.arrays(float, 12, elements=st.one_of(st.just(0.0), st.floats(1e-3, 1e3)))


@given(content=CONTENTS, probabilities=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=5))
def test_quantiles_invert_the_distribution_function(content: np.ndarray, probabilities: list[float]) -> None:
    edges = np.linspace(0, 2, 11)
    probabilities = sorted(probabilities)
    found = quantiles(content[None], edges, tuple(probabilities))[:, 0]
    inside = np.isfinite(found)
    assert np.all(np.diff(found[inside]) >= -1e-12)
    if content.sum() > 0:
        cumulative = np.cumsum(content)[:-1] / content.sum()
        np.testing.assert_allclose(
            np.interp(found[inside], edges, cumulative), np.array(probabilities)[inside], atol=1e-9
        )
        reached = (cumulative[0] <= np.array(probabilities)) & (np.array(probabilities) <= cumulative[-1])
        np.testing.assert_array_equal(inside, reached)


@given(content=stn.arrays(float, 12, elements=st.floats(-10, 1000)))
def test_quantiles_of_signed_weights_are_ordered_and_within_the_edges(content: np.ndarray) -> None:
    low, median, high = quantiles(content[None], np.linspace(0, 2, 11), CENTRAL)[:, 0]
    for smaller, larger in ((low, median), (median, high)):
        assert not smaller > larger
    for value in (low, median, high):
        assert np.isnan(value) or 0 <= value <= 2


def test_central_is_one_sigma_of_a_gaussian() -> None:
    np.testing.assert_allclose(metrics.CENTRAL, stats.norm.cdf([-1, 0, 1]), atol=1e-7)
