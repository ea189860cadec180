"""Volumes and clips ``[batch, channel, depth, height, width]``: maps that are known, and refusals."""

import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import explainkit as ek
from explainkit.catalog import discovery
from explainkit.catalog.factories import load_method
from explainkit.errors import InputError, MethodError, ModelError, TargetError
from explainkit.methods import IDGI, LRP, BlurIG, Lime, Saliency, SmoothGrad
from explainkit.methods.contract import explains_volumes

SHAPE = (6, 8, 7)


def volumes(channels=1, shape=SHAPE):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, *shape, generator=generator)


def linear():
    """Convolution, pooling and a linear layer without biases: the score is ``w · x``."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1, bias=False),
        nn.AvgPool3d((1, 2, 1)),
        nn.Conv3d(3, 4, (2, 3, 3), stride=(2, 1, 1), bias=False),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, 3, bias=False),
    ).eval()


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).eval()


class OneSlice(nn.Module):
    """Reads slice 4 and nothing else."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.features = nn.Sequential(nn.Conv3d(1, 4, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.features(x[:, :, 4:5]).mean((2, 3, 4)))


class Network(nn.Module):
    """A network of images, or with the same weights one of volumes of depth 1."""

    def __init__(self, *, deep):
        super().__init__()
        torch.manual_seed(3)
        self.conv1, self.norm = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.relu1, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(5, 4, 3, padding=1), nn.ReLU()
        self.head = nn.Linear(4, 3)
        if deep:
            weights = [conv.weight[:, :, None] for conv in (self.conv1, self.conv2)]
            biases = [conv.bias for conv in (self.conv1, self.conv2)]
            self.conv1 = nn.Conv3d(2, 5, (1, 3, 3), padding=(0, 1, 1))
            self.conv2 = nn.Conv3d(5, 4, (1, 3, 3), padding=(0, 1, 1))
            for conv, weight, bias in zip((self.conv1, self.conv2), weights, biases, strict=True):
                conv.weight, conv.bias = nn.Parameter(weight.detach()), bias
            self.norm, self.pool = nn.BatchNorm3d(5), nn.MaxPool3d((1, 2, 2))

    def forward(self, x):
        found = self.pool(self.relu1(self.norm(self.conv1(x))))
        return self.head(self.relu2(self.conv2(found)).flatten(2).mean(2))


def registered(*, volumes):
    """Names of the methods that explain volumes, or that do not, with what they require."""
    found = {}
    for name in ek.list_methods():
        name = name.removeprefix("explainkit/")
        kind = discovery.registry("methods").get(name)
        required = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
        params = {"layer": "features.1"} if required else {}
        if explains_volumes(load_method(name, **params)) == volumes:
            found[name] = params
    return found


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("input_x_gradient", {}),
        ("lrp", {"composite": "epsilon", "epsilon": 1e-12}),
        ("deeplift", {}),
        ("integrated_gradients", {}),
        ("integrated_gradients", {"steps": 3}),
        ("expected_gradients", {"samples": 3}),
        ("guided_ig", {"steps": 4}),
        ("full_gradient", {}),
        ("libragrad", {"base": "input_x_gradient"}),
        ("occlusion", {"window": 1}),
    ],
)
def test_a_linear_network_in_closed_form(method, params):
    model, x = linear().double(), volumes().double()
    units = torch.eye(x[0].numel(), dtype=x.dtype).view(-1, *x.shape[1:])
    w = model(units)[:, 2].detach().view(1, *x.shape[1:])
    found = ek.explain(model, x, 2, method, **params)
    assert found.attribution.shape == x.shape
    torch.testing.assert_close(found.attribution, w * x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted(registered(volumes=True).keys() - {"full_gradient"}))
