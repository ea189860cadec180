"""Interfaces for plugins: protocols, specifications, and what a method returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from explainkit.expressions import Expression
from explainkit.scores import Task

if TYPE_CHECKING:
    from explainkit.activation_maximization.problem import OptimizedImages, Problem
    from explainkit.adapters.preprocessing import Preprocessing

Target = int | str | Tensor | list[int] | list[str] | Expression | Callable[[Any], Tensor] | None
"""What to explain: a class index or name, or one per image; an expression or its text; a function
from the model's own output to one score per image; or None for the predicted class."""


@runtime_checkable
class Method(Protocol):
    """A saliency method: a frozen dataclass whose fields are its hyper-parameters.

    The engine calls it with a model that returns ``[batch, classes]``, a private copy of the images
    ``[batch, channel, height, width]`` that is a leaf and requires grad, and int64 targets
    ``[batch]``. It returns a map ``[batch, channel or 1, height, width]``: signed, not normalized,
    on the device and in the dtype of the inputs. The engine protects the model, checks the map and
    builds the `Explanation`.

    A method with ``volumes = True`` in its class also explains volumes and clips, ``[batch,
    channel, depth, height, width]``, with maps of their depth.

    A field's metadata tells its purpose (`explainkit.methods.contract`): a ``seed`` that
    ``explain(seed=…)`` sets, a ``layer`` to use, a value ``per_image`` that is sliced to the
    current batch. A field may hold another method, which this one then wraps.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> "Tensor | Attribution":
        """Explains ``model(inputs)[:, target]``."""
        ...


@runtime_checkable
class Maximizer(Protocol):
    """An optimizer of images: a frozen dataclass whose fields are its hyper-parameters.

    ``maximize(steps=…)`` sets a field named ``steps``.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, problem: "Problem") -> "OptimizedImages":
        """Finds one image per unit."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A measure of saliency maps: a function of tensors that returns one number per image.

    Positional parameters are what it measures, some of ``model``, ``inputs`` (``[batch, channel,
    height, width]``), ``attribution`` (maps ``[batch, channel or 1, height, width]``), ``target``,
    ``mask`` (bool ``[batch, height, width]``) and ``method``. Options are by keyword, with
    defaults. It returns ``[batch]``, the same for an image whatever the others are: NaN where
    undefined, with an `ExplainkitWarning` that says why.
    """

    def __call__(self, *given: Any, **options: Any) -> Tensor:
        """Measures each image."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """Labeled images in model-input space."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of their labels."""
        ...

    @property
    def images(self) -> Tensor:
        """All images, float32 ``[n, channel, height, width]``, normalized for the model."""
        ...

    @property
    def labels(self) -> Tensor:
        """int64 ``[n]``; -1 where an image has no label."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        """One image ``[channel, height, width]`` as in `images`, and its label."""
        ...


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set that a plugin offers.

    Attributes:
        load: ``load(path, split, seed=0) -> Dataset``; ``path`` is None for data that comes
            with the plugin.
        class_names: The classes, in the order of their labels.
        image_shape: Channel, height, width.
        mean: Per channel, in units of pixel / 255.
        std: Per channel, in units of pixel / 255.
        splits: The splits that ``load`` accepts.
        source: Origin of the data.
        license: Its terms of use.
        summary: One-line description.
    """

    load: "Callable[..., Dataset]"
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: tuple[str, ...]
    source: str
    license: str
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model that a plugin offers, or what is known about a model of another library.

    Attributes:
        build: Returns the module with freshly initialized weights; a plugin's model needs it.
        weights: Returns its trained ``state_dict``, verified; None if the model has none.
        task: ``"classification"`` by a softmax, where a single logit is ``"binary"``;
            ``"multilabel"``, a sigmoid for each label; or ``"regression"``, values.
        output: Index, key, attribute or dotted path of the scores among several outputs.
        class_names: The classes, in the order of the outputs; two for a single logit, of which
            the second is that of a positive logit; empty if they have no names.
        image_shape: Channel, height, width of an input; None if the model takes any size.
        mean: Per channel, in units of pixel / 255: inputs are ``(pixel / 255 - mean) / std``. None
            if it is not known.
        std: Per channel, in units of pixel / 255.
        preprocessing: How images become inputs; None: resized to cover ``image_shape``, cropped to
            its center, and normalized.
        dataset: Qualified name of the data set it was trained on.
        layer: Dotted path of the layer that class activation maps use by default.
        positive_control: On how many images the positive control of scorecards passes, and of how
            many, as ``benchmarks/scorecard.py`` measures it; None: not measured.
        embed: ``embed(model, text)`` returns a text's embedding ``[features]``, by the model's own
            text tower; None if it has none.
        summary: One-line description.
    """

    build: Callable[[], nn.Module] | None = None
    weights: Callable[[], Mapping[str, Tensor]] | None = None
    task: Task = "classification"
    output: int | str | None = None
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    preprocessing: "Preprocessing | None" = None
    dataset: str | None = None
    layer: str | None = None
    positive_control: tuple[int, int] | None = None
    embed: Callable[[nn.Module, str], Tensor] | None = None
    summary: str = ""


@dataclass(frozen=True, eq=False)
class Attribution:
    """What a method returns if it has more to report than the map.

    Attributes:
        values: The map ``[batch, channel or 1, height, width]``; of a volume with its depth.
        standard_error: Of each value, same shape, for sampling methods.
        layer: Dotted path of the layer that the method used, or several, joined by commas.
        at: Dotted path of the layer whose output the map explains; None if it explains the image.
            The map then has that layer's shape.
        coverage: The operators of the model that the method's rules covered.
        warnings: Limitations of the result, one line each, with a remedy.
        diagnostics: Tensors ``[batch, …]`` are per image; anything else must be JSON.
        partial: True if the method stopped before it used its budget.
    """

    values: Tensor
    standard_error: Tensor | None = None
    layer: str | None = None
    at: str | None = None
    coverage: Mapping[str, Any] | None = None
    warnings: Sequence[str] = ()
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False

    @classmethod
    def of(cls, result: "Tensor | Attribution") -> "Attribution":
        """Wraps what a method returned, unless it is already an `Attribution`."""
        return result if isinstance(result, Attribution) else cls(result)

    def saying(self, *warnings: str, **diagnostics: Any) -> "Attribution":
        """A copy with more warnings, without duplicates, and more diagnostics."""
        return replace(
            self,
            warnings=tuple(dict.fromkeys((*self.warnings, *warnings))),
            diagnostics={**self.diagnostics, **diagnostics},
        )


def spec_of(model: object) -> ModelSpec | None:
    """The specification that a registered or adapted model carries; None for any other model."""
    spec: ModelSpec | None = getattr(model, "explainkit_spec", None)
    return spec
