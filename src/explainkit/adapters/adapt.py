"""A module of the caller's, with what is known about its inputs and outputs."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from explainkit.adapters import timm
from explainkit.adapters.black_box import BlackBox
from explainkit.adapters.overrides import Numbers, Size, changed
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.adapters.spec import spec_for
from explainkit.adapters.transformers import declared_outputs
from explainkit.adapters.two_towers import ImageTower, embedder
from explainkit.errors import ModelError
from explainkit.interfaces import ModelSpec, spec_of
from explainkit.scores import TASKS, Task


def adapt(
    module: nn.Module | Callable[[Any], Any],
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    output: int | str | None = None,
    task: Task | None = None,
    tokenizer: Callable[..., Any] | None = None,
) -> nn.Module:
    """Adds to a model what explainkit should know about it; the given module is not changed.

    What is not given is kept from a model that already knows it: one from `load_model`, a timm
    model with its ``pretrained_cfg``, or a transformers model with its configuration.

    Args:
        module: Any module. The result is a shallow copy that shares its parameters, buffers and
            layers. Or a function from a NumPy array of images ``[batch, channel, height, width]``
            to scores: methods that only run the model explain it.
        preprocessing: How images become its inputs.
        class_names: In the order of the classes; two for a single logit.
        output: Which of several outputs holds the scores, as in `explain`.
        task: What the scores mean, as in `explain`.
        tokenizer: The tokenizer of a model of images and texts, such as CLIP or SigLIP of
            transformers or OpenCLIP. The result then returns the embeddings of images, and targets
            can compare them with texts: ``similarity("a photo of a cat")``.

    Returns:
        A module for `explain`, `maximize` and `load_images`.

    Raises:
        ModelError: It is neither a module nor a function, there is no such task, or a model with
            a tokenizer does not embed both images and texts.

    Examples:
        >>> import torch, explainkit as ek
        >>> from explainkit.adapters.preprocessing import Preprocessing, Resize
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
        >>> small = Preprocessing((Resize(4, "exact"),), mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> model = ek.adapt(net, preprocessing=small, class_names=["cat", "dog"])
        >>> ek.explain(model, torch.rand(1, 3, 4, 4), "dog").target_name(0)
        'dog'
    """
    spec = known_of(module)
    if isinstance(module, nn.Module) and tokenizer is not None:
        model: nn.Module = ImageTower(module).train(module.training)
        embed = embedder(module, tokenizer)
        spec = replace(spec, embed=embed, task="regression", class_names=(), output=None)
    elif isinstance(module, nn.Module):
        model = copy.copy(module)
    elif callable(module) and not isinstance(module, type):
        model = BlackBox(module)
    else:
        raise ModelError(
            "expected a torch.nn.Module, or a function from a numpy array of images to scores, got "
            f"{module!r:.80}"
        )
    if preprocessing is not None:
        own = spec_for(preprocessing)
        spec = replace(spec, preprocessing=preprocessing, mean=own.mean, std=own.std)
    return described(model, with_outputs(spec, class_names, output, task))


def known_of(module: object) -> ModelSpec:
    """What a model says about itself: it was loaded here, or it is of timm or transformers."""
    if (spec := spec_of(module)) is not None:
        return spec
    if isinstance(module, nn.Module) and timm.is_timm(module):
        return timm.spec_of_model(module)
    task, names = declared_outputs(getattr(module, "config", None))
    return ModelSpec(task=task, class_names=names)


def described(model: nn.Module, spec: ModelSpec, name: str | None = None) -> nn.Module:
    """The model, which now carries its specification and, if it is given, its name."""
    # plain attributes of the instance, past nn.Module's registration
    vars(model)["explainkit_spec"] = spec
    if name is not None:
        vars(model)["explainkit_name"] = name
    return model


def with_outputs(
    spec: ModelSpec,
    class_names: Sequence[str] | None = None,
    output: int | str | None = None,
    task: Task | None = None,
) -> ModelSpec:
    """A specification with what the caller knows about the outputs.

    Raises:
        ModelError: There is no such task.
    """
    if task is not None and task not in TASKS:
        raise ModelError(f"task: expected {', '.join(TASKS)}, got {task!r}")
    if output is not None and output != spec.output:
        spec = replace(spec, output=output, class_names=(), task="classification")
    if class_names is not None:
        spec = replace(spec, class_names=tuple(map(str, class_names)))
    return spec if task is None else replace(spec, task=task)


def with_inputs(
    model: nn.Module,
    *,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: Size | None = None,
    crop: float | None = None,
) -> ModelSpec:
    """A model's specification with what the caller knows about its inputs, as in `changed`."""
    spec = known_of(model)
    if mean is std is size is crop is None:
        return spec
    from explainkit.adapters.images import preprocessing_of  # imports Pillow

    found = changed(preprocessing_of(model), mean=mean, std=std, size=size, crop=crop)
    known = spec_for(found)
    shape = spec.image_shape
    if shape is not None and size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        shape = (shape[0], height, width)
    return replace(spec, preprocessing=found, mean=known.mean, std=known.std, image_shape=shape)
