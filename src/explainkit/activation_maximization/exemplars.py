"""Real images with a unit's highest and lowest activations, where they occur, receptive fields."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.activation_maximization.activations import ActivationReader
from explainkit.engine.arguments import whole_number
from explainkit.engine.batching import chunk_size
from explainkit.errors import InputError, ModelError
from explainkit.isolation import preserve_model, preserve_process
from explainkit.layers import floating_tensor


@dataclass(frozen=True, eq=False)
class Exemplars:
    """The images of a data set with each unit's highest and lowest activations.

    An image is ranked by the unit's maximum over all spatial positions (for the lowest images, its
    minimum). Ties go to the earlier image and the earlier position.

    Attributes:
        layer: Dotted path.
        top: Indices of the images with the highest values, highest first, int64 ``[unit, k]``.
        top_value: Those values, ``[unit, k]``.
        top_place: Row and column in the layer's output, int64 ``[unit, k, 2]``. For token layers:
            the token and 0; for layers without spatial axes: 0 and 0.
        bottom: Indices of the images with the lowest values, lowest first, int64 ``[unit, k]``.
        bottom_value: Those values, ``[unit, k]``.
        bottom_place: Their positions, int64 ``[unit, k, 2]``.
        count: Images in the data set.
    """

    layer: str
    top: Tensor
    top_value: Tensor
    top_place: Tensor
    bottom: Tensor
    bottom_value: Tensor
    bottom_place: Tensor
    count: int


def find_exemplars(
    model: nn.Module, layer: str, images: Tensor, *, k: int = 9, batch_size: int | None = None
) -> Exemplars:
    """Finds the extreme images of every unit of a layer in one pass over a data set.

    The model runs only up to the layer and is left unchanged.

    Args:
        model: Any module.
        layer: Dotted path of the layer.
        images: The data set, ``[n, channel, height, width]`` in model-input space.
        k: Images per unit, at most all of them.
        batch_size: Images per pass; None chooses automatically.

    Raises:
        InputError: There are no images, or ``k`` is below 1.
        ModelError: There is no such layer, or its output has no units.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> found = find_exemplars(net, "0", torch.rand(20, 1, 8, 8), k=3)
        >>> found.top.shape, found.top_place.shape
        (torch.Size([4, 3]), torch.Size([4, 3, 2]))
    """
    if images.dim() != 4 or not len(images):
        raise InputError(f"expected images [n, channel, height, width], got {list(images.shape)}")
    k = whole_number("k", k, 1)
    with preserve_process(0), preserve_model(model), torch.no_grad():
        reader = ActivationReader(model, [layer], logits=False)
        size = batch_size or chunk_size(reader, images[0])
        top, bottom = _Best(k), _Best(k)
        for start in range(0, len(images), size):
            _, found = reader(images[start : start + size])
            maps, width = _maps(layer, found[layer])
            top.add(maps, start, width)
            bottom.add(-maps, start, width)
    return Exemplars(
        layer=layer,
        top=top.image,
        top_value=top.value,
        top_place=top.place,
        bottom=bottom.image,
        bottom_value=-bottom.value,
        bottom_place=bottom.place,
        count=len(images),
    )


def _maps(layer: str, output: Tensor) -> tuple[Tensor, int]:
    """A layer's output as ``[batch, unit, position]``, and the number of positions per row."""
    if output.dim() == 4:
        return output.flatten(2), output.shape[3]
    if output.dim() == 3:
        return output.transpose(1, 2), 1
    if output.dim() == 2:
        return output[:, :, None], 1
    raise ModelError(f"layer {layer!r}: expected an output with units, got {list(output.shape)}")


