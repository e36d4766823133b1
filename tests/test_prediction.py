"""Moments, densities, modes and intervals of predictions against closed forms."""

from __future__ import annotations

from collections.abc import Callable

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from scipy import optimize, stats

from hepcal.distributions import CrystalBall, Distribution, NormalMixture
from hepcal.distributions.prediction import JETS_AT_ONCE, NoDensityError, Prediction
from hepcal.distributions.uncertainties import combine_draws

ONE_SIGMA = 0.6827


def predicted(mean: np.ndarray, sigma: np.ndarray) -> Prediction:
    """A prediction from the Gaussians of its draws, shape (draws, n) each [GeV]."""
    mean, sigma = (np.asarray(part, dtype=np.float32) for part in (mean, sigma))
    center, stoch, pred = (moment.astype(np.float32) for moment in combine_draws(mean, sigma))
    gaussians = NormalMixture.gaussian(mean, sigma)
    return Prediction(center, stoch, pred, np.ones(len(center), dtype=bool), gaussians.take)


def from_one_network(distribution: Distribution) -> Prediction:
    """A prediction without sigma_pred, from a distribution with one draw."""
    mean, variance = (moment.astype(np.float32) for moment in distribution.moments())
    return Prediction(mean, np.sqrt(variance), None, np.ones(len(mean), dtype=bool), distribution.take)


def one_draw(*components: tuple[float, float, float]) -> NormalMixture:
    """One network's mixture for one jet from (share, mean, sigma) of its components."""
    return NormalMixture(*np.array(components).T[:, None, :, None])


def mixture(*components: tuple[int, float, float]) -> Prediction:
    """One jet whose draws are Gaussians, given as (number of draws, mean, width)."""
    mean = np.concatenate([np.full(count, m) for count, m, _ in components])
    sigma = np.concatenate([np.full(count, s) for count, _, s in components])
    return predicted(mean[:, None], sigma[:, None])


def exact_density(*components: tuple[int, float, float]) -> Callable[[np.ndarray], np.ndarray]:
    total = sum(count for count, _, _ in components)
    return lambda x: sum(count / total * stats.norm.pdf(x, m, s) for count, m, s in components)


def exact_probability(low: float, high: float, *components: tuple[int, float, float]) -> float:
    total = sum(count for count, _, _ in components)
    return sum(count / total * np.diff(stats.norm.cdf([low, high], m, s))[0] for count, m, s in components)


# -- draws ------------------------------------------------------------------------------------------------------------


def test_variances_are_averaged_not_standard_deviations() -> None:
    _, stoch, _ = combine_draws(np.full((2, 1), 600.0), np.array([[30.0], [40.0]]))
    assert stoch[0] == pytest.approx(np.sqrt((30**2 + 40**2) / 2), rel=1e-12)
    assert stoch[0] > 35.3  # not the 35 GeV of averaged standard deviations


