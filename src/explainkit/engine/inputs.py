"""Checks that images, volumes and clips fit the model."""

import inspect
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from explainkit.engine.checks import all_finite
from explainkit.errors import InputError, ModelError
from explainkit.interfaces import ModelSpec
from explainkit.layers import buffers_of, parameters_of, submodules


def check_module(module: object) -> None:
    """Checks that a model is one.

    Raises:
        ModelError: It is not a module.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"expected a model's name or a torch.nn.Module, got {type(module).__name__}"
            + ": ek.adapt(function) makes a model of a function on NumPy arrays" * callable(module)
        )


def check_inputs(
    module: nn.Module, inputs: object, spec: ModelSpec | None, *, volumes: bool = False
) -> Tensor:
    """Checks a model and its inputs.

    Args:
        module: The caller's model.
        inputs: What the caller passed as images.
        spec: The model's specification, or None.
        volumes: Also accept volumes and clips ``[batch, channel, depth, height, width]``.

    Returns:
        The images.

    Raises:
        ModelError: The model is not a module, has no weights yet, or takes text.
        InputError: The images have the wrong type, shape, device or dtype, or are not finite.
    """
    check_module(module)
    names = argument_names(module)
    if "pixel_values" in names and names[0] != "pixel_values":
        raise ModelError(
            f"expected a model of images alone, but {type(module).__name__} takes {names[0]} "
            f"first: pass a dict of its inputs, {{'pixel_values': images, {names[0]!r}: …}}, or "
            "compare images with a text by ek.adapt(model, tokenizer=…)"
        )
    return check_images(module, inputs, spec, volumes=volumes)


def check_images(
    module: nn.Module, inputs: object, spec: ModelSpec | None = None, *, volumes: bool = False
) -> Tensor:
    """As `check_inputs`, of a model that may have other inputs, too."""
    modules = submodules(module)
    parameters = parameters_of(modules)
    if any(map(is_lazy, dict(zip(map(type, parameters), parameters, strict=True)).values())):
        raise ModelError(
            "expected a model with weights, but it has lazy layers that are not initialized: run "
            "it once, model(inputs), before it is explained"
        )
    if not isinstance(inputs, Tensor):
        raise InputError(
            f"expected a torch.Tensor [batch, channel, height, width], got "
            f"{type(inputs).__name__}: use torch.as_tensor"
        )
    shape = list(inputs.shape)
    if inputs.dim() not in ({4, 5} if volumes else {4}):
        wanted = "images [batch, channel, height, width]"
        hint = {
            3: "; inputs[None] adds the batch axis",
            5: "; volumes and clips can be explained, but not judged by hiding parts of them",
        }.get(inputs.dim(), "")
        if volumes:
            wanted += " or volumes [batch, channel, depth, height, width]"
        raise InputError(f"expected {wanted}, got {shape}{hint}")
    if not inputs.numel():
        raise InputError(f"expected at least one image with at least one pixel, got {shape}")
    if not inputs.is_floating_point():
        raise InputError(
            f"expected floating-point images, got {str(inputs.dtype).removeprefix('torch.')}: "
            "convert and normalize them as in training, e.g. (inputs.float() / 255 - mean) / std"
        )
    if spec and spec.image_shape and tuple(shape[1:]) != spec.image_shape:
        raise InputError(
            f"expected images [batch, {', '.join(map(str, spec.image_shape))}] for this model, "
            f"got {shape}"
        )
    _check_order(module, shape)
    parameters = [*filter(Tensor.is_floating_point, parameters)]
    first = next(iter(parameters or filter(Tensor.is_floating_point, buffers_of(modules))), None)
    if first is not None and first.device != inputs.device:
        raise InputError(
            f"expected inputs on the model's device {first.device}, got {inputs.device}: "
            f"inputs.to({str(first.device)!r})"
        )
    dtypes = {p.dtype for p in parameters}
    if len(dtypes) == 1 and inputs.dtype not in dtypes:
        (dtype,) = dtypes
        raise InputError(
            f"expected inputs in the model's dtype {dtype}, got {inputs.dtype}: inputs.to({dtype})"
        )
    if inputs.device.type == "meta":
        raise InputError("expected images with values, got a tensor on the meta device")
    if not all_finite(inputs):
        wrong = ~torch.isfinite(inputs)
        axes = ("image", "channel", *["slice"] * (inputs.dim() - 4), "row", "column")
        first_wrong = zip(axes, wrong.nonzero()[0].tolist(), strict=True)
        raise InputError(
            f"expected finite pixels, got {int(wrong.sum())} that are NaN or infinite (first in "
            f"{', '.join(f'{axis} {index}' for axis, index in first_wrong)}): "
            "torch.nan_to_num replaces them"
        )
    return inputs


def argument_names(module: nn.Module) -> list[str]:
    """Names of the arguments of a model's forward; a compiled one may not tell."""
    with suppress(TypeError, ValueError):
        return list(inspect.signature(module.forward).parameters)
    return []


def _check_order(module: nn.Module, shape: list[int]) -> None:
    """Refuses images and volumes whose channels are on another axis.

    That is so if the last axis has as many channels as the first convolution takes, or three, while
    height and width have more values than that; or if the frames of a clip come before its
    channels, and the first convolution takes these.
    """
    kind, axes = "images", "height, width"
    conv: type[nn.Conv2d | nn.Conv3d] = nn.Conv2d
    if len(shape) == 5:
        kind, axes, conv = "volumes", "depth, height, width", nn.Conv3d
    first = next((part for part in module.modules() if isinstance(part, conv)), None)
    channels = 3 if first is None else first.in_channels
    _, *sizes, last = shape
    if last == channels and min(sizes[-2:]) > max(last, 4) and sizes[0] > last:
        found = f"[batch, {axes}, channel]: inputs.movedim(-1, 1)"
    elif len(shape) == 5 and first is not None and shape[1] != channels == shape[2]:
        found = "[batch, depth, channel, height, width]: inputs.transpose(1, 2)"
    else:
        return
    raise InputError(
        f"expected {kind} [batch, channel, {axes}], got {shape}, which looks like {found}"
    )
