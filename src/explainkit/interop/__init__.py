"""Exchange with other libraries of explanations; each module is imported on first use.

Examples:
    >>> import explainkit as ek
    >>> ek.interop.__name__
    'explainkit.interop'
"""

from importlib import import_module
from types import ModuleType

__all__ = ["captum", "quantus"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'explainkit.interop' has no attribute {name!r}")
    return import_module(f"explainkit.interop.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
