"""``ek.evaluate``: methods judged and compared over many images."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from explainkit.catalog.factories import AnyMethod, load_methods, method_name, method_params
from explainkit.catalog.models import load_model
from explainkit.catalog.synonyms import bare_name
from explainkit.engine.arguments import seed_number
from explainkit.engine.record import model_name, outputs_of
from explainkit.engine.targets import parse_target
from explainkit.errors import InputError, MethodError
from explainkit.evaluation.images import Given, Images, as_the_model_takes_it, given
from explainkit.evaluation.judging import Judge, Judged, attempted, unexplained, why
from explainkit.evaluation.measures import AnyMetric, measures
from explainkit.interfaces import Method, Target, spec_of
from explainkit.interruption import interruptible
from explainkit.jobs.labels import Labels
from explainkit.progress import progress
from explainkit.render.heatmap import Reduce
from explainkit.render.parameters import parameters
from explainkit.results.evaluated import FAILED, EvaluatedImage, MethodResults
from explainkit.results.evaluation import Evaluation
from explainkit.results.scorecard import LOW_POWER, WITHHELD, control_of, fails_often
from explainkit.scores import Task


def evaluate(
    model: str | Path | nn.Module,
    images: Images,
    methods: AnyMethod | Sequence[AnyMethod],
    metrics: AnyMetric | Sequence[AnyMetric] | None = None,
    *,
    target: Target = None,
    labels: Labels = None,
    masks: Tensor | None = None,
    limit: int | None = None,
    seed: int | None = None,
    reduce: Reduce = "sum",
    output: int | str | None = None,
    task: Task | None = None,
    class_names: Sequence[str] | None = None,
    **params: Any,
) -> Evaluation:
    """Judges and compares methods over many images.

    Each method's map of each image gets a verdict, as by `Explanation.scorecard`: does it predict
    what hiding parts of the image does? The result has the share of each verdict and the mean
    statistic of the first test with 95 % intervals, apart for correct and wrong predictions where
    the true classes are known, and paired comparisons of the methods. The positive control tells
    whether the network lets the test see anything; where it fails on more than a third of at least
    10 images, verdicts are withheld. The map of the latest image of another class is put on each
    image, too: where maps of other images are supported as often as an image's own, a verdict says
    nothing about the image itself.

    Images are read and explained one at a time, so that memory does not grow with their number and
    an image's numbers do not depend on the other images. What is hidden of an image is scored once
    for all methods. An image that can't be read, explained or judged is counted as such, with the
    reason.

    Args:
        model: A source of `load_model`, such as a registered name, or any module.
        images: A tensor ``[batch, channel, height, width]`` as the model takes it; a folder, a zip
            file or a text file with one path per line; a list of paths, Pillow images or uint8
            arrays; a mapping of names to images; a data set of ``(image, label)``; or a `Store`,
            whose explained images are read again.
        methods: A method or a list of them, as `explain` takes them.
        metrics: Names of further metrics (`explainkit.metrics`), or functions;
            ``functools.partial`` gives one its options.
        target: What to explain, as in `explain`: the same for every image, or a list or an int64
            tensor with one class per image. None: the predicted class.
        labels: The true classes, as indices or names: one per image, None or −1 where unknown; a
            mapping from names of images; or ``"folder"``, where the folder of a file has the name
            of its class. None: those of the data set.
        masks: bool ``[batch, height, width]``, one per image, for metrics of localization.
        limit: Only so many of the images, evenly spread over all.
        seed: Random seed of what is hidden, of metrics, intervals and methods. None: 0, and each
            method's own.
        reduce: How channels are reduced to one, as in `Explanation.heatmap`: a map is judged as it
            is drawn.
        output: Which of several outputs of the model holds the scores, as in `explain`.
        task: What the outputs decide, as in `explain`.
        class_names: In the order of the classes, as in `explain`.
        **params: The methods' fields; each method takes those that it has.

    Raises:
        DatasetError: There are no images.
        InputError: Another number of labels, targets or masks than of images.
        TargetError: The model has no such true class.
        MethodError: A method or a metric can't be built.
        ExplainkitError: No image could be explained by any method; the first reason.

    Examples:
        >>> import explainkit as ek
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 3, bias=False)).eval()
        >>> x = torch.randn(12, 1, 24, 24, generator=torch.Generator().manual_seed(0))
        >>> found = ek.evaluate(net, x, ["input_x_gradient", "saliency"])
        >>> found.verdicts()[0]["supported"], len(found.comparisons)
        (12, 1)
    """
    module = load_model(model) if isinstance(model, str | Path) else model
    own = 0 if seed is None else seed_number(seed)
    ready = load_methods(methods, params, module)
    wanted: Any = metrics if isinstance(metrics, list | tuple) else [metrics]
    asked_for = measures([] if metrics is None else wanted, masked=masks is not None)
    judge = Judge(module, ready, asked_for, own, seed, reduce, output, task, class_names)
    asked = given(images, labels, limit)
    targets = _targets(target, asked)
    parse_target(targets[0], outputs_of(module, output, task, class_names).class_names, 1)
    covered = _masks(masks, asked)
    found: list[tuple[EvaluatedImage, list[Judged]]] = []
    first: Exception | None = None
    with interruptible() as stop_if_interrupted, progress("images", len(asked.names)) as advance:
        for name, row, one, mask in zip(asked.names, asked.rows, targets, covered, strict=True):
            loaded = attempted(as_the_model_takes_it, module, asked, row)
            if isinstance(loaded, Exception):
                failures = [loaded]
                image = unexplained(name, asked.label(row))
                judged = [Judged(FAILED, why(loaded)) for _ in ready]
            else:
                image, judged, failures = judge(name, loaded[0], one, loaded[1], mask)
            first = first or next(iter(failures), None)
            found.append((image, judged))
            stop_if_interrupted()
            advance(1, "")
    if first is not None and all(one.verdict == FAILED for _, row in found for one in row):
        raise first
    return _collected(module, ready, judge, found, own)


def _targets(target: Target, asked: Given) -> list[Any]:
    """The target of each image."""
    if isinstance(target, Tensor) and target.dim():
        target = target.tolist()
    if not isinstance(target, list | tuple):
        return [target] * len(asked.rows)
    if len(target) != asked.total:
        raise InputError(f"target: expected {asked.total}, one per image, got {len(target)}")
    return [target[row] for row in asked.rows]


def _masks(masks: Tensor | None, asked: Given) -> list[Tensor | None]:
    """The mask of each image, as a batch of one."""
    if masks is None:
        return [None] * len(asked.rows)
    if len(masks) != asked.total:
        raise InputError(f"masks: expected {asked.total}, one per image, got {len(masks)}")
    return [masks[row : row + 1] for row in asked.rows]


def _collected(
    module: nn.Module,
    methods: Sequence[Method],
    judge: Judge,
    found: Sequence[tuple[EvaluatedImage, list[Judged]]],
    seed: int,
) -> Evaluation:
    """The result; verdicts are withheld where the positive control shows low power."""
    images = tuple(image for image, _ in found)
    nan = float("nan")
    controls = torch.tensor([nan if one.control is None else one.control for one in images])
    spec = spec_of(module)
    control = control_of(controls) or (spec.positive_control if spec else None)
    weak = fails_often(control)
    results = []
    versions: dict[str, str] = {}
    for i, (name, method) in enumerate(zip(_names(methods), methods, strict=True)):
        rows = [judged[i] for _, judged in found]
        numbers = {
            one.name: [row.metrics.get(one.name, (nan, "")) for row in rows]
            for one in judge.measures
        }
        withheld = (*WITHHELD, FAILED)
        results.append(
            MethodResults(
                method=name,
                name=method_name(method),
                params=parameters(method_params(method)),
                verdict=tuple(
                    LOW_POWER if weak and row.verdict not in withheld else row.verdict
                    for row in rows
                ),
                reason=tuple(row.reason for row in rows),
                statistic=torch.tensor([row.statistic for row in rows], dtype=torch.float64),
                p=torch.tensor([row.p for row in rows], dtype=torch.float64),
                swapped=torch.tensor([row.swapped for row in rows], dtype=torch.float64),
                half_cell=any(row.half_cell for row in rows),
                metrics={
                    metric: torch.tensor([number for number, _ in some], dtype=torch.float64)
                    for metric, some in numbers.items()
                },
                undefined={
                    metric: tuple(reason for _, reason in some) for metric, some in numbers.items()
                },
                warnings=tuple(dict.fromkeys(text for row in rows for text in row.warnings)),
            )
        )
        for row in rows:
            versions |= row.versions
    return Evaluation(
        model=model_name(module), images=images, results=tuple(results),
        positive_control=control, seed=seed, versions=versions,
    )  # fmt: skip


def _names(methods: Sequence[Method]) -> list[str]:
    """A name for each method; methods of one class have the fields in which they differ.

    Raises:
        MethodError: Two methods are the same.
    """
    names = []
    for method in methods:
        name = bare_name(method_name(method))
        twins = [other for other in methods if type(other) is type(method)]
        texts = {
            field.name: {parameters({field.name: getattr(one, field.name)}) for one in twins}
            for field in fields(method)
        }
        own = [
            parameters({field: getattr(method, field)})
            for field, every in texts.items()
            if len(every) > 1
        ]
        names.append(f"{name}({', '.join(own)})" if own else name)
    for name in names:
        if names.count(name) > 1:
            raise MethodError(f"expected each method once, got {name} twice")
    return names
