"""The Python code that reproduces an explanation."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from explainkit.results.explanation import Explanation


def call(one: "Explanation") -> str:
    """Python code that computes an explanation again, given the same ``images``.

    A model that no name loads, and tensors among the parameters, appear as variables to fill in.

    Examples:
        >>> import torch, explainkit as ek
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> e = ek.explain(net, torch.rand(1, 1, 4, 4), 2, "input_x_gradient", seed=5)
        >>> print(call(e))
        import explainkit as ek
        <BLANKLINE>
        # model: torch.nn.modules.container.Sequential
        explanation = ek.explain(
            model,
            images,
            2,
            'explainkit/input_x_gradient',
            seed=5,
        )
    """
    imports: dict[str, None] = {}
    # a name that load_model takes, of a plugin's model or of a source; with weights, it has a space
    registered = bool({"/", ":"} & set(one.model)) and " " not in one.model
    seeds = set(_seeds(one.params))
    if len(seeds) > 1:  # the call's one seed would override the others
        arguments = [_expression(one.method, one.params, imports, seeds=True)]
        parameters = []
    elif "/" in one.method:
        arguments = [repr(one.method)]
        parameters = [f"{name}={_value(value, imports)}" for name, value in _own(one.params)]
    else:
        arguments = [_expression(one.method, one.params, imports)]
        parameters = []
    targets = one.target.tolist()
    target = repr(targets[0])
    predicted = one.probabilities
    if one.expression is not None and one.expression.startswith("function "):
        target = "target"
    elif (
        len(set(targets)) > 1 and predicted is not None and predicted.argmax(1).tolist() == targets
    ):
        target = "None"
    elif len(set(targets)) > 1:
        target = f"torch.tensor({targets})"
        imports["import torch"] = None
    elif one.expression is not None:
        target = repr(one.expression)
    elif one.class_names and one.class_names.count(name := one.class_names[targets[0]]) == 1:
        target = repr(name)
    arguments = [repr(one.model) if registered else "model", "images", target, *arguments]
    # a method that uses a layer, such as conductance, has it among its parameters
    arguments += [f"at={one.at!r}"] if one.at and one.layer is None else []
    arguments += [f"output={one.output!r}"] if one.output is not None else []
    arguments += [f"task={one.task!r}"] if one.task in {"multilabel", "regression"} else []
    arguments += [f"precision={one.precision!r}"] if one.precision else []
    arguments += [f"seed={one.seed}"] if one.seed and len(seeds) < 2 else []
    arguments += parameters
    return "\n".join(
        [
            "import explainkit as ek",
            *sorted(imports),
            "",
            *([] if registered else [f"# model: {one.model}"]),
            *([f"# target: {one.expression}"] if target == "target" else []),
            "explanation = ek.explain(",
            *(f"    {argument}," for argument in arguments),
            ")",
        ]
    )


def _seeds(params: Mapping[str, Any]) -> Iterator[int]:
    """The seeds of a method and of its nested methods."""
    for name, value in params.items():
        if isinstance(value, Mapping) and "method" in value:
            yield from _seeds(value)
        elif name == "seed":
            yield value


def _own(params: Mapping[str, Any], *, seeds: bool = False) -> list[tuple[str, Any]]:
    """A method's parameters without its name and, unless ``seeds``, without its seed."""
    without = {"method"} if seeds else {"method", "seed"}
    return [(name, value) for name, value in params.items() if name not in without]


def _value(value: Any, imports: dict[str, None], *, seeds: bool = False) -> str:
    if isinstance(value, Mapping) and "method" in value:
        return _expression(value["method"], value, imports, seeds=seeds)
    return "tensor" if isinstance(value, Tensor) else repr(value)


def _expression(
    name: str, params: Mapping[str, Any], imports: dict[str, None], *, seeds: bool = False
) -> str:
    """A Python expression that builds a method."""
    own = _own(params, seeds=seeds)
    fields = [f"{field}={_value(value, imports, seeds=seeds)}" for field, value in own]
    if "/" in name:
        imports["from explainkit.catalog.factories import load_method"] = None
        return f"load_method({', '.join([repr(name), *fields])})"
    module, _, kind = name.rpartition(".")
    imports[f"from {module} import {kind}"] = None
    return f"{kind}({', '.join(fields)})"
