"""Summary first, then forward: all features without the prior."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, SerializeAsAny, field_serializer, field_validator, model_validator

from hepcal.errors import CalibratorFileError
from hepcal.events.features import Features
from hepcal.methods.likelihood.calibrator import Likelihood, LikelihoodCalibrator
from hepcal.methods.registry import is_regression, method_of, regressions
from hepcal.methods.regression.ensemble import Ensemble
from hepcal.methods.regression.paired import paired
from hepcal.methods.regression.settings import Regression

__all__ = ["SummaryLikelihood", "SummaryLikelihoodCalibrator"]

PART = "summary"
# Smallest summary, relative to the detector-level p_T: a logarithm follows.
SMALLEST = 1e-3


class SummaryLikelihood(Likelihood):
    """A regression of all features as a summary, then its density at fixed truth, inverted.

    The summary s(jet) may depend on the truth spectrum of its training; it is only a variable. What is inverted is
    p(s | truth), learned on other events, which does not. So the information of all features is kept without the
    prior. Networks are paired: network k of the density belongs to network k of the summary, so that sigma_pred holds
    the statistical errors of both.

    Where jets are few, or the spectrum turns, a regression may be worse than the detector-level p_T. What is inverted
    is ln reco + trust (ln s - ln reco), with the trust between 0 and 1 that resolves best, a function of reco p_T. Each
    network takes it from its own bootstrap sample, so that sigma_pred holds this choice, too. With
    ``where_it_loses="flag"`` the trust is one, and jets are out of range where the summary resolves worse than reco
    p_T: part of what a summary gains at the peak of its spectrum it takes from there. ``resolution_over_reco_LOW_HIGH``
    in the figures of the card is the resolution of what is inverted over that of reco p_T alone, on held-out jets, by
    truth [GeV].

    Attributes:
        summary: A regression, e.g. ``hepcal.Ensemble(...)``; with several networks, as many as ``n``. With a single
            network, ``sigma_pred`` leaves out the statistical error of the summary.
        summary_share: Share of the events that the summary is trained on; the density is learned from the others.
        where_it_loses: ``blend`` trusts the summary as far as it resolves; ``flag`` trusts it, flags the rest, and
            refuses a summary that resolves worse everywhere.
    """

    name: ClassVar[str] = "summary_likelihood"
    learner: ClassVar[str] = "hepcal.methods.likelihood.summary_learning:learn"
    calibrator: ClassVar[str] = "hepcal.methods.likelihood.summary:SummaryLikelihoodCalibrator"

    sample: Literal["bootstrap", "same"] = "bootstrap"
    summary: SerializeAsAny[Regression] = Ensemble(
        n=20, starts=1, hidden=(50, 50), batch=500, learning_rate=3e-3, schedule="cosine", max_updates=4_000
    )
    summary_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    where_it_loses: Literal["blend", "flag"] = "blend"

    @field_validator("summary", mode="before")
    @classmethod
    def _named(cls, summary: Any) -> Any:
        """From a mapping with the name of the method, as in a card or a configuration file."""
        if not isinstance(summary, dict):
            return summary
        settings = dict(summary)
        name = settings.pop("method", None)
        if not is_regression(name, Regression):
            known = ", ".join(regressions(Regression))
            raise ValueError(f"a summary needs 'method', one of {known}; found {name!r}")
        return method_of(name).model_validate(settings)

    @field_validator("summary")
    @classmethod
    def _paired(cls, summary: Regression) -> Regression:
        return paired(summary, "a summary")

    @field_serializer("summary")
    def _with_name(self, summary: Regression) -> dict[str, Any]:
        return {"method": summary.name, **summary.model_dump(mode="json")}

    @model_validator(mode="after")
    def _fitting(self) -> SummaryLikelihood:
        if not is_regression(self.summary.name, Regression):
            known = ", ".join(regressions(Regression))
            raise ValueError(f"the summary is a regression: one of {known}; found {self.summary.name!r}")
        if self.summary.networks not in (1, self.n):
            raise ValueError(
                f"the summary has {self.summary.networks} networks and n is {self.n}: give both the same number"
            )
        return self

    def keeps(self, spec: Features) -> Features:
        """All inputs."""
        spec.selected(self.conditions)
        return spec


class SummaryLikelihoodCalibrator(LikelihoodCalibrator):
    """A trained summary with the inversion of its response."""

    method = SummaryLikelihood

    def _prepare(self) -> None:
        super()._prepare()
        card = self.card.parts.get(PART)
        if card is None or not is_regression(card.method, Regression):
            raise CalibratorFileError("the card names no summary that this version knows")
        self.summary = self.part(PART, card.method)
        self.block = min(self.block, self.summary.block)
        self._reco_response = float(self.require("reco_response", (1,)))
        self._trust = self._trusted()

    def _trusted(self) -> tuple[np.ndarray, np.ndarray]:
        """Knots in ln p_T (K,), rising, and how far each network is trusted there (1 or M, K).

        All the way in files without; one row stands for all networks.
        """
        if "trust" not in self.tensors:
            return np.zeros(1), np.ones((1, 1))
        shape = self.tensors["trust"].shape
        rows = 2 if shape[:1] == (2,) else 1 + max(self.summary.replicas, 1)
        knots, *trust = self.require("trust", (rows, max([1, *shape[1:2]]))).double().numpy()
        if not ((np.diff(knots) > 0).all() and np.min(trust) >= 0 and np.max(trust) <= 1):
            raise CalibratorFileError("tensor 'trust' needs rising knots and shares between 0 and 1")
        return knots, np.stack(trust)

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:
        found = super()._evaluate(inputs, pt, replicas=replicas)
        # A regression makes every jet look like those that it was trained on: only the p_T tells one from outside.
        zeta = np.log(pt) - self._reco_response
        found["pt_calib_in_range"] &= (zeta >= self._support[0]) & (zeta <= self._support[1])
        return found

    def _measured(self, inputs: torch.Tensor, pt: np.ndarray) -> torch.Tensor:
        own = self.summary.inputs.again(inputs, self.inputs)
        value = self.summary.pt_by_network(own, pt)
        log_pt, (knots, trust) = np.log(pt), self._trust
        log_summary = np.log(np.maximum(value.astype(np.float64), SMALLEST * pt))
        share = np.stack([np.interp(log_pt, knots, row) for row in trust])
        return torch.from_numpy(log_pt + share * (log_summary - log_pt))
