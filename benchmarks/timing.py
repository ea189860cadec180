"""What all benchmarks share: interleaved timing, optional peers, and ``--smoke``."""

import argparse
import gc
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from textwrap import shorten
from typing import Any

import torch

Calls = dict[str, Callable[[], Any]]

SECONDS = 8.0
"""A comparison starts no further round after this time, the warm-up round not counted."""

LONG = 60.0
"""A warm-up round that takes longer is measured, and the only one."""

PEERS = {
    "captum": "captum",
    "grad-cam": "pytorch_grad_cam",
    "torch-cam": "torchcam",
    "lucent": "lucent",
    "quantus": "quantus",
    "CRAFT": "sklearn",
}
"""Candidates are named after their library first; these may be missing or fail."""


class Lazy:
    """A module that is imported when one of its names is first used: a peer may be missing."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)


def installed(peer: str) -> bool:
    """Whether a peer of `PEERS` can be imported."""
    return importlib.util.find_spec(PEERS[peer]) is not None


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds of each call; every call runs once per round, so that noise hits all alike.

    Args:
        calls: Candidates by name.
        rounds: Measured rounds, at most, after a warm-up round that is dropped. The warm-up round
            itself is measured if it is the only one: with 0 (``--smoke``), or if it is `LONG`.

    Returns:
        Seconds of the calls that ran, and the reason for each peer that did not.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    failed: dict[str, str] = {}
    begin = time.perf_counter()
    limit = LONG
    for number in range(rounds + 1):
        for name, call in calls.items():
            if name in failed:
                continue
            # garbage cycles of one candidate must not be collected in the time of the next
            gc.collect()
            start = time.perf_counter()
            reason = attempt(name, call)
            seconds = time.perf_counter() - start
            if reason:
                failed[name] = reason
            else:
                times[name].append(seconds)
        if time.perf_counter() - begin > limit:
            break
        if not number:
            begin, limit = time.perf_counter(), SECONDS
    medians = {
        name: statistics.median(found[1:] or found)
        for name, found in times.items()
        if name not in failed
    }
    return medians, failed


def attempt(name: str, call: Callable[[], Any]) -> str:
    """Runs a candidate; the reason if it belongs to a peer that is missing or fails, else ""."""
    peer = name.partition(" ")[0]
    if peer not in PEERS:
        call()
        return ""
    if not installed(peer):
        return "not installed"
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
        return shorten(f"failed: {type(error).__name__}: {error}", 120, placeholder=" …")
    return ""


def parse(parser: argparse.ArgumentParser, **smoke: object) -> argparse.Namespace:
    """Parses the command line, with ``--smoke``, and sets two threads.

    A smoke run takes one: where other processes share the cores, two wait for each other.

    Args:
        parser: The benchmark's own options.
        smoke: Their values under ``--smoke``.
    """
    parser.add_argument(
        "--smoke", action="store_true", help="one round on tiny inputs: check that everything runs"
    )
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(smoke)
    torch.set_num_threads(1 if options.smoke else 2)
    return options
