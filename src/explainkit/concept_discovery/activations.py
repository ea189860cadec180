"""Images read in chunks, and the activations of a layer on all of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.concept_discovery.layer import LayerMaps
from explainkit.engine.inputs import check_images
from explainkit.errors import InputError
from explainkit.evaluation.images import Given, as_the_model_takes_it
from explainkit.progress import progress

MEMORY = 2**30
"""Bytes that the activations may take; of more, each image contributes a sample of positions."""


@dataclass(frozen=True)
class ImageChunks:
    """Images that are read anew whenever they are needed.

    Attributes:
        module: The model.
        images: What was given.
    """

    module: nn.Module
    images: Given

    def __len__(self) -> int:
        return len(self.images.rows)

    def read(self, numbers: list[int]) -> Tensor:
        """Images ``[batch, channel, height, width]`` as the model takes them.

        Raises:
            InputError: They have different sizes, or are not finite.
        """
        rows = self.images.rows
        found = [as_the_model_takes_it(self.module, self.images, rows[i])[0] for i in numbers]
        shapes = {tuple(one.shape[1:]) for one in found}
        if len(shapes) > 1:
            raise InputError(
                "expected images of one size, got "
                f"{', '.join(str(list(shape)) for shape in sorted(shapes))}: resize them"
            )
        return check_images(self.module, torch.cat(found))

    def chunks(self, size: int, what: str) -> Iterator[tuple[list[int], Tensor]]:
        """The numbers of the images of each chunk, and the images; progress says what."""
        with progress(what, len(self)) as advance:
            for start in range(0, len(self), size):
                numbers = list(range(start, min(start + size, len(self))))
                yield numbers, self.read(numbers)
                advance(len(numbers), "")


def activations(layer: LayerMaps, images: ImageChunks, *, seed: int) -> Tensor:
    """The layer's output at all positions of all images, ``[image, position, channel]``.

    Where they would take more than `MEMORY`, each image contributes as many positions as fit, drawn
    at random.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for numbers, chunk in images.chunks(layer.chunk, "activations"):
        maps = layer.maps(chunk, numbers).flatten(1, 2)
        _, positions, channels = maps.shape
        fitting = max(MEMORY // (len(images) * channels * maps.element_size()), 1)
        if fitting < positions:
            drawn = torch.stack(
                [torch.randperm(positions, generator=generator)[:fitting] for _ in maps]
            )
            rows = torch.arange(len(maps))[:, None]
            maps = maps[rows.to(maps.device), drawn.to(maps.device)]
        parts.append(maps.clone())  # a view would keep all of the layer's output
    return torch.cat(parts)
