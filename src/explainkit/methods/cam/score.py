"""Score-CAM: the score of the image masked by each channel's map."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.engine.passes import activations
from explainkit.interfaces import Attribution
from explainkit.methods.cam.base import CAM, precise
from explainkit.methods.cam.gradient import weighted
from explainkit.methods.cam.layout import PatchGrid, spatial_axes
from explainkit.methods.perturbation.mask_scores import Masks, evaluate_masks


@dataclass(frozen=True, eq=False)
class ChannelMasks(Masks):
    """Maps of channels, upsampled to the image and scaled to [0, 1]: a sample is one map.

    Attributes:
        patch_grid: Height and width of a map; of a volume depth, height and width.
        align_corners: Whether a map's corners lie on the image's.
    """

    patch_grid: PatchGrid
    align_corners: bool

    def pixels(self, image: int, samples: Tensor) -> Tensor:  # noqa: ARG002 - all images alike
        """The share of each pixel that is kept, ``[len(samples), 1, height, width]``."""
        large = self._upsampled(samples)
        axes = spatial_axes(large)
        low, high = large.amin(axes, keepdim=True), large.amax(axes, keepdim=True)
        return (large - low) / (high - low + 1e-8)

    def upsample(self, image: int, values: Tensor) -> Tensor:  # noqa: ARG002 - all images alike
        """A map ``[1, height, width]`` of values at the layer's spatial positions."""
        return self._upsampled(values)[0]

    def _upsampled(self, samples: Tensor) -> Tensor:
        return F.interpolate(
            samples.view(-1, 1, *self.patch_grid),
            self.baseline.shape[2:],
            mode="bilinear" if len(self.patch_grid) == 2 else "trilinear",
            align_corners=self.align_corners,
        )


@dataclass(frozen=True)
class ScoreCAM(CAM):
    """Channels of a layer, weighted by the score of the image masked by each channel.

    ``L[p] = Σ_k α_k A[k, p]`` with ``α = softmax_k S_c(x ⊙ H_k)``, where H_k is channel k of the
    layer's output A, upsampled bilinearly to the image and scaled to [0, 1],
    ``(U − min U) / (max U − min U + 10⁻⁸)``, and x is the image in model-input space. In units of
    the layer's output. No gradient is used.

    Equal masks run only once, with the same result: constant channels, such as dead ones, share one
    run, and so do channels with equal maps (``diagnostics["runs"]`` of
    ``diagnostics["channels"]``). All targets share the runs.

    Attributes:
        align_corners: Align the corners of the map with those of the image, as pytorch-grad-cam
            does; if false, each value is at the center of its cell.
        top: Use only this many channels, those with the largest variance over the spatial positions
            (Faster-Score-CAM); the ratios of their weights do not change. None: all.
        layer: As in `GradCAM`, like all other fields.

    Raises:
        MethodError: ``top`` is not positive.

    References:
        Wang, Wang, Du, Yang, Zhang, Ding, Mardziel and Hu (2020), "Score-CAM: Score-Weighted Visual
        Explanations for Convolutional Neural Networks", arXiv:1910.01279.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "score_cam")
        >>> e.attribution.shape, e.layer, e.diagnostics["channels"]
        (torch.Size([4, 1, 12, 10]), '4', 8)
    """

    align_corners: bool = False
    top: int | None = field(default=None, metadata={"least": 1})

    @torch.no_grad()
    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed; runs per image in diagnostics."""
        layers = self.layers(model, inputs)
        values = activations(model, inputs, layers)
        maps, channels = {}, 0
        runs = torch.zeros_like(target)
        for path in layers:
            layout = self.layout(values[path], path, model, inputs)
            features = precise(layout.to_nchw(values[path]))
            flat = features.flatten(2)
            chosen = _most_varied(flat, self.top)
            # for each channel, its index among the distinct masks
            found = [
                torch.unique(_constants_zeroed(one), dim=0, return_inverse=True) for one in chosen
            ]
            samples = tuple(samples for samples, _ in found)
            hidden = torch.zeros_like(inputs)
            masks = ChannelMasks(samples, hidden, layout.patch_grid, self.align_corners)
            counts = [*map(len, samples)]
            evaluations = evaluate_masks(model, inputs, masks, least=counts, title="ScoreCAM")
            rows = zip(evaluations.scores, found, target.tolist(), strict=True)
            scores = torch.stack([each[index, label] for each, (_, index), label in rows])
            weights = scores.softmax(1).to(chosen)
            shaped = chosen.view(*chosen.shape[:2], *layout.patch_grid)
            maps[path] = layout, weighted(weights, shaped)
            runs += torch.tensor(counts, device=runs.device)
            channels += flat.shape[1]
        placed = self.placed(model, inputs, maps)
        return placed.saying(runs=runs, channels=channels)


def _most_varied(maps: Tensor, top: int | None) -> Tensor:
    """The channels of ``[batch, channel, position]`` with the largest variance, in order."""
    if top is None or top >= maps.shape[1]:
        return maps
    chosen = maps.var(2, correction=0).topk(top, dim=1).indices.sort(1).values
    return maps.gather(1, chosen[..., None].expand(-1, -1, maps.shape[2]))


def _constants_zeroed(maps: Tensor) -> Tensor:
    """Channels ``[channel, position]``, constant ones set to zero: their masks are equal."""
    constant = maps.amax(1, keepdim=True) == maps.amin(1, keepdim=True)
    return maps.masked_fill(constant, 0)
