"""Predictive distributions against closed forms, quadrature and their own random draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from hepcal.distributions import Blend, CrystalBall, Distribution, NormalMixture

# Table 2 of arXiv:2003.11099.
TWO = ((0.72, 623.4, 20.4), (0.28, 698.3, 65.6))
THREE = ((0.59, 617.8, 16.6), (0.30, 659.8, 33.7), (0.11, 738.6, 78.6))


def mixture(*components: tuple[float, float, float]) -> NormalMixture:
    """One draw of one jet from (share, mean, sigma) of its components."""
    return NormalMixture(*np.array(components).T[:, None, :, None])


def tails(peak: float, sigma: float, low: float, high: float, lower: float = 5.0, upper: float = 4.0) -> CrystalBall:
    return CrystalBall(*np.array([peak, sigma, low, high, lower, upper])[:, None, None])


def many(seed: int, draws: int = 4, jets: int = 3) -> list[Distribution]:
    """All families with random parameters, several draws and jets."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(2), (draws, jets)).transpose(0, 2, 1)
    one = (draws, jets)
    families: list[Distribution] = [
        NormalMixture(share, rng.normal(600, 20, (draws, 2, jets)), rng.uniform(20, 60, (draws, 2, jets))),
        CrystalBall(
            rng.normal(600, 20, one),
            rng.uniform(20, 60, one),
            *(rng.uniform(0.3, 3, one) for _ in range(2)),
            *(rng.uniform(12, 25, one) for _ in range(2)),
        ),
    ]
    return [*families, Blend(rng.uniform(0.05, 0.95, one), families[1], families[0])]


def one_draw(found: Distribution, draw: int) -> Distribution:
    """One weight draw alone."""
    if isinstance(found, Blend):
        return Blend(found.share[[draw]], one_draw(found.first, draw), one_draw(found.second, draw))
    return type(found)(*(getattr(found, name)[[draw]] for name in found.__slots__))


def points(distribution: Distribution, count: int = 41, reach: float = 8) -> np.ndarray:
    mean, variance = distribution.moments()
    return mean[:, None] + np.sqrt(variance)[:, None] * np.linspace(-reach, reach, count)


# -- mixtures ---------------------------------------------------------------------------------------------------------


def test_one_component_is_the_normal_distribution() -> None:
    mean, sigma = np.array([[500.0, 800.0]]), np.array([[30.0, 70.0]])
    found = NormalMixture.gaussian(mean, sigma)
    x = points(found)
    exact = stats.norm(mean[0][:, None], sigma[0][:, None])
    np.testing.assert_allclose(found.density(x), exact.pdf(x), rtol=1e-12)
    np.testing.assert_allclose(found.cdf(x), exact.cdf(x), rtol=1e-12)
    np.testing.assert_allclose(found.slope(x), exact.pdf(x) * (mean.T - x) / sigma.T**2, rtol=1e-11)
    np.testing.assert_array_equal(found.means(), mean)
    np.testing.assert_allclose(found.variances(), sigma**2, rtol=1e-15)
    assert (found.draws, len(found)) == (1, 2)


