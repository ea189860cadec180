"""What a computation costs, so that the cheaper of two ways can be taken before either is run."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from explainkit.graph.cached import Cached

ARITHMETIC = 80e9
"""Multiply-adds and additions per second of one core in a convolution, counted as two each."""

MEMORY = 12e9
"""Bytes per second that one core reads and writes in one pass over memory."""

LOOKUP = 40e6
"""Places per second whose address is worked out when a box is looked up."""

CALL = 20e-6
"""Seconds that calling an operator takes, however small its work."""

TRACING = 1e-3
"""Seconds per module that it takes to trace a model and to read its operators."""


_counted = Cached[int]()


@dataclass(frozen=True)
class Work:
    """Work for one variant of an image; the constants of this module turn it into seconds.

    The constants are rates of one core of a current server processor, in float32. Only their ratios
    matter, and they are fixed, so that the same call takes the same way everywhere.

    Attributes:
        operations: Multiplications and additions.
        bytes: Read and written.
        places: Looked up one by one.
        calls: Operators called, for a whole chunk of variants.
    """

    operations: float = 0.0
    bytes: float = 0.0
    places: float = 0.0
    calls: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.operations + other.operations,
            self.bytes + other.bytes,
            self.places + other.places,
            self.calls + other.calls,
        )

    def seconds(self, variants: int) -> float:
        """Time per variant in a chunk of so many."""
        return (
            self.operations / ARITHMETIC
            + self.bytes / MEMORY
            + self.places / LOOKUP
            + self.calls * CALL / variants
        )


def worth_tracing(model: nn.Module, image: Tensor, variants: int) -> bool:
    """Whether so many full runs could take longer than to trace the model.

    First by a bound on the work of a run, which needs none: each weight of a convolution is used at
    most once for each pixel, any other weight once. Where that leaves it open, by the work of one
    run, counted once per model and shape.

    Examples:
        >>> import torch
        >>> worth_tracing(nn.Conv2d(1, 4, 3), torch.rand(1, 8, 8), 10)
        False
    """
    pixels = image.shape[-2] * image.shape[-1]
    uses = sum(p.numel() * (pixels if p.dim() == 4 else 1) for p in model.parameters())
    least = TRACING * sum(1 for _ in model.modules()) / variants
    if Work(2.0 * uses).seconds(1) < least:
        return False
    key = (image.shape, image.dtype, image.device)
    operations = _counted.get(model, key)
    if operations is None:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image[None])
        operations = counter.get_total_flops()
        _counted.put(model, key, operations)
    return Work(operations).seconds(1) > least
