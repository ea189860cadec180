"""The scorecard of maps: tests each map against what hiding parts of its image does."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from explainkit.catalog.factories import method_from
from explainkit.catalog.models import load_model
from explainkit.engine.inputs import check_inputs
from explainkit.engine.model import ScoreModel
from explainkit.engine.record import model_name, outputs_of
from explainkit.engine.runner import run_all
from explainkit.engine.targets import Score, group_targets, parse_target, resolve_target, text_of
from explainkit.errors import InputError, MethodError, ModelError, TargetError, UnknownNameError
from explainkit.expressions import Expression, Rival, parse
from explainkit.interfaces import Method, Target, spec_of
from explainkit.isolation import preserve_model, preserve_process
from explainkit.methods.contract import for_images, hides_parts
from explainkit.metrics.contrast import Contrast, next_likely
from explainkit.metrics.hiding import HidingEffects, hiding_effects
from explainkit.metrics.judgement import cells_for, judge, positive_control
from explainkit.render.heatmap import Reduce
from explainkit.results.explanation import Explanation
from explainkit.results.origin import Origin
from explainkit.results.scorecard import POWER_IMAGES, Scorecard, control_of
from explainkit.scores import Outputs, Task

Contrasted = Callable[[Contrast], Tensor]
"""Gives maps ``[batch, height, width]`` of the next most likely class of each image."""

Maps = tuple[Tensor, Tensor | None]
"""The map ``[height, width]`` of an image, and that of its next most likely class, or None."""

Swap = Callable[[int, Maps], Maps | None]
"""From an explained class and the maps of an image to the maps of an image of another class."""


def scorecard(
    model: str | Path | nn.Module,
    inputs: Tensor,
    attribution: Tensor,
    target: Target = None,
    contrast: Tensor | None = None,
    *,
    black_box: bool = False,
    power: bool | None = None,
    seed: int = 0,
    output: int | str | None = None,
    task: Task | None = None,
    class_names: Sequence[str] | None = None,
) -> Scorecard:
    """Tests maps from anywhere against what hiding parts of their images does.

    Cells of the image, and random quarters of all cells, are replaced by a linear interpolation of
    what remains. `explainkit.metrics.evidence.weigh` has the tests, `Scorecard` their results. The
    maps are judged as they are: pass absolute values if absolute values are drawn.

    Args:
        model: A registered name, a weights file, or any module.
        inputs: ``[batch, channel, height, width]``, in model-input space.
        attribution: The maps, ``[batch, channel or 1, height, width]`` or ``[batch, height,
            width]``; channels are summed.
        target: The explained class, or anything else that `explain` takes as one target.
        contrast: Maps of the next most likely class by the same method, shaped like
            ``attribution``; for a box or a mask, of the next most likely class for the same query
            or in the same region. Without them, no map is more than partly supported.
        black_box: Whether the method itself hides parts of the image. It is then judged on a grid
            that is moved by half a cell.
        power: Measure the positive control; None: for a batch of at least 10 images, where it can
            tell whether the network has too little power.
        seed: Random seed of what is hidden. The verdict on an image does not depend on the batch,
            except that it is withheld where the positive control shows low power.
        output: Which of several outputs of the model holds the scores, as in `explain`.
        task: What the outputs decide, as in `explain`.
        class_names: In the order of the classes, as in `explain`.

    Raises:
        InputError: Inputs or maps of the wrong type or shape.
        TargetError: The target does not exist in the output.
        ModelError: The model fails on these images.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 3, bias=False)).eval()
        >>> x = torch.rand(1, 1, 24, 24)
        >>> exact = x * net[1].weight.detach()[1].view(1, 24, 24)
        >>> card = scorecard(net, x, exact, target=1)
        >>> float(card.p[0, 0]) < 0.05
        True
    """
    module = load_model(model) if isinstance(model, str | Path) else model
    images = check_inputs(module, inputs, spec_of(module)).detach()
    outputs = outputs_of(module, output, task, class_names)
    parsed = parse_target(target, outputs.class_names, len(images))
    ((score, (wanted,)),) = group_targets([parsed])
    maps = _planes(attribution, images, "attribution")
    other = None if contrast is None else _planes(contrast, images, "contrast")
    ask = _Question(
        module, images, maps, wanted, score, outputs,
        None if other is None else lambda _: other,
    )  # fmt: skip
    return _judged(ask, half_cell=black_box, power=power, seed=seed)


def scorecard_of(
    explanation: Explanation,
    origin: Origin | None,
    model: str | Path | nn.Module | None,
    *,
    reduce: Reduce,
    power: bool | None,
    seed: int,
    swap: Swap | None = None,
) -> Scorecard:
    """The scorecard of an explanation; see `Explanation.scorecard`.

    Args:
        explanation: The maps to judge.
        origin: Where they come from; None for loaded ones.
        model: The explained model; None: that of the origin.
        reduce: How channels are reduced to one, as the maps are drawn.
        power: As in `scorecard`.
        seed: As in `scorecard`.
        swap: Gives the maps of another image, to be tested on each image as well.
    """
    if explanation.at is not None:
        raise MethodError(
            f"expected maps of the image, got maps of layer {explanation.at!r}: a scorecard hides "
            "parts of the image"
        )
    if explanation.inputs.dim() > 4:
        raise MethodError(
            "expected maps of images [batch, channel, height, width], got maps of volumes "
            f"{list(explanation.inputs.shape)}: a scorecard hides cells of images only"
        )
    if explanation.attribution.shape[2:] != explanation.inputs.shape[2:]:
        raise MethodError(
            f"expected maps of {_pixels(explanation.inputs)} like the images, got maps that were "
            f"stored at {_pixels(explanation.attribution)}: ek.batch(…, scorecard=True) tests maps "
            "before they are reduced"
        )
    module = _module(origin, model)
    method, score = _source(explanation, origin)
    first = next((p for p in module.parameters() if p.is_floating_point()), explanation.inputs)
    images = explanation.inputs.to(first.device, first.dtype)
    wanted = None if score is not None else explanation.target
    contrast = None
    if method is not None:
        contrast = partial(_explained, method, origin, module, images, explanation, reduce)
    ask = _Question(
        module, images, explanation.heatmap(reduce), wanted, score, explanation._outputs,
        contrast, explanation.score, explanation.seed,
    )  # fmt: skip
    half_cell = method is not None and hides_parts(method)
    found = _judged(ask, half_cell=half_cell, power=power, seed=seed, swap=swap)
    names = tuple(explanation.target_name(i) for i in range(len(images)))
    return replace(found, method=explanation.method, target=names)


def _pixels(values: Tensor) -> str:
    return " × ".join(map(str, values.shape[2:]))


def _explained(
    method: Method,
    origin: Origin | None,
    module: nn.Module,
    images: Tensor,
    explanation: Explanation,
    reduce: Reduce,
    contrast: Contrast,
) -> Tensor:
    """Maps of other classes, one per image, as those of the explanation were made."""
    shapes = [tuple(images.shape[1:]), tuple(images.shape[2:])]
    whole = method if origin is None else for_images(method, origin.rows, origin.count, shapes)

    def run(rows: Sequence[int], target: Target) -> Tensor:
        every = list(rows) == list(range(len(images)))
        own = whole if every else for_images(whole, rows, len(images), shapes)
        chosen = images if every else images[list(rows)]
        ((outcome, _),) = run_all([own], module, chosen, [target], explanation._outputs, None)[0]
        return outcome.values

    return replace(explanation, attribution=contrast.explained(run)).heatmap(reduce)


def _module(origin: Origin | None, model: str | Path | nn.Module | None) -> nn.Module:
    """The model to judge with: the one given, or that of the origin."""
    if model is not None:
        return load_model(model) if isinstance(model, str | Path) else model
    found = origin.model() if origin is not None else None
    if found is None:
        what = "the explained model is gone" if origin else "a loaded explanation has no model"
        raise ModelError(f"expected model=, the explained model, since {what}")
    return found


def _source(explanation: Explanation, origin: Origin | None) -> tuple[Method | None, Score]:
    """The method of an explanation, None if it can't be rebuilt, and what it explained."""
    if origin is not None:
        return origin.method, origin.score
    score: Score = None
    if explanation.expression is not None:
        if explanation.expression.startswith("function "):
            raise TargetError(
                f"expected a class or an expression as target, but {explanation.expression!r} was "
                "not saved: explain again and take the scorecard of that"
            )
        score = parse(explanation.expression)
    try:
        return method_from(explanation.method, explanation.params), score
    except (UnknownNameError, MethodError):
        return None, score  # then no test compares classes, and the scorecard says so