def test_identical_components_are_one() -> None:
    share = np.array([0.2, 0.5, 0.3])[None, :, None]
    several = NormalMixture(share, np.full((1, 3, 1), 600.0), np.full((1, 3, 1), 40.0))
    one = mixture((1.0, 600.0, 40.0))
    x = points(one)
    for quantity in ("density", "slope", "cdf"):
        np.testing.assert_allclose(getattr(several, quantity)(x), getattr(one, quantity)(x), rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(several.variances(), [[1600.0]], rtol=1e-14)


@pytest.mark.parametrize(("components", "mean", "sd"), [(TWO, 644.37, 51.34), (THREE, 643.69, 51.45)])
def test_moments_of_the_published_mixtures(components: tuple, mean: float, sd: float) -> None:
    found = mixture(*components)
    assert found.means()[0, 0] == pytest.approx(mean, abs=0.005)
    assert np.sqrt(found.variances()[0, 0]) == pytest.approx(sd, abs=0.005)


@given(seed=st.integers(0, 2**16), order=st.permutations(range(3)))
@settings(max_examples=20)
def test_the_order_of_components_does_not_matter_not_even_per_draw(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(3), (2, 4)).transpose(0, 2, 1)
    parts = share, rng.normal(600, 50, (2, 3, 4)), rng.uniform(10, 80, (2, 3, 4))
    # Only the second draw is relabelled: averaged parameters would change, averaged densities do not.
    other = tuple(np.stack([part[0], part[1][order]]) for part in parts)
    one, two = NormalMixture(*parts), NormalMixture(*other)
    x = points(one, reach=4)
    for quantity in ("density", "cdf"):
        np.testing.assert_allclose(getattr(two, quantity)(x), getattr(one, quantity)(x), rtol=1e-12)
    np.testing.assert_allclose(two.variances(), one.variances(), rtol=1e-12)


def test_parameters_far_from_zero_in_float32() -> None:
    """600 GeV ± 60 MeV in float32: widths come from differences, never from differences of squares."""
    mean = np.float32(600) + np.array([0, 0.125], dtype=np.float32).reshape(1, 2, 1)
    sigma = np.full((1, 2, 1), 0.0625, dtype=np.float32)
    found = NormalMixture(np.full((1, 2, 1), 0.5, dtype=np.float32), mean, sigma)
    assert found.variances()[0, 0] == pytest.approx(2 * 0.0625**2, rel=1e-12)
    assert found.density(np.array([[600.0625]])).dtype == np.float64


def test_shares_with_float32_rounding_become_exact() -> None:
    share = np.full((1, 3, 1), 1 / 3, dtype=np.float32)
    found = NormalMixture(share, np.zeros((1, 3, 1)), np.ones((1, 3, 1)))
    assert found.cdf(np.array([[50.0]]))[0, 0] == pytest.approx(1, abs=1e-15)


# -- power-law tails --------------------------------------------------------------------------------------------------

KNEE = st.floats(-1.7, 1.0).map(lambda power: 10.0**power)  # 0.02 to 10
POWER = st.floats(3.5, 60)


@given(low=KNEE, high=KNEE, lower=POWER, upper=POWER)
@settings(max_examples=12)
def test_power_law_tails_against_quadrature(low: float, high: float, lower: float, upper: float) -> None:
    found = tails(0.0, 1.0, low, high, lower, upper)

    def integral(power: int, end: float = np.inf) -> float:
        edges = [-np.inf, *[edge for edge in (-low - 1, -low, 0.0, high, high + 1) if edge < end], end]
        return sum(
            integrate.quad(lambda x: x**power * found.density(np.array([[x]]))[0, 0], a, b, epsabs=0, limit=200)[0]
            for a, b in itertools.pairwise(edges)
        )

    mean, variance = found.means()[0, 0], found.variances()[0, 0]
    assert integral(0) == pytest.approx(1, rel=1e-6)
    assert integral(1) == pytest.approx(mean, rel=1e-5, abs=1e-5 * np.sqrt(variance))
    assert integral(2) - mean**2 == pytest.approx(variance, rel=1e-4)
    for x in (-1.2 * low, -0.4 * low, 0.3, 0.9 * high, 1.5 * high):
        assert found.cdf(np.array([[x]]))[0, 0] == pytest.approx(integral(0, x), rel=1e-6, abs=1e-9)


def test_power_law_tails_are_those_of_scipys_crystal_ball() -> None:
    """One side late: the Crystal Ball of scipy, whose tail is on the lower side."""
    found = tails(600, 40, 0.7, 30.0, 5.0, 4.0)
    x = 600 + 40 * np.array([-9.0, -1.0, -0.7, -0.2, 0.0, 1.2, 1.6, 3.0])
    exact = stats.crystalball(0.7, 5.0, loc=600, scale=40)
    np.testing.assert_allclose(found.density(x[None])[0], exact.pdf(x), rtol=1e-10)
    np.testing.assert_allclose(found.cdf(x[None])[0], exact.cdf(x), rtol=1e-10)
    mirrored = tails(600, 40, 30.0, 0.7, 4.0, 5.0)
    np.testing.assert_allclose(mirrored.density(1200 - x[None])[0], exact.pdf(x), rtol=1e-10)
    assert mirrored.means()[0, 0] == pytest.approx(1200 - found.means()[0, 0], rel=1e-12)


def test_large_powers_are_exponential_tails() -> None:
    low, high = 0.7, 1.6
    z = np.array([-9.0, -1.0, -0.7, 0.0, 1.6, 2.0, 6.0])
    shape = np.piecewise(
        z,
        [z < -low, z > high],
        [
            lambda z: np.exp(low**2 / 2 + low * z),
            lambda z: np.exp(high**2 / 2 - high * z),
            lambda z: np.exp(-(z**2) / 2),
        ],
    )
    core = np.sqrt(2 * np.pi) * (stats.norm.cdf(high) - stats.norm.cdf(-low))
    norm = core + np.exp(-(low**2) / 2) / low + np.exp(-(high**2) / 2) / high
    found = tails(600, 40, low, high, 1e7, 1e7).density(600 + 40 * z[None])[0]
    np.testing.assert_allclose(found, shape / (40 * norm), rtol=1e-5)


def test_late_tails_are_a_gaussian() -> None:
    found, gauss = tails(600, 40, 8, 8), mixture((1.0, 600.0, 40.0))
    x = points(gauss, reach=7.9)
    np.testing.assert_allclose(found.density(x), gauss.density(x), rtol=1e-12)
    np.testing.assert_allclose(found.slope(x), gauss.slope(x), rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(found.cdf(x), gauss.cdf(x), rtol=1e-12, atol=1e-15)
    assert found.variances()[0, 0] == pytest.approx(1600, rel=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.02), (0.02, 30), (30, 0.02), (30, 30), (1, 2)])
