"""Builds the `Explanation`: an outcome with everything needed to interpret and reproduce it."""

import platform
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import explainkit
from explainkit.adapters.packages import installed_version
from explainkit.adapters.sources import package_of
from explainkit.adapters.transformers import declared_outputs
from explainkit.catalog import discovery
from explainkit.catalog.factories import class_name, method_name, method_params
from explainkit.engine.arguments import names_of_classes
from explainkit.engine.checks import Outcome
from explainkit.engine.precision import Precision
from explainkit.errors import ExplainkitWarning, ModelError
from explainkit.interfaces import Method, spec_of
from explainkit.methods.contract import seed_of
from explainkit.results.explanation import Explanation
from explainkit.scores import TASKS, Outputs, Task

if TYPE_CHECKING:
    from explainkit.adapters.images import ImageBatch


def as_explanation(
    method: Method,
    module: nn.Module,
    images: Tensor,
    outcome: Outcome,
    *,
    seed: int,
    expression: str | None,
    precision: Precision | None = None,
    warned: Sequence[str] = (),
    batch: "ImageBatch | None" = None,
    part: str | None = None,
) -> Explanation:
    """The result of one method; its warnings are also issued as `ExplainkitWarning`.

    Args:
        method: As it was run.
        module: The caller's model.
        images: ``[batch, channel, height, width]``.
        outcome: What the method returned.
        seed: Seed of the global generators.
        expression: Text of the explained expression or function; None if a class was explained.
        precision: Of the method's forwards; None: the model's own.
        warned: Warnings that do not come from the method.
        batch: Where the images come from; None: the caller gave a tensor.
        part: Name of the input that they are, of a model with several.
    """
    name = method_name(method)
    names = batch.names if batch else ()
    found = [*warned, *outcome.all_warnings(module, names, expression is not None)]
    for text in found:
        warnings.warn(f"{name}: {text}", ExplainkitWarning, stacklevel=4)
    diagnostics = dict(outcome.diagnostics)
    if outcome.standard_error is not None:
        diagnostics["standard_error"] = outcome.standard_error
    if outcome.partial:
        diagnostics["partial"] = True
    if found:
        diagnostics["warnings"] = found
    own_seed = seed_of(method)
    spec = spec_of(module)
    mean, std = (spec.mean, spec.std) if spec else (None, None)
    if batch:
        mean, std = batch.preprocessing.normalization
    if part is not None and mean is not None and len(mean) != images.shape[1]:
        mean = std = None
    return Explanation(
        inputs=images,
        attribution=outcome.values,
        target=outcome.target,
        score=outcome.score,
        logits=outcome.logits,
        method=name,
        params=method_params(method),
        model=model_name(module),
        layer=outcome.layer,
        at=outcome.at,
        expression=expression,
        seed=seed if own_seed is None else own_seed,
        task=outcome.outputs.task,
        output=outcome.outputs.output,
        squashed=outcome.outputs.squashed,
        precision=precision,
        class_names=outcome.outputs.class_names,
        mean=mean,
        std=std,
        originals=batch.originals if batch else None,
        geometries=batch.geometries if batch else None,
        names=batch.names if batch else (),
        coverage=outcome.coverage,
        diagnostics=diagnostics,
        versions=versions(name, module),
        input=part,
    )


def model_name(module: nn.Module) -> str:
    """The name by which a model was loaded, or module and class of any other."""
    registered: str | None = getattr(module, "explainkit_name", None)
    return registered or class_name(type(module))


def versions(name: str, module: nn.Module) -> dict[str, str]:
    """Versions of Python, torch, explainkit, and the plugins and packages of method and model.

    Args:
        name: Qualified name of the method or maximizer.
        module: The caller's model.
    """
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "explainkit": explainkit.__version__,
    }
    source: str = getattr(module, "explainkit_name", "")
    if package := package_of(source):
        found[package] = installed_version(package) or "unknown"
    for qualified in (name, source):
        plugin, slash, _ = qualified.partition("/")
        if slash and plugin in discovery.default().names():
            found[plugin] = discovery.default().version_of(plugin)
    return found


def outputs_of(
    module: Any,
    output: int | str | None = None,
    task: Task | None = None,
    class_names: Sequence[str] | None = None,
) -> Outputs:
    """What a model's outputs mean: as given, or else from its `ModelSpec` or configuration.

    A transformers model has its task and its class names in its configuration.

    Raises:
        ModelError: No such task.
    """
    if task is not None and task not in TASKS:
        raise ModelError(f"task: expected {', '.join(TASKS)}, got {task!r}")
    spec, config = spec_of(module), getattr(module, "config", None)
    if output not in (None, spec.output if spec else "logits"):
        known = Outputs(output, "classification")  # what is known is about another output
    elif spec:
        known = Outputs(spec.output, spec.task, spec.class_names)
    else:
        known = Outputs(output, *declared_outputs(config))
    names = known.class_names if class_names is None else names_of_classes(class_names)
    return Outputs(known.output, task or known.task, names)