def _planes(maps: Tensor, images: Tensor, name: str) -> Tensor:
    """Maps with their channels summed, ``[batch, height, width]``."""
    batch, channels, height, width = images.shape
    fitting = {(batch, channels, height, width), (batch, 1, height, width), (batch, height, width)}
    if not isinstance(maps, Tensor) or tuple(maps.shape) not in fitting:
        got = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(
            f"{name}: expected maps [{batch}, 1 or {channels}, {height}, {width}], got {got}"
        )
    return maps.detach().sum(1) if maps.dim() == 4 else maps.detach()


@dataclass(frozen=True, eq=False)
class _Question:
    """The maps to judge, and what they explain.

    Attributes:
        module: The caller's model.
        images: ``[batch, channel, height, width]``.
        maps: ``[batch, height, width]``.
        wanted: The target, parsed; None if there is a ``score``.
        score: The expression or function that was explained; None: a class.
        outputs: What the model's outputs mean.
        contrast: Gives maps of the next most likely classes; None if there are none.
        expected: The scores that the explained model had, ``[batch]``; None if unknown.
        seed: Seed of the global generators while the model runs.
    """

    module: nn.Module
    images: Tensor
    maps: Tensor
    wanted: Target
    score: Score
    outputs: Outputs
    contrast: Contrasted | None = None
    expected: Tensor | None = None
    seed: int = 0

    def scored(self) -> tuple[ScoreModel, Tensor, list[Rival | None]]:
        """The model that gives the explained scores, its scores of the images, and their rivals."""
        scorer = ScoreModel(self.module, self.score, None, self.outputs)
        rows: list[Tensor] = []
        rivals: list[Rival | None] = []
        for one in self.images:
            with torch.set_grad_enabled(not scorer.members.is_inference):
                # the last operator, which shows whether scores are probabilities, is in the graph
                run = scorer.run(one[None].clone().requires_grad_())
            rows.append(run.scores.detach())
            if isinstance(self.score, Expression) and run.scope is not None:
                rivals += self.score.rivals(run.scope)
        return scorer, torch.cat(rows), rivals


