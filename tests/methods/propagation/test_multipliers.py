"""Multipliers of DeepLIFT where a baseline is next to a pole: they stay complete in single precision."""

import pytest
import torch
from torch import nn

import explainkit as ek


class Normalized(nn.Module):
    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm
        self.first = nn.Linear(48, 16, bias=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        y = self.norm(self.first(x.flatten(1)))
        return self.head(y + self.norm(y**3))


def by_hand(x):
    centered = x - x.mean(-1, keepdim=True)
    return centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-12)


def groups(x):
    return nn.functional.group_norm(x, 4, eps=1e-12)


def layer(x):
    return nn.functional.layer_norm(x, (16,), eps=1e-12)


def signed(x):
    """A denominator that is negative on the baseline."""
    return (x + 1) / (x.square().sum(1, keepdim=True) - 0.5)


@pytest.mark.parametrize("norm", [layer, by_hand, groups, signed])
def test_normalizations_of_a_constant_baseline(norm):
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    e = ek.explain(Normalized(norm).eval(), x, 1, "deeplift")
    assert e.diagnostics["completeness_gap"].max() < 1e-4
    assert e.attribution.abs().max() < 10 * e.score.abs().max()


class Peaked(nn.Module):
    """Probabilities that are all but certain, and even on a baseline of zeros."""

    def __init__(self, function, masked):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.first, self.head = nn.Linear(48, 16, bias=False), nn.Linear(16, 3)
        # as attention masks do
        self.register_buffer("mask", torch.arange(16) < 5 if masked else torch.zeros(16).bool())

    def forward(self, x):
        y = 200 * self.first(x.flatten(1))
        y = self.function(y.masked_fill(self.mask, -torch.inf), dim=1)
        return self.head(y.masked_fill(self.mask, 0))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax])
def test_a_softmax_of_large_differences(function, masked):
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    e = ek.explain(Peaked(function, masked).eval(), x, 1, "deeplift")
    assert e.diagnostics["completeness_gap"].max() < 1e-4
    assert e.attribution.abs().max() < 10 * e.score.abs().max()


def test_a_logarithm_of_a_sum_of_large_differences():
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    class Net(nn.Module):
        def forward(self, x):
            y = 300 * (x - 0.2).flatten(1)
            return torch.stack([torch.logsumexp(y[:, i::3], 1) for i in range(3)], 1)

    assert ek.explain(Net().eval(), x, 1, "deeplift").diagnostics["completeness_gap"].max() < 1e-4


def test_a_row_that_is_masked_away():
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    class Net(nn.Module):
        def forward(self, x):
            y = x.reshape(len(x), 1, 3, 16)
            mask = torch.tensor([[False] * 3, [True, True, False], [True] * 3])
            out = nn.functional.scaled_dot_product_attention(y, y, y, attn_mask=mask)
            return out.sum(3)[:, 0]

    e = ek.explain(Net().eval(), x, 1, "deeplift")
    assert e.diagnostics["completeness_gap"].max() < 1e-4
