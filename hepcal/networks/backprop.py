"""Hand-written forward and backward passes of dense networks, in buffers that are allocated once.

Automatic differentiation of these small networks spends most of its time on bookkeeping. The passes here do the same
arithmetic as the modules under autograd, with the same random numbers; the gradients agree to rounding. Every view
that a pass needs is made once: making one costs as much as a small sum. Products that belong together are one batched
product: means and variances of one layer, or the same layer of several networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hepcal.networks.bayesian import VARIANCE_FLOOR
from hepcal.networks.dense import DenseLayout

__all__ = ["LocalBackprop", "NetworkBackprop"]

# From outputs (..., rows, out) to the derivatives of the loss of each row by them.
OutputGradient = Callable[[torch.Tensor], torch.Tensor]

# Rows of all networks of one group together. Their buffers stay in a second-level cache of 2 MB; with fewer rows the
# calls cost more than the arithmetic.
ROWS_AT_ONCE = 1000

mask_by_relu = torch.ops.aten.threshold_backward.grad_input


class _LocalLayer:
    """Views of one layer.

    Pairs have a leading dimension of two: what belongs to the means of the weights, and what belongs to their
    variances.

    Args:
        weights: Means and variances, shape (2, out, in + 1).
        gradient: Where their derivatives go.
        signal: Derivatives by the pre-activations, shape (2, rows * out). The second row comes as noise.
        scratch: Two vectors for what no other layer needs.
        rows: Jets.
    """

    def __init__(
        self, weights: torch.Tensor, gradient: torch.Tensor, signal: torch.Tensor, scratch: torch.Tensor, rows: int
    ) -> None:
        _, out, fan_in = weights.shape
        # Inputs and their squares. Columns of ones, behind the inputs of the layer, carry the biases.
        self.inputs_pair = weights.new_ones((2, rows, fan_in))
        self.inputs, self.squares = self.inputs_pair.unbind(0)
        self.units_in = self.inputs[:, :-1]
        self.weights, self.weights_t, self.gradient = weights[:, :, :-1], weights.transpose(1, 2), gradient
        self.outputs_pair = scratch[:, : rows * out].view(2, rows, out)
        self.outputs, self.variance = self.outputs_pair.unbind(0)
        self.signal_pair = signal.view(2, rows, out)
        self.signal_pair_t = self.signal_pair.transpose(1, 2)
        self.by_mean, self.noise = self.signal_pair.unbind(0)
        self.returned_pair = scratch[:, : rows * (fan_in - 1)].view(2, rows, fan_in - 1)
        self.returned, self.returned_squares = self.returned_pair.unbind(0)


class LocalBackprop:
    """Gradient of a loss with locally reparametrised Gaussian weights, by their means and by their variances.

    Args:
        layout: The network; it has biases.
        rows: Jets per batch; every batch has as many.
        device: Where to compute.

    Attributes:
        mean: To be filled with the means of all weights, shape (count,).
        variance: To be filled with their variances.
        noise: To be filled with standard normal numbers, shape (rows * units,), layer after layer; overwritten.
        by_mean: The derivative by the means, shape (count,).
        by_variance: *Twice* the derivative by the variances.
    """

    def __init__(self, layout: DenseLayout, rows: int, device: torch.device) -> None:
        self.rows = rows
        parameters, gradient = (torch.empty((2, layout.count), device=device, dtype=torch.float32) for _ in range(2))
        self.mean, self.variance = parameters.unbind(0)
        self.by_mean, self.by_variance = gradient.unbind(0)
        signal = torch.empty((2, rows * layout.units), device=device, dtype=torch.float32)
        self.noise = signal[1]
        scratch = torch.empty((2, rows * max(layout.sizes)), device=device, dtype=torch.float32)
        blocks, gradients = layout.blocks(parameters), layout.blocks(gradient)
        signals = torch.split(signal, [rows * size for size in layout.sizes[1:]], dim=1)
        self._layers = [_LocalLayer(*parts, scratch, rows) for parts in zip(blocks, gradients, signals, strict=True)]

    def __call__(self, x: torch.Tensor, by_output: OutputGradient, share: torch.Tensor) -> None:
        """Write :attr:`by_mean` and :attr:`by_variance`.

        Args:
            x: Inputs, shape (rows, in).
            by_output: Derivative of the loss of each row by the outputs (rows, out).
            share: Share of each row in the loss, shape (rows, 1).
        """
        layers = self._layers
        torch.mul(by_output(self._forward(x)), share, out=layers[-1].by_mean)
        for number in range(len(layers) - 1, -1, -1):
            layer = layers[number]
            # Noise over width, from the forward pass: d width / d variance = 1 / (2 width).
            layer.noise.mul_(layer.by_mean)
            torch.bmm(layer.signal_pair_t, layer.inputs_pair, out=layer.gradient)
            if number:
                torch.bmm(layer.signal_pair, layer.weights, out=layer.returned_pair)
                layer.returned.addcmul_(layer.returned_squares, layer.units_in)
                mask_by_relu(layer.returned, layer.units_in, 0, grad_input=layers[number - 1].by_mean)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fill the buffers, and leave noise over width in place of the noise; returns the outputs."""
        layers = self._layers
        # Every layer has an input of one, so that a floor of the variances of its weights is one of its outputs, too.
        self.variance.add_(VARIANCE_FLOOR)
        layers[0].units_in.copy_(x)
        for number, layer in enumerate(layers):
            torch.mul(layer.inputs, layer.inputs, out=layer.squares)
            torch.bmm(layer.inputs_pair, layer.weights_t, out=layer.outputs_pair)
            # Pre-activations are mean + variance * (noise / width), the last factor kept for the way back.
            layer.noise.mul_(torch.rsqrt(layer.variance))
            layer.outputs.addcmul_(layer.variance, layer.noise)
            if number < len(layers) - 1:
                torch.clamp_min(layer.outputs, 0, out=layers[number + 1].units_in)
        return layers[-1].outputs


