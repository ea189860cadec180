"""Input times gradient together with the contributions of all biases."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

from explainkit.engine.model import unwrapped
from explainkit.engine.passes import recorded_forward
from explainkit.graph.backward import Gradients, Operator, propagate
from explainkit.graph.names import LAYERS, NORMS, RECTIFIERS, UNARY
from explainkit.graph.operators import kind_of
from explainkit.graph.tape import Record
from explainkit.interfaces import Attribution
from explainkit.methods.cam.layout import PatchGrid, patch_grids, spatial_axes
from explainkit.methods.propagation.rules import (
    RuleMethod,
    Unsupported,
    fall_back,
    report,
    seeds_of,
)

_SHIFTS = frozenset({
    "add", "addcmul", "addcdiv", "lerp", "sub", "rsub", "masked_fill", "where", "constant_pad_nd",
    "cat", "stack",
})  # fmt: skip

KEEP = (
    LAYERS
    | ((UNARY | NORMS) - RECTIFIERS)
    | {"_softmax", "_safe_softmax", "_log_softmax", "logsumexp", "mul", "div", "glu"}
    | _SHIFTS
)

_MIXED = 1e-3
"""A larger gap in a batch means that an operator's first axis is not that of the images, as where
the members of an ensemble are stacked or time steps come first: images then run one by one."""


class _WithBiases:
    """The plain gradient, and at each operator the part its inputs do not account for."""

    def __init__(self, image: Tensor, unsupported: Unsupported, grids: Sequence[PatchGrid]) -> None:
        self.unsupported = unsupported
        self.size = image.shape[2:]
        precise = torch.promote_types(image.dtype, torch.float32)
        self.maps = torch.zeros(len(image), 1, *self.size, dtype=precise, device=image.device)
        self.elsewhere = torch.zeros(len(image), dtype=torch.float64, device=image.device)
        self._grids = grids
        self._scores: set[Node] = set()

    def __call__(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        found = operator.gradient(*gradients)
        kind, record, gradient = kind_of(operator), operator.record, gradients[0]
        if not kind:
            return found, fall_back(operator, self.unsupported, "full_gradient")
        # inputs of a softmax have no spatial layout, however many axes they have
        between = operator.node in self._scores and kind not in {"product", "layer"}
        if kind == "softmax" or between:
            self._scores.update(n for n, _ in operator.node.next_functions if n is not None)
        if record is None or gradient is None or operator.name not in KEEP:
            return found, "gradient"
        bias = self._bias(operator, record, gradient, found)
        if bias is None:
            return found, "gradient"
        self._add(bias, spatial=kind != "softmax" and operator.node not in self._scores)
        return found, "gradient and bias"

    def _bias(
        self, operator: Operator, record: Record, gradient: Tensor, found: Gradients
    ) -> Tensor | None:
        """An operator's output minus ``Σ input · gradient``, in units of the score."""
        if operator.name in LAYERS and sum(operator.depends) == 1:
            index = {"convolution": 2, "addmm": 0, "baddbmm": 0}.get(operator.name)
            bias: Tensor | None = None if index is None else record.argument(index)
            if bias is None or (index == 0 and operator.depends[0]):
                return None
            if operator.name == "convolution":
                bias = bias.view(1, -1, *[1] * (gradient.dim() - 2))
            share: Tensor = gradient * (bias * record.options.get("beta", 1))
            return share
        total = _product(gradient, record.output)
        inputs = [t for t in record.tensors if t.is_floating_point()]
        data = inputs[:1] if operator.name in NORMS else inputs
        pairs = [(x, g) for x, g in zip(data, found, strict=False) if g is not None]
        if all(value.shape == total.shape for value, _ in pairs):
            for value, g in pairs:
                total = total - _product(g, value)
            return total
        count = len(self.elsewhere)
        flat = _per_image(total, count)
        for value, g in pairs:
            flat = flat - _per_image(_product(g, value), count)
        return flat

    def _add(self, bias: Tensor, *, spatial: bool) -> None:
        count = len(self.elsewhere)
        is_map = bias.dim() == self.maps.dim() and len(bias) == count
        if not spatial or not is_map or bias[0, 0].numel() == 1:
            self.elsewhere += _per_image(bias, count).double()
            return
        if tuple(bias.shape[1:-1]) in self._grids and tuple(bias.shape[2:]) not in self._grids:
            bias = bias.movedim(-1, 1)  # channels last, as in Swin and ConvNeXt
        here = bias.sum(1, keepdim=True).to(self.maps)
        mode = "bilinear" if here.dim() == 4 else "trilinear"
        grown = F.interpolate(here, self.size, mode=mode, align_corners=False)
        pixels = self.size.numel()
        axes = spatial_axes(here)
        grown = grown * (here[0, 0].numel() / pixels)
        # at borders bilinear weights do not sum to one: spread the rest over all pixels
        missing = here.sum(axes, keepdim=True) - grown.sum(axes, keepdim=True)
        self.maps += grown + missing / pixels


