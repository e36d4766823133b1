"""Forward passes over many jets: feature-major blocks of a fixed shape, one saved weight draw after another.

A block holds ``BLOCK`` jets as columns, so that every layer is one matrix product with the jets contiguous. The bias
is an extra column of the weights; a constant row of ones survives the ReLU. Blocks always have the same shape (the
last one is padded), so a jet gets the same bits whatever jets are beside it, in whatever chunk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from hepcal.networks.dense import DenseLayout

__all__ = ["BLOCK", "WeightDraws", "blocks", "single_threaded"]

# A multiple of every vector width: with a remainder, the last jets of a block would take another code path and
# differ from the same jets elsewhere in their last bits.
BLOCK = 1024


class WeightDraws:
    """A set of networks of one layout, ready for inference.

    Args:
        layout: The network.
        draws: Parameters, float32 of shape (draws, count).
        device: Where to compute.
    """

    def __init__(self, layout: DenseLayout, draws: torch.Tensor, device: torch.device) -> None:
        self.device = device
        self.count = len(draws)
        self.layers = [
            _with_bias_column(weight, bias, last=number == len(layout.sizes) - 2).to(device)
            for number, (weight, bias) in enumerate(layout.split(draws))
        ]
        self._layout = layout
        self._scratch = threading.local()

    def _buffers(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Workspace of the calling thread, allocated once."""
        if not hasattr(self._scratch, "buffers"):
            hidden = [torch.empty((layer.shape[1], BLOCK), device=self.device) for layer in self.layers[:-1]]
            self._scratch.buffers = hidden, torch.empty((self.count, self._layout.sizes[-1], BLOCK), device=self.device)
        buffers: tuple[list[torch.Tensor], torch.Tensor] = self._scratch.buffers
        return buffers

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs (draws, out, BLOCK) for inputs (d, BLOCK); overwritten by the next call in the same thread."""
        buffers, outputs = self._buffers()
        first = torch.cat([inputs, torch.ones_like(inputs[:1])]).to(self.device)
        for draw in range(self.count):
            hidden = first
            for layer, buffer in zip(self.layers, buffers, strict=False):
                torch.mm(layer[draw], hidden, out=buffer)
                hidden = buffer.clamp_min_(0)
            torch.mm(self.layers[-1][draw], hidden, out=outputs[draw])
        return outputs


def _with_bias_column(weight: torch.Tensor, bias: torch.Tensor | None, *, last: bool) -> torch.Tensor:
    """(draws, out, in) and (draws, out) to (draws, out [+ 1], in + 1); the added row passes the one on."""
    draws, out, fan_in = weight.shape
    full = torch.zeros((draws, out if last else out + 1, fan_in + 1))
    full[:, :out, :fan_in] = weight
    if bias is not None:
        full[:, :out, fan_in] = bias
    if not last:
        full[:, out, fan_in] = 1
    return full


def blocks(features: np.ndarray, reco: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
    """Cut jets into raw feature-major blocks (1 + d, BLOCK): p_T first; the last block repeats its first jet.

    Args:
        features: float32 of shape (n, d).
        reco: Detector-level p_T [GeV], float32 of shape (n,).
    """
    block = torch.empty((1 + features.shape[1], BLOCK), dtype=torch.float32)
    content = block.numpy()  # a view: filling it copes with memory-mapped columns, which torch does not take
    for start in range(0, len(reco), BLOCK):
        stop = min(start + BLOCK, len(reco))
        size = stop - start
        content[0, :size] = reco[start:stop]
        content[1:, :size] = features[start:stop].T
        content[:, size:] = content[:, :1]
        yield slice(start, stop), block


@contextmanager
def single_threaded() -> Iterator[None]:
    """One torch thread inside, the previous number after.

    Products of this size are slower on two threads than on one, most of all on a busy machine, and training must not
    depend on the number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
