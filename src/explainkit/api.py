"""The top-level functions: `explain` and `maximize`."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload
from weakref import ref

from torch import Tensor, nn

from explainkit.catalog import discovery
from explainkit.catalog.factories import (
    AnyMethod,
    class_name,
    is_method_name,
    load_maximizer,
    load_methods,
)
from explainkit.catalog.models import load_model
from explainkit.engine.arguments import batch_number, flag, seed_number, whole_number
from explainkit.engine.call import Call
from explainkit.engine.each_input import explain_each_input
from explainkit.engine.inputs import check_module
from explainkit.engine.precision import Precision
from explainkit.engine.record import model_name, outputs_of, versions
from explainkit.engine.several_inputs import SeveralInputs, Which
from explainkit.engine.streams import check_one_target, is_stream
from explainkit.engine.targets import check_order
from explainkit.errors import ExplainkitWarning, InputError, ModelLookupError, TargetError
from explainkit.expressions import Expression
from explainkit.interfaces import Dataset, Maximizer, Method, Target, spec_of
from explainkit.methods.contract import seeded
from explainkit.results.explanation import Explanation, Explanations
from explainkit.scores import Task

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from explainkit.activation_maximization.request import Objective
    from explainkit.adapters.images import ImageBatch, ImageSource
    from explainkit.results.visualization import Visualization

Source: TypeAlias = str | Path | nn.Module
Images: TypeAlias = "Tensor | ImageBatch | ImageSource | Sequence[ImageSource]"
Several: TypeAlias = "tuple[Tensor, ...] | Mapping[str, Any]"
Stream: TypeAlias = "Iterator[Any] | DataLoader[Any]"
Methods = list[AnyMethod] | list[str] | tuple[AnyMethod, ...]
Layer: TypeAlias = str | nn.Module
Layers: TypeAlias = list[str] | list[nn.Module] | list[Layer] | tuple[Layer, ...]
Targets = (
    Literal["all"]
    | list[Target] | list[int] | list[str] | tuple[Target, ...] | Sequence[Expression]
)  # fmt: skip


# fmt: off
@overload
def explain(
    model: Source, inputs: Images, target: Target = None, method: AnyMethod = ..., *,
    targets: None = None, at: Layer | None = None,
    seed: int | None = None, batch_size: int | None = None, keep_mode: bool = False,
    precision: Precision | None = None, scorecard: bool = False, output: int | str | None = None,
    task: Task | None = None, class_names: Sequence[str] | None = None, **params: Any,
) -> Explanation: ...


@overload
def explain(
    model: Source, inputs: "Images | Several", target: Target = None,
    method: AnyMethod | Methods = ..., *,
    targets: Targets | None = None, at: Layer | Layers | None = None, wrt: Which = None,
    seed: int | None = None, batch_size: int | None = None, keep_mode: bool = False,
    precision: Precision | None = None, scorecard: bool = False, output: int | str | None = None,
    task: Task | None = None, class_names: Sequence[str] | None = None, **params: Any,
) -> Explanations: ...


@overload
def explain(
    model: Source, inputs: Stream, target: Target = None, method: AnyMethod = ..., *,
    targets: None = None, labels: bool = False, at: Layer | None = None,
    seed: int | None = None, batch_size: int | None = None, keep_mode: bool = False,
    precision: Precision | None = None, scorecard: bool = False, output: int | str | None = None,
    task: Task | None = None, class_names: Sequence[str] | None = None, **params: Any,
) -> Iterator[Explanation]: ...


@overload
def explain(
    model: Source, inputs: Stream, target: Target = None, method: AnyMethod | Methods = ..., *,
    targets: Targets | None = None, labels: bool = False, at: Layer | Layers | None = None,
    seed: int | None = None, batch_size: int | None = None, keep_mode: bool = False,
    precision: Precision | None = None, scorecard: bool = False, output: int | str | None = None,
    task: Task | None = None, class_names: Sequence[str] | None = None, **params: Any,
) -> Iterator[Explanations]: ...
# fmt: on


def explain(
    model: Source,
    inputs: "Images | Several | Stream",
    target: Target = None,
    method: AnyMethod | Methods = "saliency",
    *,
    targets: Targets | None = None,
    labels: bool = False,
    at: Layer | Layers | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    keep_mode: bool = False,
    precision: Precision | None = None,
    scorecard: bool = False,
    wrt: Which = None,
    output: int | str | None = None,
    task: Task | None = None,
    class_names: Sequence[str] | None = None,
    **params: Any,
) -> Explanation | Explanations | Iterator[Explanation | Explanations]:
    """Explains a model's output for images.

    The model, the caller's tensors, the grad mode and all random generators are unchanged when this
    returns or raises. A model in train mode is explained in eval mode, with a warning. Calls from
    several threads take turns.

    Args:
        model: Any module, or a source of `load_model` such as a registered name. It may return a
            tensor, a tuple or list, a dict, or an object with ``.logits``; where several outputs
            can be scores, ``output`` chooses one.
        inputs: A path, a Pillow image, a uint8 array, or a list of them, which are preprocessed as
            the model needs them, and whose maps can be carried back to them; see `load_images`.
            Or floating-point images ``[batch, channel, height, width]``, or volumes and clips
            ``[batch, channel, depth, height, width]``, in model-input space, on the model's device
            and in its dtype. Of a model with several inputs, a tuple of tensors
            or a dict by the names of its arguments.
            A `torch.utils.data.DataLoader` or an iterator of such batches is explained as the
            results are asked for, a batch at a time, so that a data set larger than memory takes a
            loop; batches are moved to the model's device, and may be ``(images, labels)``.
        target: What to explain of each image: a class index, or one per image as int64
            ``[batch]`` or a list; a class name where the model has them; an expression
            (`explainkit.expressions`) or its text, such as ``logit("fear") - logit("sad")``; a
            function from the model's own output to one score per image; or None: the predicted
            class, of labels the most probable one. A single logit z has two classes: 0 with the
            score −z, and 1 with the score z.
        method: A registered name, or a method. A list gives a list of explanations; the methods
            share forwards and backwards.
        targets: Several targets instead of one: a list of targets, or ``"all"`` for every class.
            Gives a list of explanations.
        labels: Explain the labels of batches ``(images, labels)``, which are left out otherwise.
        at: Explain this layer's output instead of the image: its dotted path, or the module. The
            map has the layer's shape, and a baseline image stands for the layer's output on it.
            ``"blocks.3:input"`` is the layer's input, ``"blocks.3:output.1"`` the second of several
            outputs, which are named by index or key. A list of layers gives a list of explanations.
        seed: Random seed. None: the method's own, as in ``SmoothGrad(seed=5)``, or 0. The same seed
            gives the same map, independent of the batch.
        batch_size: Images run at once. The last chunk is padded to this size, so that an image's
            map is bit-identical whatever the other images and the batches of a loader are. None: as
            many as fit a memory budget.
        keep_mode: Leave the model in its current mode.
        precision: ``"bfloat16"``: the forwards of a method that only runs the model, such as
            occlusion or rise, run in bfloat16 where that suffices (`torch.autocast`). The first
            image is explained in float32, too, and ``diagnostics["rank_agreement"]`` has
            Spearman's correlation of both maps. None: the model's own.
        scorecard: Also test whether each map predicts what hiding parts of its image does;
            `Explanation.scorecard` has the result.
        wrt: Of several inputs, the names or positions of those to explain; None: all images, which
            are floating-point tensors with four axes, or five of volumes. The others are held
            fixed: a tensor has a row for each image, or one for all. Methods that hide parts of the
            image hide those of one input at a time; all others explain the inputs together. A
            baseline is then one for all inputs, or a dict or tuple with one for each.
        output: Which of several outputs of the model holds the scores: an index, a key or an
            attribute, or a dotted path such as ``"heads.age"``. None: that of its `ModelSpec`, or
            the only output that can be scores.
        task: ``"classification"``: one of several classes, by a softmax; a single logit is
            ``"binary"``. ``"multilabel"``: any number of labels, a sigmoid each. ``"regression"``:
            values without probabilities. None: that of the model's `ModelSpec` or configuration,
            or ``"classification"``.
        class_names: In the order of the classes; two for a single logit, the second for a positive
            one. None: those of the model's `ModelSpec` or configuration.
        **params: The method's fields; each of several methods takes those that it has.

    Returns:
        The maps with everything needed to interpret and reproduce them; for several methods or
        targets a list, with all targets of the first method first, and for several layers one with
        all layers of the first target first. For a model of several inputs a list, with all
        explained inputs of the first map first. For a DataLoader or an iterator, an iterator of
        these, one for each batch.

    Raises:
        InputError: Inputs of the wrong type, shape or device, or that are not finite.
        ModelError: The model fails on these inputs, its output cannot be interpreted as scores, it
            has no such layer, or memory runs out for a single image.
        TargetError: The target does not exist in the output.
        MethodError: The method has no such parameter, its map is not finite, or it does more than
            run the model and ``precision`` is given.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> x = torch.rand(2, 1, 4, 4)
        >>> e = ek.explain(net, x, method="input_x_gradient")
        >>> e.attribution.shape, e.logits.shape
        (torch.Size([2, 1, 4, 4]), torch.Size([2, 3]))
        >>> len(ek.explain(net, x, targets="all", method=["saliency", "input_x_gradient"]))
        6
        >>> data = torch.utils.data.TensorDataset(torch.rand(10, 1, 4, 4), torch.arange(10) % 3)
        >>> loader = torch.utils.data.DataLoader(data, batch_size=4)
        >>> [len(e) for e in ek.explain(net, loader, labels=True, batch_size=4)]
        [4, 4, 2]
    """
    seed = None if seed is None else seed_number(seed)
    batch_size = None if batch_size is None else batch_number(batch_size)
    keep_mode, labels = flag("keep_mode", keep_mode), flag("labels", labels)
    module = load_model(model) if isinstance(model, str | Path) else model
    check_module(module)
    parts = SeveralInputs.of(module, inputs, wrt)
    if parts is not None and (at is not None or precision is not None):
        raise InputError("expected a model of one image for at= and precision=, got several inputs")
    if isinstance(at, list | tuple) and not at:
        raise ModelLookupError("at: expected a layer, or a list of several, got an empty list")
    outputs = outputs_of(module, output, task, class_names)
    check_order(target, outputs.class_names, is_method_name)
    if targets is not None and target is not None:
        raise TargetError("expected target= (one) or targets= (several), got both")

    def ready(values: dict[str, Any]) -> list[Method]:
        found = load_methods(method, values, module)
        return found if seed is None else [seeded(one, seed) for one in found]

    call = Call(
        module,
        # what the caller named is loaded again; what the caller holds is not kept alive
        partial(load_model, model) if isinstance(model, str | Path) else ref(module),
        ready(params) if parts is None else partial(explain_each_input, parts, ready, params),
        outputs,
        several=isinstance(method, list | tuple) or isinstance(at, list | tuple)
        or targets is not None or parts is not None,
        targets=targets, at=at, seed=seed, batch_size=batch_size, keep_mode=keep_mode,
        precision=precision, scorecard=scorecard,
    )  # fmt: skip
    if is_stream(inputs):
        check_one_target(target, targets, labels=labels)
        return call.each(inputs, target, labels)
    if labels:
        raise TargetError("labels: expected a DataLoader or an iterator of batches; use target=")
    return call.on(inputs if parts is None else parts.whole, target)


def maximize(
    model: Source,
    objective: "Objective",
    *,
    shape: tuple[int, int, int] | None = None,
    maximizer: str | Maximizer | type[Maximizer] = "fourier",
    steps: int | None = None,
    seed: int = 0,
    start: Tensor | None = None,
    restarts: int = 1,
    negative: bool = False,
    dataset: Dataset | Tensor | None = None,
    frames: int = 0,
    batch_size: int | None = None,
    keep_mode: bool = False,
    output: int | str | None = None,
    task: Task | None = None,
    class_names: Sequence[str] | None = None,
    **params: Any,
) -> "Visualization":
    """Finds images that maximally activate units.

    The model runs only up to the layers that the objective needs, and is unchanged when this
    returns or raises. Pixels stay within the valid range if the model's `ModelSpec` gives its
    normalization, and are unbounded otherwise.

    Args:
        model: Any module, or a source of `load_model` such as a registered name.
        objective: An expression (`explainkit.expressions`), its text, or a list of them; each is a
            unit. ``channels("features.0")`` is every channel of a layer, ``classes()`` every class.
        shape: Channel, height, width; by default the model's own, or that of ``start`` or
            ``dataset``.
        maximizer: A registered name, or a maximizer.
        steps: Gradient steps; None: the maximizer's own number.
        seed: Random seed. The same seed gives the same images, whichever other units are requested.
        start: An image ``[channel, height, width]`` to start from instead of noise.
        restarts: Random starts per unit, of which the one with the highest final score is returned.
        negative: Also minimize each unit.
        dataset: Real images ``[n, channel, height, width]`` in model-input space. ``maco`` keeps
            their spectrum, and RGB images are optimized in their decorrelated color space.
        frames: Number of intermediate images to record, for `Visualization.animate`.
        batch_size: Images optimized at once; the last chunk is padded to this size. None: chosen.
        keep_mode: Leave the model in its current mode.
        output: Which of several outputs of the model holds the logits, as in `explain`.
        task: What the logits decide, as in `explain`: of a single logit z, ``logit(0)`` is −z and
            ``logit(1)`` is z, but in a regression ``logit(0)`` is the value.
        class_names: In the order of the classes, as in `explain`.
        **params: The maximizer's fields.

    Returns:
        The images with their traces and ranks, and everything needed to reproduce them.

    Raises:
        InputError: The shape is unknown, or given images have another shape.
        ModelError: The model fails on images of that shape, or its output is not finite.
        TargetError: The model has nothing that an objective refers to.
        MethodError: The maximizer has no such parameter.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()).eval()
        >>> v = ek.maximize(net, 'channel("0", 2) - 0.5 * tv()', shape=(1, 7, 9), steps=4)
        >>> v.images.shape, v.trace.shape, v.layer
        (torch.Size([1, 1, 7, 9]), torch.Size([4, 1]), '0')
    """
    from explainkit.activation_maximization.request import Request
    from explainkit.activation_maximization.runner import visualize

    seed = seed_number(seed)
    restarts = whole_number("restarts", restarts, 1, 10**6)
    frames = whole_number("frames", frames, 0, 10**6)
    batch_size = None if batch_size is None else batch_number(batch_size)
    negative, keep_mode = flag("negative", negative), flag("keep_mode", keep_mode)
    # of a Dataset, or given as they are
    images: Any = getattr(dataset, "images", dataset)
    module = load_model(model) if isinstance(model, str | Path) else model
    ready = load_maximizer(maximizer, **params | ({} if steps is None else {"steps": steps}))
    spec = spec_of(module)
    kind = type(ready)
    name = discovery.registry("maximizers").name_of(kind) or class_name(kind)
    found = visualize(
        module,
        ready,
        Request(
            objective=objective, shape=shape, seed=seed, start=start, restarts=restarts,
            negative=negative, dataset=images, frames=frames, batch_size=batch_size,
            keep_mode=keep_mode,
        ),
        spec,
        outputs_of(module, output, task, class_names),
    )  # fmt: skip
    for text in found.diagnostics.get("warnings", []):
        warnings.warn(f"{name}: {text}", ExplainkitWarning, stacklevel=2)
    return dataclasses.replace(
        found, maximizer=name, model=model_name(module), versions=versions(name, module)
    )
