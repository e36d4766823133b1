"""How fast the networks of a trained Bayesian calibrator are evaluated, against other libraries, as ratios.

    python tests/benchmarks/inference.py [--rounds 15] [--jets 4096] [--inputs 10 400]

Needs ``pip install hepcal[bench]``. The network is that of arXiv:2003.11099 (100-100-50-50-2, ReLU) with 10 and 400
inputs, trained for a short while on smooth toy jets; 50 draws. The other libraries get copies of its posterior means
and widths. All get the same standardised inputs; they take the whole array at once. Seconds are not comparable between
machines or hours: each round times every case once, and ratios are taken inside a round (see ``rounds.py``).

The number of jets is rounded up to full blocks of 1024, which is fair: a short last block is padded and costs a full
one, and that is all a multiple hides.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from peers import bayesian_torch_flipout, passes, torchbnn_network
from rounds import ROUNDS, Gemm, Rounds, play

import hepcal
from hepcal.methods.calibrator import Calibrator
from hepcal.networks.dense import DenseLayout
from hepcal.networks.inference import BLOCK, WeightDraws
from hepcal.networks.moments import MomentPropagation
from hepcal.networks.parallel import cores, map_blocks, threads

DRAWS = 50
HIDDEN = (100, 100, 50, 50)
FLIPOUT, TORCHBNN, PEAK = "bayesian-torch, Flipout loop", "torchbnn, loop", "float32 GEMM 2048"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """A calibrator trained on toys, the parts of it that are timed, and jets to evaluate."""

    calibrator: Calibrator
    layout: DenseLayout
    features: np.ndarray
    reco: np.ndarray
    inputs: torch.Tensor

    @property
    def flops(self) -> float:
        """Floating-point operations of the products of all draws for all jets."""
        return 2.0 * sum(a * b for a, b in itertools.pairwise(self.layout.sizes)) * DRAWS * len(self.reco)


def toy_jets(inputs: int, jets: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, inputs - 1), reco and truth p_T [GeV] of jets whose correction is a smooth function of all inputs.

    The correction varies by about 8 %, its noise between 5 and 15 %.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(jets, inputs - 1)).astype(np.float32)
    reco = np.exp(rng.uniform(np.log(100), np.log(1000), jets))
    directions = np.random.default_rng(0).normal(size=(inputs - 1, 2)) / np.sqrt(inputs - 1)
    first, second = (features @ directions).T
    noise = (0.05 + 0.1 / (1 + np.exp(-second))) * rng.normal(size=jets)
    return features, reco, reco * (1 + 0.1 * np.tanh(first) + 0.03 * np.sin(2 * second) + noise)


def trained(inputs: int, jets: int, updates: int = 3000) -> Trained:
    """A Bayesian calibrator of toy jets with so many inputs, ln p_T among them."""
    features, reco, truth = toy_jets(inputs, 20_000, seed=1)
    names = [f"x{number}" for number in range(inputs - 1)]
    pairs = hepcal.JetPairs.from_arrays(features, names, reco=reco, truth=truth)
    method = hepcal.BNN(hidden=HIDDEN, draws=DRAWS, max_updates=updates, patience=updates)
    calibrator = hepcal.train(pairs, method, seed=1, show=False)
    features, reco, _ = toy_jets(inputs, -(-jets // BLOCK) * BLOCK, seed=2)
    raw = torch.from_numpy(np.concatenate([reco[None], features.T]).astype(np.float32))
    layout = DenseLayout((inputs, *HIDDEN, 2))
    return Trained(calibrator, layout, features, reco.astype(np.float32), calibrator.inputs(raw))


@torch.no_grad()
def check(sample: Trained, peers: dict[str, torch.nn.Module]) -> None:
    """Print how the predicted means agree with hepcal's draws: all cases must compute the same thing.

    Two sets of 50 draws differ by 0.2 sigma_pred in the mean.
    """
    x = sample.inputs[:, :BLOCK].contiguous()
    draws = _networks(sample)(x)[:, 0].double()
    centre, spread = draws.mean(0), draws.std(0)
    found = {}
    for name, network in peers.items():
        other = passes(network, x.T, DRAWS)[:, :, 0].double()
        found[name] = other.mean(0), other.std(0)
    mean, _, sigma_pred = _moments(sample)(x)
    found["hepcal, moments"] = mean, sigma_pred
    for name, (mean, sigma_pred) in found.items():
        shift = ((mean - centre) / spread).square().mean().sqrt()
        ratio = (sigma_pred / spread).median()
        print(f"  {name}: mean within {shift:.2f} sigma_pred (rms), sigma_pred ratio {ratio:.2f} (median)")


def _networks(sample: Trained) -> WeightDraws:
    return WeightDraws(sample.layout, sample.calibrator.tensors["draws"], CPU)


def _moments(sample: Trained) -> MomentPropagation:
    tensors = sample.calibrator.tensors
    return MomentPropagation(sample.layout, tensors["posterior_mean"], tensors["posterior_sigma"], CPU)


def _peers(sample: Trained) -> dict[str, torch.nn.Module]:
    posterior = sample.calibrator.tensors["posterior_mean"], sample.calibrator.tensors["posterior_sigma"]
    return {
        FLIPOUT: bayesian_torch_flipout(sample.layout, *posterior),
        TORCHBNN: torchbnn_network(sample.layout, *posterior),
    }


def cases(sample: Trained, peers: dict[str, torch.nn.Module]) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    networks, moments, rows = _networks(sample), _moments(sample), sample.inputs.T.contiguous()
    # As calibrators do: raw inputs are cut into blocks. Here the "raw" inputs are the standardised ones.
    columns, first = sample.inputs[1:].T.numpy(), sample.inputs[0].numpy()

    def in_blocks(evaluate: Callable[[torch.Tensor], object]) -> Callable[[], object]:
        def work(part: slice, block: torch.Tensor) -> None:
            evaluate(block)

        return lambda: map_blocks(work, columns, first)

    def loop(network: torch.nn.Module) -> Callable[[], object]:
        return lambda: passes(network, rows, DRAWS)

    return {
        **{name: loop(network) for name, network in peers.items()},
        "hepcal, draws": in_blocks(networks),
        "hepcal, predict (all columns, GeV)": lambda: sample.calibrator.predict(sample.features, sample.reco),
        "hepcal, moments": in_blocks(moments),
        PEAK: Gemm(),
    }


def table(sample: Trained, timed: Rounds, kind: str) -> None:
    """Print shares of the peak and factors over the libraries."""
    gemm = Gemm()
    inputs, jets = sample.layout.sizes[0], len(sample.reco)
    print(f"\n{inputs} inputs, {jets} jets, {DRAWS} draws, {kind}; median (quartiles)")
    print(f"  peak: {timed.rate(PEAK, gemm.flops / 1e9)} GFLOP/s")
    print(f"  {'case':36s} {'share of peak':24s} {'x bayesian-torch':22s} x torchbnn")
    for name in timed.seconds:
        if name != PEAK:
            share = timed.share(name, sample.flops, PEAK, gemm.flops)
            over = (timed.speed_up(name, peer) for peer in (FLIPOUT, TORCHBNN))
            print(f"  {name:36s} {share!s:24s} {next(over)!s:22s} {next(over)}")


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """So many torch threads inside, the previous number after."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    """Train, check, time, print."""
    parser = argparse.ArgumentParser(description="Speed of inference, as ratios")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--jets", type=int, default=4096)
    parser.add_argument("--inputs", type=int, nargs="+", default=[10, 400])
    arguments = parser.parse_args()
    available = cores()
    for inputs in arguments.inputs:
        sample = trained(inputs, arguments.jets)
        peers = _peers(sample)
        print(f"\n== {inputs} inputs: copies of one trained posterior in all cases")
        check(sample, peers)
        timed = cases(sample, peers)
        with torch_threads(1), threads(1):
            table(sample, play(timed, arguments.rounds), "one thread, CPU time")
        if available > 1:
            with torch_threads(available), threads(available):
                kind = f"{available} threads, wall time (hepcal: one worker thread per core)"
                table(sample, play(timed, arguments.rounds, clock=time.perf_counter), kind)


if __name__ == "__main__":
    main()
