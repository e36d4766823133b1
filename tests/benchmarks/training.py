"""How fast one update of a Bayesian network is, against other libraries, as ratios.

    python tests/benchmarks/training.py [--rounds 15] [--batch 100 1000]

Needs ``pip install hepcal[bench]``. The network of arXiv:2003.11099 (100-100-50-50-2, ReLU) with 10 inputs, a Gaussian
likelihood, a table of 20,000 toy jets, Adam; one thread, CPU time. An update is everything that is done per batch:
choosing jets, the loss with its KL term, the gradient, the step. The other libraries are used as their documentation
shows, with a ``DataLoader`` and ``torch.optim.Adam``, and once with batches cut from a tensor and the fused Adam, which
is the best that their users can do without rewriting the layers. hepcal does what ``hepcal.train`` does between two
looks at the held-out jets. Each round times every case once, and ratios are taken inside a round (see ``rounds.py``).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from bayesian_torch.layers import LinearFlipout
from rounds import ROUNDS, Rounds, play
from torchbnn import BayesLinear, BKLLoss

import hepcal
from hepcal.networks.heads import GaussianHead
from hepcal.networks.objectives import Batch, TrainingSet
from hepcal.networks.optimisation import Loop

JETS, INPUTS, HIDDEN = 20_000, 10, (100, 100, 50, 50)
PRIOR_WIDTH, RATE = 0.1, 1e-4
# Jets per case and round.
WORK = 4_000
REFERENCE = "bayesian-torch Flipout, DataLoader"

HEPCAL = {
    "hepcal local, autograd": hepcal.BNN(autograd=True),
    "hepcal local (default)": hepcal.BNN(),
    "hepcal Flipout": hepcal.BNN(estimator="flipout"),
    "hepcal shared": hepcal.BNN(estimator="shared"),
}

Update = Callable[[], object]


def toy_table() -> Batch:
    """Standardised inputs (n, 10), targets (n,) that depend on them, weights of mean one (n,)."""
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.randn((JETS, INPUTS), generator=generator), torch.randn(JETS, generator=generator)
    w = 2 * torch.rand(JETS, generator=generator)
    return x, torch.tanh(x[:, 0]) + 0.3 * x[:, 1] + 0.3 * noise, w / w.mean()


def hepcal_update(method: hepcal.BNN, table: Batch, batch: int) -> Update:
    """One update of hepcal's training loop."""
    method = method.model_copy(update={"batch": batch, "hidden": HIDDEN, "learning_rate": RATE})
    generator = torch.Generator().manual_seed(2)
    objective = method.objective(TrainingSet(INPUTS, float(JETS), table[1], np.arange(JETS)), generator)
    judge = tuple(part[:batch] for part in table)
    return Loop(objective, method.descent, table, judge, generator).step