def _judged(
    ask: _Question, *, half_cell: bool, power: bool | None, seed: int, swap: Swap | None = None
) -> Scorecard:
    """Judges one map per image."""
    images = ask.images
    cells, apart = cells_for(*images.shape[2:], half_cell=half_cell)
    measured = len(images) >= POWER_IMAGES if power is None else power
    found, controls, swapped = [], [], []
    with preserve_process(ask.seed), preserve_model(ask.module):
        scorer, clean, rivals = ask.scored()
        classes = resolve_target(ask.wanted, clean, scorer.outputs)
        if ask.expected is not None:
            _check_scores(clean.gather(1, classes[:, None])[:, 0], ask.expected)
        contrast = next_likely(clean, classes, ask.score, rivals, scorer.outputs)
        against = ask.contrast(contrast) if ask.contrast is not None and contrast else None
        what = _identity(ask.score, scorer.outputs)
        for i, (image, values) in enumerate(zip(images, ask.maps, strict=True)):
            label, target = int(classes[i]), contrast.targets[i]
            effects = hiding_effects(scorer, image, clean[i], cells, seed, what)
            other = None
            if against is not None and target is not None:
                effects, column = _and_other(effects, target, ask, scorer.outputs, image, seed)
                other = against[i], column
            found.append(judge(image, values, effects, label, other))
            if swap is not None:
                maps = swap(label, (values, None if other is None else other[0]))
                swapped.append(_swapped(image, maps, effects, label, other))
            if measured:
                elsewhere = hiding_effects(scorer, image, clean[i], apart, seed, what)
                controls.append(positive_control(image, effects, elsewhere, label))
    p_values = torch.tensor(controls, dtype=torch.float64) if measured else None
    control = None if p_values is None else control_of(p_values)
    card = Scorecard(
        statistic=_stacked([one.evidence.statistic for one in found]),
        p=_stacked([one.evidence.p for one in found]),
        reason=tuple(
            one.reason or contrast.missing(i, against is not None) for i, one in enumerate(found)
        ),
        control=tuple(one.evidence.control for one in found),
        effects=torch.stack([one.effects for one in found]),
        sums=torch.stack([one.sums for one in found]),
        band=_stacked([one.evidence.band for one in found]),
        grid=cells.grid,
        half_cell=half_cell,
        power=p_values,
        swapped=None if swap is None else _stacked(swapped),
        contrast=() if against is None else contrast.words,
        model=model_name(ask.module),
        target=_targets(classes, ask.score, scorer.outputs),
        seed=seed,
    )
    if control is None and (spec := spec_of(ask.module)) is not None:
        control = spec.positive_control
    return card.controlled(control)


