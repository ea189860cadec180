"""Models of several inputs, presented to methods as models of one image."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from explainkit.engine.checks import Outcome, joined
from explainkit.engine.inputs import check_images
from explainkit.engine.runner import run_all
from explainkit.engine.targets import Score
from explainkit.errors import InputError, MethodError
from explainkit.interfaces import Method, Target
from explainkit.methods.contract import for_images, hides_parts
from explainkit.scores import Outputs

Which = str | int | Sequence[str | int] | None
"""Names or positions of the inputs to explain; None: all images."""

Source = Callable[[], nn.Module | None]
"""Gives a model, or None if it no longer exists."""

_SHARED = "the method gives one map for all explained inputs: it is that of each; wrt= explains one"


class OneMap(NamedTuple):
    """A method's map of one target, and of one input if a model has several.

    Attributes:
        method: As it was run.
        outcome: What it returned.
        score: The expression or function that was explained; None: a class.
        images: What the map is of, ``[batch, channel, height, width]``.
        source: Gives the model again, as one of these images.
        input: Name of the input that they are; None: the model has one.
    """

    method: Method
    outcome: Outcome
    score: Score
    images: Tensor
    source: Source
    input: str | None = None


@dataclass(frozen=True, eq=False)
class SeveralInputs:
    """The inputs of a model, by name.

    Attributes:
        explained: Images ``[batch, channel, height, width]`` of one height and width.
        fixed: All other inputs: a tensor has a row for each image, or one for all.
        positional: The inputs that are passed by position, in order; the others go by name.
    """

    explained: Mapping[str, Tensor]
    fixed: Mapping[str, Any]
    positional: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module, inputs: object, wrt: Which) -> "SeveralInputs | None":
        """The inputs, if a caller passed several: a dict, or a tuple with tensors.

        Raises:
            InputError: An input that is to be explained is none or is no image, images have
                different sizes, or a tensor has neither a row for each image nor one for all.
        """
        positional: tuple[str, ...] = ()
        if isinstance(inputs, Mapping):
            named = dict(inputs)
        elif isinstance(inputs, tuple) and any(isinstance(one, Tensor) for one in inputs):
            positional = _names(module, len(inputs))
            named = dict(zip(positional, inputs, strict=True))
        elif wrt is None:
            return None
        else:
            raise InputError(
                f"wrt: expected several inputs to choose from, got {type(inputs).__name__}"
            )
        wanted = _chosen(named, wrt)
        images = {
            name: check_images(module, named[name], volumes=True).detach().clone()
            for name in wanted
        }
        sizes = {name: (len(image), *image.shape[2:]) for name, image in images.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {list(images[name].shape)}" for name in wanted)
            raise InputError(
                "expected inputs of one number, height and width to explain together, got "
                f"{listed}: wrt={wanted[0]!r} explains one, with the others held fixed"
            )
        count = len(images[wanted[0]])
        fixed = {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in named.items()
            if name not in images
        }
        for name, value in fixed.items():
            if isinstance(value, Tensor) and (not value.dim() or len(value) not in {1, count}):
                raise InputError(
                    f"{name}: expected a row for each image, {count}, or one for all, got "
                    f"{list(value.shape)}"
                )
        return cls(images, fixed, positional)

    def __len__(self) -> int:
        return len(next(iter(self.explained.values())))

    @property
    def whole(self) -> Tensor:
        """All explained inputs as one image."""
        return self.stacked(list(self.explained))

    def stacked(self, names: Sequence[str]) -> Tensor:
        """Some of the explained inputs as one image, ``[batch, channels, height, width]``."""
        return torch.cat([self.explained[name] for name in names], 1)

    def value(self, given: Any, names: Sequence[str]) -> Any:
        """A value of a method, such as a baseline, in the form of `stacked`.

        Args:
            given: A dict or tuple with a number or tensor for each explained input; anything else
                is returned.
            names: The inputs.

        Raises:
            InputError: It is a dict that lacks an input, or a value fits no image.
        """
        if isinstance(given, tuple) and len(given) == len(self.explained) > 1:
            given = dict(zip(self.explained, given, strict=True))
        if not isinstance(given, Mapping):
            return given
        if missing := [name for name in names if name not in given]:
            raise InputError(
                f"expected a value for each explained input, got none for {missing[0]!r}"
            )
        parts = [_like(given[name], self.explained[name], name) for name in names]
        rows = max(map(len, parts))
        found = torch.cat([part.expand(rows, *part.shape[1:]) for part in parts], 1)
        return found[0] if rows == 1 else found

    @property
    def _alike(self) -> bool:
        """Whether all images have the same fixed inputs, so that they can run together."""
        tensors = [value for value in self.fixed.values() if isinstance(value, Tensor)]
        return all(bool((value == value[:1]).all()) for value in tensors)

    def _presented(self, module: nn.Module, names: Sequence[str], row: int = 0) -> nn.Module:
        """The model as one of a single image, with the other inputs held fixed.

        Its layers are those of the model, under the same paths.

        Args:
            module: The caller's model.
            names: The inputs that the image consists of, in the order of its channels.
            row: The image whose other inputs are held fixed.
        """
        fixed = {
            name: value[row : row + 1] if isinstance(value, Tensor) and len(value) > 1 else value
            for name, value in self._beside(names).fixed.items()
        }
        counts = [self.explained[name].shape[1] for name in names]
        call, positional = type(module).forward, self.positional

        def forward(model: nn.Module, image: Tensor) -> Any:
            given, first = {}, 0
            for name, count in zip(names, counts, strict=True):
                given[name] = image[:, first : first + count]
                first += count
            for name, value in fixed.items():
                tensor = isinstance(value, Tensor)
                given[name] = value.expand(len(image), *value.shape[1:]) if tensor else value
            ordered = [given.pop(name) for name in positional]
            return call(model, *ordered, **given)

        model = copy.copy(module)
        # a class of its own, since a copy of the model must call the copy
        model.__class__ = type(type(module).__name__, (type(module),), {"forward": forward})
        return model

    def explain(
        self,
        ready: Callable[[dict[str, Any]], list[Method]],
        params: dict[str, Any],
        module: nn.Module,
        source: Source,
        targets: Sequence[Target],
        outputs: Outputs,
        batch_size: int | None,
    ) -> list[OneMap]:
        """Runs methods; those that hide parts of the image explain one input at a time.

        Args:
            ready: Builds the methods from their parameters.
            params: Parameters of the methods, with dicts and tuples of one value for each input.
            module: The caller's model.
            source: Gives it again, as long as it exists.
            targets: As parsed.
            outputs: What the model's outputs mean.
            batch_size: Images run at once; None: chosen.

        Returns:
            For each method and each target, the map of each input.
        """

        def methods(names: Sequence[str]) -> list[Method]:
            return ready({name: self.value(given, names) for name, given in params.items()})

        every = list(self.explained)
        together = methods(every)
        apart = [i for i, method in enumerate(together) if hides_parts(method)]
        jobs = [(every, together, [i for i in range(len(together)) if i not in apart])]
        jobs += [([name], methods([name]) if apart else [], apart) for name in every]
        found = {}
        for names, loaded, chosen in jobs:
            if not chosen:
                continue
            own = [loaded[i] for i in chosen]
            outcomes = self._run(own, module, targets, outputs, batch_size, names)
            for i, of_method in zip(chosen, outcomes, strict=True):
                for t, (outcome, score) in enumerate(of_method):
                    for name in names:
                        part = self._part(outcome, names, name)
                        found[i, t, every.index(name)] = OneMap(
                            loaded[i], part, score, self.explained[name],
                            self._source(source, name), name,
                        )  # fmt: skip
        return [found[key] for key in sorted(found)]

    def _source(self, model: Source, name: str) -> Source:
        """Gives the model of one input, with the others held fixed, from the caller's model."""

        def presented() -> nn.Module | None:
            if not self._beside([name])._alike:
                raise MethodError(
                    "expected the same other inputs for all images, since a scorecard changes "
                    f"{name} alone: explain the images one by one"
                )
            module = model()
            return None if module is None else self._presented(module, [name])

        return presented

    def _beside(self, names: Sequence[str]) -> "SeveralInputs":
        """The same inputs, of which only some are explained."""
        others = {name: value for name, value in self.explained.items() if name not in names}
        own = {name: self.explained[name] for name in names}
        return replace(self, explained=own, fixed={**self.fixed, **others})

    def _run(
        self,
        methods: Sequence[Method],
        module: nn.Module,
        targets: Sequence[Target],
        outputs: Outputs,
        batch_size: int | None,
        names: Sequence[str],
    ) -> list[list[tuple[Outcome, Score]]]:
        """As `run_all`, of some of the inputs as one image.

        Images whose fixed inputs differ run one by one, so that each evaluation of the model
        belongs to a known image.
        """
        images = self.stacked(names)
        if self._beside(names)._alike:
            model = self._presented(module, names)
            return run_all(methods, model, images, targets, outputs, batch_size)
        shapes = [tuple(images.shape[1:]), tuple(images.shape[2:])]
        rows = []
        for i in range(len(images)):
            chosen = [t[i : i + 1] if isinstance(t, Tensor) and t.dim() else t for t in targets]
            own = [for_images(method, [i], len(images), shapes) for method in methods]
            model = self._presented(module, names, i)
            rows.append(run_all(own, model, images[i : i + 1], chosen, outputs, None))
        return [
            [
                (joined([row[m][t][0] for row in rows]), rows[0][m][t][1])
                for t in range(len(rows[0][m]))
            ]
            for m in range(len(methods))
        ]

    def _part(self, found: Outcome, names: Sequence[str], name: str) -> Outcome:
        """What an outcome for several inputs says about one of them."""
        if len(names) == 1:
            return found
        counts = [self.explained[one].shape[1] for one in names]
        if found.values.shape[1] != sum(counts):
            return replace(found, warnings=(*found.warnings, _SHARED))
        first = sum(counts[: list(names).index(name)])
        rows = slice(first, first + self.explained[name].shape[1])
        error = found.standard_error
        return replace(
            found,
            values=found.values[:, rows],
            standard_error=error if error is None or error.shape[1] == 1 else error[:, rows],
        )


