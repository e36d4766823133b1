"""Trainings on signed weights against trainings on the equivalent sample without weights, of as many effective jets.

``pytest -m study tests/studies/test_signed_samples.py -s`` prints the figures; ``HEPCAL_SIGNED=5000`` takes one size.

Jets have a falling spectrum (z^-3 from 200 GeV) and a response with a mean of 0.85 to 0.95 that depends on truth and on
a feature, with a resolution of 10 %. In the signed sample a jet is negative with a probability that falls with its
response and rises with its feature (``kind="place"``), or is the same everywhere (``kind="even"``); jets are drawn so
that the signed density is that of the sample without weights.

Compared is the mean of pt_calib / truth in four bins of truth, by Hotelling's T-squared (a chi-square whose covariance
is estimated, from sixteen further trainings on samples without weights, of as many effective jets).
sigma_pred is compared with the spread of ten trainings on ten signed samples. Networks are trained until the noise of
the optimiser is half of the statistical spread: an ensemble knows its sum, of which its mean keeps an eighth.
"""

import os
from functools import cache

import numpy as np
import pytest
from scipy.stats import f

import hepcal

pytestmark = pytest.mark.study

SIZES = [int(size) for size in os.environ.get("HEPCAL_SIGNED", "5000,50000").split(",")]
SEEDS = (1, 2, 3, 4, 5)
# Of further trainings on signed samples, for their spread.
MORE_SEEDS = (6, 7, 8, 9, 10)
BINS, RETRAINED = 4, 16
NETWORK = {"hidden": (32, 32), "max_updates": 2_500, "batch": 500, "schedule": "cosine", "learning_rate": 3e-3}
ENSEMBLE = hepcal.Ensemble(n=8, starts=1, **NETWORK)
REGRESSIONS = {
    "ensemble": ENSEMBLE,
    "mse": hepcal.MSE(**NETWORK),
    "bnn": hepcal.BNN(draws=20, **NETWORK),
    "heteroscedastic": hepcal.Heteroscedastic(**NETWORK),
    "dropout": hepcal.Dropout(**NETWORK),
    # With the default prior the fourth part of 1,700 effective jets says the same of every jet, as its card tells.
    "parts": hepcal.Ensemble(n=4, sample="parts", prior_width=0.3, **NETWORK),
    "noisy_labels": hepcal.NoisyLabels(method=hepcal.Ensemble(n=4, starts=1, **NETWORK), fraction=0.04),
}
INVERSIONS = {
    "likelihood": hepcal.Likelihood(n=8, **NETWORK),
    "inversion": hepcal.NumericalInversion(),
    # A larger network is refused for 1,700 effective jets: its response does not rise with truth everywhere.
    "generalised": hepcal.GeneralisedInversion(**NETWORK | {"hidden": (16, 16), "max_updates": 1_500}),
    # A third of the default work.
    "gaussian_ansatz": hepcal.GaussianAnsatz(cells=4, iterations=50),
    "summary": hepcal.SummaryLikelihood(n=4, summary=hepcal.Ensemble(n=4, **NETWORK), **NETWORK),
}
METHODS = {**REGRESSIONS, **INVERSIONS}
FIVE = ("ensemble", "parts", "mse", "likelihood")


def response_of(truth, x):
    return 0.85 + 0.05 * x + 0.02 * np.log(truth / 200)


def signed_jets(jets, share, kind, seed):
    """A sample of ``jets`` rows whose signed density is that of :func:`plain_jets`."""
    rng = np.random.default_rng([seed, jets, round(100 * share)])
    drawn = 8 * jets
    truth, x, pull = (
        200 * (1 - 0.98 * rng.uniform(0, 1, drawn)) ** -0.5,
        rng.uniform(0, 1, drawn),
        rng.normal(size=drawn),
    )
    negative = np.full(drawn, share)
    if kind == "place":
        negative = share * (1 - 0.5 * np.tanh(pull)) * (0.8 + 0.4 * x)
    # Where a share g is negative, 1 / (1 - 2 g) as many jets are needed.
    rows = np.flatnonzero(rng.uniform(0, 1, drawn) * (1 - 2 * negative) < 1 - 2 * negative.max())[:jets]
    assert len(rows) == jets
    weight = np.where(rng.uniform(0, 1, drawn) < negative, -1.0, 1.0)[rows]
    reco = (truth * response_of(truth, x) * (1 + 0.1 * pull))[rows]
    return hepcal.JetPairs.from_arrays(x[rows, None], ["x"], reco=reco, truth=truth[rows], weight=weight)


