"""Cached results are never used for a changed model, and don't keep a model alive."""

import gc
import types
import weakref

import pytest
import torch
import torch.nn.functional as F
from graph_toys import Shifting
from torch import nn

import explainkit as ek
from explainkit.graph import trace as tracing
from explainkit.graph.cached import Cached
from explainkit.graph.incremental.run import Variants
from explainkit.graph.suffix import suffix
from explainkit.graph.trace import trace

SCALE = 1.0


class Net(nn.Module):
    """Uses plain attributes and a global variable, and has a skip connection."""

    def __init__(self):
        super().__init__()
        self.limit = 1e6
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.skip = True
        self.options = {"gains": [1.0, 2.0]}

    def forward(self, x):
        x = self.stem(x)
        y = self.body(x)
        y = SCALE * (x + y if self.skip else y) * self.options["gains"][0]
        return self.head(F.relu(y).square().clamp(max=self.limit).mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net().eval()


def images():
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def doubled(_module, _inputs, output):
    return 2 * output


CHANGES = {
    "submodule": lambda m: setattr(m, "head", nn.Linear(4, 5)),
    "inner submodule": lambda m: m.body.__setitem__(1, nn.Tanh()),
    "more submodules": lambda m: m.body.append(nn.Sigmoid()),
    "hook": lambda m: m.stem.register_forward_hook(doubled),
    "hook of a block": lambda m: m.body.register_forward_hook(doubled),
    "hook before a block": lambda m: m.body.register_forward_pre_hook(lambda _m, x: (3 * x[0],)),
    "attribute": lambda m: setattr(m, "skip", False),
    "inner attribute": lambda m: m.options["gains"].__setitem__(0, -1.0),
    "stride": lambda m: setattr(m.body[0], "padding", (2, 2)) or setattr(m, "skip", False),
    "patched method": lambda m: setattr(
        m.body, "forward", types.MethodType(lambda self, x: self[0](x).sin(), m.body)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_traced_again(change):
    model, x = net(), images()
    before = agrees(model, x)
    CHANGES[change](model)
    model.eval()
    assert not torch.allclose(agrees(model, x), before)


@torch.no_grad()
def agrees(model, x):
    """The model's output, after checking that its suffix and its incremental run agree."""
    expected = model(x)
    after = suffix(model, "stem", x)
    torch.testing.assert_close(after.run(after.value(x)), expected)
    corner = Variants(model, x[0]).run(torch.zeros(1, 2, dtype=torch.int64), x[:1, :, :3, :3])
    torch.testing.assert_close(corner, expected[:1])
    return expected


@torch.no_grad()
def test_a_change_without_effect_on_the_example_is_detected():
    """The trace has the old limit as a constant; on the example both give the same output."""
    model, x = net(), images()
    before = agrees(model, x)
    model.limit = 100.0
    torch.testing.assert_close(agrees(model, x), before)
    after = suffix(model, "stem", x)
    values = 50 * after.value(x)
    torch.testing.assert_close(after.run(values), replaced(model, x, values))
    bright = x[:1].clone()
    bright[:, :, :3, :3] = 500.0
    corner = Variants(model, x[0]).run(torch.zeros(1, 2, dtype=torch.int64), bright[:, :, :3, :3])
    torch.testing.assert_close(corner, model(bright))
    model.limit = 1e6
    assert not torch.allclose(corner, model(bright), rtol=0.1)


def replaced(model, x, values):
    """A full run with the stem's output replaced."""
    handle = model.stem.register_forward_hook(lambda *_: values.clone())
    try:
        return model(x)
    finally:
        handle.remove()


def full(model, x, layer, channels):
    """Weights of Ablation-CAM for class 0 from full runs."""

    def without(k):
        def zeroed(_module, _inputs, output):
            output = output.clone()
            output[:, k] = 0
            return output

        handle = model.get_submodule(layer).register_forward_hook(zeroed)
        try:
            return model(x)[:, 0]
        finally:
            handle.remove()

    with torch.no_grad():
        clean = model(x)[:, 0]
        return torch.stack([clean - without(k) for k in range(channels)], 1)


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_ablation_cam_after_a_change(change):
    model, x = net(), images()
    ek.explain(model, x, 0, "ablation_cam", layer="stem")
    if change:
        CHANGES[change](model)
        model.eval()
    found = ek.explain(model, x, 0, "ablation_cam", layer="stem").attribution[:, 0]
    weights = full(model, x, "stem", 4)
    with torch.no_grad():
        expected = (weights[:, :, None, None] * model.stem(x)).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_change_outside_the_modules_is_detected(monkeypatch):
    model, x = net(), images()
    suffix(model, "body", x)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    with torch.no_grad():
        after = suffix(model, "body", x)
        torch.testing.assert_close(after.run(after.value(x)), model(x))
        assert after.how == "fx"


@pytest.mark.parametrize("model", [net(), Shifting().eval()])
def test_a_model_is_traced_once(model, monkeypatch):
    first = trace(model, images())
    traced = []
    for name in ("_symbolic", "_exported"):
        monkeypatch.setattr(tracing, name, lambda *_, name=name: traced.append(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2)
        again = trace(model, images(), keep=True)
        torch.testing.assert_close(again.values[again.output][0], model(images()))
    assert (again.how, again.reasons) == (first.how, first.reasons)
    assert traced == []


@pytest.mark.parametrize("build", [net, lambda: Shifting().eval()])
def test_nothing_keeps_a_model_alive(build):
    model = build()
    layer = "stem" if isinstance(model, Net) else "first"
    suffix(model, layer, images())
    trace(model, images()[:1], keep=True)
    ek.explain(model, images(), 0, "ablation_cam", layer=layer)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


class TestCached:
    def test_parameter_values_may_change(self):
        model, cache = net(), Cached()
        cache.put(model, 1, "one")
        with torch.no_grad():
            model.head.weight.mul_(2)
        model.requires_grad_(False)
        assert cache.get(model, 1) == "one"
        assert cache.get(model, 2) is None
        assert cache.get(net(), 1) is None

    @pytest.mark.parametrize(
        "change",
        [
            *CHANGES.values(),
            lambda m: m.train(),
            lambda m: m.body.train(),
            lambda m: m.double(),
            lambda m: setattr(m.head, "weight", nn.Parameter(torch.zeros(6, 4))),
            lambda m: setattr(m.head, "bias", None),
            lambda m: m.register_buffer("more", torch.zeros(1)),
            lambda m: m.stem.register_full_backward_hook(lambda *_: None),
        ],
    )
    def test_structure_may_not_change(self, change):
        model, cache = net(), Cached()
        cache.put(model, 1, "one")
        change(model)
        assert cache.get(model, 1) is None
        cache.put(model, 2, "two")
        assert cache.get(model, 1) is None
        assert cache.get(model, 2) == "two"

    def test_a_patched_class_is_detected(self, monkeypatch):
        model, cache = net(), Cached()
        cache.put(model, 1, "one")
        monkeypatch.setattr(Net, "forward", lambda self, x: x)
        assert cache.get(model, 1) is None

    def test_an_exchanged_hook_is_detected(self):
        model, cache = net(), Cached()
        handle = model.stem.register_forward_hook(doubled)
        cache.put(model, 1, "one")
        handle.remove()
        assert cache.get(model, 1) is None
        model.stem.register_forward_hook(doubled)
        assert cache.get(model, 1) is None

    def test_global_hooks_are_detected(self):
        model, cache = net(), Cached()
        cache.put(model, 1, "one")
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        try:
            assert cache.get(model, 1) is None
        finally:
            handle.remove()

    def test_an_attribute_that_contains_itself(self):
        model, cache = net(), Cached()
        model.options["me"] = model.options
        cache.put(model, 1, "one")
        cache.get(model, 1)


def test_a_value_is_found_once_until_the_model_or_the_state_changes():
    model, cache, found = net(), Cached[None](), []

    def ask(**state):
        return cache.once(model, "key", lambda: found.append(len(found)), **state)

    assert ask() is None  # None is a value
    ask()
    assert len(found) == 1
    model.head = nn.Linear(4, 5)
    ask()
    assert len(found) == 2
    ask(state="other")
    ask(state="other")
    assert len(found) == 3
