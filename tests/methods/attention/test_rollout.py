"""Rollouts and LeGrad against the matrices written out by hand, in every spelling of attention."""

import pytest
import torch
from attention_toys import SPELLINGS, ViT, images, vit
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.attention.legrad import LeGrad
from explainkit.methods.attention.rollout import AttentionRollout, GradientRollout, rollout
from explainkit.testing import check_method, toy_models

METHODS = ["attention_rollout", "gradient_rollout", "legrad"]


def by_hand(model, x, target, own_head=False):
    """Attention matrices ``[batch, head, query, key]`` and their gradients, from plain autograd.

    With ``own_head`` the gradient of each is that of the score of its own block.
    """
    patches = model.patches(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.tokens.expand(len(x), -1, -1), patches], 1) + model.position
    found, scores = [], []
    for block in model.blocks:
        core = block.attention.core
        qkv = F.linear(block.norm(tokens), core.in_proj_weight, core.in_proj_bias)
        n, count, width = tokens.shape
        q, k, v = (t.reshape(n, count, 2, width // 2).transpose(1, 2) for t in qkv.chunk(3, -1))
        a = (q @ k.transpose(2, 3) * (width // 2) ** -0.5).softmax(3)
        found.append(a)
        tokens = tokens + core.out_proj((a @ v).transpose(1, 2).reshape(n, count, width))
        tokens = tokens + block.mlp(tokens)
        read = model.norm(tokens)
        scores.append(model.head(read.mean(1) if model.mean else read[:, 0])[:, target].sum())
    if not own_head:
        return found, torch.autograd.grad(scores[-1], found)
    return found, [
        torch.autograd.grad(s, a, retain_graph=True)[0] for s, a in zip(scores, found, strict=True)
    ]


def upsampled(tokens, prefix):
    grid = tokens[:, prefix : prefix + 12].reshape(len(tokens), 1, 4, 3)
    return F.interpolate(grid, (16, 12), mode="bilinear", align_corners=False)


def rows(full, model, prefix):
    """The class token's row, or the mean of all."""
    return upsampled(full.mean(1) if model.mean else full[:, 0], prefix)


@pytest.mark.parametrize(
    "options", [{}, {"prefix": 3}, {"mean": True}, {"mean": True, "prefix": 0}]
)
def test_rollout_is_the_product_of_all_layers(options):
    model, x, prefix = vit(**options), images(), options.get("prefix", 1)
    attentions, _ = by_hand(model, x, 1)
    product = torch.eye(attentions[0].shape[-1], dtype=x.dtype)
    for a in attentions:
        product = (a.mean(1) / 2 + torch.eye(a.shape[-1], dtype=x.dtype) / 2) @ product
    torch.testing.assert_close(product.sum(2), torch.ones_like(product[..., 0]))
    e = ek.explain(model, x, 1, "attention_rollout")
    torch.testing.assert_close(e.attribution, rows(product, model, prefix))
    patches = ek.explain(model, x, 1, "attention_rollout", upsample="nearest").attribution
    total = patches.sum((1, 2, 3)) / 16 + e.diagnostics["elsewhere"]
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("options", [{}, {"prefix": 3}, {"mean": True}])
def test_gradient_rollout_is_that_of_plain_autograd(options):
    model, x, prefix = vit(**options), images(), options.get("prefix", 1)
    relevance = torch.eye(12 + prefix, dtype=x.dtype).expand(2, -1, -1)
    for a, gradient in zip(*by_hand(model, x, 2), strict=True):
        relevance = relevance + (a * gradient).clamp(min=0).mean(1) @ relevance
    found = ek.explain(model, x, 2, "gradient_rollout").attribution
    torch.testing.assert_close(found, rows(relevance, model, prefix).detach())


@pytest.mark.parametrize("options", [{}, {"prefix": 3}, {"mean": True}])
def test_legrad_is_that_of_plain_autograd(options):
    model, x, prefix = vit(depth=3, **options), images(), options.get("prefix", 1)
    _, gradients = by_hand(model, x, 2, own_head=True)
    parts = [g.clamp(min=0).mean((1, 2)) for g in gradients]
    e = ek.explain(model, x, 2, "legrad")
    torch.testing.assert_close(e.attribution, upsampled(torch.stack(parts).mean(0), prefix))
    last = ek.explain(model, x, 2, "legrad", layers=1)
    torch.testing.assert_close(last.attribution, upsampled(parts[-1], prefix))
    assert last.diagnostics["blocks"] == ["blocks.2"]


class Pyramid(nn.Module):
    """Blocks of fewer and fewer tokens."""

    def __init__(self):
        super().__init__()
        self.model = ViT(prefix=0, mean=True, image=(16, 16))
        for block in self.model.blocks:
            block.register_forward_hook(lambda _m, _i, y: y[:, ::2])
        self.model.position.data = self.model.position.data[:, :16]

    def forward(self, x):
        return self.model(x)


def test_legrad_refuses_blocks_whose_tokens_the_head_cannot_read():
    with pytest.raises(MethodError, match="tokens of one shape"):
        ek.explain(Pyramid().eval(), images(size=(16, 16), dtype=torch.float32), 1, "legrad")


class Loose(nn.Module):
    """Attention outside of any row."""

    def __init__(self):
        super().__init__()
        self.model = vit()
        self.only = self.model.blocks[0]
        del self.model.blocks
        vars(self.model)["blocks"] = [self.only]

    def forward(self, x):
        return self.model(x)


def test_legrad_refuses_attention_outside_of_numbered_blocks():
    with pytest.raises(MethodError, match="numbered blocks"):
        ek.explain(Loose().eval(), images(), 1, "legrad")
    with pytest.raises(MethodError, match="layers"):
        ek.explain(vit(), images(), 1, "legrad", layers=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_spelling_of_attention_has_the_same_map(method):
    found = [ek.explain(vit(spelling=s), images(), 1, method).attribution for s in SPELLINGS]
    assert found[0].abs().max() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-14)


class Pooled(nn.Module):
    """A head that gathers the tokens by attention of a learned probe."""

    def __init__(self):
        super().__init__()
        self.body = vit(prefix=0, mean=True)
        torch.manual_seed(3)
        self.probe = nn.Parameter(torch.randn(1, 1, 16).double())
        self.pool = nn.MultiheadAttention(16, 2, batch_first=True).double()
        self.eval()

    def forward(self, x):
        model = self.body
        tokens = model.patches(x).flatten(2).transpose(1, 2) + model.position
        for block in model.blocks:
            tokens = block(tokens)
        self.weights = self.pool(self.probe.expand(len(x), -1, -1), tokens, tokens)
        return model.head(self.weights[0][:, 0])


def test_a_probe_that_gathers_the_tokens_counts_as_it_is():
    model, x = Pooled(), images()
    attentions, _ = by_hand(model.body, x, 1)
    model(x)
    row = model.weights[1]
    for a in reversed(attentions):
        row = row @ (a.mean(1) / 2) + row / 2
    found = ek.explain(model, x, 1, "attention_rollout").attribution
    torch.testing.assert_close(found, upsampled(row[:, 0], 0).detach())
    assert ek.explain(model, x, 1, "legrad").attribution.max() > 0


def test_rows_of_a_rollout_sum_to_one():
    layers = [torch.rand(2, 5, 5, dtype=torch.float64) for _ in range(4)]
    layers = [a / a.sum(2, keepdim=True) / 2 for a in layers]
    reading = torch.eye(5, dtype=torch.float64)[None, 2:3].expand(2, 1, 5)
    torch.testing.assert_close(rollout(reading, layers, 0.5).sum(1), torch.ones(2).double())


class Windowed(nn.Module):
    """Attention within halves of the tokens."""

    def __init__(self, spelling):
        super().__init__()
        self.model = ViT(spelling, prefix=0, mean=True, image=(16, 16))
        self.eval()

    def forward(self, x):
        tokens = self.model.patches(x).flatten(2).transpose(1, 2)
        n, count, width = tokens.shape
        windows = tokens.reshape(n * 4, count // 4, width)
        for block in self.model.blocks:
            windows = block(windows)
        return self.model.head(windows.reshape(n, count, width).mean(1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_windows_are_refused_with_the_reason(method, spelling):
    with pytest.raises(MethodError, match="window"):
        ek.explain(Windowed(spelling), images(size=(16, 16), dtype=torch.float32), 1, method)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_attention_is_refused(method):
    with pytest.raises(MethodError, match="expected a model with attention"):
        ek.explain(*toy_models()["plain"], 0, method)


def test_an_unknown_upsampling_is_refused():
    with pytest.raises(MethodError, match="upsample"):
        AttentionRollout(upsample="cubic")


@pytest.mark.parametrize("method", [AttentionRollout(), GradientRollout(), LeGrad()])
def test_promises(method):
    models = {"toy": toy_models()["vit"], "mean": (vit(dtype=torch.float32, mean=True),
                                                   images(3, dtype=torch.float32))}  # fmt: skip
    check_method(method, models)
