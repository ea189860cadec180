"""Results about a model, cached while the model is alive and its structure is unchanged.

A cached trace is checked twice before it is used: by the model's structure (here), and by comparing
its output with the model's own on the example (`explainkit.graph.trace`). Both are needed. Only the
comparison detects changes outside the modules, such as of a global variable. Only the structure
detects changes without effect on the example: if a model clamps at ``self.limit`` and the limit is
lowered, a trace made before still clamps at the old one, and is wrong for images that exceed it.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

V = TypeVar("V")

_OWN = frozenset(vars(nn.Module())) - {"training"}
"""Attributes of every module; children, parameters and hooks are compared separately."""

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Where a module keeps its hooks."""


class Cached(Generic[V]):
    """A cache of values per model and key.

    A value is dropped with its model, or when the model's structure has changed: a submodule, mode,
    hook, patched method, plain attribute, or a parameter's shape or dtype. Parameter values may
    change. Changes outside the model, such as of a global variable, are not detected: users of the
    cache must check for them.

    A value must not refer to the model, which would otherwise never be freed.

    Examples:
        >>> net, cache = nn.Sequential(nn.Linear(2, 2)), Cached[str]()
        >>> cache.put(net, "name", "small")
        >>> cache.get(net, "name")
        'small'
        >>> net[0] = nn.Linear(2, 2)
        >>> cache.get(net, "name") is None
        True
    """

    def __init__(self, most: int | None = None) -> None:
        """Creates an empty cache, which keeps the last ``most`` values per model; None: all."""
        self._most = most
        self._values: WeakKeyDictionary[nn.Module, tuple[Any, dict[Any, V]]] = WeakKeyDictionary()

    def get(self, model: nn.Module, key: Any, state: Any = None) -> V | None:
        """The cached value, or None if there is none or the model has changed.

        Args:
            model: The model.
            key: What the value is about.
            state: What the value depends on, as given to `put`; None: the model's structure.
        """
        cached, values = self._values.get(model, (None, {}))
        if not values or cached != (_fingerprint(model) if state is None else state):
            return None
        return values.get(key)

    def once(self, model: nn.Module, key: Any, find: Callable[[], V], state: Any = None) -> V:
        """The cached value, or the one that ``find`` returns, which is cached then."""
        if state is None:
            state = _fingerprint(model)
        cached, values = self._values.get(model, (None, {}))
        if cached != state or key not in values:
            self.put(model, key, find(), state)
            _, values = self._values[model]
        return values[key]

    def put(self, model: nn.Module, key: Any, value: V, state: Any = None) -> None:
        """Caches a value for the model's current structure, or for a ``state``."""
        if state is None:
            state = _fingerprint(model)
        cached, values = self._values.get(model, (None, {}))
        if cached != state:
            self._values[model] = state, values = state, {}
        values[key] = value
        if self._most is not None and len(values) > self._most:
            del values[next(iter(values))]


def _fingerprint(model: nn.Module) -> Any:
    """The structure of a model: equal if it runs the same operators, for any parameter values."""
    return (
        tuple(tuple(getattr(torch_module, f"_global{name}", ())) for name in HOOKS),
        *(
            (
                path,
                # not an id, which a later module may reuse
                ref(module),
                # that of a scripted module is no Python, and its own alone
                _plain(getattr(type(module), "forward", None)),
                tuple(tuple(getattr(module, name)) for name in HOOKS),
                tuple(
                    (name, _plain(value))
                    for held in (module._parameters, module._buffers)
                    for name, value in held.items()
                ),
                tuple((n, _plain(v)) for n, v in vars(module).items() if n not in _OWN),
            )
            for path, module in model.named_modules(remove_duplicate=False)
        ),
    )


def _plain(value: Any, depth: int = 4) -> Any:
    """A comparable stand-in for a value: a tensor's shape and dtype, an object's identity."""
    match value:
        case Tensor():
            return value.shape, value.dtype, value.device, value.layout
        case bool() | int() | float() | complex() | str() | bytes() | None:
            return type(value), value
        case list() | tuple() | set() | frozenset() if depth:
            return type(value), tuple(_plain(v, depth - 1) for v in value)
        case dict() if depth:
            items = ((_plain(k, depth - 1), _plain(v, depth - 1)) for k, v in value.items())
            return type(value), tuple(items)
    try:
        return ref(value)
    except TypeError:
        return value
