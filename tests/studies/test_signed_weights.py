"""Trainings on signed weights against trainings on the equivalent sample without weights, of as many effective jets.

``pytest -m study tests/studies/test_signed_weights.py -s`` prints the figures; ``HEPCAL_SIGNED=5000`` takes one size.

Jets have a falling spectrum (z^-3 from 200 GeV) and a response with a mean of 0.85 to 0.95 that depends on truth and on
a feature, with a resolution of 10 %. In the signed sample a jet is negative with a probability that falls with its
response and rises with its feature (``kind="place"``), or is the same everywhere (``kind="even"``); jets are drawn so
that the signed density is that of the sample without weights.

Compared is the mean of pt_calib / truth in six bins of truth, by a chi-square. Its covariance is that of the single
networks of a bootstrap, pooled over seeds and samples: that of retraining one network. Methods without such networks
take the one of the ensemble (regressions of the truth) or of the likelihood (inversions).
"""

import os
from functools import cache

import numpy as np
import pytest
from scipy.stats import chi2

import hepcal

pytestmark = pytest.mark.study

SIZES = [int(size) for size in os.environ.get("HEPCAL_SIGNED", "5000,50000").split(",")]
SEEDS = (1, 2, 3, 4, 5)
BINS = 6
NETWORK = {"hidden": (16, 16), "max_updates": 1_500, "schedule": "cosine", "learning_rate": 3e-3}
ENSEMBLE = hepcal.Ensemble(n=8, **NETWORK)
REGRESSIONS = {
    "ensemble": ENSEMBLE,
    "mse": hepcal.MSE(**NETWORK),
    "bnn": hepcal.BNN(draws=20, **NETWORK),
    "heteroscedastic": hepcal.Heteroscedastic(**NETWORK),
    "dropout": hepcal.Dropout(**NETWORK),
    "parts": hepcal.Ensemble(n=4, sample="parts", **NETWORK),
    "noisy_labels": hepcal.NoisyLabels(method=hepcal.Ensemble(n=4, **NETWORK), fraction=0.04),
}
INVERSIONS = {
    "likelihood": hepcal.Likelihood(n=8, **NETWORK),
    "inversion": hepcal.NumericalInversion(),
    "generalised": hepcal.GeneralisedInversion(**NETWORK),
    "gaussian_ansatz": hepcal.GaussianAnsatz(),
    "summary": hepcal.SummaryLikelihood(n=8, summary=ENSEMBLE, **NETWORK),
}
METHODS = {**REGRESSIONS, **INVERSIONS}
FIVE = ("ensemble", "mse", "likelihood")


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
    test = plain_jets(20_000, 99)
    edges = np.quantile(test.truth, np.linspace(0, 1, BINS + 1)[1:-1])
    return test, np.searchsorted(edges, test.truth)


def in_bins(values):
    """Means of pt_calib / truth (..., n) in bins of truth."""
    test, number = tested()
    return np.stack([(values[..., number == b] / test.truth[number == b]).mean(-1) for b in range(BINS)], axis=-1)


@cache
def found(name, jets, share, kind, seed):
    """Means in bins, those of the replicas if there are some, pt_calib and sigma_pred, and n_eff."""
    pairs = signed_jets(jets, share, kind, seed)
    calibrator = hepcal.train(pairs, METHODS[name], seed=seed, show=False)
    table = tested()[0].select(calibrator.card.features)
    prediction = calibrator.predict(table.features, table.reco)
    replicas = in_bins(prediction.replicas()) if calibrator.replicas else None
    return in_bins(prediction.mean), replicas, prediction.mean, prediction.sigma_pred, pairs.n_eff


def plain(name, jets, share, kind, seed):
    """The same of a sample without weights, of as many jets as the signed one has effective ones."""
    n_eff = signed_jets(jets, share, kind, seed).n_eff
    return found(name, round(n_eff), 0.0, "even", seed + 100)


@cache
def covariance(name, jets, share, kind):
    """Of the difference of two trainings: spread of single networks of both samples, pooled over seeds."""
    owner = name if name in ("ensemble", "likelihood") else "ensemble" if name in REGRESSIONS else "likelihood"
    if name in ("inversion", "summary"):
        pairs = [part(name, jets, share, kind, 1) for part in (found, plain)]
        return sum(np.cov(part[1].T) for part in pairs)
    parts = [(found(owner, jets, share, kind, s), plain(owner, jets, share, kind, s)) for s in SEEDS]
    return np.mean([np.cov(signed[1].T) + np.cov(other[1].T) for signed, other in parts], axis=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["place", "even"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("jets", SIZES)
def test_signed_weights_close_as_none(jets, share, kind, name):
    if kind == "even" and (share == 0.0 or name not in FIVE):
        pytest.skip("the same as the other kind, or shown by the three methods of five seeds")
    seeds, where = SEEDS if name in FIVE else SEEDS[:1], (jets, share, kind)
    both = [(found(name, *where, seed), plain(name, *where, seed)) for seed in seeds]
    inverse = np.linalg.inv(covariance(name, *where))
    away = np.array([signed[0] - other[0] for signed, other in both])
    values = np.einsum("si,ij,sj->s", away, inverse, away)
    p = chi2.sf(values, BINS)
    together = chi2.sf(values.sum(), BINS * len(seeds))
    line = f"{name:15s} {jets:6d} jets, {share:.0%} negative ({kind}), n_eff {both[0][0][4]:6.0f}: "
    line += f"p {' '.join(f'{x:.3f}' for x in p)}, together {together:.3f}; mean difference [%] "
    line += " ".join(f"{100 * x:+.2f}" for x in away.mean(0))
    print("\n" + line, end="")
    if name in ("ensemble", "likelihood"):
        spread = np.std([signed[2] for signed, _ in both], axis=0, ddof=1)
        claimed = np.sqrt(np.mean([signed[3].astype(float) ** 2 for signed, _ in both], axis=0))
        ratio = float(np.sqrt(np.mean(claimed**2) / np.mean(spread.astype(float) ** 2)))
        of_bins = np.std([signed[0] for signed, _ in both], axis=0, ddof=1)
        of_replicas = np.sqrt(np.mean([signed[1].var(0, ddof=1) for signed, _ in both], axis=0))
        in_bins_ratio = float(np.sqrt(np.mean(of_replicas**2) / np.mean(of_bins**2)))
        print(f"; sigma_pred / spread {ratio:.2f}, of means in bins {in_bins_ratio:.2f}", end="")
        assert 1 / 1.5 < ratio < 1.5
    assert together > 0.01
    assert p.min() > 0.01 / len(p)
