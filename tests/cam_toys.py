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


class NormAct(nn.BatchNorm2d):
    """A normalization that applies its activation itself, in place and after an identity (timm)."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class AfterIdentity(nn.Module):
    """Its last activation is in place on a sum that an identity passed on (RepVGG)."""

    def __init__(self):
        super().__init__()
        self.conv, self.skip, self.identity = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Identity()
        self.act, self.norm_pre, self.head = nn.ReLU(inplace=True), nn.Identity(), nn.Linear(6, 5)
        self.eval()

    def forward(self, x):
        x = self.norm_pre(self.act(self.identity(self.conv(x) + self.skip(x))))
        return self.head(x.mean((2, 3)))


class Queries(nn.Module):
    """A detection transformer: a map, tokens of the map, and as many queries as there are patches.

    Args:
        queries: Number of queries.
    """

    def __init__(self, queries=15):
        super().__init__()
        torch.manual_seed(4)
        width = 8
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 4, stride=2, padding=1), nn.ReLU())
        self.project = nn.Conv2d(6, width, 1)
        self.position = nn.Embedding(30, width)
        self.encoder = nn.ModuleList(type(toy_models()["vit"][0].blocks[0])(width) for _ in "12")
        self.queries = nn.Parameter(torch.randn(1, queries, width))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(width, 2, 16, batch_first=True)
                                     for _ in "12")  # fmt: skip
        self.head = nn.Linear(width, 5)
        self.eval()

    def forward(self, x):
        n = len(x)
        position = self.position(torch.arange(30).expand(n, -1))
        tokens = self.project(self.backbone(x)).flatten(2).transpose(1, 2) + position
        for block in self.encoder:
            tokens = block(tokens)
        found = self.queries.expand(n, -1, -1)
        for block in self.decoder:
            found = block(found, tokens)
        return self.head(found)


class Detector(nn.Module):
    """Two scales, and a head whose predictions for all cells are one tensor (YOLO)."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.coarse, self.fine = nn.Conv2d(6, 9, 1), nn.Conv2d(6, 9, 1)

        def forward(self, maps):
            fine, coarse = maps
            return torch.cat([self.fine(fine).flatten(2), self.coarse(coarse).flatten(2)], 2)

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.model = nn.ModuleList([
            nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.SiLU()),
            nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.SiLU()),
            nn.Sequential(nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.SiLU()),
            self.Head(),
        ])  # fmt: skip
        self.eval()

    def forward(self, x):
        stem, fine, coarse, head = self.model
        x = stem(x)
        return head([fine(x), coarse(x)])


class TwoStreams(nn.Module):
    """Color and depth, each with its own convolutions, joined after pooling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.color = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
        self.depth = nn.Sequential(nn.Conv2d(1, 4, 4, stride=2), nn.ReLU())
        self.unused = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(9, 5)
        self.eval()

    def forward(self, x):
        self.unused(x[:, :3])
        depth, color = self.depth(x[:, 3:]), self.color(x[:, :3])
        return self.head(torch.cat([color.mean((2, 3)), depth.mean((2, 3))], 1))


class TwoPatchSizes(nn.Module):
    """Patches of two sizes from images of two sizes, with a class token each (CrossViT)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        width = 8
        block = type(toy_models()["vit"][0].blocks[0])
        self.embed = nn.ModuleList([nn.Conv2d(3, width, 2, 2), nn.Conv2d(3, width, 4, 4)])
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.stages = nn.ModuleList(
            nn.ModuleList(nn.Sequential(block(width)) for _ in self.embed) for _ in "123"
        )
        self.head = nn.Linear(2 * width, 5)
        self.eval()

    def forward(self, x):
        tokens = []
        for embed, size in zip(self.embed, ((12, 8), (16, 16)), strict=True):
            resized = nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
            patches = embed(resized).flatten(2).transpose(1, 2)
            tokens.append(torch.cat([self.token.expand(len(x), -1, -1), patches], 1))
        for stage in self.stages:
            tokens = [block(one) for block, one in zip(stage, tokens, strict=True)]
        return self.head(torch.cat([one[:, 0] for one in tokens], 1))


class Ordered(nn.Module):
    """Patch tokens in any order, and a block.

    Args:
        order: The order of the 6 × 5 patches; None: row by row.
        linear: Cut patches out instead of a convolution.
    """

    def __init__(self, order=None, linear=False):
        super().__init__()
        torch.manual_seed(8)
        self.embed = nn.Linear(12, 8) if linear else nn.Conv2d(3, 8, 2, stride=2)
        self.order = order
        self.blocks = nn.ModuleList([type(toy_models()["vit"][0].blocks[0])(8)])
        self.head = nn.Linear(8, 5)
        self.eval()

    def forward(self, x):
        if isinstance(self.embed, nn.Linear):
            tokens = self.embed(nn.functional.unfold(x, 2, stride=2).transpose(1, 2))
        else:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens if self.order is None else tokens[:, self.order]
        return self.head(self.blocks[0](tokens).mean(1))
