"""Snippets of docs/how-to/write-a-metric.md; run by tests/test_docs.py."""

# --8<-- [start:whole]
import torch
from torch import Tensor

from explainkit.metrics.results import nan_where, planes


def area_of_half_the_mass(attribution: Tensor) -> Tensor:
    """The share of the pixels that holds half of the map's absolute mass; small is concentrated.

    Args:
        attribution: ``[batch, channel, height, width]``; channels are summed.

    Returns:
        float64 ``[batch]`` in (0, 1]; NaN for a map of zeros.
    """
    sizes = planes(attribution).abs().flatten(1).sort(1, descending=True).values
    mass = sizes.cumsum(1)
    total = mass[:, -1:]
    count = (mass < total / 2).sum(1) + 1
    zero = (total == 0)[:, 0]
    share = count.double() / sizes.shape[1]
    return nan_where("area_of_half_the_mass", share, zero, "the map is zero everywhere")


# --8<-- [end:whole]

assert area_of_half_the_mass(torch.eye(4)[None, None]).item() == 2 / 16

# --8<-- [start:model]
from explainkit.metrics.question import asking


def score_without_negatives(model, inputs, attribution, target=None, *, fill=0.0, seed=0):
    """The score of the image with all pixels of negative value replaced; higher is better."""
    with asking(model, inputs, target, seed, None) as question:
        negative = question.planes(attribution) < 0
        images = question.images
        hidden = torch.where(negative[:, None], fill, images)
        return question.scores().of(lambda rows, _: hidden[rows], 1)[:, 0]


# --8<-- [end:model]

linear = torch.nn.Linear(16, 2, bias=False)
net = torch.nn.Sequential(torch.nn.Flatten(), linear).eval()
x = torch.rand(3, 1, 4, 4)
exact = x * linear.weight[1].detach().view(1, 1, 4, 4)
expected = exact.clamp(min=0).flatten(1).sum(1).double()
torch.testing.assert_close(score_without_negatives(net, x, exact, 1), expected)
