"""A cost model: estimates which of two ways to compute is faster before either is run.

Its constants are throughputs of one core of a current server processor, in float32. They are fixed,
so that the same call makes the same choice on every machine, and they hold for CPUs only: on other
devices `worth_tracing` is False, and full runs are used. Only the ratios of the constants matter,
and not much: on the networks of ``benchmarks/bench_suffix.py`` (windows of 4 to 64 pixels) doubling
or halving any one of them moves the switch to whole maps by at most 13 of 187 steps (MobileNetV2).
Arithmetic alone, which needs no constants, moves it by up to 52 of 223 (ResNet-50).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from explainkit.graph.cached import Cached

ARITHMETIC = 80e9
"""Multiplications and additions per second of one core in a convolution."""

MEMORY = 12e9
"""Bytes per second that one core reads and writes."""

LOOKUP = 40e6
"""Spatial positions per second whose addresses are computed when a box is read."""

CALL = 20e-6
"""Seconds of overhead per operator call."""

TRACING = 1e-3
"""Seconds per module to trace a model and analyze its operators."""


_counted = Cached[int]()


@dataclass(frozen=True)
class Work:
    """The work for one variant of an image; this module's constants convert it into seconds.

    Attributes:
        operations: Multiplications and additions.
        bytes: Bytes read and written.
        positions: Spatial positions read by index.
        calls: Operator calls, for a whole chunk of variants.
    """

    operations: float = 0.0
    bytes: float = 0.0
    positions: float = 0.0
    calls: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.operations + other.operations,
            self.bytes + other.bytes,
            self.positions + other.positions,
            self.calls + other.calls,
        )

    def seconds(self, variants: int) -> float:
        """Seconds per variant in a chunk of ``variants``."""
        return (
            self.operations / ARITHMETIC
            + self.bytes / MEMORY
            + self.positions / LOOKUP
            + self.calls * CALL / variants
        )


def worth_tracing(model: nn.Module, image: Tensor, variants: int) -> bool:
    """Whether full runs of all variants may take longer than tracing the model, on a CPU.

    An upper bound on the work comes first and needs no run: each weight of a convolution is used at
    most once per pixel, any other weight once. If that does not decide, the work of one run is
    counted, once per model and image shape.

    Args:
        model: Any module.
        image: ``[channel, height, width]``. On other devices than the CPU the result is False.
        variants: The number of variants to run.

    Examples:
        >>> import torch
        >>> worth_tracing(nn.Conv2d(1, 4, 3), torch.rand(1, 8, 8), 10)
        False
    """
    if image.device.type != "cpu":
        return False
    pixels = image.shape[-2] * image.shape[-1]
    uses = sum(p.numel() * (pixels if p.dim() == 4 else 1) for p in model.parameters())
    tracing = TRACING * sum(1 for _ in model.modules()) / variants
    if Work(2.0 * uses).seconds(1) < tracing:
        return False

    def count() -> int:
        with torch.no_grad(), _Counter() as counter:
            model(image[None])
        operations: int = counter.operations
        return operations

    operations = _counted.once(model, (image.shape, image.dtype, image.device), count)
    return Work(operations).seconds(1) > tracing


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiplications and additions by torch's own formulas.

    ``FlopCounterMode``, which has them too, imports torch's compiler, which takes seconds.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import torch's compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(getattr(func, "_overloadpacket", None))
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=out)
        return out