@pytest.mark.parametrize("draws", [2, 3, 50])
def test_sigma_pred_divides_by_one_less_than_the_draws(draws: int) -> None:
    mean = 600 + np.random.default_rng(1).normal(0, 5, (draws, 4))
    center, _, pred = combine_draws(mean, np.ones_like(mean))
    np.testing.assert_allclose(center, mean.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(pred, np.std(mean, axis=0, ddof=1), rtol=1e-12)


def test_two_draws_differ_by_root_two_sigma_pred() -> None:
    _, _, pred = combine_draws(np.array([[599.0], [601.0]]), np.ones((2, 1)))
    assert pred[0] == pytest.approx(2 / np.sqrt(2), rel=1e-12)


def test_the_total_is_the_variance_of_the_mixture() -> None:
    """Law of total variance, but for the S - 1 of the spread."""
    rng = np.random.default_rng(2)
    draws, mean, sigma = 400, rng.normal(600, 20, (400, 3)), rng.uniform(30, 60, (400, 3))
    _, stoch, pred = combine_draws(mean, sigma)
    mixture_variance = (sigma**2 + mean**2).mean(axis=0) - mean.mean(axis=0) ** 2
    np.testing.assert_allclose(stoch**2 + pred**2 * (draws - 1) / draws, mixture_variance, rtol=1e-9)


def test_a_small_spread_of_large_float32_numbers_is_accumulated_in_float64() -> None:
    """600 GeV with a spread of 5 MeV: E[x²] - E[x]² in float32 would be noise of 0.2 GeV."""
    mean = (600 + np.random.default_rng(3).normal(0, 5e-3, (50, 200))).astype(np.float32)
    center, _, pred = combine_draws(mean, np.full_like(mean, 40))
    exact = mean.astype(np.longdouble)
    np.testing.assert_allclose(center, exact.mean(axis=0).astype(float), rtol=1e-14)
    np.testing.assert_allclose(pred, exact.std(axis=0, ddof=1).astype(float), rtol=1e-10)
    assert center.dtype == pred.dtype == np.float64


@given(
    offsets=stn.arrays(float, (7, 3), elements=st.integers(-1000, 1000).map(lambda i: i / 64)),
    shift=st.integers(-(2**14), 2**14),
)
def test_moments_move_with_a_common_shift_and_widths_do_not(offsets: np.ndarray, shift: int) -> None:
    sigma = 1 + np.abs(offsets)
    center, stoch, pred = combine_draws(offsets, sigma)
    moved_center, moved_stoch, moved_pred = combine_draws(offsets + 1e4 * shift, sigma)
    np.testing.assert_allclose(moved_center - 1e4 * shift, center, atol=1e-6)
    np.testing.assert_array_equal(moved_stoch, stoch)
    np.testing.assert_allclose(moved_pred, pred, atol=1e-6)


@given(
    mean=stn.arrays(np.float32, (5, 2), elements=st.floats(20, 3000, width=32)),
    sigma=stn.arrays(np.float32, (5, 2), elements=st.floats(1, 300, width=32)),
    order=st.permutations(range(5)),
)
def test_the_order_of_the_draws_does_not_matter(mean: np.ndarray, sigma: np.ndarray, order: list[int]) -> None:
    for one, other in zip(combine_draws(mean, sigma), combine_draws(mean[order], sigma[order]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("draws", [0, 1])
def test_fewer_than_two_draws_have_no_spread(draws: int) -> None:
    with pytest.raises(ValueError, match=f"at least two weight draws, found {draws}"):
        combine_draws(np.full((draws, 3), 600.0), np.full((draws, 3), 40.0))


# -- parts and total --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stoch", "pred", "total"),
    [(30.0, 40.0, 50.0), (30.0, None, 30.0), (None, 40.0, 40.0)],
)
def test_the_total_adds_in_quadrature_what_there_is(stoch: float | None, pred: float | None, total: float) -> None:
    parts = [None if part is None else np.array([part], dtype=np.float32) for part in (stoch, pred)]
    found = Prediction(np.array([600.0], dtype=np.float32), *parts, np.array([True])).sigma_tot
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [total], rtol=1e-7)


def number_only(n: int = 2) -> Prediction:
    """What a deterministic regression predicts."""
    return Prediction(np.full(n, 600, dtype=np.float32), None, None, np.ones(n, dtype=bool))


def test_a_number_has_no_total() -> None:
    assert number_only().sigma_tot is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda prediction: prediction.density(np.array([600.0])),
        lambda prediction: prediction.replicas(),
        lambda prediction: prediction.mode(),
        lambda prediction: prediction.interval(),
        lambda prediction: prediction.highest_density(),
        lambda prediction: prediction.cdf(np.array([600.0])),
        lambda prediction: prediction.pit(np.array([600.0, 600.0])),
        lambda prediction: prediction.quantile(0.5),
        lambda prediction: prediction.median(),
        lambda prediction: prediction.sample(3, seed=1),
    ],
    ids=["density", "replicas", "mode", "interval", "set", "cdf", "pit", "quantile", "median", "sample"],
)
def test_a_number_has_no_distribution(ask: Callable[[Prediction], object]) -> None:
    with pytest.raises(NoDensityError, match="single number per jet"):
        ask(number_only())


