"""Networks whose metrics are known."""

import torch
from torch import nn


def generator(seed):
    return torch.Generator().manual_seed(seed)


def images(count=3, channels=2, size=(8, 6), seed=0):
    return torch.rand(count, channels, *size, generator=generator(seed), dtype=torch.float64)


def linear(channels=2, size=(8, 6), classes=3, seed=1):
    """A linear model without biases, and its weights ``[classes, channels, height, width]``."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes, bias=False))
    weight = torch.randn(net[1].weight.shape, generator=generator(seed), dtype=torch.float64)
    net = net.double().eval()
    with torch.no_grad():
        net[1].weight.copy_(weight)
    return net, weight.view(classes, channels, *size)


def network(channels=2, classes=3, seed=2):
    """A small random network for images of any size, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(channels, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.Tanh(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, classes),
        )  # fmt: skip
    return net.double().eval()
