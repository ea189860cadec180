"""A map without gradients: what the model says of one place of a layer at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.adapter import Adapter
from explainkit.batching import chunk_size
from explainkit.graph.tail import tail
from explainkit.layers import get_layer
from explainkit.methods.cam.base import CAM, layers_of, precise, unwrapped
from explainkit.outputs import as_scores
from explainkit.passes import Needs
from explainkit.types import Attribution

Run = Callable[[Tensor, Tensor], Tensor]
"""From variants of a layer's output, and for each the image that it is of, to scores."""


@dataclass(frozen=True)
class ReciproCAM(CAM):
    """The score when only one place of a layer's output is left, for every place.

    ``L[p] = S_c(A ⊙ M_p) − S_c(A ⊙ 0)``, in units of the score, where the mask M_p keeps place p of
    all channels: with ``gaussian`` the 3 × 3 binomial window around it, ``¼, ⅛, 1/16``, else p
    alone. Class and register tokens are kept. Only the part of the model after the layer runs, once
    per place, without a backward; where that part can't be told, the whole model runs.

    The paper normalises each map to [0, 1], which the difference to nothing kept does not change.

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

    def needs(self, _model: nn.Module, _inputs: Tensor) -> Needs:
        """Nothing that others could share."""
        return Needs()

    @torch.no_grad()
    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Attribution:
        """Returns ``[batch, 1, height, width]``, signed; runs per image in diagnostics."""
        owner = unwrapped(model)
        layers = layers_of(self.layer, owner, inputs)
        maps, runs = [], 0
        for path in layers:
            after = tail(owner, path, inputs)
            value = after.value(inputs)
            layout = self.layout(value, path, model, inputs)
            masks = layout.over(self._masks(layout.grid, value), value)
            run = _after(model, after.run) if _only_output(model) else _whole(model, path, inputs)
            scores = torch.stack(
                [
                    _scores(run, value, masks, i, target[i], model, inputs)
                    for i in range(len(inputs))
                ]
            )
            scores = precise(scores)
            maps.append((scores[:, 1:] - scores[:, :1]).view(len(inputs), *layout.grid))
            runs += len(masks)
        drawn = self.drawn(maps, layers, inputs)
        return Attribution(drawn.values, diagnostics={**drawn.diagnostics, "runs": runs})

    def _masks(self, grid: tuple[int, int], value: Tensor) -> Tensor:
        """Nothing kept, then each place in turn, ``[1 + place, height, width]``."""
        count = grid[0] * grid[1]
        places = torch.eye(count, dtype=value.dtype, device=value.device).view(count, 1, *grid)
        if self.gaussian:
            line = torch.tensor([0.25, 0.5, 0.25], dtype=value.dtype, device=value.device)
            places = F.conv2d(places, (line[:, None] * line)[None, None], padding=1)
        return torch.cat([torch.zeros_like(places[:1]), places])[:, 0]


def _scores(
    run: Run,
    value: Tensor,
    masks: Tensor,
    index: int,
    target: Tensor,
    model: nn.Module,
    inputs: Tensor,
) -> Tensor:
    """Scores of one image under each mask, in chunks that depend on nothing but that image."""
    size = min(chunk_size(model, inputs[0]), len(masks))
    found = []
    for start in range(0, len(masks), size):
        part = masks[start : start + size]
        filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        of = torch.full((size,), index, device=value.device)
        found.append(run(value[index : index + 1] * filled, of)[: len(part), target])
    return torch.cat(found)


def _only_output(model: nn.Module) -> bool:
    return not isinstance(model, Adapter) or model.reads_output_only


def _after(model: nn.Module, run: Callable[[Tensor, Tensor], Any]) -> Run:
    """Only what comes after the layer."""

    def scores(values: Tensor, of: Tensor) -> Tensor:
        output = run(values, of)
        if isinstance(model, Adapter):
            return model.scores_of(output, len(values))
        return as_scores(output, len(values))

    return scores


def _whole(model: nn.Module, path: str, inputs: Tensor) -> Run:
    """The whole model, with the layer's output replaced: for scores that read other layers."""

    def scores(values: Tensor, of: Tensor) -> Tensor:
        def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            return (values, *output[1:]) if isinstance(output, tuple) else values

        hook = get_layer(unwrapped(model), path).register_forward_hook(replace)
        try:
            found: Tensor = model(inputs.detach()[of])
        finally:
            hook.remove()
        return found

    return scores