def test_slices_that_the_network_does_not_read(name):
    """The map is zero there: exactly, but for the rounding of different batches in occlusion.

    Full-gradient stretches the maps of biases over the whole volume.
    """
    params = registered(volumes=True)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ek.explain(OneSlice().eval(), volumes(), 1, name, **params)
    if found.at is not None:
        assert found.attribution.shape == (2, 4, 1, 8, 7)
        return
    assert found.attribution.shape == (2, 1, *SHAPE)
    elsewhere = found.attribution[:, :, [0, 1, 2, 3, 5]]
    assert float(elsewhere.abs().max()) <= (1e-6 if name == "occlusion" else 0)
    assert bool(found.attribution[:, :, 4].any())


@pytest.mark.parametrize("name", registered(volumes=False))
def test_methods_that_explain_images_only_say_so(name):
    with pytest.raises(MethodError, match=r"got volumes \[2, 1, 6, 8, 7\], which it does not"):
        ek.explain(OneSlice().eval(), volumes(), 1, name)


def test_wrapped_methods_are_asked_too():
    for method in (SmoothGrad(Lime()), IDGI(BlurIG())):
        assert not explains_volumes(method)
    assert explains_volumes(SmoothGrad(LRP()))
    assert Saliency.volumes


@pytest.mark.parametrize(
    ("method", "params"),
    [
        *((name, {}) for name in (
            "saliency", "guided_backprop", "deconvnet", "lrp", "deep_taylor",
            "excitation_backprop", "attn_lrp", "deeplift", "full_gradient", "idgi",
            "ablation_cam", "aug_smooth", "eigencam", "eigengradcam", "elementwise_cam", "finercam",
            "gradcam", "gradcam_plus_plus", "guided_gradcam", "hirescam", "kpca_cam", "layercam",
            "recipro_cam", "score_cam", "shapleycam", "xgradcam", "integrated_gradients",
        )),
        ("smoothgrad", {"samples": 3}),
        ("vargrad", {"samples": 3, "noise": (0.1, 0.3)}),
        ("lrp", {"composite": "epsilon_gamma_box"}),
        ("occlusion", {"baseline": "noise", "window": (3, 4), "stride": (3, 2)}),
        ("occlusion", {"window": (3, 4), "channels": 1}),
        ("conductance", {"layer": "pool", "steps": 5}),
        ("conductance", {"layer": "pool", "steps": 5, "rule": "gausslegendre"}),
    ],
)  # fmt: skip
def test_a_volume_of_depth_1_has_the_map_of_the_image(method, params):
    x = torch.randn(2, 2, 9, 8, generator=torch.Generator().manual_seed(4))
    flat = ek.explain(Network(deep=False).eval(), x, 1, method, **params)
    deep = {
        name: (1, *value) if name in {"window", "stride"} else value
        for name, value in params.items()
    }
    found = ek.explain(Network(deep=True).eval(), x[:, :, None], 1, method, **deep)
    assert found.layer == flat.layer
    torch.testing.assert_close(found.attribution[:, :, 0], flat.attribution, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_gradcam_by_hand(upsample):
    model, x = network(), volumes()
    found = ek.explain(model, x, 2, "gradcam", upsample=upsample)
    assert found.layer == "5"
    features = model[:6](x).detach().requires_grad_()
    (grads,) = torch.autograd.grad(model[6:](features)[:, 2].sum(), features)
    cells = (grads.mean((2, 3, 4), keepdim=True) * features).sum(1, keepdim=True).detach()
    smooth = {"mode": "trilinear", "align_corners": False} if upsample == "bilinear" else {}
    torch.testing.assert_close(found.attribution, F.interpolate(cells, SHAPE, **smooth))
    assert found.diagnostics["patch_grid"] == [3, 4, 3]
    assert found.diagnostics["placement"] == "stretch"


def test_tokens_lie_where_the_caller_says():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.patch, self.mix = nn.Conv3d(1, 4, 2, stride=2), nn.Linear(4, 4)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.mix(self.patch(x).flatten(2).mT).relu().mean(1))

    model, x = Tokens().eval(), volumes(shape=(4, 6, 6))
    with pytest.raises(ModelError, match=r"pass patch_grid=\(depth, height, width\)"):
        ek.explain(model, x, 0, "gradcam", layer="mix")
    found = ek.explain(model, x, 0, "gradcam", layer="mix", patch_grid=(2, 3, 3))
    assert found.attribution.shape == x.shape
    with pytest.raises(ModelError, match="patch_grid: expected the depth, height and width"):
        ek.explain(model, x, 0, "gradcam", layer="mix", patch_grid=(2, 9))


