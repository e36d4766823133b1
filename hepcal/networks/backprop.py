"""Hand-written forward and backward passes of dense networks, in buffers that are allocated once.

Automatic differentiation of these small networks spends most of its time on bookkeeping. The passes here do the same
arithmetic as the modules under autograd, with the same random numbers; the gradients agree to rounding. Every view
that a pass needs is made once: making one costs as much as a small sum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hepcal.networks.bayesian import VARIANCE_FLOOR
from hepcal.networks.dense import DenseLayout

__all__ = ["LocalBackprop", "NetworkBackprop"]

# From outputs (rows, out) to the derivative of the loss by them.
OutputGradient = Callable[[torch.Tensor], torch.Tensor]

mask_by_relu = torch.ops.aten.threshold_backward.grad_input


class _LocalLayer:
    """Buffers of one layer and their views; ``mean`` and ``width`` are those of the pre-activations."""

    def __init__(
        self, weights: torch.Tensor, gradient: torch.Tensor, noise: torch.Tensor, rows: int, *, last: bool
    ) -> None:
        _, out, fan_in = weights.shape
        # Columns of ones, behind the inputs of the layer, carry the biases.
        self.inputs = weights.new_ones((rows, fan_in))
        self.squares = torch.ones_like(self.inputs)
        self.units_in = self.inputs[:, :-1]
        self.mean_weights_t, self.variance_weights_t = weights[0].t(), weights[1].t()
        self.mean_weights, self.variance_weights = weights[0, :, :-1], weights[1, :, :-1]
        self.mean_gradient, self.variance_gradient = gradient.unbind(0)
        self.noise = noise.view(rows, out)
        self.mean, self.width, self.by_mean, self.by_width = (weights.new_empty((rows, out)) for _ in range(4))
        self.by_mean_t, self.by_width_t = self.by_mean.t(), self.by_width.t()
        self.returned, self.returned_width = (weights.new_empty((rows, fan_in - 1)) for _ in range(2))
        self.last = last


class LocalBackprop:
    """Gradient of a loss with locally reparametrised Gaussian weights, by their means and by their variances.

    Args:
        layout: The network; it has biases.
        rows: Jets per batch; every batch has as many.
        device: Where to compute.

    Attributes:
        parameters: To be filled with means and variances of all weights, shape (2, count).
        noise: To be filled with standard normal numbers, shape (rows * units,), layer after layer.
        gradient: The derivative by the means and *twice* that by the variances, shape (2, count).
    """

    def __init__(self, layout: DenseLayout, rows: int, device: torch.device) -> None:
        self.rows = rows
        self.parameters, self.gradient = (torch.empty((2, layout.count), device=device) for _ in range(2))
        self.noise = torch.empty(rows * layout.units, device=device)
        blocks, gradients = layout.blocks(self.parameters), layout.blocks(self.gradient)
        noises = torch.split(self.noise, [rows * block.shape[1] for block in blocks])
        self._layers = [
            _LocalLayer(*parts, rows, last=number == len(blocks) - 1)
            for number, parts in enumerate(zip(blocks, gradients, noises, strict=True))
        ]

    def __call__(self, x: torch.Tensor, by_output: OutputGradient) -> None:
        """Write :attr:`gradient` for inputs (rows, in)."""
        outputs = self._forward(x)
        self._layers[-1].by_mean.copy_(by_output(outputs))
        for number in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[number]
            # Pre-activations are mean + width * noise, and d width / d variance = 1 / (2 width).
            torch.div(layer.noise, layer.width, out=layer.by_width).mul_(layer.by_mean)
            torch.mm(layer.by_mean_t, layer.inputs, out=layer.mean_gradient)
            torch.mm(layer.by_width_t, layer.squares, out=layer.variance_gradient)
            if number:
                torch.mm(layer.by_mean, layer.mean_weights, out=layer.returned)
                torch.mm(layer.by_width, layer.variance_weights, out=layer.returned_width)
                layer.returned.addcmul_(layer.returned_width, layer.units_in)
                before = self._layers[number - 1]
                mask_by_relu(layer.returned, before.mean, 0, grad_input=before.by_mean)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fill the buffers; returns the outputs."""
        self._layers[0].units_in.copy_(x)
        for number, layer in enumerate(self._layers):
            torch.mul(layer.inputs, layer.inputs, out=layer.squares)
            torch.mm(layer.inputs, layer.mean_weights_t, out=layer.mean)
            torch.mm(layer.squares, layer.variance_weights_t, out=layer.width)
            layer.width.add_(VARIANCE_FLOOR).sqrt_()
            layer.mean.addcmul_(layer.width, layer.noise)
            if not layer.last:
                torch.clamp_min(layer.mean, 0, out=self._layers[number + 1].units_in)
        return self._layers[-1].mean


class _Layer:
    """Buffers of one layer and their views, shared by all networks."""

    def __init__(self, weights: torch.Tensor, rows: int, fan_in: int, out: int) -> None:
        # Columns of ones, behind the inputs of the layer, carry the biases.
        self.inputs = weights.new_ones((rows, fan_in + 1))
        self.units_in = self.inputs[:, :-1]
        self.outputs, self.signal = weights.new_empty((rows, out)), weights.new_empty((rows, out))
        self.signal_t = self.signal.t()
        self.returned = weights.new_empty((rows, fan_in))


class NetworkBackprop:
    """Gradient of a loss by the parameters of M networks, one after the other in the same buffers.

    The buffers of one network stay in cache; a batched product over all networks would have to stream those of all.

    Args:
        layout: The networks; they have biases.
        weights: Their parameters, shape (M, count); changed in place by an optimiser.
        rows: Jets per batch and network; every batch has as many.

    Attributes:
        gradient: The derivative, shape (M, count).
    """

    def __init__(self, layout: DenseLayout, weights: torch.Tensor, rows: int) -> None:
        self.rows = rows
        self.gradient = torch.empty_like(weights)
        # By network and layer: transposed with biases, as it is without them.
        self._weights = [[(block.t(), block[:, :-1]) for block in layout.blocks(member)] for member in weights.detach()]
        self._gradients = [layout.blocks(member) for member in self.gradient]
        sizes = zip(layout.sizes, layout.sizes[1:], strict=False)
        self._layers = [_Layer(weights.detach(), rows, fan_in, out) for fan_in, out in sizes]

    def __call__(
        self, member: int, x: torch.Tensor, by_output: OutputGradient, kept: list[torch.Tensor] | None = None
    ) -> None:
        """Write the gradient of one network.

        Args:
            member: Which.
            x: Inputs, shape (rows, in).
            by_output: Derivative of its loss by its outputs.
            kept: Dropout: factors (rows, units) on the outputs of each hidden layer.
        """
        layers, weights, last = self._layers, self._weights[member], len(self._layers) - 1
        layers[0].units_in.copy_(x)
        for number, layer in enumerate(layers):
            torch.mm(layer.inputs, weights[number][0], out=layer.outputs)
            if number < last:
                after = torch.clamp_min(layer.outputs, 0, out=layers[number + 1].units_in)
                if kept is not None:
                    after.mul_(kept[number])
        layers[last].signal.copy_(by_output(layers[last].outputs))
        for number in range(last, -1, -1):
            layer = layers[number]
            torch.mm(layer.signal_t, layer.inputs, out=self._gradients[member][number])
            if number:
                torch.mm(layer.signal, weights[number][1], out=layer.returned)
                if kept is not None:
                    layer.returned.mul_(kept[number - 1])
                before = layers[number - 1]
                mask_by_relu(layer.returned, before.outputs, 0, grad_input=before.signal)
