"""One function in several spellings has one map, and biases that lie on no image."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.methods.attention.libragrad import LibraGrad
from explainkit.methods.gradient import InputXGradient


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


EPS = 1e-5
GENERATOR = torch.Generator().manual_seed(5)
GAIN, SHIFT, MATRIX, QUERY, KEY = (
    torch.randn(shape, generator=GENERATOR).double() for shape in [6, 6, *[(6, 6)] * 3]
)


def centered(x):
    return x - x.mean(-1, keepdim=True)


def variance(x):
    return centered(x).pow(2).mean(-1, keepdim=True) + EPS


def square(x):
    return x.pow(2).mean(-1, keepdim=True) + EPS


def by_var_mean(x):
    spread, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(spread + EPS) * GAIN + SHIFT


def by_std_mean(x):
    spread, mean = torch.std_mean(x, -1, correction=0)
    return (x - mean[..., None]) / (spread[..., None] ** 2 + EPS).sqrt() * GAIN + SHIFT


def folded(x):
    scale = GAIN * torch.rsqrt(variance(x))
    return x * scale + (SHIFT - x.mean(-1, keepdim=True) * scale)


def exponentials(x):
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def attention(q, k, v):
    return F.softmax(q @ k.transpose(1, 2) / math.sqrt(6), -1) @ v


SPELLINGS = {
    "layer_norm": [
        lambda x: F.layer_norm(x, [6], GAIN, SHIFT, EPS),
        lambda x: centered(x) / torch.sqrt(variance(x)) * GAIN + SHIFT,
        lambda x: centered(x) * torch.rsqrt(variance(x)) * GAIN + SHIFT,
        lambda x: GAIN * (torch.rsqrt(variance(x)) * centered(x)) + SHIFT,
        lambda x: centered(x) / variance(x) ** 0.5 * GAIN + SHIFT,
        lambda x: centered(x) * variance(x) ** -0.5 * GAIN + SHIFT,
        lambda x: centered(x) * (1 / torch.sqrt(variance(x))) * GAIN + SHIFT,
        lambda x: centered(x) * variance(x).sqrt().reciprocal() * GAIN + SHIFT,
        lambda x: centered(x) * torch.div(GAIN, variance(x).sqrt()) + SHIFT,
        lambda x: centered(x) * torch.div(1.0, variance(x).sqrt()) * GAIN + SHIFT,
        lambda x: centered(x) / (x.var(-1, correction=0, keepdim=True) + EPS).sqrt() * GAIN + SHIFT,
        lambda x: torch.addcmul(SHIFT, centered(x) * torch.rsqrt(variance(x)), GAIN),
        by_var_mean,
        by_std_mean,
        folded,
    ],
    "rms_norm": [
        lambda x: F.rms_norm(x, [6], GAIN, EPS),
        lambda x: x / torch.sqrt(square(x)) * GAIN,
        lambda x: GAIN * (x * torch.rsqrt(square(x))),
        lambda x: GAIN * (torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * x),
        lambda x: x * (GAIN * torch.rsqrt(square(x)).expand_as(x)),
        lambda x: x * torch.rsqrt(x.square().sum(-1, keepdim=True) / 6 + EPS) * GAIN,
    ],
    "normalize": [
        lambda x: F.normalize(x, dim=-1),
        lambda x: x.div(x.norm(dim=-1, keepdim=True)),
        lambda x: x / torch.linalg.norm(x, dim=-1, keepdim=True),
        lambda x: x * torch.rsqrt(x.square().sum(-1, keepdim=True)),
    ],
    "softmax": [
        lambda x: F.softmax(x, -1),
        exponentials,
        lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
        lambda x: (1 / x.exp().sum(-1, keepdim=True)) * x.exp(),
    ],
    "log_softmax": [
        lambda x: F.log_softmax(x, -1),
        lambda x: x - x.logsumexp(-1, keepdim=True),
    ],
    "sigmoid": [
        torch.sigmoid,
        lambda x: 1 / (1 + torch.exp(-x)),
        lambda x: (torch.exp(-x) + 1).reciprocal(),
        lambda x: torch.div(1.0, (-x).exp_().add_(1)),
        lambda x: (1 + torch.exp(-x)) ** -1,
        lambda x: x.exp() / (1 + x.exp()),
    ],
    "softplus": [
        F.softplus, lambda x: torch.log(1 + torch.exp(x)), lambda x: torch.log1p(torch.exp(x)),
    ],
    "gelu": [F.gelu, lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))],
    "gelu_tanh": [
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        lambda x: (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)).tanh()) * x * 0.5,
    ],
    "silu": [F.silu, lambda x: x * torch.sigmoid(x), lambda x: x / (1 + torch.exp(-x))],
    "gate": [
        lambda x: x * torch.sigmoid(x @ MATRIX),
        lambda x: (1 / (1 + torch.exp(-(x @ MATRIX)))) * x,
        lambda x: torch.mul(x, (torch.exp(-(x @ MATRIX)) + 1).reciprocal()),
    ],
    "hardswish": [
        F.hardswish,
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: (x / 6 + 0.5).clamp(0, 1) * x,
    ],
    "mish": [F.mish, lambda x: x * torch.tanh(F.softplus(x))],
    "linear": [
        lambda x: F.linear(x, MATRIX, SHIFT),
        lambda x: x @ MATRIX.T + SHIFT,
        lambda x: torch.einsum("bnd,od->bno", x, MATRIX) + SHIFT,
        lambda x: (MATRIX @ x.transpose(1, 2)).transpose(1, 2) + SHIFT,
        lambda x: (MATRIX @ x.transpose(1, 2) + SHIFT[:, None]).transpose(1, 2),
        lambda x: torch.baddbmm(SHIFT, x, MATRIX.T.expand(len(x), -1, -1)),
    ],
    "attention": [
        lambda x: F.scaled_dot_product_attention(x @ QUERY, x @ KEY, x),
        lambda x: attention(x @ QUERY, x @ KEY, x),
        lambda x: torch.einsum(
            "bij,bjd->bid", torch.einsum("bid,bjd->bij", x @ QUERY, x @ KEY).div(6**0.5).softmax(-1), x
        ),
        lambda x: exponentials((x @ QUERY) * 6**-0.5 @ (x @ KEY).mT) @ x,
    ],
}  # fmt: skip
METHODS = [
    "lrp", "attn_lrp", "deeplift", "excitation_backprop", "deep_taylor",
    LibraGrad(InputXGradient()),
]  # fmt: skip


class Spelled(nn.Module):
    """A function of tokens between a patch embedding and a readout."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.patches = function, nn.Conv2d(3, 6, 2, stride=2)
        self.readout = nn.Parameter(torch.randn(24, 3))

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.function(tokens).flatten(1) @ self.readout


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_function_has_the_same_map(name):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    # LibraGrad takes the slope from zero of each operator, and that of a reciprocal is infinite
    methods = METHODS[:-1] if name in {"sigmoid", "softplus", "gate"} else METHODS
    first, *others = (
        ek.explain(Spelled(spelling).double().eval(), x, 1, methods) for spelling in SPELLINGS[name]
    )
    for found in others:
        for one, other in zip(found, first, strict=True):
            wanted = other.attribution
            scale = float(wanted.abs().max())
            torch.testing.assert_close(
                one.attribution, wanted, rtol=1e-5, atol=1e-5 * scale,
                msg=lambda text, method=one.method: f"{method}: {text}",
            )  # fmt: skip


