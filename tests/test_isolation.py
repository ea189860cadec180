"""Isolation: whatever happens inside the block, the caller's state is restored."""

import contextlib
import gc
import random
import signal
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch
from interrupts import interrupt_guard, lines_of_guard
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.isolation import preserve_model, preserve_process
from explainkit.isolation.tensors import dense_parts


class _Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.calls = 0
        self.seen = []
        self.mask = torch.ones(2)
        self.conv = nn.Conv2d(2, 2, 1)
        self.conv.weight.grad = torch.full_like(self.conv.weight, 3)
        self.conv.bias.requires_grad_(False)


def damage(model):
    """Everything a careless method does to a model."""
    model.calls += 7
    model.seen.append("x")
    model.mask.mul_(5)
    model.extra = "new"
    model.conv.register_forward_hook(lambda *_: None)
    model.conv.register_full_backward_hook(lambda *_: None)
    model.conv.forward = lambda x: x
    model.norm.running_mean.add_(torch.nan)
    model.norm.train()
    model.conv.weight.requires_grad_(True)
    model.conv.weight.grad = torch.zeros_like(model.conv.weight)
    model.conv.weight.data = torch.zeros(1)
    model.act = nn.ReLU()
    model.conv = nn.Identity()
    nn.modules.module.register_module_forward_hook(lambda *_: None)


@pytest.mark.parametrize("error", [None, ValueError("x"), KeyboardInterrupt()])
def test_a_damaged_model_is_restored(error):
    model = _Counting().train()
    model.norm.eval()
    conv, grad, weight = model.conv, model.conv.weight.grad, model.conv.weight.detach().clone()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with (
        contextlib.suppress(ValueError, KeyboardInterrupt),
        preserve_model(model) as (members, was_training),
    ):
        assert was_training
        assert members.modules == [*model.modules()]
        assert not any(module.training for module in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        damage(model)
        if error:
            raise error
    assert model.conv is conv
    assert (model.calls, model.seen, model.mask.tolist()) == (0, [], [1, 1])
    assert not hasattr(model, "extra")
    assert "forward" not in vars(conv)
    assert not conv._forward_hooks
    assert not conv._backward_hooks
    assert list(model._modules) == ["norm", "conv"]
    assert (model.training, model.norm.training, conv.training) == (True, False, True)
    assert torch.equal(conv.weight, weight)
    assert conv.weight.grad is grad
    assert bool((grad == 3).all())
    assert conv.weight.requires_grad
    assert not conv.bias.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not nn.modules.module._global_forward_hooks


def test_a_parameter_written_in_place_is_named():
    model = nn.Sequential(nn.Linear(2, 2))
    with (
        pytest.raises(MethodError, match=r"but '0\.weight' was written in place"),
        preserve_model(model),
        torch.no_grad(),
    ):
        model[0].weight.mul_(2)


def test_an_untouched_buffer_is_not_written():
    """The caller's graph may have saved the buffer: writing to it would break their backward."""
    model = nn.BatchNorm2d(2).eval()
    out = model(torch.rand(2, 2, 3, 3))
    with preserve_model(model):
        model(torch.rand(2, 2, 3, 3))
    out.sum().backward()
    assert model.weight.grad is not None


def test_keep_mode():
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    with preserve_model(model, keep_mode=True):
        assert all(module.training for module in model.modules())


def test_parameters_made_in_inference_mode():
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    with preserve_model(model):
        pass
    assert model.weight.is_inference()


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_generators_and_modes_are_restored(outer):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with outer():
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with preserve_process(seed=3):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            draws = torch.rand(1), random.random(), np.random.rand()
            torch.set_default_dtype(torch.float64)
        assert mode == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])
    with preserve_process(seed=3):
        assert draws == (torch.rand(1), random.random(), np.random.rand())


def _buffers():
    dense = torch.eye(3) - torch.eye(3).flip(0)
    bits = torch.tensor([0.0, -0.0, torch.nan])
    with warnings.catch_warnings(action="ignore"):  # deprecated, but there are such models
        quantized = torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)
        csr, csc = dense.to_sparse_csr(), dense.to_sparse_csc()
    with torch.inference_mode():
        inference = torch.ones(3)
    return {
        "bits": bits, "coo": dense.to_sparse_coo(), "csr": csr,
        "csc": csc, "quantized": quantized, "inference": inference,
        "f16": dense.half(), "large": torch.arange(70.0**2).view(70, 70).t(),
        "meta": torch.ones(3, device="meta"), "scalar": torch.tensor(7),
    }  # fmt: skip


