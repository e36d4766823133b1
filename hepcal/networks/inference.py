"""Forward passes over many jets: feature-major blocks of a fixed shape, one saved weight draw after another.

A block holds ``BLOCK`` jets as columns, so that every layer is one matrix product with the jets contiguous. The bias
is the last column of the weights; it meets a row of ones that each buffer keeps below its units and no product ever
writes. Blocks always have the same shape (the last one is padded), so a jet gets the same bits whatever jets are
beside it, in whatever chunk and on however many threads. On a GPU all draws are one batched product instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import torch

from hepcal.networks.dense import DenseLayout
from hepcal.tables.rows import Rows

__all__ = ["BLOCK", "WeightDraws", "blocks", "fill_block", "new_block", "with_bias_column"]

# A multiple of every vector width: with a remainder, the last jets of a block would take another code path and
# differ from the same jets elsewhere in their last bits.
BLOCK = 1024
# What the hidden layers of a batched product may take on a device.
WORKSPACE_BYTES = 512 * 2**20


class WeightDraws:
    """A set of networks of one layout, ready for inference.

    On a CPU the draws follow one another through buffers that stay in the cache; on other devices they are one
    batched product (:meth:`batched`). Several threads may call one object.

    Args:
        layout: The network.
        draws: Parameters, float32 of shape (draws, count).
        device: Where to compute.
        workspace: Bytes that the hidden layers of :meth:`batched` may take.
    """

    def __init__(
        self, layout: DenseLayout, draws: torch.Tensor, device: torch.device, workspace: int = WORKSPACE_BYTES
    ) -> None:
        self.device = device
        self.count = len(draws)
        self.layers = [with_bias_column(*layer).to(device) for layer in layout.split(draws)]
        # Cut once: taking a draw out of a tensor costs as much as a small layer.
        self._networks = list(zip(*(layer.unbind(0) for layer in self.layers), strict=True))
        self._layout = layout
        self._scratch = threading.local()
        sizes = layout.sizes[1:]
        widest = max(sum(pair) for pair in zip(sizes, (*sizes[1:], 0), strict=True))
        self._jets_at_once = max(1, workspace // (4 * self.count * widest))

    @property
    def block(self) -> int:
        """Jets that one call should get: BLOCK on a CPU, as many as the workspace holds elsewhere."""
        return BLOCK if self.device.type == "cpu" else max(1, self._jets_at_once // BLOCK) * BLOCK

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs of all networks.

        Args:
            inputs: Standardised inputs, float32 of shape (d, n). On a CPU n = BLOCK, or the bits of a jet could
                depend on its place in the block.

        Returns:
            float32 of shape (draws, out, n), on :attr:`device`. On a CPU it is overwritten by the next call in the
            same thread.
        """
        return self._one_by_one(inputs) if self.device.type == "cpu" else self.batched(inputs)

    def _one_by_one(self, inputs: torch.Tensor) -> torch.Tensor:
        buffers, units, outputs = self._buffers(inputs.shape[1])
        first, *hidden = buffers
        units[0].copy_(inputs)
        for network, output in zip(self._networks, outputs, strict=True):
            source = first
            for weight, target, following in zip(network[:-1], units[1:], hidden, strict=True):
                torch.mm(weight, source, out=target).relu_()
                source = following
            torch.mm(network[-1], source, out=output)
        return outputs

    def _buffers(self, jets: int) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Workspace of the calling thread: per layer its inputs with the row of ones, and without; all outputs."""
        if getattr(self._scratch, "jets", None) != jets:
            *inner, out = self._layout.sizes
            buffers = [torch.ones((size + 1, jets), dtype=torch.float32, device="cpu") for size in inner]
            self._scratch.buffers = (
                buffers,
                [buffer[:-1] for buffer in buffers],
                torch.empty((self.count, out, jets), dtype=torch.float32, device="cpu"),
            )
            self._scratch.jets = jets
        found: tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor] = self._scratch.buffers
        return found

    def batched(self, inputs: torch.Tensor) -> torch.Tensor:
        """The same as a call, all draws in one batched product per layer: the form for a GPU.

        Jets are cut so that the hidden layers stay below the workspace. On a CPU this is 1.5 to 3.5 times slower
        than a call and agrees with it up to rounding.

        Args:
            inputs: Standardised inputs, float32 of shape (d, n).

        Returns:
            float32 of shape (draws, out, n), on :attr:`device`, new.
        """
        inputs = inputs.to(self.device)
        outputs = torch.empty(
            (self.count, self._layout.sizes[-1], inputs.shape[1]), device=self.device, dtype=torch.float32
        )
        for start in range(0, inputs.shape[1], self._jets_at_once):
            part = slice(start, start + self._jets_at_once)
            outputs[:, :, part] = self._all_at_once(inputs[:, part])
        return outputs

    def _all_at_once(self, inputs: torch.Tensor) -> torch.Tensor:
        # All draws see the same inputs: the first layer is one wide product.
        draws, units, _ = self.layers[0].shape
        first = self.layers[0].view(draws * units, -1)
        hidden = torch.addmm(first[:, -1:], first[:, :-1], inputs).view(draws, units, -1)
        for layer in self.layers[1:]:
            hidden = torch.baddbmm(layer[:, :, -1:], layer[:, :, :-1], hidden.relu_())
        return hidden


def with_bias_column(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Weights (..., out, in) and biases (..., out) as one tensor (..., out, in + 1); no bias is a column of zeros."""
    column = torch.zeros_like(weight[..., 0]) if bias is None else bias
    return torch.cat([weight, column[..., None]], dim=-1)


def new_block(inputs: int, jets: int = BLOCK) -> torch.Tensor:
    """An empty feature-major block of float32, p_T first, shape (inputs, jets)."""
    return torch.empty((inputs, jets), dtype=torch.float32, device="cpu")


def fill_block(block: torch.Tensor, features: Rows, reco: np.ndarray, start: int) -> slice:
    """Fill a block with the jets from ``start`` on; a short rest is padded with its first jet.

    Args:
        block: float32 of shape (1 + d, jets), on the CPU.
        features: float32 of shape (n, d).
        reco: Detector-level p_T [GeV], float32 of shape (n,).
        start: First jet.

    Returns:
        The jets that the block holds.
    """
    stop = min(start + block.shape[1], len(reco))
    size = stop - start
    content = block.numpy()  # a view: filling it copes with memory-mapped columns, which torch does not take
    content[0, :size] = reco[start:stop]
    content[1:, :size] = features[start:stop].T
    content[:, size:] = content[:, :1]
    return slice(start, stop)


def blocks(features: Rows, reco: np.ndarray, jets: int = BLOCK) -> Iterator[tuple[slice, torch.Tensor]]:
    """Cut jets into raw feature-major blocks (1 + d, jets): p_T first; the last block repeats its first jet.

    The same memory is filled again for every block. To use all cores, see :func:`hepcal.networks.parallel.map_blocks`.

    Args:
        features: float32 of shape (n, d).
        reco: Detector-level p_T [GeV], float32 of shape (n,).
        jets: Jets per block.
    """
    block = new_block(1 + features.shape[1], jets)
    for start in range(0, len(reco), jets):
        yield fill_block(block, features, reco, start), block
