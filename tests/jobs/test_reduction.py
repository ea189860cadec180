"""Maps at a smaller size: means over areas, named as such, and part of the plan."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

import explainkit as ek
from explainkit.errors import InputError, MethodError, StorageError
from explainkit.jobs.reduction import REDUCED, area_means, reduced


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 4), (8, 9)])
def test_areas_share_border_pixels_and_keep_the_sum(size):
    maps = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    small = area_means(maps, size)
    assert small.shape == (2, 3, *size)
    area = 8 * 9 / (size[0] * size[1])
    torch.testing.assert_close(small.sum((2, 3)) * area, maps.sum((2, 3)))
    # every pixel repeated, so that cells are whole: the definition of an area mean
    fine = maps.repeat_interleave(size[0], 2).repeat_interleave(size[1], 3)
    torch.testing.assert_close(small, avg_pool2d(fine, (8, 9)))


def test_a_map_does_not_depend_on_the_others():
    maps = torch.randn(5, 1, 31, 17)
    together = area_means(maps, (7, 6))
    assert torch.equal(together, torch.cat([area_means(one[None], (7, 6)) for one in maps]))


def test_a_store_of_small_maps(images, model, tmp_path):
    options = {"samples": 2, "batch_size": 4}
    full = ek.batch(images, model, "smoothgrad", tmp_path / "full", **options)
    small = ek.batch(images, model, "smoothgrad", tmp_path / "small", map_size=(3, 20), **options)
    one, other = full[4], small[4]
    assert other.attribution.shape == (1, 3, 3, 8)
    assert torch.equal(other.attribution, area_means(one.attribution, (3, 8)))
    errors = [found.diagnostics["standard_error"] for found in (one, other)]
    assert torch.equal(errors[1], area_means(errors[0], (3, 8)))
    assert other.diagnostics[REDUCED] == [8, 8]
    assert "stored at 3 × 8 instead of 8 × 8" in other.diagnostics["warnings"][0]
    assert REDUCED not in one.diagnostics
    assert other.overlays()[0].size == one.overlays()[0].size
    assert small.plan.hash != full.plan.hash
    with pytest.raises(StorageError, match=r"map size: \[3, 20\] in the store, null now"):
        ek.batch(images, model, "smoothgrad", tmp_path / "small", **options)
    with pytest.raises(MethodError, match="8 × 8 like the images, got maps that were stored at 3"):
        other.scorecard(model=model)
    with pytest.raises(InputError, match="map_size: expected at least 1, got 0"):
        ek.batch(images, model, "smoothgrad", tmp_path / "none", map_size=0)


def test_maps_that_are_small_stay():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    found = ek.explain(net, torch.rand(1, 1, 4, 4))
    assert reduced(found, (4, 9)) is found
    small = reduced(found, (2, 2))
    assert len(small.diagnostics["warnings"]) == 1
    assert dataclasses.asdict(found).keys() == dataclasses.asdict(small).keys()
