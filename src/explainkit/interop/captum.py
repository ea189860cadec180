"""Captum's attributions as methods, and methods as Captum attributions.

Needs Captum (``pip install captum``): Kokhlikyan et al. (2020), "Captum: A unified and generic
model interpretability library for PyTorch", arXiv:2009.07896.
"""

import inspect
from typing import Any, ClassVar

import captum.attr
from captum.attr import Attribution as CaptumAttribution
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from explainkit.api import explain
from explainkit.catalog.factories import AnyMethod
from explainkit.engine.model import ScoreModel, unwrapped
from explainkit.errors import InputError, MethodError
from explainkit.interfaces import Attribution, Method
from explainkit.interop.foreign import ForeignMethod, as_method
from explainkit.layers import get_layer, path_of

_GIVEN = {"inputs", "target", "additional_forward_args", "return_convergence_delta"}
"""Arguments of ``attribute`` that are not parameters here."""


def from_captum(kind: type[CaptumAttribution], **params: Any) -> Method:
    """Wraps one of Captum's attributions as a method.

    Its map of an image equals ``kind(model).attribute(image, target=…)``. Images are explained one
    at a time, each with the same seed of Captum's random numbers. The map of a layer attribution
    has the layer's shape.

    Args:
        kind: A class of ``captum.attr``.
        **params: Parameters of its constructor and of ``attribute``, and a ``seed``. ``layer`` is a
            dotted path or a module. ``baselines`` may have one value per image.
            ``attribution_method`` of ``NoiseTunnel`` is another method from here.

    Raises:
        MethodError: Not a Captum attribution, or it has no such parameter.

    Examples:
        >>> import torch, explainkit as ek
        >>> from captum.attr import IntegratedGradients
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> x = torch.rand(2, 1, 4, 4)
        >>> method = ek.interop.captum.from_captum(IntegratedGradients, n_steps=8)
        >>> e = ek.explain(net, x, 1, method)
        >>> e.method, e.params["n_steps"]
        ('captum.attr.IntegratedGradients', 8)
        >>> direct = IntegratedGradients(net).attribute(x, target=1, n_steps=8)
        >>> torch.allclose(e.attribution, direct.float(), atol=1e-6)
        True
    """
    if not (isinstance(kind, type) and issubclass(kind, CaptumAttribution)):
        raise MethodError(f"expected a class of captum.attr, got {kind!r:.60}")
    first, *own = inspect.signature(kind).parameters
    attribute = inspect.signature(kind.attribute).parameters
    passes_on = any(one.kind is one.VAR_KEYWORD for one in attribute.values())
    if "target" not in attribute and not passes_on:
        raise MethodError(
            f"{kind.__name__} explains no score of the model, since it takes no target: for a "
            'neuron use a method here with a target such as neuron("layer", 3, 4, 5)'
        )
    names = {first, *own, *attribute, "seed"} - {"self", "forward_func", "model"} - _GIVEN
    for name in params:
        if name in _GIVEN or (name not in names and not passes_on):
            known = ", ".join(sorted(names)) or "no parameters"
            raise MethodError(f"{kind.__name__} takes {known}, got {name!r}")
    sampled = kind.__name__.endswith(("GradientShap", "DeepLiftShap"))  # baselines are a sample
    marks = {"layer": "layer"} | {
        name: "per_image"
        for name in ("feature_mask", *([] if sampled else ["baselines"]))
        if isinstance(value := params.get(name), Tensor)
        and value.dim() in {4, 5}
        and len(value) > 1
    }
    public = getattr(captum.attr, kind.__name__, None) is kind
    module = "captum.attr" if public else kind.__module__
    return as_method(
        _FromCaptum, kind.__name__, module, params, marks, kind=kind, constructor=frozenset(own)
    )  # type: ignore[return-value]


