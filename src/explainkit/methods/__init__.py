"""Saliency methods. Each is a frozen dataclass that is called with a model, images and targets."""

import sys
from types import ModuleType


class _CallablePackage(ModuleType):
    """Importing a method binds this package to ``explainkit.methods``, a public function's name."""

    def __call__(self) -> dict[str, str]:
        from explainkit.catalog.factories import methods

        return methods()


sys.modules[__name__].__class__ = _CallablePackage