def test_gates_of_other_features_still_share():
    """Two halves of one tensor are two features, though one node computes both."""

    def gated(x):
        value, gate = x.chunk(2, -1)
        return torch.cat([value * gate.sigmoid()] * 2, -1)

    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    fused, spelled = (
        ek.explain(Spelled(f).double().eval(), x, 1, "lrp", composite="epsilon").attribution
        for f in (lambda x: torch.cat([F.glu(x)] * 2, -1), gated)
    )
    torch.testing.assert_close(spelled, fused, rtol=1e-6, atol=1e-7)


class HalfPrecision(nn.Module):
    """RMSNorm as Llama writes it: in float32, cast back."""

    def __init__(self, reciprocal):
        super().__init__()
        torch.manual_seed(0)
        self.reciprocal, self.head = reciprocal, nn.Linear(48, 3)

    def forward(self, x):
        y = x.flatten(1).float()
        mean = y.pow(2).mean(-1, keepdim=True) + 1e-6
        y = y * torch.rsqrt(mean) if self.reciprocal else y / torch.sqrt(mean)
        return self.head(y.to(x.dtype))


@pytest.mark.parametrize("method", ["lrp", "deeplift"])
def test_a_scale_computed_in_float32_is_a_scale(method):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    one, other = (
        ek.explain(HalfPrecision(r).bfloat16().eval(), x, 1, method).attribution for r in (0, 1)
    )
    torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


def test_deeplift_stays_finite_where_a_norm_vanishes_on_the_baseline():
    """The baseline's scale is 1000: the arithmetic mean of scales gave values of hundreds."""

    class Norm(nn.Module):
        def forward(self, x):
            x = x.flatten(1)
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    x = torch.tensor([2.0, -1.0, 0.5, 0.3]).view(1, 1, 2, 2)
    e = ek.explain(Norm().eval(), x, 0, "deeplift")
    assert e.diagnostics["completeness_gap"].max() < 1e-5
    root = (x.square().mean() + 1e-6).sqrt()
    # Δq = Δx · 2 / (s + s₀) + Δs · …, with q₀ = 0, s₀ = 0.001 and Δs / Δx = x / (4 (s + s₀))
    total = root + 1e-3
    wanted = 2 * x[0, 0, 0, 0] * torch.tensor([1.0, 0, 0, 0]) / total
    wanted = wanted - x[0, 0, 0, 0] / root / total.square() * x.flatten().square() / 4
    torch.testing.assert_close(e.attribution.flatten(), wanted, rtol=1e-4, atol=1e-5)


def test_a_clamp_at_zero_is_a_relu():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    for method in ("guided_backprop", "deconvnet"):
        relu, clamp = (
            ek.explain(Spelled(f).double().eval(), x, 1, method).attribution
            for f in (F.relu, lambda x: x.clamp(min=0))
        )
        assert torch.equal(relu, clamp)


class Stacked(nn.Module):
    """Members of an ensemble stacked before the images, then a function with a bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.members = nn.ModuleList(nn.Linear(48, 3) for _ in range(3))

    def forward(self, x):
        return torch.stack([m(x.flatten(1)) for m in self.members]).softmax(-1).mean(0)


class StepsFirst(nn.Module):
    """A recurrent network over the rows of an image, time steps first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = nn.GRU(12, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cell(x.permute(2, 0, 1, 3).flatten(2))[0][-1])


@pytest.mark.filterwarnings("ignore:.*returns probabilities")
@pytest.mark.parametrize("model", [Stacked, StepsFirst])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_full_gradient_is_complete_where_images_are_not_the_first_axis(model, count):
    x = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    e = ek.explain(model().double().eval(), x, 1, "full_gradient")
    assert e.diagnostics["completeness_gap"].max() < 1e-9
    alone = ek.explain(model().double().eval(), x[:1], 1, "full_gradient")
    for name in ("bias_elsewhere", "completeness_gap"):
        torch.testing.assert_close(e.diagnostics[name][:1], alone.diagnostics[name])
