"""Ctrl-C on a line of the guard, as a real signal, and whether everything is as before."""

import random
import signal
import sys
import time

import pytest
import torch
from torch import nn

from explainkit import isolation
from explainkit.isolation import preserve_model, preserve_process

FOLDER = isolation.__path__[0]


def lines_of_guard():
    """The number of lines that one use of the guard executes."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    for tracing in (before, trace):  # what the first use caches, later ones do not run
        sys.settrace(tracing)
        with preserve_process(0), preserve_model(_small()):
            pass
    sys.settrace(before)
    return count


def interrupt_guard(at):
    """Uses the guard, and raises SIGINT on the line of this number."""
    model = _small()
    states = torch.get_rng_state(), random.getstate()
    handler, passed = signal.getsignal(signal.SIGINT), 0

    def trace(frame, event, _argument):
        nonlocal passed
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == "line":
            passed += 1
            if passed == at + 1:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        with preserve_process(0), preserve_model(model):
            model[1].running_mean.fill_(3)
            model.extra = 1
            torch.rand(1)
        sys.settrace(before)
        time.sleep(1)
        pytest.fail(f"the signal on line {at} was lost")
    except KeyboardInterrupt:
        sys.settrace(before)
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.training
    assert model[1].training
    assert model[0].weight.requires_grad
    assert model[0].weight.grad is not None
    assert model[1].running_mean == 0
    assert not hasattr(model, "extra")
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()


def _small():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).train()
    model[0].weight.grad = torch.ones(1, 1)
    return model
