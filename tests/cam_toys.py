"""Networks with a known map, or with a layout that the toy models do not have."""

import torch
from torch import nn

from explainkit.testing import toy_models


def pooled(bias=True, channels=6, classes=4):
    """ReLU features, mean pooling, one linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(channels, classes, bias=bias),
    ).eval()  # fmt: skip


def unbiased():
    """Piecewise linear, without biases after the first layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(5 * 4 * 3, 4, bias=False),
    ).eval()  # fmt: skip


class Registers(nn.Module):
    """A vision transformer of one block with ``before`` and ``after`` tokens around its patches."""

    def __init__(self, before=1, after=0, linear=False, mean=False):
        super().__init__()
        torch.manual_seed(2)
        width = 8
        self.mean = mean
        self.embed = nn.Linear(3 * 4, width) if linear else nn.Conv2d(3, width, 2, stride=2)
        self.before = nn.Parameter(torch.randn(1, before, width))
        self.after = nn.Parameter(torch.randn(1, after, width))
        self.first = type(toy_models()["vit"][0].blocks[0])(width)
        self.second = type(self.first)(width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)
        self.eval()

    def forward(self, x):
        n = len(x)
        if isinstance(self.embed, nn.Linear):
            tokens = self.embed(nn.functional.unfold(x, 2, stride=2).transpose(1, 2))
        else:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.before.expand(n, -1, -1), tokens, self.after.expand(n, -1, -1)], 1)
        tokens = self.norm(self.second(self.first(tokens)))
        return self.head(tokens.mean(1) if self.mean else tokens[:, 0])


class Swin(nn.Module):
    """Channels last throughout, patches merged two by two once."""

    def __init__(self, conv=True):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 7, 2, stride=2) if conv else nn.Linear(12, 7)
        self.stage = nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 7), nn.GELU())
        self.merge = nn.Linear(28, 9)
        self.last = nn.Sequential(nn.Linear(9, 9), nn.GELU())
        self.head = nn.Linear(9, 5)
        self.eval()

    def forward(self, x):
        n, _, h, w = x.shape
        if isinstance(self.conv, nn.Conv2d):
            x = self.conv(x).permute(0, 2, 3, 1)
        else:
            x = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
            x = self.conv(x).reshape(n, h // 2, w // 2, 7)
        x = self.stage(x)
        x = nn.functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = self.last(self.merge(torch.cat(parts, 3)))
        return self.head(x.mean((1, 2)))
