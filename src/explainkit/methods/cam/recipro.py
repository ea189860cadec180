"""Recipro-CAM: the score with one spatial position of a layer at a time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.interfaces import Attribution
from explainkit.methods.cam.base import CAM, precise
from explainkit.methods.cam.layout import PatchGrid
from explainkit.methods.cam.suffix_scores import SuffixScores


@dataclass(frozen=True)
class ReciproCAM(CAM):
    """The score when all but one spatial position of a layer are masked.

    ``L[p] = S_c(A ⊙ M_p) − S_c(A ⊙ 0)``, in units of the score, where the mask M_p keeps position p
    of all channels: with ``gaussian`` the 3 × 3 binomial window around it, ``¼, ⅛, 1/16``, else p
    alone. In a volume, the window lies in the slice of p. Class and register tokens are not masked.
    Only the part of the model after the layer runs, once per position, without a backward pass; if
    that part cannot be isolated, the whole model runs.

    The paper normalizes each map to [0, 1], which subtracting ``S_c(A ⊙ 0)`` does not affect.

    Attributes:
        gaussian: Keep the 3 × 3 window instead of one position.
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
        layers = self.layers(model, inputs)
        maps, runs = {}, 0
        for path in layers:
            after = SuffixScores(model, path, inputs)
            layout = self.layout(after.value, path, model, inputs)
            masks = layout.over(self._masks(layout.patch_grid, after.value), after.value)
            rows = [_scores(after, masks, i, label) for i, label in enumerate(target.tolist())]
            scores = precise(torch.stack(rows))
            gains = scores[:, 1:] - scores[:, :1]
            maps[path] = layout, gains.view(len(inputs), *layout.patch_grid)
            runs += len(masks)
        placed = self.placed(model, inputs, maps)
        return placed.saying(runs=runs)

    def _masks(self, patch_grid: PatchGrid, value: Tensor) -> Tensor:
        """All masked, then each position in turn, ``[1 + position, height, width]``."""
        count = math.prod(patch_grid)
        positions = torch.eye(count, dtype=value.dtype, device=value.device)
        positions = positions.view(count, 1, *patch_grid)
        if self.gaussian:
            line = value.new_tensor([0.25, 0.5, 0.25])
            slices = positions.view(-1, 1, *patch_grid[-2:])
            slices = F.conv2d(slices, (line[:, None] * line)[None, None], padding=1)
            positions = slices.view(positions.shape)
        return torch.cat([torch.zeros_like(positions[:1]), positions])[:, 0]


def _scores(after: SuffixScores, masks: Tensor, index: int, label: int) -> Tensor:
    """Scores of one image under each mask, in chunks that depend only on that image."""
    size = min(after.chunk, len(masks))
    found = []
    for start in range(0, len(masks), size):
        part = masks[start : start + size]
        filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        of = torch.full((size,), index, device=masks.device)
        found.append(after(after.value[index : index + 1] * filled, of)[: len(part), label])
    return torch.cat(found)
