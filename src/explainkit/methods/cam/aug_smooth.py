"""Test-time augmentation of class activation maps: flips and scales, averaged."""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.engine.passes import Needs, needs_of
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution, Method
from explainkit.methods.cam.base import CAM
from explainkit.methods.cam.finer import FinerCAM
from explainkit.methods.cam.gradient import GradCAM


@dataclass(frozen=True)
class AugSmooth(Typed):
    """The mean of a class activation map over flipped and scaled copies of the image.

    ``a = 1/n Σ_s [A(s · x) + flip A(s · flip x)]``, where A is the CAM named by ``base``, s runs
    over ``scales``, flips are from left to right, and n is the number of copies. All copies explain
    the same class, that of the image itself if none is given. In the unit of the base.

    Attributes:
        base: A class activation map, which sets the layer and the placement.
        flip: Whether to average over flipped copies, too.
        scales: Factors s of the image in model-input space.

    Raises:
        MethodError: The base is no class activation map, or a factor is missing or not finite.

    References:
        Gildenblat and contributors (2021), "PyTorch library for CAM methods", where it is called
        aug_smooth, github.com/jacobgil/pytorch-grad-cam. The maps are averaged as they are; there,
        each is scaled to [0, 1] before.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "aug_smooth", base="layercam")
        >>> e.attribution.shape, e.layer
        (torch.Size([4, 1, 12, 10]), '4')
    """

    volumes: ClassVar[bool] = True

    base: Method = field(default_factory=GradCAM)
    flip: bool = True
    scales: tuple[float, ...] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.base, CAM | FinerCAM):
            raise MethodError(
                f"base: expected a class activation map such as GradCAM(), got {self.base!r}"
            )
        if not self.scales or not all(abs(scale) < float("inf") for scale in self.scales):
            raise MethodError(f"scales: expected finite numbers, at least one, got {self.scales}")

    def needs(self, model: nn.Module, inputs: Tensor) -> Needs:
        """Those of its base."""
        return needs_of(self.base, model, inputs)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed."""
        copies = product((False, True) if self.flip else (False,), self.scales)
        found = [
            (Attribution.of(self.base(model, _copy(inputs, scale, flip), target)), flip)
            for flip, scale in copies
        ]
        mean = torch.stack([_flipped(one.values, flip) for one, flip in found]).mean(0)
        warnings = [text for one, _ in found for text in one.warnings]
        return replace(found[0][0], values=mean).saying(*warnings)


def _copy(inputs: Tensor, scale: float, flip: bool) -> Tensor:
    """A copy of the images; the images themselves, whose forward is shared, if it is the same."""
    if scale == 1 and not flip:
        return inputs
    return _flipped(scale * inputs.detach(), flip).requires_grad_()


def _flipped(values: Tensor, flip: bool) -> Tensor:
    return values.flip(-1) if flip else values