def test_nothing_overflows_far_out(low: float, high: float) -> None:
    found = tails(600, 2.0, low, high)
    z = np.concatenate([-np.geomspace(1e6, 1e-6, 200), np.geomspace(1e-6, 1e6, 200)])
    x = 600 + 2.0 * z[None]
    density, cdf = found.density(x), found.cdf(x)
    assert np.all(np.isfinite(density))
    assert np.all(np.isfinite(found.slope(x)))
    assert np.all(np.diff(cdf) >= -1e-15)
    assert (cdf[0, 0], cdf[0, -1]) == pytest.approx((0, 1), abs=1e-11)


@pytest.mark.parametrize("seed", [1, 2])
def test_slopes_are_derivatives_and_densities_too(seed: int) -> None:
    for found in many(seed):
        x = points(found, reach=3)
        step = 1e-3
        np.testing.assert_allclose(
            (found.density(x + step) - found.density(x - step)) / (2 * step), found.slope(x), rtol=1e-5, atol=1e-10
        )
        np.testing.assert_allclose(
            (found.cdf(x + step) - found.cdf(x - step)) / (2 * step), found.density(x), rtol=1e-5, atol=1e-10
        )


# -- what all families promise ---------------------------------------------------------------------------------------


def test_draws_are_averaged_and_their_variances_total() -> None:
    for found in many(3):
        x = points(found)
        apart = [one_draw(found, s) for s in range(found.draws)]
        for quantity in ("density", "slope", "cdf"):
            mean = np.mean([getattr(one, quantity)(x) for one in apart], axis=0)
            np.testing.assert_allclose(getattr(found, quantity)(x), mean, rtol=1e-12, atol=1e-18)
        wide = points(found, 20_001, reach=40)
        mean, variance = found.moments()
        density = found.density(wide)
        np.testing.assert_allclose(np.trapezoid(density, wide), 1, rtol=1e-5)
        np.testing.assert_allclose(np.trapezoid((wide - mean[:, None]) ** 2 * density, wide), variance, rtol=1e-4)


def test_taking_jets() -> None:
    for found in many(4, jets=6):
        x = points(found, 5)
        for jets in (slice(1, 4), np.array([5, 0, 0])):
            taken = found.take(jets)
            assert len(taken) == len(x[jets])
            np.testing.assert_array_equal(taken.cdf(x[jets]), found.cdf(x)[jets])
            np.testing.assert_array_equal(taken.means(), found.means()[:, jets])


