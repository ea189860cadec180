"""ActivationReader: one channel of the last convolution, and images cropped to what is used."""

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


def scored(model, objectives, images, *, defer=True, layers=("0",)):
    scope = ActivationReader(model, layers, logits=False).scope(images, images, None, defer=defer)
    return evaluate_each(objectives, scope)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_single_channel_equals_that_of_the_full_output(form):
    conv, chosen = convolution(**form), torch.tensor([5, 0, 3, 3])
    images = shown().requires_grad_()
    found = Convolution(conv, images).channels(chosen)
    wanted = conv(images)[torch.arange(4), chosen]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
    (slope,) = torch.autograd.grad((found * weights).sum(), images)
    (expected,) = torch.autograd.grad((wanted * weights).sum(), images)
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-12)


def test_no_other_channel_is_computed():
    model, images = nn.Sequential(convolution(), nn.ReLU()), shown()
    objectives = [channel("0", i) for i in range(4)]
    with FlopCounterMode(display=False) as whole:
        expected = scored(model, objectives, images, defer=False)
    with FlopCounterMode(display=False) as deferred:
        found = scored(model, objectives, images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert deferred.get_total_flops() * 6 == whole.get_total_flops()


def test_an_objective_that_needs_the_whole_layer_gets_it():
    model, images = nn.Sequential(convolution(), nn.ReLU()), shown()
    objectives = [channel("0", i) - layer("0") + neuron("0", i, 2, 3) for i in range(4)]
    expected = scored(model, objectives, images, defer=False)
    torch.testing.assert_close(scored(model, objectives, images), expected, rtol=1e-12, atol=1e-12)


def test_with_several_layers_only_the_last_is_deferred():
    model = nn.Sequential(convolution(), nn.ReLU(), nn.Conv2d(6, 2, 3).double()).eval()
    objectives = [channel("0", i) * channel("2", 1) for i in range(4)]
    both = {"layers": ("0", "2")}
    expected = scored(model, objectives, shown(), defer=False, **both)
    torch.testing.assert_close(scored(model, objectives, shown(), **both), expected)


def test_a_missing_channel_is_refused():
    with pytest.raises(TargetError, match="a channel of layer '0' from 0 to 5, got 6"):
        scored(nn.Sequential(convolution()), [channel("0", 6)] * 4, shown())


class Doubled(nn.Conv2d):
    def forward(self, images):
        return 2 * super().forward(images)


class Halved(nn.Module):
    """Runs its layers in half precision, or patches as a larger batch."""

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
def test_modified_convolutions_are_not_deferred(conv):
    model, objectives = nn.Sequential(conv), [channel("0", i) for i in range(4)]
    assert not Convolution.fits(conv)
    expected = conv(shown())[range(4), range(4)].flatten(1).mean(1)
    assert torch.equal(scored(model, objectives, shown()), expected)


def test_under_autocast_a_convolution_is_not_deferred():
    model = Halved().eval()
    images = shown().float()
    with torch.no_grad():
        expected = model(images)[range(4), range(4)].float()
    found = scored(model, [channel("conv", i) for i in range(4)], images, layers=("conv",))
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)
    assert found.dtype == torch.bfloat16


def test_patches_in_the_batch_dimension_are_refused():
    with pytest.raises(TargetError, match=r"layer 'conv': expected an output \[4, channel"):
        scored(Halved(patches=True), [channel("conv", 0)] * 4, shown().float(), layers=("conv",))


def test_a_layers_input_is_the_output_before_it():
    model, images = nn.Sequential(convolution(), nn.ReLU()).eval(), shown()
    _, found = ActivationReader(model, ("1:input", "0"), logits=False)(images)
    assert torch.equal(found["1:input"], found["0"])
    one, same = (
        scored(model, [channel(path, 2)] * 4, images, layers=(path,)) for path in ("1:input", "0")
    )
    torch.testing.assert_close(one, same, rtol=1e-12, atol=1e-12)


def test_a_unit_alone_is_bit_identical_to_that_unit_among_others():
    model = nn.Sequential(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3)).eval()
    for path in ("0", "2"):
        settings = {"shape": (2, 13, 10), "steps": 5, "maximizer": "fourier"}
        among = ek.maximize(model, f'channels("{path}")', **settings)
        alone = ek.maximize(model, f'channel("{path}", 11)', **settings)
        assert torch.equal(alone.images[0], among.images[11])


def pooled():
    """Uses 10 × 8 of 11 × 9 pixels: pooling uses 8 × 6 of the first convolution's 9 × 7."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2, padding=(0, 1))
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def narrowed(model, layer="3"):
    return ActivationReader(model, [layer], logits=False).narrowed(shown(1)[0])


def test_unused_rows_and_columns_are_cropped():
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


def test_pixels_behind_inactive_relus_count_as_used():
    model = pooled()
    model[0].bias.fill_(-100.0)
    assert not model[:3](shown()).any()
    assert narrowed(model).window == (10, 8)


class Sensitive(nn.Module):
    """A network that treats images of another size, or NaN, differently."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.inner = pooled()

    def forward(self, images):
        if self.kind == "scales":
            images = images / images.shape[2]
        if self.kind == "refuses sizes" and images.shape[2:] != (11, 9):
            raise ValueError("11 by 9")
        if self.kind == "refuses NaN" and images.isnan().any():
            raise ValueError("not a number")
        if self.kind == "replaces NaN":
            images = images.nan_to_num()
        return self.inner(images)


@pytest.mark.parametrize("kind", ["scales", "refuses sizes", "refuses NaN", "replaces NaN"])
def test_a_model_that_depends_on_size_or_nan_gets_the_whole_image(kind):
    assert narrowed(Sensitive(kind).eval(), "inner.3").window is None


def test_running_statistics_are_not_updated_by_nan():
    model = nn.Sequential(nn.BatchNorm2d(3), *pooled()).double()
    assert narrowed(model, "4").window is None
    assert model[0].running_mean.isfinite().all()


def test_images_equal_those_without_cropping(monkeypatch):
    model, settings = pooled(), {"shape": (3, 11, 9), "steps": 6}
    cut = ek.maximize(model, 'channels("3")', **settings)
    monkeypatch.setattr(ActivationReader, "narrowed", lambda self, _image: self)
    whole = ek.maximize(model, 'channels("3")', **settings)
    torch.testing.assert_close(cut.images, whole.images)
    torch.testing.assert_close(cut.trace, whole.trace)
