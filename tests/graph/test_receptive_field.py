"""Receptive fields from operators, against the spread of NaN and against known geometry."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainkit.activation_maximization.exemplars import receptive_fields
from explainkit.graph.receptive_field import KEEP, Span, receptive_field
from explainkit.graph.tape import record


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Branches(nn.Module):
    """Two convolutions of different size, added in place, and a gate of the whole image."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(4, 4, 1, 2), nn.Conv2d(4, 4, 5, 2, 2)
        self.gate = nn.Linear(4, 4)

    def forward(self, x):
        y = self.large(x)
        y += self.small(x)
        return y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]


def shuffled(x):
    """ShuffleNet's exchange of channels between two groups."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def merged(x):
    """Swin's patch merging, channels last."""
    x = x.permute(0, 2, 3, 1)
    return torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], 3).permute(0, 3, 1, 2)


def spans(net, height=23, width=20):
    net = net.eval().requires_grad_(False)
    forward = record(net, torch.zeros(1, 4, height, width), KEEP)
    return receptive_field(forward.scores, (2, 3), forward)


def conv(kernel, *args, **options):
    return nn.Conv2d(4, 4, kernel, *args, **options)


LOCAL = {
    "stride, padding, dilation": [conv((5, 3), (2, 1), (2, 0)), nn.ReLU(), conv(3, dilation=2)],
    "pooling": [conv(3), nn.MaxPool2d(3, 2, 0, 2), nn.BatchNorm2d(4), nn.AvgPool2d((2, 3))],
    "padding as an operator": [
        nn.ZeroPad2d((0, 1, 2, 3)),
        conv(3, 2),
        nn.ZeroPad2d((1, 0, 0, 1)),
        conv(2),
    ],
    "crops": [Function(lambda x: x[..., 2:-1, 1::2]), nn.GELU(), conv(2)],
    "channels": [conv(3, groups=2), Function(shuffled), conv(3)],
    "adaptive pooling": [conv(4, padding=0), nn.AdaptiveAvgPool2d((5, 17)), conv(2)],
}


@pytest.mark.parametrize("name", LOCAL)
def test_fields_are_where_nan_spreads(name):
    net = nn.Sequential(*LOCAL[name])
    found = spans(net)
    _, _, rows, columns = net(torch.zeros(1, 4, 23, 20)).shape
    boxes = receptive_fields(nn.Sequential(net), "0", (4, 23, 20))
    for i in range(rows):
        for j in range(columns):
            box = boxes.at(i, j)
            ends = ((box.top, box.bottom, 23, i), (box.left, box.right, 20, j))
            for span, (first, last, length, at) in zip(found, ends, strict=True):
                assert first == max(span.first + span.jump * at, 0)
                assert last == min(span.last + span.jump * at, length - 1) + 1


def test_padding_extends_the_field_beyond_the_image():
    net = nn.Sequential(conv(3, padding=1), conv(3, 2, 1), conv(5, 2, 2))
    assert spans(net)[0] == Span(jump=4, first=-6, last=6)
    assert spans(net)[0].center(3) == 12


def test_branches_are_joined_and_gates_do_not_count():
    assert spans(nn.Sequential(conv(3), Branches()))[0] == Span(2, -2, 4)


def test_patch_merging_is_centered_between_its_patches():
    assert spans(nn.Sequential(conv(2, 2), Function(merged)), 16, 16)[1] == Span(4, 0, 3)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x: x.roll(1, 2),
        lambda x: x.flip(3),
        lambda x: x.transpose(2, 3),
        lambda x: x @ torch.ones(20, 20),
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: x.cumsum(2),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
        lambda x: torch.cat([x, x], 2),
    ],
)
def test_other_operators_are_unknown(mixing):
    assert spans(Function(lambda x: mixing(x) * 2)) is None
