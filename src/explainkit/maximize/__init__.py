"""Activation maximisation: pictures that a unit, a layer or a class answers to most."""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Importing a maximiser binds this package to ``explainkit.maximize``, a function's name."""

    def __call__(self, *args: Any, **params: Any) -> Any:
        from explainkit.api import maximize

        return maximize(*args, **params)


sys.modules[__name__].__class__ = _CallablePackage
