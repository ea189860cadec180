"""What a call changes in the process: generators, modes and settings, put back afterwards."""

import os
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TextIO

import torch

from explainkit.isolation.settings import read_settings, write_settings
from explainkit.isolation.signals import whole_contexts

_turn = threading.RLock()
"""Held by the thread whose call runs: generators and settings belong to the whole process."""

if hasattr(os, "register_at_fork"):  # a child has no thread that would release it
    os.register_at_fork(after_in_child=lambda: globals().update(_turn=threading.RLock()))


def uncompiled() -> AbstractContextManager[object]:
    """Runs models compiled by `torch.compile` in eager mode.

    Hooks and operator recording do not work in compiled code.
    """
    # nothing is compiled unless this module is loaded, and importing it takes seconds
    started = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if started else nullcontext()


@contextmanager
def warnings_once() -> Iterator[None]:
    """Shows each distinct warning once, however often the model runs and whatever the filters.

    The filters stay as they are: a change would make Python forget what it has shown before.
    """
    show = warnings.showwarning
    seen: set[object] | None = set()

    def once(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        key = (str(message), category, filename, lineno)
        if seen is None or key not in seen:
            if seen is not None:
                seen.add(key)
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = once
    try:
        yield
    finally:
        seen = None  # another thread may still hold it
        if warnings.showwarning is once:
            warnings.showwarning = show


@contextmanager
def preserve_process(seed: int) -> Iterator[None]:
    """Runs a block with gradients enabled, without autocast, and with global generators seeded.

    Seeding makes methods that use a global generator, and models with active dropout,
    reproducible. It covers torch, numpy and the standard library. Generators, and the settings of
    torch that `explainkit.isolation.settings` lists, are restored afterwards. They belong to the
    whole process, so threads take turns; a thread may nest blocks. Ctrl-C takes effect only where
    no context is being entered or left, so that each is left as a whole.
    """
    with _turn, whole_contexts():
        numpy = sys.modules.get("numpy")
        torch_state = torch.get_rng_state()
        python_state = random.getstate()
        numpy_state = numpy.random.get_state() if numpy else None
        # a seed set before an accelerator is initialized would take effect later, and not be undone
        cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda_states = torch.cuda.get_rng_state_all() if cuda else []
        mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        settings = read_settings()
        try:
            with (
                torch.inference_mode(False), torch.enable_grad(), without_autocast(),
                uncompiled(), warnings_once(),
            ):  # fmt: skip
                torch.default_generator.manual_seed(seed)
                random.seed(seed)
                if numpy:
                    numpy.random.seed(seed % 2**32)
                if cuda:
                    torch.cuda.manual_seed_all(seed)
                if mps_state is not None:
                    torch.mps.manual_seed(seed)
                yield
        finally:
            write_settings(settings)
            torch.set_rng_state(torch_state)
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)
            if cuda:
                torch.cuda.set_rng_state_all(cuda_states)
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)


def without_autocast_warning(device: torch.device, dtype: torch.dtype) -> list[str]:
    """A warning if the caller's autocast is on, which `preserve_process` turns off."""
    if not torch.is_autocast_enabled(device.type):
        return []
    own = str(dtype).removeprefix("torch.")
    return [f"torch.autocast was on: the model ran without it, in its own dtype {own}"]


@contextmanager
def without_autocast() -> Iterator[None]:
    """Runs models and methods in the dtype of the model."""
    devices = [kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(kind)]
    try:
        for kind in devices:
            torch.set_autocast_enabled(kind, False)
        yield
    finally:
        for kind in devices:
            torch.set_autocast_enabled(kind, True)
