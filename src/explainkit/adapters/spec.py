"""What is known about a model of another library: its inputs, its outputs, its classes."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from explainkit.adapters.overrides import Size
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.interfaces import ModelSpec


@dataclass(frozen=True)
class Wanted:
    """A model that `load_model` was asked for, without its package.

    Attributes:
        name: As its package calls it.
        state: Weights in place of the package's own; None: those.
        pretrained: Whether to load the package's weights.
        allow_pickle: Whether weights may come from a pickled file of the package.
        size: The size of its inputs; None: the package's.
    """

    name: str
    state: dict[str, Tensor] | None = None
    pretrained: bool = True
    allow_pickle: bool = False
    size: Size | None = None


def spec_for(preprocessing: Preprocessing | None, **fields: Any) -> ModelSpec:
    """A specification whose normalization is that of the preprocessing, if it is known."""
    mean = std = None
    if preprocessing is not None and preprocessing.known:
        mean, std = preprocessing.normalization
    return ModelSpec(mean=mean, std=std, preprocessing=preprocessing, **fields)
