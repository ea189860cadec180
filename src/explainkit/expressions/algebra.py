"""The algebra: expressions, numbers and operators, and the base classes of terms."""

import json
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from explainkit.errors import TargetError


class Deferred(Protocol):
    """A layer whose output is computed on demand, since often only one channel is needed."""

    @property
    def count(self) -> int:
        """Its number of channels."""
        ...

    def whole(self) -> Tensor:
        """The whole output ``[batch, channel, height, width]``."""
        ...

    def channels(self, indices: Tensor) -> Tensor:
        """Channel ``indices[i]`` of image i, ``[batch, height, width]``."""
        ...


@dataclass(frozen=True, eq=False)
class Scope:
    """The values that the terms of an expression are computed from, for one batch of images.

    Attributes:
        logits: ``[batch, classes]``.
        activations: Layer path to its output, batch first, or to a `Deferred` output.
        images: The images ``[batch, channel, height, width]``.
        class_names: In the order of the logits.
        reference: Layer path to its output for the image that `caricature` exaggerates.
        opacity: Opacity of each pixel, ``[batch, 1, height, width]``; None: the images are opaque.
        channel_statistics: Layer path to the mean and standard deviation, over a data set, of its
            channels' spatial means, ``[channel]`` each.
        output: What the model returned.
        embeddings: Text to its embedding, ``[features]``.
    """

    logits: Tensor | None
    activations: Mapping[str, "Tensor | Deferred"]
    images: Tensor | None
    class_names: Sequence[str] = ()
    reference: Mapping[str, Tensor] | None = None
    opacity: Tensor | None = None
    channel_statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None
    output: Any = None
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def example(self) -> Tensor:
        """Any tensor of the batch, for its length, dtype and device."""
        for tensor in (self.logits, self.images, *self.activations.values()):
            if isinstance(tensor, Tensor):
                return tensor
        if (tensor := _first_tensor(self.output)) is not None:
            return tensor
        raise TargetError("expected logits, activations or images to evaluate, got none")

    def layer(self, name: str) -> Tensor:
        """A layer's output, batch first."""
        found = self._found(name)
        if not isinstance(found, Tensor):
            found = found.whole()
        batch = len(self.example)
        if found.dim() not in {2, 3, 4, 5} or len(found) != batch:
            raise TargetError(
                f"layer {name!r}: expected an output [{batch}, channel, height, width], "
                f"[{batch}, tokens, features] or [{batch}, features], got {list(found.shape)}"
            )
        return found

    def channels(self, name: str, indices: Sequence[int]) -> Tensor:
        """Channel ``indices[i]`` of image i in a layer: ``[batch, …]``, with its spatial axes."""
        found = self._found(name)
        if isinstance(found, Tensor):
            found = self.layer(name)
            count = found.shape[-1] if has_tokens(found) else found.shape[1]
        else:
            count = found.count
        for index in indices:
            if not 0 <= index < count:
                raise TargetError(
                    f"expected a channel of layer {name!r} from 0 to {count - 1}, got {index}"
                )
        chosen = torch.tensor(indices, device=self.example.device)
        if not isinstance(found, Tensor):
            return found.channels(chosen)
        rows = torch.arange(len(found), device=found.device)
        return found[rows, :, chosen] if has_tokens(found) else found[rows, chosen]

    def _found(self, name: str) -> "Tensor | Deferred":
        if name not in self.activations:
            known = ", ".join(map(repr, self.activations)) or "none"
            raise TargetError(f"expected the output of layer {name!r}, got only: {known}")
        return self.activations[name]


def _first_tensor(output: Any) -> Tensor | None:
    """Any floating-point tensor of what a model returned."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = list(output.values())
    elif hasattr(output, "__dict__"):
        output = list(vars(output).values())
    parts = output if isinstance(output, list | tuple) else []
    return next((one for one in map(_first_tensor, parts) if one is not None), None)


def has_tokens(found: Tensor) -> bool:
    """Whether a layer's output is ``[batch, tokens, features]``, with its channels last."""
    return found.dim() == 3


