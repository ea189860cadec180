"""Names to things: what is registered, and how a name and parameters become one of them."""

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from explainkit.catalog import discovery
from explainkit.catalog.synonyms import parameter_hint
from explainkit.catalog.weights import build, load_file
from explainkit.errors import MethodError, UnknownNameError
from explainkit.interfaces import Dataset, DatasetSpec, Method, ModelSpec
from explainkit.methods.contract import is_method

if TYPE_CHECKING:
    from explainkit.interfaces import Maximizer

AnyMethod = str | Method | type[Method]
"""A method, its class, or its registered name."""


def list_methods() -> dict[str, str]:
    """All saliency methods: qualified name to what it does in one line."""
    return discovery.described("methods")


def list_models() -> dict[str, str]:
    """All models: qualified name to what it is in one line."""
    return discovery.described("models")


def list_datasets() -> dict[str, str]:
    """All data sets: qualified name to what it is in one line."""
    return discovery.described("datasets")


def list_maximizers() -> dict[str, str]:
    """All ways to maximize: qualified name to what it does in one line."""
    return discovery.described("maximizers")


def load_model(name: str | Path) -> nn.Module:
    """Builds a registered model with its trained weights, or one from a file of weights.

    Args:
        name: ``"fer_hw3/cnn"``, or ``"cnn"`` while that is unique; or the path of a
            ``.safetensors`` file whose metadata names its architecture
            (``explainkit_model: fer_hw3/cnn``).

    Returns:
        The module in eval mode, float32, on the CPU, with its `ModelSpec` at ``.explainkit_spec``.

    Raises:
        UnknownNameError: No such model.
        ModelError: The weights are missing, damaged, or of another architecture.
    """
    if Path(name).suffix or Path(name).is_file():
        return load_file(Path(name))
    registry = discovery.registry("models")
    qualified = registry.qualify(str(name))
    return build(qualified, typing.cast(ModelSpec, registry.get(qualified)))


def load_dataset(
    name: str, path: str | Path | None = None, split: str = "train", seed: int = 0
) -> Dataset:
    """Reads a registered data set.

    Args:
        name: ``"fer_hw3/fer2013"``, or ``"fer2013"`` while that is unique.
        path: The file or folder; None for data that is embedded in its plugin.
        split: One of the data set's splits; ``"all"`` is every image.
        seed: Of splits and images that are drawn at random.

    Raises:
        UnknownNameError: No such data set.
        DatasetError: The data can't be read, or has no such split.
    """
    spec = typing.cast(DatasetSpec, discovery.registry("datasets").get(name))
    return spec.load(None if path is None else Path(path), split, seed=seed)


def load_method(method: str | Method | type[Method], **params: Any) -> Method:
    """Makes a method from its name and its parameters.

    Args:
        method: A registered name, a class, or a method that only needs some fields changed.
        **params: Its fields. A field that holds a method takes a name too.

    Raises:
        UnknownNameError: No such method.
        MethodError: A parameter that the method doesn't have, or a value that it refuses.
    """
    kind: Any = discovery.registry("methods").get(method) if isinstance(method, str) else method
    if not (is_method(kind) or (isinstance(kind, type) and dataclasses.is_dataclass(kind))):
        raise MethodError(
            f"expected a method's name, or a dataclass that is called with a model, inputs and "
            f"a target, got {method!r}"
        )
    _check_fields(kind, method_name(kind), params)
    for name, value in params.items():
        if isinstance(value, str) and _holds_method(kind, name):
            params[name] = load_method(value)
    made: Method = kind(**params) if isinstance(kind, type) else dataclasses.replace(kind, **params)
    return made


def load_methods(methods: Sequence[AnyMethod], params: dict[str, Any]) -> list[Method]:
    """Makes several methods of one set of parameters, each of those that it has.

    Raises:
        MethodError: No method at all, or a parameter that none of them has.
    """
    if not methods:
        raise MethodError("expected at least one method, got an empty list")
    if len(methods) == 1:
        return [load_method(methods[0], **params)]
    made = [load_method(method) for method in methods]
    fields = [{f.name for f in dataclasses.fields(method) if f.init} for method in made]
    every = set().union(*fields)
    for foreign in sorted(params.keys() - every):
        near = parameter_hint(foreign, every)
        hint = f"; did you mean {near}=?" if near else ""
        names = ", ".join(method_name(method) for method in made)
        raise MethodError(f"expected a parameter of {names}, got {foreign!r}: none has it{hint}")
    return [
        load_method(method, **{name: params[name] for name in params.keys() & own})
        for method, own in zip(methods, fields, strict=True)
    ]


def load_maximizer(maximizer: "str | Maximizer | type[Maximizer]", **params: Any) -> "Maximizer":
    """Makes a maximizer from its name and its parameters.

    Args:
        maximizer: A registered name, a class, or a maximizer that only needs some fields changed.
        **params: Its fields.

    Raises:
        UnknownNameError: No such maximizer.
        MethodError: A parameter that it doesn't have, or a value that it refuses.
    """
    registry = discovery.registry("maximizers")
    kind: Any = registry.get(maximizer) if isinstance(maximizer, str) else maximizer
    if not dataclasses.is_dataclass(kind) or not callable(kind):
        raise MethodError(
            "expected a maximizer's name, or a dataclass that is called with a problem, got "
            f"{maximizer!r}"
        )
    of = kind if isinstance(kind, type) else type(kind)
    _check_fields(kind, registry.name_of(of) or class_name(of), params)
    made: Any = kind(**params) if isinstance(kind, type) else dataclasses.replace(kind, **params)
    return typing.cast("Maximizer", made)


def is_method_name(text: str) -> bool:
    """Whether a text names a registered method."""
    try:
        discovery.registry("methods").qualify(text)
    except UnknownNameError:
        return False
    return True


def method_name(method: Method | type[Method]) -> str:
    """Qualified name of a method; module and class of one that isn't registered."""
    kind = method if isinstance(method, type) else type(method)
    return discovery.registry("methods").name_of(kind) or class_name(kind)


def method_params(method: Method) -> dict[str, Any]:
    """A method's fields; a nested method is its name and its own fields."""
    fields = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    return {
        name: {"method": method_name(value), **method_params(value)} if is_method(value) else value
        for name, value in fields.items()
    }


def _holds_method(kind: Any, field: str) -> bool:
    hints = typing.get_type_hints(kind if isinstance(kind, type) else type(kind))
    return hints.get(field) is Method


def _check_fields(kind: Any, name: str, params: dict[str, Any]) -> None:
    """Refuses parameters that a dataclass doesn't have, and the lack of one that it needs.

    Raises:
        MethodError: Names the nearest field, or the one that lacks.
    """
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


def class_name(kind: type) -> str:
    """What a class that isn't registered is called; one of the running script by its name alone."""
    module = "" if kind.__module__ == "__main__" else f"{kind.__module__}."
    return module + kind.__qualname__
