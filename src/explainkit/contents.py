"""What modules hold besides what they register: containers, objects, tensors and generators."""

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

LONG = 10_000
"""The elements of longer containers are not searched."""

MOST = 2_000
"""Containers and objects that are searched inside other ones."""

_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, torch.device, torch.dtype, torch.Size}
)
_CONTAINERS = frozenset({dict, OrderedDict, list, set, deque})
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_FOREIGN = (sys.stdlib_module_names | {"torch", "numpy"}) - {"types"}
"""Packages whose objects are left alone: a lock or a queue belongs to other threads, too."""


class Contents:
    """What the attributes of modules hold, each once.

    Torch's global module hooks are among the containers.

    Attributes:
        empty: Empty containers, most of them of hooks, and too many to allocate anything for each.
        containers: Other containers, and the ``__dict__`` of objects, with shallow copies.
        tensors: Tensors that are not registered.
        generators: Generators of random numbers.

    Args:
        attributes: Copies of the modules' ``__dict__``.
        known: The modules, and tensors that need not be found.
    """

    def __init__(self, attributes: Iterable[dict[str, Any]], known: Iterable[object]) -> None:
        attributes = [*attributes]
        # what a module registers is known: nothing inside has to be searched
        registries: list[Any] = [one.get(name) for one in attributes for name in _REGISTRIES]
        registries = [one for one in registries if type(one) in _CONTAINERS and one]
        self.containers: list[tuple[Any, Any]] = [(one, dict(one)) for one in registries]
        self.tensors: list[Tensor] = []
        self.generators: list[HeldGenerator] = []
        hooks = {name: v for name, v in vars(torch_module).items() if name.startswith("_global_")}
        values = [*chain.from_iterable(map(dict.values, (*attributes, hooks)))]
        objects = [one for one in values if type(one) not in _ATOMS and type(one) is not tuple]
        # most are dictionaries of hooks: loops without a call for each
        self.empty: list[Any] = [one for one in objects if type(one) in _CONTAINERS and not one]
        waiting = deque(one for one in objects if type(one) not in _CONTAINERS or one)
        waiting += [
            one for one in values if type(one) is tuple and not _ATOMS.issuperset(map(type, one))
        ]
        seen = {*map(id, known), *map(id, registries)}
        left = len(waiting) + MOST
        while waiting and left:
            value = waiting.popleft()
            if id(value) not in seen:
                left -= 1
                seen.add(id(value))
                waiting.extend(
                    [
                        inner
                        for inner in self._inside(value)
                        if type(inner) not in _ATOMS and id(inner) not in seen
                    ]
                )

    def _inside(self, value: Any) -> Iterable[Any]:
        """Notes a value; returns what it holds."""
        if isinstance(value, (dict, list, set, deque)):
            self.containers.append((value, _shallow(value)))
            if len(value) > LONG:
                return ()
            return value.values() if isinstance(value, dict) else value
        if isinstance(value, tuple):
            return value
        if isinstance(value, Tensor):
            self.tensors.append(value)
        elif access := _access(value):
            self.generators.append(HeldGenerator(*access))
        elif isinstance(value, nn.Module) or (
            hasattr(value, "__dict__")
            and not isinstance(value, type)
            and type(value).__module__.partition(".")[0] not in _FOREIGN
        ):
            return [vars(value)]
        return ()


def differing(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """The containers that now hold anything else than their copies."""
    return [pair for pair in pairs if _differ([pair])] if _differ(pairs) else []


def _differ(pairs: list[tuple[Any, Any]]) -> bool:
    """Whether any container holds other objects than its copy; a loop in C."""
    now, then = [one for one, _ in pairs], [one for _, one in pairs]
    if [*map(len, now)] != [*map(len, then)] or not _identical(now, then):
        return True
    values = [[one.values() for one in side if isinstance(one, dict)] for side in (now, then)]
    return not _identical(*values)


def _identical(now: list[Any], then: list[Any]) -> bool:
    return all(map(is_, chain.from_iterable(now), chain.from_iterable(then)))


def refill(pair: tuple[Any, Any]) -> None:
    """Puts back what a container held."""
    container, saved = pair
    container.clear()
    container.update(saved) if isinstance(container, (dict, set)) else container.extend(saved)


def _shallow(container: Any) -> Any:
    """A shallow copy as a plain container, since a subclass may have another constructor."""
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


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


def _access(value: Any) -> tuple[Callable[..., Any], ...] | None:
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