def _dense(value):
    value = value.to_dense() if value.layout != torch.strided else value
    return value.dequantize() if value.is_quantized else value


def _write(value):
    """Changes values behind the version counter, as ``.data`` does."""
    for part in dense_parts(value):
        part.copy_(part.clone().flip(0) if part.dim() else part + 1)


@pytest.mark.parametrize(
    "changed", [(), ("coo",), ("csr", "csc"), ("bits", "f16", "scalar"), ("inference",), ("large",)]
)
def test_tensors_of_every_form_are_restored(changed):
    """A sparse buffer made the comparison raise, and everything after it stayed frozen."""
    model = nn.Linear(2, 2)
    model.weight.grad = grad = torch.ones(2, 2)
    for name, value in _buffers().items():
        model.register_buffer(name, value)
    with preserve_model(model), torch.inference_mode("inference" in changed):
        for name in changed:
            _write(getattr(model, name))
    assert model.weight.requires_grad
    assert model.weight.grad is grad
    for name, value in _buffers().items():
        if name not in ("meta", "quantized"):
            now, then = _dense(getattr(model, name)), _dense(value)
            assert now.dtype == then.dtype
            assert torch.equal(now.signbit(), then.signbit()), name
            assert torch.allclose(now, then, 0, 0, equal_nan=True), name


@pytest.mark.parametrize("size", [1, 5])
def test_a_resized_buffer_is_restored(size):
    model = nn.BatchNorm2d(3)
    model.running_mean.copy_(torch.arange(3))
    with preserve_model(model):
        model.running_mean.resize_(size).fill_(9)
        model.running_var = model.running_var.double()
    assert model.running_mean.tolist() == [0, 1, 2]
    assert model.running_var.dtype == torch.float32


def test_a_larger_model_takes_no_more_python_calls():
    """All modules and tensors are listed and compared in loops that run in C."""

    def calls(depth):
        model = nn.Sequential(*[nn.BatchNorm2d(2) for _ in range(depth)]).eval()
        model.requires_grad_(False)
        count = 0

        def note(frame, event, _argument):
            nonlocal count
            count += event == "call" and "explainkit" in frame.f_code.co_filename

        sys.setprofile(note)
        try:
            with preserve_model(model):
                pass
        finally:
            sys.setprofile(None)
        return count

    assert calls(40) == calls(4)


def test_what_cannot_be_restored_is_named_and_the_rest_is_restored():
    class Stubborn(dict):
        def clear(self):
            raise RuntimeError("not mine")

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    model.memory = Stubborn()

    def damage(error=None):
        with preserve_model(model):
            model.memory[len(model.memory)] = 2
            model[1].running_mean.fill_(3)
            if error:
                raise error

    with pytest.raises(MethodError, match=r"1 of its parts .* RuntimeError: not mine"):
        damage()
    assert model.training
    assert model[0].weight.requires_grad
    assert model[1].running_mean.tolist() == [0, 0]
    with pytest.raises(ValueError, match="mine") as caught:
        damage(ValueError("mine"))
    assert "not mine" in caught.value.__notes__[0]


def test_a_module_that_refuses_to_change_its_mode():
    class Fixed(nn.Module):
        def __setattr__(self, name, value):
            if name == "training" and hasattr(self, "training"):
                raise AttributeError("fixed")
            super().__setattr__(name, value)

    model = nn.Sequential(nn.Linear(2, 2), Fixed())
    with preserve_model(model):
        assert not model[1].training
    assert model[1].training


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal; a process started in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_on_lines_of_the_guard():
    """Real signals: each is delivered once everything is restored, or before anything changed.

    `make attack` raises them on every line.
    """
    lines = lines_of_guard()
    assert lines > 300
    for at in range(0, lines, 29):
        interrupt_guard(at)


@pytest.mark.parametrize("last", [nn.Tanh(), nn.Sigmoid(), nn.BatchNorm1d(2)])
def test_a_model_that_was_explained_can_be_freed(last):
    """An operator that saves its own output made a cycle which no garbage collector sees."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(32, 2), last)
    explanation = ek.explain(model.eval(), torch.rand(3, 1, 6, 6), 0)
    gone = [weakref.ref(value) for value in (model, *model.parameters())]
    del model, last
    gc.collect()
    assert [one() for one in gone[:5]] == [None] * 5
    assert explanation.attribution.shape == (3, 1, 6, 6)
