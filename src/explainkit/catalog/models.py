"""A model by its name, from a plugin, another package, a file or code."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from explainkit.adapters import sources
from explainkit.adapters.adapt import described, with_inputs, with_outputs
from explainkit.adapters.checkpoints import read_state
from explainkit.adapters.overrides import Numbers, Size
from explainkit.catalog import discovery
from explainkit.catalog.weights import build, load_file
from explainkit.errors import ModelError, UnknownNameError
from explainkit.interfaces import ModelSpec
from explainkit.isolation import preserve_process
from explainkit.scores import Task


def load_model(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    pretrained: bool = True,
    allow_pickle: bool = False,
    class_names: Sequence[str] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: Size | None = None,
    crop: float | None = None,
    output: int | str | None = None,
    task: Task | None = None,
) -> nn.Module:
    r"""Loads a model by its name, from another package, a file or code.

    Class names and preprocessing come from the source where it has them: a plugin's `ModelSpec`,
    timm's ``pretrained_cfg``, torchvision's ``weights.transforms()`` and categories, or the
    configuration and the image processor of transformers. Arguments take precedence.

    Args:
        source: One of

            - ``"fer_hw3/cnn"``, or ``"cnn"`` if that is unique: a model of a plugin.
            - ``"timm:resnet50"``, ``"timm:resnet50.a1_in1k"``, ``"timm:hf-hub:owner/name"``.
            - ``"torchvision:resnet50"``, ``"torchvision:resnet50.IMAGENET1K_V1"``.
            - ``"transformers:google/vit-base-patch16-224"``, or a folder in place of the name.
            - ``"path/to/file.py:name"`` or ``"package.module:name"``: a module, a function without
              arguments that returns one, or a function from a numpy array of images to scores.
            - ``"onnx:FILE"``: by ONNX Runtime, for methods that only run the model.
            - A ``.safetensors`` file whose metadata names a plugin's model
              (``explainkit_model: fer_hw3/cnn``).
        weights: A file of weights for the model in place of its own, as ``.safetensors``, or as a
            checkpoint of ``torch.save`` if ``allow_pickle``. The dictionaries and the prefixes that
            training scripts, Lightning, DataParallel and `torch.compile` add are removed. The last
            layer gets as many outputs as the weights are for in models of the three packages.
        pretrained: False: random weights, the same in every call.
        allow_pickle: Read pickled weights, with ``weights_only=True``.
        class_names: In the order of the classes; two for a single logit.
        mean: Per channel, or one for all, in units of pixel / 255.
        std: Per channel, or one for all, in units of pixel / 255.
        size: Height and width of inputs, or one number for both. The steps that are known, such as
            a resize and a crop, are scaled with it; without any, images are scaled to cover it and
            their center is cropped.
        crop: The part of the shorter side that a center crop keeps, in (0, 1]: images are resized
            at their aspect ratio to size / crop, then cropped to the size.
        output: Which of several outputs holds the scores, as in `explain`.
        task: What the scores decide, as in `explain`.

    Returns:
        The module in eval mode, float32, on the CPU, with its `ModelSpec` at ``.explainkit_spec``.

    Raises:
        UnknownNameError: No such model.
        ModelError: A package is missing, a download fails, code fails, or weights are missing,
            damaged, pickled, or do not fit the architecture.
        InputError: A value of the preprocessing is out of range.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "nets.py"
        >>> _ = file.write_text(
        ...     "from torch import nn\n"
        ...     "def small(): return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))"
        ... )
        >>> model = load_model(f"{file}:small", class_names=["cat", "dog"], mean=0.5, std=0.5)
        >>> model.explainkit_spec.class_names, model.explainkit_spec.mean
        (('cat', 'dog'), (0.5, 0.5, 0.5))
    """
    text = str(source)
    state = None if weights is None else read_state(weights, allow_pickle=allow_pickle)
    with preserve_process(seed=0):
        if sources.is_foreign(text):
            model = sources.load(
                text, state, pretrained=pretrained, allow_pickle=allow_pickle, size=size
            )
        else:
            model = _registered(source, state, pretrained)
    spec = with_inputs(model, mean=mean, std=std, size=size, crop=crop)
    name = getattr(model, "explainkit_name", text)
    if weights is not None:
        name += f" ({Path(weights).name})"
    return described(model, with_outputs(spec, class_names, output, task), name)


def _registered(source: str | Path, state: dict[str, Tensor] | None, pretrained: bool) -> nn.Module:
    """A plugin's model by its name, or the one that a weights file names."""
    if Path(source).suffix or Path(source).is_file():
        if state is not None:
            raise ModelError(
                f"expected a model to load weights= into, got another weights file, {source}"
            )
        return load_file(Path(source))
    registry = discovery.registry("models")
    if not registry.candidates(str(source)):
        near = registry.hint(str(source))
        packages = ("transformers",) if "/" in str(source) else ("timm", "torchvision")
        written = " or ".join(f"'{package}:{source}'" for package in packages)
        raise UnknownNameError(
            f"no model is named {str(source)!r}: {near} 'explainkit list models' shows all; a "
            f"model of another package is written {written}"
        )
    name = registry.qualify(str(source))
    return build(name, cast(ModelSpec, registry.get(name)), state, pretrained=pretrained)