class _FromCaptum(ForeignMethod):
    """Calls one of Captum's attributions."""

    volumes: ClassVar[bool] = True
    kind: ClassVar[Any]
    constructor: ClassVar[frozenset[str]]

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor | Attribution:
        """Returns the maps; those of a layer attribution have the layer's shape."""
        if isinstance(model, ScoreModel) and model.module is not model.owner:
            raise MethodError(
                "at= runs the model from a layer on, without the modules that Captum's hooks need: "
                "omit at= and wrap the Layer form of the attribution, with layer="
            )
        values = super().__call__(model, inputs, target)
        layer = getattr(self, "layer", None)
        if layer is None:
            return values
        path = path_of(unwrapped(model), layer)
        at = path if issubclass(self.kind, LayerAttribution) else None
        return Attribution(Attribution.of(values).values, layer=path, at=at)

    def map_of(self, model: nn.Module, image: Tensor, target: int) -> Tensor:
        """Captum's map."""
        attribution, arguments = self._built(model)
        found = attribution.attribute(image, target=target, **arguments)
        if isinstance(found, tuple):
            if len(found) != 1:
                raise MethodError(
                    f"{type(self).__name__}: expected a layer with one output, got {len(found)}"
                )
            (found,) = found
        result: Tensor = found
        return result

    def _built(self, model: nn.Module) -> tuple[Any, dict[str, Any]]:
        """Captum's object, and the arguments of its ``attribute``."""
        given = {name: value for name, value in vars(self).items() if name != "seed"}
        inner = given.pop("attribution_method", None)
        if "layer" in given:
            owner = unwrapped(model)
            given["layer"] = get_layer(owner, path_of(owner, given["layer"]))
        base, arguments = (model, {}) if inner is None else inner._built(model)
        own = {name: given.pop(name) for name in self.constructor & given.keys()}
        return self.kind(base, **own), arguments | given


def to_captum(model: nn.Module, method: AnyMethod = "saliency", **params: Any) -> CaptumAttribution:
    """Wraps a method as a Captum attribution of a model.

    ``attribute(inputs, target=…)`` returns the map of `explainkit.explain`. It works where Captum
    takes one of its own: in ``NoiseTunnel``, in ``captum.metrics``. A target of None is the
    predicted class.

    Args:
        model: The model.
        method: A registered name, or a method.
        **params: The method's fields, and arguments of `explainkit.explain` such as ``seed``.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> x = torch.rand(2, 1, 4, 4)
        >>> rise = ek.interop.captum.to_captum(net, "rise", samples=64)
        >>> rise.attribute(x, target=[0, 2]).shape
        torch.Size([2, 1, 4, 4])
    """
    return ExplainkitAttribution(model, method, **params)


class ExplainkitAttribution(CaptumAttribution):  # type: ignore[misc]
    """A method as a Captum attribution; `to_captum` makes it."""

    def __init__(self, model: nn.Module, method: AnyMethod, **params: Any) -> None:
        super().__init__(model)
        self.method = method
        self.params = params

    @log_usage()  # type: ignore[untyped-decorator]  # Captum's wrappers call attribute.__wrapped__
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor],
        target: int | list[int] | Tensor | None = None,
        additional_forward_args: None = None,
        **params: Any,
    ) -> Tensor | tuple[Tensor]:
        """The map of each image, of the shape of the inputs or with one channel.

        Args:
            inputs: Images ``[batch, channel, height, width]``, or a tuple of that one tensor.
            target: A class, or one per image; None: the predicted class.
            additional_forward_args: Only None: the model takes images alone.
            **params: As in `to_captum`, for this call.

        Returns:
            A tensor, or a tuple of it if the inputs are one.

        Raises:
            InputError: Several inputs, or further arguments of the model.
        """
        several = isinstance(inputs, tuple)
        if several and len(inputs) != 1:
            raise InputError(f"expected one tensor of images, got {len(inputs)} inputs")
        if additional_forward_args is not None:
            raise InputError("additional_forward_args: expected None: the model takes images alone")
        images: Any = inputs[0] if several else inputs
        if isinstance(target, Tensor) and target.numel() == 1:
            target = int(target)  # as in Captum, for all images
        chosen = self.params | params
        values = explain(self.forward_func, images, target, self.method, **chosen).attribution
        return (values,) if several else values
