"""What `explain` was asked, ready to be answered for one batch of images or for many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from explainkit.adapters.images import ImageBatch, make_batch
from explainkit.engine.arguments import several_targets
from explainkit.engine.each_input import OneMap
from explainkit.engine.failures import naming_missing_memory
from explainkit.engine.inputs import check_inputs
from explainkit.engine.precision import Precision, dtype_of
from explainkit.engine.receipts import receipts
from explainkit.engine.record import as_explanation
from explainkit.engine.runner import run_all
from explainkit.engine.streams import classes_of, images_and_labels
from explainkit.engine.targets import parse_target, text_of
from explainkit.interfaces import Method, spec_of
from explainkit.isolation import preserve_model, preserve_process, without_autocast_warning
from explainkit.layers import paths_of
from explainkit.results.explanation import Explanation, Explanations
from explainkit.results.origin import Origin
from explainkit.scores import Outputs

_LESS = "explain fewer or smaller images, or use a method with less work per image, such as gradcam"
"""What to do if memory runs out."""


@dataclass(frozen=True)
class Call:
    """A call of `explain`, without its images and its target.

    Attributes:
        module: The model.
        source: Gives the model, or None if the caller no longer holds it.
        methods: Ready to be called; or, for a model of several inputs, what explains them.
        outputs: What the model's outputs mean.
        several: Whether the result is a list.
        targets: As in `explain`, like all that follows.
        at: The layer that is explained, or several.
        seed: Random seed.
        batch_size: Images run at once.
        keep_mode: Leave the model in its current mode.
        precision: Of the methods' forwards.
        scorecard: Also test each map.
    """

    module: nn.Module
    source: Callable[[], nn.Module | None]
    methods: Sequence[Method] | Callable[..., list[OneMap]]
    outputs: Outputs
    several: bool
    targets: Any
    at: str | nn.Module | Sequence[str | nn.Module] | None
    seed: int | None
    batch_size: int | None
    keep_mode: bool
    precision: Precision | None
    scorecard: bool

    def each(
        self, batches: Iterable[Any], target: Any, labels: bool
    ) -> Iterator[Explanation | Explanations]:
        """The results of batches, one after the other; none is kept.

        Args:
            batches: Of images, or of images and labels.
            target: Of all images.
            labels: Whether the labels are the targets.
        """
        for batch in batches:
            images, classes = images_and_labels(batch, self.module)
            yield self.on(images, classes_of(classes) if labels else target)

    def on(self, inputs: Any, target: Any) -> Explanation | Explanations:
        """The result for one batch."""
        module, batch_size, methods = self.module, self.batch_size, self.methods
        batch = None
        if isinstance(module, nn.Module) and not isinstance(inputs, Tensor):
            batch = inputs if isinstance(inputs, ImageBatch) else make_batch(inputs, module)
            inputs = batch.inputs
        with naming_missing_memory(module, _LESS):
            images = (
                inputs  # several inputs were checked when they were told apart
                if callable(methods)
                else check_inputs(module, inputs, spec_of(module), volumes=True).detach().clone()
            )
        several = self.targets is not None
        wanted = several_targets(self.targets) if several else [target]
        parsed = [
            parse_target(one, self.outputs.class_names, len(images), several=several)
            for one in wanted
        ]
        inner = None if self.at is None else paths_of(module, self.at)
        reduced = None
        if not callable(methods):
            reduced = dtype_of(self.precision, methods, module, images, self.at)
        seed = self.seed or 0
        notes = [
            *(batch.warnings if batch else ()),
            *without_autocast_warning(images.device, images.dtype),
        ]
        with (
            preserve_process(seed),
            preserve_model(module, keep_mode=self.keep_mode, seed=seed) as (members, was_training),
            naming_missing_memory(module, _LESS),
        ):
            if was_training and self.keep_mode:
                batch_size = len(images)  # batch statistics need the batch as it is
            elif was_training:
                notes.append(
                    "the model was in train mode: explained in eval mode, then restored "
                    "(keep_mode=True leaves dropout and batch statistics on)"
                )
            if callable(methods):
                maps = methods(module, self.source, parsed, self.outputs, batch_size)
            else:
                outcomes = run_all(
                    methods, module, images, parsed, self.outputs, batch_size, inner, reduced,
                    members,
                )  # fmt: skip
                maps = [
                    OneMap(method, outcome, score, images, self.source)
                    for method, own in zip(methods, outcomes, strict=True)
                    for outcome, score in own
                ]
        rows = tuple(range(len(images)))
        made = receipts(self.source, members, batch)
        found = Explanations()
        for each in maps:
            told = as_explanation(
                each.method, module, each.images, each.outcome, part=each.input, seed=seed,
                expression=None if each.score is None else text_of(each.score),
                precision=self.precision, warned=notes, batch=batch,
            )  # fmt: skip
            origin = Origin(each.source, each.method, each.score, rows, len(rows), made)
            found.append(told.coming_from(origin))
        if self.scorecard:
            for one in found:
                one.scorecard()
        return found if self.several else found[0]
