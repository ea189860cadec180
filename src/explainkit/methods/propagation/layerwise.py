"""The rules of layer-wise relevance propagation, as modified gradients.

Relevance is propagated as a ratio: an operator's output ``y`` with ratio ``g`` has the relevance
``R = y · g``. If a rule distributes ``R`` in proportion to ``x_i · v_ij``, the ratio of an input is
``g_i = Σ_j v_ij · R_j / Σ_i x_i v_ij``. A layer without a rule of its own keeps its gradient, which
is the same with ``v`` = its weights. So sums, pooling and reshapes conserve relevance without
further work, and nothing is divided before the final product with the image.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from explainkit.graph.tape import Record

LayerRule = Literal["epsilon", "gamma", "alpha_beta", "z_plus"]
FirstRule = Literal["flat", "w_square", "box", "same"]

FIRST_RULES = frozenset(get_args(FirstRule)) - {"same"}
"""Rules of layers that read the image."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A convolution or matrix product with weights, with its normalization folded in.

    Attributes:
        record: Its recorded call.
        inputs: Its input that depends on the image.
        weight: Its weights, ``v`` in the rules.
        bias: Its bias, shaped to be added to the output; None if it has none.
        output: Its output, ``z``.
    """

    record: Record
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor

    def forward(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's output for other inputs and weights, with a bias or none."""
        if self.record.name == "convolution":
            flat = None if bias is None else bias.flatten()
            found: Tensor = torch.ops.aten.convolution(inputs, weight, flat, *self._geometry())
            return found
        return inputs @ weight if bias is None else inputs @ weight + bias

    def backward(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """The transpose of `forward`, shaped like the inputs."""
        if self.record.name == "convolution":
            found: Tensor = torch.ops.aten.convolution_backward(
                gradient, self.inputs, weight, None, *self._geometry(), [True, False, False]
            )[0]
            return found
        return gradient @ weight.transpose(-1, -2)

    def _geometry(self) -> tuple[object, ...]:
        return tuple(self.record.argument(i) for i in range(3, 9))


FOLDABLE = frozenset({"ConvolutionBackward0", "AddmmBackward0", "MmBackward0"})
"""Autograd's nodes of layers with weights, into which a normalization can be folded."""


def plain_layer(record: Record, *, left: bool = False) -> Linear:
    """A layer as it was called, without normalization.

    Args:
        record: Its recorded call.
        left: Whether the weights are the left factor of a matrix product; input and output are
            then transposed, so that they are the right one.
    """
    if record.name == "convolution":
        bias = record.argument(2)
        if bias is not None:
            bias = bias.view(1, -1, *[1] * (record.output.dim() - 2))
        return Linear(record, record.argument(0), record.argument(1), bias, record.output)
    *offset, inputs, weight = record.tensors
    bias = offset[0] if offset else None
    if left:
        bias = None if bias is None else bias.expand_as(record.output).mT
        return Linear(record, weight.mT, inputs.mT, bias, record.output.mT)
    return Linear(record, inputs, weight, bias, record.output)


def stabilized(z: Tensor, epsilon: float) -> Tensor:
    """``z + ε · sign(z)``, where signed zeros count too: never zero."""
    return torch.copysign(z.new_tensor(epsilon), z).add_(z)


def _by_sign(x: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Positive and negative part of an input, and whether it has negative values at all."""
    mixed = bool(x.amin() < 0)
    return (x.clamp(min=0), x.clamp(max=0), mixed) if mixed else (x, x, mixed)


def _part(bias: Tensor | None, positive: bool) -> Tensor | None:
    if bias is None:
        return None
    return bias.clamp(min=0) if positive else bias.clamp(max=0)


def epsilon_rule(layer: Linear, gradient: Tensor, epsilon: float, *, bias: bool = True) -> Tensor:
    """``R_i = Σ_j x_i w_ij / (z_j + ε sign z_j) · R_j``; without biases, z has none."""
    if not bias and layer.bias is not None:
        z = stabilized(layer.forward(layer.inputs, layer.weight), epsilon)
        return layer.backward(gradient * layer.output / z, layer.weight)
    size = layer.output.abs()
    ratio = size.div_(size + epsilon).mul_(gradient)  # z / (z + ε sign z) = |z| / (|z| + ε)
    return layer.backward(ratio, layer.weight)


def z_plus_rule(layer: Linear, gradient: Tensor, epsilon: float, *, bias: bool = True) -> Tensor:
    """``R_i = Σ_j (x_i w_ij)⁺ / Σ_i (x_i w_ij)⁺ · R_j``, with the positive part of the bias."""
    return alpha_beta_rule(layer, gradient, epsilon, 1.0, bias=bias)


def alpha_beta_rule(
    layer: Linear, gradient: Tensor, epsilon: float, alpha: float, *, bias: bool = True
) -> Tensor:
    """``R_i = Σ_j (α (x_i w_ij)⁺ / z_j⁺ − β (x_i w_ij)⁻ / z_j⁻) · R_j``, ``α − β = 1``."""
    x, w = layer.inputs, layer.weight
    relevance = gradient * layer.output
    plus, minus = w.clamp(min=0), w.clamp(max=0)
    x_plus, x_minus, mixed = _by_sign(x)
    b = layer.bias if bias else None

    def share(*, positive: bool) -> Tensor:
        one, other = (plus, minus) if positive else (minus, plus)
        z = layer.forward(x_plus, one, _part(b, positive))
        if mixed:
            z += layer.forward(x_minus, other)
        z = stabilized(z, epsilon)
        ratio = torch.div(relevance, z, out=z)
        found = layer.backward(ratio, one)
        return torch.where(x < 0, layer.backward(ratio, other), found) if mixed else found

    found = share(positive=True)
    return found if alpha == 1 else alpha * found - (alpha - 1) * share(positive=False)


def gamma_rule(
    layer: Linear, gradient: Tensor, epsilon: float, gamma: float, *, bias: bool = True
) -> Tensor:
    """Contributions with the sign of the output are weighted ``1 + γ`` times.

    ``R_i = Σ_j (x_i w_ij + γ (x_i w_ij)^s) / Σ_i (…) · R_j`` where ``s`` is the sign of ``z_j``:
    the rule of Montavon et al. (2019) for inputs and outputs that are not negative, extended to
    both signs (Andéol et al., 2021).
    """
    x, w, z = layer.inputs, layer.weight, layer.output
    relevance = gradient * z
    b = layer.bias if bias else None
    if b is not layer.bias:
        z = layer.forward(x, w)
    plus, minus = w.clamp(min=0), w.clamp(max=0)
    x_plus, x_minus, mixed = _by_sign(x)
    found = torch.zeros_like(x)
    for sign in (1, -1):
        here = relevance * ((z >= 0) if sign > 0 else (z < 0))
        if not here.any():
            continue
        favored, other = (plus, minus) if sign > 0 else (minus, plus)
        boosted = layer.forward(x_plus, favored, _part(b, sign > 0))
        if mixed:
            boosted += layer.forward(x_minus, other)
        ratio = here / stabilized(z + gamma * boosted, epsilon)
        part = layer.backward(ratio, w + gamma * favored)
        if mixed:
            part = torch.where(x < 0, layer.backward(ratio, w + gamma * other), part)
        found = found + part
    return found


def weight_rule(layer: Linear, gradient: Tensor, weight: Tensor) -> Tensor:
    """Relevance, not a ratio: distributed in proportion to weights, whatever the inputs are.

    Weights of 1 distribute it evenly over the receptive field; ``w²`` is the rule of Montavon et
    al. (2017) for inputs without bounds.
    """
    z = layer.forward(torch.ones_like(layer.inputs), weight)
    return layer.backward(gradient * layer.output / stabilized(z, 1e-9), weight)


def box_rule(layer: Linear, gradient: Tensor, epsilon: float, low: Tensor, high: Tensor) -> Tensor:
    """Relevance, not a ratio: the rule for inputs between two bounds (Montavon et al., 2017).

    ``R_i = Σ_j (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) / Σ_i (…) · R_j``.
    """
    x, w = layer.inputs, layer.weight
    plus, minus = w.clamp(min=0), w.clamp(max=0)
    z = layer.forward(x, w) - layer.forward(low, plus) - layer.forward(high, minus)
    ratio = gradient * layer.output / stabilized(z, epsilon)
    return (
        x * layer.backward(ratio, w)
        - low * layer.backward(ratio, plus)
        - high * layer.backward(ratio, minus)
    )
