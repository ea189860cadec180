"""Models of torchvision (``torchvision:resnet50``) with the transforms of their weights."""

from typing import Any, cast

from torch import nn

from explainkit.adapters.checkpoints import load_state, outputs_in
from explainkit.adapters.packages import UNREACHABLE, loading, package, unknown
from explainkit.adapters.preprocessing import CenterCrop, Interpolation, Preprocessing, Resize
from explainkit.adapters.spec import Wanted, spec_for
from explainkit.errors import UnknownNameError
from explainkit.interfaces import ModelSpec


def load(wanted: Wanted) -> tuple[nn.Module, ModelSpec]:
    """A classifier by its name in torchvision.

    ``resnet50`` has its default weights, ``resnet50.IMAGENET1K_V1`` those of that name.

    Raises:
        UnknownNameError: torchvision has no such model or weights.
        ModelError: torchvision is not installed, or the weights can't be downloaded or don't fit.
    """
    models = package("torchvision.models")
    name, _, tag = wanted.name.partition(".")
    known = models.list_models(module=models)
    if name.lower() not in known:
        raise unknown("torchvision", name, known)
    entries = models.get_model_weights(name)
    if tag and tag not in entries.__members__:
        expected = ", ".join(entries.__members__)
        raise UnknownNameError(f"torchvision has no weights {tag!r} of {name}: it has {expected}")
    weights = entries[tag] if tag else entries.DEFAULT
    own = wanted.state is None and wanted.pretrained
    count = None
    with loading(f"torchvision:{wanted.name}", UNREACHABLE):
        model: nn.Module = models.get_model(name, weights=weights if own else None)
        if wanted.state is not None:
            count = outputs_in(model, wanted.state)
            if count is not None:
                model = models.get_model(name, weights=None, num_classes=count)
    if wanted.state is not None:
        load_state(model, wanted.state, f"torchvision:{name}")
    names = tuple(weights.meta.get("categories", ()))
    side = getattr(model, "image_size", None)  # of the vision transformers, which take no other
    spec = spec_for(
        preprocessing_of(weights.transforms()),
        class_names=names if count in {None, len(names)} else (),
        image_shape=(3, side, side) if isinstance(side, int) else None,
    )
    return model, spec


def preprocessing_of(transforms: Any) -> Preprocessing | None:
    """What the transforms of classification weights do; None for those of other tasks."""
    if type(transforms).__name__ != "ImageClassification":
        return None
    (size,), (crop,) = transforms.resize_size, transforms.crop_size
    how = cast(Interpolation, transforms.interpolation.value)
    return Preprocessing(
        # images from Pillow are always resized with antialiasing
        steps=(Resize(size, "shortest", how), CenterCrop(crop)),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