def _product(gradient: Tensor, values: Tensor) -> Tensor:
    """``gradient · values``; zero where the gradient is zero, even if the value is infinite."""
    return torch.where(gradient == 0, 0, gradient * values)


def _per_image(values: Tensor, count: int) -> Tensor:
    """Sums over all axes but the images; windows and heads of one image are contiguous.

    NaN if the first axis cannot be that of the images.
    """
    if len(values) % count:
        return values.new_full((count,), torch.nan)
    return values.reshape(count, -1).sum(1)


@dataclass(frozen=True)
class FullGradient(RuleMethod):
    """Input times gradient plus the contributions of all biases at their spatial positions.

    ``S(x) = Σ x · ∂S/∂x + Σ_b b · ∂S/∂b`` holds exactly for every ReLU network, and for any network
    if the part of an activation, normalization or softmax that is not proportional to its input
    counts as its bias, as it does here. Each bias's map is upsampled to the image with its sum
    preserved. Biases without a spatial position (linear layers, tokens) are not in the map: their
    total is ``bias_elsewhere``, and ``completeness_gap`` = |Σa + elsewhere − S| / max(|S|, 0.05).

    The paper's figures show ``|·|`` of every part, rescaled per channel. The values here are signed
    and add up to the score.

    Attributes:
        unsupported: What happens at an operator that is not known: ``"error"``, or ``"gradient"``:
            its plain gradient is used, with a warning.

    References:
        Srinivas and Fleuret (2019), "Full-Gradient Representation for Neural Network
        Visualization", arXiv:1905.00780.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "full_gradient")
        >>> bool((e.diagnostics["completeness_gap"] < 1e-4).all())
        True
    """

    keep = KEEP

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]`` in units of the score."""
        found = self._explained(model, inputs, target)
        gap = found.diagnostics["completeness_gap"]
        if len(inputs) == 1 or bool((gap <= _MIXED).all()):
            return found
        parts = [
            self._explained(model, inputs[i : i + 1].detach(), target[i : i + 1])
            for i in range(len(inputs))
        ]
        return replace(
            parts[0],
            values=torch.cat([part.values for part in parts]),
            diagnostics={
                name: torch.cat([part.diagnostics[name] for part in parts])
                for name in parts[0].diagnostics
            },
        )

    def _explained(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        trace = recorded_forward(model, inputs, KEEP)
        images = inputs.detach()
        rules = _WithBiases(images, self.unsupported, patch_grids(unwrapped(model), images))
        gradient, coverage = propagate(trace, seeds_of(trace, target), rules)
        own = (gradient * inputs.detach()).sum(1, keepdim=True)
        values = (own.to(rules.maps) + rules.maps).to(inputs.dtype)
        scores = trace.scores.detach().gather(1, target[:, None])[:, 0].double()
        total = (values.double().flatten(1).sum(1) + rules.elsewhere - scores).abs()
        gap = total / scores.abs().clamp(min=0.05)
        return Attribution(
            values,
            **report(coverage),
            diagnostics={
                "completeness_gap": gap,
                "bias_elsewhere": rules.elsewhere.to(inputs.dtype),
            },
        )
