"""A map without gradients: what the model says of one place of a layer at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.interfaces import Attribution
from explainkit.methods.cam.base import CAM, layers_of, precise, unwrapped
from explainkit.methods.cam.suffix_scores import SuffixScores


@dataclass(frozen=True)
class ReciproCAM(CAM):
    """The score when only one place of a layer's output is left, for every place.

    ``L[p] = S_c(A ⊙ M_p) − S_c(A ⊙ 0)``, in units of the score, where the mask M_p keeps place p of
    all channels: with ``gaussian`` the 3 × 3 binomial window around it, ``¼, ⅛, 1/16``, else p
    alone. Class and register tokens are kept. Only the part of the model after the layer runs, once
    per place, without a backward; where that part can't be told, the whole model runs.

    The paper normalizes each map to [0, 1], which the difference to nothing kept does not change.

    Attributes:
        gaussian: Keep the 3 × 3 window instead of one place.
        layer: As in `GradCAM`, like all other fields.

    References:
        Byun and Lee (2022), "Recipro-CAM: Fast gradient-free visual explanations for convolutional
        neural networks", arXiv:2209.14074.

    Examples:
        >>> import explainkit as ek
        >>> from explainkit.testing import toy_models
        >>> e = ek.explain(*toy_models()["plain"], 0, "recipro_cam")
        >>> e.attribution.shape, e.layer, e.diagnostics["runs"]
        (torch.Size([4, 1, 12, 10]), '4', 13)
    """

    gaussian: bool = True

    @torch.no_grad()
    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed; runs per image in diagnostics."""
        layers = layers_of(self.layer, unwrapped(model), inputs)
        maps, runs = [], 0
        for path in layers:
            after = SuffixScores(model, path, inputs)
            layout = self.layout(after.value, path, model, inputs)
            masks = layout.over(self._masks(layout.patch_grid, after.value), after.value)
            scores = torch.stack(
                [_scores(after, masks, i, label) for i, label in enumerate(target.tolist())]
            )
            scores = precise(scores)
            maps.append((scores[:, 1:] - scores[:, :1]).view(len(inputs), *layout.patch_grid))
            runs += len(masks)
        upsampled = self.upsampled(maps, layers, inputs)
        return upsampled.saying(runs=runs)

    def _masks(self, patch_grid: tuple[int, int], value: Tensor) -> Tensor:
        """Nothing kept, then each place in turn, ``[1 + place, height, width]``."""
        count = patch_grid[0] * patch_grid[1]
        places = torch.eye(count, dtype=value.dtype, device=value.device).view(
            count, 1, *patch_grid
        )
        if self.gaussian:
            line = torch.tensor([0.25, 0.5, 0.25], dtype=value.dtype, device=value.device)
            places = F.conv2d(places, (line[:, None] * line)[None, None], padding=1)
        return torch.cat([torch.zeros_like(places[:1]), places])[:, 0]


def _scores(after: SuffixScores, masks: Tensor, index: int, label: int) -> Tensor:
    """Scores of one image under each mask, in chunks that depend on nothing but that image."""
    size = min(after.chunk, len(masks))
    found = []
    for start in range(0, len(masks), size):
        part = masks[start : start + size]
        filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        of = torch.full((size,), index, device=masks.device)
        found.append(after(after.value[index : index + 1] * filled, of)[: len(part), label])
    return torch.cat(found)
