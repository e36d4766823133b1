"""How fast an ensemble of 40 networks is trained at once, over one network after another, as ratios.

    python tests/benchmarks/ensemble.py [--rounds 15] [--batch 100 200] [--networks 40]

The networks of arXiv:2003.11099 (100-100-50-50-2, ReLU) with 10 inputs, a Gaussian likelihood, bootstrap weights, a
table of 20,000 toy jets, Adam; one thread, CPU time. "One after another" is as many updates of one network as the
ensemble has networks, as when one training follows another: (a) in plain PyTorch, with ``torch.nn.Sequential``,
autograd, batches cut from tensors and the fused Adam; (b) by hepcal's training loop for a single network
(``Heteroscedastic``, or ``Dropout``). "At once" is one update of ``hepcal.Ensemble``: its networks see the same jets
with weights of their own. Each round times every case once, and ratios are taken inside a round (see ``rounds.py``).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rounds import ROUNDS, Rounds, play
from training import HIDDEN, INPUTS, JETS, PRIOR_WIDTH, RATE, Update, repeated, shuffled, toy_table

import hepcal
from hepcal.methods.base import NetworkMethod
from hepcal.networks.heads import GaussianHead
from hepcal.networks.objectives import Batch, TrainingSet
from hepcal.networks.optimisation import Loop

PLAIN, ALONE, AT_ONCE = "(a) plain PyTorch, one by one", "(b) hepcal, one by one", "hepcal, at once"


def hepcal_updates(method: NetworkMethod, table: Batch) -> Update:
    """One update of hepcal's training loop."""
    generator = torch.Generator().manual_seed(2)
    objective = method.objective(TrainingSet(INPUTS, float(JETS), table[1], np.arange(JETS)), generator)
    judge = tuple(part[: method.batch] for part in table)
    return Loop(objective, method.descent, table, judge, generator).step


def alone(dropout: float, batch: int) -> NetworkMethod:
    """The method of one network of the ensemble."""
    settings = {"hidden": HIDDEN, "learning_rate": RATE, "batch": batch, "prior_width": PRIOR_WIDTH}
    return hepcal.Dropout(**settings, rate=dropout) if dropout else hepcal.Heteroscedastic(**settings)


def at_once(networks: int, dropout: float, batch: int) -> NetworkMethod:
    """The ensemble."""
    settings = {"hidden": HIDDEN, "learning_rate": RATE, "batch": batch, "prior_width": PRIOR_WIDTH}
    return hepcal.Ensemble(**settings, n=networks, dropout=dropout)


def plain_update(table: Batch, dropout: float, batch: int) -> Update:
    """One update of one network, as anyone would write it: L2 by Adam's weight decay, which is half of 2 lambda."""
    parts: list[torch.nn.Module] = []
    for fan_in, out in zip((INPUTS, *HIDDEN), HIDDEN, strict=False):
        parts += [torch.nn.Linear(fan_in, out), torch.nn.ReLU(), *([torch.nn.Dropout(dropout)] if dropout else [])]
    network, head = torch.nn.Sequential(*parts, torch.nn.Linear(HIDDEN[-1], 2)), GaussianHead()
    decay = 1 / (PRIOR_WIDTH**2 * JETS)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE, weight_decay=decay, fused=True)
    weight = table[2] * torch.poisson(torch.ones(JETS))
    batches = shuffled((table[0], table[1], weight), batch)

    def update() -> None:
        x, y, w = next(batches)
        optimiser.zero_grad()
        (w * head.nll(network(x), y)).mean().backward()
        optimiser.step()

    return update


def cases(table: Batch, networks: int, dropout: float, batch: int) -> dict[str, Update]:
    """As many updates as one of all networks, by case."""
    torch.manual_seed(4)
    return {
        PLAIN: repeated(plain_update(table, dropout, batch), networks),
        ALONE: repeated(hepcal_updates(alone(dropout, batch), table), networks),
        AT_ONCE: hepcal_updates(at_once(networks, dropout, batch), table),
    }


def show(timed: Rounds, networks: int, dropout: float, batch: int, times: int) -> None:
    """Print updates of all networks per second, and factors over both ways to do it one by one."""
    print(f"\n{networks} networks, batch {batch}, dropout {dropout:g}, one thread, CPU time; median (quartiles)")
    print(f"  {'case':32s} {'updates of all per second':28s} {'x (a)':24s} x (b)")
    for name in timed.seconds:
        over = [timed.speed_up(name, peer) for peer in (PLAIN, ALONE)]
        print(f"  {name:32s} {timed.rate(name, times)!s:28s} {over[0]!s:24s} {over[1]}")


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description="Speed of ensembles in training, as ratios")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--networks", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table, times = toy_table(), 3
    for batch in arguments.batch:
        for dropout in arguments.dropout:
            updates = cases(table, arguments.networks, dropout, batch)
            timed = play({name: repeated(update, times) for name, update in updates.items()}, arguments.rounds)
            show(timed, arguments.networks, dropout, batch, times)


if __name__ == "__main__":
    main()
