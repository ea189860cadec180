"""Generators of random numbers that a model holds: read, seeded and put back."""

import random
import sys
from collections.abc import Callable
from typing import Any

import torch


class HeldGenerator:
    """A generator of random numbers that a model holds.

    Args:
        read: Returns its state.
        write: Sets its state.
        seed: Seeds it.
    """

    def __init__(
        self, read: Callable[[], Any], write: Callable[[Any], Any], seed: Callable[[int], Any]
    ) -> None:
        self._write, self.seed, self._state = write, seed, read()

    def restore(self) -> None:
        """Puts the state back."""
        self._write(self._state)


def access(value: Any) -> tuple[Callable[..., Any], ...] | None:
    """How to read, write and seed a generator; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state, value.manual_seed
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.getstate, value.setstate, value.seed
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if isinstance(value, numpy.random.RandomState):
        return value.get_state, value.set_state, lambda seed: value.seed(seed % 2**32)
    bits = value.bit_generator if isinstance(value, numpy.random.Generator) else value
    if not isinstance(bits, numpy.random.BitGenerator):
        return None

    def write(state: Any) -> None:
        bits.state = state

    return lambda: bits.state, write, lambda seed: write(type(bits)(seed).state)
