"""Threads: calls take turns, and what they share is as before afterwards."""

import os
import random
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.isolation import process
from explainkit.isolation.settings import read_settings
from explainkit.methods.contract import is_method


class _Random(nn.Module):
    """Draws from the global generators, attends, and counts how many threads are inside."""

    inside = most = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x):
        _Random.inside += 1
        _Random.most = max(_Random.most, _Random.inside)
        x = F.dropout(self.linear(x.flatten(1)), 0.5, training=True) * (1 + random.random())
        x = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        _Random.inside -= 1
        return x


def _shared():
    return torch.get_rng_state().tolist(), random.getstate(), read_settings(), warnings.showwarning


@pytest.mark.parametrize("number", [1, 3])
def test_threads_on_one_model_and_on_several(number):
    models = [_Random().eval() for _ in range(number)]
    jobs = [
        (models[i % number], torch.rand(3, 1, 4, 4), method, i)
        for i in range(4)
        for method in ("saliency", "rise", "lrp", "smoothgrad")
    ]

    def run(job):
        model, images, method, seed = job
        params = {"saliency": {}, "lrp": {"unsupported": "gradient"}}.get(method, {"samples": 8})
        return ek.explain(model, images, 1, method, seed=seed, **params).attribution

    state = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ek.ExplainkitWarning)
        expected = [run(job) for job in jobs]
        before = _shared()
        _Random.most = 0
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(run, jobs))
        assert _shared() == before
    assert _Random.most == 1
    assert all(map(torch.equal, found, expected))
    for model, values in zip(models, state, strict=True):
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())


@dataclass(frozen=True)
class _Nested:
    """Explains another model with another method."""

    def __call__(self, model, inputs, target):
        other = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
        ek.explain(other, inputs.detach(), 0)
        return torch.ones_like(inputs)


def test_a_call_inside_a_call_does_not_wait_for_itself():
    assert is_method(_Nested())
    with pytest.warns(ek.ExplainkitWarning, match="constant"):
        ek.explain(_Random().eval(), torch.rand(1, 1, 4, 4), 0, _Nested())


@pytest.mark.parametrize("hidden", [False, True])
def test_training_beside_an_explanation_is_refused(hidden):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()

    def step(*_):
        with torch.no_grad():
            weight = model[1].weight
            (weight.data if hidden else weight).mul_(0.9)

    def train(*_):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()

    model[1].register_forward_hook(train)
    with pytest.raises(MethodError, match=r"'1\.weight' .* no thread may train the model"):
        ek.explain(model, torch.rand(1, 1, 4, 4), 0)
    assert model[1].weight.requires_grad


@pytest.fixture
def busy():
    """Another thread is in the middle of a call."""
    entered, leave = threading.Event(), threading.Event()

    def call():
        with process.preserve_process(0):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=call)
    thread.start()
    entered.wait()
    yield
    leave.set()
    thread.join()


@pytest.mark.usefixtures("busy")
def test_waiting_for_another_thread_can_be_interrupted():
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    main = threading.main_thread().ident
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            ek.explain(nn.Flatten(), torch.rand(1, 1, 2, 2), 0)
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.usefixtures("busy")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_does_not_have():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork in a threaded process
        child = os.fork()
    if not child:
        os._exit(0 if process._turn.acquire(timeout=1) else 1)
    assert os.waitpid(child, 0)[1] == 0
