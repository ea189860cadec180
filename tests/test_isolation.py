"""Isolation: whatever happens inside the block, the caller's state is restored."""

import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from explainkit.errors import MethodError
from explainkit.isolation import preserve_model, preserve_process


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
    with contextlib.suppress(ValueError, KeyboardInterrupt), preserve_model(model) as was_training:
        assert was_training
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
