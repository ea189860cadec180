"""Builds models and loads their weights from safetensors files."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from explainkit.adapters.adapt import described
from explainkit.adapters.checkpoints import PICKLED, load_state, read_safetensors
from explainkit.catalog import discovery
from explainkit.errors import ModelError, PluginError
from explainkit.interfaces import ModelSpec

_SOURCES = {".onnx": "write 'onnx:{}'", ".py": "write '{}:NAME', with a name in that file"}
"""What to write instead of the bare path of a file, by its suffix."""

ARCHITECTURE = "explainkit_model"
"""The metadata key by which a weights file names its architecture."""


def build(
    name: str,
    spec: ModelSpec,
    state: Mapping[str, Tensor] | None = None,
    *,
    pretrained: bool = True,
) -> nn.Module:
    """Builds a model in eval mode: with ``state``, or its own weights if it is ``pretrained``."""
    if spec.build is None:
        raise PluginError(f"model {name!r}: expected a ModelSpec with build=, got None")
    module = spec.build()
    values = state
    if values is None and pretrained and spec.weights:
        values = spec.weights()
    if values is not None:
        load_state(module, values, name)
    return described(module, spec, name).eval()


def load_file(path: Path) -> nn.Module:
    """Builds the model that a ``.safetensors`` file names in its metadata, with its weights."""
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            f"expected a .safetensors file that names its architecture, got {path}: pickled "
            "checkpoints can run code when they are loaded, and do not say what they are weights "
            "of; name the model, and give the file as weights= (--weights)"
        )
    if path.suffix in _SOURCES:
        remedy = _SOURCES[path.suffix].format(path)
        raise ModelError(f"expected a model's name or a weights file, got {path}: {remedy}")
    state, metadata = read_safetensors(path)
    if ARCHITECTURE not in metadata:
        raise ModelError(
            f"expected {path} to name its architecture in its metadata "
            f"({ARCHITECTURE}: plugin/model), got {sorted(metadata) or 'none'}; name the model, "
            "and give the file as weights= (--weights)"
        )
    registry = discovery.registry("models")
    name = registry.qualify(metadata[ARCHITECTURE])
    return build(name, cast(ModelSpec, registry.get(name)), state)
