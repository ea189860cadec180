"""``at=``: a layer's output in place of the image, with Captum's layer methods as the oracle."""

import captum.attr as captum
import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError, ModelError, ModelLookupError, UnknownNameError
from explainkit.methods import DeepLift, IntegratedGradients, SmoothGrad
from explainkit.testing import toy_models


class Volume(nn.Module):
    """Layers whose outputs have four axes, one axis and none, besides the batch axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 6, 3)
        self.fold = nn.Unflatten(1, (2, 3))
        self.deep = nn.Conv3d(2, 4, (2, 3, 3))
        self.flat = nn.Flatten()
        self.hidden = nn.Linear(4 * 2 * 4 * 3, 5)
        self.head = nn.Linear(5, 3)
        self.squeeze = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
        self.spread = nn.Linear(1, 3)

    def forward(self, x):
        x = torch.tanh(self.deep(self.fold(self.stem(x))))
        x = self.head(torch.tanh(self.hidden(self.flat(x))))
        return x + self.spread(self.squeeze(x)[:, None])


def images(count=3, seed=1):
    return torch.rand(count, 1, 8, 7, generator=torch.Generator().manual_seed(seed))


LAYERS = {"stem": (6, 6, 5), "fold": (2, 3, 6, 5), "deep": (4, 2, 4, 3), "hidden": (5,)}


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", [*LAYERS, "squeeze"])
def test_integrated_gradients_equal_captums(layer):
    model, x, base = Volume().eval(), images(), images(3, 2)
    oracle = captum.LayerIntegratedGradients(model, model.get_submodule(layer))
    for given, theirs in (
        (0.0, torch.zeros_like(x)),
        (base[0], base[:1].expand_as(x)),
        (base, base),
    ):
        wanted = oracle.attribute(x, theirs, target=1, n_steps=20)
        found = ek.explain(model, x, 1, IntegratedGradients(given, steps=20), at=layer)
        close(found.attribution, wanted)
        assert found.at == layer


@pytest.mark.parametrize("layer", ["0", "1", "2", "3", "4"])
def test_deeplift_equals_captums(layer):
    torch.manual_seed(0)
    # no max pooling, for which Captum has another rule
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(6 * 4 * 3, 3),
    ).eval()  # fmt: skip
    x = images()
    base = torch.rand_like(x)
    module = model.get_submodule(layer)
    for given, theirs in ((0.0, torch.zeros_like(x)), (base, base)):
        wanted = captum.LayerDeepLift(model, module).attribute(x, theirs, target=1)
        close(ek.explain(model, x, 1, DeepLift(given), at=module).attribution, wanted)


def test_expected_gradients_equal_captums_on_average():
    model, x = Volume().eval(), images(1)
    bag = images(4, 3)
    found = ek.explain(model, x, 1, "expected_gradients", at="deep", baselines=bag, samples=4000)
    oracle = captum.LayerIntegratedGradients(model, model.deep)
    wanted = torch.stack(
        [oracle.attribute(x, one[None], target=1, n_steps=50) for one in bag]
    ).mean(0)
    error = found.diagnostics["standard_error"]
    assert error.shape == wanted.shape
    assert float(((found.attribution - wanted).abs() / error.clamp(min=1e-6)).mean()) < 2


@pytest.mark.parametrize(("layer", "shape"), LAYERS.items())
def test_baselines_of_the_layers_own_shape(layer, shape):
    model, x, base = Volume().eval(), images(), images(3, 2)
    outputs = {}
    hook = model.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: outputs.setdefault("base", output.detach())
    )
    model(base)
    hook.remove()
    values = outputs["base"]
    assert values.shape == (3, *shape)
    for method in (IntegratedGradients, DeepLift):
        wanted = ek.explain(model, x, 1, method(base), at=layer).attribution
        close(ek.explain(model, x, 1, method(values), at=layer).attribution, wanted)
        one = ek.explain(model, x, 1, method(base[1]), at=layer).attribution
        close(ek.explain(model, x, 1, method(values[1]), at=layer).attribution, one)
        close(ek.explain(model, x, 1, method(values[1:2]), at=layer).attribution, one)


def test_a_baseline_of_another_shape_is_an_error():
    model, x = Volume().eval(), images()
    with pytest.raises(MethodError, match=r"an image \[1, 8, 7\] or an output of layer 'deep'"):
        ek.explain(model, x, 1, "integrated_gradients", at="deep", baseline=torch.zeros(3, 2))
    with pytest.raises(MethodError, match="one for all images or one per image, 3"):
        ek.explain(model, x, 1, "deeplift", at="hidden", baseline=torch.zeros(2, 1, 8, 7))


@pytest.mark.parametrize("name", ["integrated_gradients", "smoothgrad", "lrp", "occlusion", "rise"])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_map_is_the_same_alone_and_in_a_batch(name, batch_size):
    model, x = toy_models()["plain"]
    baseline = torch.rand_like(x)
    params = {"baseline": baseline} if name == "integrated_gradients" else {}
    whole = ek.explain(model, x, 1, name, at="1", batch_size=batch_size, **params)
    for i in range(len(x)):
        params = {"baseline": baseline[i]} if params else {}
        alone = ek.explain(model, x[i : i + 1], 1, name, at="1", **params)
        torch.testing.assert_close(
            whole.attribution[i : i + 1], alone.attribution, rtol=1e-4, atol=1e-6
        )


def test_images_run_in_batches_if_the_rest_depends_on_the_layer_alone():
    model, x = toy_models()["plain"]
    calls = []
    hook = model[4].register_forward_pre_hook(lambda _module, inputs: calls.append(len(inputs[0])))
    ek.explain(model, x, 1, "saliency", at="3", batch_size=4)
    hook.remove()
    assert calls.count(4) == 1


def test_images_run_one_by_one_if_the_rest_depends_on_more():
    model, x = toy_models()["residual"]  # the sum also depends on the stem
    base = torch.rand_like(x)
    for method in (IntegratedGradients(base), SmoothGrad(IntegratedGradients(base), samples=3)):
        whole = ek.explain(model, x, 1, method, at="branch").attribution
        own = IntegratedGradients(base[2])
        alone = own if isinstance(method, IntegratedGradients) else SmoothGrad(own, samples=3)
        one = ek.explain(model, x[2:3], 1, alone, at="branch").attribution
        torch.testing.assert_close(whole[2:3], one, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("layer", ["fold", "deep", "hidden", "head", "squeeze"])
def test_a_layers_input_as_in_captum(layer):
    model, x, base = Volume().eval(), images(), images(3, 2)
    oracle = captum.LayerIntegratedGradients(model, model.get_submodule(layer))
    wanted = oracle.attribute(x, base, target=1, n_steps=20, attribute_to_layer_input=True)
    found = ek.explain(model, x, 1, IntegratedGradients(base, steps=20), at=f"{layer}:input")
    close((found.attribution,) if isinstance(wanted, tuple) else found.attribution, wanted)
    assert found.at == f"{layer}:input"


def test_the_input_of_a_branch_leaves_the_shortcut_alone():
    """Unlike Captum's, whose gradient of the tensor counts its other uses, too."""
    model, x = toy_models()["residual"]
    hidden = torch.relu(model.stem(x)).detach()
    entering = hidden.clone().requires_grad_()
    scores = model.head(torch.relu(model.branch(entering) + hidden).mean((2, 3)))
    (slope,) = torch.autograd.grad(scores[:, 1].sum(), entering)
    found = ek.explain(model, x, 1, "input_x_gradient", at="branch:input")
    close(found.attribution, slope * hidden)
    cam = ek.explain(model, x, 1, "gradcam", layer="branch:input")
    close(cam.attribution, (slope.mean((2, 3), keepdim=True) * hidden).sum(1, keepdim=True))


