"""Sliding windows: their positions, the patches that fill them, and the resulting scores."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.errors import MethodError
from explainkit.methods.perturbation.box_scores import BoxScores, box_scores

BLOCK = 1024
"""Number of windows whose patches are in memory at once."""


@dataclass(frozen=True)
class Windows:
    """The positions of a window that slides over an image, row by row.

    It starts in the upper left corner and moves by the stride until the image is covered, so an
    axis has ``ceil((size − window) / stride) + 1`` positions. The last one may extend beyond the
    border, where it is cropped. A volume has a depth before its height, and the window slides over
    it slice by slice.

    Attributes:
        image: Height and width of the image.
        window: Height and width of the window.
        stride: Vertical and horizontal step of the window.

    Raises:
        MethodError: The window does not fit, or the stride leaves pixels uncovered.

    Examples:
        >>> windows = Windows((5, 4), (2, 2), (2, 2))
        >>> len(windows), windows.boxes()[-1]
        (6, (4, 2, 5, 4))
    """

    image: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        for size, window, stride in zip(self.image, self.window, self.stride, strict=True):
            if not 1 <= window <= size:
                raise MethodError(
                    f"window: expected from 1 pixel to the image's {size}, got {window}"
                )
            if not 1 <= stride <= window:
                raise MethodError(
                    f"stride: expected from 1 pixel to the window's {window}, so that every pixel "
                    f"is covered, got {stride}"
                )

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of vertical and horizontal positions."""
        return tuple(
            -(-(size - window) // stride) + 1
            for size, window, stride in zip(self.image, self.window, self.stride, strict=True)
        )

    def __len__(self) -> int:
        return prod(self.grid)

    def boxes(self) -> list[tuple[int, ...]]:
        """Top, left, bottom, right of each window, the last two exclusive.

        In a volume front, top, left, back, bottom, right.
        """
        steps = (
            range(0, count * stride, stride)
            for count, stride in zip(self.grid, self.stride, strict=True)
        )
        return [
            (*corner, *map(min, map(sum, zip(corner, self.window, strict=True)), self.image))
            for corner in product(*steps)
        ]

    def cut(self, image: Tensor) -> Tensor:
        """The patch of an image ``[channel, height, width]`` at each position.

        Returns:
            ``[*grid, channel, *window]``, zero beyond the border: a view, since windows overlap.
        """
        axes = list(zip(self.grid, self.window, self.stride, self.image, strict=True))
        beyond = [(count - 1) * stride + window - size for count, window, stride, size in axes]
        cut = F.pad(image, [side for length in reversed(beyond) for side in (0, length)])
        for axis, (_, window, stride, _) in enumerate(axes, 1):
            cut = cut.unfold(axis, window, stride)
        return cut.movedim(0, len(axes))

    def average(self, values: Tensor) -> Tensor:
        """For each pixel the mean of the values of the windows that cover it.

        Args:
            values: ``[batch, windows]``.

        Returns:
            ``[batch, 1, height, width]``.
        """
        kernel = values.new_ones(1, 1, *self.window)
        grid = values.reshape(-1, 1, *self.grid)
        spread = F.conv_transpose2d if len(self.image) == 2 else F.conv_transpose3d
        total = spread(grid, kernel, stride=self.stride)
        cover = spread(torch.ones_like(grid[:1]), kernel, stride=self.stride)
        found = total / cover
        for axis, size in enumerate(self.image, 2):
            found = found.narrow(axis, 0, size)
        return found


def score_windows(
    model: nn.Module, image: Tensor, windows: Windows, patches: Tensor
) -> tuple[Tensor, str]:
    """Scores an image once for each window, with its patch pasted in.

    Only the part of the model affected by the window runs, if that is possible and faster; of
    volumes, always the whole model.

    Args:
        model: Gives scores ``[batch, classes]``.
        image: ``[channel, height, width]``.
        windows: The windows.
        patches: ``[*grid, channel, *window]``; values beyond the border are not used.

    Returns:
        float64 ``[windows, classes]``, and why the whole model ran; empty if only parts of it did.
    """
    boxes, axes = windows.boxes(), len(windows.image)
    why = "volumes have no incremental evaluation"
    if axes == 2:
        # a window beyond the border is moved inside; the extra part keeps the original image
        limits = torch.tensor(windows.image) - torch.tensor(windows.window)
        corners = torch.tensor([box[:2] for box in boxes]).minimum(limits)
        height, width = windows.window
        score = box_scores(model, image, corners, (height, width))
        if not isinstance(score, str):
            return _score_boxes(score, image, windows, patches, corners), ""
        why = score
    size = min(chunk_size(model, image, backward=False), len(windows))
    copies = image.new_empty(size, *image.shape)
    places = list(product(*map(range, windows.grid)))

    def run(part: slice) -> Tensor:
        images = copies[: part.stop - part.start].copy_(image)
        for row, number in enumerate(range(part.start, part.stop)):
            first, last = boxes[number][:axes], boxes[number][axes:]
            inside = [slice(b - a) for a, b in zip(first, last, strict=True)]
            patch = patches[places[number]][(slice(None), *inside)]
            images[row][(slice(None), *map(slice, first, last))] = patch
        scores: Tensor = model(images)
        return scores.double()

    with torch.no_grad():
        return in_chunks(run, len(windows), size), why


def _score_boxes(
    score: BoxScores, image: Tensor, windows: Windows, patches: Tensor, corners: Tensor
) -> Tensor:
    """The same, with boxes shifted to lie inside the image."""
    (height, width), across = windows.window, windows.grid[1]
    boxes = windows.boxes()
    found = []
    for start in range(0, len(windows), BLOCK):
        rows = torch.arange(start, min(start + BLOCK, len(windows)))
        contents = patches[rows // across, rows % across]
        for content, number in zip(contents, rows.tolist(), strict=True):
            top, left, bottom, right = boxes[number]
            above, before = corners[number].tolist()
            if (above, before) != (top, left):
                patch = content[:, : bottom - top, : right - left].clone()
                content.copy_(image[:, above : above + height, before : before + width])
                content[:, top - above :, left - before :] = patch
        found.append(score(corners[rows], contents).double())
    return torch.cat(found)


def inpainted(image: Tensor, windows: Windows) -> Tensor:
    """Each window filled smoothly from the surrounding pixels.

    The filling is the harmonic function that continues the pixels next to the window (its discrete
    Laplacian is zero inside); where the window touches the border of the image, its normal
    derivative there is zero. The system is a Kronecker sum of two tridiagonal matrices, so it is
    solved exactly with their eigenvectors.

    Args:
        image: ``[channel, height, width]``.
        windows: The windows.

    Returns:
        ``[*grid, channel, *window]``, zero beyond the border.

    Raises:
        MethodError: The window covers the whole image, or the image is a volume.
    """
    if len(windows.image) > 2:
        raise MethodError(
            "baseline: expected a number, a tensor, mean or noise for a volume, got 'inpaint'"
        )
    height, width = windows.image
    if (height, width) == windows.window:
        raise MethodError(
            f"window: expected one smaller than the image to inpaint, got {list(windows.window)}"
        )
    exact = image.double().cpu()
    patches = exact.new_zeros(len(windows), len(image), *windows.window)
    for patch, (top, left, bottom, right) in zip(patches, windows.boxes(), strict=True):
        around = exact.new_zeros(len(image), bottom - top, right - left)
        if top:
            around[:, 0] += exact[:, top - 1, left:right]
        if bottom < height:
            around[:, -1] += exact[:, bottom, left:right]
        if left:
            around[:, :, 0] += exact[:, top:bottom, left - 1]
        if right < width:
            around[:, :, -1] += exact[:, top:bottom, right]
        rows, down = _second_difference(bottom - top, bool(top), bottom < height)
        columns, across = _second_difference(right - left, bool(left), right < width)
        inside = rows.T @ around @ columns / (down[:, None] + across)
        patch[:, : bottom - top, : right - left] = rows @ inside @ columns.T
    return patches.to(image).reshape(*windows.grid, *patches.shape[1:])


@lru_cache(64)
def _second_difference(size: int, before: bool, after: bool) -> tuple[Tensor, Tensor]:
    """Eigenvectors and eigenvalues of −d², with Dirichlet or Neumann conditions at each end."""
    matrix = 2 * torch.eye(size, dtype=torch.float64)
    off = -torch.ones(size - 1, dtype=torch.float64)
    matrix += torch.diag(off, 1) + torch.diag(off, -1)
    matrix[0, 0] -= int(not before)
    matrix[-1, -1] -= int(not after)
    values, vectors = torch.linalg.eigh(matrix)
    return vectors, values
