"""Isolation: restores the caller's model, random generators and modes after every call."""

import random
import signal
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain
from operator import is_
from types import FrameType
from typing import Any, TextIO, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from explainkit.errors import MethodError
from explainkit.layers import buffers_of, parameters_of, submodules, version_of

T = TypeVar("T")

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, tuple, torch.device})
_CONTAINERS = frozenset({dict, OrderedDict, list, set})
_SMALL = 4096
"""Tensors with fewer values are copied and compared in one go."""


def uncompiled() -> AbstractContextManager[object]:
    """Runs models compiled by `torch.compile` in eager mode.

    Hooks and operator recording do not work in compiled code.
    """
    # nothing is compiled unless this module is loaded, and importing it takes seconds
    started = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if started else nullcontext()


@contextmanager
def warnings_once() -> Iterator[None]:
    """Shows each distinct warning once, however often the model runs and whatever the filters.

    The filters stay as they are: a change would make Python forget what it has shown before.
    """
    show = warnings.showwarning
    seen: set[object] | None = set()

    def once(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        key = (str(message), category, filename, lineno)
        if seen is None or key not in seen:
            if seen is not None:
                seen.add(key)
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = once
    try:
        yield
    finally:
        seen = None  # another thread may still hold it
        if warnings.showwarning is once:
            warnings.showwarning = show


@contextmanager
def preserve_process(seed: int) -> Iterator[None]:
    """Runs a block with gradients enabled and all global generators seeded, then undoes both.

    Seeding makes methods that use a global generator, and models with active dropout,
    reproducible. It covers torch, numpy and the standard library. Ctrl-C takes effect only where no
    context is being entered or left, so that each is left as a whole.
    """
    with _whole_contexts():
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
            with torch.inference_mode(False), torch.enable_grad(), uncompiled(), warnings_once():
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
def _whole_contexts() -> Iterator[None]:
    """Holds Ctrl-C back while any context is being entered or left, here or in what is called."""
    outer = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(outer):
        yield
        return

    held: list[int] = []

    def deliver() -> None:
        with suppress(IndexError):  # the timer or the end of the block, whichever is first
            signal.raise_signal(held.pop())

    def handle(number: int, frame: FrameType | None) -> None:
        if not _in_transition(frame):
            outer(number, frame)
            return
        held.append(number)
        timer = threading.Timer(0.001, deliver)
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, outer)
        deliver()


