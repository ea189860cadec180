"""XRAI: attributions aggregated over regions, in order of their density."""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explainkit.catalog.fields import Typed
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution, Method
from explainkit.methods.path.integrated import IntegratedGradients
from explainkit.methods.perturbation.segments import segment

SCALES = (50, 100, 150, 250, 500, 1200)
"""Felzenszwalb's scale parameter; larger values give larger segments."""

SIGMA, MIN_SIZE, SIDE, RADIUS = 0.8, 150, 224, 5
"""Blur, smallest segment and dilation, in pixels of the SIDE × SIDE image that is segmented."""


@dataclass(frozen=True)
class BlackAndWhite:
    """Mean of integrated gradients from the image's darkest and brightest value.

    ``a = (IG(x; b = min x) + IG(x; b = max x)) / 2``: with a single baseline, pixels of the
    baseline's color would get no attribution.

    Attributes:
        steps: Gradients per image and baseline.
    """

    steps: int = 100

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, channel, height, width]`` in units of the score."""
        images = inputs.detach()
        ends = [images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)]
        base = IntegratedGradients(steps=self.steps)
        parts = [base.between(end.expand_as(images), model, inputs, target) for end in ends]
        gaps = torch.stack([part.diagnostics["completeness_gap"] for part in parts])
        values = (parts[0].values + parts[1].values) / 2
        warnings = [text for part in parts for text in part.warnings]
        return Attribution(values).saying(*warnings, completeness_gap=gaps.amax(0))


@dataclass(frozen=True)
class XRAI(Typed):
    """Regions of the image, ranked by the mean attribution of a base method.

    The image is divided into overlapping segments at six scales. Repeatedly, the segment s is added
    whose new pixels have the largest mean attribution ``mean_{p ∈ s − done} Σ_c A_{c,p}``, and this
    mean is the value of the map there. Pixels outside all segments get their mean. The map has the
    same sum as the base map A, is constant on each region, and ranks the regions.

    Segments come from Felzenszwalb and Huttenlocher's method (scikit-image, the extra
    ``superpixels``) with the authors' parameters: the image, scaled to [−1, 1] and to
    224 × 224 pixels, scale 50, 100, 150, 250, 500 and 1200, σ = 0.8, no segment smaller than 150
    pixels, each dilated by 5. They are then resized to the image. The authors take the largest
    channel of A; here the channels are summed, which preserves completeness.

    Attributes:
        base: The method whose map is aggregated.
        segments: None: found as above. Otherwise integers ``[height, width]``, or one tensor per
            image ``[batch, height, width]``, where pixels with the same number form a segment; a
            number n for a grid of n × n; or ``"slic:80"`` for superpixels.
        min_area: A segment that would add a smaller fraction of the image is skipped; at least one
            pixel.

    Raises:
        MethodError: A field is out of range, segments do not fit the images, or scikit-image
            is missing.

    References:
        Kapishnikov, Bolukbasi, Viégas and Terry (2019), "XRAI: Better Attributions Through
        Regions", arXiv:1906.02825. Felzenszwalb and Huttenlocher (2004), "Efficient Graph-Based
        Image Segmentation", doi:10.1023/B:VISI.0000022288.19776.77.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
        >>> halves = torch.tensor([[0, 0], [1, 1]])
        >>> x = torch.rand(1, 1, 2, 2)
        >>> a = XRAI(IntegratedGradients(), halves)(net, x, torch.tensor([1])).values
        >>> torch.allclose(a.sum(), net(x)[0, 1]), bool(a[0, 0, 0, 0] == a[0, 0, 0, 1])
        (True, True)
    """

    base: Method = field(default_factory=BlackAndWhite)
    segments: int | str | Tensor | None = field(default=None, metadata={"per_image": True})
    min_area: float = field(default=0.001, metadata={"least": 0, "below": 1})

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]`` in units of the base map, summed over channels."""
        labels = None if self.segments is None else segment(self.segments, inputs)
        found = Attribution.of(self.base(model, inputs, target))
        precise = torch.promote_types(inputs.dtype, torch.float32)
        sums = found.values.detach().to(precise).sum(1)
        maps = []
        for i, values in enumerate(sums):
            masks = _felzenszwalb(inputs[i].detach()) if labels is None else _masks(labels[i])
            least = max(1, round(self.min_area * values.numel()))
            maps.append(_densities(values, masks.to(values.device), least))
        values = torch.stack(maps)[:, None].to(inputs.dtype)
        return replace(found, values=values, standard_error=None)


def _densities(values: Tensor, masks: Tensor, least: int) -> Tensor:
    """The mean attribution of each region, taken in the order of these means.

    Args:
        values: ``[height, width]``.
        masks: Segments that may overlap, bool ``[segment, height, width]``.
        least: Smallest number of new pixels of a segment.
    """
    flat = values.flatten()
    members = masks.flatten(1).to(flat.dtype)
    left = torch.ones_like(flat)
    out = torch.zeros_like(flat)
    while len(members):
        area = members @ left
        members, area = members[area >= least], area[area >= least]
        if not len(members):
            break
        density = (members @ (flat * left)) / area
        best = int(density.argmax())
        region = members[best] * left
        out += region * density[best]
        left = left - region
    if bool(left.any()):
        out += left * (flat * left).sum() / left.sum()
    return out.view_as(values)


def _masks(labels: Tensor) -> Tensor:
    """Each segment as a mask, bool ``[segment, height, width]``."""
    found: Tensor = torch.unique(labels)
    return labels == found[:, None, None]


def _felzenszwalb(image: Tensor) -> Tensor:
    """Segments at all scales, dilated, in the size of the image, ``[segment, height, width]``."""
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise MethodError(
            "expected scikit-image to find segments: pip install "
            "'explainkit-vision[superpixels]', or pass your own segments="
        ) from error
    pixels = image.float().cpu()
    low, high = pixels.amin(), pixels.amax()
    pixels = (pixels - low) / (high - low).clamp(min=1e-12) * 2 - 1
    large = F.interpolate(
        pixels[None], (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
    )[0]
    array = large.permute(1, 2, 0).double().numpy()
    masks = torch.cat(
        [
            _masks(torch.from_numpy(felzenszwalb(array, scale, SIGMA, MIN_SIZE, channel_axis=2)))
            for scale in SCALES
        ]
    )
    away = torch.arange(-RADIUS, RADIUS + 1)
    disk = (away[:, None] ** 2 + away**2 <= RADIUS**2).float()
    dilated = F.conv2d(masks[:, None].float(), disk[None, None], padding=RADIUS) > 0.5
    return F.interpolate(dilated.float(), image.shape[1:], mode="nearest-exact")[:, 0] > 0.5
