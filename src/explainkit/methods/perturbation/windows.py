"""Sliding windows: their positions, the patches that fill them, and the resulting scores."""

from dataclasses import dataclass
from functools import lru_cache

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
    border, where it is cropped.

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

    image: tuple[int, int]
    window: tuple[int, int]
    stride: tuple[int, int]

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
    def grid(self) -> tuple[int, int]:
        """Number of vertical and horizontal positions."""
        down, across = (
            -(-(size - window) // stride) + 1
            for size, window, stride in zip(self.image, self.window, self.stride, strict=True)
        )
        return down, across

    def __len__(self) -> int:
        return self.grid[0] * self.grid[1]

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Top, left, bottom, right of each window, the last two exclusive."""
        height, width = self.image
        down, across = self.grid
        return [
            (top, left, min(top + self.window[0], height), min(left + self.window[1], width))
            for top in range(0, down * self.stride[0], self.stride[0])
            for left in range(0, across * self.stride[1], self.stride[1])
        ]

    def cut(self, image: Tensor) -> Tensor:
        """The patch of an image ``[channel, height, width]`` at each position.

        Returns:
            ``[*grid, channel, *window]``, zero beyond the border: a view, since windows overlap.
        """
        down, across = self.grid
        lower = (down - 1) * self.stride[0] + self.window[0] - self.image[0]
        right = (across - 1) * self.stride[1] + self.window[1] - self.image[1]
        padded = F.pad(image, (0, right, 0, lower))
        cut = padded.unfold(1, self.window[0], self.stride[0])
        cut = cut.unfold(2, self.window[1], self.stride[1])
        return cut.permute(1, 2, 0, 3, 4)

    def average(self, values: Tensor) -> Tensor:
        """For each pixel the mean of the values of the windows that cover it.

        Args:
            values: ``[batch, windows]``.

        Returns:
            ``[batch, 1, height, width]``.
        """
        kernel = values.new_ones(1, 1, *self.window)
        grid = values.reshape(-1, 1, *self.grid)
        total = F.conv_transpose2d(grid, kernel, stride=self.stride)
        cover = F.conv_transpose2d(torch.ones_like(grid[:1]), kernel, stride=self.stride)
        return (total / cover)[..., : self.image[0], : self.image[1]]


def score_windows(
    model: nn.Module, image: Tensor, windows: Windows, patches: Tensor
) -> tuple[Tensor, str]:
    """Scores an image once for each window, with its patch pasted in.

    Only the part of the model affected by the window runs, if that is possible and faster.

    Args:
        model: Gives scores ``[batch, classes]``.
        image: ``[channel, height, width]``.
        windows: The windows.
        patches: ``[*grid, channel, *window]``; values beyond the border are not used.

    Returns:
        float64 ``[windows, classes]``, and why the whole model ran; empty if only parts of it did.
    """
    boxes = windows.boxes()
    # a window beyond the border is moved inside; the extra part keeps the original image
    limits = torch.tensor(windows.image) - torch.tensor(windows.window)
    corners = torch.tensor([box[:2] for box in boxes]).minimum(limits)
    score = box_scores(model, image, corners, windows.window)
    if not isinstance(score, str):
        return _score_boxes(score, image, windows, patches, corners), ""
    size = min(chunk_size(model, image, backward=False), len(windows))
    copies = image.new_empty(size, *image.shape)
    across = windows.grid[1]

    def run(part: slice) -> Tensor:
        images = copies[: part.stop - part.start].copy_(image)
        for row, number in enumerate(range(part.start, part.stop)):
            top, left, bottom, right = boxes[number]
            patch = patches[number // across, number % across, :, : bottom - top, : right - left]
            images[row, :, top:bottom, left:right] = patch
        scores: Tensor = model(images)
        return scores.double()

    with torch.no_grad():
        return in_chunks(run, len(windows), size), score


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
        MethodError: The window covers the whole image.
    """
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
