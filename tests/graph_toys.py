"""Networks that are hard to trace."""

import torch
from torch import nn


class Shifting(nn.Module):
    """Writes into a slice, which only export captures."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 5, 3)

    def forward(self, x):
        y = self.first(x)
        z = torch.zeros_like(y)
        z[:, :, 1:] = y[:, :, :-1]
        return self.second(z + y).mean((2, 3))
