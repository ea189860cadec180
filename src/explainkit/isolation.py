"""Leaving no trace: the caller's model, random generators and modes are put back, come what may."""

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
    """Runs what `torch.compile` has compiled as it was written, also if it has run already.

    Hooks and recorded operators see nothing of compiled code.
    """
    # without this module nothing is compiled, and importing it takes seconds
    started = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if started else nullcontext()


@contextmanager
def preserve_process(seed: int) -> Iterator[None]:
    """Runs a block with gradients on and every global generator seeded, then undoes both.

    The seeding makes a method that draws from a global generator (or a model explained with its
    dropout on) reproducible; torch, numpy and the standard library are covered.
    """
    numpy = sys.modules.get("numpy")
    torch_state = torch.get_rng_state()
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    # seeding an accelerator that has not started would take effect when it does
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
    """Runs a block with the model frozen and in eval mode, then puts everything back.

    Put back are: every module's attributes (`training`, hooks, children, patched methods, plain
    values), which tensors require grad, `.grad`, the values of buffers, and torch's global module
    hooks. Parameters are not copied, as that would double a large model's memory: one that was
    written in place is an error that names it.

    Args:
        model: The caller's model.
        keep_mode: Leave each module in the mode it is in.

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
            f"expected the model's parameters to stay as they are, but {changed[0]!r} was written "
            f"in place ({len(changed)} in all): a method must work on a copy "
            "(torch.func.functional_call)"
        )


class _Parameter:
    """What must be put back on one parameter."""

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
    """How often a tensor was written in place; inference tensors don't count."""
    return 0 if tensor.is_inference() else tensor._version


def _shallow(container: Any) -> Any:
    """A copy that needs no constructor of a subclass."""
    if isinstance(container, dict):
        return dict(container)
    return list(container) if isinstance(container, list) else set(container)


def _plain_tensors(model: nn.Module, attributes: list[dict[str, Any]]) -> list[Tensor]:
    """Buffers and tensors kept as attributes, each once."""
    found = [*model.buffers()]
    found += [v for values in attributes for v in values.values() if isinstance(v, Tensor)]
    return list({id(tensor): tensor for tensor in found}.values())


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, NaN included."""
    if a.shape != b.shape or a.device.type == "meta":
        return a.shape == b.shape
    same = a.eq(b)
    if a.is_floating_point() or a.is_complex():
        same = same | (a.isnan() & b.isnan())
    return bool(same.all())
