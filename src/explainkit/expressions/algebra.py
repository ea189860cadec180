"""The algebra: expressions, numbers and operators."""

import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from explainkit.errors import TargetError
from explainkit.expressions.scope import Scope


class Expression:
    """One score per image; immutable, printable and comparable.

    Expressions and numbers combine with ``+ - * /`` and negation into new expressions.
    """

    reads_logits: ClassVar[bool] = False
    reads_images: ClassVar[bool] = False
    reads_statistics: ClassVar[bool] = False
    reads_output: ClassVar[bool] = False
    is_family: ClassVar[bool] = False

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
        return frozenset(node.own_layer for node in self.walk() if node.own_layer is not None)

    @property
    def z_scored(self) -> frozenset[str]:
        """Dotted paths of the layers that it z-scores by their statistics on a data set."""
        return frozenset(
            node.own_layer
            for node in self.walk()
            if node.own_layer is not None and node.reads_statistics
        )

    @property
    def own_layer(self) -> str | None:
        """The inner layer that this term alone uses; None: none."""
        return None

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
        families = [node for node in self.walk() if node.is_family]
        if not families:
            return [self]
        if len(set(families)) > 1:
            raise TargetError(
                f"expected one family of units in an objective, got "
                f"{' and '.join(map(str, dict.fromkeys(families)))}: maximize them one by one"
            )
        (family, *_) = families
        return [_substitute(self, family, term) for term in family.members(channels, classes)]

    def members(self, channels: Mapping[str, int], classes: int | None) -> Sequence["Expression"]:
        """The single terms that a family stands for; see `expand`."""
        raise NotImplementedError


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
