"""Interleaved timing: every candidate once a round, so that slow moments hit all alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Calls = dict[str, Callable[[], Any]]


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call over some rounds, after a warm-up round that doesn't count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            # what one candidate leaves in cycles must not be freed in the time of the next
            gc.collect()
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
