"""Optimized masks: the smallest deletion, or the best region to keep."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.errors import ModelError
from explainkit.methods.perturbation.baselines import Filling, fill_images
from explainkit.progress import progress


@dataclass(frozen=True)
class _Optimized(Typed):
    """Base of the methods that optimize a coarse mask in [0, 1] per image with Adam.

    The score is normalized, ``share = (S_c(m) − S_c(fill)) / |S_c(x) − S_c(fill)|``, so that the
    weights of a loss have the same meaning for every model.
    """

    hides_parts: ClassVar[bool] = True

    steps: int = field(default=300, metadata={"least": 1})
    lr: float = field(default=0.1, metadata={"above": 0})
    baseline: float | Tensor | Filling = field(default="blur", metadata={"per_image": True})
    seed: int = field(default=0, metadata={"seed": True})

    @abstractmethod
    def _step(self, height: int, width: int) -> int:
        """Pixels between two values of the coarse mask."""

    @abstractmethod
    def _upsample(self, coarse: Tensor, height: int, width: int) -> Tensor:
        """The mask ``[batch, 1, height, width]``, upsampled from a coarse one."""

    @abstractmethod
    def _loss(self, share: Tensor, coarse: Tensor, mask: Tensor, time: float) -> Tensor:
        """The scalar to minimize; ``time`` goes from 0 to 1."""

    def _optimize(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """The optimal masks ``[batch, 1, height, width]``.

        Each image is its own batch: hundreds of steps would amplify the rounding differences
        between batches.
        """
        images = inputs.detach()
        fills = fill_images(self.baseline, images, self.seed)
        masks = []
        with progress(type(self).__name__, self.steps * len(images)) as advance:
            for image, fill, label in zip(images, fills, target.tolist(), strict=True):
                masks.append(self._descend(model, image, fill, label, advance))
        return torch.cat(masks).to(images.dtype)

    def _descend(
        self,
        model: nn.Module,
        image: Tensor,
        fill: Tensor,
        label: int,
        advance: Callable[[int, str], None],
    ) -> Tensor:
        height, width = image.shape[1:]
        step = self._step(height, width)
        with torch.no_grad():
            clean, empty = model(torch.stack([image, fill]))[:, label].float()
        scale = (clean - empty).abs().clamp(min=0.05)
        shape = (1, 1, -(-height // step), -(-width // step))
        with torch.enable_grad():
            coarse = torch.full(shape, 0.5, device=image.device, requires_grad=True)
            adam = torch.optim.Adam([coarse], lr=self.lr)
            for turn in range(self.steps):
                mask = self._upsample(coarse, height, width)
                score = model(torch.lerp(fill, image, mask.to(image.dtype)))[0, label].float()
                if not score.requires_grad:
                    raise ModelError(
                        "expected a score that depends on the images, but no gradient reaches "
                        "them: use a method that needs none, such as rise"
                    )
                share = (score - empty) / scale
                loss = self._loss(share, coarse, mask, turn / self.steps)
                (coarse.grad,) = torch.autograd.grad(loss, coarse)
                adam.step()
                with torch.no_grad():
                    coarse.clamp_(0, 1)
                advance(1, "")
            return self._upsample(coarse.detach(), height, width)


@dataclass(frozen=True)
class MeaningfulPerturbation(_Optimized):
    """The smallest, smoothest deletion that lowers the score.

    ``a = 1 − m`` with ``m = argmin share(m ⊙ x + (1 − m) ⊙ fill) + sparsity · mean(1 − m) +
    smoothness · mean(|∇m|^β)``, where ``share = (S_c − S_c(fill)) / |S_c(x) − S_c(fill)|`` replaces
    the probability of the published method. The mask is coarse and upsampled bilinearly; it starts
    at ½ and stays in [0, 1]. Each value is the share of the pixel that is deleted.

    Attributes:
        steps: Gradients per image.
        lr: Learning rate of Adam.
        baseline: Replaces hidden pixels: one value, a tensor, ``"mean"``, ``"blur"`` or
            ``"noise"``.
        seed: Random seed of the noise; ``explain(seed=…)`` sets it.
        step: Pixels per value of the mask; None: a 28th of the shorter side.
        sparsity: Penalty for deleting the whole image, as a share of the score.
        smoothness: Penalty for edges in the mask.
        power: β, the exponent of the mask's slope.

    Raises:
        MethodError: A field is out of range.
        ModelError: The score does not depend on the images.

    References:
        Fong and Vedaldi (2017), "Interpretable Explanations of Black Boxes by Meaningful
        Perturbation", arXiv:1704.03296.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> e = ek.explain(model, images, 0, "meaningful_perturbation", steps=5)
        >>> bool(((e.attribution >= 0) & (e.attribution <= 1)).all())
        True
    """

    step: int | None = field(default=None, metadata={"least": 1})
    sparsity: float = 0.5
    smoothness: float = 0.2
    power: float = 3.0

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """Returns ``[batch, 1, height, width]``, from 0 (kept) to 1 (deleted)."""
        return 1 - self._optimize(model, inputs, target)

    def _step(self, height: int, width: int) -> int:
        return self.step or max(round(min(height, width) / 28), 1)

    def _upsample(self, coarse: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)

    def _loss(self, share: Tensor, coarse: Tensor, mask: Tensor, time: float) -> Tensor:  # noqa: ARG002
        slopes = torch.cat([coarse.diff(dim=axis).flatten() for axis in (2, 3)])
        edges = (slopes.abs() ** self.power).sum() / max(len(slopes), 1)
        return share + self.sparsity * (1 - coarse).mean() + self.smoothness * edges


@dataclass(frozen=True)
class ExtremalPerturbation(_Optimized):
    """The smooth mask of a given area that preserves the score best.

    ``a = m = argmax share(m ⊙ x + (1 − m) ⊙ fill) − λ ‖sorted(m) − r‖² / pixels``, where r has as
    many ones as the area requires, λ grows by a factor of 20 during the optimization, and
    ``share = (S_c − S_c(fill)) / |S_c(x) − S_c(fill)|``. The mask is the smooth maximum of bumps
    ``exp(−2 max(0, |u| / σ − ½)²)`` around the values of a coarse one, so it has no small parts.

    Attributes:
        steps: Gradients per image.
        lr: Learning rate of Adam.
        baseline: Replaces hidden pixels: one value, a tensor, ``"mean"``, ``"blur"`` or
            ``"noise"``.
        seed: Random seed of the noise; ``explain(seed=…)`` sets it.
        area: Fraction of the image to keep.
        sigma: Size of a bump in pixels; None: an eleventh of the shorter side (21 of 224).
        area_weight: Initial λ.

    Raises:
        MethodError: A field is out of range.
        ModelError: The score does not depend on the images.

    References:
        Fong, Patrick and Vedaldi (2019), "Understanding Deep Networks via Extremal Perturbations
        and Smooth Masks", arXiv:1910.08485.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> model, images = toy_models()["plain"]
        >>> e = ek.explain(model, images, 0, "extremal_perturbation", steps=5)
        >>> bool(((e.attribution >= 0) & (e.attribution <= 1)).all())
        True
    """

    lr: float = 0.05
    area: float = field(default=0.1, metadata={"above": 0, "below": 1})
    sigma: float | None = field(default=None, metadata={"above": 0, "below": math.inf})
    area_weight: float = 3.0

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """Returns ``[batch, 1, height, width]``, from 0 (hidden) to 1 (kept)."""
        return self._optimize(model, inputs, target)

    def _sigma(self, height: int, width: int) -> float:
        return self.sigma or max(min(height, width) * 21 / 224, 1.0)

    def _step(self, height: int, width: int) -> int:
        return max(round(self._sigma(height, width) / 3), 1)

    def _upsample(self, coarse: Tensor, height: int, width: int) -> Tensor:
        sigma, step = self._sigma(height, width), self._step(height, width)
        return smooth_maximum(coarse, sigma, step)[..., :height, :width]

    def _loss(self, share: Tensor, coarse: Tensor, mask: Tensor, time: float) -> Tensor:  # noqa: ARG002
        values = mask.flatten().sort().values
        wanted = torch.zeros_like(values)
        wanted[round((1 - self.area) * len(wanted)) :] = 1
        weight = self.area_weight * 20**time
        return weight * (values - wanted).square().mean() - share


def smooth_maximum(coarse: Tensor, sigma: float, step: int, sharpness: float = 20.0) -> Tensor:
    """Places a bump at every coarse value and takes their softmax-weighted maximum.

    Args:
        coarse: ``[batch, 1, rows, columns]`` in [0, 1].
        sigma: Size of a bump, in pixels.
        step: Pixels between two coarse values.
        sharpness: Sharpness of the maximum.

    Returns:
        ``[batch, 1, rows · step, columns · step]``.

    Examples:
        >>> smooth_maximum(torch.ones(1, 1, 2, 2), 1.0, 2).shape
        torch.Size([1, 1, 4, 4])
    """
    rows, columns = coarse.shape[2:]
    radius = math.ceil(2 * sigma / step)
    side = 2 * radius + 1
    around = F.unfold(F.pad(coarse, (radius,) * 4, "replicate"), side)
    # distance of each pixel of a cell from the surrounding cells
    cell = (torch.arange(step, device=coarse.device) - (step - 1) / 2)[:, None]
    apart = cell - step * (torch.arange(side, device=coarse.device) - radius)
    distance = (apart.square()[:, None, :, None] + apart.square()[None, :, None]).sqrt() / sigma
    bump = (-2 * (distance - 0.5).clamp(min=0).square()).exp().reshape(step**2, side**2, 1)
    bumps = around[:, None] * bump
    largest = ((bumps * sharpness).softmax(2) * bumps).sum(2)
    return F.fold(largest, (rows * step, columns * step), step, stride=step)
