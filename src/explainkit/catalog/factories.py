"""Lists what is registered, and builds objects from names and parameters."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from explainkit.catalog import discovery
from explainkit.catalog.fields import check_values
from explainkit.catalog.synonyms import parameter_hint
from explainkit.errors import ExplainkitError, MethodError, UnknownNameError
from explainkit.interfaces import Dataset, DatasetSpec, Method
from explainkit.layers import path_of
from explainkit.methods.contract import is_method, with_layers

if TYPE_CHECKING:
    from explainkit.interfaces import Maximizer

AnyMethod = str | Method | type[Method]
"""A method, its class, or its registered name."""


def list_methods() -> dict[str, str]:
    """All saliency methods: qualified name to a one-line summary."""
    return discovery.described("methods")


def list_models() -> dict[str, str]:
    """All models: qualified name to a one-line summary."""
    return discovery.described("models")


def list_datasets() -> dict[str, str]:
    """All data sets: qualified name to a one-line summary."""
    return discovery.described("datasets")


def list_maximizers() -> dict[str, str]:
    """All maximizers: qualified name to a one-line summary."""
    return discovery.described("maximizers")


def list_metrics() -> dict[str, str]:
    """All metrics: qualified name to a one-line summary."""
    return discovery.described("metrics")


def load_dataset(
    name: str, path: str | Path | None = None, split: str = "train", seed: int = 0
) -> Dataset:
    """Loads a registered data set.

    Args:
        name: ``"fer_hw3/fer2013"``, or ``"fer2013"`` if that is unique.
        path: The file or folder; None for data that comes with its plugin.
        split: One of the data set's splits; ``"all"`` is every image.
        seed: Random seed of splits and of synthetic images.

    Raises:
        UnknownNameError: No such data set.
        DatasetError: The data can't be read, or has no such split.
    """
    spec = cast(DatasetSpec, discovery.registry("datasets").get(name))
    return spec.load(None if path is None else Path(path), split, seed=seed)


def load_method(method: str | Method | type[Method], **params: Any) -> Method:
    """Builds a method from its name and its parameters.

    Args:
        method: A registered name, a class, or a method of which some fields are to be changed.
        **params: Its fields. A field that holds a method also takes a method's name.

    Raises:
        UnknownNameError: No such method.
        MethodError: The method has no such parameter, or rejects the value.
    """
    kind = _method(method)
    _check_fields(kind, method_name(kind), params)
    for name, value in params.items():
        if isinstance(value, str) and _holds_method(kind, name):
            params[name] = load_method(value)
    made: Method = _made(kind, method_name(kind), params)
    return made


def _method(method: AnyMethod) -> Any:
    """The class that a name stands for, or a class or method as it is."""
    kind: Any = discovery.registry("methods").get(method) if isinstance(method, str) else method
    if not (is_method(kind) or (isinstance(kind, type) and dataclasses.is_dataclass(kind))):
        raise MethodError(
            f"expected a method's name, or a dataclass that is called with a model, inputs and "
            f"a target, got {method!r}"
        )
    return kind


def load_methods(
    methods: AnyMethod | Sequence[AnyMethod], params: dict[str, Any], module: nn.Module
) -> list[Method]:
    """Builds a method or several from one set of parameters; each takes those that it has.

    Layers that are given as modules become their paths in ``module``.
    """
    listed: list[Any] = list(methods) if isinstance(methods, list | tuple) else [methods]
    if not listed:
        raise MethodError("expected at least one method, got an empty list")
    own = [params]
    if len(listed) > 1:
        kinds = [_method(method) for method in listed]
        fields = [{f.name for f in dataclasses.fields(kind) if f.init} for kind in kinds]
        every = set().union(*fields)
        for foreign in sorted(params.keys() - every):
            near = parameter_hint(foreign, every)
            hint = f"; did you mean {near}=?" if near else ""
            names = ", ".join(map(method_name, kinds))
            raise MethodError(
                f"expected a parameter of {names}, got {foreign!r}: none has it{hint}"
            )
        own = [{name: params[name] for name in params.keys() & known} for known in fields]
    made = [load_method(method, **values) for method, values in zip(listed, own, strict=True)]
    return [with_layers(one, partial(path_of, module)) for one in made]


def load_maximizer(maximizer: "str | Maximizer | type[Maximizer]", **params: Any) -> "Maximizer":
    """Builds a maximizer from its name and its parameters."""
    registry = discovery.registry("maximizers")
    kind: Any = registry.get(maximizer) if isinstance(maximizer, str) else maximizer
    if not dataclasses.is_dataclass(kind) or not callable(kind):
        raise MethodError(
            "expected a maximizer's name, or a dataclass that is called with a problem, got "
            f"{maximizer!r}"
        )
    of = kind if isinstance(kind, type) else type(kind)
    name = registry.name_of(of) or class_name(of)
    _check_fields(kind, name, params)
    return cast("Maximizer", _made(kind, name, params))


def is_method_name(text: str) -> bool:
    """Whether a string names a registered method."""
    try:
        discovery.registry("methods").qualify(text)
    except UnknownNameError:
        return False
    return True


def method_name(method: Method | type[Method]) -> str:
    """Qualified name of a method, or module and class if it is not registered."""
    kind = method if isinstance(method, type) else type(method)
    return discovery.registry("methods").name_of(kind) or class_name(kind)


def method_params(method: Method) -> dict[str, Any]:
    """A method's fields; a nested method becomes a mapping of its name and its own fields.

    Of a function, the name is left.
    """
    return _as_params({f.name: getattr(method, f.name) for f in dataclasses.fields(method)})


def method_from(name: str, params: Mapping[str, Any]) -> Method:
    """The method that `method_name` and `method_params` describe.

    Raises:
        UnknownNameError: No such method is registered.
        MethodError: It has other parameters.
    """
    return load_method(name, **{field: _from_param(value) for field, value in params.items()})


def _from_param(value: Any) -> Any:
    """What `_as_param` recorded; JSON has lists in the place of tuples."""
    if isinstance(value, Mapping) and "method" in value:
        return method_from(value["method"], {k: v for k, v in value.items() if k != "method"})
    return tuple(map(_from_param, value)) if isinstance(value, list) else value


def default_params(method: str) -> dict[str, Any]:
    """The defaults of a registered method's fields, as `method_params` gives them."""
    return _as_params(defaults(discovery.registry("methods").get(method)))


