"""The posterior of a whole network by Hamiltonian Monte Carlo, beside its Laplace approximation: inference or model?

One training of ``hepcal.Hessian`` on one of the samples of ``disjoint.py``, and then, for its jets, its likelihood and
its prior, draws of all weights (Duane et al., Phys. Lett. B 195 (1987) 216) with a mass matrix that is the Hessian of
``hepcal.networks.curvature``. Where the two posteriors agree and the spread of trainings does not, the model (its
likelihood and prior) is wrong; where they do not, the inference.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from disjoint import plain, write
from samples import qcd, toy

import hepcal
from hepcal.methods.card import Card
from hepcal.networks.curvature import Curvature, Laplace
from hepcal.networks.dense import DenseLayout
from hepcal.networks.heads import Head
from hepcal.networks.jacobian import JacobianRows, Linearisation
from hepcal.progress import Progress

SAMPLES = {"qcd": qcd, "toy": toy}
SEED = 1_000
# Leapfrog steps of a trajectory, half of them to once as many, and what share of trajectories should be accepted.
STEPS, ACCEPTED = 40, 0.8
# Jets that the mass matrix is made of, and jets on which the posteriors are compared.
MASS_JETS, TESTED = 500, 600


class Posterior:
    """-ln of the density of the weights of a network, and a mass matrix: the Hessian at a start, from some of the jets.

    Args:
        layout: The network.
        head: The likelihood.
        x: Standardised inputs of the jets of the training, shape (n, d).
        y: Their standardised targets, shape (n,).
        precision: Of the prior of every weight.
        start: Weights.
    """

    def __init__(
        self, layout: DenseLayout, head: Head, x: torch.Tensor, y: torch.Tensor, precision: float, start: torch.Tensor
    ) -> None:
        self.layout, self.head, self.x, self.y = layout, head, x, y
        self.precision, self.start = precision, start
        typical = slice(None, None, -(-len(x) // MASS_JETS))
        linear = Linearisation(layout, start, x[typical])
        roots = head.fisher_root(linear.outputs, torch.Generator().manual_seed(SEED))
        share = torch.full((len(linear.outputs),), len(x) / len(linear.outputs), dtype=torch.float64).sqrt()
        rows = JacobianRows.joined([linear.rows(root).scaled(share) for root in roots])
        gram = rows.kernel(rows)
        gram.diagonal().add_(precision)
        self._cholesky = torch.linalg.cholesky(gram).float()
        self._rows = rows.combined(torch.eye(len(rows), dtype=torch.float64)).float()

    def momentum(self, generator: torch.Generator) -> torch.Tensor:
        """A draw of N(0, H)."""
        along = torch.randn(len(self._rows), generator=generator)
        rest = torch.randn(len(self.start), generator=generator)
        return self._rows.T @ along + math.sqrt(self.precision) * rest

    def velocity(self, momentum: torch.Tensor) -> torch.Tensor:
        """H^-1 p."""
        back = torch.cholesky_solve((self._rows @ momentum)[:, None], self._cholesky)[:, 0]
        return (momentum - self._rows.T @ back) / self.precision

    def gradient(self, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        """-ln of the density, and its gradient."""
        leaf = weights.clone().requires_grad_()
        nll = self.head.nll(self.layout.forward(leaf, self.x), self.y).double().sum()
        value = nll + self.precision / 2 * leaf.double().square().sum()
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value), gradient


def chain(posterior: Posterior, jets: torch.Tensor, draws: int, warm: int, seed: int, title: str) -> dict[str, Any]:
    """Means of jets under the draws of one chain, shape (draws, jets), which begins at a draw of N(w*, H^-1)."""
    generator = torch.Generator().manual_seed(seed)
    weights = posterior.start + posterior.velocity(posterior.momentum(generator)) * 0.5
    step, log_step, log_average, error = 0.2, math.log(0.2), 0.0, 0.0
    found, taken = [], []
    value, gradient = posterior.gradient(weights)
    with Progress(title, warm + draws, "trajectories") as bar:
        for number in range(warm + draws):
            momentum = posterior.momentum(generator)
            velocity = posterior.velocity(momentum)
            before = value + 0.5 * float(momentum @ velocity)
            steps = int(torch.randint(STEPS // 2, STEPS + 1, (), generator=generator))
            there, slope = weights, gradient
            for _ in range(steps):
                momentum = momentum - step / 2 * slope
                there = there + step * posterior.velocity(momentum)
                there_value, slope = posterior.gradient(there)
                momentum = momentum - step / 2 * slope
            after = there_value + 0.5 * float(momentum @ posterior.velocity(momentum))
            chance = min(1.0, math.exp(min(0.0, before - after))) if math.isfinite(after) else 0.0
            if float(torch.rand((), generator=generator)) < chance:
                weights, value, gradient = there, there_value, slope
            if number < warm:
                # Dual averaging (Hoffman and Gelman, arXiv:1111.4246, Algorithm 5).
                m = number + 1
                error += (ACCEPTED - chance - error) / (m + 10)
                log_step = math.log(2.0) - math.sqrt(m) / 0.05 * error
                log_average = m**-0.75 * log_step + (1 - m**-0.75) * log_average
                step = math.exp(log_step if m < warm else log_average)
            else:
                taken.append(chance)
                with torch.no_grad():
                    found.append(posterior.head.mean(posterior.layout.forward(weights, jets)).numpy())
            bar.advance(1)
    return {"means": np.stack(found), "accepted": float(np.mean(taken)), "step": step}


def effective(chains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effective number of draws and split-R-hat of numbers (chains, draws, n) (Gelman et al., BDA3, Sec. 11)."""
    half = chains.shape[1] // 2
    split = np.concatenate([chains[:, :half], chains[:, half : 2 * half]])
    count, length = split.shape[:2]
    within = split.var(axis=1, ddof=1).mean(0)
    between = length * split.mean(1).var(axis=0, ddof=1)
    total = (length - 1) / length * within + between / length
    away = split - split.mean(1, keepdims=True)
    size = 2 * length
    power = np.abs(np.fft.rfft(away, n=size, axis=1)) ** 2
    covariance = np.fft.irfft(power, n=size, axis=1)[:, :length].mean(0) / length
    rho = 1 - (within - covariance) / total
    # Geyer's initial positive sequence: sums of neighbouring pairs, until the first that is not positive.
    pairs = rho[: length // 2 * 2].reshape(length // 2, 2, -1).sum(1)
    positive = np.cumprod(pairs > 0, axis=0)
    tau = np.maximum(2 * (pairs * positive).sum(0) - 1, 1 / math.log10(count * length))
    return count * length / tau, np.sqrt(total / within)


def laplace(posterior: Posterior, jets: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the predictions of jets by the Hessian of all jets of the training, and the predictions, (jets,)."""
    linear, n = Linearisation(posterior.layout, posterior.start, posterior.x), len(posterior.x)
    roots = posterior.head.fisher_root(linear.outputs, torch.Generator().manual_seed(SEED))
    fisher = JacobianRows.joined([linear.rows(root) for root in roots])
    weights = Laplace(Curvature(fisher, n, posterior.precision / n), n)
    at_jets = Linearisation(posterior.layout, posterior.start, jets)
    rows = at_jets.rows(posterior.head.mean_gradient(at_jets.outputs))
    own = posterior.head.mean(at_jets.outputs)
    return weights.covariance(rows).diagonal().sqrt().numpy(), own.numpy()


def prepared(name: str, data: Path, output: Path, size: int) -> tuple[Posterior, torch.Tensor]:
    """The posterior around a trained network, and standardised inputs of jets on which it is looked at."""
    sample = SAMPLES[name](data, output / "tables")
    method = hepcal.Hessian()
    table = sample.part(0, size)
    calibrator = hepcal.train(table, method, seed=SEED, show=False)
    fitted, _ = table.split(1 - method.validation, SEED)
    head = method.build_head()

    def inputs(pairs: hepcal.JetPairs) -> torch.Tensor:
        raw = np.column_stack([pairs.reco, pairs.features]).T.astype(np.float32)
        return calibrator.inputs(torch.from_numpy(np.ascontiguousarray(raw))).T.contiguous()

    y = (fitted.truth.astype(np.float64) / fitted.reco - calibrator.target.location) / calibrator.target.scale
    layout = DenseLayout((len(calibrator.inputs.transforms), *method.hidden, head.outputs))
    targets = torch.from_numpy(y.astype(np.float32))
    start = calibrator.tensors["draws"][0]
    posterior = Posterior(layout, head, inputs(fitted), targets, 1 / method.prior_width**2, start)
    return posterior, inputs(sample.part(1, size).take(np.arange(min(size, TESTED))))


def one_chain(name: str, data: Path, output: Path, size: int, draws: int, warm: int, number: int) -> dict[str, Any]:
    """One chain, in a process of its own."""
    torch.set_num_threads(1)
    posterior, jets = prepared(name, data, output, size)
    return chain(posterior, jets, draws, warm, SEED + number, f"{name}, {size} jets, chain {number}")


def main(
    data: Annotated[Path, typer.Option(help="Folder with qcd/ and top/.")],
    output: Annotated[Path, typer.Option(help="Where tables and results go.")] = Path("results"),
    sample: Annotated[str, typer.Option(help=", ".join(SAMPLES))] = "qcd",
    size: Annotated[int, typer.Option(help="Jets of the training.")] = 2_000,
    draws: Annotated[int, typer.Option(help="Trajectories of each chain that count.")] = 600,
    warm: Annotated[int, typer.Option(help="Trajectories before that.")] = 200,
    chains: Annotated[int, typer.Option(help="Chains, side by side.")] = 2,
) -> None:
    """Compare the posteriors, and add to ``reference.json``."""
    posterior, jets = prepared(sample, data, output, size)
    sigma, own = laplace(posterior, jets)
    with ProcessPoolExecutor(chains, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(one_chain, sample, data, output, size, draws, warm, k) for k in range(chains)]
        each = [one.result() for one in waiting]
    means = np.stack([one["means"] for one in each])
    flat = means.reshape(-1, means.shape[-1])
    n, r_hat = effective(means)
    exact = flat.std(axis=0, ddof=1)
    found = {
        "accepted": [one["accepted"] for one in each],
        "step": [one["step"] for one in each],
        "effective_draws": {"median": float(np.median(n)), "smallest": float(n.min())},
        "r_hat": {"median": float(np.median(r_hat)), "largest": float(r_hat.max())},
        "laplace_over_exact": float(np.sqrt(np.square(sigma).mean() / np.square(exact).mean())),
        "by_jet": [float(q) for q in np.quantile(sigma / exact, (0.16, 0.5, 0.84))],
        "network_from_mean": float(np.sqrt(np.mean(np.square(own - flat.mean(0))) / np.square(exact).mean())),
        "versions": Card.software(),
    }
    target = output / "reference.json"
    content = json.loads(target.read_text()) if target.exists() else {}
    content.setdefault(sample, {})[str(size)] = plain(found)
    write(content, target)
    typer.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