def _names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of a model's first inputs; their positions where it does not tell."""
    with suppress(TypeError, ValueError):
        found = inspect.signature(module.forward).parameters.values()
        named = [one.name for one in found if one.kind == one.POSITIONAL_OR_KEYWORD]
        if len(named) >= count:
            return tuple(named[:count])
    return tuple(map(str, range(count)))


def _chosen(named: Mapping[str, Any], wrt: Which) -> list[str]:
    """Names of the inputs to explain, in the order of the inputs."""
    if wrt is None:
        found = [
            name
            for name, value in named.items()
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() in {4, 5}
        ]
        if found:
            return found
        raise InputError(
            "expected an image [batch, channel, height, width] among the inputs, got "
            f"{', '.join(named) or 'none'}"
        )
    wanted = [wrt] if isinstance(wrt, str | int) else list(wrt)
    known = list(named)
    chosen = {
        known[one] if isinstance(one, int) and 0 <= one < len(known) else one for one in wanted
    }
    if not chosen or (unknown := [one for one in chosen if one not in named]):
        got = repr(unknown[0]) if chosen else "none"
        raise InputError(f"wrt: expected names among {', '.join(known)}, got {got}")
    return [name for name in known if name in chosen]


def _like(value: Any, images: Tensor, name: str) -> Tensor:
    """A number or tensor as images, ``[batch or 1, channel, height, width]``."""
    tensor = torch.as_tensor(value, dtype=images.dtype, device=images.device)
    shape = images.shape[1:]
    if not tensor.dim() or tensor.shape == shape:
        return tensor.expand(1, *shape)
    if tensor.shape[1:] == shape and len(tensor) in {1, len(images)}:
        return tensor
    raise InputError(
        f"{name}: expected a number or an image {list(shape)}, or one for each image, got "
        f"{list(tensor.shape)}"
    )
