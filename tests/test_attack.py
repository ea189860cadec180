"""Attacks on "nothing is left behind", with counts; `make attack` runs them.

What each does on a few cases is tested elsewhere: every row of the page by test_unchanged.py, signals
by test_isolation.py, threads by test_threads.py, writers by results/test_storage.py.
"""

import contextlib
import gc
import itertools
import os
import random
import signal
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from interrupts import interrupt_guard, lines_of_guard
from test_unchanged import RESTORED, _Net, _state
from torch import nn
from torch.nn.modules import module as torch_module

import explainkit as ek

pytestmark = [pytest.mark.attack, pytest.mark.timeout(3600)]

METHODS = {
    "saliency": {}, "occlusion": {"window": 3}, "integrated_gradients": {"steps": 3},
    "gradcam": {"layer": "conv"}, "smoothgrad": {"samples": 2}, "rise": {"samples": 4},
    "lrp": {"unsupported": "gradient"}, "deeplift": {},
}  # fmt: skip
FAULTS = (
    None,
    ValueError,
    RuntimeError,
    KeyboardInterrupt,
    SystemExit,
    MemoryError,
    RecursionError,
)


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    signal.signal(signal.SIGINT, before)


def _report(attack, tried, failed):
    print(f"\n{attack}: {tried} tried, {len(failed)} left something behind")
    assert failed == []


def test_state_cases_and_faults():
    """Every kind of state, damaged in the forward, which then fails in every way."""
    failed = []
    cases = [*itertools.product(RESTORED, FAULTS, METHODS)]
    for row, fault, method in cases:

        def damage(net, row=row, fault=fault):
            RESTORED[row](net)
            if fault:
                raise fault("attack")

        net = _Net(damage).train()
        net.norm.eval()
        x = torch.rand(1, 1, 5, 5)
        before = _state(net)
        with contextlib.suppress(BaseException):
            ek.explain(net, x, 0, method, **METHODS[method])
        if _state(net) != before:
            failed.append((row, fault, method))
        torch_module._global_forward_hooks.clear()
    _report("state × faults × methods", len(cases), failed)


def test_ctrl_c_on_every_line_of_the_guard():
    lines = lines_of_guard()
    failed = []
    for at in range(lines):
        try:
            interrupt_guard(at)
        except BaseException as error:  # noqa: BLE001 - counted
            failed.append((at, error))
    _report("SIGINT on every line of the guard", lines, failed)


def test_200_signals_at_random_times():
    """A net of 300 modules in train mode, with gradients, whose forward moves its buffers."""
    blocks = [nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for _ in range(100)]
    net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8, 3)).train()
    x = torch.rand(1, 2, 2, 2)
    net(x.expand(4, -1, -1, -1)).sum().backward()

    def state():
        tensors = [*net.parameters(), *net.buffers()]
        return (
            [module.training for module in net.modules()],
            [(t.requires_grad, id(t.grad), t.tolist()) for t in tensors],
            [sorted(vars(module)) for module in net.modules()],
            torch.get_rng_state().tolist(), random.getstate(), torch.is_grad_enabled(),
        )  # fmt: skip

    start = time.perf_counter()
    ek.explain(net, x, 0, "saliency")
    length = time.perf_counter() - start
    before, failed, times = state(), [], random.Random(0)
    main, arrived = threading.main_thread().ident, 0
    for number in range(200):
        delay = times.uniform(0, 1.2 * length)
        timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
        try:
            timer.start()
            ek.explain(net, x, 0, "saliency", keep_mode=number % 2 == 0)
            timer.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            arrived += 1
        if state() != before:
            failed.append((number, delay))
    print(f"\n{arrived} of 200 signals arrived")
    _report("SIGINT at random times", 200, [*failed, *(["lost"] * (200 - arrived))])


def test_pairs_of_methods_in_threads():
    net, x = _Net().eval(), torch.rand(2, 1, 5, 5)

    def run(method):
        return ek.explain(net, x, 1, method, seed=3, **METHODS[method]).attribution

    expected = {method: run(method) for method in METHODS}
    before, failed = _state(net), []
    pairs = [*itertools.product(METHODS, METHODS)]
    with ThreadPoolExecutor(2) as pool:
        for pair in pairs:
            found = [*pool.map(run, pair)]
            same = all(map(torch.equal, found, [expected[method] for method in pair]))
            if not same or _state(net) != before:
                failed.append(pair)
    _report("pairs of methods in threads", len(pairs), failed)


def _explanation(number):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    return ek.explain(net, torch.full((1, 1, 4, 4), float(number)), 0, seed=number)


def _fork(work):
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_30_pairs_of_writers(tmp_path):
    one, two = _explanation(1), _explanation(2)
    failed = []
    for number in range(30):
        folder = tmp_path / str(number)
        for child in [_fork(lambda e=e, folder=folder: e.save(folder)) for e in (one, two)]:
            os.waitpid(child, 0)
        found = ek.Explanation.load(folder)
        whole = torch.equal(found.inputs, (one, two)[found.seed - 1].inputs)
        if not whole or len([*folder.iterdir()]) != 2:
            failed.append(number)
    _report("pairs of writers", 30, failed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_100_kills_of_a_writer(tmp_path):
    explanations = [_explanation(number) for number in (1, 2)]

    def write():
        for one in itertools.cycle(explanations):
            one.save(tmp_path / "out")

    failed = []
    for number in range(100):
        child = _fork(write)
        time.sleep(0.002 + 0.0005 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (tmp_path / "out" / "explanation.json").exists():
            found = ek.Explanation.load(tmp_path / "out")
            if not torch.equal(found.inputs, explanations[found.seed - 1].inputs):
                failed.append(number)
    explanations[0].save(tmp_path / "out")
    assert len([*(tmp_path / "out").iterdir()]) == 2
    _report("kills of a writer", 100, failed)


def test_300_networks_are_made_and_dropped():
    """Living tensors are counted: by the garbage collector, and each weight by a weak reference."""

    def living():
        gc.collect()
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    def explain(number):
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(18, 2)).eval()
        method = ("saliency", "gradcam", "lrp", "occlusion")[number % 4]
        params = {"window": 2} if method == "occlusion" else {}
        ek.explain(net, torch.rand(1 + number % 3, 1, 5, 5), 0, method, **params)
        return [weakref.ref(value) for value in (net, *net.parameters())]

    for number in range(12):
        explain(number)
    before = living()
    weights = [one for number in range(300) for one in explain(number)]
    after = living()
    alive = [one for one in weights if one() is not None]
    print(f"\n{before} tensors before, {after} after 300 networks")
    assert after <= before
    _report("networks made and dropped", 300, alive)
