"""Networks that are the average of their last updates: what noise of the batches leaves behind, averages out.

At a constant step size the weights do not come to rest but wander around the optimum. What all jets have in common,
such as the mean response, wanders with them, and more than what other events would change. The average over the last
updates (Polyak and Juditsky, SIAM J. Control Optim. 30 (1992) 838) does not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hepcal.networks.dense import DenseLayout
from hepcal.networks.members import Members
from hepcal.networks.objectives import MembersObjective

__all__ = ["AveragedMembers", "AveragedObjective"]


class AveragedMembers(Members):
    """Networks with the running average of their parameters, of which a held-out loss is that of the average.

    Args:
        layout: The network.
        count: How many.
        generator: Random numbers for the starting points.
        updates: Updates that the average goes over, exponentially weighted.
    """

    average: torch.Tensor
    seen: torch.Tensor

    def __init__(self, layout: DenseLayout, count: int, generator: torch.Generator, updates: int) -> None:
        super().__init__(layout, count, generator)
        self._updates = updates
        self.register_buffer("average", self.weights.detach().clone())
        # One for each of several networks, as all that a training keeps of them.
        shape = () if count == 1 else (count,)
        self.register_buffer("seen", torch.zeros(shape, dtype=torch.float32, device="cpu"))

    @torch.no_grad()
    def follow(self) -> None:
        """Take the present parameters into the average; as long as there are few, each counts alike."""
        self.seen += 1
        self.average.lerp_(self.weights, 1 / min(float(self.seen.max()), self._updates))

    def one(self, member: int, x: torch.Tensor) -> torch.Tensor:
        """Outputs (batch, out) of the average of one network."""
        return self.layout.forward(self.average[member], x)


class AveragedObjective(MembersObjective):
    """The same loss, of networks whose averages are judged and kept."""

    module: AveragedMembers

    def backward(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, generator: torch.Generator) -> None:
        """See :meth:`Objective.backward`."""
        self.module.follow()
        super().backward(x, y, w, generator)

    def tensors(self, generator: torch.Generator) -> Mapping[str, torch.Tensor]:  # noqa: ARG002
        """The averages."""
        return {"draws": self.module.average}