def test_replicas_are_the_means_of_the_draws() -> None:
    mean = np.random.default_rng(4).normal(600, 20, (6, 3)).astype(np.float32)
    prediction = predicted(mean, np.full_like(mean, 40))
    np.testing.assert_array_equal(prediction.replicas(), mean)
    np.testing.assert_allclose(prediction.mean, mean.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(prediction.sigma_pred, mean.std(axis=0, ddof=1), rtol=1e-4)


# -- density ----------------------------------------------------------------------------------------------------------

TWO = ((3, 600.0, 30.0), (2, 700.0, 60.0))
FAR = ((1, 500.0, 20.0), (1, 800.0, 20.0))


@pytest.mark.parametrize("components", [((4, 600.0, 50.0),), TWO, FAR], ids=["one", "two", "far apart"])
def test_a_density_is_the_mean_of_the_draws_and_integrates_to_one(components: tuple) -> None:
    pt = np.linspace(0, 1400, 5_601)
    density = mixture(*components).density(pt)
    assert density.shape == (1, len(pt))
    np.testing.assert_allclose(density[0], exact_density(*components)(pt), rtol=1e-5, atol=1e-12)
    assert np.trapezoid(density[0], pt) == pytest.approx(1, abs=1e-9)
    prediction = mixture(*components)
    assert np.trapezoid(pt * density[0], pt) == pytest.approx(prediction.mean[0], rel=1e-6)


def test_points_may_differ_from_jet_to_jet() -> None:
    mean = np.array([[500.0, 900.0]] * 3)
    prediction = predicted(mean, np.full_like(mean, 40))
    points = np.array([[480.0, 500.0], [900.0, 940.0]])
    np.testing.assert_allclose(prediction.density(points), stats.norm.pdf(points, mean[0][:, None], 40), rtol=1e-6)
    np.testing.assert_allclose(prediction.density(points[0])[0], prediction.density(points)[0], rtol=0)


def test_no_jets_have_no_distributions() -> None:
    prediction = predicted(np.empty((3, 0)), np.empty((3, 0)))
    assert prediction.density(np.array([1.0, 2.0])).shape == (0, 2)
    assert prediction.mode().shape == (0,)
    assert [end.shape for end in prediction.interval()] == [(0,), (0,)]
    assert prediction.replicas().shape == (3, 0)
    assert prediction.cdf(np.array([1.0, 2.0])).shape == (0, 2)
    assert prediction.pit(np.empty(0)).shape == prediction.median().shape == (0,)
    assert prediction.quantile([0.16, 0.84]).shape == (0, 2)
    assert prediction.sample(4, seed=1).shape == (4, 0)
    found = prediction.highest_density()
    assert len(found) == 0
    assert str(found.type) == "0 * var * {low: float64, high: float64}"


def test_many_jets_are_treated_one_by_one() -> None:
    """More jets than are computed at once: each gets what it gets alone."""
    n = JETS_AT_ONCE + 3
    rng = np.random.default_rng(5)
    mean, sigma = rng.normal(600, 10, (2, n)), rng.uniform(30, 60, (2, n))
    low, high = predicted(mean, sigma).interval()
    mode = predicted(mean, sigma).mode()
    for jet in (0, JETS_AT_ONCE - 1, JETS_AT_ONCE, n - 1):
        alone = predicted(mean[:, [jet]], sigma[:, [jet]])
        np.testing.assert_allclose([*alone.interval(), alone.mode()], [[low[jet]], [high[jet]], [mode[jet]]], rtol=0)


# -- mode and interval ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(mean=st.floats(20, 3000), relative=st.floats(0.01, 0.3))
def test_one_gaussian_has_its_mean_as_mode_and_one_sigma_as_interval(mean: float, relative: float) -> None:
    width = relative * mean
    prediction = mixture((5, mean, width))
    (low,), (high,) = prediction.interval(ONE_SIGMA)
    (mode,) = prediction.mode()
    assert mode == pytest.approx(mean, abs=1e-3 * width + 1e-6 * mean)
    assert low == pytest.approx(mean - width, abs=1e-3 * width + 1e-6 * mean)
    assert high == pytest.approx(mean + width, abs=1e-3 * width + 1e-6 * mean)


@pytest.mark.parametrize("probability", [0.1, 0.5, ONE_SIGMA, 0.9, 0.9545, 0.99])
def test_one_gaussian_at_other_probabilities(probability: float) -> None:
    (low,), (high,) = mixture((2, 600.0, 40.0)).interval(probability)
    reach = 40 * stats.norm.ppf((1 + probability) / 2)
    assert (low, high) == pytest.approx((600 - reach, 600 + reach), abs=1e-4)


# Two components of different width: a tail to one side, as jets have.
MIXTURES = {
    "two": TWO,
    "long tail": ((18, 623.4, 20.4), (7, 698.3, 65.6)),
    "three": ((59, 617.8, 16.6), (30, 659.8, 33.7), (11, 738.6, 78.6)),
    "nearly equal": ((1, 600.0, 40.0), (1, 610.0, 45.0)),
}


@pytest.mark.parametrize("components", MIXTURES.values(), ids=MIXTURES)
def test_the_mode_is_the_highest_point(components: tuple) -> None:
    prediction, density = mixture(*components), exact_density(*components)
    best = optimize.minimize_scalar(lambda x: -density(x), bounds=(550, 680), method="bounded", options={"xatol": 1e-6})
    assert prediction.mode()[0] == pytest.approx(best.x, abs=1e-3 * float(prediction.sigma_tot[0]))


@pytest.mark.parametrize("probability", [0.5, ONE_SIGMA, 0.9])
@pytest.mark.parametrize("components", MIXTURES.values(), ids=MIXTURES)
def test_both_ends_of_an_interval_have_equal_heights_and_it_holds_its_probability(
    components: tuple, probability: float
) -> None:
    (low,), (high,) = mixture(*components).interval(probability)
    density = exact_density(*components)
    assert exact_probability(low, high, *components) == pytest.approx(probability, abs=1e-6)
    assert density(low) == pytest.approx(density(high), rel=1e-5)


@pytest.mark.parametrize(
    ("components", "moments", "mode", "interval"),
    [
        (((1, 644.4, 51.43),) * 2, (644.40, 51.43), 644.40, (592.97, 695.83)),
        (MIXTURES["long tail"], (644.37, 51.34), 623.86, (593.84, 655.67)),
        (MIXTURES["three"], (643.69, 51.45), 619.06, (592.47, 654.81)),
    ],
    ids=["one", "two", "three"],
)
def test_the_published_mixtures(
    components: tuple, moments: tuple[float, float], mode: float, interval: tuple[float, float]
) -> None:
    """Recomputed from the parameters of arXiv:2003.11099, Tab. 2: same mean and width, different shapes."""
    found = mixture(*components)
    draws = sum(count for count, _, _ in components)
    # The width of the mixture itself: sigma_pred counts draws by S - 1.
    width = np.hypot(found.sigma_stoch[0], found.sigma_pred[0] * np.sqrt((draws - 1) / draws))
    assert (found.mean[0], width) == pytest.approx(moments, abs=0.01)
    assert found.mode()[0] == pytest.approx(mode, abs=0.05)
    (low,), (high,) = found.interval(ONE_SIGMA)
    assert (low, high) == pytest.approx(interval, abs=0.05)


PUBLISHED = [
    (((1.0, 644.4, 51.43),), 644.40, 51.43, 644.40, (592.97, 695.83)),
    (((0.72, 623.4, 20.4), (0.28, 698.3, 65.6)), 644.37, 51.34, 623.86, (593.84, 655.67)),
    (((0.59, 617.8, 16.6), (0.30, 659.8, 33.7), (0.11, 738.6, 78.6)), 643.69, 51.45, 619.06, (592.47, 654.81)),
]


@pytest.mark.parametrize(("components", "mean", "sd", "mode", "interval"), PUBLISHED, ids=["one", "two", "three"])
def test_the_published_mixtures_as_components_of_one_network(
    components: tuple, mean: float, sd: float, mode: float, interval: tuple[float, float]
) -> None:
    found = from_one_network(one_draw(*components))
    assert (found.mean[0], found.sigma_tot[0]) == pytest.approx((mean, sd), abs=0.01)
    assert found.mode()[0] == pytest.approx(mode, abs=0.01)
    assert [end[0] for end in found.interval()] == pytest.approx(interval, abs=0.01)


def test_a_central_interval_is_another_thing() -> None:
    found = from_one_network(one_draw(*PUBLISHED[2][0]))
    assert found.quantile([0.15865, 0.84135])[0] == pytest.approx((605.7, 682.6), abs=0.05)


def test_an_interval_in_two_pieces_gives_its_outermost_ends() -> None:
    """Two separate peaks of equal height: each holds half of the probability, symmetric about the middle."""
    (low,), (high,) = mixture(*FAR).interval(ONE_SIGMA)
    assert (low, high) == pytest.approx((480, 820), abs=0.02)


# -- highest-density sets ---------------------------------------------------------------------------------------------


def assert_highest_density(prediction: Prediction, probability: float) -> ak.Array:
    """The set holds its probability, and all of its ends have one height."""
    found = prediction.highest_density(probability)
    low, high = (ak.fill_none(ak.pad_none(found[end], 1), 0.0) for end in ("low", "high"))
    width = int(ak.max(ak.num(low)))
    low, high = (ak.to_numpy(ak.fill_none(ak.pad_none(end, width), np.nan)) for end in (low, high))
    inside = np.nansum(prediction.cdf(high) - prediction.cdf(low), axis=1)
    np.testing.assert_allclose(inside, probability, atol=1e-7)
    heights = np.concatenate([prediction.density(low), prediction.density(high)], axis=1)
    np.testing.assert_allclose(np.nanmax(heights, axis=1), np.nanmin(heights, axis=1), rtol=1e-4)
    return found


def test_two_separate_gaussians_are_two_intervals() -> None:
    found = assert_highest_density(mixture(*FAR), ONE_SIGMA)
    assert str(found.type) == "1 * var * {low: float64, high: float64}"
    reach = 20 * stats.norm.ppf((1 + ONE_SIGMA) / 2)
    assert found.low.to_list() == [pytest.approx([500 - reach, 800 - reach], abs=1e-3)]
    assert found.high.to_list() == [pytest.approx([500 + reach, 800 + reach], abs=1e-3)]


def test_separate_gaussians_of_different_height() -> None:
    """At 30 % only the narrow one is high enough; at 95 % the level cuts both."""
    prediction = from_one_network(one_draw((0.5, 500.0, 10.0), (0.5, 900.0, 50.0)))
    assert ak.num(assert_highest_density(prediction, 0.3)).to_list() == [1]
    assert ak.num(assert_highest_density(prediction, 0.95)).to_list() == [2]


def test_sets_of_a_batch_have_each_their_number_of_intervals() -> None:
    far = np.array([[500.0, 500.0, 500.0], [800.0, 510.0, 640.0]])
    prediction = predicted(far, np.full_like(far, 40))
    found = assert_highest_density(prediction, ONE_SIGMA)
    assert ak.num(found).to_list() == [2, 1, 2]
    for jet in range(3):
        alone = predicted(far[:, [jet]], np.full((2, 1), 40.0)).highest_density(ONE_SIGMA)
        assert alone.to_list() == found[jet : jet + 1].to_list()
    low, high = prediction.interval(ONE_SIGMA)
    assert low.tolist() == ak.firsts(found.low).to_list()
    assert high.tolist() == ak.firsts(found.high[:, ::-1]).to_list()


@pytest.mark.parametrize("width", [1.0, 0.3, 0.01])
def test_a_narrow_peak_on_a_wide_one_is_not_missed(width: float) -> None:
    prediction = from_one_network(one_draw((0.97, 600.0, 50.0), (0.03, 673.0, width)))
    assert_highest_density(prediction, 0.5)
    assert prediction.mode()[0] == pytest.approx(673, abs=0.1 * width)


def test_fifty_peaks_are_fifty_peaks() -> None:
    """Draws that disagree by far more than their widths: as many peaks as draws."""
    prediction = predicted(np.arange(50.0)[:, None] * 40 + 500, np.full((50, 1), 3.0))
    assert ak.num(assert_highest_density(prediction, ONE_SIGMA)).to_list() == [50]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**16), probability=st.floats(0.02, 0.999))
