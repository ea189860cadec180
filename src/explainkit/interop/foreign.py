"""The base of methods that call another library, which gives maps of one image at a time."""

from collections.abc import Mapping
from dataclasses import field, make_dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from explainkit.engine.model import shapes_of_one
from explainkit.errors import MethodError
from explainkit.interfaces import Attribution
from explainkit.isolation import preserve_process
from explainkit.methods.contract import for_images

M = TypeVar("M", bound="ForeignMethod")


class ForeignMethod:
    """A method of another library.

    Images are explained one at a time with the global generators seeded for each: other libraries
    draw random numbers from these, so a map would depend on the other images of the batch.
    """

    seed: int

    def map_of(self, model: nn.Module, image: Tensor, target: int) -> Tensor:
        """The other library's map of one image.

        Args:
            model: Gives scores ``[batch, classes]``.
            image: ``[1, channel, height, width]``, a private leaf that requires grad.
            target: The class.
        """
        raise NotImplementedError

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor | Attribution:
        """Returns the maps, in the other library's unit."""
        shapes = shapes_of_one(model, inputs)
        maps = []
        for i, label in enumerate(target.tolist()):
            own = for_images(self, [i], len(inputs), shapes)  # type: ignore[type-var]
            # a new tensor, since the engine's own forward would pass by the other library's hooks
            image = inputs[i : i + 1].detach().clone().requires_grad_()
            with preserve_process(self.seed):
                try:
                    maps.append(own.map_of(model, image, label).detach())
                except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise MethodError(f"{type(self).__name__}: {reason}") from error
        return torch.cat(maps)


def as_method(
    base: type[M],
    name: str,
    module: str,
    values: Mapping[str, Any],
    marks: Mapping[str, str] = {},
    **constants: Any,
) -> M:
    """A method whose fields are the given parameters, so that results record and repeat them.

    Args:
        base: The class that calls the other library.
        name: The method's name in results.
        module: The module that it comes from.
        values: The parameters; a ``seed`` among them is that of the global generators.
        marks: The role of a field, as in `explainkit.methods.contract`.
        **constants: Attributes of the class.
    """
    marks = {"seed": "seed", **marks}
    fields: list[Any] = []
    for key, value in {"seed": 0, **values}.items():
        role = {marks[key]: True} if key in marks else {}
        # a factory, since a default may not be a list or a mapping
        fields.append((key, Any, field(default_factory=partial(_same, value), metadata=role)))
    kind = make_dataclass(name, fields, bases=(base,), frozen=True, namespace=constants)
    kind.__module__ = module
    made: M = kind()
    return made


def _same(value: Any) -> Any:
    return value
