"""Hyper-parameters as figures and reports show them."""

from collections.abc import Mapping
from typing import Any

import torch

from explainkit.catalog.factories import default_params
from explainkit.errors import ExplainkitError


def parameters(params: Mapping[str, Any]) -> str:
    """Hyper-parameters on one line; those of nested methods in parentheses."""
    return ", ".join(f"{key}={_short(value)}" for key, value in params.items())


def changed_parameters(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters that differ from the method's defaults; all if it isn't registered.

    Examples:
        >>> changed_parameters("explainkit/smoothgrad", {"samples": 7, "seed": 0})
        {'samples': 7}
    """
    try:
        defaults = default_params(method)
    except ExplainkitError:
        return dict(params)
    found = {}
    for name, value in params.items():
        if name in defaults and _short(value) == _short(defaults[name]):
            continue
        if isinstance(value, Mapping) and "method" in value:
            own = {key: inner for key, inner in value.items() if key != "method"}
            value = {"method": value["method"], **changed_parameters(value["method"], own)}
        found[name] = value
    return found


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, Mapping) and "method" in value:
        own = parameters({name: inner for name, inner in value.items() if name != "method"})
        return str(value["method"]).rpartition("/")[2] + (f"({own})" if own else "")
    return str(value)
