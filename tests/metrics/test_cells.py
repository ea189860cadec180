"""Cells of an image, and sums of shifted and flipped copies of a map."""

import pytest
import torch

from explainkit.metrics.cells import COPIES, Cells


@pytest.mark.parametrize(
    ("size", "grid"),
    [((48, 48), (6, 6)), ((25, 31), (6, 6)), ((224, 130), (7, 7)), ((4, 9), (4, 6))],
)
def test_cells_cover_each_pixel_once_and_are_nearly_equal(size, grid):
    cells = Cells.of(*size)
    assert cells.grid == grid
    counts = torch.bincount(cells.labels().flatten())
    assert len(counts) == len(cells)
    assert cells.labels().shape == size
    heights, widths = torch.tensor(cells.rows).diff(), torch.tensor(cells.columns).diff()
    assert heights.max() - heights.min() <= 1
    assert widths.max() - widths.min() <= 1


def test_moved_cells_end_in_the_middle_of_the_others():
    cells = Cells.of(50, 48)
    moved = cells.moved()
    assert set(moved.rows[1:-1]).isdisjoint(cells.rows)
    assert (moved.rows[0], moved.rows[-1]) == (0, 50)
    assert moved.grid == (7, 7)


@pytest.mark.parametrize("size", [(12, 12), (13, 15)])
def test_sums_of_copies_are_those_of_rolled_and_flipped_maps(size):
    height, width = size
    values = torch.randn(size, dtype=torch.float64)
    cells = Cells.of(*size)
    masks = torch.stack([cells.labels() == cell for cell in range(len(cells))]).double()
    expected = []
    for copy in range(0, 4 * height * width, 3):
        flip, shift = divmod(copy, height * width)
        flipped = values.flip([axis for axis in (0, 1) if flip in ((1, 3), (2, 3))[axis]])
        rolled = flipped.roll(divmod(shift, width), (0, 1))
        expected.append((masks * rolled).sum((1, 2)))
    torch.testing.assert_close(cells.shifted_sums(values), torch.stack(expected))
    torch.testing.assert_close(cells.sums(values), expected[0])


@pytest.mark.parametrize("size", [(48, 48), (96, 96), (224, 224), (20, 300)])
def test_copies_are_limited_and_reach_every_column(size):
    found = Cells.of(*size).shifted_sums(torch.rand(size))
    assert 500 < len(found) <= COPIES
    # a single bright pixel in the last column comes into every column of cells
    single = torch.zeros(size)
    single[0, -1] = 1
    cells = Cells.of(*size)
    reached = cells.shifted_sums(single).reshape(-1, *cells.grid).sum((0, 1)) > 0
    assert reached.all()