def defaults(kind: Any) -> dict[str, Any]:
    """The default of each field of a dataclass that has one."""
    found = {}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def _as_params(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _as_param(value) for name, value in values.items()}


def _as_param(value: Any) -> Any:
    if is_method(value):
        return {"method": method_name(value), **method_params(value)}
    if callable(value) and not isinstance(value, nn.Module | type):
        return f"function {getattr(value, '__name__', type(value).__name__)}"
    return value


def _holds_method(kind: Any, field: str) -> bool:
    hints = typing.get_type_hints(kind if isinstance(kind, type) else type(kind))
    return hints.get(field) is Method


def _check_fields(kind: Any, name: str, params: dict[str, Any]) -> None:
    """Checks that a dataclass has all given parameters and gets all that it requires."""
    fields_of = [f for f in dataclasses.fields(kind) if f.init]
    known = {f.name for f in fields_of}
    for param in (param for param in params if param not in known):
        near = parameter_hint(param, known) or next(
            iter(difflib.get_close_matches(param, known, n=1)), None
        )
        hint = f"; did you mean {near}=?" if near else ""
        fields = ", ".join(sorted(known)) or "no parameters"
        raise MethodError(f"{name} takes {fields}, got {param!r}{hint}")
    for field in fields_of if isinstance(kind, type) else ():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in params:
            raise MethodError(f"{name}: expected {field.name}=, which has no default")


def _made(kind: Any, name: str, params: Mapping[str, Any]) -> Any:
    """Builds an object and checks the types of its fields, after its own checks, which say more."""
    own = {} if isinstance(kind, type) else vars(kind)
    try:
        made = kind(**params) if isinstance(kind, type) else dataclasses.replace(kind, **params)
    except ExplainkitError:
        raise
    except Exception:
        # a comparison or a conversion failed on a value of another type
        check_values(kind if isinstance(kind, type) else type(kind), name, {**own, **params})
        raise
    fields = dataclasses.fields(made)
    check_values(type(made), name, {field.name: getattr(made, field.name) for field in fields})
    return made


def class_name(kind: type) -> str:
    """Name of a class that is not registered; without its module if that is the running script."""
    module = "" if kind.__module__ == "__main__" else f"{kind.__module__}."
    return module + kind.__qualname__