class Expression:
    """One score per image; immutable, printable and comparable.

    Expressions and numbers combine with ``+ - * /`` and negation into new expressions.
    """

    reads_logits: ClassVar[bool] = False
    reads_images: ClassVar[bool] = False
    reads_statistics: ClassVar[bool] = False
    reads_output: ClassVar[bool] = False

    def __add__(self, other: object) -> "Expression":
        return _binary(Add, self, other)

    def __radd__(self, other: object) -> "Expression":
        return _binary(Add, other, self)

    def __sub__(self, other: object) -> "Expression":
        return _binary(Subtract, self, other)

    def __rsub__(self, other: object) -> "Expression":
        return _binary(Subtract, other, self)

    def __mul__(self, other: object) -> "Expression":
        return _binary(Multiply, self, other)

    def __rmul__(self, other: object) -> "Expression":
        return _binary(Multiply, other, self)

    def __truediv__(self, other: object) -> "Expression":
        return _binary(Divide, self, other)

    def __rtruediv__(self, other: object) -> "Expression":
        return _binary(Divide, other, self)

    def __neg__(self) -> "Expression":
        return Negate(self)

    def __pos__(self) -> "Expression":
        return self

    def walk(self) -> Iterator["Expression"]:
        """This expression and all its subexpressions."""
        yield self
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if isinstance(value, Expression):
                yield from value.walk()

    @property
    def layers(self) -> frozenset[str]:
        """Dotted paths of the inner layers that it uses."""
        return frozenset(node.layer for node in self.walk() if isinstance(node, LayerTerm))

    @property
    def z_scored(self) -> frozenset[str]:
        """Dotted paths of the layers that it z-scores by their statistics on a data set."""
        return frozenset(
            node.layer
            for node in self.walk()
            if isinstance(node, LayerTerm) and node.reads_statistics
        )

    @property
    def uses_logits(self) -> bool:
        """Whether it uses the model's logits."""
        return any(node.reads_logits for node in self.walk())

    @property
    def uses_images(self) -> bool:
        """Whether it uses the image itself."""
        return any(node.reads_images for node in self.walk())

    @property
    def uses_output(self) -> bool:
        """Whether it uses outputs of the model other than its logits."""
        return any(node.reads_output for node in self.walk())

    @property
    def texts(self) -> frozenset[str]:
        """Texts whose embeddings it compares with those of images."""
        return frozenset(node.text for node in self.walk() if node.text is not None)

    @property
    def text(self) -> str | None:
        """The text whose embedding this term compares with those of images; None: none."""
        return None

    def shown_boxes(self, scope: Scope) -> Tensor | None:
        """The boxes that its terms are about, to be shown on the images.

        Returns:
            Left, top, right, bottom of each in fractions of the image's width and height,
            ``[batch, boxes, 4]``; None without boxes.
        """
        found: list[Tensor] = []
        for node in self.walk():
            box = node.shown_box(scope)
            if box is not None and not any(torch.equal(box, other) for other in found):
                found.append(box)
        return torch.stack(found, 1) if found else None

    def shown_box(self, scope: Scope) -> Tensor | None:  # noqa: ARG002
        """The box that this term alone is about, ``[batch, 4]`` as in `shown_boxes`."""
        return None

    def rivals(self, scope: Scope) -> Sequence["Rival | None"]:  # noqa: ARG002
        """The same score for the next most likely class of each image; None where there is none.

        Empty if the expression is not the score of one class.
        """
        return ()

    def evaluate(
        self,
        logits: Tensor | None,
        activations: Mapping[str, Tensor],
        images: Tensor | None = None,
        class_names: Sequence[str] = (),
        output: Any = None,
    ) -> Tensor:
        """One score per image.

        Args:
            logits: ``[batch, classes]``; None if it does not use them.
            activations: Layer path to output, for the layers in `layers`.
            images: ``[batch, channel, height, width]``; None if it has no penalty term.
            class_names: In the order of the logits.
            output: What the model returned; None if it uses nothing of it but the logits.

        Returns:
            ``[batch]``, differentiable.

        Raises:
            TargetError: A class, channel or position does not exist, or a term needs a value that
                is not given.
        """
        scope = Scope(logits, activations, images, class_names, output=output)
        return evaluate_each([self] * len(scope.example), scope)

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """The values ``[batch]`` of expressions of one form: expression i on image i."""
        raise NotImplementedError

    @property
    def form(self) -> tuple[Any, ...]:
        """A key that is equal for expressions that can be evaluated together in one batch."""
        inner = [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]
        return (type(self), *(v.form if isinstance(v, Expression) else None for v in inner))

    def expand(self, channels: Mapping[str, int], classes: int | None) -> list["Expression"]:
        """Expands a family, such as `channels` or `classes`, into single expressions.

        Args:
            channels: Layer path to its number of channels.
            classes: The model's number of classes.

        Raises:
            TargetError: It contains several families.
        """
        families = [node for node in self.walk() if isinstance(node, Family)]
        if not families:
            return [self]
        if len(set(families)) > 1:
            raise TargetError(
                f"expected one family of units in an objective, got "
                f"{' and '.join(map(str, dict.fromkeys(families)))}: maximize them one by one"
            )
        (family, *_) = families
        return [_substitute(self, family, term) for term in family.members(channels, classes)]


@dataclass(frozen=True)
class Rival:
    """What the score of a class in one image is compared with.

    Attributes:
        score: The same score for another class.
        label: Index of that class.
        place: Words that complete "the next most likely class …", such as "for the same query".
    """

    score: Expression
    label: int
    place: str


