"""A layer of a model: its maps of images, and the scores of changed maps."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.model import ScoreModel
from explainkit.errors import ModelError
from explainkit.graph.suffix import suffix
from explainkit.methods.cam.base import CAM
from explainkit.methods.cam.layout import layout_of
from explainkit.methods.cam.target_layer import layers_of
from explainkit.scores import Outputs

KEPT = 2**29
"""Bytes of a layer's outputs that are kept, so that the model runs only once for an image."""


class LayerMaps:
    """What a layer outputs at the positions of images, and the scores of changed outputs.

    Attributes:
        path: Dotted path of the layer.
        model: The model, as scores ``[batch, class]``.
        classes: Number of classes.

    Args:
        module: The caller's model, frozen.
        layer: Path or module; None: the default of class activation maps.
        images: A few images ``[batch, channel, height, width]`` to look at the model with.
        outputs: What the model's outputs mean.
        batch_size: Images run at once; None: as many as fit.

    Raises:
        ModelError: The layer has no spatial positions, or several layers would be the default.
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str | nn.Module | None,
        images: Tensor,
        outputs: Outputs,
        batch_size: int | None = None,
    ) -> None:
        self.model = ScoreModel(module, None, batch_size, outputs)
        with torch.enable_grad():  # a softmax at the end shows in the graph
            self.classes = self.model.run(images[:1]).scores.shape[1]
        found = layers_of(layer, self.model, images)
        if len(found) != 1:
            raise ModelError(
                f"expected one layer, but the score reads {len(found)} branches, which end in "
                f"{', '.join(found)}: name one with layer="
            )
        (self.path,) = found
        self._image = images[0]
        self._suffix = suffix(module, self.path, images)
        self._value = self._suffix.value(images)
        self._layout = layout_of(self._value, self.path, module, images)
        self._kept: dict[int, Tensor] = {}

    @cached_property
    def chunk(self) -> int:
        """How many images, or changed outputs, to run at once."""
        return chunk_size(self.model, self._image, backward=False)

    @cached_property
    def backward_chunk(self) -> int:
        """How many images to run at once with their gradients."""
        return chunk_size(self.model, self._image)

    def maps(self, images: Tensor, numbers: Sequence[int] = ()) -> Tensor:
        """The layer's output ``[batch, height, width, channel]``, in float32 or float64.

        Class and register tokens are left out. `scores` then refers to these images.

        Args:
            images: ``[batch, channel, height, width]``.
            numbers: One for each image, by which its output is kept, if it fits `KEPT`. Empty:
                nothing is kept.
        """
        known = [self._kept[i] for i in numbers if i in self._kept]
        whole = torch.stack(known) if len(known) == len(images) else None
        self._value = self._suffix.value(images, whole)
        if whole is None and (len(self._kept) + len(numbers)) * self._value[0].nbytes <= KEPT:
            self._kept.update(zip(numbers, self._value, strict=False))
        found = self._layout.to_nchw(self._value).permute(0, 2, 3, 1)
        return found if found.dtype == torch.float64 else found.float()

    def upsampled(self, images: Tensor, maps: Tensor) -> Tensor:
        """Maps of the layer's positions over the images, as class activation maps.

        Args:
            images: ``[batch, channel, height, width]``, of which only the size matters.
            maps: ``[n, height, width]`` at the layer's resolution.

        Returns:
            ``[n, image height, image width]``.
        """
        drawn = CAM().placed(self.model, images, {self.path: (self._layout, maps)}, unread=True)
        return drawn.values[:, 0]

    def scores(self, maps: Tensor, of: Tensor) -> Tensor:
        """Scores ``[n, class]`` of the last images with other maps at the layer.

        Only what follows the layer runs. Class and register tokens keep their values.

        Args:
            maps: ``[n, height, width, channel]``.
            of: For each the index of its image, int64 ``[n]``.

        Raises:
            ModelError: A score is NaN or infinite.
        """
        scores = in_chunks(lambda rows: self._scores(maps[rows], of[rows]), len(maps), self.chunk)
        if not bool(scores.isfinite().all()):
            raise ModelError(
                f"expected finite scores of changed outputs of layer {self.path!r}, got NaN or "
                "infinity: name another layer"
            )
        return scores

    def gradients(self, images: Tensor, label: int) -> Tensor:
        """A class's scores differentiated by the layer's output, in the shape of `maps`.

        Args:
            images: ``[batch, channel, height, width]``.
            label: The class.

        Raises:
            ModelError: A derivative is NaN or infinite, or all are 0.
        """
        maps = self.maps(images).clone().requires_grad_()
        with torch.enable_grad():
            scores = self._scores(maps, torch.arange(len(maps), device=maps.device))[:, label]
            (found,) = torch.autograd.grad(scores.sum(), maps, materialize_grads=True)
        if not bool(found.isfinite().all()) or not bool(found.any()):
            raise ModelError(
                f"expected finite derivatives by layer {self.path!r}, not all of them 0: name "
                "another layer"
            )
        return found

    def _scores(self, maps: Tensor, of: Tensor) -> Tensor:
        values = self._layout.from_nchw(maps.permute(0, 3, 1, 2), self._value[of])
        return self.model.scores_of(self._suffix.run(values, of), len(values)).double()
