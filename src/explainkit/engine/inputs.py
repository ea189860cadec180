"""Checks that images fit the model."""

import torch
from torch import Tensor, nn

from explainkit.errors import InputError, ModelError
from explainkit.interfaces import ModelSpec
from explainkit.layers import parameters_of, submodules


def check_inputs(module: nn.Module, inputs: object, spec: ModelSpec | None) -> None:
    """Checks a model and its inputs.

    Args:
        module: The caller's model.
        inputs: What the caller passed as images.
        spec: The model's specification, or None.

    Raises:
        ModelError: The model is not a module.
        InputError: The images have the wrong type, shape, device or dtype, or are not finite.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"expected a model's name or a torch.nn.Module, got {type(module).__name__}"
        )
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"expected a torch.Tensor [batch, channel, height, width], got "
            f"{type(inputs).__name__}: use torch.as_tensor"
        )
    shape = list(inputs.shape)
    if inputs.dim() != 4:
        hint = "; inputs[None] adds the batch axis" if inputs.dim() == 3 else ""
        raise InputError(f"expected images [batch, channel, height, width], got {shape}{hint}")
    if not inputs.numel():
        raise InputError(f"expected at least one image with at least one pixel, got {shape}")
    if not inputs.is_floating_point():
        raise InputError(
            f"expected floating-point images, got {str(inputs.dtype).removeprefix('torch.')}: "
            "convert and normalize them as in training, e.g. (inputs.float() / 255 - mean) / std"
        )
    if spec and tuple(shape[1:]) != spec.image_shape:
        raise InputError(
            f"expected images [batch, {', '.join(map(str, spec.image_shape))}] for this model, "
            f"got {shape}"
        )
    modules = submodules(module)
    parameters = [p for p in parameters_of(modules) if p.is_floating_point()]
    buffers = (b for m in modules for b in m._buffers.values() if b is not None)
    first = next((t for t in (*parameters, *buffers) if t.is_floating_point()), None)
    if first is not None and first.device != inputs.device:
        raise InputError(
            f"expected inputs on the model's device {first.device}, got {inputs.device}: "
            f"inputs.to({str(first.device)!r})"
        )
    dtypes = {p.dtype for p in parameters}
    if len(dtypes) == 1 and inputs.dtype not in dtypes and not torch.is_autocast_enabled():
        (dtype,) = dtypes
        raise InputError(
            f"expected inputs in the model's dtype {dtype}, got {inputs.dtype}: inputs.to({dtype})"
        )
    if inputs.device.type == "meta":
        raise InputError("expected images with values, got a tensor on the meta device")
    wrong = ~torch.isfinite(inputs)
    if wrong.any():
        image, channel, row, column = wrong.nonzero()[0].tolist()
        raise InputError(
            f"expected finite pixels, got {int(wrong.sum())} that are NaN or infinite (first in "
            f"image {image}, channel {channel}, row {row}, column {column}): "
            "torch.nan_to_num replaces them"
        )