@pytest.mark.parametrize(
    ("method", "params", "text"),
    [
        ("gradcam", {"upsample": "bicubic"}, "got 'bicubic'"),
        ("gradcam", {"placement": "receptive_field"}, "got 'receptive_field'"),
        ("occlusion", {"baseline": "blur"}, "got 'blur'"),
        ("occlusion", {"baseline": "inpaint"}, "got 'inpaint'"),
        ("occlusion", {"window": (2, 2)}, r"or \(depth, height, width\), got \(2, 2\)"),
        ("occlusion", {"window": 7}, "window: expected from 1 pixel to the image's 6, got 7"),
    ],
)
def test_what_exists_for_images_only(method, params, text):
    with pytest.raises(MethodError, match=text):
        ek.explain(network(), volumes(), 0, method, **params)


def test_bounds_of_pixels_are_those_of_the_channels():
    model, x = network(), volumes(shape=(1, 8, 8)).expand(-1, -1, 4, -1, -1)
    told = ek.explain(model, x, 0, "deep_taylor", low=-2.0, high=3.0).attribution
    model.explainkit_spec = ek.ModelSpec(mean=(0.4,), std=(0.2,))
    found = ek.explain(model, x, 0, "deep_taylor").attribution
    torch.testing.assert_close(found, told)


@pytest.mark.parametrize("name", ["smoothgrad", "gradcam", "occlusion", "lrp"])
def test_a_map_does_not_depend_on_the_batch(name):
    model, x = network(), volumes()
    whole = ek.explain(model, x, [1, 2], name, batch_size=1).attribution
    alone = ek.explain(model, x[1:], 2, name, batch_size=1).attribution
    assert torch.equal(whole[1:], alone)


def test_targets_baselines_layers_and_loaders():
    model, x = network(), volumes()
    assert len(ek.explain(model, x, targets="all", method=["saliency", "gradcam"])) == 6
    inner = ek.explain(model, x, 1, "input_x_gradient", at="3")
    assert inner.attribution.shape == (2, 6, 3, 4, 3)
    own = ek.explain(model, x, 1, "integrated_gradients", baseline=x.flip(0), steps=4)
    alone = ek.explain(model, x[:1], 1, "integrated_gradients", baseline=x[1], steps=4)
    torch.testing.assert_close(own.attribution[:1], alone.attribution)
    (batch,) = ek.explain(model, iter([x]), 1)
    torch.testing.assert_close(batch.attribution, ek.explain(model, x, 1).attribution)
    channel = ek.explain(model, x, 'channel("3", 2)', "saliency").attribution
    mean = ek.explain(model[:4].eval(), x, lambda out: out[:, 2].flatten(1).mean(1), "saliency")
    torch.testing.assert_close(channel, mean.attribution)
    with pytest.raises(TargetError, match="of a volume: use channel"):
        ek.explain(model, x, 'neuron("3", 2)')