def plain_jets(jets, seed):
    return signed_jets(jets, 0.0, "even", seed)


@cache
def tested():
    """Jets to compare on, and the bin of truth of each."""
    test = plain_jets(5_000, 99)
    edges = np.quantile(test.truth, np.linspace(0, 1, BINS + 1)[1:-1])
    return test, np.searchsorted(edges, test.truth)


def in_bins(values):
    """Means of pt_calib / truth (..., n) in bins of truth."""
    test, number = tested()
    return np.stack([(values[..., number == b] / test.truth[number == b]).mean(-1) for b in range(BINS)], axis=-1)


@cache
def found(name, jets, share, kind, seed):
    """Means in bins of truth, pt_calib, sigma_pred, and n_eff."""
    pairs = signed_jets(jets, share, kind, seed)
    calibrator = hepcal.train(pairs, METHODS[name], seed=seed, show=False)
    assert not calibrator.card.figures.get("collapsed")
    table = tested()[0].select(calibrator.card.features)
    prediction = calibrator.predict(table.features, table.reco)
    return in_bins(prediction.mean), prediction.mean, prediction.sigma_pred, pairs.n_eff


def plain(name, jets, share, kind, seed):
    """The same of a sample without weights, of as many jets as the signed one has effective ones."""
    n_eff = signed_jets(jets, share, kind, SEEDS[0]).n_eff
    return found(name, round(n_eff), 0.0, "even", seed + 100)


@cache
def retrained(name, jets, share, kind):
    """Means in bins of further trainings on samples without weights, shape (16, bins)."""
    return np.stack([plain(name, jets, share, kind, seed)[0] for seed in range(11, 11 + RETRAINED)])


def of_spread(trainings):
    """Root mean square over jets of sigma_pred / truth, over that of the spread of pt_calib / truth over trainings."""
    truth = tested()[0].truth.astype(np.float64)
    spread = np.std([part[1] / truth for part in trainings], axis=0, ddof=1)
    return float(np.sqrt(np.mean([(part[2] / truth) ** 2 for part in trainings]) / np.mean(spread**2)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["place", "even"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("jets", SIZES)
def test_signed_weights_close_as_none(jets, share, kind, name):
    if name not in FIVE and (kind == "even" or share == 0.0):
        pytest.skip("shown by the methods of five seeds")
    if kind == "even" and share == 0.0:
        pytest.skip("the same as the other kind")
    seeds, where = SEEDS if name in FIVE else SEEDS[:1], (jets, share, kind)
    both = [(found(name, *where, seed), plain(name, *where, seed)) for seed in seeds]
    means = retrained(name, *where)
    away = np.array([signed[0] - other[0] for signed, other in both])
    inverse = np.linalg.inv(2 * np.cov(means.T))
    rows = np.vstack([away, away.mean(0) * len(away) ** 0.5])
    squares = np.einsum("si,ij,sj->s", rows, inverse, rows)
    p = f.sf(squares * (RETRAINED - BINS) / (BINS * (RETRAINED - 1)), BINS, RETRAINED - BINS)
    line = f"{name:15s} {jets:6d} jets, {share:.0%} negative ({kind}), n_eff {both[0][0][3]:6.0f}: "
    line += f"p {' '.join(f'{x:.3f}' for x in p[:-1])}, of the mean {p[-1]:.3f}; differences [%]"
    error = 100 * np.sqrt(2 * means.var(0, ddof=1) / len(away))
    line += "".join(f" {100 * x:+.2f}±{e:.2f}" for x, e in zip(away.mean(0), error, strict=True))
    print("\n" + line, end="")
    if name in ("ensemble", "likelihood"):
        ratio = of_spread([found(name, *where, seed) for seed in (*SEEDS, *MORE_SEEDS)])
        without = of_spread([plain(name, *where, seed) for seed in (*SEEDS, *range(11, 11 + RETRAINED))])
        print(f"; sigma_pred / spread {ratio:.2f}, without weights {without:.2f}", end="")
        assert 1 / 1.5 < ratio < 1.5
    assert p.min() > 0.01 / len(p)