def evaluate_each(expressions: Sequence[Expression], scope: Scope) -> Tensor:
    """Evaluates expression i on image i.

    Raises:
        TargetError: The scope lacks a value that a term needs, or the forms differ.
    """
    if len({expression.form for expression in expressions}) != 1:
        raise TargetError("expected expressions of one form to evaluate together")
    return expressions[0].each(expressions, scope)


def _binary(kind: "type[_Binary]", left: object, right: object) -> Expression:
    first, second = operand(left), operand(right)
    return NotImplemented if first is None or second is None else kind(first, second)


def operand(value: object) -> Expression | None:
    """An expression, or a number as one; None for anything else."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return Number(float(value))


def _substitute(node: Expression, old: Expression, new: Expression) -> Expression:
    if node == old:
        return new
    inner = {
        one.name: _substitute(value, old, new)
        for one in fields(node)  # type: ignore[arg-type]
        if isinstance(value := getattr(node, one.name), Expression)
    }
    return replace(node, **inner) if inner else node  # type: ignore[type-var]


def _level(node: Expression) -> int:
    """Operator precedence: sums 1, products 2, negation 3, everything else 4."""
    if isinstance(node, _Binary):
        return node.level
    return 3 if isinstance(node, Negate) or str(node).startswith("-") else 4


def _inside(node: Expression, least: int) -> str:
    return str(node) if _level(node) >= least else f"({node})"


@dataclass(frozen=True)
class _Binary(Expression):
    left: Expression
    right: Expression

    sign: ClassVar[str]
    level: ClassVar[int]
    combine: ClassVar[Callable[[Tensor, Tensor], Tensor]]

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        left = self.left.each([node.left for node in nodes], scope)
        return type(self).combine(left, self.right.each([node.right for node in nodes], scope))

    def __str__(self) -> str:
        # the right side needs a higher precedence: a - (b - c)
        return f"{_inside(self.left, self.level)} {self.sign} {_inside(self.right, self.level + 1)}"


class Add(_Binary):
    """The sum of two expressions."""

    sign, level, combine = "+", 1, torch.add


class Subtract(_Binary):
    """The difference of two expressions."""

    sign, level, combine = "-", 1, torch.sub


class Multiply(_Binary):
    """The product of two expressions."""

    sign, level, combine = "*", 2, torch.mul


class Divide(_Binary):
    """The quotient of two expressions."""

    sign, level, combine = "/", 2, torch.div


@dataclass(frozen=True)
class Negate(Expression):
    """An expression with the opposite sign."""

    inner: Expression

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """``−a``."""
        return -self.inner.each([node.inner for node in nodes], scope)

    def __str__(self) -> str:
        return f"-{_inside(self.inner, 3)}"


@dataclass(frozen=True)
class Number(Expression):
    """A number, the same for every image."""

    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise TargetError(f"expected a finite number in an expression, got {self.value}")

    def __neg__(self) -> "Number":
        return Number(-self.value)

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:
        """The number, per image."""
        return scope.example.new_tensor([node.value for node in nodes])

    def __str__(self) -> str:
        whole = self.value.is_integer() and abs(self.value) < 1e15
        return f"{self.value:.0f}" if whole else repr(self.value)


class Term(Expression):
    """A leaf: a value from the model or the image.

    Its text is ``call(fields)``. Fields that are None are left out, and those after one are named.
    """

    call: ClassVar[str] = ""

    def __str__(self) -> str:
        values = [getattr(self, f.name) for f in fields(self)]  # type: ignore[arg-type]
        while values and values[-1] is None:
            values.pop()
        named = values.index(None) if None in values else len(values)
        shown = [_literal(value) for value in values[:named]]
        shown += [
            f"{f.name}={_literal(value)}"
            for f, value in list(zip(fields(self), values, strict=False))[named:]  # type: ignore[arg-type]
            if value is not None
        ]
        return f"{self.call}({', '.join(shown)})"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return str(Number(value)) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class LayerTerm(Term):
    """A leaf that uses one inner layer."""

    layer: str

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str) or not self.layer:
            raise TargetError(f"{self.call}: expected a layer's dotted path, got {self.layer!r}")

    @property
    def form(self) -> tuple[Any, ...]:
        """Terms of one layer are evaluated together."""
        return (type(self), self.layer)


class Family(Term):
    """A leaf that stands for one term per unit; `Expression.expand` lists them."""

    def members(self, channels: Mapping[str, int], classes: int | None) -> Sequence[Expression]:
        """The single terms."""
        raise NotImplementedError

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """A family is not a single score."""
        raise TargetError(f"{self} stands for several objectives: only maximize accepts it")