def test_any_mixture_gets_equal_heights_and_the_right_probability(seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(3), (4, 6)).transpose(0, 2, 1)
    any_of = NormalMixture(share, rng.normal(600, 50, (4, 3, 6)), np.exp(rng.normal(2.5, 1, (4, 3, 6))))
    prediction = from_one_network(any_of)
    found = assert_highest_density(prediction, probability)
    # No smaller set has this probability: everything outside is lower than everything inside.
    x = np.linspace(ak.min(found.low) - 100, ak.max(found.high) + 100, 3001)
    density = prediction.density(x)
    for jet in range(6):
        chosen = np.zeros(len(x), dtype=bool)
        for piece in found[jet].to_list():
            chosen |= (x > piece["low"]) & (x < piece["high"])
        if chosen.any():
            assert density[jet][~chosen].max() <= density[jet][chosen].min() * (1 + 1e-6)


def test_components_may_change_places_between_draws() -> None:
    rng = np.random.default_rng(12)
    parts = [rng.dirichlet(np.ones(2), (3, 5)).transpose(0, 2, 1), rng.normal(600, 40, (3, 2, 5))]
    parts.append(rng.uniform(20, 60, (3, 2, 5)))
    swapped = [np.stack([part[0], part[1, ::-1], part[2]]) for part in parts]
    one, two = (from_one_network(NormalMixture(*arrays)) for arrays in (parts, swapped))
    np.testing.assert_allclose(two.interval(), one.interval(), rtol=1e-9)
    np.testing.assert_allclose(two.mode(), one.mode(), rtol=1e-9)


