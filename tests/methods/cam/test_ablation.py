"""Ablation-CAM: against its formula by full runs, and where nothing has to run."""

import pytest
import torch
from cam_toys import Registers, Swin, pooled, unbiased
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.layers import capture
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1])


def images(count=3):
    return torch.randn(count, 3, 12, 10, generator=torch.Generator().manual_seed(5))


def run(model, x, target, layer, change):
    """The scores with a layer's output changed, by a full run of the model."""
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: change(out))
    with torch.no_grad():
        out = model(x)
    handle.remove()
    out = out[0] if isinstance(out, tuple) else out
    return out.gather(1, target[:, None])[:, 0]


def by_formula(model, x, target, layer, to_nchw=lambda out: out, relative=False):
    """The paper's map, small; ``to_nchw`` gives a view [batch, channel, height, width]."""
    with torch.no_grad(), capture(model, [layer]) as found:
        model(x)
    maps = to_nchw(found[layer][0])
    clean = run(model, x, target, layer, lambda out: out)
    weights = []
    for k in range(maps.shape[1]):

        def without(out, k=k):
            out = out.clone()
            to_nchw(out)[:, k] = 0
            return out

        weights.append(clean - run(model, x, target, layer, without))
    weights = torch.stack(weights, 1) / (clean[:, None] if relative else 1)
    return (weights[:, :, None, None] * maps).sum(1, keepdim=True)


def close(found, small):
    expected = nn.functional.interpolate(small, found.attribution.shape[2:], mode="nearest")
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.attribution, expected, atol=1e-5 * scale, rtol=1e-5)


def ablated(model, x, target, **options):
    return ek.explain(
        model, x, target, "ablation_cam", upsample="nearest", placement="stretch", **options
    )


@pytest.mark.parametrize("layer", ["0", "1", "2"])
def test_definition(layer):
    model, x = unbiased(), images()
    found = ablated(model, x, TARGET, layer=layer)
    close(found, by_formula(model, x, TARGET, layer))
    assert (found.diagnostics["runs"] > 0).all()


