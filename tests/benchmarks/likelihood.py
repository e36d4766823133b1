"""How fast the likelihood calibrations are evaluated, against the Bayesian network with as many draws, as ratios.

    python tests/benchmarks/likelihood.py [--rounds 15] [--jets 20480]

Toy jets with ten inputs, 50 draws or networks, default sizes. Trainings are cut short: the time of an evaluation does
not depend on what the networks have learned. One thread, CPU time; ratios are taken inside a round (see ``rounds.py``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from inference import toy_jets
from rounds import ROUNDS, Quartiles, play

import hepcal
from hepcal.networks.parallel import threads

NETWORKS = 50
INPUTS = 10
BNN = "Bayesian network, 50 draws"


def calibrators() -> dict[str, hepcal.Calibrator]:
    """The methods to time, by what is printed."""
    features, reco, truth = toy_jets(INPUTS, 4_000, seed=1)
    pairs = hepcal.JetPairs.from_arrays(features, [f"x{i}" for i in range(INPUTS - 1)], reco=reco, truth=truth)
    short = {"max_updates": 20}
    summary = {"schedule": "cosine", **short}
    methods = {
        BNN: hepcal.BNN(draws=NETWORKS, **short),
        "likelihood, one dimension": hepcal.Likelihood(n=NETWORKS, **short),
        "likelihood, one condition": hepcal.Likelihood(n=NETWORKS, conditions=("x0",), **short),
        "summary of an ensemble, likelihood": hepcal.SummaryLikelihood(
            n=NETWORKS, summary=hepcal.Ensemble(n=NETWORKS, hidden=(50, 50), **summary), **short
        ),
        "summary of a Bayesian network, likelihood": hepcal.SummaryLikelihood(
            n=NETWORKS, summary=hepcal.BNN(draws=NETWORKS, **summary), **short
        ),
        "numerical inversion, 50 replicas": hepcal.NumericalInversion(n=NETWORKS),
    }
    return {name: hepcal.train(pairs, method, seed=1, show=False) for name, method in methods.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--jets", type=int, default=20_480)
    arguments = parser.parse_args()
    features, reco, _ = toy_jets(INPUTS, arguments.jets, seed=2)

    def case(calibrator: hepcal.Calibrator) -> Callable[[], object]:
        inputs = features[:, [int(name[1:]) for name in calibrator.card.features.names]]
        return lambda: calibrator.predict(inputs, reco)

    with threads(1):
        found = play({name: case(calibrator) for name, calibrator in calibrators().items()}, arguments.rounds)
    print(f"\n{arguments.jets} jets, one thread, CPU time; median (quartiles)")
    print(f"  {'case':<44}{'jets per second':<32}time over that of the Bayesian network")
    for name, seconds in found.seconds.items():
        print(f"  {name:<44}{found.rate(name, arguments.jets)!s:<32}{Quartiles.of(seconds / found.seconds[BNN])}")


if __name__ == "__main__":
    main()
