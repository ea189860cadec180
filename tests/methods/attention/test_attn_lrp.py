"""AttnLRP against its rules written as a patched forward, and what it conserves."""

import math

import pytest
import torch
from attention_toys import SPELLINGS, images, vit
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.attention.attn_lrp import AttnLRP
from explainkit.testing import check_method, toy_models


def halved(value):
    """The same value with half its gradient."""
    return value / 2 + value.detach() / 2


def patched(model, x):
    """The forward of `attention_toys.ViT` whose gradient times input is AttnLRP without γ."""

    def norm(layer, value):
        centered = value - value.mean(-1, keepdim=True)
        scale = (centered.square().mean(-1, keepdim=True) + layer.eps).rsqrt().detach()
        return centered * scale * layer.weight + layer.bias

    tokens = model.patches(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.tokens.expand(len(x), -1, -1), tokens], 1) + model.position
    for block in model.blocks:
        core = block.attention.core
        n, count, width = tokens.shape
        qkv = F.linear(norm(block.norm, tokens), core.in_proj_weight, core.in_proj_bias)
        q, k, v = (t.reshape(n, count, 2, width // 2).transpose(1, 2) for t in qkv.chunk(3, -1))
        a = halved(q @ k.transpose(2, 3) * (width // 2) ** -0.5).softmax(3)
        mixed = halved(a @ v)
        tokens = tokens + core.out_proj(mixed.transpose(1, 2).reshape(n, count, width))
        hidden = block.mlp[1](norm(block.mlp[0], tokens))
        hidden = hidden * (0.5 * (1 + torch.erf(hidden / math.sqrt(2)))).detach()
        tokens = tokens + block.mlp[3](hidden)
    return model.head(norm(model.norm, tokens)[:, 0])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_without_gamma_it_is_the_gradient_of_a_patched_model(spelling):
    model, x = vit(spelling=spelling), images().requires_grad_()
    torch.testing.assert_close(patched(model, x), model(x))
    (gradient,) = torch.autograd.grad(patched(model, x)[:, 1].sum(), x)
    method = AttnLRP(gamma=0, dense_gamma=0, epsilon=1e-14)
    found = ek.explain(model, x.detach(), 1, method)
    torch.testing.assert_close(found.attribution, (gradient * x).detach(), rtol=1e-8, atol=1e-11)
    assert not found.coverage["fallbacks"]


class Mixer(nn.Module):
    """Tokens mixed by weights and gates, without softmax and without biases."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4, bias=False)
        self.norm = nn.LayerNorm(8, bias=False)
        self.mix = nn.Linear(12, 12, bias=False)
        self.gate = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.mix(self.norm(tokens).transpose(1, 2)).transpose(1, 2)
        tokens = tokens * F.gelu(self.gate(tokens)) + torch.einsum(
            "bnc,bmc,bmd->bnd", *[tokens] * 3
        )
        return self.head(self.norm(tokens).mean(1))


@pytest.mark.parametrize("method", [AttnLRP(), AttnLRP(gamma=0, dense_gamma=0)])
def test_relevance_is_conserved_without_softmax_and_biases(method):
    torch.manual_seed(1)
    e = ek.explain(Mixer().double().eval(), images() - 0.5, 1, method)
    assert e.diagnostics["conservation_gap"].max() < 1e-4
    torch.testing.assert_close(e.attribution.sum((1, 2, 3)), e.score, rtol=1e-4, atol=1e-6)
    assert e.attribution.abs().max() > 1e-3


def test_gamma_of_patches_and_of_linear_layers_are_two():
    maps = [
        ek.explain(vit(), images(), 1, AttnLRP(gamma=a, dense_gamma=b)).attribution
        for a, b in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5))
    ]
    for i, one in enumerate(maps):
        for other in maps[:i]:
            assert (one - other).abs().max() > 0.01 * one.abs().max()
    everywhere = ek.explain(vit(), images(), 1, "lrp", composite="gamma", gamma=0.5).attribution
    torch.testing.assert_close(maps[3], everywhere)


@pytest.mark.parametrize("field", ["gamma", "dense_gamma", "epsilon"])
def test_fields_out_of_range_are_refused(field):
    with pytest.raises(MethodError, match=f"{field}: expected"):
        AttnLRP(**{field: -1.0})


def test_promises():
    check_method("attn_lrp", {name: toy_models()[name] for name in ("residual", "vit", "mlp")})
