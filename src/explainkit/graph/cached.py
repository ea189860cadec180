"""What was found out about a model, kept for as long as the model lives and is built as it was."""

from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

V = TypeVar("V")

_OWN = frozenset(vars(nn.Module())) - {"training"}
"""What every module has: its children, parameters and hooks are looked at by themselves."""

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
)


class Cached(Generic[V]):
    """Findings about models, by a key of the caller's.

    A finding is forgotten with its model, and when the model is built otherwise than when it was
    kept: another submodule, mode, hook, patched method, plain attribute, or shape or type of a
    parameter. The values of parameters may change. What a model reads from elsewhere, such as a
    global variable, is not seen: who takes a finding checks it against the model.

    A finding must not refer to the model, which would then live for ever.

    Examples:
        >>> net, kept = nn.Sequential(nn.Linear(2, 2)), Cached[str]()
        >>> kept.put(net, "name", "small")
        >>> kept.get(net, "name")
        'small'
        >>> net[0] = nn.Linear(2, 2)
        >>> kept.get(net, "name") is None
        True
    """

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[nn.Module, tuple[Any, dict[Any, V]]] = WeakKeyDictionary()

    def get(self, model: nn.Module, key: Any) -> V | None:
        """What was kept under the key; None: nothing, or the model is another now."""
        built, found = self._found.get(model, (None, {}))
        return found.get(key) if found and built == _build(model) else None

    def put(self, model: nn.Module, key: Any, finding: V) -> None:
        """Keeps a finding about the model as it is now."""
        build = _build(model)
        built, found = self._found.get(model, (None, {}))
        if built != build:
            self._found[model] = build, found = build, {}
        found[key] = finding


def _build(model: nn.Module) -> Any:
    """Equal for one model if it runs the same operators, whatever its parameters' values are."""
    return (
        tuple(tuple(getattr(torch_module, f"_global{name}", ())) for name in _HOOKS),
        *(
            (
                path,
                # not an id, which a later module may get
                ref(module),
                _plain(type(module).forward),
                tuple(tuple(getattr(module, name)) for name in _HOOKS),
                tuple((name, _plain(value)) for name, value in _states(module)),
                tuple((n, _plain(v)) for n, v in vars(module).items() if n not in _OWN),
            )
            for path, module in model.named_modules(remove_duplicate=False)
        ),
    )


def _states(module: nn.Module) -> list[tuple[str, Tensor | None]]:
    return [*module._parameters.items(), *module._buffers.items()]


def _plain(value: Any, depth: int = 4) -> Any:
    """A value to compare by: of a tensor its form, of an object which one it is."""
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
