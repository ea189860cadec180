"""Transformers of one set of weights in several spellings, and variants whose maps are known."""

import math

import torch
from torch import nn
from torch.nn import functional as F

SPELLINGS = ("module", "module with weights", "fused", "by hand", "einsum", "turned")


class Attention(nn.Module):
    """Attention of two heads in one of `SPELLINGS`."""

    def __init__(self, width, spelling, bias=True):
        super().__init__()
        self.spelling = spelling
        self.core = nn.MultiheadAttention(width, 2, batch_first=True, bias=bias)

    def forward(self, x):
        if self.spelling.startswith("module"):
            return self.core(x, x, x, need_weights="weights" in self.spelling)[0]
        n, tokens, width = x.shape
        q, k, v = F.linear(x, self.core.in_proj_weight, self.core.in_proj_bias).chunk(3, -1)
        q, k, v = (t.reshape(n, tokens, 2, width // 2).transpose(1, 2) for t in (q, k, v))
        scale = math.sqrt(width // 2)
        if self.spelling == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        elif self.spelling == "by hand":
            out = F.dropout((q @ k.transpose(-1, -2) / scale).softmax(-1), 0.1, self.training) @ v
        elif self.spelling == "turned":
            out = ((k @ q.transpose(2, 3) / scale).softmax(2)).transpose(2, 3) @ v
        else:
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / scale
            out = torch.einsum("bhqk,bhkd->bhqd", torch.softmax(scores, 3), v)
        return self.core.out_proj(out.transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    def __init__(self, width, spelling, bias=True):
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, spelling, bias)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, bias=bias), nn.Linear(width, 2 * width, bias=bias), nn.GELU(),
            nn.Linear(2 * width, width, bias=bias),
        )  # fmt: skip

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class ViT(nn.Module):
    """Patches of 4 × 4, ``prefix`` extra tokens; the head reads the first token, or the mean of all."""

    def __init__(self, spelling="module", prefix=1, bias=True, depth=2, width=16, channels=3,
                 image=(16, 12), classes=5, mean=False):  # fmt: skip
        super().__init__()
        self.mean = mean
        self.patches = nn.Conv2d(channels, width, 4, stride=4, bias=bias)
        self.tokens = nn.Parameter(torch.randn(1, prefix, width) / 5)
        tokens = prefix + (image[0] // 4) * (image[1] // 4)
        self.position = nn.Parameter(torch.randn(1, tokens, width) / 5)
        self.blocks = nn.ModuleList(Block(width, spelling, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, classes, bias=bias)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), patches], 1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.mean else x[:, 0])


def vit(seed=0, dtype=torch.float64, **options):
    """A ViT whose attention is far from uniform, the same for every spelling."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViT(**options)
        for name, p in model.named_parameters():
            if "in_proj_weight" in name:
                p.data *= 4
            elif "bias" in name:
                p.data += torch.randn_like(p) / 5
    return model.eval().to(dtype)


def unbiased(**options):
    """A ViT that is nothing but weights: no bias, no position, no class token."""
    model = vit(bias=False, mean=True, prefix=0, **options)
    model.position.data.zero_()
    return model


def images(count=2, channels=3, size=(16, 12), dtype=torch.float64):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