class _Best:
    """The k highest values per unit so far, with image and position."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.value = self.image = self.place = torch.empty(0)

    def add(self, maps: Tensor, start: int, width: int) -> None:
        value, flat = maps.max(2)
        value, flat = value.T, flat.T
        image = torch.arange(start, start + len(maps), device=maps.device).expand_as(flat)
        place = torch.stack([flat // width, flat % width], 2)
        if self.value.numel():
            value = torch.cat([self.value, value], 1)
            image = torch.cat([self.image, image], 1)
            place = torch.cat([self.place, place], 1)
        order = value.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        self.value, self.image = value.gather(1, order), image.gather(1, order)
        self.place = place.gather(1, order[:, :, None].expand(-1, -1, 2))


@dataclass(frozen=True)
class Box:
    """A rectangle of an image; ``bottom`` and ``right`` are exclusive.

    Attributes:
        top: First row.
        left: First column.
        bottom: Row after the last.
        right: Column after the last.
    """

    top: int
    left: int
    bottom: int
    right: int

    def crop(self, image: Tensor) -> Tensor:
        """Crops an image ``[…, height, width]`` to the rectangle."""
        return image[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, eq=False)
class ReceptiveFields:
    """The receptive field of each spatial position of a layer.

    Attributes:
        boxes: Top, left, bottom (exclusive) and right (exclusive) of each position, int64
            ``[position, 4]``; all zero where no pixel has an influence.
        width: Positions per row of the layer's output.
    """

    boxes: Tensor
    width: int

    def at(self, row: int, column: int = 0) -> Box:
        """The receptive field of one position; row and column as in `Exemplars.top_place`.

        Raises:
            InputError: The layer has no such position.
        """
        height = len(self.boxes) // self.width
        if not (0 <= row < height and 0 <= column < self.width):
            raise InputError(
                f"expected a position within [{height}, {self.width}], got {row, column}"
            )
        return Box(*self.boxes[row * self.width + column].tolist())


def receptive_fields(model: nn.Module, layer: str, shape: tuple[int, int, int]) -> ReceptiveFields:
    """Computes the exact receptive field of each position of a layer, for any network.

    NaN propagates to every value computed from it, also through ReLUs and pooling, which can block
    a gradient. One image per row (and per column) is filled with NaN there: the positions that
    become NaN are those that the row influences.

    Args:
        model: Any module.
        layer: Dotted path.
        shape: Channels, height and width of an image.

    Raises:
        ModelError: There is no such layer, or the model fails on images of that shape.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2))
        >>> receptive_fields(net, "2", (1, 12, 12)).at(1, 0)
        Box(top=4, left=0, bottom=9, right=5)
    """
    image = floating_tensor(model).new_zeros(shape)
    with preserve_process(0), preserve_model(model), torch.no_grad():
        reader = ActivationReader(model, [layer], logits=False)
        size = chunk_size(reader, image)
        rows, width = _reached(reader, image, layer, size, axis=1)
        columns, _ = _reached(reader, image, layer, size, axis=2)
    top, bottom = _ends(rows)
    left, right = _ends(columns)
    return ReceptiveFields(torch.stack([top, left, bottom, right], 1), width)


def _reached(
    reader: ActivationReader, image: Tensor, layer: str, size: int, axis: int
) -> tuple[Tensor, int]:
    """Which rows (axis 1) or columns (2) influence which positions, and positions per row."""
    parts, width = [], 1
    for lines in torch.split(torch.arange(image.shape[axis]), size):
        images = image.expand(len(lines), *image.shape).clone()
        for copy, line in zip(images, lines.tolist(), strict=True):
            copy.select(axis, line).fill_(torch.nan)
        _, outputs = reader(images)
        maps, width = _maps(layer, outputs[layer])
        parts.append(maps.isnan().any(1).cpu())
    return torch.cat(parts), width


def _ends(reached: Tensor) -> tuple[Tensor, Tensor]:
    """First row that influences each position, and the row after the last; zeros if none does."""
    first = reached.int().argmax(0)
    last = len(reached) - reached.flip(0).int().argmax(0)
    anything = reached.any(0)
    return first * anything, last * anything
