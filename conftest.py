"""What holds for all tests of the repository."""

import gc
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _signals() -> Iterator[None]:
    """Those of a terminal: a process in the background may ignore Ctrl-C and hang-ups."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def _thawed() -> Iterator[None]:
    """At the end, the garbage collector sees all objects again: Hypothesis asks it for them."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _quick_collections() -> None:
    """Collections of garbage skip what is older than the module: the objects of all libraries."""
    gc.collect()
    gc.freeze()
