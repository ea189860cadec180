"""Explains each input of a model of several, presented to methods as a model of one image."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from explainkit.engine.checks import Outcome, joined
from explainkit.engine.runner import run_all
from explainkit.engine.several_inputs import SeveralInputs
from explainkit.engine.targets import Score
from explainkit.errors import MethodError
from explainkit.interfaces import Method, Target
from explainkit.methods.contract import for_images, hides_parts
from explainkit.scores import Outputs

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


def explain_each_input(
    inputs: SeveralInputs,
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
        inputs: The inputs of the model.
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
        return ready({name: inputs.value(given, names) for name, given in params.items()})

    every = list(inputs.explained)
    together = methods(every)
    apart = [i for i, method in enumerate(together) if hides_parts(method)]
    jobs = [(every, together, [i for i in range(len(together)) if i not in apart])]
    jobs += [([name], methods([name]) if apart else [], apart) for name in every]
    found = {}
    for names, loaded, chosen in jobs:
        if not chosen:
            continue
        own = [loaded[i] for i in chosen]
        outcomes = _run(inputs, names, own, module, targets, outputs, batch_size)
        for i, of_method in zip(chosen, outcomes, strict=True):
            for t, (outcome, score) in enumerate(of_method):
                for name in names:
                    found[i, t, every.index(name)] = OneMap(
                        loaded[i], _part(outcome, inputs.channels(names), name), score,
                        inputs.explained[name], _source(inputs, name, source), name,
                    )  # fmt: skip
    return [found[key] for key in sorted(found)]


def _source(inputs: SeveralInputs, name: str, model: Source) -> Source:
    """Gives the model of one input, with the others held fixed, from the caller's model."""

    def presented() -> nn.Module | None:
        if not inputs.beside([name]).alike:
            raise MethodError(
                "expected the same other inputs for all images, since a scorecard changes "
                f"{name} alone: explain the images one by one"
            )
        module = model()
        return None if module is None else _presented(inputs, [name], module)

    return presented


def _run(
    inputs: SeveralInputs,
    names: Sequence[str],
    methods: Sequence[Method],
    module: nn.Module,
    targets: Sequence[Target],
    outputs: Outputs,
    batch_size: int | None,
) -> list[list[tuple[Outcome, Score]]]:
    """As `run_all`, of some of the inputs as one image.

    Images whose fixed inputs differ run one by one, so that each evaluation of the model belongs to
    a known image.
    """
    images = inputs.stacked(names)
    if inputs.beside(names).alike:
        model = _presented(inputs, names, module)
        return run_all(methods, model, images, targets, outputs, batch_size)
    shapes = [tuple(images.shape[1:]), tuple(images.shape[2:])]
    rows = []
    for i in range(len(images)):
        chosen = [t[i : i + 1] if isinstance(t, Tensor) and t.dim() else t for t in targets]
        own = [for_images(method, [i], len(images), shapes) for method in methods]
        model = _presented(inputs, names, module, i)
        rows.append(run_all(own, model, images[i : i + 1], chosen, outputs, None))
    return [
        [
            (joined([outcome for outcome, _ in of_target]), of_target[0][1])
            for of_target in zip(*of_method, strict=True)
        ]
        for of_method in zip(*rows, strict=True)
    ]


def _presented(
    inputs: SeveralInputs, names: Sequence[str], module: nn.Module, row: int = 0
) -> nn.Module:
    """The model as one of a single image, with the other inputs held fixed.

    Its layers are those of the model, under the same paths.

    Args:
        inputs: The inputs of the model.
        names: The inputs that the image consists of, in the order of its channels.
        module: The caller's model.
        row: The image whose other inputs are held fixed.
    """
    fixed = {
        name: value[row : row + 1] if isinstance(value, Tensor) and len(value) > 1 else value
        for name, value in inputs.beside(names).fixed.items()
    }
    channels, call = inputs.channels(names), type(module).forward

    def forward(model: nn.Module, image: Tensor) -> Any:
        given = {name: image[:, part] for name, part in channels.items()}
        for name, value in fixed.items():
            tensor = isinstance(value, Tensor)
            given[name] = value.expand(len(image), *value.shape[1:]) if tensor else value
        ordered = [given.pop(name) for name in inputs.positional]
        return call(model, *ordered, **given)

    model = copy.copy(module)
    # a class of its own, since a copy of the model must call the copy
    model.__class__ = type(type(module).__name__, (type(module),), {"forward": forward})
    return model


def _part(found: Outcome, channels: Mapping[str, slice], name: str) -> Outcome:
    """What an outcome for several inputs says about one of them."""
    if len(channels) == 1:
        return found
    whole = max(part.stop for part in channels.values())
    if found.at is not None or found.values.shape[1] != whole:
        return replace(found, warnings=(*found.warnings, _SHARED))
    part, error = channels[name], found.standard_error
    return replace(
        found,
        values=found.values[:, part],
        standard_error=error if error is None or error.shape[1] == 1 else error[:, part],
    )