class Two(nn.Module):
    """A block that returns windows and an image, like the pixels and patches of TNT, and a head."""

    class Block(nn.Module):
        def __init__(self, *, keyed, choosing):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)
            self.keyed, self.choosing = keyed, choosing

        def forward(self, x):
            windows = torch.tanh(nn.functional.unfold(x, 4, stride=4)).transpose(1, 2).flatten(0, 1)
            image = torch.tanh(self.conv(x))
            if self.choosing and float(x.detach().sum()) > 1e9:  # no trace knows which way it goes
                image = -image
            return {"windows": windows, "image": image} if self.keyed else (windows, image)

    def __init__(self, *, keyed=False, choosing=False):
        super().__init__()
        torch.manual_seed(0)
        self.block = self.Block(keyed=keyed, choosing=choosing)
        self.head = nn.Linear(2, 3)
        self.beside = nn.Linear(16, 3)

    def forward(self, x):
        found = self.block(x)
        windows, image = found.values() if isinstance(found, dict) else found
        pooled = self.beside(windows).view(len(x), 4, 3).mean(1)
        return self.head(image.mean((2, 3))) + pooled


@pytest.mark.parametrize("choosing", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
def test_one_of_several_outputs(keyed, choosing):
    """The score is linear in each: the gradient is the head's weight over the number of pixels."""
    model, x = Two(keyed=keyed, choosing=choosing).eval(), torch.rand(3, 1, 8, 8)
    path = "block:output.image" if keyed else "block:output.1"
    found = ek.explain(model, x, 2, "saliency", at=path)
    slope = model.head.weight[2].detach() / 64
    close(found.attribution, slope[:, None, None].expand(3, 2, 8, 8))
    assert found.at == path
    image = torch.tanh(model.block.conv(x)).detach()
    shares = torch.einsum("c,nchw->nhw", slope, image)[:, None]
    occluded = ek.explain(model, x, 2, "occlusion", at=path, window=4, stride=4).attribution
    close(occluded[:, :, ::4, ::4], 16 * nn.functional.avg_pool2d(shares, 4))
    close(ek.explain(model, x, 2, "gradcam", layer=path).attribution, shares)
    inner = ek.explain(model, x, f"channel({path!r}, 1)", "saliency").attribution
    x.requires_grad_()
    torch.tanh(model.block.conv(x))[:, 1].mean((1, 2)).sum().backward()
    close(inner, x.grad)


def test_windows_are_not_taken_for_images():
    model, x = Two().eval(), torch.rand(3, 1, 8, 8)
    listed = r"'block:output.0' \[\d+, 16\], 'block:output.1' \[\d, 2, 8, 8\]"
    for arguments in ({"at": "block"}, {"method": "gradcam", "layer": "block"}):
        with pytest.raises(ModelError, match=f"for each image, got several: name one of {listed}"):
            ek.explain(model, x, 1, **arguments)
    with pytest.raises(
        ModelError, match=r"'block:output.0' to be \[batch, …\] = .*, got \[\d+, 16\]"
    ):
        ek.explain(model, x, 1, at="block:output.0")


def test_values_without_a_gradient_are_refused():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(4 * 16, 2))

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.rest = model

        def forward(self, x):
            return self.rest((x * 8).long().flatten(1))

    with pytest.raises(ModelError, match="floating-point values from layer 'rest.0:input', got"):
        ek.explain(Tokens().eval(), torch.rand(2, 1, 4, 4), 1, at="rest.0:input")


