"""The Gaussian example of arXiv:2205.05084, Sec. IV: every closed form against samples, within four standard errors.

z ~ N(mu, sigma), x | z ~ N(z, epsilon). The squared-error calibration is a straight line fitted to z against x
(Eq. 34), numerical inversion one fitted to x against z; optimal transport and the Donsker-Varadhan terms are hepcal's.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import hepcal
from hepcal.methods.ansatz.network import Pairing
from hepcal.methods.transport.maps import QuantileMap, map_shift, predicted_bias

N = 200_000
PULL = 4


@dataclass(frozen=True)
class Line:
    """A weighted least-squares line with the statistical errors of its mean height and of its slope."""

    slope: float
    intercept: float
    slope_unc: float
    height_unc: float
    spread: float

    @classmethod
    def fit(cls, x, y, weight=None):
        w = np.ones_like(x) if weight is None else weight
        centre, height = np.average(x, weights=w), np.average(y, weights=w)
        moment = np.sum(w * (x - centre) ** 2)
        slope = np.sum(w * (x - centre) * (y - height)) / moment
        rest = y - height - slope * (x - centre)
        unc = np.sqrt(np.sum((w * rest * (x - centre)) ** 2)) / moment
        height_unc = np.sqrt(np.sum((w * rest) ** 2)) / w.sum()
        spread = np.sqrt(np.average(rest**2, weights=w))
        return cls(slope, height - slope * centre, unc, height_unc, spread)

    def __call__(self, x):
        return self.intercept + self.slope * x

    def inverse(self, y):
        return (y - self.intercept) / self.slope


@dataclass(frozen=True)
class Gaussians:
    """A spectrum, a detector, and the closed forms of Sec. IV."""

    mu: float = 0.0
    sigma: float = 1.0
    epsilon: float = 2.0

    @property
    def k(self):
        return self.sigma**2 / (self.sigma**2 + self.epsilon**2)

    def draw(self, seed, n=N):
        rng = np.random.default_rng(seed)
        z = rng.normal(self.mu, self.sigma, n)
        return rng.normal(z, self.epsilon), z

    def mse(self, x):  # Eq. 30
        return self.k * x + (1 - self.k) * self.mu


EXAMPLE = Gaussians()


def require(found, exact, unc):
    """Agreement within four standard errors, which are small enough to mean something."""
    assert unc > 0
    assert abs(found - exact) < PULL * unc, f"{found:.6f} for {exact:.6f}: {(found - exact) / unc:+.1f} standard errors"


def mean_and_unc(values):
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def spread_and_unc(values):
    spread = values.std(ddof=1)
    return spread, spread / np.sqrt(2 * (len(values) - 1))


# -- simulation-based calibration -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [Gaussians(), Gaussians(mu=-2), Gaussians(mu=1.5, sigma=0.5), Gaussians(sigma=4)])
def test_squared_error_gives_the_posterior_mean_and_inversion_gives_x(prior):
    x, z = prior.draw(1)
    regression = Line.fit(x, z)
    require(regression.slope, prior.k, regression.slope_unc)
    require(regression(x.mean()), prior.mse(x.mean()), regression.height_unc)
    # Eq. 32: the width of the truth given the measurement.
    require(regression.spread, prior.sigma * np.sqrt(1 - prior.k), regression.spread / np.sqrt(2 * N))
    # Eqs. 10 and 31: x itself, whatever the spectrum; its width is that of the noise (Eq. 33).
    response = Line.fit(z, x)
    require(response.slope, 1, response.slope_unc)
    require(response(prior.mu), prior.mu, response.height_unc)
    require(response.spread, prior.epsilon, response.spread / np.sqrt(2 * N))


@pytest.mark.parametrize("z", [-5.0, -2.0, 0.0, 2.0, 5.0])
def test_bias_and_resolution_in_bins_of_truth(z):
    x, truth = EXAMPLE.draw(2)
    regression, response = Line.fit(x, truth), Line.fit(truth, x)
    again = np.random.default_rng(int(10 + z)).normal(z, EXAMPLE.epsilon, N)
    bias, unc = mean_and_unc(regression(again) - z)
    require(bias, -0.8 * z, np.hypot(unc, np.hypot(regression.height_unc, regression.slope_unc * z)))  # Eq. 39
    width, unc = spread_and_unc(regression(again))
    require(width, 0.4, np.hypot(unc, 2 * regression.slope_unc))  # Eq. 40
    bias, unc = mean_and_unc(response.inverse(again) - z)
    require(bias, 0, np.hypot(unc, np.hypot(response.height_unc, response.slope_unc * z)))
    width, unc = spread_and_unc(response.inverse(again))
    require(width, 2, np.hypot(unc, 2 * response.slope_unc))  # Eq. 41


def test_the_mean_residual_over_the_spectrum_vanishes_all_the_same():
    """A zero average proves nothing: the bias at one sigma of the spectrum is -0.8."""
    x, z = EXAMPLE.draw(3)
    test_x, test_z = EXAMPLE.draw(4)
    regression = Line.fit(x, z)
    mean, unc = mean_and_unc(regression(test_x) - test_z)
    require(mean, 0, np.hypot(unc, regression.height_unc))
    near = np.abs(test_z - 1) < 0.1
    mean, unc = mean_and_unc((regression(test_x) - test_z)[near])
    require(mean, -0.8 * test_z[near].mean(), np.hypot(unc, np.hypot(regression.height_unc, regression.slope_unc)))


@pytest.mark.parametrize("mu", [-2.0, -1.0, 0.0, 1.0, 2.0])
def test_prior_dependence_on_the_mean(mu):
    """Fig. 2a: E[calibrated | z] = 0.2 z + 0.8 mu, against z by inversion; ten thousand events per fit."""
    prior = Gaussians(mu=mu)
    x, z = prior.draw(5 + int(mu), 10_000)
    regression, response = Line.fit(x, z), Line.fit(z, x)
    for truth in np.linspace(-5, 5, 20):
        lever = truth - x.mean()
        require(
            regression(truth), 0.2 * truth + 0.8 * mu, np.hypot(regression.height_unc, regression.slope_unc * lever)
        )
        lever = truth - mu
        require(response.inverse(truth), truth, np.hypot(response.height_unc, response.slope_unc * lever))


@pytest.mark.parametrize(
    ("sigma", "k"), [(0.01, 2.5e-5), (0.5075, 0.0605), (1.005, 0.2016), (1.5025, 0.3608), (2, 0.5)]
)
def test_prior_dependence_on_the_width(sigma, k):
    """Fig. 2b; the tabled slopes are rounded to four digits."""
    prior = Gaussians(sigma=sigma)
    assert prior.k == pytest.approx(k, rel=2e-3)
    x, z = prior.draw(20, 10_000)
    regression, response = Line.fit(x, z), Line.fit(z, x)
    require(regression.slope, prior.k, regression.slope_unc)
    require(response.slope, 1, response.slope_unc)


@pytest.mark.parametrize("sigma", [5.0, 10.0, 20.0])
def test_the_bias_falls_with_the_width_of_the_spectrum_squared(sigma):
    """Eq. 9: -(z - mu) epsilon² / (sigma² + epsilon²), to first order in epsilon² / sigma²."""
    x, z = Gaussians(sigma=sigma).draw(21)
    regression = Line.fit(x, z)
    exact = -4 / (sigma**2 + 4)
    require(regression.slope - 1, exact, regression.slope_unc)
    assert exact == pytest.approx(-4 / sigma**2, rel=4 / sigma**2)


def test_a_weighted_spectrum_is_the_spectrum():
    """Weights move the posterior mean, and leave numerical inversion."""
    x, z = EXAMPLE.draw(22)
    weight = np.exp(z - 0.5)  # N(0, 1) to N(1, 1)
    regression, response = Line.fit(x, z, weight), Line.fit(z, x, weight)
    require(regression.slope, 0.2, regression.slope_unc)
    require(regression(1.0), 1.0, regression.height_unc)
    require(response.slope, 1, response.slope_unc)
    require(response(1.0), 1.0, response.height_unc)


def test_mutual_information():
    """Eq. 14 at its optimum T = ln p(x | z) - ln p(x), which is that of Eq. 35 with B = x, C = -1/4, D = 0."""
    x, z = (torch.from_numpy(part) for part in EXAMPLE.draw(23))
    exact = 0.111572

    def t(x, z):
        a = 0.5 * np.log(1 + 1 / 4) + x**2 / (2 * 5)
        return a + (z - x) ** 2 * (-1 / 4) / 2

    pairing = Pairing.draw(z, torch.ones_like(z), 4, torch.Generator().manual_seed(1))
    joint, marginal = t(x, z), pairing.log_mean(t(x, z[pairing.partner]))
    # The error of one plain permutation; several, and a stratified choice of partners, have a smaller one.
    plain = float(t(x, z.roll(1)).exp().std()) / np.sqrt(N)
    require(float(joint.mean() - marginal), exact, np.hypot(float(joint.std()) / np.sqrt(N), plain))
    require(float(marginal.exp()), 1, plain)
    assert plain < 0.003


# -- data-based calibration -------------------------------------------------------------------------------------------

SIMULATION, DATA = 1.0, 2.0
ALPHA = 1.581139
SHIFT = 1.162278


def detectors(mu, seed, n=100_000):
    """Simulated and measured x of one spectrum, independent events."""
    return Gaussians(mu, 1, SIMULATION).draw(seed, n)[0], Gaussians(mu, 1, DATA).draw(seed + 1, n)[0]


@pytest.fixture(scope="module")
def maps():
    """The maps on the training spectrum and on that of the test, 100,000 events each."""
    return QuantileMap.fit(*detectors(0, 30)), QuantileMap.fit(*detectors(2, 40))


def test_the_constants_of_the_maps():
    alpha = np.sqrt((1 + DATA**2) / (1 + SIMULATION**2))
    assert (alpha, 2 * (alpha - 1)) == pytest.approx((ALPHA, SHIFT), abs=1e-6)


def test_the_maps_are_straight_lines_of_one_slope(maps):
    """Eqs. 42 and 43; only the offset betrays the spectrum."""
    for h, mu, offset in zip(maps, (0.0, 2.0), (0.0, -SHIFT), strict=True):
        x = np.linspace(-3, 3, 13) + mu
        pulls = (h(x) - (ALPHA * x + offset)) / h.error(x)
        assert np.abs(pulls).max() < PULL
        # The slope between the quartiles, whose errors are correlated by 1/3.
        low, high = mu + np.sqrt(2) * np.array([-0.67449, 0.67449])
        unc = np.sqrt((1 - 1 / 3) * (h.error(low) ** 2 + h.error(high) ** 2)) / (high - low)
        require((h(high) - h(low)) / (high - low), ALPHA, unc)
        assert unc < 0.02


def test_the_spectrum_shifts_the_map(maps):
    train, test = maps
    x = np.linspace(-1, 3, 9)
    for (found, unc), exact in ((map_shift(train, test, x), SHIFT), (predicted_bias(train, test, x), SHIFT)):
        assert (np.abs(found - exact) < PULL * unc).all()
        assert (unc < 0.05).all()


def test_data_close_on_the_training_spectrum_and_are_shifted_on_another(maps):
    train, _ = maps
    for mu, shift in ((0.0, 0.0), (2.0, SHIFT)):
        simulation, data = detectors(mu, 50 + int(mu))
        moved = train(simulation)
        # Of the sample, and of the map, whose error averages over its range to that of the mean.
        of_map = np.sqrt(2 * 5 / 100_000)
        mean, unc = moved.mean() - data.mean(), np.sqrt((moved.var() + data.var()) / len(data))
        require(mean, shift, np.hypot(unc, of_map))
        width, unc = spread_and_unc(moved)
        require(width, np.sqrt(5), np.hypot(unc, width / np.sqrt(100_000)))
        assert train.out_of_range(simulation).mean() < (1e-4 if mu == 0 else 0.01)


def test_a_spectrum_made_by_weights_gives_its_map():
    rng = np.random.default_rng(60)
    z = rng.normal(0, 1, (2, 100_000))
    weights = np.exp(z - 0.5)  # N(0, 1) to N(1, 1)
    h = QuantileMap.fit(rng.normal(z[0], SIMULATION), rng.normal(z[1], DATA), *weights)
    assert h.simulation.n_eff == pytest.approx(100_000 / np.e, rel=0.1)
    x = np.linspace(-1, 3, 9)
    pulls = (h(x) - (ALPHA * x + (1 - ALPHA))) / h.error(x)
    assert np.abs(pulls).max() < PULL


def test_the_public_method_on_the_example_around_100_gev():
    """The same Gaussians with all values raised by 100, since a p_T is positive."""
    simulation, data = detectors(100, 70)
    pairs = hepcal.JetPairs.from_arrays(
        np.empty((len(simulation), 0)), [], reco=simulation, truth=np.full(len(simulation), 100.0)
    )
    calibrator = hepcal.train(pairs, hepcal.OptimalTransport(), data=data, show=False)
    x = np.linspace(97, 103, 13)
    found = calibrator.predict(np.empty((13, 0)), x)
    assert (np.abs(found.mean - (100 + ALPHA * (x - 100))) < PULL * found.sigma_pred).all()
    assert (found.sigma_pred < 0.05).all()
    # Applied to a spectrum with its mean at 102, it is wrong by the shift.
    other, right = detectors(102, 80)
    moved = calibrator.predict(np.empty((len(other), 0)), other).mean.astype(np.float64)
    unc = np.sqrt((moved.var() + right.var() + 2 * 5) / len(right))
    require(moved.mean() - right.mean(), SHIFT, unc)