class Libraries(torch.nn.Module):
    """A network of the layers of a library, with the loss that its users would write.

    Args:
        layer: From units in and units out to a layer.
        kl: The KL divergence of the network from the prior, as the library computes it. Whether it is the right one
            does not matter here.
    """

    def __init__(
        self,
        layer: Callable[[int, int], torch.nn.Module],
        kl: Callable[[torch.nn.Module, list[torch.Tensor]], torch.Tensor],
    ) -> None:
        super().__init__()
        sizes = (INPUTS, *HIDDEN, 2)
        self.layers = torch.nn.ModuleList(layer(*pair) for pair in itertools.pairwise(sizes))
        self.head, self._kl = GaussianHead(), kl

    def loss(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Weighted negative log-likelihood plus KL / N."""
        parts: list[torch.Tensor] = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            # A layer of bayesian-torch returns its KL divergence along.
            if isinstance(x, tuple):
                x, part = x
                parts.append(part)
            x = torch.relu(x) if number < len(self.layers) - 1 else x
        return (w * self.head.nll(x, y)).mean() + self._kl(self, parts) / JETS


def bayesian_torch() -> Libraries:
    """Flipout layers, narrow at the start, as hepcal's."""

    def layer(fan_in: int, out: int) -> torch.nn.Module:
        return LinearFlipout(fan_in, out, prior_variance=PRIOR_WIDTH, posterior_rho_init=-5.0)

    return Libraries(layer, lambda _, parts: torch.stack(parts).sum())


def torchbnn() -> Libraries:
    """One weight draw per pass; their ``BKLLoss``."""
    kl = BKLLoss(reduction="sum")

    def layer(fan_in: int, out: int) -> torch.nn.Module:
        return BayesLinear(prior_mu=0, prior_sigma=PRIOR_WIDTH, in_features=fan_in, out_features=out)

    return Libraries(layer, lambda network, _: kl(network).sum())


def endless(batches: torch.utils.data.DataLoader[tuple[torch.Tensor, ...]]) -> Iterator[list[torch.Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from batches


def library_update(network: Libraries, table: Batch, batch: int) -> Update:
    """One update with a DataLoader and Adam as it comes."""
    dataset = torch.utils.data.TensorDataset(*table)
    batches = endless(torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True))
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)

    def update() -> None:
        optimiser.zero_grad()
        network.loss(*next(batches)).backward()
        optimiser.step()

    return update


def shuffled(table: Batch, batch: int) -> Iterator[list[torch.Tensor]]:
    """Endless batches cut from tensors."""
    generator = torch.Generator().manual_seed(3)
    while True:
        order = torch.randperm(len(table[1]), generator=generator)
        yield from ([part[rows] for part in table] for rows in order.split(batch))


def sliced_update(network: Libraries, table: Batch, batch: int) -> Update:
    """The same with shuffled tensors cut into batches, and the fused Adam."""
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    batches = shuffled(table, batch)

    def update() -> None:
        optimiser.zero_grad()
        network.loss(*next(batches)).backward()
        optimiser.step()

    return update


def cases(table: Batch, batch: int) -> dict[str, Update]:
    """One update of every case."""
    torch.manual_seed(4)
    return {
        REFERENCE: library_update(bayesian_torch(), table, batch),
        "bayesian-torch Flipout, sliced, fused": sliced_update(bayesian_torch(), table, batch),
        "torchbnn, DataLoader": library_update(torchbnn(), table, batch),
        **{name: hepcal_update(method, table, batch) for name, method in HEPCAL.items()},
    }


def repeated(update: Update, times: int) -> Update:
    """Several updates at once, long enough to be timed."""

    def work() -> None:
        for _ in range(times):
            update()

    return work


def gradient_agreement(table: Batch, batch: int) -> float:
    """Largest difference of the hand-written gradient from autograd's, over autograd's largest component."""
    found = []
    for autograd in (False, True):
        method = hepcal.BNN(hidden=HIDDEN, autograd=autograd)
        sample = TrainingSet(INPUTS, float(JETS), table[1], np.arange(JETS))
        objective = method.objective(sample, torch.Generator().manual_seed(5))
        objective.backward(*(part[:batch] for part in table), torch.Generator().manual_seed(6))
        found.append(torch.cat([p.grad for p in objective.module.parameters() if p.grad is not None]))
    by_hand, automatic = found
    return float((by_hand - automatic).abs().max() / automatic.abs().max())


def show(timed: Rounds, batch: int, times: int) -> None:
    """Print updates per second and factors over the reference."""
    print(f"\nbatch {batch}, one thread, CPU time; median (quartiles)")
    print(f"  {'case':40s} {'updates per second':26s} x {REFERENCE}")
    for name in timed.seconds:
        print(f"  {name:40s} {timed.rate(name, times)!s:26s} {timed.speed_up(name, REFERENCE)}")


def main() -> None:
    """Time, check, print."""
    parser = argparse.ArgumentParser(description="Speed of updates in training, as ratios")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 1000])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = toy_table()
    for batch in arguments.batch:
        times = max(3, WORK // batch)
        timed = play({name: repeated(update, times) for name, update in cases(table, batch).items()}, arguments.rounds)
        show(timed, batch, times)
        difference = gradient_agreement(table, batch)
        print(f"  hand-written gradient against autograd: {difference:.1e} of the largest component")


if __name__ == "__main__":
    main()
