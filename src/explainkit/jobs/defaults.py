"""What a plan decides where the caller does not, always in the same way."""

import math

import torch
from PIL import Image
from torch import Tensor, nn

from explainkit.adapters.preprocessing import Preprocessing
from explainkit.engine.batching import chunk_size
from explainkit.engine.failures import failing_as_model_error
from explainkit.isolation import preserve_model, preserve_process
from explainkit.jobs.inputs import Inputs
from explainkit.jobs.sources import Source
from explainkit.layers import floating_tensor

SHARD_SIZE = 256
"""The largest default size of a shard: what a kill can cost."""

SHARD_BYTES = 64 << 20
"""What the inputs and the maps of a shard may take by default."""


def first_inputs(source: Source) -> Inputs | None:
    """The inputs of the first item; None if items are images, which are preprocessed."""
    if source.lasting or (first := next(source.entries(), None)) is None:
        return None
    value = source.read(first[0]).value
    return None if isinstance(value, Image.Image) else value


def input_shape(first: Inputs | None, preprocessing: Preprocessing) -> tuple[int, ...] | None:
    """The shape of an input; None if inputs have different sizes, or an item has several."""
    if first is not None:
        return tuple(first.shape) if isinstance(first, Tensor) else None
    blanks = [Image.new("RGB", size) for size in ((50, 70), (90, 40))]
    shapes = {tuple(preprocessing(blank)[0].shape) for blank in blanks}
    return shapes.pop() if len(shapes) == 1 else None


def default_batch_size(module: nn.Module, shape: tuple[int, ...] | None) -> int:
    """As many images at once as fit a memory budget; 1 where their sizes differ."""
    if shape is None:
        return 1
    like = floating_tensor(module)
    image = torch.zeros(shape, dtype=like.dtype, device=like.device)
    with preserve_process(0), preserve_model(module), failing_as_model_error(module, image[None]):
        return chunk_size(module, image)


def default_shard_size(shape: tuple[int, ...] | None, maps: int, batch_size: int) -> int:
    """A number of whole batches that keeps a shard within `SHARD_BYTES`."""
    each = 4 * math.prod(shape or (3, 512, 512)) * (1 + maps)
    fitting = min(max(SHARD_BYTES // each, 1), SHARD_SIZE)
    return max(fitting // batch_size, 1) * batch_size
