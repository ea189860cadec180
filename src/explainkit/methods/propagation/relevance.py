"""How relevance passes every operator: the backward pass of the LRP family."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from explainkit.engine.model import unwrapped
from explainkit.engine.passes import recorded_forward
from explainkit.errors import MethodError
from explainkit.graph.backward import Gradients, Operator, propagate
from explainkit.graph.factors import (
    SpelledActivation,
    activation_of,
    parts_of,
    scaling_factor,
    softmax_of,
)
from explainkit.graph.names import BATCH_NORMS, GATES, LAYERS, NORMS, RECTIFIERS, SHAPES, UNARY
from explainkit.graph.operators import kind_of
from explainkit.graph.tape import Record, RecordedForward
from explainkit.interfaces import Attribution, spec_of
from explainkit.methods.path.straight_line import complete
from explainkit.methods.propagation import layerwise
from explainkit.methods.propagation.layer_rules import LayerRules
from explainkit.methods.propagation.layerwise import (
    FIRST_RULES,
    FOLDABLE,
    FirstRule,
    LayerRule,
    Linear,
    plain_layer,
)
from explainkit.methods.propagation.rules import Unsupported, fall_back, report, seeds_of

KEEP = LAYERS | UNARY | GATES | NORMS | {"add", "mul", "div"}

_VIEWS = frozenset(
    f"{name}Backward0" for name in ("View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose")
)

_VECTORS = frozenset({"mv", "addmv", "dot"})
_VIEWS_OF_ONE = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select")

_AFFINE = frozenset(["add", "sub", "rsub", "mul", "div", "neg"])
_PADS = frozenset(
    f"{kind}_pad{dim}d" for kind in ("reflection", "replication") for dim in (1, 2, 3)
) | {"constant_pad_nd"}


@dataclass(frozen=True)
class Settings:
    """The rule of each type of layer, and the parameters of the rules.

    Attributes:
        convolution: Rule of convolutions.
        dense: Rule of linear layers.
        first: Rule of layers whose input is the image; ``"same"``: that of their type.
        epsilon: Added to every denominator, with its sign.
        gamma: γ of the γ rule.
        alpha: α of the αβ rule, α − β = 1.
        bias: Whether biases of layers absorb their share.
        low: Lower bound of the image for the box rule.
        high: Upper bound.
        unsupported: What happens at an operator without a rule.
        method: Name of the method, for errors.
        dense_gamma: γ on linear layers; None: ``gamma``.
    """

    convolution: LayerRule
    dense: LayerRule
    first: FirstRule = "same"
    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0
    bias: bool = True
    low: float | Tensor | None = None
    high: float | Tensor | None = None
    unsupported: Unsupported = "error"
    method: str = "lrp"
    dense_gamma: float | None = None


class Relevance:
    """The rule of every operator; see `layerwise` for the quantity that is propagated."""

    def __init__(self, settings: Settings, trace: RecordedForward, chosen: LayerRules) -> None:
        self.settings = settings
        self._chosen = chosen
        self._trace = trace
        self.complete: set[Node] = set()
        """Nodes between the image and a first layer, where relevance itself is propagated."""
        self._arrived: dict[Node, set[Node]] = defaultdict(set)
        self._folded: dict[Node, Record] = {}
        self._biases: dict[Node, Tensor] = {}
        self._softmaxes: set[Node] = set()
        self._bypassed: set[Node] = set()

    def __call__(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        """The result for each input, and the name of the rule."""
        if operator.node in self.complete:
            return self._carry(operator, gradients), "relevance"
        if operator.node in self._bypassed:
            return [gradients[0] if wanted else None for wanted in operator.depends], "merged"
        gradient, record = gradients[0], operator.record
        kind = kind_of(operator)
        if record is None or gradient is None:
            return operator.gradient(*gradients), self._known(kind, operator)
        if kind in {"quotient", "product"} and softmax_of(self._trace, operator):
            self._softmaxes |= {operator.node, *parts_of(operator)}
        if operator.node in self._softmaxes:
            return operator.gradient(*gradients), "softmax"
        if spelled := activation_of(self._trace, operator):
            return self._spelled(operator, spelled, gradient), "passed"
        match kind:
            case "layer":
                return self._layer(operator, record, gradient)
            case "linear" if operator.name in BATCH_NORMS:
                return self._batch_norm(operator, record, gradients)
            case "linear" if operator.name == "mul" and self._merge_sides(operator, record):
                return [gradient if wanted else None for wanted in operator.depends], "merged"
            case "linear" | "maximum" | "softmax":
                if operator.name == "add":
                    self._note_bias(operator, record)
                return operator.gradient(*gradients), kind
            case "unary":
                return self._unary(operator, record, gradients)
            case "product":
                return self._product(operator, gradients)
            case "gate":
                return (_gate(record, gradient),), "half each"
            case "quotient":
                return _quotient(operator, record, gradient), "denominator held"
            case "norm":
                held = held_norm(record, gradient)
                if held is not None:
                    return (held, *[None] * (len(operator.depends) - 1)), "scale held"
                return operator.gradient(*gradients), "gradient"
        return operator.gradient(*gradients), self._known(kind, operator)

    def _product(self, operator: Operator, gradients: Gradients) -> tuple[Gradients, str]:
        """Half to each factor, or all to the one that the other only scales."""
        *offset, left, right = operator.gradient(*gradients)
        scale = scaling_factor(self._trace, operator)
        if scale is not None:
            return [*offset, *((None, right) if scale == 0 else (left, None))], "scale held"
        return [*offset, *(None if g is None else g / 2 for g in (left, right))], "half each"

    def _known(self, kind: str, operator: Operator) -> str:
        if kind:
            return kind
        return fall_back(operator, self.settings.unsupported, self.settings.method)

    def _unary(
        self, operator: Operator, record: Record, gradients: Gradients
    ) -> tuple[Gradients, str]:
        """All relevance is passed on: ``y · g_out = x · g_in``."""
        found = operator.gradient(*gradients)
        if operator.name in RECTIFIERS:
            return found, "passed"
        assert gradients[0] is not None
        passed = gradients[0] * record.output
        return [
            None if g is None else _ratio(passed, record.tensors[0], g) for g in found
        ], "passed"

    def _spelled(
        self, operator: Operator, spelled: SpelledActivation, gradient: Tensor
    ) -> Gradients:
        """The same for an activation of several operators: the lower ones change nothing more."""
        record, exponential = operator.record, self._trace.record_of(spelled.exponential)
        assert record is not None
        assert exponential is not None
        self._bypassed |= {spelled.addition, spelled.exponential}
        passed, z = gradient * record.output, exponential.tensors[0]
        own = operator.gradient(gradient)
        return [None if g is None else _ratio(passed, z, g * exponential.output) for g in own]

    def _batch_norm(
        self, operator: Operator, record: Record, gradients: Gradients
    ) -> tuple[Gradients, str]:
        """Merges with the preceding layer, if nothing else reads that layer's output."""
        below = operator.node.next_functions[0][0]
        if below is not None and below.name() in FOLDABLE and operator.users[below] == 1:
            self._folded[below] = record
            return (gradients[0], *[None] * (len(operator.depends) - 1)), "merged"
        return operator.gradient(*gradients), "linear"

    def _merge_sides(self, operator: Operator, record: Record) -> bool:
        """Merges the two sides (−z, z) of a single logit z with the layer that computes it.

        Rules that treat positive and negative weights differently then see both sides' weights.
        """
        node = operator.node.next_functions[operator.depends.index(True)][0]
        views = []
        while node is not None and node.name().startswith(_VIEWS_OF_ONE):
            views.append(node)
            node = node.next_functions[0][0]
        if node is None or node.name() not in {"AddmmBackward0", "MmBackward0"}:
            return False
        alone = all(operator.users[one] == 1 for one in (*views, node))
        if not alone or node._input_metadata[0].shape[1] != 1 or _sides(record) is None:
            return False
        self._folded[node] = record
        self._bypassed.update(views)
        return True

    def _note_bias(self, operator: Operator, record: Record) -> None:
        """A vector added to the output of a product is its bias, as ``F.linear`` may write it."""
        tensors, depends = record.tensors, operator.depends
        factor = record.options.get("alpha", 1)
        if sum(depends) != 1 or not len(tensors) == len(depends) == 2 or factor != 1:
            return
        index = depends.index(True)
        bias, node = tensors[1 - index], operator.node.next_functions[index][0]
        views: list[Any] = []
        while node is not None and node.name() in _VIEWS and operator.users[node] == 1:
            views.append(node)
            node = node.next_functions[0][0]
        product = node is not None and node.name() in {"MmBackward0", "BmmBackward0"}
        if node is None or not product or operator.users[node] != 1:
            return
        if sum(size > 1 for size in bias.shape) > 1:
            return  # it differs between positions
        bias = bias.expand_as(record.output)
        for view in views:
            bias = view(bias)  # in the layout of the product
        bias = bias if node.next_functions[0][0] is not None else bias.mT
        if bool((bias == bias[..., :1, :]).all()):
            self._biases[node] = bias[..., :1, :]

    def _layer(self, operator: Operator, record: Record, gradient: Tensor) -> tuple[Gradients, str]:
        settings, depends = self.settings, operator.depends
        transposed = operator.name == "convolution" and record.argument(6)
        first = max(len(record.tensors) - 2, 0) if operator.name != "convolution" else 0
        if any(depends[:first]) or operator.name in _VECTORS:  # the sum also depends on the image
            return operator.gradient(gradient), "linear"
        left = operator.name != "convolution" and not depends[first]
        data = first + left
        if not depends[data]:  # kernels that depend on the image: the ε rule applies as it is
            z = record.output
            ratio = gradient * (z / layerwise.stabilized(z, settings.epsilon))
            return operator.gradient(ratio), "epsilon"
        norm = self._folded.get(operator.node)
        layer = _linear(record, norm, transposed=bool(transposed), left=left)
        weight = record.tensors[1 if operator.name == "convolution" else first + (not left)]
        bias = self._biases.get(operator.node)
        if bias is not None:
            layer = replace(layer, bias=bias, output=layer.output + bias)
        own = self._chosen.of(weight)
        first_rule = settings.first if own is None else own
        chain = _chain_to_image(operator, data) if first_rule in FIRST_RULES else None
        if own in FIRST_RULES and chain is None:
            raise MethodError(
                f"rules: expected a layer that reads the image for the rule {own!r}, got one "
                f"behind others, with weights {list(layer.weight.shape)}"
            )
        gradient = gradient.mT if left else gradient
        if chain is not None:
            found = self._first(first_rule, layer, gradient, chain, left)
            rule = f"{first_rule} (first)"
            for user, node in zip([operator.node, *chain], chain, strict=False):
                self.complete.add(node)
                self._arrived[node].add(user)
        else:
            usual = settings.convolution if operator.name == "convolution" else settings.dense
            rule = own or usual
            found = self._share(rule, layer, gradient)
        found = found.mT if left else found
        return [found if i == data else None for i in range(len(depends))], rule

    def _share(self, rule: str, layer: Linear, gradient: Tensor) -> Tensor:
        s = self.settings
        match rule:
            case "epsilon":
                return layerwise.epsilon_rule(layer, gradient, s.epsilon, bias=s.bias)
            case "gamma":
                own = s.dense_gamma if layer.record.name != "convolution" else None
                gamma = s.gamma if own is None else own
                return layerwise.gamma_rule(layer, gradient, s.epsilon, gamma, bias=s.bias)
            case "alpha_beta":
                return layerwise.alpha_beta_rule(layer, gradient, s.epsilon, s.alpha, bias=s.bias)
        return layerwise.z_plus_rule(layer, gradient, s.epsilon, bias=s.bias)

    def _first(
        self, rule: str, layer: Linear, gradient: Tensor, chain: list[Node], left: bool
    ) -> Tensor:
        match rule:
            case "flat":
                return layerwise.weight_rule(layer, gradient, torch.ones_like(layer.weight))
            case "w_square":
                return layerwise.weight_rule(layer, gradient, layer.weight.square())
        s, image = self.settings, self._trace.inputs.detach()
        over = tuple(range(1, image.dim()))
        low = image.amin(over, keepdim=True) if s.low is None else torch.as_tensor(s.low)
        high = image.amax(over, keepdim=True) if s.high is None else torch.as_tensor(s.high)
        ends = [self._moved(end.to(image), layer.inputs, chain, left) for end in (low, high)]
        # a negative factor swaps them
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        return layerwise.box_rule(layer, gradient, s.epsilon, low, high)

    def _moved(self, bound: Tensor, x: Tensor, chain: list[Any], left: bool) -> Tensor:
        """A bound of the image, where a first layer reads it.

        What lies between is affine, ``x = J · image + c``, so it becomes ``x + J (bound − image)``.
        """
        image = self._trace.inputs.detach()
        try:
            apart = bound.expand_as(image) - image
        except RuntimeError:
            raise MethodError(
                f"low, high: expected bounds for images {list(image.shape[1:])}, got "
                f"{list(bound.shape)}"
            ) from None
        with torch.enable_grad():
            leaf = torch.zeros_like(x.mT if left else x).requires_grad_()
            passed = leaf.clone()
            for node in chain:  # each is the transpose of its operator
                found = node(passed)
                several = (found,) if isinstance(found, Tensor) else found
                passed = next(one for one in several if one is not None)
            (moved,) = torch.autograd.grad(passed, leaf, apart)
        return x + (moved.mT if left else moved)

    def _carry(self, operator: Operator, gradients: Gradients) -> Gradients:
        """Relevance between a first layer and the image: it is moved, but not scaled."""
        if len(self._arrived[operator.node]) != operator.users[operator.node]:
            raise MethodError(
                f"{self.settings.method}: expected that only first layers read the image, but it "
                "also bypasses them: use a composite without a rule for the first layer"
            )
        if operator.name in _AFFINE:
            return [gradients[0] if wanted else None for wanted in operator.depends]
        return operator.gradient(*gradients)