def _in_transition(frame: FrameType | None) -> bool:
    """Whether a context is being entered or left somewhere up the stack."""
    while frame is not None:
        if frame.f_code.co_name in ("__enter__", "__exit__", "enter_context"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def preserve_model(model: nn.Module, *, keep_mode: bool = False) -> Iterator[bool]:
    """Runs a block with the model frozen and in eval mode, then restores everything.

    It restores every module's attributes (`training`, hooks, children, patched methods, plain
    values), `requires_grad`, `.grad`, the values of buffers, and torch's global module hooks.
    Parameters are not copied, since that would double the memory of a large model; an in-place
    change of one is an error. Each part is restored whatever happens to the others.

    Args:
        model: The caller's model.
        keep_mode: Leave each module in its current mode.

    Yields:
        Whether any module was in train mode.

    Raises:
        MethodError: A parameter was changed in place during the block, or something could not be
            restored.
    """
    modules = submodules(model)
    attributes = [dict(vars(module)) for module in modules]
    empty, containers, tensors = _contents(attributes)
    tensors |= {id(buffer): buffer for buffer in buffers_of(modules)}
    saved = _saved(tensors.values())
    parameters = [_Parameter(parameter) for parameter in parameters_of(modules)]
    training = [module.training for module in modules]
    failures: list[Exception] = []
    try:
        try:
            for parameter in parameters:
                parameter.freeze()
            if not keep_mode:
                for module in modules:
                    _set_mode((module, False))
            yield any(training)
        finally:
            failures += _each(_Parameter.restore, parameters)
            filled = ((one, ()) for one in empty if one)
            failures += _each(_refill, [*_changed(containers), *filled])
            own = [*zip(map(vars, modules), attributes, strict=True)]
            failures += _each(_refill, _changed(own))
            failures += _each(_set_mode, zip(modules, training, strict=True))
            if not _unchanged(saved):
                parts = [part for one in saved for part in one.parts()]
                failures += _each(_Saved.restore, parts)
    except BaseException as error:
        if failures:
            error.add_note(_unrestored(model, failures))
        raise
    if failures:
        raise MethodError(_unrestored(model, failures)) from failures[0]
    written = {id(parameter.tensor) for parameter in parameters if parameter.was_written()}
    if written:
        first = next(name for name, tensor in model.named_parameters() if id(tensor) in written)
        raise MethodError(
            f"expected the model's parameters to be unchanged, but {first!r} was written in "
            f"place ({len(written)} in total): a method must work on a copy "
            "(torch.func.functional_call)"
        )


def _each(restore: Callable[[T], None], parts: Iterable[T]) -> list[Exception]:
    """Restores each part, whatever happens to the others."""
    failures = []
    for part in parts:
        try:
            restore(part)
        except Exception as error:  # noqa: BLE001 - reported after the others
            failures.append(error)
    return failures


def _unrestored(model: nn.Module, failures: list[Exception]) -> str:
    first = f"{type(failures[0]).__name__}: {failures[0]}"
    return (
        f"expected to leave {type(model).__name__} as it was, but {len(failures)} of its parts "
        f"could not be restored, first: {first}; load the model again before using it"
    )


class _Parameter:
    """The state to restore of one parameter."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad
        self.data = tensor.detach()
        self.version = version_of(tensor)

    def freeze(self) -> None:
        self._require_grad(False)
        if self.grad is not None:
            self.tensor.grad = None

    def restore(self) -> None:
        if self.tensor.data_ptr() != self.data.data_ptr():
            self.tensor.data = self.data
        self._require_grad(self.requires_grad)
        if self.tensor.grad is not self.grad:
            self.tensor.grad = self.grad

    def _require_grad(self, wanted: bool) -> None:
        if self.tensor.requires_grad != wanted:
            with torch.inference_mode(self.tensor.is_inference()):
                self.tensor.requires_grad_(wanted)

    def was_written(self) -> bool:
        return version_of(self.tensor) != self.version


class _Saved:
    """The values of a tensor that is not a parameter: a buffer or a plain attribute."""

    def __init__(self, tensor: Tensor, data: Tensor, values: Tensor) -> None:
        self.tensor = tensor
        self.data = data
        self.values = values

    def parts(self) -> "list[_Saved]":
        return [self]

    def unchanged(self) -> bool:
        return not _moved(self.tensor, self.data) and self._same_values()

    def restore(self) -> None:
        if _moved(self.tensor, self.data):
            self.data.resize_(self.values.shape)
            self.tensor.data = self.data
        if not self._same_values():
            with torch.no_grad(), torch.inference_mode(self.tensor.is_inference()):
                self.tensor.copy_(self.values)

    def _same_values(self) -> bool:
        return all(map(_same_bits, _dense(self.tensor), _dense(self.values)))


class _SavedTogether:
    """Small tensors of one dtype and device, copied and compared in one go."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.data = [tensor.detach() for tensor in tensors]
        self.values = _flat(tensors)

    def parts(self) -> list[_Saved]:
        values = self.values.split([data.numel() for data in self.data])
        return [
            _Saved(tensor, data, own.view(data.shape))
            for tensor, data, own in zip(self.tensors, self.data, values, strict=True)
        ]

    def unchanged(self) -> bool:
        if any(map(_moved, self.tensors, self.data)):
            return False
        return _same_bits(_flat(self.tensors), self.values)


def _saved(tensors: Iterable[Tensor]) -> list[_Saved | _SavedTogether]:
    """Copies of tensors."""
    small: dict[tuple[Any, ...], list[Tensor]] = {}
    found: list[_Saved | _SavedTogether] = []
    for tensor in tensors:
        plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)
        if plain and tensor.numel() < _SMALL:
            small.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        else:
            found.append(_Saved(tensor, tensor.detach(), tensor.detach().clone()))
    return [*found, *map(_SavedTogether, small.values())]