class _Layer:
    """Buffers of one layer and their views, for a group of networks."""

    def __init__(self, weights: torch.Tensor, rows: int, fan_in: int, out: int) -> None:
        networks = len(weights)
        # Columns of ones, behind the inputs of the layer, carry the biases.
        self.inputs = weights.new_ones((networks, rows, fan_in + 1))
        self.units_in = self.inputs[..., :-1]
        self.outputs, self.signal = (weights.new_empty((networks, rows, out)) for _ in range(2))
        self.signal_t = self.signal.transpose(1, 2)
        self.returned = weights.new_empty((networks, rows, fan_in))
        self.kept = torch.empty_like(self.returned)


class NetworkBackprop:
    """Gradient of a loss by the parameters of M networks, group after group in the same buffers.

    The buffers of one group stay in cache; one batched product over all networks would have to stream those of all,
    and one network at a time would spend as long on calls as on arithmetic.

    Args:
        layout: The networks; they have biases.
        weights: Their parameters, shape (M, count); changed in place by an optimiser.
        rows: Jets per batch and network; every batch has as many.

    Attributes:
        gradient: The derivative, shape (M, count).
        groups: The networks of each group, as slices.
    """

    def __init__(self, layout: DenseLayout, weights: torch.Tensor, rows: int) -> None:
        self.rows = rows
        self.gradient = torch.empty_like(weights)
        size = min(len(weights), max(1, ROWS_AT_ONCE // rows))
        self.groups = [slice(start, min(start + size, len(weights))) for start in range(0, len(weights), size)]
        # By group and layer: transposed with biases, as it is without them.
        self._weights = [
            [(block.transpose(1, 2), block[..., :-1]) for block in layout.blocks(weights.detach()[group])]
            for group in self.groups
        ]
        self._gradients = [layout.blocks(self.gradient[group]) for group in self.groups]
        sizes = list(zip(layout.sizes, layout.sizes[1:], strict=False))
        # All groups have one size, but for the last.
        self._layers = {
            len(weights[group]): [_Layer(weights.detach()[group], rows, fan_in, out) for fan_in, out in sizes]
            for group in (self.groups[0], self.groups[-1])
        }

    def __call__(
        self,
        number: int,
        x: torch.Tensor,
        by_output: OutputGradient,
        share: torch.Tensor,
        kept: Sequence[list[torch.Tensor]] = (),
    ) -> None:
        """Write the gradient of one group of networks.

        Args:
            number: Which group.
            x: Inputs, shape (rows, in), or (networks, rows, in).
            by_output: Derivative of the loss of each row by the outputs (networks, rows, out).
            share: Share of each row in the loss of its network, shape (networks, rows, 1).
            kept: Dropout: by network, factors (rows, units) on the outputs of each hidden layer.
        """
        weights, gradients = self._weights[number], self._gradients[number]
        layers = self._layers[len(gradients[0])]
        last = layers[-1]
        for layer, factors in zip(layers[1:], zip(*kept, strict=True), strict=False):
            torch.stack(factors, out=layer.kept)
        layers[0].units_in.copy_(x)
        for layer, after, (weight_t, _) in zip(layers, layers[1:], weights, strict=False):
            torch.bmm(layer.inputs, weight_t, out=layer.outputs)
            torch.clamp_min(layer.outputs, 0, out=after.units_in)
            if kept:
                after.units_in.mul_(after.kept)
        torch.bmm(last.inputs, weights[-1][0], out=last.outputs)
        torch.mul(by_output(last.outputs), share, out=last.signal)
        for layer, before, (_, weight) in zip(layers[:0:-1], layers[-2::-1], weights[::-1], strict=False):
            torch.bmm(layer.signal, weight, out=layer.returned)
            if kept:
                layer.returned.mul_(layer.kept)
            mask_by_relu(layer.returned, before.outputs, 0, grad_input=before.signal)
        for layer, gradient in zip(layers, gradients, strict=True):
            torch.bmm(layer.signal_t, layer.inputs, out=gradient)
