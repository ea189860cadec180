"""Multipliers where a baseline is next to a pole: they stay complete in single precision."""

import pytest
import torch
from torch import nn

import explainkit as ek


class Normalised(nn.Module):
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
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-12)


def groups(x):
    return nn.functional.group_norm(x, 4, eps=1e-12)


def layer(x):
    return nn.functional.layer_norm(x, (16,), eps=1e-12)


def signed(x):
    """A denominator that is negative on the baseline."""
    return (x + 1) / (x.square().sum(1, keepdim=True) - 0.5)


@pytest.mark.parametrize("norm", [layer, by_hand, groups, signed])
def test_normalisations_of_a_constant_baseline(norm):
    x = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    e = ek.explain(Normalised(norm).eval(), x, 1, "deeplift")
    assert e.diagnostics["completeness_gap"].max() < 1e-4
    assert e.attribution.abs().max() < 10 * e.score.abs().max()
