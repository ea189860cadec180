"""Isolation: restores the caller's model, random generators and modes after every call."""

import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any, TextIO, TypeVar

import torch
from torch import Tensor, nn

from explainkit.contents import Contents, HeldGenerator, differing, refill
from explainkit.errors import MethodError
from explainkit.layers import buffers_of, parameters_of, submodules, version_of
from explainkit.settings import read_settings, write_settings

T = TypeVar("T")

_SMALL = 4096
"""Tensors with fewer values are copied and compared in one go."""

LARGE = 64 * 2**20
"""Bytes above which a tensor that is no buffer is not copied, just as parameters are not."""

SAMPLED = 32
"""Values of each parameter that are compared, evenly spaced, besides its count of changes."""

_turn = threading.RLock()
"""Held by the thread whose call runs: generators and settings belong to the whole process."""

if hasattr(os, "register_at_fork"):  # a child has no thread that would release it
    os.register_at_fork(after_in_child=lambda: globals().update(_turn=threading.RLock()))


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
    """Runs a block with gradients enabled, without autocast, and with global generators seeded.

    Seeding makes methods that use a global generator, and models with active dropout,
    reproducible. It covers torch, numpy and the standard library. Generators, and the settings of
    torch that `explainkit.settings` lists, are restored afterwards. They belong to the whole
    process, so threads take turns; a thread may nest blocks. Ctrl-C takes effect only where no
    context is being entered or left, so that each is left as a whole.
    """
    with _turn, _whole_contexts():
        numpy = sys.modules.get("numpy")
        torch_state = torch.get_rng_state()
        python_state = random.getstate()
        numpy_state = numpy.random.get_state() if numpy else None
        # a seed set before an accelerator is initialized would take effect later, and not be undone
        cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda_states = torch.cuda.get_rng_state_all() if cuda else []
        mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        settings = read_settings()
        try:
            with (
                torch.inference_mode(False), torch.enable_grad(), without_autocast(),
                uncompiled(), warnings_once(),
            ):  # fmt: skip
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
            write_settings(settings)
            torch.set_rng_state(torch_state)
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)
            if cuda:
                torch.cuda.set_rng_state_all(cuda_states)
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)


def without_autocast_warning(device: torch.device, dtype: torch.dtype) -> list[str]:
    """A warning if the caller's autocast is on, which `preserve_process` turns off."""
    if not torch.is_autocast_enabled(device.type):
        return []
    own = str(dtype).removeprefix("torch.")
    return [f"torch.autocast was on: the model ran without it, in its own dtype {own}"]


@contextmanager
def without_autocast() -> Iterator[None]:
    """Runs models and methods in the dtype of the model."""
    devices = [kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(kind)]
    try:
        for kind in devices:
            torch.set_autocast_enabled(kind, False)
        yield
    finally:
        for kind in devices:
            torch.set_autocast_enabled(kind, True)


@contextmanager
def preserve_generators(model: nn.Module) -> Iterator[None]:
    """Runs a block that leaves all generators as they are, those that the model holds included.

    What is found out about a model once, and then cached, must not change what follows.
    """
    held = Contents(map(vars, submodules(model)), ()).generators
    with preserve_process(0):
        try:
            yield
        finally:
            for generator in held:
                generator.restore()


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
def preserve_model(model: nn.Module, *, keep_mode: bool = False, seed: int = 0) -> Iterator[bool]:
    """Runs a block with the model frozen and in eval mode, then restores everything.

    The page "What a call leaves unchanged" of the reference lists what is restored. Parameters are
    not copied, since that would double the memory of a large model; a change of their values is an
    error. Each part is restored whatever happens to the others.

    Args:
        model: The caller's model.
        keep_mode: Leave each module in its current mode.
        seed: Seed of the random generators that the model holds.

    Yields:
        Whether any module was in train mode.

    Raises:
        MethodError: The values of a parameter changed during the block, or something could not be
            restored.
    """
    modules = submodules(model)
    attributes = [dict(vars(module)) for module in modules]
    registered, buffers = parameters_of(modules), buffers_of(modules)
    held = Contents(attributes, (*modules, *registered, *buffers))
    uncopied = [tensor for tensor in held.tensors if _is_uncopied(tensor)]
    saved = _saved(t for t in (*buffers, *held.tensors) if not _is_in(t, uncopied))
    parameters = [_Parameter(parameter) for parameter in (*registered, *uncopied)]
    samples = _Samples(parameters)
    training = [module.training for module in modules]
    failures: list[Exception] = []
    try:
        try:
            for parameter in parameters:
                parameter.freeze()
            for number, generator in enumerate(held.generators):
                generator.seed((seed + 1_000_003 * (number + 1)) % 2**63)
            if not keep_mode:
                for module in modules:
                    _set_mode((module, False))
            yield any(training)
        finally:
            failures += _each(_Parameter.restore, parameters)
            filled = ((one, ()) for one in held.empty if one)
            failures += _each(refill, [*differing(held.containers), *filled])
            own = [*zip(map(vars, modules), attributes, strict=True)]
            failures += _each(refill, differing(own))
            failures += _each(_set_mode, zip(modules, training, strict=True))
            failures += _each(HeldGenerator.restore, held.generators)
            if not _unchanged(saved):
                parts = [part for one in saved for part in one.parts()]
                failures += _each(_Saved.restore, parts)
    except BaseException as error:
        if failures:
            error.add_note(_unrestored(model, failures))
        if written := samples.written():
            if type(error) is RuntimeError:  # autograd's own complaint about the same
                raise MethodError(_changed(model, written)) from error
            error.add_note(_changed(model, written))
        raise
    if failures:
        raise MethodError(_unrestored(model, failures)) from failures[0]
    if written := samples.written():
        raise MethodError(_changed(model, written))


