"""Isolation: restores the caller's model, random generators and modes after every call."""

import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from explainkit.errors import MethodError


def uncompiled() -> AbstractContextManager[object]:
    """Runs models compiled by `torch.compile` in eager mode.

    Hooks and operator recording do not work in compiled code.
    """
    # nothing is compiled unless this module is loaded, and importing it takes seconds
    started = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if started else nullcontext()


@contextmanager
def preserve_process(seed: int) -> Iterator[None]:
    """Runs a block with gradients enabled and all global generators seeded, then undoes both.

    Seeding makes methods that use a global generator, and models with active dropout,
    reproducible. It covers torch, numpy and the standard library.
    """
    numpy = sys.modules.get("numpy")
    torch_state = torch.get_rng_state()
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    # a seed set before an accelerator is initialized would take effect later, and not be undone
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda_states = torch.cuda.get_rng_state_all() if cuda else []
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    dtype = torch.get_default_dtype()
    try:
        with torch.inference_mode(False), torch.enable_grad(), uncompiled():
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            if numpy:
                numpy.random.seed(seed % 2**32)
            if cuda:
                torch.cuda.manual_seed_all(seed)
            if mps_state is not None:
                torch.mps.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


@contextmanager
def preserve_model(model: nn.Module, *, keep_mode: bool = False) -> Iterator[bool]:
    """Runs a block with the model frozen and in eval mode, then restores everything.

    It restores every module's attributes (`training`, hooks, children, patched methods, plain
    values), `requires_grad`, `.grad`, the values of buffers, and torch's global module hooks.
    Parameters are not copied, since that would double the memory of a large model; an in-place
    change of one is an error.

    Args:
        model: The caller's model.
        keep_mode: Leave each module in its current mode.

    Yields:
        Whether any module was in train mode.

    Raises:
        MethodError: A parameter was changed in place during the block.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    containers = [
        (value, _shallow(value))
        for values in (*attributes, vars(torch_module))
        for name, value in values.items()
        if isinstance(value, dict | list | set)
        and (values is not vars(torch_module) or name.startswith("_global_"))
    ]
    parameters = [_Parameter(name, value) for name, value in model.named_parameters()]
    buffers = [(value, value.detach().clone()) for value in _plain_tensors(model, attributes)]
    training = [module.training for module in modules]
    try:
        for parameter in parameters:
            parameter.freeze()
        if not keep_mode:
            for module in modules:
                # not .eval(): a model may override it with side effects
                module.training = False
        yield any(training)
    finally:
        for container, saved in containers:
            container.clear()
            container.extend(saved) if isinstance(container, list) else container.update(saved)
        for module, saved_attributes, was_training in zip(
            modules, attributes, training, strict=True
        ):
            vars(module).clear()
            vars(module).update(saved_attributes)
            module.training = was_training  # a ScriptModule keeps it outside its __dict__
        for buffer, saved_buffer in buffers:
            if not _same_bits(buffer, saved_buffer):
                with torch.no_grad():
                    buffer.copy_(saved_buffer)
        for parameter in parameters:
            parameter.restore()
    changed = [parameter.name for parameter in parameters if parameter.was_written()]
    if changed:
        raise MethodError(
            f"expected the model's parameters to be unchanged, but {changed[0]!r} was written in "
            f"place ({len(changed)} in total): a method must work on a copy "
            "(torch.func.functional_call)"
        )


class _Parameter:
    """The state to restore of one parameter."""

    def __init__(self, name: str, tensor: nn.Parameter) -> None:
        self.name = name
        self.tensor = tensor
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad
        self.data = tensor.detach()
        self.version = _version(tensor)

    def freeze(self) -> None:
        self._require_grad(False)
        self.tensor.grad = None

    def restore(self) -> None:
        if self.tensor.data_ptr() != self.data.data_ptr():
            self.tensor.data = self.data
        self._require_grad(self.requires_grad)
        self.tensor.grad = self.grad

    def _require_grad(self, wanted: bool) -> None:
        if self.tensor.requires_grad != wanted:
            with torch.inference_mode(self.tensor.is_inference()):
                self.tensor.requires_grad_(wanted)

    def was_written(self) -> bool:
        return _version(self.tensor) != self.version


def _version(tensor: Tensor) -> int:
    """Number of in-place changes of a tensor; 0 for inference tensors, which have no count."""
    return 0 if tensor.is_inference() else tensor._version


def _shallow(container: Any) -> Any:
    """A shallow copy as a plain container, since a subclass may have another constructor."""
    if isinstance(container, dict):
        return dict(container)
    return list(container) if isinstance(container, list) else set(container)


def _plain_tensors(model: nn.Module, attributes: list[dict[str, Any]]) -> list[Tensor]:
    """Buffers, and tensors that are plain attributes, each once."""
    found = [*model.buffers()]
    found += [v for values in attributes for v in values.values() if isinstance(v, Tensor)]
    return list({id(tensor): tensor for tensor in found}.values())


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether all values are equal; NaN equals NaN."""
    if a.shape != b.shape or a.device.type == "meta":
        return a.shape == b.shape
    same = a.eq(b)
    if a.is_floating_point() or a.is_complex():
        same = same | (a.isnan() & b.isnan())
    return bool(same.all())
