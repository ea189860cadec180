"""Rules that a caller chose for layers, found by the weights that an operator reads."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple, get_args

from torch import Tensor, nn

from explainkit.errors import MethodError
from explainkit.methods.propagation.layerwise import FIRST_RULES, LayerRule

RULES = (*get_args(LayerRule), *sorted(FIRST_RULES))


def checked_rules(rules: object) -> dict[str, str]:
    """Rules by the path or the class of layers; a class becomes its full name.

    Raises:
        MethodError: It is something else, or there is no such rule.

    Examples:
        >>> checked_rules({"features.0": "w_square", nn.Linear: "epsilon"})
        {'features.0': 'w_square', 'torch.nn.modules.linear.Linear': 'epsilon'}
    """
    if not isinstance(rules, Mapping):
        raise MethodError(
            "rules: expected a mapping from layers to rules, such as {'features.0': 'w_square'}, "
            f"got {type(rules).__name__}"
        )
    found = {}
    for key, rule in rules.items():
        if not isinstance(key, str) and not (isinstance(key, type) and issubclass(key, nn.Module)):
            raise MethodError(f"rules: expected a layer's path or its class, got {key!r}")
        if rule not in RULES:
            raise MethodError(
                f"rules: expected one of {', '.join(RULES)} for {key!r}, got {rule!r}"
            )
        found[key if isinstance(key, str) else _full(key)] = rule
    return found


class _Owner(NamedTuple):
    """A layer with a chosen rule, and the memory of one of its parameters.

    Attributes:
        start: Its first address.
        stop: The address after its last one.
        path: Dotted path of the layer.
        key: What the rule was given for.
    """

    start: int
    stop: int
    path: str
    key: str


class LayerRules:
    """The chosen rule of each layer of a model.

    A path counts for all layers inside it; a longer path comes before a shorter one, and paths come
    before classes. An operator's layer is the one that holds the memory of its weight, however the
    weight is transposed or cut.

    Args:
        model: The caller's model.
        rules: Of `checked_rules`.

    Raises:
        MethodError: A layer computes its weight, or layers of different rules share one.
    """

    def __init__(self, model: nn.Module, rules: Mapping[str, str]) -> None:
        self._rules = rules
        self._unused = set(rules)
        self._owners: dict[int, list[_Owner]] = defaultdict(list)
        for path, module in model.named_modules() if rules else ():
            key = next((name for name in _names(path, module) if name in rules), None)
            if key is None:
                continue
            if _computes_weight(module):
                raise MethodError(
                    f"rules: expected a weight that layer {path!r} holds itself for the rule "
                    f"{rules[key]!r}, but it is computed: remove the parametrization, as "
                    "torch.nn.utils.parametrize.remove_parametrizations does"
                )
            for tensor in module.parameters(recurse=False):
                self._add(tensor, _Owner(*_span(tensor), path, key))

    def _add(self, tensor: Tensor, owner: "_Owner") -> None:
        same = self._owners[_storage(tensor)]
        for other in same:
            if other.start == owner.start and self._rules[other.key] != self._rules[owner.key]:
                raise MethodError(
                    f"rules: expected one rule for layers {other.path!r} and {owner.path!r}, which "
                    f"share a weight, got {self._rules[other.key]!r} and {self._rules[owner.key]!r}"
                )
        same.append(owner)

    def of(self, weight: Tensor) -> str | None:
        """The rule for an operator with this weight; None if none was chosen for its layer."""
        start, _ = _span(weight)
        found = None
        for owner in self._owners.get(_storage(weight), ()):
            if owner.start <= start < owner.stop:
                self._unused.discard(owner.key)
                found = self._rules[owner.key]
        return found

    def refuse_unused(self) -> None:
        """Refuses rules that were not applied.

        Raises:
            MethodError: There is one.
        """
        if self._unused:
            raise MethodError(
                "rules: expected convolutions or linear layers that the score reads, whose rule no "
                f"longer path replaces, got {', '.join(map(repr, sorted(self._unused)))}"
            )


def _names(path: str, module: nn.Module) -> Iterator[str]:
    """What a layer can be called, the most specific name first."""
    parts = path.split(".")
    yield from (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    for kind in type(module).__mro__:
        yield from (_full(kind), kind.__name__)


def _full(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _computes_weight(module: nn.Module) -> bool:
    """Whether a layer's weight is computed from others, as by weight normalization."""
    own = "weight" in module._parameters or "weight" in module._buffers
    return not own and isinstance(getattr(module, "weight", None), Tensor)


def _span(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor's memory begins and ends."""
    start = tensor.data_ptr()
    return start, start + tensor.numel() * tensor.element_size()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
