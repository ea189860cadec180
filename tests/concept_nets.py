"""Networks for the tests of concepts."""

import torch
from torch import nn


def deep():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(5 * 12 * 8, 4),
    ).double().eval()  # fmt: skip
