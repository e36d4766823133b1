"""The likelihood calibration against closed forms: a falling spectrum, a curved response, and a feature.

    pytest -m study tests/studies/test_likelihood_toy.py -s

About ten minutes on one core. Energies in GeV.
"""

import numpy as np
import pytest

import hepcal

pytestmark = pytest.mark.study

SEEDS = (1, 2, 3, 4, 5)
POINTS = (2000, 2400, 2800, 3200, 3600)
THROWN = 200_000


def falling(n, seed):
    """z = 1.8 TeV + Exp(0.25 TeV), x = 0.95 z +- 0.05 z."""
    rng = np.random.default_rng(seed)
    truth = 1800 + rng.exponential(250, n)
    return without_features(measured(truth, rng), truth)


def measured(truth, rng):
    return truth * (0.95 + 0.05 * rng.standard_normal(len(truth)))


def without_features(reco, truth):
    return hepcal.JetPairs.from_arrays(np.empty((len(reco), 0)), [], reco=reco, truth=truth)


def read_as(calibrator, reading):
    """The same networks, read in another way."""
    settings = {**calibrator.card.settings, "reading": reading}
    card = calibrator.card.model_copy(update={"settings": settings, "quantity": reading})
    return type(calibrator)(card, calibrator.tensors)


def response(calibrator, truth, rng):
    """Calibrated over true p_T, and its median statistical error."""
    reco = measured(truth, rng)
    prediction = calibrator.predict(np.empty((len(reco), 0)), reco)
    return prediction.mean / truth, float(np.median(prediction.sigma_pred / truth))


@pytest.mark.parametrize("n", [50_000, 100_000])
def test_a_falling_spectrum(n):
    """A resonance at 2.8 TeV +- 10 GeV, and five fixed truths, from trainings on the falling spectrum."""
    bsm, closure, errors, modes = [], [], [], []
    for seed in SEEDS:
        calibrator = hepcal.train(falling(n, seed), hepcal.Likelihood(), seed=seed, show=False)
        rng = np.random.default_rng(100 + seed)
        resonance = rng.normal(2800, 10, THROWN)
        bsm.append(response(calibrator, resonance, rng)[0].mean())
        modes.append(response(read_as(calibrator, "mode"), resonance, rng)[0].mean())
        found = [response(calibrator, np.full(THROWN, float(z)), rng) for z in POINTS]
        closure.append([np.median(ratio) - 1 for ratio, _ in found])
        errors.append([error for _, error in found])
        listed = ", ".join(f"{100 * c:+.2f} ({100 * e:.2f})" for c, e in zip(closure[-1], errors[-1], strict=True))
        print(
            f"N = {n}, seed {seed}: BSM mean {bsm[-1]:.4f}, mode {modes[-1]:.4f}, "
            f"median closure (own sigma_pred) [%] at {POINTS}: {listed}"
        )
    bsm, closure, errors, modes = np.array(bsm), np.array(closure), np.array(errors), np.array(modes)
    print(
        f"N = {n}: BSM mean {bsm.mean():.4f} +- {bsm.std(ddof=1):.4f}, mode {modes.mean():.4f} "
        f"+- {modes.std(ddof=1):.4f}, largest closure of one seed {100 * np.abs(closure).max():.2f} %, "
        f"of the mean of the seeds {100 * np.abs(closure.mean(0)).max():.2f} %"
    )
    assert np.abs(bsm - 1).max() < 0.003
    assert np.abs(closure.mean(0)).max() < 0.005
    # Within a resolution of 3.6 TeV a sample of 50,000 has 60 events: one seed may be off by its own error.
    assert np.all(np.abs(closure) < np.maximum(0.005, 2 * errors))
    assert np.abs(modes - 0.9972).max() < 0.003
    # What a regression of the truth does in the limit of infinite data fails the same line by far.
    assert abs(exact_mean_of_truth() - 1) > 0.003


def exact_mean_of_truth():
    """Mean of E[Z | x] / z for the resonance, by integration: 0.976."""
    z = np.linspace(1800, 6000, 42_001)
    prior = np.exp(-(z - 1800) / 250)

    def posterior_mean(x):
        weight = prior / z * np.exp(-0.5 * ((x / z - 0.95) / 0.05) ** 2)
        return np.sum(weight * z) / np.sum(weight)

    x = np.linspace(0.7, 1.2, 501) * 2800
    density = np.exp(-0.5 * ((x / 2800 - 0.95) / 0.05) ** 2)
    found = np.sum(density * np.array([posterior_mean(value) for value in x])) / np.sum(density) / 2800
    print(f"exact mean of the truth: {found:.4f}")
    return found


NOISE = 0.12


def curved(truth, rng):
    """A response that loses strength with the truth; its mean and its median are the curve."""
    return curve(truth) * (1 + NOISE * rng.standard_normal(len(truth)))


