"""One pass over a data set against brute force; receptive fields against gradients."""

import pytest
import torch
from torch import nn

from explainkit.activation_maximization.exemplars import Box, find_exemplars, receptive_fields
from explainkit.errors import InputError, ModelError
from explainkit.layers import capture
from explainkit.testing import toy_models


@pytest.mark.parametrize(("name", "layer"), [("plain", "3"), ("vit", "blocks.0"), ("mlp", "1")])
@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_one_pass_equals_brute_force(name, layer, batch_size):
    model, _ = toy_models()[name]
    images = torch.rand(30, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    found = find_exemplars(model, layer, images, k=4, batch_size=batch_size)
    with torch.no_grad(), capture(model, [layer]) as outputs:
        model(images)
    (output,) = outputs[layer]
    if output.dim() == 3:
        output = output.transpose(1, 2)[..., None]
    if output.dim() == 2:
        output = output[..., None, None]
    for unit in range(output.shape[1]):
        maps = output[:, unit]
        for sign, indices, values, positions in (
            (1, found.top, found.top_value, found.top_place),
            (-1, found.bottom, found.bottom_value, found.bottom_place),
        ):
            best = (sign * maps).flatten(1).amax(1)
            torch.testing.assert_close(sign * values[unit], best.sort(descending=True)[0][:4])
            for image, value, position in zip(
                indices[unit], values[unit], positions[unit], strict=True
            ):
                torch.testing.assert_close(maps[image][tuple(position)], value)


def test_ties_go_to_the_earlier_image_and_position():
    found = find_exemplars(
        nn.Sequential(nn.Identity()), "0", torch.ones(9, 1, 3, 3), k=3, batch_size=2
    )
    assert found.top.tolist() == [[0, 1, 2]]
    assert found.top_place.tolist() == [[[0, 0]] * 3]


def support(model, layer, shape, row, column):
    """Where the gradient of one position is nonzero for some random image."""
    seen = torch.zeros(shape[1:], dtype=torch.bool)
    for _ in range(200):
        image = torch.randn(1, *shape, requires_grad=True)
        with capture(model, [layer]) as outputs:
            model(image)
        (slope,) = torch.autograd.grad(outputs[layer][0][0, :, row, column].sum(), image)
        seen |= (slope[0] != 0).any(0)
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


@pytest.mark.parametrize("position", [(0, 0), (1, 2), (1, 1)])
def test_receptive_fields_are_the_support_of_the_gradient(position):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, dilation=2), nn.ReLU(), nn.AvgPool2d(2, stride=1),
    )  # fmt: skip
    fields = receptive_fields(model, "5", (2, 21, 23))
    assert fields.at(*position) == support(model, "5", (2, 21, 23), *position)


def test_global_operations_see_the_whole_image():
    model, images = toy_models()["vit"]
    assert receptive_fields(model, "blocks.1", (3, 12, 10)).at(3) == Box(0, 0, 12, 10)
    model, _ = toy_models()["plain"]
    assert receptive_fields(model, "6", (3, 12, 10)).at(0) == Box(0, 0, 12, 10)
    assert Box(2, 1, 5, 4).crop(images).shape == (4, 3, 3, 3)


def test_the_model_is_left_unchanged():
    model, images = toy_models()["batch_norm"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_exemplars(model, "0", images)
    receptive_fields(model, "0", (3, 12, 10))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_refusals():
    model, images = toy_models()["plain"]
    with pytest.raises(InputError, match=r"within \[12, 10\]"):
        receptive_fields(model, "0", (3, 12, 10)).at(0, 10)
    with pytest.raises(InputError, match="k: expected"):
        find_exemplars(model, "0", images, k=0)
    with pytest.raises(InputError, match="images"):
        find_exemplars(model, "0", images[:0])
    with pytest.raises(ModelError, match="layer"):
        find_exemplars(model, "9", images)
