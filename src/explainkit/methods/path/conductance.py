"""Path integrals at an inner layer: conductance and internal influence."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.engine.batching import chunk_size
from explainkit.engine.failures import out_of_memory
from explainkit.engine.model import unwrapped
from explainkit.engine.passes import gradients, twice_differentiable
from explainkit.errors import MethodError, line
from explainkit.interfaces import Attribution
from explainkit.layers import capture, path_of, single
from explainkit.methods.path.integrated import QuadratureRule, check_rule, quadrature
from explainkit.methods.path.straight_line import as_baselines, complete, spread


@dataclass(frozen=True)
class _Through(Typed):
    """The straight path from a baseline to each image, observed at a layer."""

    volumes: ClassVar[bool] = True

    layer: str | nn.Module = field(metadata={"layer": True})
    baseline: float | Tensor = field(default=0.0, metadata={"per_image": True})
    steps: int = field(default=50, metadata={"least": 1})

    def _path(self, model: nn.Module) -> str:
        return path_of(unwrapped(model), self.layer)

    def _rows(
        self, model: nn.Module, inputs: Tensor, target: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Each image with its baseline and its class."""
        images = inputs.detach()
        return zip(images, as_baselines(model, self.baseline, images), target, strict=True)

    def _along(
        self, model: nn.Module, image: Tensor, baseline: Tensor, label: Tensor, nodes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs of a layer and their gradients at nodes of one image's path, both ``[n, …]``."""
        layer = self._path(model)
        size = chunk_size(model, image)
        outputs, slopes = [], []
        for part in torch.split(nodes.to(image.device), size):
            points = baseline + spread(part, image).to(image.dtype) * (image - baseline)
            found = gradients(model, points, label.expand(len(part)), (layer,))
            outputs.append(found.activations[layer])
            slopes.append(found.layers[layer])
        return torch.cat(outputs), torch.cat(slopes)


@dataclass(frozen=True)
class Conductance(_Through):
    """The contribution of each unit of a layer to the change of the score from a baseline.

    ``c_j = ∫₀¹ ∂S/∂y_j · dy_j/dα dα`` along the straight path ``b + α (x − b)``. If the score
    depends on the image only through the layer, ``Σc = S(x) − S(b)``; ``completeness_gap`` reports
    the deviation, with a warning above 0.05.

    Attributes:
        layer: Dotted path of the layer, or the module itself.
        baseline: Start of the path, in model-input space: one value, a tensor
            ``[channel, height, width]``, or one per image.
        steps: Number of intervals of the path, or of nodes with another rule than the first.
        rule: ``"trapezoid"``: in the layer's own space,
            ``Σ_k (y(α_{k+1}) − y(α_k)) · (g(α_k) + g(α_{k+1})) / 2``, which needs no derivative of
            the layer. The rules of `IntegratedGradients`, such as ``"gausslegendre"``:
            ``Σ_k w_k g(α_k) · dy/dα(α_k)``, which differentiates the layer along the path: fewer
            steps suffice where it is smooth.

    Raises:
        MethodError: A field is out of range, the baseline does not fit the images, or an operator
            cannot be differentiated twice.
        ModelError: There is no such layer, or it does not run exactly once.

    References:
        Dhamdhere, Sundararajan and Yan (2018), "How Important Is a Neuron?", arXiv:1805.12233.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "conductance", layer="3")
        >>> e.at, list(e.attribution.shape)
        ('3', [4, 8, 4, 3])
    """

    rule: Literal["trapezoid"] | QuadratureRule = "trapezoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule != "trapezoid":
            check_rule(self.rule, self.steps)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns a map of the layer's shape in units of the score."""
        maps, changes = [], []
        for image, baseline, label in self._rows(model, inputs, target):
            maps.append(self._integral(model, image, baseline, label).to(image.dtype))
            with torch.no_grad():
                ends = model(torch.stack([baseline, image])).double()[:, label]
            changes.append(ends[1] - ends[0])
        layer = self._path(model)
        found = Attribution(torch.stack(maps), layer=layer, at=layer)
        remedy = "raise steps, or choose a layer that no other path bypasses"
        return complete(found, torch.stack(changes), remedy)

    def _integral(self, model: nn.Module, image: Tensor, baseline: Tensor, label: Tensor) -> Tensor:
        """The map of one image, at least float32."""
        precise = torch.promote_types(image.dtype, torch.float32)
        if self.rule == "trapezoid":
            nodes = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
            outputs, slopes = self._along(model, image, baseline, label, nodes)
            steps = outputs.to(precise).diff(dim=0)
            middle = (slopes[1:].to(precise) + slopes[:-1].to(precise)) / 2
            return (steps * middle).sum(0)
        nodes, weights = quadrature(self.rule, self.steps)
        _, slopes = self._along(model, image, baseline, label, nodes)
        speeds = self._speeds(model, image, baseline, nodes)
        return torch.einsum(
            "n,n...->...", weights.to(image.device, precise), slopes.to(precise) * speeds
        )

    def _speeds(self, model: nn.Module, image: Tensor, baseline: Tensor, nodes: Tensor) -> Tensor:
        """The derivatives of the layer's output with respect to α at nodes, ``[n, …]``.

        The gradient's own derivative with respect to what it is multiplied by, which is linear.
        """
        layer, span = self._path(model), image - baseline
        found = []
        for part in torch.split(nodes.to(image), chunk_size(model, image)):
            points = (baseline + spread(part, image) * span).requires_grad_()
            with torch.enable_grad(), twice_differentiable():
                with capture(unwrapped(model), [layer], count=len(points)) as calls:
                    model(points)
                output = single(calls[layer], layer)
                factor = torch.zeros_like(output, requires_grad=True)
                speed = _derivative(output, points, factor, span.expand_as(points), self.rule)
            found.append(speed)
        return torch.cat(found).to(torch.promote_types(image.dtype, torch.float32))


def _derivative(output: Tensor, points: Tensor, factor: Tensor, span: Tensor, rule: str) -> Tensor:
    """The derivative of an output along a direction of the points; zero if it is constant."""
    try:
        pulled = None
        if output.requires_grad:
            (pulled,) = torch.autograd.grad(
                output, points, factor, create_graph=True, allow_unused=True
            )
        if pulled is None or not pulled.requires_grad:
            return torch.zeros_like(output)
        (speed,) = torch.autograd.grad(pulled, factor, span)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise MethodError(
            f"rule={rule!r}: expected operators that can be differentiated twice, but "
            f"{line(error)}: use rule='trapezoid'"
        ) from error
    return speed


@dataclass(frozen=True)
class InternalInfluence(_Through):
    """The mean gradient of the score with respect to a layer, along the straight path.

    ``v_j = ∫₀¹ ∂S/∂y_j (b + α (x − b)) dα``: how sensitive the score is to each unit of the layer,
    on average along the path.

    Attributes:
        layer: Dotted path of the layer, or the module itself.
        baseline: As in `Conductance`.
        steps: Gradients per image.
        rule: Quadrature over the path, as in `IntegratedGradients`.

    Raises:
        MethodError: A field is out of range, or the baseline does not fit the images.
        ModelError: There is no such layer, or it does not run exactly once.

    References:
        Leino, Sen, Datta, Fredrikson and Li (2018), "Influence-Directed Explanations for Deep
        Convolutional Networks", arXiv:1802.03788.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "internal_influence", layer="3", steps=8)
        >>> e.at
        '3'
    """

    rule: QuadratureRule = "gausslegendre"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns a map of the layer's shape, score per unit of the layer's output."""
        nodes, weights = quadrature(self.rule, self.steps)
        maps = []
        for image, baseline, label in self._rows(model, inputs, target):
            _, slopes = self._along(model, image, baseline, label, nodes)
            precise = torch.promote_types(image.dtype, torch.float32)
            share = spread(weights.to(image.device, precise), slopes[0])
            maps.append((share * slopes.to(precise)).sum(0).to(image.dtype))
        layer = self._path(model)
        return Attribution(torch.stack(maps), layer=layer, at=layer)
