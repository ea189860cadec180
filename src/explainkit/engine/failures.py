"""Failures of the caller's model, as errors of one line with a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from explainkit.adapters.black_box import is_black_box
from explainkit.errors import ExplainkitError, ModelError
from explainkit.layers import members_of

_PLAIN = {RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError}
_INSIDE = ("grad", "layer", "attention")
"""Words in errors of methods that look inside a model."""

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")


@contextmanager
def failing_as_model_error(module: nn.Module, images: Tensor) -> Iterator[None]:
    """Turns torch's errors into a one-line `ModelError` about the model and the images."""
    try:
        yield
    except Exception as error:
        # a subclass is an error of the caller's own, which should pass unchanged
        if type(error) not in _PLAIN or out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{type(module).__name__} failed on images {list(images.shape)} "
            f"{str(images.dtype).removeprefix('torch.')}: {reason}{_remedy(module, images, reason)}"
        ) from error


def _remedy(module: nn.Module, images: Tensor, reason: str) -> str:
    """What to do about a model that runs on a batch of another size; "" if that is not why."""
    if len(images) > 1 and _runs_on(module, images[:1]):
        return "; it runs on a single image: use batch_size=1"
    if "required positional argument" in reason:
        return (
            "; a model of several inputs takes a tuple or dict of them, in a shell those of a data "
            "set: explainkit batch"
        )
    if reason.startswith("Guard failed"):
        return (
            "; it was exported for another shape: use the batch_size= of its example, or export it "
            "on two images with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)"
        )
    return ""


def _runs_on(module: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            module(images.detach().clone())
    except Exception:  # noqa: BLE001 - a model may fail in any way
        return False
    return True


@contextmanager
def naming_missing_gradients(module: nn.Module) -> Iterator[None]:
    """Says why a method finds no gradients or layers, if that is due to the model itself."""
    try:
        yield
    except (RuntimeError, ExplainkitError) as error:
        if is_black_box(module) and any(word in str(error) for word in _INSIDE):
            raise ModelError(
                "expected a model of torch with gradients and layers, but this one runs outside of "
                f"torch ({type(module).__name__}): use a method that only runs the model, such as "
                "occlusion, rise, lime or kernel_shap"
            ) from error
        if "grad" not in str(error) or not (why := _without_gradients(module)):
            raise
        raise ModelError(
            f"expected a model with gradients, but {why}; methods that only run the model, such as "
            "occlusion or rise, work as it is"
        ) from error


def _without_gradients(module: nn.Module) -> str:
    """Why autograd can't differentiate a model; "" if it can."""
    if is_inference(module):
        return (
            "its weights were created in inference mode: load it outside torch.inference_mode(), "
            "or explain copy.deepcopy(model)"
        )
    quantized = (type(part).__module__.startswith(_QUANTIZED) for part in module.modules())
    return "it is quantized: explain the model from before the quantization" * any(quantized)


def is_inference(module: nn.Module) -> bool:
    """Whether a weight or buffer was created in inference mode; autograd refuses to save it."""
    return members_of(module).is_inference


@contextmanager
def naming_missing_memory(module: nn.Module, remedy: str) -> Iterator[None]:
    """Turns an allocator's error into a one-line `ModelError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ModelError(f"out of memory in {type(module).__name__}: {remedy}") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is an out-of-memory error, on any device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and ("not enough memory" in text or "can't allocate memory" in text)
    )
