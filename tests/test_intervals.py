"""Root search and knots: what quantiles, modes and intervals of predictions are found with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from hepcal.distributions import NormalMixture
from hepcal.distributions.intervals import Knots, find_roots, modes, quantiles


def test_roots_of_different_functions_at_once() -> None:
    """Column by column x³ - c, a step, and one that touches zero at its end."""
    cubes = np.array([[2.0], [30.0]])

    def function(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.stack([x[:, 0] ** 3 - cubes[rows, 0], np.tanh(1e6 * (x[:, 1] - np.pi)), x[:, 2]], axis=1)

    low, high = np.zeros((2, 3)), np.full((2, 3), 5.0)
    everything = np.arange(2)
    values = function(low, everything), function(high, everything)
    found = find_roots(function, (low, high), values, np.full((2, 1), 1e-12))
    np.testing.assert_allclose(found[:, 0], np.cbrt(cubes[:, 0]), atol=1e-11)
    np.testing.assert_allclose(found[:, 1], np.pi, atol=1e-11)
    np.testing.assert_array_equal(found[:, 2], 0)


def test_a_bracket_may_be_given_in_either_order() -> None:
    def function(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.exp(-x) - 0.25

    one, two = np.array([[0.0]]), np.array([[9.0]])
    for ends in ((one, two), (two, one)):
        values = function(ends[0], np.arange(1)), function(ends[1], np.arange(1))
        assert find_roots(function, ends, values, np.array([[1e-13]]))[0, 0] == pytest.approx(np.log(4), abs=1e-12)


def test_without_a_change_of_sign_the_better_end_is_returned() -> None:
    def never(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        raise AssertionError("nothing to search")

    ends, values = (np.array([[1.0]]), np.array([[2.0]])), (np.array([[3.0]]), np.array([[0.5]]))
    assert find_roots(never, ends, values, np.array([[1e-9]]))[0, 0] == 2


def test_smooth_roots_take_few_steps() -> None:
    """Bisection alone would need 40 steps for twelve digits."""
    steps = []

    def function(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        steps.append(len(rows))
        return np.asarray(stats.norm.cdf(x) - 0.9)

    ends = np.array([[-1.0]]), np.array([[3.0]])
    values = function(ends[0], np.arange(1)), function(ends[1], np.arange(1))
    assert find_roots(function, ends, values, np.array([[1e-12]]))[0, 0] == pytest.approx(stats.norm.ppf(0.9))
    assert len(steps) < 14


@pytest.mark.parametrize("width", [30.0, 1.0, 0.05])
def test_knots_rise_contain_all_extrema_and_miss_little(width: float) -> None:
    """Two peaks and the valley between them."""
    centers = np.array([[[560.0], [700.0]]])
    mixture = NormalMixture(np.full((1, 2, 1), 0.5), centers, np.array([[[40.0], [width]]]))
    knots = Knots.of(mixture, finer=1)
    assert np.all(np.diff(knots.x) >= 0)
    assert np.all(np.diff(knots.below) >= -1e-15)
    assert (knots.below[0, 0], knots.below[0, -1]) == pytest.approx((0, 1), abs=1e-12)
    assert knots.missed().sum() < 5e-3
    valley = optimize.brentq(lambda x: mixture.slope(np.array([[x]]))[0, 0], 570, 700 - 2 * width)
    for extremum in (valley, modes(mixture)[0]):
        assert np.abs(knots.x - extremum).min() < 1e-6


@pytest.mark.parametrize("probability", [0.01, 0.6827, 0.99])
def test_the_level_lies_in_its_bracket(probability: float) -> None:
    """One Gaussian: the level is the height of its known end."""
    knots = Knots.of(NormalMixture.gaussian(np.array([[600.0]]), np.array([[40.0]])))
    low, high = knots.level_bracket(probability)
    level = stats.norm.pdf(stats.norm.ppf((1 + probability) / 2)) / 40
    assert low[0, 0] <= level <= high[0, 0]
    assert high[0, 0] - low[0, 0] < 0.1 * knots.height.max()


def test_quantiles_of_draws_that_agree_exactly_with_the_inverse() -> None:
    mean, sigma = np.array([[10.0, 3000.0]] * 3), np.array([[0.1, 400.0]] * 3)
    p = np.array([0.001, 0.16, 0.5, 0.84, 0.999])
    found = quantiles(NormalMixture.gaussian(mean, sigma), p)
    np.testing.assert_allclose(found, mean[0][:, None] + sigma[0][:, None] * stats.norm.ppf(p), rtol=1e-11)
