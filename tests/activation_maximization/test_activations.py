"""ActivationReader a layer: of a convolution that is the last to run, the channel that is asked for."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import explainkit as ek
from explainkit.activation_maximization.activations import ActivationReader, Convolution
from explainkit.errors import TargetError
from explainkit.expressions import channel, evaluate_each, layer, neuron

FORMS = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": (2, 0)},
    {"dilation": 2, "bias": False},
    {"groups": 3},
    {"groups": 3, "padding": "same"},
]


def convolution(**form):
    torch.manual_seed(0)
    return nn.Conv2d(3, 6, (3, 5), **form).double().requires_grad_(False)


def shown(count=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 11, 9, generator=generator, dtype=torch.float64)


def scored(model, objectives, images, *, sparing=True, layers=("0",)):
    scope = ActivationReader(model, layers, logits=False).scope(
        images, images, (), None, sparing=sparing
    )
    return evaluate_each(objectives, scope)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_channel_alone_is_that_of_the_whole_output(form):
    conv, chosen = convolution(**form), torch.tensor([5, 0, 3, 3])
    images = shown().requires_grad_()
    found = Convolution(conv, images).channels(chosen)
    wanted = conv(images)[torch.arange(4), chosen]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
    (slope,) = torch.autograd.grad((found * weights).sum(), images)
    (expected,) = torch.autograd.grad((wanted * weights).sum(), images)
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-12)


def test_nothing_else_is_computed():
    model, images = nn.Sequential(convolution(), nn.ReLU()), shown()
    objectives = [channel("0", i) for i in range(4)]
    with FlopCounterMode(display=False) as whole:
        expected = scored(model, objectives, images, sparing=False)
    with FlopCounterMode(display=False) as spared:
        found = scored(model, objectives, images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert spared.get_total_flops() * 6 == whole.get_total_flops()


def test_an_objective_that_needs_the_whole_layer_gets_it():
    model, images = nn.Sequential(convolution(), nn.ReLU()), shown()
    objectives = [channel("0", i) - layer("0") + neuron("0", i, 2, 3) for i in range(4)]
    expected = scored(model, objectives, images, sparing=False)
    torch.testing.assert_close(scored(model, objectives, images), expected, rtol=1e-12, atol=1e-12)


def test_several_layers_only_the_last_to_run_waits():
    model = nn.Sequential(convolution(), nn.ReLU(), nn.Conv2d(6, 2, 3).double()).eval()
    objectives = [channel("0", i) * channel("2", 1) for i in range(4)]
    both = {"layers": ("0", "2")}
    expected = scored(model, objectives, shown(), sparing=False, **both)
    torch.testing.assert_close(scored(model, objectives, shown(), **both), expected)


def test_a_channel_that_is_not_there_is_refused():
    with pytest.raises(TargetError, match="a channel of layer '0' from 0 to 5, got 6"):
        scored(nn.Sequential(convolution()), [channel("0", 6)] * 4, shown())


class Doubled(nn.Conv2d):
    def forward(self, images):
        return 2 * super().forward(images)


class Halved(nn.Module):
    """Runs its layers in half precision, and patches as a batch of their own."""

    def __init__(self, *, patches=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.patches = patches

    def forward(self, images):
        if self.patches:
            return self.conv(images.unfold(3, 3, 3).movedim(3, 1).flatten(0, 1))
        with torch.autocast("cpu", torch.bfloat16):
            return self.conv(images).flatten(2).mean(2)


def hooked(conv):
    conv.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return conv


def patched(conv):
    plain = conv.forward
    conv.forward = lambda images: 2 * plain(images)
    return conv


@pytest.mark.parametrize(
    "conv",
    [
        hooked(convolution()),
        patched(convolution()),
        Doubled(3, 6, 3).double(),
        nn.utils.parametrizations.weight_norm(convolution()),
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect").double(),
    ],
    ids=["hooked", "patched", "subclass", "parametrized", "reflecting"],
)
def test_what_is_more_than_a_convolution_runs_as_it_is(conv):
    model, objectives = nn.Sequential(conv), [channel("0", i) for i in range(4)]
    assert not Convolution.fits(conv)
    expected = conv(shown())[range(4), range(4)].flatten(1).mean(1)
    assert torch.equal(scored(model, objectives, shown()), expected)


def test_under_autocast_a_layer_runs_within_the_model():
    model = Halved().eval()
    images = shown().float()
    with torch.no_grad():
        expected = model(images)[range(4), range(4)].float()
    found = scored(model, [channel("conv", i) for i in range(4)], images, layers=("conv",))
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)
    assert found.dtype == torch.bfloat16


def test_patches_that_stand_in_the_batch_are_refused_as_ever():
    with pytest.raises(TargetError, match=r"layer 'conv': expected an output \[4, channel"):
        scored(Halved(patches=True), [channel("conv", 0)] * 4, shown().float(), layers=("conv",))


def test_a_unit_alone_has_the_bytes_that_it_has_among_others():
    model = nn.Sequential(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3)).eval()
    for path in ("0", "2"):
        how = {"shape": (2, 13, 10), "steps": 5, "maximizer": "fourier"}
        among = ek.maximize(model, f'channels("{path}")', **how)
        alone = ek.maximize(model, f'channel("{path}", 11)', **how)
        assert torch.equal(alone.images[0], among.images[11])


def pooled():
    """Of 11 × 9 it sees 10 × 8: the pooling takes 8 × 6 of the 9 × 7 that the first convolution gives."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2, padding=(0, 1))
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def narrowed(model, layer="3"):
    return ActivationReader(model, [layer], logits=False).narrowed(shown(1)[0])