def test_a_jet_does_not_depend_on_the_jets_beside_it() -> None:
    for found in many(5, jets=500):
        x = points(found, 130)
        np.testing.assert_array_equal(found.take(np.array([321])).density(x[[321]]), found.density(x)[[321]])


@pytest.mark.parametrize("scale", [1000.0, np.array([2.0, 0.3, 11.0])], ids=["GeV to MeV", "per jet"])
def test_a_change_of_units_scales_widths_and_moves_means(scale: float | np.ndarray) -> None:
    location = np.array([0.0, -5.0, 1e3])
    for found in many(6):
        moved = found.affine(scale, location)
        x = points(found, 9)
        there = x * np.reshape(scale, (-1, 1)) + location[:, None]
        np.testing.assert_allclose(moved.means(), found.means() * scale + location, rtol=1e-13)
        np.testing.assert_allclose(np.sqrt(moved.variances()), np.sqrt(found.variances()) * scale, rtol=1e-12)
        np.testing.assert_allclose(moved.cdf(there), found.cdf(x), rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(moved.density(there) * np.reshape(scale, (-1, 1)), found.density(x), rtol=1e-9)


def test_a_change_of_units_by_a_power_of_two_is_exact() -> None:
    for found in many(7):
        np.testing.assert_array_equal(found.affine(1024.0).variances(), found.variances() * 1024.0**2)


def test_random_draws_follow_the_cdf_of_their_weight_draw() -> None:
    for found in many(8, draws=2, jets=2):
        draw = np.repeat([0, 1], 4000)
        sample = found.sample(draw, np.random.default_rng(9))
        assert sample.shape == (8000, 2)
        for s in (0, 1):
            alone = one_draw(found, s)
            for jet in (0, 1):
                one = alone.take(np.array([jet]))
                assert stats.kstest(sample[draw == s, jet], lambda x, one=one: one.cdf(x[None])[0]).pvalue > 0.01


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.02), (0.02, 30), (30, 0.5), (30, 30)])
def test_random_draws_of_extreme_tails(low: float, high: float) -> None:
    found = tails(0, 1, low, high)
    sample = found.sample(np.zeros(4000, dtype=int), np.random.default_rng(10))[:, 0]
    assert stats.kstest(sample, lambda x: found.cdf(x[None])[0]).pvalue > 0.01


@given(size=st.integers(0, 3))
@settings(max_examples=4)
def test_no_jets(size: int) -> None:
    for found in many(11):
        none = found.take(slice(0, 0))
        assert none.density(np.empty((0, size))).shape == (0, size)
        assert none.sample(np.zeros(size, dtype=int), np.random.default_rng()).shape == (size, 0)
        assert [moment.shape for moment in none.moments()] == [(0,), (0,)]


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: mixture((0.5, 1.0, 1.0), (0.4, 2.0, 1.0)), "sum to one"),
        (lambda: mixture((1.5, 1.0, 1.0), (-0.5, 2.0, 1.0)), "positive and sum"),
        (lambda: mixture((1.0, 1.0, 0.0)), "sigma of a distribution is positive"),
        (lambda: mixture((1.0, np.nan, 1.0)), "finite"),
        (lambda: tails(0, 1, 0, 1), "low of a distribution is positive"),
        (lambda: tails(0, 1, 1, -1), "high of a distribution is positive"),
        (lambda: tails(0, 1, 1, 1, 3.0), "low_power - 3 of a distribution is positive"),
        (lambda: NormalMixture(np.ones((1, 1, 2)), np.ones((1, 1, 3)), np.ones((1, 1, 2))), "one shape with 3 axes"),
        (lambda: NormalMixture.gaussian(np.empty((0, 2)), np.empty((0, 2))), "at least one draw"),
        (lambda: tails(0, 1, 1, 1).affine(-1.0), "scale of a distribution is positive"),
        (lambda: tails(0, 1, 1, 1).cdf(np.zeros((2, 3))), r"expected points of shape \(1, p\)"),
    ],
)
def test_what_is_no_distribution_is_refused(build: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()