def _chain_to_image(operator: Operator, data: int) -> list[Node] | None:
    """The nodes between a layer and the image, if they only move or shift pixels."""
    chain: list[Node] = []
    node = operator.node.next_functions[data][0]
    while node is not None:
        if hasattr(node, "variable"):
            return chain
        name = node.name().partition("Backward")[0]
        plain = {n.replace("_", "") for n in SHAPES | _AFFINE | _PADS}
        below = [inner for inner, _ in node.next_functions if inner is not None]
        if name.lower() not in plain or len(below) != 1:
            return None
        chain.append(node)
        node = below[0]
    return None


def _linear(record: Record, norm: Record | None, *, transposed: bool, left: bool) -> Linear:
    """A layer merged with the normalization that follows it."""
    plain = plain_layer(record, left=left)
    if norm is None:
        return plain
    if (sides := _sides(norm)) is not None:
        bias = None if plain.bias is None else plain.bias * sides
        return Linear(record, plain.inputs, plain.weight * sides, bias, norm.output)
    weight, rank = plain.weight, record.output.dim() - 2 if record.name == "convolution" else 0
    scale, shift, mean, variance = (norm.argument(i) for i in range(1, 5))
    eps = norm.argument(6 if norm.name.endswith("no_training") else 7)
    gain = (variance + eps).rsqrt() * (1.0 if scale is None else scale)
    offset = (0.0 if shift is None else shift) - mean * gain
    if plain.bias is not None:
        offset = offset + plain.bias.flatten() * gain
    if record.name == "convolution":
        groups = record.argument(8)
        if transposed:
            along = gain.view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
            weight = weight * along.view(*weight.shape[:2], *[1] * rank)
        else:
            weight = weight * gain.view(-1, *[1] * (weight.dim() - 1))
    else:
        weight = weight * gain
    offset = offset.view(1, -1, *[1] * rank)
    return Linear(record, plain.inputs, weight, offset, norm.output)


