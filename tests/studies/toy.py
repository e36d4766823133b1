"""The toy of the studies: y = 0.6 + 0.3 x sin(2 pi x) with noise 0.03 + 0.05 x, x uniform in (0, 1)."""

import numpy as np

import hepcal

RECO = 100.0


def mean_of(x):
    return 0.6 + 0.3 * x * np.sin(2 * np.pi * x)


def noise_of(x):
    return 0.03 + 0.05 * x


def toy(jets, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, jets)
    y = mean_of(x) + noise_of(x) * rng.standard_normal(jets)
    return hepcal.JetPairs.from_arrays(x[:, None], ["x"], reco=np.full(jets, RECO), truth=RECO * y)


def best_log_score(x):
    """Mean log score [nats, density in 1/GeV] of the true density."""
    return float(np.mean(np.log(RECO * noise_of(x)) + 0.5 + 0.5 * np.log(2 * np.pi)))
