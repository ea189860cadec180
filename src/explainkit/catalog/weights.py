"""Builds models and loads their weights from safetensors files."""

from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from explainkit.catalog import discovery
from explainkit.errors import ModelError, PluginError
from explainkit.interfaces import ModelSpec

ARCHITECTURE = "explainkit_model"
"""The metadata key by which a weights file names its architecture."""


def build(name: str, spec: ModelSpec, state: dict[str, Tensor] | None = None) -> nn.Module:
    """Builds a model in eval mode with its own weights, or with ``state``."""
    if spec.build is None:
        raise PluginError(f"model {name!r}: expected a ModelSpec with build=, got None")
    module = spec.build()
    values = state if state is not None else dict(spec.weights()) if spec.weights else None
    if values is not None:
        wanted = module.state_dict()
        missing = sorted(wanted.keys() - values.keys())
        foreign = sorted(values.keys() - wanted.keys())
        if missing or foreign:
            raise ModelError(
                f"expected weights of {name} ({len(wanted)} tensors), got {len(values)}: "
                f"missing {missing[:3]}, unexpected {foreign[:3]}"
            )
        for key, tensor in wanted.items():
            if values[key].shape != tensor.shape:
                raise ModelError(
                    f"expected {key!r} of {name} to be {list(tensor.shape)}, "
                    f"got {list(values[key].shape)}: these weights are of another architecture"
                )
        module.load_state_dict(values)
    # plain attributes of the instance, past nn.Module's registration
    vars(module)["explainkit_spec"] = spec
    vars(module)["explainkit_name"] = name
    return module.eval()


def load_file(path: Path) -> nn.Module:
    """Builds the model that a ``.safetensors`` file names in its metadata, with its weights."""
    if path.suffix in {".pt", ".pth", ".bin", ".pkl", ".ckpt"}:
        raise ModelError(
            f"expected a .safetensors file, got {path}: pickled checkpoints can run code "
            "when they are loaded; save the state_dict with safetensors.torch.save_file"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"expected a weights file, found nothing at {path}") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"expected a safetensors file, got {path}: {error}") from error
    if ARCHITECTURE not in metadata:
        raise ModelError(
            f"expected {path} to name its architecture in its metadata "
            f"({ARCHITECTURE}: plugin/model), got {sorted(metadata) or 'none'}"
        )
    registry = discovery.registry("models")
    name = registry.qualify(metadata[ARCHITECTURE])
    return build(name, cast(ModelSpec, registry.get(name)), state)