def test_power_law_tails_predict_like_any_other() -> None:
    low, high = np.array([[0.5, 8.0, 0.02]]), np.array([[2.0, 8.0, 50.0]])
    powers = np.full((1, 3), 9.0), np.full((1, 3), 6.0)
    tails = CrystalBall(np.full((1, 3), 600.0), np.full((1, 3), 20.0), low, high, *powers)
    prediction = from_one_network(tails)
    assert_highest_density(prediction, ONE_SIGMA)
    np.testing.assert_allclose(prediction.mode(), 600, atol=1e-3)
    assert prediction.interval()[0][1] == pytest.approx(580, abs=0.01)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 68.27, float("nan")])
def test_percentages_are_no_probabilities(probability: float) -> None:
    prediction = mixture((2, 600.0, 40.0))
    for ask in (prediction.interval, prediction.highest_density, prediction.quantile):
        with pytest.raises(ValueError, match="between 0 and 1"):
            ask(probability)


# -- cdf, quantiles and random draws ----------------------------------------------------------------------------------


def test_the_cdf_is_the_mean_over_the_draws() -> None:
    x = np.linspace(300, 1000, 71)
    exact = 0.6 * stats.norm.cdf(x, 600, 30) + 0.4 * stats.norm.cdf(x, 700, 60)
    np.testing.assert_allclose(mixture(*TWO).cdf(x)[0], exact, rtol=1e-12)