class TestSeveralLayers:
    def test_each_is_that_of_a_call_of_its_own(self):
        model, x = toy_models()["residual"]
        layers = ["branch", model.get_submodule("stem"), "branch:input"]
        methods = ["saliency", IntegratedGradients(steps=5)]
        found = ek.explain(model, x, targets=[1, 2], method=methods, at=layers, batch_size=2)
        paths = ["branch", "stem", "branch:input"]
        assert [one.at for one in found] == paths * 4
        assert [one.method for one in found[::6]] == [
            "explainkit/saliency", "explainkit/integrated_gradients"
        ]  # fmt: skip
        assert [int(one.target[0]) for one in found[::3]] == [1, 2, 1, 2]
        for one in found:
            method = methods[one.method.endswith("integrated_gradients")]
            alone = ek.explain(model, x, int(one.target[0]), method, at=one.at, batch_size=2)
            close(one.attribution, alone.attribution)
        assert found.get(method="saliency", target=2, at="stem") is found[4]
        with pytest.raises(UnknownNameError, match=r"got 2 matches: .* at branch, .* at branch"):
            found.get(at="branch", method="saliency")

    def test_one_layer_in_a_list_gives_a_list(self):
        model, x = toy_models()["plain"]
        (found,) = ek.explain(model, x, 1, at=["3"])
        assert found.at == "3"
        with pytest.raises(ModelLookupError, match="at: expected a layer, .* got an empty list"):
            ek.explain(model, x, 1, at=[])