def curve(z):
    """g(z) = 11 z^(2/3). Its inversion gives z (1 + 0.12 n)^1.5, which is high by 3/8 0.12² = 0.54 % at every truth.

    That is -g'' (0.12 g)² / (2 g'³); the next order is 0.001 %.
    """
    return 11 * z ** (2 / 3)


def test_a_curved_response():
    """The median closes; inversion of the mean keeps the bias of its curvature, and tells it."""
    rng = np.random.default_rng(1)
    truth = rng.uniform(600, 3000, 100_000)
    pairs = without_features(curved(truth, rng), truth)
    likelihood = hepcal.train(pairs, hepcal.Likelihood(), seed=1, show=False)
    inversion = hepcal.train(pairs, hepcal.NumericalInversion(), seed=1, show=False)
    expected = 3 / 8 * NOISE**2
    for z in (1000, 1400, 1800, 2200):
        reco = curved(np.full(5 * THROWN, float(z)), rng)
        median, mean = (
            c.predict(np.empty((len(x), 0)), x).mean.astype(np.float64) / z - 1
            for c, x in ((likelihood, reco[:THROWN]), (inversion, reco))
        )
        trained = inversion.predict(np.empty((1, 0)), np.array([curve(z)])).sigma_pred[0] / z
        unc = 4 * mean.std() / np.sqrt(len(mean)) + trained
        told = inversion.curvature_bias(np.array([z]))[0] / z
        print(
            f"z = {z}: median closure of the likelihood {100 * np.median(median):+.3f} %, mean closure of the "
            f"inversion {100 * mean.mean():+.3f} %, expected from the curvature {100 * expected:+.3f} +- "
            f"{100 * unc:.3f} %, told by the calibrator {100 * told:+.3f} %"
        )
        assert abs(np.median(median)) < 0.005
        # The bias is seen: neither none nor the opposite one would pass.
        assert unc < expected / 2
        assert abs(mean.mean() - expected) < unc
        assert told == pytest.approx(expected, rel=0.15)


WIDTH = 50.0


def with_feature(n, seed, slope, correlation):
    """x = z + a, theta = slope z + b, with a and b of width 50 GeV and correlated."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1000, 2000, n)
    a = rng.standard_normal(n)
    b = correlation * a + np.sqrt(1 - correlation**2) * rng.standard_normal(n)
    theta = slope * truth + WIDTH * b
    return hepcal.JetPairs.from_arrays(theta[:, None], ["theta"], reco=truth + WIDTH * a, truth=truth)


def exact_widths(slope, correlation):
    """Width of the estimate of z, in units of that from x alone, from p(x | z, theta) and from both measurements."""
    rest = 1 - correlation**2
    # x given z and theta has its mean at z + correlation (theta - slope z).
    conditional = np.sqrt(rest) / abs(1 - correlation * slope)
    joint = np.sqrt(rest / (1 - 2 * correlation * slope + slope**2))
    return conditional, joint


@pytest.mark.parametrize(("slope", "correlation"), [(0.0, 0.8), (1.0, 0.5)])
def test_the_known_gain_of_a_feature(slope, correlation):
    """As a condition a feature helps if it carries nothing of the truth; in a summary it always helps."""
    train, test = with_feature(100_000, 1, slope, correlation), with_feature(200_000, 2, slope, correlation)
    inside = (test.truth > 1300) & (test.truth < 1700)
    methods = {
        "alone": hepcal.Likelihood(n=5),
        "as a condition": hepcal.Likelihood(n=5, conditions=("theta",)),
        "in a summary": hepcal.SummaryLikelihood(
            n=5,
            summary=hepcal.Ensemble(
                n=5, hidden=(50, 50), batch=500, learning_rate=3e-3, schedule="cosine", max_updates=4_000
            ),
        ),
    }
    widths, medians = {}, {}
    for name, method in methods.items():
        calibrator = hepcal.train(train, method, seed=1, show=False)
        table = test.select(calibrator.card.features)
        shift = (calibrator.predict(table.features, table.reco).mean - test.truth)[inside]
        low, medians[name], high = np.quantile(shift, [0.1586553, 0.5, 0.8413447])
        widths[name] = (high - low) / 2
    conditional, joint = exact_widths(slope, correlation)
    expected = {"alone": 1.0, "as a condition": conditional, "in a summary": joint}
    print(f"theta = {slope:g} z + b, correlation {correlation:g}")
    for name, width in widths.items():
        found = width / WIDTH
        print(
            f"  {name}: width {found:.3f} (exact {expected[name]:.3f}), median shift {medians[name]:+.2f} GeV of 1500"
        )
        assert found == pytest.approx(expected[name], rel=0.05)
        assert abs(medians[name]) < 0.003 * 1500
