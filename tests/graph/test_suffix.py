"""Suffixes of a model agree with the whole model."""

import pytest
import torch
import torch.nn.functional as F
from graph_toys import Shifting
from torch import nn
from torch.utils import _pytree as pytree

from explainkit.errors import ModelError
from explainkit.graph.suffix import suffix
from explainkit.graph.trace import trace
from explainkit.layers import capture, layer_names
from explainkit.testing import _state, toy_models

TOYS = sorted(toy_models())


def same(one, other):
    for a, b in zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def replaced(model, layer, images, values, call=0):
    """The reference: a full run with the layer's output replaced."""
    calls = []

    def hook(_module, _inputs, output):
        calls.append(1)
        if len(calls) == call + 1:
            return (values, *output[1:]) if isinstance(output, tuple) else values.clone()
        return None

    handle = dict(model.named_modules())[layer].register_forward_hook(hook)
    try:
        return model(images.clone())
    finally:
        handle.remove()


def check(model, layer, images, how, call=None):
    before = _state(model, images)
    after = suffix(model, layer, images, call=call)
    assert after.how == how, after.reasons
    with torch.no_grad():
        values = after.value(images)
        with capture(model, [layer]) as outputs:
            model(images.clone())
        same(values, outputs[layer][call or 0])
        of = torch.tensor([2, 0, 0, 1, 3])
        variants = values[of] * torch.linspace(0, 2, 5).reshape(-1, *[1] * (values.dim() - 1))
        unchanged = variants.clone()
        found = after.run(variants, of)
        assert torch.equal(variants, unchanged), "the caller's values were changed"
        same(found, replaced(model, layer, images[of], variants, call or 0))
        same(after.run(values), model(images.clone()))
    now = _state(model, images)
    for what, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, now[what]), what
        elif not isinstance(value, tuple):
            assert value == now[what], what
    return after


@pytest.mark.parametrize("name", TOYS)
def test_toy_models(name):
    model, images = toy_models()[name]
    model.eval()
    with capture(model, layer_names(model)) as calls:
        model(images.clone())
    for layer, outputs in calls.items():
        if len(outputs) == 1:
            check(model, layer, images, "fx")


class Branches(nn.Module):
    """Concatenated branches, a dict of outputs, a size read early and used late."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.skip = nn.Identity()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        batch = x.shape[0]
        x = self.stem(x)
        both = torch.cat([self.left(x), self.right(x), self.skip(x)], 1)
        pooled = F.adaptive_avg_pool2d(both, 1).reshape(batch, -1)
        return {"logits": self.head(pooled), "features": (pooled, x)}


class Windowed(nn.Module):
    """Windows in the batch axis, as in windowed attention, parallel to the layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 1)
        self.gate = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        y = self.embed(x).unflatten(2, (2, 6)).transpose(1, 2).flatten(0, 1)
        z = self.gate(x)
        y = y.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2, 3)
        return self.head((y * z).mean((2, 3)))


class Choosing(nn.Module):
    """Has data-dependent control flow."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        y = self.first(x)
        if y.mean() > 100:
            y = -y
        return self.head(y.mean((2, 3)))


class Remembering(nn.Module):
    """Stores its last activation, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)
        self.last = None
        self.count = 0

    def forward(self, x):
        self.count += 1
        self.last = self.first(x)
        return self.head(self.last.mean((2, 3)))


def made(kind):
    torch.manual_seed(0)
    return kind().eval(), torch.rand(4, 3, 12, 10)


@pytest.mark.parametrize("layer", ["stem", "stem.0", "left", "right", "right.0", "skip"])
def test_branches(layer):
    check(*insert(made(Branches), layer), "fx")


def insert(model_and_images, layer):
    model, images = model_and_images
    return model, layer, images


@pytest.mark.parametrize("layer", ["embed", "gate"])
def test_windows_in_the_batch_axis(layer):
    check(*insert(made(Windowed), layer), "fx")


@pytest.mark.parametrize("layer", ["first", "second"])
def test_models_that_only_export_traces(layer):
    after = check(*insert(made(Shifting), layer), "export")
    assert after.reasons[0].startswith("fx: ")


@pytest.mark.parametrize("layer", ["first", "head"])
def test_data_dependent_control_flow_needs_full_runs(layer):
    after = check(*insert(made(Choosing), layer), "hooks")
    assert [reason.split(":")[0] for reason in after.reasons] == ["fx", "export"]


def test_the_state_of_a_model_is_restored():
    model, images = made(Remembering)
    suffix(model, "first", images)
    assert model.last is None
    assert model.count == 0


def test_each_call_of_a_reused_layer():
    model, images = toy_models()["reused"]
    for call in range(3):
        check(model.eval(), "relu", images, "fx", call)
    with pytest.raises(ModelError, match="ran 3 times"):
        suffix(model, "relu", images)
    with pytest.raises(ModelError, match="call=3"):
        suffix(model, "relu", images, call=3)


def test_a_layer_inside_an_operator_is_not_traced_by_fx():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(120, 6), encoder, nn.Flatten(), nn.Linear(18, 5))
    images = torch.rand(4, 3, 12, 10)
    assert check(model.eval(), "2", images, "fx").how == "fx"
    assert suffix(model, "2.norm2", images).how != "fx"


def test_only_the_following_layers_run():
    model, images = toy_models()["plain"]
    after = suffix(model.eval(), "3", images)
    values = after.value(images)
    ran = []
    hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in model]
    after.run(values)
    assert ran == list(model)[4:]
    ran.clear()
    assert after.value(images, values) is values
    assert ran == []
    for hook in hooks:
        hook.remove()


def test_gradients_flow():
    model, images = toy_models()["residual"]
    after = suffix(model, "branch.1", images)
    values = after.value(images).detach().requires_grad_()
    (found,) = torch.autograd.grad(after.run(values)[:, 1].sum(), values)
    again = values.detach().requires_grad_()
    (expected,) = torch.autograd.grad(replaced(model, "branch.1", images, again)[:, 1].sum(), again)
    torch.testing.assert_close(found, expected)


def test_a_compiled_model_is_run_uncompiled():
    model, images = toy_models()["residual"]
    compiled = torch.compile(model, backend="eager")
    after = suffix(compiled, "_orig_mod.stem", images)
    same(after.run(after.value(images)), model(images))


def test_train_mode_needs_full_runs():
    model, images = toy_models()["batch_norm"]
    after = suffix(model, "2", images)
    assert after.how == "hooks"
    assert "train mode" in after.reasons[0]


def test_errors():
    model, images = toy_models()["plain"]
    with pytest.raises(ModelError, match="expected a layer of Sequential, got '9'"):
        suffix(model, "9", images)
    after = suffix(model, "3", images)
    with pytest.raises(ModelError, match="expected 4 values, one for each image, got 3"):
        after.run(after.value(images)[:3])


def test_trace_names_every_layer():
    model, images = toy_models()["vit"]
    traced = trace(model, images)
    assert traced.how == "fx"
    assert {"patches", "blocks.0", "blocks.1.mlp.3", "head"} <= traced.layers.keys()
