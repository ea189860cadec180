"""The host: it resolves names, guards the model, runs a method, checks and records what came."""

import dataclasses
import platform
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

import explainkit
from explainkit.catalog import discovery
from explainkit.catalog.factories import (
    AnyMethod,
    class_name,
    is_method,
    load_maximizer,
    load_method,
    load_model,
    method_name,
    method_params,
)
from explainkit.engine.checks import Outcome
from explainkit.engine.inputs import check_inputs
from explainkit.engine.runner import run_all
from explainkit.engine.targets import parse_target
from explainkit.errors import ExplainkitWarning, InputError, MethodError
from explainkit.interfaces import Dataset, Method, ModelSpec, Target
from explainkit.isolation import preserve_model, preserve_process
from explainkit.results.explanation import Explanation, Explanations

if TYPE_CHECKING:
    from explainkit.activation_maximization.request import Objective
    from explainkit.interfaces import Maximizer
    from explainkit.results.visualization import Visualization


@overload
def explain(
    model: str | Path | nn.Module,
    inputs: Tensor,
    target: Target = None,
    method: AnyMethod = ...,
    *,
    at: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    as_is: bool = False,
    **params: Any,
) -> Explanation: ...


@overload
def explain(
    model: str | Path | nn.Module,
    inputs: Tensor,
    target: Target | list[Target],
    method: list[AnyMethod],
    *,
    at: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    as_is: bool = False,
    **params: Any,
) -> Explanations: ...


def explain(
    model: str | Path | nn.Module,
    inputs: Tensor,
    target: Target | list[Target] = None,
    method: AnyMethod | list[AnyMethod] = "explainkit/saliency",
    *,
    at: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    as_is: bool = False,
    **params: Any,
) -> Explanation | Explanations:
    """Explains what a model says about images.

    The model, the caller's tensors, the grad mode and all random generators are as before when
    this returns or raises. A model in train mode is explained in eval mode, with a warning.

    Args:
        model: A registered name, a file of weights, or any module. It may return a tensor, a
            tuple or list, a dict, or an object with ``.logits``.
        inputs: Floating images ``[batch, channel, height, width]`` in model-input space, on the
            model's device and in its dtype.
        target: What to explain of each image: a class index, int64 ``[batch]``, a class name where
            the model has them, an expression (`explainkit.expressions`) or its text, such as
            ``logit("fear") - logit("sad")``, a function from the model's output to one score per
            image, or None: the predicted class. A list of these, or ``"all"`` for every class,
            gives a list of explanations.
        method: A registered name, or a method. A list gives a list of explanations, from forwards
            and backwards that the methods share.
        at: Explain this layer's output instead of the image: the map has the layer's shape.
        seed: Of the method's random draws. The same seed gives the same map, whatever the batch.
        batch_size: Images run at once; the work is padded to it, so that an image's map is the
            same to the bit whatever stands beside it. None: as many as fit a memory budget.
        as_is: Leave the model in the mode it is in.
        **params: The method's fields; of several methods each takes those that it has.

    Returns:
        The maps with everything needed to read and to reproduce them; of several methods and
        targets a list, for each method all its targets.

    Raises:
        InputError: Inputs of the wrong type, shape or device, or that are not finite.
        ModelError: The model fails on these inputs, or its output can't be read as scores.
        TargetError: The target names nothing that the output has.
        MethodError: Parameters that the method doesn't take, or a map that is not finite.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> e = ek.explain(net, torch.rand(2, 1, 4, 4), method="input_x_gradient")
        >>> e.attribution.shape, e.logits.shape
        (torch.Size([2, 1, 4, 4]), torch.Size([2, 3]))
        >>> len(ek.explain(net, torch.rand(2, 1, 4, 4), "all", ["saliency", "input_x_gradient"]))
        6
    """
    several = isinstance(method, list) or isinstance(target, list) or target == "all"
    chosen = method if isinstance(method, list) else [method]
    ready = [_seeded(made, seed) for made in _load_methods(chosen, params)]
    module = load_model(model) if isinstance(model, str | Path) else model
    spec: ModelSpec | None = getattr(module, "explainkit_spec", None)
    check_inputs(module, inputs, spec)
    class_names = spec.class_names if spec else _class_names(module)
    wanted = target if isinstance(target, list) else [target]
    targets = [parse_target(given, class_names, len(inputs)) for given in wanted]
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}")
    images = inputs.detach().clone()
    remarks = []
    with preserve_process(seed), preserve_model(module, as_is=as_is) as was_training:
        if was_training and as_is:
            batch_size = len(images)  # batch statistics need the batch as it is
        elif was_training:
            remarks.append(
                "the model was in train mode: explained in eval mode and put back "
                "(as_is=True leaves dropout and batch statistics on)"
            )
        outcomes = run_all(ready, module, images, targets, class_names, batch_size, at)
        found = [
            _explanation(made, module, images, outcome, seed, at, remarks, class_names, name)
            for made, outcomes_of_one in zip(ready, outcomes, strict=True)
            for outcome, name in outcomes_of_one
        ]
    return Explanations(found) if several else found[0]


