"""A layer's output in place of the image: what methods run on where ``at=`` names a layer."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.graph.suffix import Suffix


class InnerLayer(nn.Module):
    """What a model does after a layer, as a model of its own.

    The layer's output ``[batch, *shape]``, whatever its axes, is presented to methods as images
    ``[batch, channel, height, width]``.

    Attributes:
        part: The model after the layer.
        image_shape: Channel, height, width of the images that the whole model takes.
        shape: One image's output of the layer, without the batch axis.
    """

    def __init__(self, part: Suffix, image: Tensor) -> None:
        """Runs the model up to the layer.

        Args:
            part: The model after the layer.
            image: ``[1, channel, height, width]``.
        """
        super().__init__()
        self.part = part
        self.image_shape = tuple(image.shape[1:])
        self._image = image
        with torch.no_grad():
            self.shape = tuple(part.value(image).shape[1:])

    @property
    def presented(self) -> tuple[int, int, int]:
        """Channel, height, width that methods see."""
        if len(self.shape) <= 3:
            channel, height, width = (1,) * (3 - len(self.shape)) + self.shape
            return channel, height, width
        return self.shape[0], prod(self.shape[1:-1]), self.shape[-1]

    def present(self, values: Tensor) -> Tensor:
        """The layer's output ``[batch, *shape]`` as images ``[batch, channel, height, width]``."""
        return values.reshape(len(values), *self.presented)

    def as_layer(self, maps: Tensor) -> Tensor:
        """Maps ``[batch, channel or 1, height, width]`` with the axes of the layer's output."""
        return maps.reshape(len(maps), -1, *self.shape[1:]) if self.shape else maps.flatten()

    def forward(self, values: Tensor) -> Any:
        """The model's own output for values as `present` gives them."""
        of = torch.zeros(len(values), dtype=torch.int64, device=values.device)
        return self.part.run(values.reshape(len(values), *self.shape), of)

    def baseline(self, given: float | Tensor, field: str) -> Tensor:
        """A method's baseline as it is at this layer.

        Args:
            given: A number or an image, or several, for which the layer's output stands; or values
                of the layer's own shape, with or without a batch axis. Where both shapes are the
                same it is an image.
            field: The field it was given as, for the error.

        Returns:
            ``[channel, height, width]`` for all images, or with a batch axis in front.

        Raises:
            MethodError: It has neither shape.
        """
        if not isinstance(given, Tensor):
            given = torch.full_like(self._image[0], given)
        shape = tuple(given.shape)
        if self.image_shape in {shape, shape[1:]}:
            images = given.to(self._image)
            with torch.no_grad():
                values = self.part.output(images[None] if shape == self.image_shape else images)
            values = self.present(values)
            return values[0] if shape == self.image_shape else values
        if shape == self.shape:
            return self.present(given[None])[0]
        if shape[1:] == self.shape:
            return self.present(given)
        raise MethodError(
            f"{field}: expected a number, an image {list(self.image_shape)} or an output of layer "
            f"{self.part.layer!r} {list(self.shape)}, or a batch of them, got {list(shape)}"
        )
