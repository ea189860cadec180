"""ONNX files as models, through ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from explainkit.adapters.black_box import BlackBox
from explainkit.adapters.overrides import covering
from explainkit.adapters.packages import loading, package
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.adapters.spec import Wanted, spec_for
from explainkit.errors import ModelError, ModelLookupError
from explainkit.interfaces import ModelSpec

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
"""Types of inputs that can be images."""

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


@dataclass(frozen=True)
class OnnxFunction:
    """Runs an ONNX file on arrays ``[batch, channel, height, width]``.

    Attributes:
        session: Of ONNX Runtime.
        name: The name of the input.
        dtype: The input's dtype. Images for uint8 are pixels from 0 to 255, and rounded.
        batch: The batch size that the file was exported with; None: any.
        channels_last: Whether the input is ``[batch, height, width, channel]``.
    """

    session: Any
    name: str
    dtype: type
    batch: int | None = None
    channels_last: bool = False

    def __call__(self, images: np.ndarray) -> Any:
        """The output, or a dict of several outputs by their names."""
        if self.channels_last:
            images = images.transpose(0, 2, 3, 1)
        if self.dtype is np.uint8:
            images = images.round().clip(0, 255)
        found = self._in_batches(np.ascontiguousarray(images, self.dtype))
        return found if len(found) > 1 else next(iter(found.values()))

    def _in_batches(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """The outputs, in batches of the exported size; the last one is filled with its end."""
        names = [output.name for output in self.session.get_outputs()]
        size = self.batch or len(images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = size - len(part)
            full = np.concatenate([part, part[-1:].repeat(missing, 0)]) if missing else part
            outputs = self.session.run(names, {self.name: full})
            parts.append([value[: len(part)] for value in outputs])
        return {
            name: np.concatenate(values)
            for name, values in zip(names, zip(*parts, strict=True), strict=True)
        }


def load(wanted: Wanted) -> tuple[nn.Module, ModelSpec]:
    """The model in an ONNX file, whose path is its name, and what the file says about its input.

    A file that was exported for one image runs one image at a time, and one with channels last
    gets its images in that layout.

    Raises:
        ModelError: ONNX Runtime is not installed, the file can't be read, or its input is no image.
    """
    path = Path(wanted.name)
    if wanted.state is not None:
        raise ModelError(f"{path} has its weights inside: omit weights=")
    if not path.is_file():
        raise ModelLookupError(f"expected an ONNX file, found nothing at {path}")
    runtime = package("onnxruntime")
    available = runtime.get_available_providers()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors alone: a warning for every unused initializer is noise
    with loading(str(path), "expected an ONNX file that this ONNX Runtime can run"):
        session = runtime.InferenceSession(
            str(path), options, providers=[name for name in _PROVIDERS if name in available]
        )
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        raise ModelError(f"expected an ONNX file with one input, the images, got {names}")
    shape = [size if isinstance(size, int) else None for size in inputs[0].shape]
    if len(shape) != 4 or inputs[0].type not in _DTYPES:
        raise ModelError(
            f"expected images [batch, channel, height, width] as the input of {path}, got "
            f"{inputs[0].type} {inputs[0].shape}"
        )
    last = shape[3] in {1, 3} and shape[1] not in {1, 3}
    dtype = _DTYPES[inputs[0].type]
    channels, *size = (shape[3], shape[1], shape[2]) if last else shape[1:]
    model = BlackBox(OnnxFunction(session, inputs[0].name, dtype, shape[0], last))
    return model, _spec(channels, size, dtype)


def _spec(channels: int | None, size: list[int | None], dtype: type) -> ModelSpec:
    """What the input's shape tells: channels, a fixed size, and for uint8 the range of pixels."""
    pixels = dtype is np.uint8
    count = 3 if channels is None else channels
    height, width = size
    fixed = None if height is None or width is None else (height, width)
    preprocessing = None
    if count in {1, 3}:
        preprocessing = Preprocessing(
            steps=covering(fixed) if fixed else (),
            std=(1 / 255,) * count if pixels else None,
            channels=count,
            known=pixels,
        )
    return spec_for(preprocessing, image_shape=(count, *fixed) if fixed else None)
