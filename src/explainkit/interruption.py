"""Ctrl-C during work in many parts, some of which then return what they have so far."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yields a function that stops the block if Ctrl-C was pressed.

    Sampling methods return what they have when interrupted; without this, only the current image
    would be cut short. Where the caller handles Ctrl-C, or in another thread, nothing changes.

    Examples:
        >>> with interruptible() as stop_if_interrupted:
        ...     stop_if_interrupted()
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    def stop_if_interrupted() -> None:
        if received:
            raise KeyboardInterrupt

    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield stop_if_interrupted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
