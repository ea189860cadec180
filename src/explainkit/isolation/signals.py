"""Ctrl-C: held back while state is being saved or restored."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def whole_contexts() -> Iterator[None]:
    """Holds Ctrl-C back while any context is being entered or left, here or in what is called."""
    outer = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(outer):
        yield
        return

    held: list[int] = []

    def deliver() -> None:
        with suppress(IndexError):  # the timer or the end of the block, whichever is first
            signal.raise_signal(held.pop())

    def handle(number: int, frame: FrameType | None) -> None:
        if not _in_transition(frame):
            outer(number, frame)
            return
        held.append(number)
        timer = threading.Timer(0.001, deliver)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, outer)
        deliver()


def _in_transition(frame: FrameType | None) -> bool:
    """Whether a context is being entered or left somewhere up the stack."""
    while frame is not None:
        if frame.f_code.co_name in ("__enter__", "__exit__", "enter_context"):
            return True
        frame = frame.f_back
    return False