def _is_uncopied(tensor: Tensor) -> bool:
    """Whether a tensor that is not registered is treated like a parameter."""
    size = tensor.numel() * tensor.element_size()
    return isinstance(tensor, nn.Parameter) or size > LARGE


def _is_in(tensor: Tensor, tensors: list[Tensor]) -> bool:
    return any(tensor is other for other in tensors)


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


def _changed(model: nn.Module, written: list[Tensor]) -> str:
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    first = next((names[id(t)] for t in written if id(t) in names), "a tensor that it holds")
    return (
        f"expected the model's parameters to be unchanged, but {first!r} was written in place "
        f"({len(written)} in total): a method or a forward must work on a copy "
        "(torch.func.functional_call), and no thread may train the model meanwhile"
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
        if self.tensor.requires_grad == wanted or not self.tensor.is_leaf:
            return
        if not self.tensor.is_inference():
            self.tensor.requires_grad_(wanted)
            return
        with torch.inference_mode():
            self.tensor.requires_grad_(wanted)


class _Samples:
    """A few values of each parameter, to detect changes that its version doesn't count."""

    def __init__(self, parameters: list[_Parameter]) -> None:
        self._parameters = parameters
        self._views: dict[tuple[Any, ...], list[tuple[Tensor, Tensor]]] = {}
        for parameter in parameters:
            data = parameter.data
            # other classes, such as quantized ones, may have no views
            plain = type(parameter.tensor) in (Tensor, nn.Parameter)
            if plain and data.layout == torch.strided and not data.is_meta and data.numel():
                group = self._views.setdefault((data.dtype, data.device), [])
                group.append((parameter.tensor, _evenly_spaced(data)))
        self._values = self._read()

    def _read(self) -> list[Tensor]:
        groups = self._views.values()
        return [
            torch.cat([view if view.dim() == 1 else view.reshape(-1) for _, view in group])
            for group in groups
        ]

    def written(self) -> list[Tensor]:
        """The parameters that changed, once their memory is back in place."""
        found = {
            id(one.tensor): one.tensor
            for one in self._parameters
            if version_of(one.tensor) != one.version
        }
        groups = zip(self._views.values(), self._values, self._read(), strict=True)
        for group, before, after in groups:
            if not _same_bits(before, after):
                sizes = [view.numel() for _, view in group]
                pairs = zip(torch.split(before, sizes), torch.split(after, sizes), strict=True)
                for (tensor, _), pair in zip(group, pairs, strict=True):
                    if not _same_bits(*pair):
                        found[id(tensor)] = tensor
        return list(found.values())


def _evenly_spaced(data: Tensor) -> Tensor:
    """A view of about `SAMPLED` values of a tensor; more if its memory is not contiguous."""
    if data.is_contiguous():
        size = data.numel()
        return data.as_strided((min(size, SAMPLED),), (max(size // SAMPLED, 1),))
    return data[tuple(slice(None, None, max(size // 4, 1)) for size in data.shape)]


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
        values = torch.split(self.values, [data.numel() for data in self.data])
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


def _set_mode(pair: tuple[nn.Module, bool]) -> None:
    """Sets a module's mode, not by ``train()``, which a model may override with side effects."""
    module, training = pair
    if module.training == training:
        return
    if "training" in vars(module):
        vars(module)["training"] = training
    else:
        module.training = training  # a ScriptModule keeps it outside its __dict__
