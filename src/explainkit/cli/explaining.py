"""Explains photos in chunks; one that can't be read does not stop the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.adapters.images import ImageBatch, make_batch, preprocessing_of
from explainkit.api import explain
from explainkit.catalog.registry import foreign_code
from explainkit.cli.photos import Photo
from explainkit.engine.precision import Precision
from explainkit.errors import InputError, TargetError
from explainkit.interfaces import Target
from explainkit.results.explanation import Explanation, Explanations

CHUNK = 8
"""Photos that are held in memory at once."""


@dataclass(frozen=True)
class Question:
    """What to explain of each photo, and how.

    Attributes:
        methods: Names of methods.
        params: Their fields.
        target: The target; None: the predicted class.
        top: The number of most probable classes to explain instead.
        at: The layers whose outputs are explained; none: the image.
        seed: Random seed.
        batch_size: Images run at once; None: chosen.
        precision: Of the methods' forwards; None: the model's own.
    """

    methods: Sequence[str]
    params: dict[str, Any]
    target: Target = None
    top: int = 1
    at: Sequence[str] = ()
    seed: int = 0
    batch_size: int | None = None
    precision: Precision | None = None

    def ask(self, model: nn.Module, batch: ImageBatch) -> list[Explanation]:
        """The explanations of a batch: for each method, one per class, at each layer.

        Raises:
            TargetError: The model has fewer classes than are asked for.
        """
        options: dict[str, Any] = {
            "at": list(self.at) or None, "seed": self.seed, "batch_size": self.batch_size,
            "precision": self.precision, **self.params,
        }  # fmt: skip
        methods = list(self.methods)
        first = explain(model, batch, self.target, methods, **options)
        if self.top == 1:
            return first
        others = list(_others(first[0], self.top).T)
        more = explain(model, batch, targets=others, method=methods, **options)
        each = len(self.at) or 1
        rest = each * len(others)
        return list(
            chain.from_iterable(
                (*first[i * each : (i + 1) * each], *more[i * rest : (i + 1) * rest])
                for i in range(len(methods))
            )
        )


def _others(explanation: Explanation, top: int) -> Tensor:
    """The most probable classes after the explained one, int64 ``[batch, top - 1]``."""
    if (probabilities := explanation.probabilities) is None:
        raise TargetError(f"--top {top}: expected a model with classes, this one outputs values")
    if top > explanation.classes:
        raise TargetError(f"--top {top}: expected at most {explanation.classes}, all classes")
    left = probabilities.scatter(1, explanation.target[:, None], -1.0)
    return left.sort(dim=1, descending=True, stable=True).indices[:, : top - 1]


def explain_photos(
    photos: Sequence[Photo], model: nn.Module, question: Question
) -> Iterator[tuple[Photo, Explanations | InputError]]:
    """The explanations of each photo, or why it can't be read.

    Photos are held in memory a few at a time; of these, inputs of the same size run together.

    Raises:
        ExplainkitError: The model or a method fails.
    """
    preprocessing_of(model)  # what is wrong with the model is not reported for each photo
    size = question.batch_size or CHUNK
    for start in range(0, len(photos), size):
        loaded: list[tuple[Photo, ImageBatch]] = []
        for photo in photos[start : start + size]:
            try:
                loaded.append((photo, make_batch([photo.path], model)))
            except InputError as error:
                yield photo, error
        loaded.sort(key=_shape)
        for _, group in groupby(loaded, _shape):
            members = list(group)
            with foreign_code():
                found = question.ask(model, _joined(members))
            for i, (photo, _batch) in enumerate(members):
                yield photo, Explanations(one[i] for one in found)


def _shape(loaded: tuple[Photo, ImageBatch]) -> tuple[int, ...]:
    return tuple(loaded[1].inputs.shape)


def _joined(loaded: Sequence[tuple[Photo, ImageBatch]]) -> ImageBatch:
    """Batches of one image as one batch; its names are the paths."""
    batches = [batch for _, batch in loaded]
    return replace(
        batches[0],
        inputs=torch.cat([batch.inputs for batch in batches]),
        originals=tuple(chain.from_iterable(batch.originals for batch in batches)),
        geometries=tuple(chain.from_iterable(batch.geometries for batch in batches)),
        names=tuple(str(photo.path) for photo, _ in loaded),
        files=tuple(chain.from_iterable(batch.files for batch in batches)),
    )
