"""What learns each method."""

from __future__ import annotations

from collections.abc import Callable

from hepcal.training import ansatz, generalised, inversion, likelihood, noisy_labels, regression, summary, transport
from hepcal.training.learned import Learned, Task

__all__ = ["LEARNERS"]

Learner = Callable[[Task], Learned]

LEARNERS: dict[str, Learner] = {
    "bnn": regression.learn,
    "heteroscedastic": regression.learn,
    "mse": regression.learn,
    "dropout": regression.learn,
    "ensemble": regression.learn,
    "inversion": inversion.learn,
    "generalised_inversion": generalised.learn,
    "gaussian_ansatz": ansatz.learn,
    "likelihood": likelihood.learn,
    "summary_likelihood": summary.learn,
    "noisy_labels": noisy_labels.learn,
    "transport": transport.learn,
}
