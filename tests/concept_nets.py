"""Networks and images for the tests of concepts."""

import torch
from torch import nn


def deep():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(5 * 12 * 8, 4),
    ).double().eval()  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Planted(nn.Module):
    """Detects vertical and horizontal bars; a layer mixes both in eight channels.

    Class 0 reads the first bar's direction alone and class 1 the second's. Class 2 reads nothing.
    """

    def __init__(self):
        super().__init__()
        self.detect = nn.Conv2d(1, 2, 3)
        bars = torch.full((2, 1, 3, 3), -1.0)
        bars[0, 0, :, 1] = bars[1, 0, 1, :] = 1
        self.detect.weight.data, self.detect.bias.data = bars, torch.full((2,), -1.5)
        self.mix = nn.Conv2d(2, 8, 1, bias=False)
        self.directions = torch.rand(2, 8, generator=generator(3)) + 0.1
        self.directions[0, :4] = self.directions[1, 4:] = 0
        self.mix.weight.data = self.directions.T[:, :, None, None]
        self.head = nn.Linear(8, 3)
        self.head.weight.data[:2] = torch.linalg.pinv(self.directions).T
        self.head.weight.data[2] = self.head.bias.data.zero_()[2]
        self.eval()

    def forward(self, x):
        return self.head(self.mix(self.detect(x).relu()).mean((2, 3)))


def bars(count=40):
    """Images with a vertical bar, with a horizontal one, and with none, in turn."""
    x = torch.zeros(count, 1, 9, 9)
    for i in range(count):
        row, column = torch.randint(6, (2,), generator=generator(i)).tolist()
        if i % 3 == 0:
            x[i, 0, row : row + 3, column + 1] = 1
        elif i % 3 == 1:
            x[i, 0, row + 1, column : column + 3] = 1
    return x
