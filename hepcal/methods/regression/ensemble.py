"""A deep ensemble: networks trained at once on bootstrap samples or on parts of the sample."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from hepcal.errors import TrainingError
from hepcal.methods.base import SIGMA_PRED, SIGMA_STOCH, SIGMA_TOT
from hepcal.methods.regression.heteroscedastic import members_of
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.methods.regression.settings import DensityMethod
from hepcal.networks.objectives import MembersObjective, TrainingSet

__all__ = ["Ensemble", "EnsembleCalibrator"]

EVENTS_AT_ONCE = 100_000


class Ensemble(DensityMethod):
    """Networks on bootstrap samples, whose spread is sigma_pred: recommended for statistical errors.

    Attributes:
        n: Number of networks.
        sample: ``bootstrap`` gives every event a Poisson(1) multiplicity per network; ``parts`` gives every network
            its own n-th part of the events (arXiv:2003.11099, Fig. 7: an error for that part, larger by about sqrt(n)
            than that of the whole); ``same`` gives all of them the whole sample, so that only the starting points
            differ, which is no statistical error.
        dropout: Probability to drop a hidden unit in training, none in prediction. The networks of arXiv:2003.11099
            have 0.1, against over-training; it holds the members together, so that their spread is half of what it
            should be for a thousand jets. Stopping on held-out jets does the same without that.
    """

    name: ClassVar[str] = "ensemble"
    calibrator: ClassVar[str] = "hepcal.methods.regression.ensemble:EnsembleCalibrator"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH, SIGMA_PRED, SIGMA_TOT)

    n: Annotated[int, Field(ge=2)] = 40
    sample: Literal["bootstrap", "parts", "same"] = "bootstrap"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def objective(self, sample: TrainingSet, generator: torch.Generator) -> MembersObjective:
        """The negative log-likelihood per jet of every network, with L2 strength 1 / (2 prior_width² N).

        Raises:
            TrainingError: There are fewer events than parts.
        """
        head = self.build_head()
        networks = members_of(
            head, (sample.inputs, *self.hidden), sample.target, generator, self.n, dropout=self.dropout
        )
        n_eff = sample.n_eff / (self.n if self.sample == "parts" else 1)
        rows = parts(sample.event, self.n, generator) if self.sample == "parts" else None
        drawn = bootstrap(sample, self.n, generator) if self.sample == "bootstrap" else None
        return MembersObjective(
            networks,
            head,
            0.5 / (self.prior_width**2 * n_eff),
            multiplicity=drawn if rows is None else of_parts(sample, rows),
            parts=rows,
            autograd=self.autograd,
        )

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return self.n


class EnsembleCalibrator(NetworkCalibrator):
    """A trained ensemble; ``pt_calib`` is the mean of its means."""

    method = Ensemble
    sigmas = Ensemble.uncertainties


def bootstrap(sample: TrainingSet, n: int, generator: torch.Generator) -> torch.Tensor:
    """Factors on the weights of every jet in n bootstrap samples, shape (jets, n); see :meth:`Cells.resampled`."""
    drawn = multiplicities(sample.event, n, generator)
    return drawn if sample.cells is None else torch.from_numpy(sample.cells.resampled(drawn.numpy()))


def of_parts(sample: TrainingSet, rows: torch.Tensor) -> torch.Tensor | None:
    """Factors (jets, 1) that let the positive weights of parts (n, rows) differ as the signed ones do."""
    if sample.cells is None:
        return None
    inside = np.zeros((len(sample.event), len(rows)), dtype=np.uint8)
    for member, of_member in enumerate(rows.numpy()):
        inside[of_member, member] = 1
    return torch.from_numpy(sample.cells.resampled(inside).sum(1, keepdims=True))


def multiplicities(event: np.ndarray, n: int, generator: torch.Generator) -> torch.Tensor:
    """Poisson(1) multiplicity of every jet in n bootstrap samples, uint8 of shape (jets, n), equal within an event."""
    _, number = np.unique(event, return_inverse=True)
    drawn = torch.empty((int(number.max()) + 1, n), dtype=torch.uint8, device="cpu")
    # Some at a time: torch draws them as float32.
    for start in range(0, len(drawn), EVENTS_AT_ONCE):
        part = drawn[start : start + EVENTS_AT_ONCE]
        part.copy_(torch.poisson(torch.ones(part.shape, dtype=torch.float32, device="cpu"), generator=generator))
    return drawn.index_select(0, torch.from_numpy(number))


def parts(event: np.ndarray, n: int, generator: torch.Generator) -> torch.Tensor:
    """Rows of n disjoint parts, int64 of shape (n, rows), every event in one part.

    The last jets of larger parts are left out, so that all have as many.
    """
    _, number = np.unique(event, return_inverse=True)
    events = int(number.max()) + 1
    if events < n:
        raise TrainingError(f"{events} events cannot be cut into {n} parts")
    part = (torch.randperm(events, generator=generator, device="cpu") % n).numpy()[number]
    rows = [np.flatnonzero(part == member) for member in range(n)]
    size = min(len(found) for found in rows)
    return torch.from_numpy(np.stack([found[:size] for found in rows]))
