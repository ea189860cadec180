"""Segments of an image: grids, superpixels or given labels."""

import torch
from torch import Tensor

from explainkit.errors import MethodError


def segment(segments: "int | str | Tensor", images: Tensor) -> Tensor:
    """Divides images into numbered segments.

    Args:
        segments: A number n: a grid of n × n cells. ``"slic"`` or ``"slic:80"``: about 50 or 80
            superpixels (needs scikit-image). A tensor of integers ``[height, width]``, or one per
            image ``[batch, height, width]``: pixels with the same number form a segment.
        images: ``[batch, channel, height, width]``.

    Returns:
        int64 ``[batch, height, width]``, numbered from 0 without gaps in each image.

    Raises:
        MethodError: Segments of the wrong shape or type, or fewer than two.

    Examples:
        >>> segment(2, torch.zeros(1, 3, 2, 4))
        tensor([[[0, 0, 1, 1],
                 [2, 2, 3, 3]]])
    """
    batch, _, height, width = images.shape
    match segments:
        case Tensor():
            labels = _numbered(segments, images)
        case int():
            labels = grid(segments, height, width).expand(batch, height, width)
        case str():
            labels = torch.stack([_slic(image, segments) for image in images.detach()])
        case _:
            raise _refusal(segments)
    fewest = int(labels.flatten(1).amax(1).min()) + 1
    if fewest < 2:
        raise MethodError("segments: expected at least two in every image, got one")
    return labels.to(images.device)


def grid(cells: int, height: int, width: int) -> Tensor:
    """A grid of ``cells`` × ``cells`` of nearly equal size, int64 ``[height, width]``.

    Raises:
        MethodError: There are more cells than pixels per side.
    """
    if not 1 <= cells <= min(height, width):
        raise MethodError(
            f"segments: expected a grid of 1 to {min(height, width)} cells per side for images of "
            f"{height} × {width}, got {cells}"
        )
    row = torch.arange(height) * cells // height
    column = torch.arange(width) * cells // width
    return row[:, None] * cells + column


def _numbered(segments: Tensor, images: Tensor) -> Tensor:
    batch, _, height, width = images.shape
    if segments.is_floating_point() or segments.shape not in {
        (height, width), (batch, height, width),
    }:  # fmt: skip
        kind = str(segments.dtype).removeprefix("torch.")
        raise MethodError(
            f"segments: expected integers [{height}, {width}] or [{batch}, {height}, {width}], got "
            f"{kind} {list(segments.shape)}"
        )
    maps = segments.cpu().expand(batch, height, width)
    return torch.stack([_renumbered(one) for one in maps])


def _slic(image: Tensor, text: str) -> Tensor:
    name, _, count = text.partition(":")
    if name != "slic" or not (count or "50").isdigit():
        raise _refusal(text)
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise MethodError(
            "segments: expected scikit-image for superpixels: pip install "
            "'explainkit-vision[superpixels]', or use a grid"
        ) from error
    pixels = image.float().permute(1, 2, 0).cpu()
    low, high = pixels.amin(), pixels.amax()
    pixels = (pixels - low) / (high - low).clamp(min=1e-12)
    labels = slic(
        pixels.numpy(), n_segments=int(count or 50), compactness=10 if len(image) == 3 else 0.1,
        convert2lab=len(image) == 3, channel_axis=2, start_label=0,
    )  # fmt: skip
    return _renumbered(torch.from_numpy(labels))


def _renumbered(labels: Tensor) -> Tensor:
    """The same segments, counted from 0 without gaps."""
    numbers: Tensor = torch.unique(labels, return_inverse=True)[1]
    return numbers


def _refusal(segments: object) -> MethodError:
    return MethodError(
        "segments: expected a number of cells per side, 'slic', 'slic:80' or a tensor of integers, "
        f"got {segments!r}"
    )
