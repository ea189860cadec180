"""Where models come from: a package, a file or code, by the form of the source."""

from collections.abc import Callable

from torch import Tensor, nn

from explainkit.adapters import onnx, python, timm, torchvision, transformers
from explainkit.adapters.adapt import described, known_of
from explainkit.adapters.checkpoints import load_state
from explainkit.adapters.overrides import Size
from explainkit.adapters.packages import EXTRAS
from explainkit.adapters.spec import Wanted
from explainkit.interfaces import ModelSpec

_SCHEMES = {extra: package for package, extra in EXTRAS.items()}
"""What stands before the colon to the package that has the model."""

_LOADERS: dict[str, Callable[[Wanted], tuple[nn.Module, ModelSpec]]] = {
    "timm": timm.load,
    "torchvision": torchvision.load,
    "transformers": transformers.load,
    "onnx": onnx.load,
}


def package_of(source: str) -> str | None:
    """The package that a source's model is from, for its version; None: of no package.

    Examples:
        >>> package_of("timm:resnet50"), package_of("onnx:net.onnx"), package_of("fer_hw3/cnn")
        ('timm', 'onnxruntime', None)
    """
    scheme, colon, _ = source.partition(":")
    return _SCHEMES.get(scheme) if colon else None


def is_foreign(source: str) -> bool:
    """Whether a source is of another package, or Python code; a plugin has the others."""
    return package_of(source) is not None or python.is_python(source)


def load(
    source: str,
    state: dict[str, Tensor] | None,
    *,
    pretrained: bool,
    allow_pickle: bool,
    size: Size | None,
) -> nn.Module:
    """The model of a source that `is_foreign`, in eval mode, with what is known about it.

    Args:
        source: ``"timm:resnet50"``, ``"onnx:file.onnx"``, ``"file.py:make"``, ….
        state: As in `Wanted`, like the others.
        pretrained: Code decides on its weights itself.
        allow_pickle: Whether a package's weights may be pickled.
        size: Of the model's inputs.

    Raises:
        ModelError: It can't be loaded, or the weights don't fit.
        UnknownNameError: The package has no such model.
    """
    scheme, _, name = source.partition(":")
    if scheme in _LOADERS:
        model, spec = _LOADERS[scheme](Wanted(name, state, pretrained, allow_pickle, size))
        return described(model.eval(), spec)
    model = python.load(source)
    if state is not None:
        load_state(model, state, source)
    return described(model.eval(), known_of(model))
