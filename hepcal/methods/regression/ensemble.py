"""A deep ensemble: networks trained at once on bootstrap samples or on parts of the sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from hepcal.distributions import Jets
from hepcal.distributions.on_demand import OfJets
from hepcal.distributions.uncertainties import of_sample_means, variance_components
from hepcal.errors import CalibratorFileError, TrainingError
from hepcal.events.columns import REPLICAS
from hepcal.methods.base import SIGMA_PRED, SIGMA_STOCH, SIGMA_TOT
from hepcal.methods.regression.heteroscedastic import members_of
from hepcal.methods.regression.network import NetworkCalibrator
from hepcal.methods.regression.settings import DensityMethod
from hepcal.networks.objectives import MembersObjective, Objective, TrainingSet
from hepcal.tables.rows import Rows

__all__ = ["Ensemble", "EnsembleCalibrator"]

EVENTS_AT_ONCE = 100_000
# Bins in which the share of the sample is found, and jets that each needs.
SHARES, JETS_PER_SHARE = 6, 100
SMALLEST = 1e-30


class Ensemble(DensityMethod):
    """Networks on bootstrap samples, whose spread is sigma_pred: recommended for statistical errors.

    Attributes:
        n: Number of networks.
        starts: Networks on each bootstrap sample, which differ in their starting points: only with two or more can what
            the events contribute to the spread be told from what the training does, which averages out in the mean of
            the networks. Default: two, where n is even and at least four. sigma_pred is then the error of that mean
            (:func:`hepcal.distributions.uncertainties.of_sample_means`), otherwise the spread of the networks, which is
            larger.
        sample: ``bootstrap`` gives every event a Poisson(1) multiplicity per sample; ``parts`` gives every network
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
    starts: Annotated[int, Field(ge=1)] | None = None
    sample: Literal["bootstrap", "parts", "same"] = "bootstrap"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _whole_samples(self) -> Ensemble:
        if self.starts is not None and self.starts > 1 and (self.n % self.starts or self.n == self.starts):
            raise ValueError(
                f"{self.n} networks cannot be {self.starts} each on two or more samples: choose n = starts * samples"
            )
        if self.starts is not None and self.starts > 1 and self.sample != "bootstrap":
            raise ValueError(f"starts are of bootstrap samples, not of sample={self.sample!r}: leave it out")
        return self

    @property
    def starts_per_sample(self) -> int:
        """Networks on each bootstrap sample; one where samples are no bootstraps."""
        if self.sample != "bootstrap":
            return 1
        return self.starts or (2 if self.n % 2 == 0 and self.n >= 4 else 1)

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
        drawn = None
        if self.sample == "bootstrap":
            starts = self.starts_per_sample
            drawn = bootstrap(sample, self.n // starts, generator).repeat_interleave(starts, 1)
        return MembersObjective(
            networks,
            head,
            0.5 / (self.prior_width**2 * n_eff),
            multiplicity=drawn if rows is None else of_parts(sample, rows),
            parts=rows,
            autograd=self.autograd,
        )

    def examined(
        self, objective: Objective, seen: Callable[[], tuple[torch.Tensor, np.ndarray]]
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """See :meth:`NetworkMethod.examined`: the share of the sample in the variance, by p_T.

        One jet hardly knows it: it is that of all jets in bins of equal numbers, negative variances of the sample
        included, as a line between their centres in ln p_T.
        """
        starts = self.starts_per_sample
        if starts == 1 or not isinstance(objective, MembersObjective):
            return {}, {}
        x, pt = seen()
        order = np.argsort(pt, kind="stable")
        bins = np.array_split(order, max(1, min(SHARES, len(pt) // JETS_PER_SHARE)))
        with torch.no_grad():
            each = [objective.head.mean(objective.module.one(k, x)).double().cpu().numpy() for k in range(self.n)]
        sample, procedure = variance_components(np.stack(each).reshape(-1, starts, len(pt)))
        whole = np.array([[np.log(pt[rows]).mean(), sample[rows].mean(), procedure[rows].mean()] for rows in bins])
        share = np.clip(whole[:, 1] / np.maximum(whole[:, 1] + whole[:, 2], SMALLEST), 0, 1)
        tensors = {"sample_share": torch.from_numpy(np.stack([whole[:, 0], share]).astype(np.float32))}
        return tensors, {"sample_share": float(sample.mean() / max(sample.mean() + procedure.mean(), SMALLEST))}

    @property
    def networks(self) -> int:
        """See :attr:`NetworkMethod.networks`."""
        return self.n


class EnsembleCalibrator(NetworkCalibrator):
    """A trained ensemble; ``pt_calib`` is the mean of its means.

    With several starts per bootstrap sample, replicas are the means of the samples, scaled so that their spread is the
    error of ``pt_calib``. Files of earlier versions keep the spread of the networks.
    """

    method = Ensemble
    sigmas = Ensemble.uncertainties

    def _prepare(self) -> None:
        super()._prepare()
        self._share: np.ndarray | None = None
        if "sample_share" not in self.tensors:
            return
        settings = Ensemble.model_validate(self.card.settings)
        self._starts = settings.starts_per_sample
        self.replicas = settings.n // self._starts
        self._share = self.require("sample_share", (2, self.tensors["sample_share"].shape[-1])).double().numpy()
        if not ((np.diff(self._share[0]) > 0).all() and ((self._share[1] >= 0) & (self._share[1] <= 1)).all()):
            raise CalibratorFileError("tensor 'sample_share' needs rising knots in ln p_T and shares between 0 and 1")

    def _moments(self, outputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        if self._share is None:
            return super()._moments(outputs, pt, replicas=replicas)
        found = self._head.distribution(outputs)
        mean = found.means() * self.target.scale + self.target.location
        of_samples = mean.reshape(self.replicas, self._starts, -1).mean(1)
        center = of_samples.mean(0)
        factor = of_sample_means(np.interp(np.log(pt), *self._share), self.replicas, self._starts)
        away = factor * (of_samples - center)
        stoch = np.sqrt(found.variances().mean(0)) * self.target.scale
        pred = np.sqrt(np.square(away).sum(0) / (self.replicas - 1))
        columns = self._with_total(center, stoch, pred, pt)
        return columns | ({REPLICAS: ((center + away) * pt).T} if replicas else {})

    def pt_by_network(self, inputs: torch.Tensor, pt: np.ndarray) -> np.ndarray:
        """See :meth:`Calibrator.pt_by_network`."""
        return self.moments_by_network(inputs, pt)[0] if self._share is not None else super().pt_by_network(inputs, pt)

    def _by_network(self, features: Rows, reco: np.ndarray) -> Callable[[Jets], np.ndarray] | None:
        return OfJets(self._replicas, features, reco) if self._share is not None else None


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
