"""What is kept about a model is never used for another one, nor keeps it alive."""

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
    """Reads a plain attribute and a global variable, and has a branch past its body."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.skip = True
        self.options = {"gains": [1.0, 2.0]}

    def forward(self, x):
        x = self.stem(x)
        y = self.body(x)
        y = SCALE * (x + y if self.skip else y) * self.options["gains"][0]
        return self.head(F.relu(y).square().mean((2, 3)))


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
def test_a_changed_model_is_looked_at_anew(change):
    model, x = net(), images()
    before = agrees(model, x)
    CHANGES[change](model)
    model.eval()
    assert not torch.allclose(agrees(model, x), before)


@torch.no_grad()
def agrees(model, x):
    """What the model puts out, which its tail and its incremental run put out too."""
    expected = model(x)
    after = suffix(model, "stem", x)
    torch.testing.assert_close(after.run(after.value(x)), expected)
    corner = Variants(model, x[0]).run(torch.zeros(1, 2, dtype=torch.int64), x[:1, :, :3, :3])
    torch.testing.assert_close(corner, expected[:1])
    return expected


def full(model, x, layer, channels):
    """Weights of Ablation-CAM for class 0 by full runs."""

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


def test_what_the_build_does_not_show_is_seen_in_the_numbers(monkeypatch):
    model, x = net(), images()
    suffix(model, "body", x)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    with torch.no_grad():
        after = suffix(model, "body", x)
        torch.testing.assert_close(after.run(after.value(x)), model(x))
        assert after.how == "fx"


@pytest.mark.parametrize("model", [net(), Shifting().eval()])
def test_a_model_is_searched_once(model, monkeypatch):
    first = trace(model, images())
    searches = []
    for name in ("_symbolic", "_exported"):
        monkeypatch.setattr(tracing, name, lambda *_, name=name: searches.append(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-2)
        again = trace(model, images(), keep=True)
        torch.testing.assert_close(again.values[again.output][0], model(images()))
    assert (again.how, again.reasons) == (first.how, first.reasons)
    assert searches == []


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


class TestKept:
    def test_values_of_parameters_may_change(self):
        model, kept = net(), Cached()
        kept.put(model, 1, "one")
        with torch.no_grad():
            model.head.weight.mul_(2)
        model.requires_grad_(False)
        assert kept.get(model, 1) == "one"
        assert kept.get(model, 2) is None
        assert kept.get(net(), 1) is None

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
    def test_all_else_may_not(self, change):
        model, kept = net(), Cached()
        kept.put(model, 1, "one")
        change(model)
        assert kept.get(model, 1) is None
        kept.put(model, 2, "two")
        assert kept.get(model, 1) is None
        assert kept.get(model, 2) == "two"

    def test_a_class_is_patched(self, monkeypatch):
        model, kept = net(), Cached()
        kept.put(model, 1, "one")
        monkeypatch.setattr(Net, "forward", lambda self, x: x)
        assert kept.get(model, 1) is None

    def test_a_hook_is_exchanged(self):
        model, kept = net(), Cached()
        handle = model.stem.register_forward_hook(doubled)
        kept.put(model, 1, "one")
        handle.remove()
        assert kept.get(model, 1) is None
        model.stem.register_forward_hook(doubled)
        assert kept.get(model, 1) is None

    def test_hooks_of_all_modules(self):
        model, kept = net(), Cached()
        kept.put(model, 1, "one")
        handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
        try:
            assert kept.get(model, 1) is None
        finally:
            handle.remove()

    def test_an_attribute_that_holds_itself(self):
        model, kept = net(), Cached()
        model.options["me"] = model.options
        kept.put(model, 1, "one")
        kept.get(model, 1)
