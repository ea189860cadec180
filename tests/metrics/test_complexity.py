"""How concentrated maps are: closed forms, and what must not matter."""

import math

import pytest
import torch

from explainkit.errors import ExplainkitWarning
from explainkit.metrics.complexity import entropy, gini

MAPS = torch.randn(4, 2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def block(pixels, size=8):
    """A map of equal values on so many of ``size²`` pixels."""
    return (torch.arange(size * size) < pixels).double().view(1, size, size)


@pytest.mark.parametrize("pixels", [1, 7, 64])
def test_equal_values_on_k_of_n_pixels(pixels):
    assert gini(block(pixels)).item() == pytest.approx(1 - pixels / 64)
    assert entropy(block(pixels)).item() == pytest.approx(math.log(pixels))


def test_gini_is_half_the_relative_mean_difference():
    values = MAPS.sum(1).flatten(1).abs()
    apart = (values[:, :, None] - values[:, None, :]).abs().mean((1, 2))
    torch.testing.assert_close(gini(MAPS), apart / (2 * values.mean(1)))


@pytest.mark.parametrize("metric", [gini, entropy])
def test_scale_sign_order_and_batch_change_nothing(metric):
    found = metric(MAPS)
    torch.testing.assert_close(metric(-5 * MAPS), found)
    torch.testing.assert_close(metric(MAPS.flip(2).roll(3, 3)), found)
    assert torch.equal(metric(MAPS[1:2]), found[1:2])


@pytest.mark.parametrize("metric", [gini, entropy])
def test_a_map_of_zeros_has_no_answer(metric):
    with pytest.warns(ExplainkitWarning, match="NaN for image 1: the map is zero everywhere"):
        found = metric(torch.stack([block(3)[0], torch.zeros(8, 8)]))
    assert found.isnan().tolist() == [False, True]
