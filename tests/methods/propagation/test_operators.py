"""Operators that module hooks miss are recognized, however they are written."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.graph.backward import propagate
from explainkit.graph.tape import record

W = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double() / 6


def conv(x, **options):
    return F.conv2d(x, W, torch.linspace(-0.2, 0.2, 5).double(), **options)


def in_place_slice(x):
    y = x * 1
    y[:, 0] = y[:, 1] * 2
    y[:, 1].mul_(y[:, 3].clone())
    y[:, 2:].relu_()
    return y


def view_changed_under(x):
    """Autograd makes the views anew when they are used: no call of the model made those nodes."""
    y = x * 1
    left, right = y[:, :2], y[:, 2:]
    y.mul_(1.5)
    left.add_(1)
    return torch.relu(left) * right + torch.sigmoid(left)


def part_of_a_part(x):
    """As GhostNet does: the first channels of a stack, to which a shortcut is added in place."""
    y = torch.cat([x, x.relu()], 1)[:, :5]
    y += x.sum(1, keepdim=True)
    return y.relu()


def windows(x):
    """Windowed, shifted attention as Swin has it, written by hand."""
    b, c, h, w = x.shape
    x = torch.roll(x, (1, 1), (2, 3)).view(b, c, h // 2, 2, w // 2, 2)
    t = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
    return F.softmax(t @ t.transpose(1, 2) / 2, -1) @ t


OPERATORS = {
    "relu": F.relu,
    "relu_in_place": lambda x: F.relu_(x * 1),
    "in_place_slice": in_place_slice,
    "view_changed_under": view_changed_under,
    "part_of_a_part": part_of_a_part,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.3]).double()),
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "relu6": lambda x: F.relu6(4 * x),
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "mish": F.mish,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "glu": lambda x: F.glu(x, 1),
    "exp": torch.exp,
    "square_root": lambda x: (x.abs() + 0.1).sqrt(),
    "power": lambda x: x**3,
    "square": lambda x: x.square(),
    "clamp": lambda x: x.clamp(-0.3, 0.5),
    "add": lambda x: x + torch.relu(x) + 1,
    "add_in_place": lambda x: (2 * x).add_(torch.relu(x)),
    "add_broadcast": lambda x: x.tanh() + x.relu().mean((2, 3), keepdim=True) - x.amax(1, True),
    "cat_constant": lambda x: torch.cat([x.new_ones(1, 1, 6, 6).expand(len(x), -1, -1, -1), x], 1),
    "subtract": lambda x: torch.sub(torch.tanh(x), x, alpha=2),
    "multiply": lambda x: x * torch.sigmoid(x),
    "multiply_broadcast": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "multiply_self": lambda x: x * x,
    "add_product": lambda x: torch.addcmul(
        x.new_full((4, 1, 1), 0.3), x.new_full((4, 1, 1), 0.7), x.relu(), value=0.5
    ),
    "add_product_of_features": lambda x: torch.addcmul(x, x.tanh(), x.mean(1, True), value=-2),
    "add_quotient": lambda x: torch.addcdiv(x, x.relu(), x.new_full((4, 1, 1), 3.0), value=2),
    "mix": lambda x: torch.lerp(x, x.relu(), 0.3) + x.lerp(x.tanh(), x.new_full((6,), 0.4)),
    "divide": lambda x: x / (1 + x.square()),
    "divide_constant": lambda x: 2 / (1 + x.exp()),
    "cat": lambda x: torch.cat([x, torch.relu(x)], 1),
    "stack": lambda x: torch.stack([x.relu(), x], 1).sum(1),
    "split": lambda x: torch.relu(x.split(2, 1)[0]) - x.split(2, 1)[1],
    "conv": conv,
    "conv_stride": lambda x: conv(x, stride=2, padding=1, dilation=2),
    "conv_groups": lambda x: F.conv2d(x, W[:4, :1], groups=4),
    "conv_transpose": lambda x: F.conv_transpose2d(x, W[:4], stride=2),
    "depthwise_1d": lambda x: F.conv1d(x.flatten(2), W[:, :, 0]),
    "linear": lambda x: F.linear(x.flatten(1), torch.randn(7, 144, dtype=torch.float64)),
    "matmul": lambda x: x @ x.transpose(2, 3),
    "matmul_constant": lambda x: x @ torch.arange(12.0).view(6, 2).double(),
    "addmm_of_features": lambda x: torch.addmm(
        x.flatten(1)[:, :3].tanh(), x.flatten(1), torch.linspace(-1, 1, 432).view(144, 3).double()
    ),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, torch.tanh(x)),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "max_pool_overlapping": lambda x: F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True),
    "max_pool_1d": lambda x: F.max_pool1d(x.flatten(2), 3),
    "max_pool_3d": lambda x: F.max_pool3d(x, 2),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool2d(x, 2),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "adaptive_avg_pool": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "lp_pool": lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2),
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: x.amin(1, keepdim=True),
    "max_dim": lambda x: x.max(1).values,
    "maximum": lambda x: torch.maximum(x, 0.5 - x),
    "minimum": lambda x: torch.minimum(x, x.flip(1)),
    "mean": lambda x: x.relu().mean((2, 3)),
    "sum": lambda x: x.tanh().sum(1),
    "var": lambda x: x.var((2, 3)),
    "std": lambda x: x.std((2, 3), keepdim=True),
    "norm": lambda x: x.norm(dim=1),
    "normalize": lambda x: F.normalize(x + 0.2),
    "cosine": lambda x: F.cosine_similarity(x, x.tanh() + 0.3, 1),
    "softmax": lambda x: F.softmax(3 * x, 1),
    "log_softmax": lambda x: F.log_softmax(3 * x, 1),
    "logsumexp": lambda x: torch.logsumexp(x, (1, 2)),
    "layer_norm": lambda x: F.layer_norm(x, [6, 6], torch.rand(6, 6).double() + 0.5),
    "rms_norm": lambda x: F.rms_norm(x, [6], torch.rand(6).double()),
    "group_norm": lambda x: F.group_norm(x, 2, torch.rand(4).double(), torch.rand(4).double()),
    "instance_norm": F.instance_norm,
    "batch_norm": lambda x: F.batch_norm(
        x, torch.rand(4).double(), torch.rand(4).double() + 0.5, torch.randn(4).double()
    ),
    "local_response_norm": lambda x: F.local_response_norm(x, 2),
    "pad_zero": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad_reflect": lambda x: F.pad(x, (1, 2, 1, 1), mode="reflect"),
    "pad_replicate": lambda x: F.pad(x, (1, 1, 2, 0), mode="replicate"),
    "pad_circular": lambda x: F.pad(x, (1, 1, 2, 0), mode="circular"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, size=(9, 7), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=(9, 7), mode="bicubic"),
    "area": lambda x: F.interpolate(x, size=(3, 2), mode="area"),
    "grid_sample": lambda x: F.grid_sample(
        x, torch.rand(1, 3, 3, 2).double().expand(len(x), -1, -1, -1), align_corners=False
    ),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "unfold": lambda x: F.unfold(x, 2),
    "index": lambda x: x[:, [2, 0], 1:, ::2],
    "gather": lambda x: x.gather(1, torch.zeros(len(x), 1, 6, 6, dtype=torch.int64)),
    "masked_fill": lambda x: x.masked_fill(torch.eye(6, dtype=torch.bool), 2.0),
    "where": lambda x: torch.where(torch.eye(6, dtype=torch.bool), x, x.relu()),
    "tril": lambda x: x.tril(),
    "roll": lambda x: x.roll(1, 2) * 2,
    "attention": lambda x: F.scaled_dot_product_attention(x, x.tanh(), x.relu()),
    "causal_attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "windowed_attention": windows,
    "squeeze_excite": lambda x: x
    * torch.sigmoid(F.linear(x.mean((2, 3)), torch.ones(4, 4).double() / 4))[:, :, None, None],
    "dropout": lambda x: F.dropout(x.relu(), 0.5, training=False),
}  # fmt: skip


class Net(nn.Module):
    """One operator between a shift and a readout whose weights all differ."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator
        self.register_buffer("scale", torch.tensor(0.9, dtype=torch.float64))

    def forward(self, x):
        generator = torch.Generator().manual_seed(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)  # the operators above draw their weights
            y = self.operator(x * self.scale + 0.05).reshape(len(x), -1)
        weights = torch.randn(3, y.shape[1], generator=generator, dtype=torch.float64)
        return y @ weights.T