def _load_methods(methods: list[AnyMethod], params: dict[str, Any]) -> list[Method]:
    """Makes several methods of one set of parameters, each of those that it has.

    Raises:
        MethodError: A parameter that none of them has.
    """
    if not methods:
        raise MethodError("expected at least one method, got an empty list")
    if len(methods) == 1:
        return [load_method(methods[0], **params)]
    made = [load_method(method) for method in methods]
    fields = [{f.name for f in dataclasses.fields(method) if f.init} for method in made]
    foreign = sorted(params.keys() - set().union(*fields))
    if foreign:
        names = ", ".join(method_name(method) for method in made)
        raise MethodError(f"expected a parameter of {names}, got {foreign[0]!r}: none has it")
    return [
        load_method(method, **{name: params[name] for name in params.keys() & own})
        for method, own in zip(methods, fields, strict=True)
    ]


def _explanation(
    method: Method,
    module: nn.Module,
    images: Tensor,
    outcome: Outcome,
    seed: int,
    at: str | None,
    remarks: list[str],
    class_names: tuple[str, ...],
    target_text: str | None,
) -> Explanation:
    """The record of one method's outcome; its remarks become warnings."""
    name = method_name(method)
    all_remarks = [*remarks, *outcome.remarks(module)]
    for remark in all_remarks:
        warnings.warn(f"{name}: {remark}", ExplainkitWarning, stacklevel=4)
    spec: ModelSpec | None = getattr(module, "explainkit_spec", None)
    registered = getattr(module, "explainkit_name", None)
    diagnostics = dict(outcome.diagnostics)
    layer = diagnostics.pop("layer", None) or getattr(method, "layer", None)
    coverage = diagnostics.pop("coverage", None)
    at = diagnostics.pop("at", at)
    return Explanation(
        inputs=images,
        attribution=outcome.values,
        target=outcome.target,
        score=outcome.score,
        logits=outcome.logits,
        method=name,
        params=method_params(method),
        model=registered or class_name(type(module)),
        layer=layer,
        at=at,
        expression=target_text,
        seed=seed,
        class_names=class_names,
        mean=spec.mean if spec else None,
        std=spec.std if spec else None,
        coverage=coverage,
        diagnostics=diagnostics | ({"warnings": all_remarks} if all_remarks else {}),
        versions=_versions(name, registered),
    )


