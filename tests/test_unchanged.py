"""The page "What a call leaves unchanged" is true: each row of its tables is put to the test."""

import random
import re
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.isolation.contents import LONG
from explainkit.isolation.model import LARGE
from explainkit.isolation.settings import SETTINGS
from explainkit.isolation.weights import SAMPLED

PAGE = Path(__file__).parents[1] / "docs/reference/unchanged.md"


def rows(heading):
    """The first cell of each row of the table under a heading."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (?!what|---)(.*?) \|", section, re.MULTILINE)


class _Net(nn.Module):
    """Damages itself in every forward."""

    def __init__(self, damage=lambda net: None):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.spare = nn.BatchNorm2d(2)
        self.conv.weight.grad = torch.ones_like(self.conv.weight)
        self.register_buffer("sparse", torch.eye(2).to_sparse_coo())
        self.register_buffer("zero", torch.tensor([-0.0, torch.nan]))
        self.nested = {"list": [deque([torch.zeros(3)], maxlen=4)], "set": {1, 2}}
        self.object = SimpleNamespace(calls=0, inner=SimpleNamespace(tensor=torch.zeros(3)))
        self.generators = [torch.Generator(), np.random.default_rng(0), np.random.RandomState(0)]
        self.generator = random.Random(0)
        self.array = np.zeros(3)
        self.slots = _Slots()
        self.long = [torch.zeros(1) for _ in range(LONG + 1)]
        self.shuffle = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        self.damage = damage

    def forward(self, x):
        self.damage(self)
        return self.norm(self.conv(x)).mean((2, 3))


class _Slots:
    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0


def _assign_data(net):
    net.conv.weight.requires_grad_(True)
    net.conv.weight.grad = None
    net.conv.weight.data = net.conv.weight.data.clone() * 2


def _damage_buffers(net):
    net.sparse._values().fill_(3)
    net.zero.data.copy_(torch.tensor([0.0, 1.0]))
    net.spare.running_mean.resize_(5)
    net.spare.running_var = net.spare.running_var.double()
    net.spare._buffers["new"] = torch.ones(1)


def _damage_modules(net):
    net.conv.train()
    net.conv.register_forward_hook(lambda *_: None)
    net.norm.forward = net.norm.forward
    net.extra = nn.ReLU()
    vars(net).pop("array", None)


def _damage_containers(net):
    net.nested["list"][0].append(3)
    net.nested["list"].append(4)
    net.nested["set"].add(3)
    net.nested["new"] = 5


def _draw(net):
    torch.rand(3, generator=net.generators[0])
    net.generators[1].random()
    net.generators[2].rand()
    net.generator.random()


def _draw_globally(_net):
    torch.rand(3)
    np.random.rand()
    random.random()


def _damage_tensors(net):
    net.nested["list"][0][0].add_(1)
    net.object.inner.tensor.data.add_(1)


def _damage_objects(net):
    net.object.calls += 1
    net.object.inner.new = 1


RESTORED = {
    "`requires_grad`, `.grad` and memory of parameters": _assign_data,
    "buffers": _damage_buffers,
    "modules": _damage_modules,
    "lists, dicts, sets and deques": _damage_containers,
    "objects": _damage_objects,
    "other tensors": _damage_tensors,
    "held generators": _draw,
    "global module hooks": lambda _: torch_module.register_module_forward_hook(lambda *_: None),
    "global generators": _draw_globally,
    "grad mode and inference mode": lambda _: torch.set_grad_enabled(True),
    "autocast": lambda _: torch.set_autocast_enabled("cpu", True),
    **{name: lambda _, name=name: _set_otherwise(name) for name in SETTINGS},
}
OTHER = {"default dtype": torch.float64, "deterministic algorithms": (True, True), "threads": 2}


def _set_otherwise(name):
    read, write = SETTINGS[name]
    write(OTHER.get(name, not read()) if name in OTHER else not read())


def _state(net):
    """Everything that can be read back, as text or plain values."""
    tensors = {
        f"{path}.{name}": (id(t), t.requires_grad, id(t.grad), _bits(t))
        for path, module in net.named_modules()
        for name, t in (*module._parameters.items(), *module._buffers.items())
        if t is not None
    }
    tensors["memory"] = [parameter.data_ptr() for parameter in net.parameters()]
    modules = {
        path: (module.training, sorted(vars(module)), len(module._forward_hooks))
        for path, module in net.named_modules()
    }
    generators = [
        net.generators[0].get_state().tolist(), net.generators[1].bit_generator.state,
        str(net.generators[2].get_state()), net.generator.getstate(),
        torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(),
    ]  # fmt: skip
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return (
        tensors, modules, repr(net.nested), repr(net.object), generators, modes,
        torch.is_autocast_enabled("cpu"), len(torch_module._global_forward_hooks),
        {name: read() for name, (read, _) in SETTINGS.items()},
    )  # fmt: skip


def _bits(tensor):
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    return tensor.dtype, tuple(dense.shape), dense.signbit().tolist(), repr(dense.tolist())


def test_every_row_has_a_test():
    assert rows("Restored") == list(RESTORED)
    assert rows("Detected and refused") == list(REFUSED)
    assert rows("Neither restored nor detected") == list(MISSED)
    assert str(LARGE // 2**20) + " MiB" in PAGE.read_text()
    assert f"{SAMPLED} evenly spaced values" in PAGE.read_text()
    assert f"{LONG:,}" in PAGE.read_text()


@pytest.mark.parametrize("row", rows("Restored"))
@pytest.mark.parametrize("fails", [False, True])
def test_restored(row, fails):
    def damage(net):
        RESTORED[row](net)
        if fails:
            raise ZeroDivisionError

    net = _Net(damage).train()
    net.norm.eval()
    x = torch.rand(1, 1, 5, 5)
    before = _state(net)
    try:
        with torch.no_grad():
            if fails:
                with pytest.raises(ZeroDivisionError):
                    ek.explain(net, x, 0, "occlusion", window=3)
            else:
                with pytest.warns(ek.ExplainkitWarning):
                    ek.explain(net, x, 0, "occlusion", window=3)
        assert _state(net) == before
    finally:
        torch_module._global_forward_hooks.clear()


def _write_in_inference_mode(net):
    with torch.inference_mode():
        net.conv.weight.data.mul_(2)


REFUSED = {
    "parameters changed in place": lambda net: net.conv.weight.detach().mul_(2),
    "parameters changed behind that count": _write_in_inference_mode,
    "tensors above 64 MiB": lambda net: net.object.large.data.add_(1),
}


@pytest.mark.parametrize("row", rows("Detected and refused"))
def test_detected(row):
    net = _Net(REFUSED[row]).eval()
    net.object.large = torch.zeros(LARGE // 4 + 1)
    name = "a tensor that it holds" if "tensors" in row else r"conv\.weight"
    with pytest.raises(MethodError, match=f"{name}.* was written in place .1 in total"):
        ek.explain(net, torch.rand(1, 1, 5, 5), 0, "occlusion", window=3)


def _change_one_value(net):
    net.conv.weight.data.view(-1)[1] += 1


def _change_slots(net):
    net.slots.calls += 1


MISSED = {
    "single values of a large parameter": (
        _change_one_value, lambda net: net.conv.weight.view(-1)[1].item()
    ),
    "numpy arrays": (lambda net: net.array.__iadd__(1), lambda net: net.array.tolist()),
    "objects of the standard library, torch and numpy": (
        lambda net: net.shuffle.loc.add_(1), lambda net: net.shuffle.loc.tolist()
    ),
    "objects with `__slots__`": (_change_slots, lambda net: net.slots.calls),
    "elements of containers with more than 10,000": (
        lambda net: net.long[0].add_(1), lambda net: net.long[0].item()
    ),
    "the rest of the world": None,
}  # fmt: skip


@pytest.mark.parametrize("row", rows("Neither restored nor detected")[:-1])
def test_the_page_is_honest(row):
    damage, read = MISSED[row]
    net = _Net(damage).eval()
    net.conv = nn.Conv2d(1, 64, 3)  # more values than are compared
    net.norm = nn.BatchNorm2d(64)
    net.eval()
    before = read(net)
    ek.explain(net, torch.rand(1, 1, 5, 5), 0, "occlusion", window=3)
    assert read(net) != before


@pytest.mark.parametrize("kind", range(4))
def test_a_model_with_its_own_generator_gives_the_same_result_for_the_same_seed(kind):
    class Noisy(_Net):
        def forward(self, x):
            draw = [
                lambda: torch.rand(1, generator=self.generators[0]).item(),
                lambda: self.generators[1].random(),
                lambda: self.generators[2].rand(),
                lambda: self.generator.random(),
            ][kind]()
            return super().forward(x) * (1 + draw)

    net, x = Noisy().eval(), torch.rand(3, 1, 5, 5)
    maps = [ek.explain(net, x, 0, "rise", samples=4, seed=seed).score for seed in (1, 1, 2)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize(
    "method",
    ["integrated_gradients", "lrp", "extremal_perturbation", "meaningful_perturbation", "gradcam"],
)
def test_autocast_around_a_call_changes_no_bit_and_is_said(method):
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)), None
    x = torch.rand(2, 1, 6, 6)
    params = {"steps": 4} if "perturbation" in method or "integrated" in method else {}
    net.eval()
    expected = ek.explain(net, x, 1, method, **params)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(ek.ExplainkitWarning, match=r"autocast was on: .* dtype float32"):
            found = ek.explain(net, x, 1, method, **params)
        assert torch.is_autocast_enabled("cpu")
        assert net(x).dtype == torch.bfloat16
    assert torch.equal(found.attribution, expected.attribution)
    assert torch.equal(found.logits, expected.logits)
    assert any("float32" in text for text in found.diagnostics["warnings"])


def test_autocast_around_maximize():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval()
    options = {"shape": (1, 8, 8), "steps": 2}
    expected = ek.maximize(net, 'channel("0", 1)', **options)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.warns(ek.ExplainkitWarning, match="autocast"),
    ):
        found = ek.maximize(net, 'channel("0", 1)', **options)
    assert torch.equal(found.images, expected.images)