def test_volumes_with_other_inputs():
    class Aged(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.age = network(), nn.Linear(1, 3)

        def forward(self, scan, age):
            return self.features(scan) + self.age(age)

    model, x = Aged().eval(), volumes()
    (found,) = ek.explain(model, (x, torch.tensor([[30.0], [60.0]])), 1, "saliency")
    assert found.input == "scan"
    torch.testing.assert_close(
        found.attribution, ek.explain(model.features, x, 1, "saliency").attribution
    )


@pytest.mark.parametrize("target", ["mask(1, [0, 0, 0.5, 1, 1, 1])", "mask(1)"])
def test_a_segmenter_of_volumes(target):
    """A convolution of one voxel: nothing outside the region is in the score."""
    torch.manual_seed(6)
    model, x = nn.Conv3d(1, 2, 1, bias=False).eval(), volumes()
    scores = model(x)
    inside = scores.argmax(1)[:, None] == 1
    if target != "mask(1)":
        inside = torch.zeros_like(x, dtype=torch.bool)
        inside[:, :, 3:] = True
    cells = inside[0].sum() if target != "mask(1)" else x[0].numel()
    found = ek.explain(model, x, target, "input_x_gradient").attribution
    weight = model.weight[1] - (model.weight[0] if target == "mask(1)" else 0)  # the margin
    torch.testing.assert_close(found, x * weight.detach() * inside / cells)


def test_inputs_that_are_refused():
    model, x = network(), volumes()
    with pytest.raises(InputError, match=r"\[batch, depth, channel, .*inputs.transpose\(1, 2\)"):
        ek.explain(model, x.transpose(1, 2), 0)
    with pytest.raises(InputError, match=r"\[batch, depth, .*, channel\]: inputs.movedim\(-1, 1\)"):
        ek.explain(model, x.movedim(1, -1), 0)
    broken = x.clone()
    broken[1, 0, 2, 3, 4] = torch.nan
    with pytest.raises(InputError, match="image 1, channel 0, slice 2, row 3, column 4"):
        ek.explain(model, broken, 0)
    with pytest.raises(InputError, match=r"or volumes \[batch, channel, depth, height, width\]"):
        ek.explain(model, x[None], 0)
    with pytest.raises(ModelError):
        ek.explain(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval(), x, 0)


def test_judging_is_for_images():
    model, x = network(), volumes()
    found = ek.explain(model, x, 0)
    with pytest.raises(MethodError, match="a scorecard hides cells of images only"):
        found.scorecard()
    with pytest.raises(InputError, match="not judged by hiding parts"):
        ek.scorecard(model, x, found.attribution, 0)


def test_captum_agrees():
    attr = pytest.importorskip("captum.attr", reason="Captum is not installed")
    model, x, window = network(), volumes(), (2, 3, 3)
    cases = [
        (attr.Saliency(model), {"abs": False}, "saliency", {}),
        (attr.IntegratedGradients(model), {"n_steps": 9}, "integrated_gradients", {"steps": 9}),
        (attr.GuidedBackprop(model), {}, "guided_backprop", {}),
        (attr.LayerGradCam(model, model[5]), {}, "gradcam", {"layer": "5", "upsample": "nearest"}),
        (
            attr.Occlusion(model),
            {"sliding_window_shapes": (1, *window), "strides": (1, *window)},
            "occlusion",
            {"window": window, "stride": window},
        ),
    ]
    for theirs, options, name, params in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs.attribute(x.clone(), target=2, **options).detach()
        found = ek.explain(model, x, 2, name, **params).attribution
        if expected.shape[2:] != found.shape[2:]:
            expected = F.interpolate(expected, SHAPE)
        torch.testing.assert_close(found, expected.to(found), rtol=1e-4, atol=1e-6, msg=name)


def test_saved_and_loaded(tmp_path):
    found = ek.explain(network(), volumes(), [0, 2], "gradcam")
    again = ek.Explanation.load(found.save(tmp_path))
    assert torch.equal(again.attribution, found.attribution)
    assert torch.equal(again.inputs, found.inputs)
    assert repr(again) == repr(found)
    assert "map 2×1×6×8×7" in repr(found)
    assert found.heatmap().shape == (2, *SHAPE)
    assert found[1].attribution.shape == (1, 1, *SHAPE)