def test_the_pit_is_the_cdf_at_the_truth() -> None:
    mean = np.array([[500.0, 900.0]] * 2)
    prediction = predicted(mean, np.full_like(mean, 40))
    np.testing.assert_allclose(prediction.pit(np.array([540.0, 900.0])), [stats.norm.cdf(1), 0.5], rtol=1e-12)
    with pytest.raises(ValueError, match=r"one true p_T per jet, shape \(2,\)"):
        prediction.pit(np.array([540.0]))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), probability=st.floats(1e-4, 1 - 1e-4))
def test_quantiles_invert_the_cdf(seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    prediction = predicted(rng.normal(600, 15, (5, 4)), rng.uniform(10, 90, (5, 4)))
    x = prediction.quantile([probability, 0.5])
    np.testing.assert_allclose(prediction.cdf(x), [[probability, 0.5]] * 4, rtol=1e-7)
    np.testing.assert_array_equal(prediction.median(), x[:, 1])
    sigma = prediction.sigma_tot[:, None]
    np.testing.assert_allclose(prediction.quantile(prediction.cdf(x)[0])[0] / sigma[0], x[0] / sigma[0], atol=1e-6)


@pytest.mark.parametrize("probability", [1e-9, 1e-5, 0.5, 1 - 1e-5])
def test_far_quantiles_of_one_gaussian(probability: float) -> None:
    found = mixture((2, 600.0, 40.0)).quantile(probability)
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(600 + 40 * stats.norm.ppf(probability), abs=4e-5)


def test_a_row_of_a_sample_shares_its_draw_between_jets() -> None:
    """Two identical jets: what is common to them has the variance sigma_pred², the rest sigma_stoch²."""
    rng = np.random.default_rng(13)
    mean = np.repeat(rng.normal(600, 30, (20, 1)), 2, axis=1)
    prediction = predicted(mean, np.full_like(mean, 10))
    first, second = prediction.sample(40_000, seed=14).T
    pred = mean[:, 0].astype(np.float32).var(dtype=np.float64)
    assert np.cov(first, second)[0, 1] == pytest.approx(pred, rel=0.03)
    assert np.var(first - second) == pytest.approx(2 * 10**2, rel=0.03)


def test_samples_follow_the_cdf_and_their_seed() -> None:
    prediction = mixture(*TWO)
    sample = prediction.sample(5000, seed=15)
    assert sample.shape == (5000, 1)
    assert stats.kstest(sample[:, 0], lambda x: prediction.cdf(x)[0]).pvalue > 0.01
    np.testing.assert_array_equal(prediction.sample(5000, seed=15), sample)
    assert not np.any(prediction.sample(5000, seed=16) == sample)


def test_draws_take_turns_in_a_sample() -> None:
    mean = np.arange(5.0)[:, None] * 100 + 500
    sample = predicted(mean, np.full_like(mean, 1e-3)).sample(15, seed=17)[:, 0]
    draw = np.rint((sample - 500) / 100).astype(int)
    assert sorted(draw[:5]) == list(range(5))
    np.testing.assert_array_equal(draw, np.tile(draw[:5], 3))


# -- one network, many jets, offsets ----------------------------------------------------------------------------------


def test_one_network_has_a_distribution_without_sigma_pred() -> None:
    prediction = from_one_network(NormalMixture.gaussian(np.array([[600.0, 80.0]]), np.array([[40.0, 9.0]])))
    np.testing.assert_allclose(prediction.sigma_tot, [40, 9])
    low, high = prediction.interval(ONE_SIGMA)
    reach = stats.norm.ppf((1 + ONE_SIGMA) / 2)
    np.testing.assert_allclose(high - low, [80 * reach, 18 * reach], rtol=1e-6)
    np.testing.assert_allclose(prediction.mode(), [600, 80], rtol=1e-6)
    np.testing.assert_allclose(prediction.median(), [600, 80], rtol=1e-9)
    assert prediction.replicas().shape == (1, 2)
    assert prediction.sample(3, seed=1).shape == (3, 2)


def test_widths_of_a_ten_thousandth_of_the_mean() -> None:
    mean = np.float32(600) + np.array([[0.0], [0.0625]], dtype=np.float32)
    prediction = predicted(mean, np.full((2, 1), 0.0625, dtype=np.float32))
    found = assert_highest_density(prediction, ONE_SIGMA)
    assert prediction.mode()[0] == pytest.approx(600.03125, abs=1e-4)
    assert (found.low[0, 0] + found.high[0, 0]) / 2 == pytest.approx(600.03125, abs=1e-6)


def test_distributions_are_computed_for_the_jets_at_hand_only() -> None:
    """Memory is bounded: never more than JETS_AT_ONCE jets at a time."""
    n, asked = 2 * JETS_AT_ONCE + 1, []

    def components(part: slice) -> Distribution:
        asked.append(part.stop - part.start)
        size = part.stop - part.start
        return NormalMixture.gaussian(np.full((1, size), 600.0), np.full((1, size), 40.0))

    prediction = Prediction(np.full(n, 600.0), np.full(n, 40.0), None, np.ones(n, dtype=bool), components)
    assert prediction.median().shape == (n,)
    assert prediction.replicas().shape == (1, n)
    assert prediction.sample(2, seed=1).shape == (2, n)
    assert max(asked) == JETS_AT_ONCE


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), probability=st.floats(0.3, 0.95))
def test_intervals_hold_their_mode_and_grow_with_probability(seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    prediction = predicted(rng.normal(600, 15, (20, 5)), rng.uniform(30, 50, (20, 5)))
    (low, high), (wider_low, wider_high) = prediction.interval(probability), prediction.interval(probability + 0.04)
    mode = prediction.mode()
    assert np.all((low < mode) & (mode < high))
    assert np.all((wider_low < low) & (high < wider_high))
