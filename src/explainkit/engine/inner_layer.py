"""The model from an inner layer on, for explanations ``at=`` a layer."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.errors import MethodError, ModelError
from explainkit.graph.suffix import Suffix


class InnerLayer(nn.Module):
    """The model from a layer on, as a model of its own.

    The layer's output ``[batch, *shape]``, whatever its axes, is presented to methods as images
    ``[batch, channel, height, width]``.

    Attributes:
        part: The model after the layer.
        image_shape: Channel, height, width of the whole model's input.
        shape: Shape of the layer's output for one image, without the batch axis.
    """

    def __init__(self, part: Suffix, image: Tensor) -> None:
        """Runs the model up to the layer to learn the output's shape.

        Args:
            part: The model after the layer.
            image: ``[1, channel, height, width]``.

        Raises:
            ModelError: The layer's output is not floating-point.
        """
        super().__init__()
        self.part = part
        self.image_shape = tuple(image.shape[1:])
        self._image = image
        with torch.no_grad():
            value = part.value(image)
        if not value.is_floating_point():
            raise ModelError(
                f"expected floating-point values from layer {part.layer!r}, got {value.dtype}: "
                "nothing can be attributed to them"
            )
        self.shape = tuple(value.shape[1:])

    @property
    def presented(self) -> tuple[int, int, int]:
        """Channel, height, width as presented to methods."""
        if len(self.shape) <= 3:
            channel, height, width = (1,) * (3 - len(self.shape)) + self.shape
            return channel, height, width
        return self.shape[0], prod(self.shape[1:-1]), self.shape[-1]

    def present(self, values: Tensor) -> Tensor:
        """The layer's output ``[batch, *shape]`` as images ``[batch, channel, height, width]``."""
        return values.reshape(len(values), *self.presented)

    def as_layer(self, maps: Tensor) -> Tensor:
        """Reshapes maps ``[batch, channel or 1, height, width]`` to the layer's axes."""
        return maps.reshape(len(maps), -1, *self.shape[1:]) if self.shape else maps.flatten()

    def forward(self, values: Tensor) -> Any:
        """The model's output for values in the form of `present`."""
        of = torch.zeros(len(values), dtype=torch.int64, device=values.device)
        return self.part.run(values.reshape(len(values), *self.shape), of)

    def baseline(self, given: float | Tensor, field: str) -> Tensor:
        """Converts a method's baseline to this layer.

        Args:
            given: A number, an image or a batch of images, which stands for the layer's output on
                it; or values of the layer's shape, with or without a batch axis. If both shapes
                are equal, it is taken as an image.
            field: Name of the method's field, for the error.

        Returns:
            ``[channel, height, width]`` for all images, or with a batch axis in front.

        Raises:
            MethodError: It has neither the image's nor the layer's shape.
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