def images(count=2):
    return torch.randn(count, 4, 6, 6, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("name", OPERATORS)
def test_deeplift_is_complete_on_every_operator(name):
    e = ek.explain(Net(OPERATORS[name]).eval(), images(), 1, "deeplift", baseline=-0.2)
    assert not e.coverage["fallbacks"]
    assert e.diagnostics["completeness_gap"].max() < 1e-9


@pytest.mark.parametrize("name", OPERATORS)
def test_a_batch_has_the_maps_of_its_images(name):
    x = images(3)
    for method in ("deeplift", "guided_backprop", "lrp"):
        together = ek.explain(Net(OPERATORS[name]).eval(), x, 1, method).attribution
        alone = ek.explain(Net(OPERATORS[name]).eval(), x[1:2], 1, method).attribution
        torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_full_gradient_is_complete_on_every_operator(name):
    e = ek.explain(Net(OPERATORS[name]).eval(), images(), 1, "full_gradient")
    assert e.diagnostics["completeness_gap"].max() < 1e-9


@pytest.mark.parametrize("name", OPERATORS)
def test_without_rules_the_walk_is_the_gradient(name):
    net = Net(OPERATORS[name]).eval()
    x = images().requires_grad_()
    trace = record(net, x)
    found, _ = propagate(trace, torch.ones_like(trace.scores), Plain())
    (wanted,) = torch.autograd.grad(net(x).sum(), x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


class Plain:
    def __call__(self, operator, gradients):
        return operator.gradient(*gradients), "gradient"


def test_an_unknown_operator_is_named_or_falls_back_on_request():
    net = Net(lambda x: torch.cumprod(x, 1)).eval()
    for method in ("deeplift", "guided_backprop", "deconvnet", "lrp", "full_gradient"):
        with pytest.raises(MethodError, match="'cumprod'.*unsupported='gradient'"):
            ek.explain(net, images(), 1, method)
        with pytest.warns(match="no rule for cumprod"):
            e = ek.explain(net, images(), 1, method, unsupported="gradient")
        assert e.coverage["fallbacks"] == ["cumprod"]
        assert e.coverage["covered"] < e.coverage["total"]


def test_a_place_that_comes_from_the_image_has_no_rule():
    def warp(x):
        grid = torch.stack([x[:, 0], x[:, 1]], -1)
        return F.grid_sample(x, grid, align_corners=False)

    with pytest.raises(MethodError, match="'grid_sampler_2d'"):
        ek.explain(Net(warp).eval(), images(), 1, "deeplift")


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


def test_a_python_function_is_named():
    net = Net(lambda x: _Square.apply(x) * 2).eval()
    with pytest.raises(MethodError, match="'_Square'"):
        ek.explain(net, images(), 1, "deeplift")
    with pytest.warns(match="no rule for _Square"):
        found = ek.explain(net, images(), 1, "guided_backprop", unsupported="gradient")
    torch.testing.assert_close(
        found.attribution, ek.explain(net, images(), 1, "saliency").attribution
    )
