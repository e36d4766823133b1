"""What the statistical error costs: columns of jets by one network, with its Hessian, by 50 weight draws; trainings.

    python tests/benchmarks/statistical_error.py [--rounds 15] [--jets 51200]

One process, one thread. The jets are those of the embedded sample, repeated; all methods have the same network and a
short training, since what they predict does not matter for their speed. Each round runs every case once, and ratios
are taken inside a round (see ``rounds.py``). Trainings are compared at the default schedule, a few rounds of them.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rounds import ROUNDS, play

import hepcal
from hepcal.demo import demo_fileset
from hepcal.networks.parallel import threads

SHORT = {"max_updates": 500, "patience": 500}
METHODS = {
    "one network, no error": hepcal.Heteroscedastic(**SHORT),
    "Hessian": hepcal.Hessian(**SHORT),
    "BNN, 50 draws": hepcal.BNN(**SHORT),
    "Ensemble, 40 networks": hepcal.Ensemble(**{**SHORT, "max_updates": 100}),
}
TRAININGS = 3


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description="What the statistical error costs")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--jets", type=int, default=51_200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = hepcal.JetPairs.from_fileset(demo_fileset("train"), show=False)
    rows = np.arange(arguments.jets) % len(pairs)
    features, reco = np.asarray(pairs.features)[rows], np.asarray(pairs.reco)[rows]
    calibrators = {name: hepcal.train(pairs, method, seed=1, show=False) for name, method in METHODS.items()}
    cases = {name: lambda c=c: c._columns(features, reco) for name, c in calibrators.items()}
    cases |= {
        f"{name}, with replicas": lambda c=c: c._columns(features, reco, replicas=True)
        for name, c in calibrators.items()
        if c.replicas
    }
    with threads(1):
        timed = play(cases, arguments.rounds)
    one, draws = "one network, no error", "BNN, 50 draws"
    print(f"\n{arguments.jets} jets; median (quartiles)")
    for name in cases:
        against = f"{draws}, with replicas" if "replicas" in name else draws
        print(
            f"  {name:38s} {timed.rate(name, arguments.jets)} jets/s, {timed.speed_up(one, name)} times one network, "
            f"{timed.speed_up(name, against)} times as fast as {against}"
        )
    trained = play(
        {
            name: lambda method=method: hepcal.train(pairs, method, seed=1, show=False)
            for name, method in {"one network": hepcal.Heteroscedastic(), "Hessian": hepcal.Hessian()}.items()
        },
        TRAININGS,
    )
    print(f"  training with its Hessian: {trained.speed_up('one network', 'Hessian')} times that of the network alone")


if __name__ == "__main__":
    main()
