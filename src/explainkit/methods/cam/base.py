"""The base of class-activation maps: their layers, and upsampling to the image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.engine.passes import Needs, gradients
from explainkit.errors import MethodError, ModelError
from explainkit.interfaces import Attribution, Method
from explainkit.methods.cam.layout import Layout, layout_of
from explainkit.methods.cam.target_layer import layers_of, unwrapped

Upsample = Literal["bilinear", "bicubic", "nearest"]


@dataclass(frozen=True)
class CAM:
    """Base of all class-activation maps.

    Attributes:
        layer: Dotted path of the layer, or the module itself; several: the mean of their upsampled
            maps. None: the layer of the model's `ModelSpec`, else the last one with spatial
            positions.
        relu: Keep only the positive part of each layer's map, before upsampling.
        upsample: Interpolation to the size of the image (``align_corners=False``).
        patch_grid: Height and width of the layer's map, if it cannot be inferred.
        prefix_tokens: Number of class and register tokens before the patches, if it cannot be
            inferred.
    """

    layer: str | nn.Module | tuple[str | nn.Module, ...] | None = field(
        default=None, metadata={"layer": True}
    )
    relu: bool = False
    upsample: Upsample = "bilinear"
    patch_grid: tuple[int, int] | None = None
    prefix_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.upsample not in ("bilinear", "bicubic", "nearest"):
            raise MethodError(
                f"upsample: expected 'bilinear', 'bicubic' or 'nearest', got {self.upsample!r}"
            )
        if self.layer is not None and not self.layer:
            raise MethodError("layer: expected a dotted path, or several, got none")

    def layers(self, model: nn.Module, inputs: Tensor) -> tuple[str, ...]:
        """Paths of the layers to use."""
        return layers_of(self.layer, model, inputs, self.patch_grid, self.prefix_tokens)

    def needs(self, model: nn.Module, inputs: Tensor) -> Needs:
        """The outputs of the layers, and their gradients."""
        return Needs(layers=self.layers(model, inputs))

    def layout(self, value: Tensor, path: str, model: nn.Module, inputs: Tensor) -> Layout:
        """How a layer's output maps onto the image."""
        return layout_of(value, path, unwrapped(model), inputs, self.patch_grid, self.prefix_tokens)

    def upsampled(
        self,
        maps: Sequence[Tensor],
        layers: Sequence[str],
        inputs: Tensor,
        warnings: Sequence[str] = (),
    ) -> Attribution:
        """Maps ``[batch, height, width]`` of layers, upsampled to the images and averaged."""
        smooth = {} if self.upsample == "nearest" else {"align_corners": False}
        large = [
            F.interpolate(
                (one.clamp(min=0) if self.relu else one)[:, None],
                inputs.shape[2:],
                mode=self.upsample,
                **smooth,
            )
            for one in maps
        ]
        grids = [list(one.shape[1:]) for one in maps]
        found = [*warnings]
        if self.relu and any(map(_all_negative, maps)):
            found.append(
                "the map is nowhere positive in some image, so relu=True sets it to zero: use "
                "relu=False to see the signed map"
            )
        return Attribution(
            large[0] if len(large) == 1 else torch.stack(large).mean(0),
            layer=", ".join(layers),
            warnings=tuple(found),
            diagnostics={"patch_grid": grids[0] if len(grids) == 1 else grids},
        )


def _all_negative(one: Tensor) -> bool:
    """Whether the map of some image has no positive value."""
    return bool(((one <= 0).flatten(1).all(1) & (one < 0).flatten(1).any(1)).any())


@dataclass(frozen=True)
class GradientCAM(CAM):
    """A map computed from a layer's output and its gradient."""

    def combine(self, activations: Tensor, grads: Tensor) -> Tensor:
        """The map of one layer, ``[batch, height, width]``.

        Args:
            activations: A, ``[batch, channel, height, width]``.
            grads: ``∂ score / ∂ A``, of the same shape.
        """
        raise NotImplementedError

    def warnings(self, _activations: Tensor, _grads: Tensor) -> list[str]:
        """Warnings about the map; none by default."""
        return []

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed."""
        return self.of_score(model, inputs, target)

    def of_score(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """The map of a class, or of a weighted sum of classes, floating ``[batch, classes]``."""
        layers = self.layers(model, inputs)
        found = gradients(model, inputs, target, layers)
        maps, warnings = [], []
        for path in layers:
            value, grad = found.activations[path], found.layers[path]
            layout = self.layout(value, path, model, inputs)
            check_reached(grad, layout, path)
            parts = precise(layout.to_nchw(value)), precise(layout.to_nchw(grad))
            maps.append(self.combine(*parts))
            warnings += self.warnings(*parts)
        return self.upsampled(maps, layers, inputs, warnings)


def precise(value: Tensor) -> Tensor:
    """At least float32: sums over positions and channels are inexact in half precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def as_gradient_cam(base: Method) -> GradientCAM:
    """Checks that a method is a gradient CAM.

    Raises:
        MethodError: It is not.
    """
    if not isinstance(base, GradientCAM):
        raise MethodError(f"base: expected a gradient CAM such as GradCAM(), got {base!r}")
    return base


def check_reached(grad: Tensor, layout: Layout, path: str) -> None:
    """Refuses a layer of which only class and register tokens affect the score.

    Raises:
        ModelError: The gradient is zero at all patch tokens, but not at another token.
    """
    if layout.kind == "tokens" and bool(grad.any()) and not bool(layout.to_nchw(grad).any()):
        raise ModelError(
            f"expected a score that depends on the patch tokens of layer {path!r}, but it reads "
            "only the class or register tokens there, so every map would be zero: name an earlier "
            "block, or none for the last block whose patch tokens the score reads"
        )
