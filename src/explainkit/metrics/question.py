"""What metrics ask of a model: scores of changed images, and a method's maps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.catalog.factories import AnyMethod, load_method
from explainkit.catalog.models import load_model
from explainkit.engine.arguments import batch_number
from explainkit.engine.batching import chunk_size, in_chunks
from explainkit.engine.checks import Outcome
from explainkit.engine.failures import failing_as_model_error
from explainkit.engine.inputs import check_inputs
from explainkit.engine.model import ScoreModel
from explainkit.engine.record import outputs_of
from explainkit.engine.runner import run_all
from explainkit.engine.targets import parse_target, resolve_target
from explainkit.errors import InputError, TargetError
from explainkit.expressions import Expression
from explainkit.interfaces import Method, Target, spec_of
from explainkit.isolation import preserve_model, preserve_process
from explainkit.layers import path_of
from explainkit.methods.contract import with_layers
from explainkit.metrics.results import planes
from explainkit.scores import Outputs

Change = Callable[[Tensor, Tensor], Tensor]
"""Makes changed images, from the indices of the images and of their variants, ``[n]`` each."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The explained score of each image, and a model to score others like it.

    Attributes:
        model: Gives scores ``[batch, classes]``.
        images: ``[batch, channel, height, width]``.
        labels: The explained class of each image, ``[batch]``.
        every: Scores of all classes, float64 ``[batch, classes]``.
    """

    model: ScoreModel
    images: Tensor
    labels: Tensor
    every: Tensor

    @property
    def clean(self) -> Tensor:
        """The explained score of each image, float64 ``[batch]``."""
        return self.every.gather(1, self.labels[:, None])[:, 0]

    def all_of(self, change: Change, variants: int) -> Tensor:
        """Scores of all classes for variants of each image, ``[batch, variants, classes]``."""
        return _scored(self.model, self.images, change, variants)

    def of(self, change: Change, variants: int) -> Tensor:
        """The explained scores of variants of each image, float64 ``[batch, variants]``."""
        labels = self.labels[:, None, None].expand(-1, variants, 1)
        return self.all_of(change, variants).gather(2, labels)[..., 0]


@dataclass(frozen=True, eq=False)
class Question:
    """A model, images, and what is explained of them.

    Attributes:
        module: The caller's model, or a copy.
        images: ``[batch, channel, height, width]``.
        target: As parsed, of any kind.
        outputs: What the model's outputs mean.
        batch_size: Images run at once; None: chosen.
    """

    module: nn.Module
    images: Tensor
    target: Target
    outputs: Outputs
    batch_size: int | None

    @property
    def is_class(self) -> bool:
        """Whether a class is explained, rather than an expression or a function."""
        return not (isinstance(self.target, Expression) or callable(self.target))

    def scores(self) -> Scores:
        """Scores the images."""
        chosen: Any = None if self.is_class else self.target
        model = ScoreModel(self.module, chosen, self.batch_size, self.outputs)

        _complete(model, self.images)
        every = _scored(model, self.images, lambda rows, _: self.images[rows], 1)[:, 0]
        if not torch.isfinite(every).all():
            raise InputError("expected finite scores from the model, got NaN or infinity")
        target = self.target if self.is_class else None
        outputs = model.outputs if self.is_class else Outputs()
        return Scores(model, self.images, resolve_target(target, every, outputs), every)

    def resolved(self) -> "Question":
        """The same question with the predicted classes fixed, for changed images or models."""
        return replace(self, target=self.scores().labels) if self.is_class else self

    def classes_only(self, metric: str) -> None:
        """Checks that a class is explained.

        Raises:
            TargetError: An expression or a function is.
        """
        if not self.is_class:
            raise TargetError(f"{metric}: expected classes as target, got {self.target!r:.60}")

    def planes(self, attribution: Tensor) -> Tensor:
        """Maps of these images with their channels summed, float64 ``[batch, height, width]``.

        Raises:
            InputError: They are not one map per image, of its size.
        """
        maps = planes(attribution)
        batch, _, *size = self.images.shape
        if list(maps.shape) != [batch, *size]:
            raise InputError(
                f"expected one map per image, [{batch}, channel, {size[0]}, {size[1]}], got "
                f"{list(attribution.shape)}"
            )
        return maps.to(self.images.device)

    def ready(self, method: AnyMethod) -> Method:
        """A method with its layers given as paths, which also a copy of the model has."""
        return with_layers(load_method(method), partial(path_of, self.module))

    def explain(self, method: Method) -> Outcome:
        """A method's maps of the images."""
        (((outcome, _),),) = run_all(
            [method], self.module, self.images, [self.target], self.outputs, self.batch_size
        )
        return outcome


def _complete(model: ScoreModel, images: Tensor) -> None:
    """Runs a model once with a graph, which shows whether it ends in a softmax or sigmoid."""
    first = images[: model.batch_size or 1].clone().requires_grad_()
    with (
        failing_as_model_error(model.module, images),
        torch.set_grad_enabled(not model.members.is_inference),
    ):
        model.run(first)


def _scored(model: ScoreModel, images: Tensor, change: Change, variants: int) -> Tensor:
    """Scores of variants of each image, float64 ``[batch, variants, classes]``.

    With a given batch size, the last chunk is padded to it: some models run on no other.
    """
    count = len(images) * variants

    def run(part: slice) -> Tensor:
        length = part.stop - part.start
        index = torch.arange(max(length, model.batch_size or 1), device=images.device)
        index = (part.start + index).clamp(max=count - 1)
        scores: Tensor = model(change(index // variants, index % variants))
        return scores[:length].double()

    with failing_as_model_error(model.module, images), torch.no_grad():
        size = chunk_size(model, images[0], backward=False)
        return in_chunks(run, count, size).view(len(images), variants, -1)


@contextmanager
def asking(
    model: str | Path | nn.Module, inputs: Tensor, target: Target, seed: int, batch_size: int | None
) -> Iterator[Question]:
    """Checks a question, and leaves model and process as they were.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``.
        target: What is explained, as in `explainkit.explain`.
        seed: Seed of the global random generators within the block.
        batch_size: Images run at once; None: chosen.
    """
    module = load_model(model) if isinstance(model, str | Path) else model
    images = check_inputs(module, inputs, spec_of(module)).detach().clone()
    batch_size = None if batch_size is None else batch_number(batch_size)
    outputs = outputs_of(module)
    parsed = parse_target(target, outputs.class_names, len(images))
    with preserve_process(seed), preserve_model(module):
        yield Question(module, images, parsed, outputs, batch_size)
