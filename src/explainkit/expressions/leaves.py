"""The base classes of terms: leaves that read the model or the image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from torch import Tensor

from explainkit.errors import TargetError
from explainkit.expressions.algebra import Expression, Number
from explainkit.expressions.scope import Scope


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
    def own_layer(self) -> str:
        """The layer."""
        return self.layer

    @property
    def form(self) -> tuple[Any, ...]:
        """Terms of one layer are evaluated together."""
        return (type(self), self.layer)


class Family(Term):
    """A leaf that stands for one term per unit; `Expression.expand` lists them."""

    is_family: ClassVar[bool] = True

    def each(self, nodes: Sequence[Self], scope: Scope) -> Tensor:  # noqa: ARG002
        """A family is not a single score."""
        raise TargetError(f"{self} stands for several objectives: only maximize accepts it")
