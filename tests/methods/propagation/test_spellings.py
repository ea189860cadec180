"""One layer in two spellings, and biases that lie on no image."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import explainkit as ek


class Dense(nn.Module):
    """A linear layer and its bias, in one operator or in two."""

    def __init__(self, apart):
        super().__init__()
        torch.manual_seed(0)
        self.apart = apart
        self.first, self.second, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = x.reshape(len(x), 4, 12)
        for layer in (self.first, self.second):
            plain = F.linear(x, layer.weight) + layer.bias
            x = torch.relu(plain if self.apart else layer(x))
        return self.head(x.mean(1))


@pytest.mark.parametrize("composite", ["gamma", "epsilon", "alpha_beta", "epsilon_plus"])
def test_a_bias_added_apart_is_the_layers_own(composite):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    maps = [
        ek.explain(Dense(apart).double().eval(), x, 1, "lrp", composite=composite).attribution
        for apart in (False, True)
    ]
    torch.testing.assert_close(*maps, rtol=1e-9, atol=1e-12)


class Attending(nn.Module):
    """Attention over positions, whose scores have as many axes as an image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, x):
        q, k, v = (t.flatten(2).transpose(1, 2)[:, None] for t in (self.query(x), self.key(x), x))
        scores = q @ k.transpose(2, 3) + 0.3 * torch.arange(16.0).to(x)
        return (scores.softmax(3) @ v).mean((1, 2))


def test_what_a_softmax_compares_is_not_drawn():
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    e = ek.explain(Attending().double().eval(), x, 1, "full_gradient")
    own = ek.explain(Attending().double().eval(), x, 1, "input_x_gradient").attribution
    torch.testing.assert_close(e.attribution, own.sum(1, keepdim=True))
    assert e.diagnostics["completeness_gap"].max() < 1e-9
    assert (e.diagnostics["bias_elsewhere"].abs() > 1e-3).all()


class Last(nn.Module):
    """A bias at one position of the image, channels first or last."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.last = last
        self.patches = nn.Conv2d(3, 5, 2, stride=2, bias=False)
        self.bias = nn.Parameter(torch.zeros(1, 5, 4, 4))
        self.bias.data[0, :, 1, 2] = 1.0

    def forward(self, x):
        y = self.patches(x)
        if self.last:
            y = y.permute(0, 2, 3, 1) + self.bias.permute(0, 2, 3, 1)
            return y.sum((1, 2))
        return (y + self.bias).sum((2, 3))


def test_channels_last_maps_are_drawn_where_they_lie():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    first, last = (ek.explain(Last(last).eval(), x, 1, "full_gradient") for last in (False, True))
    torch.testing.assert_close(last.attribution, first.attribution)
