"""Scores of modified outputs of a layer."""

import torch
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size
from explainkit.engine.model import ScoreModel, unwrapped
from explainkit.graph.suffix import suffix
from explainkit.layer_tensors import LayerTensor
from explainkit.layers import get_layer
from explainkit.scores import as_scores


class SuffixScores(nn.Module):
    """The scores of a model when the output of a layer is replaced.

    Only the part after the layer runs, or the whole model with the layer's output replaced if the
    score also reads other layers or the image.

    Attributes:
        value: Output of the layer for the images, ``[batch, …]``.

    Args:
        model: Gives scores ``[batch, classes]``.
        path: Dotted path of the layer, in the caller's model.
        inputs: Images ``[batch, channel, height, width]``.
    """

    def __init__(self, model: nn.Module, path: str, inputs: Tensor) -> None:
        super().__init__()
        self.model = model
        self._path = path
        self._images = inputs.detach()
        self._suffix = suffix(unwrapped(model), path, self._images)
        ready = model.ready(inputs) if isinstance(model, ScoreModel) else None
        known = ready.activations[path].detach() if ready and ready.has([path]) else None
        self.value = self._suffix.value(self._images, known)

    def forward(self, values: Tensor, of: Tensor | None = None) -> Tensor:
        """Scores ``[n, classes]``.

        Args:
            values: Modified outputs of the layer, ``[n, …]``.
            of: The image to which each belongs, int64 ``[n]``; None: the first.
        """
        if of is None:
            of = torch.zeros(len(values), dtype=torch.int64, device=values.device)
        model = self.model
        if not isinstance(model, ScoreModel):
            return as_scores(self._suffix.run(values, of), len(values))
        if model.reads_output_only:
            return model.scores_of(self._suffix.run(values, of), len(values))
        return self._whole(values, of)

    def _whole(self, values: Tensor, of: Tensor) -> Tensor:
        one = LayerTensor.of(self._path)
        layer = get_layer(unwrapped(self.model), one.layer)
        hook = one.hook(layer, lambda _value: values, len(values))
        try:
            found: Tensor = self.model(self._images[of])
        finally:
            hook.remove()
        return found

    @property
    def chunk(self) -> int:
        """How many modified outputs to run at once."""
        if isinstance(self.model, ScoreModel) and self.model.batch_size is not None:
            return self.model.batch_size
        return chunk_size(self, self.value[0])