class Branching(nn.Module):
    """Two paths from one layer, concatenated, beside one that the layer doesn't reach."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one = nn.Conv2d(6, 4, 3, padding=1)
        self.two = nn.Conv2d(6, 3, 1)
        self.beside = nn.Conv2d(3, 2, 3, padding=1)
        self.head = nn.Linear(9, 5)
        self.eval()

    def forward(self, x):
        y = torch.relu(self.stem(x))
        z = torch.cat([self.one(y).relu_(), self.two(y).tanh(), self.beside(x).relu()], 1)
        return self.head(z.amax((2, 3)))


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (toy_models()["residual"][0], "stem"),
        (toy_models()["residual"][0], "branch"),
        (toy_models()["reused"][0], "first"),
        (Branching(), "stem"),
        (Branching(), "one"),
    ],
)
def test_definition_on_residual_and_branching_networks(model, layer):
    x = images()
    close(ablated(model, x, TARGET, layer=layer), by_formula(model, x, TARGET, layer))


def test_class_tokens_stay():
    model, x = Registers(2, 1), images()
    found = ablated(model, x, TARGET, layer="first")

    def to_nchw(out):
        return out[:, 2:32].transpose(1, 2).view(len(out), 8, 6, 5)

    close(found, by_formula(model, x, TARGET, "first", to_nchw))


def test_channels_last():
    model, x = Swin(), images()
    found = ablated(model, x, TARGET, layer="stage")
    close(found, by_formula(model, x, TARGET, "stage", lambda out: out.permute(0, 3, 1, 2)))


def test_relative_is_the_papers():
    model, x = unbiased(), images()
    with torch.no_grad():
        model[6].bias = nn.Parameter(torch.full((4,), 5.0))
    found = ablated(model, x, TARGET, layer="1", relative=True)
    close(found, by_formula(model, x, TARGET, "1", relative=True))
    assert "warnings" not in found.diagnostics


def test_relative_says_when_the_sign_turns():
    model, x = pooled(), images()
    with torch.no_grad():
        model[4].bias.fill_(-9)
    with pytest.warns(ek.errors.ExplainkitWarning, match="the score is negative"):
        found = ablated(model, x, TARGET, relative=True)
    score = model(x).gather(1, TARGET[:, None]).detach()[..., None, None]
    plain = ablated(model, x, TARGET).attribution
    torch.testing.assert_close(found.attribution, plain / score)


def test_relative_refuses_a_score_of_zero():
    model, x = pooled(bias=False), images()
    with torch.no_grad():
        model[4].weight[2] = 0
    with pytest.raises(MethodError, match="a score of 0"):
        ablated(model, x, 2, relative=True)


def test_pooled_linear_head_in_closed_form():
    model, x = pooled(), images()
    found = ablated(model, x, TARGET)
    maps = model[:2](x).detach()
    weights = model[4].weight[TARGET].detach() * maps.mean((2, 3))
    close(found, (weights[:, :, None, None] * maps).sum(1, keepdim=True))
    assert found.diagnostics["runs"].tolist() == [0, 0, 0]
    assert found.diagnostics["channels"] == 6
    close(found, by_formula(model, x, TARGET, "1"))


class Spelled(nn.Module):
    """A mean and a linear layer after ReLU features, each written differently."""

    def __init__(self, head):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 6, 3)
        self.linear = nn.Linear(6, 4)
        self.head = head
        self.eval()

    def forward(self, x):
        return self.head(self.features(x), self.linear)


AFFINE = {
    "mean": lambda a, linear: linear(a.mean((2, 3))),
    "sums": lambda a, linear: linear(a.sum(3).sum(2) / 80 - 1),
    "flat mean": lambda a, linear: linear(a.flatten(2).mean(-1)),
    "functional": lambda a, linear: nn.functional.linear(
        nn.functional.adaptive_avg_pool2d(a, 1)[:, :, 0, 0], linear.weight, linear.bias
    ),
    "normalized": lambda a, linear: linear(
        nn.functional.batch_norm(a.mean((2, 3)), torch.arange(6) / 9, torch.arange(1.0, 7))
    ),
    "matrix product": lambda a, linear: a.mean((2, 3)) @ linear.weight.T + linear.bias,
    "convolution": lambda a, linear: nn.functional.conv2d(a, linear.weight[..., None, None]).mean(
        (2, 3)
    ),
}
NOT_AFFINE = {
    "rectified": lambda a, linear: linear(a.relu().mean((2, 3))),
    "maximum": lambda a, linear: linear(a.amax((2, 3))),
    "squared": lambda a, linear: linear((a * a).mean((2, 3))),
    "softmax": lambda a, linear: linear(a.mean((2, 3))).log_softmax(1),
    "gate": lambda a, linear: linear((a * a.mean((1, 2, 3), True).detach()).mean((2, 3))),
    "masked": lambda a, linear: linear(torch.where(a > 0.1, a, 0).mean((2, 3))),
    "rounded": lambda a, linear: linear((a + ((a * 4).round() / 4 - a).detach()).mean((2, 3))),
    "own weights": lambda a, _linear: torch.bmm(
        a.mean((2, 3))[:, None], a.amax((2, 3))[:, None].mT * torch.ones(4)
    )[:, 0],
    "no gradient": lambda a, linear: linear(a.detach().mean((2, 3))).sin(),
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_heads_run_nothing(name):
    model, x = Spelled(AFFINE[name]), images()
    found = ablated(model, x, TARGET, layer="features")
    close(found, by_formula(model, x, TARGET, "features"))
    assert found.diagnostics["runs"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", NOT_AFFINE)
def test_other_heads_run(name):
    model, x = Spelled(NOT_AFFINE[name]), images()
    found = ablated(model, x, TARGET, layer="features")
    close(found, by_formula(model, x, TARGET, "features"))
    assert found.diagnostics["runs"].tolist() == [6, 6, 6]


def test_a_function_of_the_output_counts_as_part_of_the_head():
    model, x = pooled(), images()
    one = ablated(model, x, lambda out: out[:, 1] - out[:, 0])
    two = ablated(model, x, None, targets=[1, 0])
    torch.testing.assert_close(one.attribution, two[0].attribution - two[1].attribution)
    assert one.diagnostics["runs"].tolist() == [0, 0, 0]
    bent = ablated(model, x, lambda out: out[:, 1].exp())
    assert bent.diagnostics["runs"].min() > 0
    close(bent, by_formula(nn.Sequential(model, Exp()), x, torch.full((3,), 1), "0.1"))


class Exp(nn.Module):
    def forward(self, x):
        return x.exp()


def test_dead_channels_do_not_run():
    model, x = unbiased(), images()
    with torch.no_grad():
        model[0].weight[[1, 4]] = 0
        model[0].bias[[1, 4]] = -1
    found = ablated(model, x, TARGET, layer="1")
    assert found.diagnostics["runs"].tolist() == [4, 4, 4]
    assert found.diagnostics["channels"] == 6
    close(found, by_formula(model, x, TARGET, "1"))


def test_only_the_tail_runs():
    seen = []
    model = unbiased()
    model[0].register_forward_hook(lambda *_: seen.append("before"))
    ablated(model, images(), TARGET, layer="2", batch_size=2)
    assert len(seen) < 15  # of 15 channels in chunks of two, each image apart


def test_several_layers_give_the_mean():
    model, x = unbiased(), images()
    both = ek.explain(model, x, TARGET, "ablation_cam", layer=("1", "3"))
    each = [ek.explain(model, x, TARGET, "ablation_cam", layer=one) for one in ("1", "3")]
    torch.testing.assert_close(both.attribution, (each[0].attribution + each[1].attribution) / 2)
    assert both.diagnostics["channels"] == 11


def test_scores_that_read_other_layers():
    model, x = unbiased(), images()
    found = ek.explain(
        model,
        x,
        'neuron("2", 1, 2, 2)',
        "ablation_cam",
        layer="1",
        upsample="nearest",
        placement="stretch",
    )
    inner = nn.Sequential(*model[:3], nn.Flatten(), Unit(1 * 48 + 2 * 6 + 2))
    assert inner[:3](x).shape == (3, 5, 8, 6)
    expected = by_formula(inner, x, torch.zeros_like(TARGET), "1")
    read = torch.zeros_like(expected)
    read[..., 2:5, 2:5] = 1  # the unit reads 3 × 3 positions
    close(found, expected * read)


class Unit(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, x):
        return x[:, self.index : self.index + 1]


@pytest.mark.filterwarnings("ignore::explainkit.errors.ExplainkitWarning")
def test_neighbors_with_fewer_channels_change_no_bit():
    model, x = unbiased(), images()
    x[0] = 0  # what a negative bias silences
    together = ablated(model, x, 1, layer="1", batch_size=2)
    assert len(set(together.diagnostics["runs"].tolist())) > 1
    for i in range(3):
        alone = ablated(model, x[i : i + 1], 1, layer="1", batch_size=2)
        assert torch.equal(alone.attribution, together[i].attribution)


def test_check_method():
    names = ("plain", "in_place", "residual", "tuple", "vit")
    check_method("ablation_cam", {n: toy_models()[n] for n in names})


def test_what_comes_before_the_layer_runs_for_the_scores_only():
    model, x = toy_models()["residual"]
    model.eval()
    ek.explain(model, x, 0, "ablation_cam", layer="stem")
    ran = []
    model.stem.register_forward_hook(lambda _m, _i, out: ran.append(len(out)))
    for _ in range(2):
        ran.clear()
        ek.explain(model, x, 0, "ablation_cam", layer="stem")
    # the last two compare the part after the layer, as it is known, with the model
    assert ran == [len(x), 1, 1]
