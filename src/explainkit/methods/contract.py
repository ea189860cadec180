"""What the engine asks of a method. It inspects the fields of methods nowhere else.

The role of a field is declared in its metadata, never by its name:

- ``field(metadata={"per_image": True})``: a tensor, tuple or list may hold one value per image.
- ``field(metadata={"seed": True})``: the seed of the method's random numbers.
- ``field(metadata={"layer": True})``: the layer, or layers, that the method uses.

A class attribute ``hides_parts = True`` says that a method measures what hiding parts of the image
does: a scorecard then hides other parts. ``only_runs = True`` says that all it does with a model is
to run it, without gradients and layers: such runs can have a lower precision. ``volumes = True``
says that it also explains volumes and clips, ``[batch, channel, depth, height, width]``.

A method that holds another method in a field wraps it. All functions here apply to the wrapped
method as well.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.interfaces import Method

M = TypeVar("M", bound=Method)


def is_method(value: object) -> bool:
    """Whether this is an instance of a method, ready to be called."""
    return is_dataclass(value) and not isinstance(value, type) and callable(value)


def is_seed(field: "Field[Any]") -> bool:
    """Whether a field is a seed."""
    return bool(field.metadata.get("seed"))


def seeded(method: M, seed: int) -> M:
    """The method, and those it wraps, with every seed set."""
    return _changed(method, "seed", lambda _field, _value: seed)


def seed_of(method: Method) -> int | None:
    """The first seed of the method or of those it wraps; None if nothing is random."""
    return next((value for _, value in _marked(method, "seed")), None)


def looks_at_layers(method: Method) -> bool:
    """Whether the method, or one that it wraps, uses a layer."""
    return any(True for _ in _marked(method, "layer"))


def hides_parts(method: Method) -> bool:
    """Whether the method, or one that it wraps, measures what hiding parts of the image does.

    Such a method says so with the class attribute ``hides_parts = True``.
    """
    return any(_declared(method, "hides_parts"))


def only_runs(method: Method) -> bool:
    """Whether the method, and every one that it wraps, does nothing with a model but run it.

    Such a method says so with the class attribute ``only_runs = True``.
    """
    return all(_declared(method, "only_runs"))


def explains_volumes(method: Method) -> bool:
    """Whether the method, and every one that it wraps, explains volumes and clips.

    Such a method says so with the class attribute ``volumes = True``.
    """
    return all(_declared(method, "volumes"))


def _declared(method: Method, name: str) -> Iterator[bool]:
    """An attribute of the method, and of every one that it wraps; false where there is none."""
    yield bool(getattr(method, name, False))
    for field in fields(method):
        if is_method(one := getattr(method, field.name)):
            yield from _declared(one, name)


def with_layers(method: M, path_of: Callable[[nn.Module], str]) -> M:
    """The method with its layers, and those of the methods it wraps, given as paths.

    Args:
        method: The method.
        path_of: Gives the dotted path of a module.
    """

    def path(layer: Any) -> Any:
        return path_of(layer) if isinstance(layer, nn.Module) else layer

    def paths(_field: str, value: Any) -> Any:
        return tuple(map(path, value)) if isinstance(value, tuple | list) else path(value)

    return _changed(method, "layer", paths)


def for_images(
    method: M, rows: Sequence[int], count: int, shapes: Sequence[tuple[int, ...]] = ()
) -> M:
    """The method for a batch that consists of some of the images, possibly repeated.

    Fields with one value per image are indexed accordingly. Values meant for all images stay as
    they are: anything but a tensor, tuple or list, and a tensor of one of the ``shapes``, with or
    without a batch axis of length 1.

    Args:
        method: The method.
        rows: For each image of the new batch, its index in the original batch.
        count: Number of images in the original batch.
        shapes: Shapes that a value for one image can have.

    Raises:
        MethodError: A field with one value per image has the wrong number of values.

    Examples:
        >>> import torch
        >>> from explainkit.methods.path.integrated import IntegratedGradients
        >>> two = IntegratedGradients(baseline=torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        >>> for_images(two, [1, 1, 1], 2).baseline.flatten()
        tensor([2., 2., 2.])
    """

    def cut(field: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            shape = tuple(value.shape)
            if not shape or shape in shapes or (shape[0] == 1 and shape[1:] in shapes):
                return value
            if len(value) != count and len(shape) in map(len, shapes):
                return value  # meant for all images: the method itself reports the wrong shape
        elif not (isinstance(value, tuple | list) and value):
            return value
        if len(value) != count:
            raise MethodError(
                f"{field}: expected one for all images or one per image, {count}, got "
                f"{list(value.shape) if isinstance(value, Tensor) else len(value)}"
            )
        return value[list(rows)] if isinstance(value, Tensor) else [value[row] for row in rows]

    return _changed(method, "per_image", cut)


def _marked(method: Method, mark: str) -> Iterator[tuple[str, Any]]:
    """Names and values of the marked fields, of the method and of those it wraps."""
    for field in fields(method):
        value = getattr(method, field.name)
        if field.metadata.get(mark):
            yield field.name, value
        if is_method(value):
            yield from _marked(value, mark)


def _changed(method: M, mark: str, change: Callable[[str, Any], Any]) -> M:
    """The method, and those it wraps, with every marked field changed."""
    changes: dict[str, Any] = {}
    for field in fields(method):
        value = getattr(method, field.name)
        if field.metadata.get(mark):
            new = change(field.name, value)
        elif is_method(value):
            new = _changed(value, mark, change)
        else:
            continue
        if new is not value:
            changes[field.name] = new
    return replace(method, **changes) if changes else method