def _stacked(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _targets(classes: Tensor, score: Score, outputs: Outputs) -> tuple[str, ...]:
    if score is not None:
        return (text_of(score),) * len(classes)
    names = outputs.class_names
    return tuple(names[label] if names else str(label) for label in classes.tolist())


def _and_other(
    effects: HidingEffects,
    target: int | Expression,
    ask: _Question,
    outputs: Outputs,
    image: Tensor,
    seed: int,
) -> tuple[HidingEffects, int]:
    """The effects, also on the score of the next most likely class, and that score's index."""
    if isinstance(target, int):
        return effects, target
    other = ScoreModel(ask.module, target, None, outputs)
    clean = other.run(image[None]).scores[0].detach()
    found = hiding_effects(other, image, clean, effects.cells, seed, _identity(target, outputs))
    return effects.beside(found), len(effects.clean)


def _swapped(
    image: Tensor,
    maps: Maps | None,
    effects: HidingEffects,
    label: int,
    other: tuple[Tensor, int] | None,
) -> tuple[float, float, float]:
    """P-values of the maps of another image; NaN without such maps."""
    if maps is None:
        return (float("nan"),) * 3
    values, against = maps
    contrast = None if other is None or against is None else (against, other[1])
    return judge(image, values, effects, label, contrast).evidence.p


def _identity(score: Score, outputs: Outputs) -> Hashable | None:
    """What distinguishes these scores from others of the model; None for a function."""
    if score is not None and not isinstance(score, Expression):
        return None
    return None if score is None else str(score), outputs.output, outputs.task, outputs.squashed


def _check_scores(found: Tensor, expected: Tensor) -> None:
    """Checks that this is the model that was explained.

    Raises:
        ModelError: It has other scores.
    """
    expected = expected.to(found)
    wrong = ~torch.isclose(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise ModelError(
            f"expected the explained model, whose score of image {i} is {float(expected[i]):.4g}, "
            f"got one with {float(found[i]):.4g}: its weights have changed, or it is another; "
            "explain again, or pass the explained one as model="
        )
