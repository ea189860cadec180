"""Linear infill against a dense solve of the same equations."""

import pytest
import torch

from explainkit.errors import InputError
from explainkit.metrics.infill import linear_infill


def dense(image, hidden):
    """One channel [height, width] filled by solving the equations pixel by pixel."""
    height, width = image.shape
    where = {tuple(spot): row for row, spot in enumerate(hidden.nonzero().tolist())}
    matrix = torch.zeros(len(where), len(where), dtype=torch.float64)
    right = torch.zeros(len(where), dtype=torch.float64)
    for (y, x), row in where.items():
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                v, u = y + down, x + across
                if (v, u) == (y, x) or not (0 <= v < height and 0 <= u < width):
                    continue
                weight = 1 / 12 if down and across else 1 / 6
                matrix[row, row] += weight
                if (v, u) in where:
                    matrix[row, where[v, u]] -= weight
                else:
                    right[row] += weight * image[v, u]
    filled = image.clone()
    filled[hidden] = torch.linalg.solve(matrix, right)
    return filled


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_infill_is_the_dense_solution(share):
    images = torch.rand(2, 3, 11, 8, dtype=torch.float64)
    hidden = torch.rand(2, 11, 8) < share
    found = linear_infill(images, hidden.long(), tolerance=1e-12)
    for image, mask, filled in zip(images, hidden, found, strict=True):
        expected = torch.stack([dense(channel, mask) for channel in image])
        torch.testing.assert_close(filled, expected)


def test_groups_are_filled_as_if_each_were_hidden_alone():
    image = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    rows = torch.arange(9) // 3
    cells = (rows[:, None] * 3 + rows)[None] + 1
    together = linear_infill(image, cells, tolerance=1e-12)
    for cell in range(1, 10):
        alone = linear_infill(image, (cells == cell).long(), tolerance=1e-12)
        mask = (cells == cell)[:, None]
        torch.testing.assert_close(together[mask], alone[mask])


def test_a_system_does_not_depend_on_those_solved_with_it():
    images = torch.rand(4, 1, 12, 12)
    groups = (torch.rand(4, 12, 12) < torch.tensor([0.1, 0.5, 0.8, 0.3]).view(4, 1, 1)).long()
    together = linear_infill(images, groups)
    alone = linear_infill(images[1:2], groups[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-6)


def test_hidden_pixels_do_not_matter_and_visible_ones_stay():
    images = torch.rand(1, 1, 10, 10)
    groups = torch.zeros(1, 10, 10, dtype=torch.int64)
    groups[0, 2:7, 3:9] = 1
    changed = torch.where(groups[:, None] > 0, 100.0, images)
    assert torch.equal(linear_infill(images, groups), linear_infill(changed, groups))
    visible = groups[:, None] == 0
    assert torch.equal(linear_infill(images, groups)[visible], images[visible])


def test_constant_images_and_whole_images():
    ones = torch.ones(1, 1, 6, 6)
    groups = torch.zeros(1, 6, 6, dtype=torch.int64)
    groups[0, :3] = 1
    torch.testing.assert_close(linear_infill(ones, groups), ones)
    assert not linear_infill(0 * ones, groups).any()
    with pytest.raises(InputError, match="expected some visible pixels"):
        linear_infill(ones, torch.ones(1, 6, 6, dtype=torch.int64))