def test_rows_and_columns_that_no_output_sees_are_left_out():
    model, images = pooled(), shown().requires_grad_()
    cut = narrowed(model)
    assert cut.window == (10, 8)
    torch.testing.assert_close(cut(images)[1]["3"], model(images), rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(model(images).square().sum(), images)
    assert not slope[..., 10:, :].any()
    assert not slope[..., 8:].any()
    assert slope[..., 9, :].any()
    assert slope[..., 7].any()
    assert narrowed(model, "0").window is None


def test_what_rectifiers_hide_of_one_image_is_seen_all_the_same():
    model = pooled()
    model[0].bias.fill_(-100.0)
    assert not model[:3](shown()).any()
    assert narrowed(model).window == (10, 8)


class Watching(nn.Module):
    """A network that does something else with an image of another size, or with no number."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.inner = pooled()

    def forward(self, images):
        if self.kind == "scales":
            images = images / images.shape[2]
        if self.kind == "refuses sizes" and images.shape[2:] != (11, 9):
            raise ValueError("11 by 9")
        if self.kind == "refuses no number" and images.isnan().any():
            raise ValueError("not a number")
        if self.kind == "swallows no number":
            images = images.nan_to_num()
        return self.inner(images)


@pytest.mark.parametrize(
    "kind", ["scales", "refuses sizes", "refuses no number", "swallows no number"]
)
def test_a_model_that_would_notice_is_shown_all(kind):
    assert narrowed(Watching(kind).eval(), "inner.3").window is None


def test_running_statistics_never_see_what_is_no_number():
    model = nn.Sequential(nn.BatchNorm2d(3), *pooled()).double()
    assert narrowed(model, "4").window is None
    assert model[0].running_mean.isfinite().all()


def test_images_are_those_of_the_whole_model(monkeypatch):
    model, how = pooled(), {"shape": (3, 11, 9), "steps": 6}
    cut = ek.maximize(model, 'channels("3")', **how)
    monkeypatch.setattr(ActivationReader, "narrowed", lambda self, _image: self)
    whole = ek.maximize(model, 'channels("3")', **how)
    torch.testing.assert_close(cut.images, whole.images)
    torch.testing.assert_close(cut.trace, whole.trace)


def single():
    """The pooled network in single precision."""
    return pooled().float()


def laid_out(model, layer="3"):
    dtype = next(model.parameters()).dtype
    return ActivationReader(model, [layer], logits=False).in_channels_last(shown().to(dtype))


def test_a_convolution_is_shown_the_channels_of_a_pixel_side_by_side():
    model, seen = single(), []
    model[3].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].stride()))
    reading = laid_out(model)
    seen.clear()
    images = shown().float()
    found = reading(images)[1]["3"]
    assert seen == [(6 * 4 * 3, 1, 6 * 3, 6)]
    torch.testing.assert_close(found, model(images))


def test_other_precisions_lie_as_ever():
    assert laid_out(single()).layout == torch.channels_last
    assert laid_out(pooled()).layout == torch.preserve_format


class InMemory(nn.Module):
    """Takes maps, or their gradient, for vectors as they lie in memory: with a word, or silently."""

    def __init__(self, way, kind):
        super().__init__()
        self.way, self.kind = way, kind

    def forward(self, maps):
        return _taken(maps, self.kind) if self.way == "there" else _Back.apply(maps, self.kind)


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps, kind):
        ctx.kind = kind
        return maps.clone()

    @staticmethod
    def backward(ctx, slope):
        return _taken(slope, ctx.kind).view(slope.shape), None


def _taken(maps, kind):
    size = len(maps), maps[0].numel()
    return maps.view(size) if kind == "refusing" else maps.as_strided(size, (size[1], 1))


@pytest.mark.parametrize("kind", ["refusing", "silent"])
@pytest.mark.parametrize("way", ["there", "back"])
def test_a_model_that_takes_maps_as_they_lie_is_shown_them_as_ever(way, kind):
    model = nn.Sequential(*single(), InMemory(way, kind)).eval()
    assert laid_out(model, "4").layout == torch.preserve_format
    found = ek.maximize(model, neuron("4", 3), shape=(3, 11, 9), steps=3)
    assert found.images.isfinite().all()


def test_a_trial_is_no_batch_for_running_statistics():
    model = nn.Sequential(nn.BatchNorm2d(3), *single()).train()
    assert laid_out(model, "4").layout == torch.preserve_format
    assert not model[0].num_batches_tracked


def test_images_are_those_of_the_other_layout(monkeypatch):
    model, how = single(), {"shape": (3, 11, 9), "steps": 6}
    fast = ek.maximize(model, 'channels("3")', **how)
    monkeypatch.setattr(ActivationReader, "in_channels_last", lambda self, _images: self)
    plain = ek.maximize(model, 'channels("3")', **how)
    torch.testing.assert_close(fast.images, plain.images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast.trace, plain.trace, rtol=1e-4, atol=1e-4)