def maximize(
    model: str | Path | nn.Module,
    objective: "Objective",
    *,
    shape: tuple[int, int, int] | None = None,
    maximizer: "str | Maximizer | type[Maximizer]" = "explainkit/fourier",
    steps: int | None = None,
    seed: int = 0,
    start: Tensor | None = None,
    starts: int = 1,
    negative: bool = False,
    dataset: Dataset | Tensor | None = None,
    frames: int = 0,
    batch_size: int | None = None,
    as_is: bool = False,
    **params: Any,
) -> "Visualization":
    """Finds pictures that units answer to most.

    The model runs no further than the layers that the objective reads, and is as before when this
    returns or raises, like everything else. Pictures stay within valid pixel values where the
    model's `ModelSpec` gives its normalisation, and are unbounded otherwise.

    Args:
        model: A registered name, a file of weights, or any module.
        objective: An expression (`explainkit.expressions`), its text, or a list of them: each is a
            unit. ``channels("features.0")`` is every channel of a layer, ``classes()`` every class.
        shape: Channel, height, width; by default the model's own, or that of ``start`` or
            ``dataset``.
        maximizer: A registered name, or a maximiser.
        steps: Gradient steps; None: the maximiser's own number.
        seed: The same seed gives the same pictures, whichever units are asked for.
        start: A picture ``[channel, height, width]`` to start from instead of noise.
        starts: Tries per unit; the one that the unit answers to best at the end is kept.
        negative: Also find what each unit answers to least.
        dataset: Real pictures ``[n, channel, height, width]`` in model-input space: their spectrum
            is what ``maco`` keeps, and their colours guide RGB pictures.
        frames: Pictures on the way to keep, for `Visualization.animate`.
        batch_size: Pictures optimised at once; the work is padded to it. None: chosen.
        as_is: Leave the model in the mode it is in.
        **params: The maximiser's fields.

    Returns:
        The pictures with traces, ranks and everything needed to reproduce them.

    Raises:
        InputError: The shape can't be told, or pictures of another shape.
        ModelError: The model fails on pictures of that shape, or its output isn't finite.
        TargetError: An objective names nothing that the model has.
        MethodError: Parameters that the maximiser doesn't take.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()).eval()
        >>> v = ek.maximize(net, 'channel("0", 2) - 0.5 * tv()', shape=(1, 7, 9), steps=4)
        >>> v.images.shape, v.trace.shape, v.layer
        (torch.Size([1, 1, 7, 9]), torch.Size([4, 1]), '0')
    """
    from explainkit.activation_maximization.request import Request
    from explainkit.activation_maximization.runner import visualize

    module = load_model(model) if isinstance(model, str | Path) else model
    ready = load_maximizer(maximizer, **params | ({} if steps is None else {"steps": steps}))
    spec: ModelSpec | None = getattr(module, "explainkit_spec", None)
    kind = type(ready)
    name = discovery.registry("maximizers").name_of(kind) or class_name(kind)
    registered = getattr(module, "explainkit_name", None)
    found = visualize(
        module,
        ready,
        Request(
            objective=objective,
            shape=shape,
            seed=seed,
            start=start,
            starts=starts,
            negative=negative,
            dataset=dataset if dataset is None or isinstance(dataset, Tensor) else dataset.images,
            frames=frames,
            batch_size=batch_size,
            as_is=as_is,
        ),
        spec,
        spec.class_names if spec else _class_names(module),
    )
    for remark in found.diagnostics.get("warnings", []):
        warnings.warn(f"{name}: {remark}", ExplainkitWarning, stacklevel=2)
    return dataclasses.replace(
        found,
        maximizer=name,
        model=registered or class_name(type(module)),
        versions=_versions(name, registered),
    )


def _class_names(module: nn.Module) -> tuple[str, ...]:
    """The names that a model from the transformers library carries in its configuration."""
    names = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(names, dict):
        return ()
    by_id = {str(i): str(name) for i, name in names.items()}
    ids = [str(i) for i in range(len(names))]
    return tuple(by_id[i] for i in ids) if by_id.keys() == set(ids) else ()


def _seeded(method: Method, seed: int) -> Method:
    """The method, and those inside it, with their seeds set."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if field.name == "seed":
            changes["seed"] = seed
        elif is_method(value):
            changes[field.name] = _seeded(value, seed)
    return dataclasses.replace(method, **changes) if changes else method


def _versions(method: str, model: str | None) -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "explainkit": explainkit.__version__,
    }
    for name in (method, model or ""):
        plugin, slash, _ = name.partition("/")
        if slash and plugin != "explainkit":
            found[plugin] = discovery.default().version_of(plugin)
    return found