def _sides(record: Record) -> Tensor | None:
    """The vector ``[2]`` by which a column is multiplied, or None."""
    if record.name != "mul":
        return None
    vectors = [tensor for tensor in record.tensors if tensor.shape == (2,)]
    return vectors[0] if len(vectors) == 1 and record.output.dim() == 2 else None


def _ratio(relevance: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """The relevance divided by x; the gradient where that is 0 / 0."""
    small = x.abs() < torch.finfo(x.dtype).tiny ** 0.5
    return torch.where(small, gradient, relevance / torch.where(small, 1.0, x))


def _gate(record: Record, gradient: Tensor) -> Tensor:
    """Half of the relevance to each half of the gate."""
    axis = record.argument(1, -1)
    a, b = record.tensors[0].chunk(2, axis)
    share = gradient * b.sigmoid() / 2
    return torch.cat([share, share * a / layerwise.stabilized(b, 1e-9)], axis)


def _quotient(operator: Operator, record: Record, gradient: Tensor) -> Gradients:
    """The numerator gets all relevance; a denominator only if the numerator is constant."""
    first, *rest = operator.gradient(gradient)
    if first is not None:
        return (first, *[None] * len(rest))
    bottom = record.tensors[-1]
    return (None, (gradient * record.output / bottom).sum_to_size(bottom.shape))


def held_norm(record: Record, gradient: Tensor) -> Tensor | None:
    """A normalization with a constant scale (Achtibat et al., 2024); None if it is another kind."""
    x, name = record.tensors[0], record.name
    if name == "native_layer_norm":
        weight, axes = record.argument(2), [-1 - i for i in range(len(record.argument(1)))]
        held = (gradient if weight is None else gradient * weight) * record.outputs[2]
        return held - held.mean(axes, keepdim=True)
    if name == "_fused_rms_norm":
        weight = record.argument(2)
        return (gradient if weight is None else gradient * weight) * record.outputs[1]
    weight = record.argument(1)
    per_channel = (1, -1, *[1] * (x.dim() - 2))
    if name == "native_group_norm":
        groups = record.argument(6)
        held = gradient if weight is None else gradient * weight.view(per_channel)
        held = held.reshape(len(x), groups, -1) * record.outputs[2][..., None]
        return (held - held.mean(2, keepdim=True)).reshape(x.shape)
    if name in BATCH_NORMS:
        held = gradient if weight is None else gradient * weight.view(per_channel)
        held = held * record.outputs[2].view(per_channel)
        return held - held.mean([0, *range(2, x.dim())], keepdim=True)
    return None


def relevance(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    settings: Settings,
    *,
    of_one: bool = False,
    rules: Mapping[str, str] | None = None,
) -> Attribution:
    """Propagates the target's score back to the image.

    Args:
        model: Gives scores ``[batch, classes]``.
        inputs: ``[batch, channel, height, width]``.
        target: int64 ``[batch]``.
        settings: The rules.
        of_one: Start from 1 instead of the score.
        rules: Rules of single layers, of `checked_rules`, which come before those of the settings.

    Returns:
        The map with its coverage and its ``conservation_gap`` against what it started from.
    """
    trace = recorded_forward(model, inputs, KEEP)
    chosen = LayerRules(unwrapped(model), rules or {})
    passing = Relevance(_with_bounds(model, settings, inputs.dim()), trace, chosen)
    seeds = seeds_of(trace, target)
    scores = trace.scores.detach().gather(1, target[:, None])
    if of_one:
        seeds = seeds / layerwise.stabilized(scores, 1e-9)
        scores = torch.ones_like(scores)
    reached, coverage = propagate(trace, seeds, passing)
    chosen.refuse_unused()
    values = reached if passing.complete else reached * trace.inputs.detach()
    found = Attribution(values, **report(coverage))
    remedy = (
        "biases absorbed relevance, or parts that cancel were amplified: compare the map with "
        "deeplift, which is complete"
    )
    return complete(found, scores[:, 0].double(), remedy, name="conservation_gap", limit=0.5)


def _with_bounds(model: nn.Module, settings: Settings, axes: int) -> Settings:
    """The valid range of pixels as bounds, if the model's spec declares it.

    Args:
        model: What the method is called with.
        settings: The rules.
        axes: Of the images, 4, or of volumes, 5.
    """
    spec = spec_of(unwrapped(model))
    if settings.low is not None or spec is None or spec.mean is None or spec.std is None:
        return settings
    mean, std = (torch.tensor(v).view(1, -1, *[1] * (axes - 2)) for v in (spec.mean, spec.std))
    return replace(settings, low=(0 - mean) / std, high=(1 - mean) / std)