def _unchanged(saved: list[_Saved | _SavedTogether]) -> bool:
    """Whether no tensor has changed."""
    try:
        return all(one.unchanged() for one in saved)
    except (RuntimeError, NotImplementedError):
        return False  # a form of tensor that cannot be compared like this


def _moved(now: Tensor, then: Tensor) -> bool:
    """Whether a tensor has other memory or another form than before."""
    if now.shape != then.shape or now.dtype != then.dtype:
        return True
    return now.layout == torch.strided and now.data_ptr() != then.data_ptr()


def _flat(tensors: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([one if one.dim() == 1 else one.reshape(-1) for one in tensors])


def _dense(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that a tensor consists of; none if it has no values."""
    if tensor.is_meta:
        return []
    if tensor.is_quantized:
        return [tensor.int_repr()]
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.detach()]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors have the same shape and bits; NaN equals itself, 0 is not -0."""
    if a.shape != b.shape:
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _contents(
    attributes: list[dict[str, Any]],
) -> tuple[list[Any], list[tuple[Any, Any]], dict[int, Tensor]]:
    """What the attributes of modules hold.

    Returns:
        Empty containers, most of them of hooks, and too many to allocate anything for each; others
        with shallow copies; and tensors that are plain attributes, by id. Torch's global module
        hooks are among the containers.
    """
    hooks = {name: v for name, v in vars(torch_module).items() if name.startswith("_global_")}
    values = chain.from_iterable(map(dict.values, (*attributes, hooks)))
    objects = [value for value in values if type(value) not in _ATOMS]
    # most are dictionaries of hooks: loops in C, without a call for each
    empty = [value for value in objects if type(value) in _CONTAINERS and not value]
    others = [value for value in objects if type(value) not in _CONTAINERS or value]
    containers = []
    tensors: dict[int, Tensor] = {}
    for value in others:
        if isinstance(value, (dict, list, set)):
            containers.append((value, _shallow(value)))
        elif isinstance(value, Tensor):
            tensors[id(value)] = value
    return empty, containers, tensors


def _shallow(container: Any) -> Any:
    """A shallow copy as a plain container, since a subclass may have another constructor."""
    if isinstance(container, dict):
        return dict(container)
    return list(container) if isinstance(container, list) else set(container)


def _changed(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """The containers that now hold anything else than their copies."""
    return [pair for pair in pairs if _differ([pair])] if _differ(pairs) else []


def _differ(pairs: list[tuple[Any, Any]]) -> bool:
    """Whether any container holds other objects than its copy; a loop in C."""
    now, then = [one for one, _ in pairs], [one for _, one in pairs]
    if [*map(len, now)] != [*map(len, then)] or not _identical(now, then):
        return True
    values = [[one.values() for one in side if isinstance(one, dict)] for side in (now, then)]
    return not _identical(*values)


def _identical(now: list[Any], then: list[Any]) -> bool:
    return all(map(is_, chain.from_iterable(now), chain.from_iterable(then)))


def _refill(pair: tuple[Any, Any]) -> None:
    """Puts back what a container held."""
    container, saved = pair
    container.clear()
    container.extend(saved) if isinstance(container, list) else container.update(saved)


def _set_mode(pair: tuple[nn.Module, bool]) -> None:
    """Sets a module's mode, not by ``train()``, which a model may override with side effects."""
    module, training = pair
    if module.training == training:
        return
    if "training" in vars(module):
        vars(module)["training"] = training
    else:
        module.training = training  # a ScriptModule keeps it outside its __dict__
