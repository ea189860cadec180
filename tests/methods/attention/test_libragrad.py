"""LibraGrad against modules patched by hand, and the completeness that it promises."""

import gc
import math
import weakref

import pytest
import torch
from attention_toys import SPELLINGS, images, unbiased, vit
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.errors import MethodError, ModelError
from explainkit.methods.attention.gradient_rules import ModifiedGradients
from explainkit.methods.attention.libragrad import KEEP, LibraGrad, _Balanced
from explainkit.methods.cam.gradient import GradCAM, HiResCAM
from explainkit.methods.gradient import InputXGradient, Saliency, SmoothGrad
from explainkit.methods.path.integrated import IntegratedGradients
from explainkit.methods.perturbation.occlusion import Occlusion
from explainkit.methods.propagation.full_gradient import FullGradient
from explainkit.testing import check_method, toy_models


def patched(model, x):
    """The forward of `attention_toys.ViT` with the parts that the paper holds detached."""

    def norm(layer, value):
        centered = value - value.mean(-1, keepdim=True)
        scale = (centered.square().mean(-1, keepdim=True) + layer.eps).rsqrt().detach()
        return F.linear(centered * scale, torch.diag(layer.weight), layer.bias)

    def gelu(value):
        return value * (0.5 * (1 + torch.erf(value / math.sqrt(2)))).detach()

    tokens = model.patches(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.tokens.expand(len(x), -1, -1), tokens], 1) + model.position
    for block in model.blocks:
        core = block.attention.core
        n, count, width = tokens.shape
        qkv = F.linear(norm(block.norm, tokens), core.in_proj_weight, core.in_proj_bias)
        q, k, v = (t.reshape(n, count, 2, width // 2).transpose(1, 2) for t in qkv.chunk(3, -1))
        a = (q @ k.transpose(2, 3) * (width // 2) ** -0.5).softmax(3).detach()
        tokens = tokens + core.out_proj((a @ v).transpose(1, 2).reshape(n, count, width))
        hidden = gelu(block.mlp[1](norm(block.mlp[0], tokens)))
        tokens = tokens + block.mlp[3](hidden)
    tokens = norm(model.norm, tokens)
    return model.head(tokens.mean(1) if model.mean else tokens[:, 0])


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("options", [{}, {"mean": True}])
def test_gradients_are_those_of_modules_patched_by_hand(spelling, options):
    model, x = vit(spelling=spelling, **options), images().requires_grad_()
    torch.testing.assert_close(patched(model, x), model(x))
    (wanted,) = torch.autograd.grad(patched(model, x)[:, 1].sum(), x)
    found = ek.explain(model, x.detach(), 1, "libragrad").attribution
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    plain = ek.explain(model, x.detach(), 1, "saliency").attribution
    assert (found - plain).abs().max() > 0.01 * plain.abs().max()


class Gates(nn.Module):
    """Every way in which features gate each other."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 8, 3, bias=False) for _ in range(4))
        self.head = nn.Linear(8, 5, bias=False)
        self.group = nn.GroupNorm(2, 8)

    def forward(self, x):
        a, b, c, d = (conv(x) for conv in self.convs)
        swiglu = F.silu(a) * b
        by_hand = 0.5 * c * (1 + torch.tanh(0.8 * (c + 0.04 * c**3)))
        squeezed = d * torch.sigmoid(d.mean((2, 3), keepdim=True))
        normal = b * torch.rsqrt(b.square().mean(1, keepdim=True) + 1e-6)
        unit = self.group(F.normalize(d, dim=1)) + a / (1 + c.square())
        halves = F.glu(torch.cat([b, c], 1), 1) + torch.relu(a) + F.mish(d) + torch.tanh(b)
        total = swiglu + by_hand + squeezed + normal + unit + halves
        return self.head(total.amax((2, 3)))


def test_input_times_gradient_is_the_score_without_biases():
    torch.manual_seed(0)
    gates = Gates().double().eval()
    for model in (unbiased(), unbiased(spelling="by hand"), gates):
        e = ek.explain(model, images(), 1, LibraGrad(InputXGradient()))
        torch.testing.assert_close(e.attribution.sum((1, 2, 3)), e.score, rtol=1e-9, atol=1e-12)
        assert not e.coverage["fallbacks"]
        plain = ek.explain(model, images(), 1, "input_x_gradient").attribution.sum((1, 2, 3))
        assert ((plain - e.score).abs() > 0.05 * e.score.abs()).all()


def test_in_place_and_sliced_activations_have_the_rule():
    torch.manual_seed(0)
    first, head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 5, bias=False)

    class Net(nn.Module):
        def __init__(self, run):
            super().__init__()
            self.first, self.head, self.run = first, head, run

        def forward(self, x):
            return self.head(self.run(self.first(x)).mean((2, 3)))

    def sliced(y):
        y = y.clone()
        F.silu(y[:, 1:3], inplace=True)
        return y

    def plain(y):
        return torch.cat([y[:, :1], F.silu(y[:, 1:3]), y[:, 3:]], 1)

    x = torch.rand(2, 3, 8, 8) - 0.5
    maps = [ek.explain(Net(f).eval(), x, 1, "libragrad").attribution for f in (sliced, plain)]
    torch.testing.assert_close(*maps)
    whole = [
        ek.explain(Net(lambda y, i=i: F.silu(y + 0, inplace=i)).eval(), x, 1, "libragrad")
        for i in (False, True)
    ]
    assert torch.equal(whole[0].attribution, whole[1].attribution)


def test_every_gradient_method_runs_on_it():
    model, x = vit(), images()
    gradient = ek.explain(model, x, 1, "libragrad").attribution
    still = ek.explain(model, x, 1, LibraGrad(SmoothGrad(samples=2, noise=0.0))).attribution
    torch.testing.assert_close(still, gradient)
    path = ek.explain(model, x, 1, LibraGrad(IntegratedGradients(steps=3))).attribution
    assert (path - ek.explain(model, x, 1, IntegratedGradients(steps=3)).attribution).any()


def test_the_gradients_of_layers_are_balanced_too():
    model, x = vit(), images().requires_grad_()
    with torch.enable_grad():
        scores = patched(model, x)
        inner = next(t for t in [model.patches(x)])
    assert scores.shape == (2, 5)
    for base in (GradCAM("patches"), HiResCAM("patches")):
        found = ek.explain(model, x.detach(), 1, LibraGrad(base)).attribution
        plain = ek.explain(model, x.detach(), 1, base).attribution
        assert found.shape == plain.shape
        assert (found - plain).abs().max() > 0.01 * plain.abs().max()
    # Σ of HiResCAM over positions is Σ activation · gradient: the score, where nothing is a bias
    bare = unbiased()
    e = ek.explain(bare, x.detach(), 1, LibraGrad(HiResCAM("patches", upsample="nearest")))
    total = e.attribution.sum((1, 2, 3)) / 16
    torch.testing.assert_close(total, e.score, rtol=1e-9, atol=1e-12)
    assert inner.shape[1] == 16


def test_probabilities_and_dead_ends():
    model = nn.Sequential(vit(), nn.Softmax(1)).eval()
    with pytest.warns(ek.errors.ExplainkitWarning):
        e = ek.explain(model, images(), 1, "libragrad")
    assert e.coverage["operators"]["_softmax"] == {"gradient": 1}


@pytest.mark.parametrize(
    ("base", "reason"), [(FullGradient(), "rules of its own"), (Occlusion(), "uses none")]
)
def test_methods_that_use_no_gradient_are_refused(base, reason):
    with pytest.raises(MethodError, match=reason):
        ek.explain(vit(), images(), 1, LibraGrad(base))


def test_an_unknown_operator_is_named_or_falls_back_on_request():
    net = nn.Sequential(nn.Flatten(), nn.Linear(576, 5), Cumulated()).double().eval()
    with pytest.raises(MethodError, match="'cumprod'.*unsupported='gradient'"):
        ek.explain(net, images(), 1, "libragrad")
    with pytest.warns(match="no rule for cumprod"):
        e = ek.explain(net, images(), 1, "libragrad", unsupported="gradient")
    assert e.coverage["fallbacks"] == ["cumprod"]


class Cumulated(nn.Module):
    def forward(self, x):
        return torch.cumprod(x, 1)


def test_nothing_is_kept_alive():
    model, x = vit(), images().requires_grad_()
    scores = ModifiedGradients(model.requires_grad_(False), _Balanced("error"), KEEP)(x)
    scores[:, 0].sum().backward()
    watch = weakref.ref(scores)
    gone = weakref.ref(x)
    gc.disable()
    try:
        del scores, x
        assert watch() is None
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("base", [Saliency(), SmoothGrad(samples=2), GradCAM()])
def test_promises(base):
    models = toy_models()
    if not isinstance(base, Saliency):
        models = {name: models[name] for name in ("residual", "vit", "batch_norm")}
    check_method(LibraGrad(base), models)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated")
def test_a_scripted_model_is_refused():
    model, x = toy_models()["plain"]
    with pytest.raises(ModelError, match="got a ScriptModule"):
        ek.explain(torch.jit.trace(model, x), x, 1, "libragrad")
