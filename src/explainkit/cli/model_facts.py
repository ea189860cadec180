"""What ``explainkit describe`` says about a model."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from explainkit.adapters.images import ImageBatch, make_batch
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.api import explain
from explainkit.catalog.models import load_model
from explainkit.catalog.registry import foreign_code
from explainkit.engine.model import ScoreModel
from explainkit.engine.record import outputs_of
from explainkit.errors import ExplainkitError, ExplainkitWarning
from explainkit.interfaces import spec_of
from explainkit.isolation import preserve_model, preserve_process

_SIDE = 256
"""Pixels of the gray image that the model runs on."""


def facts(source: str, depth: int) -> dict[str, Any]:
    """Classes, preprocessing, layers and the default layer of a model, without its weights.

    Args:
        source: As in `load_model`.
        depth: The levels of nested layers to list.

    Raises:
        ExplainkitError: The model can't be built or run.
    """
    with foreign_code():
        return _facts(load_model(source, pretrained=False), depth)


def _facts(model: nn.Module, depth: int) -> dict[str, Any]:
    spec = spec_of(model)
    assert spec is not None
    batch = make_batch(Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128)), model)
    layers = {
        name: layer for name, layer in model.named_modules() if name and name.count(".") < depth
    }
    scorer = ScoreModel(model, outputs=outputs_of(model))
    with preserve_process(0), preserve_model(model), _shapes(layers) as shapes, torch.no_grad():
        logits = scorer.run(batch.inputs).logits
    task = scorer.outputs.task
    return {
        "classes": 2 if task == "binary" else logits.shape[1],
        "class_names": list(scorer.outputs.class_names),
        "task": task,
        "output": scorer.outputs.output,
        "preprocessing": _described(batch.preprocessing),
        "input": " × ".join(map(str, batch.inputs.shape[1:])),
        "parameters": _size(model),
        "default_layer": spec.layer or _default_layer(model, batch),
        "layers": [
            {
                "name": name,
                "kind": type(layer).__name__,
                "output": shapes.get(name),
                "parameters": _size(layer),
            }
            for name, layer in layers.items()
        ],
    }


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _shapes(layers: dict[str, nn.Module]) -> Iterator[dict[str, list[int]]]:
    """Records the shape of each layer's output, without the batch; none where it is no tensor."""
    found: dict[str, list[int]] = {}

    def recorder(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor):
                found[name] = list(first.shape[1:])

        return hook

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(recorder(name)).remove)
        yield found


def _default_layer(model: nn.Module, batch: ImageBatch) -> str:
    """The layer that Grad-CAM uses, or why there is none."""
    try:
        with warnings.catch_warnings(action="ignore", category=ExplainkitWarning):
            return str(explain(model, batch, method="gradcam").layer)
    except ExplainkitError as error:
        return f"none: {error}"


def _described(preprocessing: Preprocessing) -> str:
    """A preprocessing in words.

    Examples:
        >>> from explainkit.adapters.preprocessing import CenterCrop, Resize
        >>> _described(Preprocessing((Resize(800, longest_edge=1333),)))
        'RGB, Resize 800 (longest_edge 1333), pixel / 255'
        >>> _described(Preprocessing((Resize(256, "exact"), CenterCrop(224)), (0.5,), (0.25,), 1))
        'gray, Resize 256 (exact), CenterCrop 224, (pixel / 255 - 0.5) / 0.25'
    """
    parts = ["RGB" if preprocessing.channels == 3 else "gray"]
    for step in preprocessing.steps:
        size = getattr(step, "size", None) or ()
        sides = " × ".join(map(str, [size] if isinstance(size, int) else size))
        text = f"{type(step).__name__} {sides}".rstrip()
        changed = [
            f"{field.name} {value}" if isinstance(value, int) else str(value)
            for field in fields(step)
            if field.name != "size" and (value := getattr(step, field.name)) != field.default
        ]
        parts.append(text + (f" ({', '.join(changed)})" if changed else ""))
    mean, std = (
        None if values is None else ", ".join(f"{value:g}" for value in values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    several = preprocessing.channels > 1
    normalized = "pixel / 255"
    if mean is not None:
        normalized = f"({normalized} - {f'({mean})' if several else mean})"
    if std is not None:
        normalized += f" / {f'({std})' if several else std}"
    parts.append(normalized)
    return ", ".join(parts) + ("" if preprocessing.known else " (normalization not known)")
