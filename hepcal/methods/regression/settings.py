"""Settings of the regressions: what all have, and what those have that learn a density."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, ClassVar

from pydantic import Field

from hepcal.methods.base import NetworkMethod, Positive
from hepcal.networks.heads import Head, HeadName, head_of

__all__ = ["DensityMethod", "Regression"]


class Regression(NetworkMethod, ABC):
    """Networks that learn y = pt_truth / pt_reco given the inputs."""

    learner: ClassVar[str] = "hepcal.methods.regression.learning:learn"


class DensityMethod(Regression, ABC):
    """Methods that learn a density of y = pt_truth / pt_reco given the inputs.

    Attributes:
        head: ``gaussian``; ``mixture`` of Gaussians (arXiv:2003.11099, Eq. 16); or ``tails``, a double-sided
            Crystal Ball (Gaussian core, power-law tails) on a broad Gaussian, for the response of real jets.
        components: Number of Gaussians of a mixture.
        prior_width: Width of the Gaussian prior of every weight. For networks without a posterior it sets the L2
            strength 1 / (2 prior_width² N) per jet.
    """

    head: HeadName = "gaussian"
    components: Positive = 3
    prior_width: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.1

    def build_head(self) -> Head:
        """See :meth:`NetworkMethod.build_head`."""
        return head_of(self.head, self.components)
