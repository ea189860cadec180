"""The base of class activation maps: their layers, and drawing on the image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.catalog.fields import Typed
from explainkit.engine.model import unwrapped
from explainkit.engine.passes import Needs, gradients
from explainkit.errors import MethodError, ModelError
from explainkit.interfaces import Attribution, Method
from explainkit.methods.cam.layout import Layout, layout_of
from explainkit.methods.cam.placement import Draw, LayerView, Placement, state_of
from explainkit.methods.cam.target_layer import layers_of

Upsample = Literal["bilinear", "bicubic", "nearest"]


@dataclass(frozen=True)
class CAM(Typed):
    """Base of all class activation maps; `GradCAM` describes the fields."""

    volumes: ClassVar[bool] = True

    layer: str | nn.Module | tuple[str | nn.Module, ...] | None = field(
        default=None, metadata={"layer": True}
    )
    relu: bool = False
    upsample: Upsample = "bilinear"
    patch_grid: tuple[int, int] | tuple[int, int, int] | None = None
    prefix_tokens: int | None = None
    placement: Placement = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def placed(
        self,
        model: nn.Module,
        inputs: Tensor,
        maps: Mapping[str, tuple[Layout, Tensor]],
        warnings: Sequence[str] = (),
        *,
        unread: bool = False,
    ) -> Attribution:
        """Maps of layers, drawn on the images and averaged.

        Args:
            model: What the method is called with.
            inputs: ``[batch, channel, height, width]``, or volumes.
            maps: For each layer its layout and its map, ``[batch, height, width]``.
            warnings: Those of the method.
            unread: Also draw cells that the scores do not depend on.

        Raises:
            MethodError: The receptive fields of a layer's cells take too much memory, maps of
                several layers are wanted at the size of the layer, or a choice of ``upsample`` or
                ``placement`` does not exist for volumes.
        """
        if inputs.dim() > 4:
            self._check_flat_choices()
        if self.placement == "layer" and len(maps) > 1:
            raise MethodError(
                f"placement='layer': expected one layer, got {', '.join(maps)}: their maps can be "
                "averaged only on the image"
            )
        state = state_of(model)
        views = [
            LayerView(model, path, layout, inputs, state) for path, (layout, _) in maps.items()
        ]
        found = [*warnings]
        if self.relu and any(_all_negative(one) for _, one in maps.values()):
            found.append(
                "the map is nowhere positive in some image, so relu=True sets it to zero: use "
                "relu=False to see the signed map"
            )
        placement: Placement = "layer"
        draws: list[Draw] = [lambda cells: cells]
        if self.placement != "layer":
            found += [
                f"where layer {view.path!r} looks is unknown, since the model does not run on "
                f"random images ({why}): its map is stretched over the whole image"
                for view in views
                if (why := view.sight().refusal if unread else view.refusal())
            ]
            draws = self._on_fields(views)
            placement = "receptive_field" if draws else "stretch"
            draws = draws or [*map(self._stretching, views)]
        large = []
        for view, (_, one), draw in zip(views, maps.values(), draws, strict=True):
            one = one.clamp(min=0) if self.relu else one
            large.append(draw(one if unread else torch.where(view.read(), one, 0)))
        grids = [list(layout.patch_grid) for layout, _ in maps.values()]
        return Attribution(
            (large[0] if len(large) == 1 else torch.stack(large).mean(0))[:, None],
            layer=", ".join(maps),
            at=", ".join(maps) if placement == "layer" else None,
            warnings=tuple(found),
            diagnostics={
                "patch_grid": grids[0] if len(grids) == 1 else grids, "placement": placement
            },
        )  # fmt: skip

    def _check_flat_choices(self) -> None:
        """Refuses what exists for images only."""
        if self.upsample == "bicubic":
            raise MethodError(
                "upsample: expected 'bilinear' (along all three axes) or 'nearest' for a volume, "
                "got 'bicubic'"
            )
        if self.placement == "receptive_field":
            raise MethodError(
                "placement: expected 'auto' or 'stretch' for a volume, got 'receptive_field', "
                "which places the cells of images only"
            )

    def _on_fields(self, views: Sequence[LayerView]) -> list[Draw]:
        """Draws each layer's cells on their receptive fields; empty to stretch the maps."""
        if self.placement == "stretch":
            return []
        if self.placement == "receptive_field":
            for view in views:
                if why := view.sight().refusal:
                    raise MethodError(
                        f"placement='receptive_field': the receptive fields of layer {view.path!r} "
                        f"are unknown, since the model does not run on random images ({why}): use "
                        "placement='stretch'"
                    )
        else:
            sights = [view.sight() for view in views]
            off = [s.off_center(v.layout.patch_grid) for v, s in zip(views, sights, strict=True)]
            # maps are averaged, so all have one unit
            if not any(off) or any(sight.spans is None for sight in sights):
                return []
        draws = [(view.path, view.fields()) for view in views]
        large = [path for path, draw in draws if draw is None]
        if large and self.placement == "receptive_field":
            raise MethodError(
                f"placement='receptive_field': the receptive fields of all positions of layer "
                f"{large[0]!r} take too much memory: use placement='stretch'"
            )
        return [] if large else [draw for _, draw in draws if draw is not None]

    def _stretching(self, view: LayerView) -> Draw:
        """Interpolates a layer's map to the image, where the layer sees it."""
        smooth = {} if self.upsample == "nearest" else {"align_corners": False}
        pixels = view.sight().pixels
        mode = "trilinear" if self.upsample == "bilinear" and pixels.dim() == 3 else self.upsample

        def draw(maps: Tensor) -> Tensor:
            large = F.interpolate(maps[:, None], pixels.shape, mode=mode, **smooth)
            return torch.where(pixels, large[:, 0], 0)

        return draw


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

    def warnings(self, _activations: Tensor, _grads: Tensor) -> Iterator[str]:
        """Warnings about the map; none by default."""
        yield from ()

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed."""
        return self.of_score(model, inputs, target)

    def of_score(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """The map of a class, or of a weighted sum of classes, floating ``[batch, classes]``."""
        layers = self.layers(model, inputs)
        found = gradients(model, inputs, target, layers)
        maps, warnings = {}, list[str]()
        for path in layers:
            value, grad = found.activations[path], found.layers[path]
            layout = self.layout(value, path, model, inputs)
            check_reached(grad, layout, path)
            parts = precise(layout.to_nchw(value)), precise(layout.to_nchw(grad))
            maps[path] = layout, self.combine(*parts)
            warnings += self.warnings(*parts)
        return self.placed(model, inputs, maps, warnings)


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
