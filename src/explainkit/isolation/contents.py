"""What modules hold besides what they register: containers, objects, tensors and generators.

A network has thousands of attributes, most of them empty containers of hooks, and nearly all are as
they were after a call. So they are listed and compared together, in loops that run in C.
"""

import sys
from collections import OrderedDict, deque
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain, compress, filterfalse
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from explainkit.isolation.generators import HeldGenerator, access
from explainkit.layers import Members

LONG = 10_000
"""The elements of longer containers are not searched."""

MOST = 2_000
"""Containers and objects that are searched inside other ones."""

_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, torch.device, torch.dtype, torch.Size}
)
_CONTAINERS = frozenset({dict, OrderedDict, list, set, deque})
_FOREIGN = (sys.stdlib_module_names | {"torch", "numpy"}) - {"types"}
"""Packages whose objects are left alone: a lock or a queue belongs to other threads, too."""

_PLAIN = vars(nn.Module())
"""Attributes that every module has: registries, most of them empty, and two atoms."""

_GLOBAL = [name for name in vars(torch_module) if name.startswith("_global_")]
"""Torch's hooks of all modules."""

Pair = tuple[Any, Any]
"""A container, and what it held as a shallow copy."""


class Contents:
    """What the attributes of modules hold, each once.

    Torch's global module hooks are among the containers.

    Attributes:
        tensors: Tensors that are not registered.
        generators: Generators of random numbers.

    Args:
        members: Of the model.
    """

    def __init__(self, members: Members) -> None:
        self._modules = members.modules
        self.tensors: list[Tensor] = []
        self.generators: list[HeldGenerator] = []
        self._own = Snapshot([*map(vars, self._modules)], names=True)
        of_all, of_some = _selectors(tuple(self._own.elements))
        common = [*compress(self._own.values, of_all)]
        # what a module registers is known: nothing inside has to be searched
        registries = [one for one in members.registries if type(one) in _CONTAINERS and one]
        self._containers = [*filterfalse(None, common)]
        filled = [*registries]
        seen = {*map(id, chain(*members.registered, registries))}
        hooks = [getattr(torch_module, name) for name in _GLOBAL]
        level = [*filter(None, common), *compress(self._own.values, of_some), *hooks]
        left = MOST
        while level:
            types = [*map(type, level)]
            containers = [*compress(level, map(_CONTAINERS.__contains__, types))]
            self._containers += containers
            found = [one for one in filter(None, containers) if id(one) not in seen]
            filled += found
            inner = [*chain.from_iterable(map(_elements, found))]
            others = {*types} - _ATOMS - _CONTAINERS
            for one in [*compress(level, map(others.__contains__, types))] if others else ():
                if type(one) is tuple:
                    inner += one
                elif id(one) not in seen:
                    inner += self._inside(one, filled)
                    seen.add(id(one))
            seen.update(map(id, found))
            unknown = {id(one): one for one in inner if type(one) not in _ATOMS}
            level = [one for key, one in unknown.items() if key not in seen][:left]
            left -= len(level)
        self._filled = Snapshot([*{id(one): one for one in filled}.values()])
        self._known = frozenset(map(id, filled))

    def _inside(self, value: Any, filled: list[Any]) -> Iterable[Any]:
        """Notes a value that is no plain container; returns what it holds."""
        if isinstance(value, (dict, list, set, deque)):
            filled.append(value)
            return _elements(value)
        if isinstance(value, tuple):
            return value
        if isinstance(value, Tensor):
            self.tensors.append(value)
        elif accessors := access(value):
            self.generators.append(HeldGenerator(*accessors))
        elif isinstance(value, nn.Module) or (
            hasattr(value, "__dict__")
            and not isinstance(value, type)
            and type(value).__module__.partition(".")[0] not in _FOREIGN
        ):
            return [vars(value)]
        return ()

    def changed(self) -> list[Pair]:
        """The containers that now hold anything else, those inside others first."""
        new = [one for one in filter(None, self._containers) if id(one) not in self._known]
        return [
            *self._filled.changed(self._filled.containers),
            *((one, ()) for one in new),
            *self._own.changed([*map(vars, self._modules)]),
        ]


class Snapshot:
    """What containers hold, one after the other in a list.

    Attributes:
        containers: The containers.
        values: The values of those that are dictionaries.
        elements: What the containers list: keys of dictionaries, values of others.

    Args:
        containers: The containers.
        names: Whether they list strings alone, which are compared by value: much faster.
    """

    def __init__(self, containers: list[Any], *, names: bool = False) -> None:
        self.containers = containers
        self._names = names
        self.values = [*_values(containers)]
        self._sizes = [*map(len, containers)]
        self.elements = [*chain.from_iterable(containers)]

    def changed(self, now: list[Any]) -> list[Pair]:
        """The containers that hold anything else now.

        Args:
            now: The same containers, or what stands in their place.
        """
        listed = [*chain.from_iterable(now)]
        same = listed == self.elements if self._names else all(map(is_, listed, self.elements))
        if same and [*map(len, now)] == self._sizes and all(map(is_, self.values, _values(now))):
            return []
        pairs = zip(now, self._copies(), strict=True)
        return [(one, then) for one, then in pairs if not _identical(one, then)]

    def _copies(self) -> Iterable[Any]:
        """What each container held, in plain containers: a subclass may be made differently."""
        elements, values = iter(self.elements), iter(self.values)
        for one, size in zip(self.containers, self._sizes, strict=True):
            own = [next(elements) for _ in range(size)]
            yield {key: next(values) for key in own} if isinstance(one, dict) else own


@lru_cache(16)
def _selectors(names: tuple[str, ...]) -> tuple[list[bool], list[bool]]:
    """Which attributes of modules are registries that all modules have, and which are others.

    Torch asks in each forward whether a registry is empty, so asking is safe, and fast.
    """
    registries = {name for name, value in _PLAIN.items() if type(value) in _CONTAINERS}
    return [name in registries for name in names], [name not in _PLAIN for name in names]


def _values(containers: list[Any]) -> Iterable[Any]:
    return chain.from_iterable([one.values() for one in containers if isinstance(one, dict)])


def _elements(container: Any) -> Iterable[Any]:
    """What is searched inside a container."""
    if len(container) > LONG:
        return ()
    found: Iterable[Any] = container.values() if isinstance(container, dict) else container
    return found


def _identical(now: Any, then: Any) -> bool:
    """Whether a container holds the same objects as its copy."""
    if len(now) != len(then) or not all(map(is_, now, then)):
        return False
    return not isinstance(now, dict) or all(map(is_, now.values(), then.values()))


def refill(pair: Pair) -> None:
    """Puts back what a container held."""
    container, saved = pair
    container.clear()
    container.update(saved) if isinstance(container, (dict, set)) else container.extend(saved)
