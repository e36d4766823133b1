"""Moments, densities, modes and intervals of predictions against closed forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from scipy import optimize, stats

from hepcal.prediction import JETS_AT_ONCE, NoDensityError, Prediction, combine_draws

ONE_SIGMA = 0.6827


def predicted(mean: np.ndarray, sigma: np.ndarray) -> Prediction:
    """A prediction from the Gaussians of its draws, shape (draws, n) each [GeV]."""
    mean, sigma = (np.asarray(part, dtype=np.float32) for part in (mean, sigma))
    center, stoch, pred = (moment.astype(np.float32) for moment in combine_draws(mean, sigma))
    return Prediction(
        center, stoch, pred, np.ones(len(center), dtype=bool), lambda part: (mean[:, part], sigma[:, part])
    )


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
    ],
    ids=["density", "replicas", "mode", "interval"],
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
    assert (low, high) == pytest.approx((600 - reach, 600 + reach), abs=0.1)


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
    assert exact_probability(low, high, *components) == pytest.approx(probability, abs=1e-3)
    assert density(low) == pytest.approx(density(high), rel=0.02)


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


def test_an_interval_in_two_pieces_gives_its_outermost_ends() -> None:
    """Two separate peaks of equal height: each holds half of the probability, symmetric about the middle."""
    (low,), (high,) = mixture(*FAR).interval(ONE_SIGMA)
    assert (low, high) == pytest.approx((480, 820), abs=1)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), probability=st.floats(0.3, 0.95))
def test_intervals_hold_their_mode_and_grow_with_probability(seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    prediction = predicted(rng.normal(600, 15, (20, 5)), rng.uniform(30, 50, (20, 5)))
    (low, high), (wider_low, wider_high) = prediction.interval(probability), prediction.interval(probability + 0.04)
    mode = prediction.mode()
    assert np.all((low < mode) & (mode < high))
    assert np.all((wider_low < low) & (high < wider_high))
