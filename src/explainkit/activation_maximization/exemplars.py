"""Real images that units answer to most and least, where in them, and what they see there."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explainkit.activation_maximization.activations import ActivationReader
from explainkit.engine.batching import chunk_size
from explainkit.errors import InputError, ModelError
from explainkit.isolation import preserve_model, preserve_process


@dataclass(frozen=True, eq=False)
class Exemplars:
    """The images of a data set that each unit of a layer answers to most and least.

    A unit's answer to an image is its highest value over space (for the lowest images, its
    lowest); ties go to the earlier image and the earlier place.

    Attributes:
        layer: Dotted path.
        top: Numbers of the images with the highest values, best first, int64 ``[unit, k]``.
        top_value: Those values.
        top_place: Row and column in the layer's output, int64 ``[unit, k, 2]``; for token layers
            the token and 0, for layers without space 0 and 0.
        bottom: Numbers of the images with the lowest values, lowest first.
        bottom_value: Those values.
        bottom_place: Their places.
        mean: Mean over the data set of each unit's mean over space, ``[unit]``.
        std: Its standard deviation over the data set, ``[unit]``.
        highest_mean: Highest mean over space that any image reaches, ``[unit]``.
        count: Images seen.
    """

    layer: str
    top: Tensor
    top_value: Tensor
    top_place: Tensor
    bottom: Tensor
    bottom_value: Tensor
    bottom_place: Tensor
    mean: Tensor
    std: Tensor
    highest_mean: Tensor
    count: int


def find_exemplars(
    model: nn.Module, layer: str, images: Tensor, *, k: int = 9, batch_size: int | None = None
) -> Exemplars:
    """Keeps the extreme images of every unit of a layer, in one pass over a data set.

    The model runs no further than the layer, and is as before afterwards.

    Args:
        model: Any module.
        layer: Dotted path of the layer.
        images: The data set, ``[n, channel, height, width]`` in model-input space.
        k: How many to keep; fewer where there are fewer images.
        batch_size: Images at once; None: chosen.

    Raises:
        InputError: No images, or ``k`` below 1.
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
    if k < 1:
        raise InputError(f"k: expected at least 1, got {k}")
    with preserve_process(0), preserve_model(model), torch.no_grad():
        reading = ActivationReader(model, [layer], logits=False)
        size = batch_size or chunk_size(reading, images[0])
        top, bottom, channel_statistics = _Best(k), _Best(k), _RunningStatistics()
        for start in range(0, len(images), size):
            _, found = reading(images[start : start + size])
            maps, width = _maps(layer, found[layer])
            top.add(maps, start, width)
            bottom.add(-maps, start, width)
            channel_statistics.add(maps.mean(2))
    return Exemplars(
        layer=layer,
        top=top.image,
        top_value=top.value,
        top_place=top.place,
        bottom=bottom.image,
        bottom_value=-bottom.value,
        bottom_place=bottom.place,
        mean=channel_statistics.mean,
        std=channel_statistics.std,
        highest_mean=channel_statistics.highest,
        count=len(images),
    )


def _maps(layer: str, output: Tensor) -> tuple[Tensor, int]:
    """A layer's output as ``[batch, unit, place]``, and the places in a row."""
    if output.dim() == 4:
        return output.flatten(2), output.shape[3]
    if output.dim() == 3:
        return output.transpose(1, 2), 1
    if output.dim() == 2:
        return output[:, :, None], 1
    raise ModelError(f"layer {layer!r}: expected an output with units, got {list(output.shape)}")


class _Best:
    """The k highest values per unit so far, with image and place."""

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


class _RunningStatistics:
    """Mean, init_std and maximum of values that come in batches, in double precision."""

    def __init__(self) -> None:
        self.count, self.total, self.square = 0, torch.zeros(()), torch.zeros(())
        self.highest = torch.tensor(-torch.inf)

    def add(self, values: Tensor) -> None:
        self.count += len(values)
        self.total = self.total + values.double().sum(0)
        self.square = self.square + values.double().square().sum(0)
        self.highest = torch.maximum(self.highest, values.amax(0))

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def std(self) -> Tensor:
        return (self.square / self.count - self.mean.square()).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Box:
    """A part of an image, as rows and columns; the ends are not in it.

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
        """The part of an image ``[…, height, width]``."""
        return image[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, eq=False)
class ReceptiveFields:
    """What each place of a layer can see of an image.

    Attributes:
        boxes: Top, left, bottom, right of each place, the ends not included, int64 ``[place, 4]``;
            all zero where a place sees nothing.
        width: Places in a row of the layer's output.
    """

    boxes: Tensor
    width: int

    def at(self, row: int, column: int = 0) -> Box:
        """What one place sees; row and column as in `Exemplars.top_place`.

        Raises:
            InputError: The layer has no such place.
        """
        height = len(self.boxes) // self.width
        if not (0 <= row < height and 0 <= column < self.width):
            raise InputError(f"expected a place within [{height}, {self.width}], got {row, column}")
        return Box(*self.boxes[row * self.width + column].tolist())


def receptive_fields(model: nn.Module, layer: str, shape: tuple[int, int, int]) -> ReceptiveFields:
    """What each place of a layer can see of an image, exactly, for any network.

    Not-a-number spreads to everything that is computed from it, through rectifiers and pooling
    too, where a gradient is blocked: one image per row (and per column) that holds it shows all
    places that this row reaches.

    Args:
        model: Any module.
        layer: Dotted path.
        shape: Channel, height, width of an image.

    Raises:
        ModelError: There is no such layer, or the model fails on images of that shape.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2))
        >>> receptive_fields(net, "2", (1, 12, 12)).at(1, 0)
        Box(top=4, left=0, bottom=9, right=5)
    """
    weights = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    image = torch.zeros(shape, device=weights.device, dtype=weights.dtype)
    with preserve_process(0), preserve_model(model), torch.no_grad():
        reading = ActivationReader(model, [layer], logits=False)
        size = chunk_size(reading, image)
        rows, width = _reached(reading, image, layer, size, axis=1)
        columns, _ = _reached(reading, image, layer, size, axis=2)
    top, bottom = _ends(rows)
    left, right = _ends(columns)
    return ReceptiveFields(torch.stack([top, left, bottom, right], 1), width)


def _reached(
    reading: ActivationReader, image: Tensor, layer: str, size: int, axis: int
) -> tuple[Tensor, int]:
    """Which rows (axis 1) or columns (2) reach which places, ``[line, place]``; places in a row."""
    parts, width = [], 1
    for lines in torch.split(torch.arange(image.shape[axis]), size):
        images = image.expand(len(lines), *image.shape).clone()
        for copy, line in zip(images, lines.tolist(), strict=True):
            copy.select(axis, line).fill_(torch.nan)
        _, outputs = reading(images)
        maps, width = _maps(layer, outputs[layer])
        parts.append(maps.isnan().any(1).cpu())
    return torch.cat(parts), width


def _ends(reached: Tensor) -> tuple[Tensor, Tensor]:
    """First row that reaches each place, and the row after the last; zeros where none does."""
    first = reached.int().argmax(0)
    last = len(reached) - reached.flip(0).int().argmax(0)
    anything = reached.any(0)
    return first * anything, last * anything
