"""Visual explanations of PyTorch image models.

Importing this package imports neither torch nor any plugin: public names load on first use.

Examples:
    >>> import explainkit as ek
    >>> "saliency" in [name.rpartition("/")[2] for name in ek.methods()]
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING

from explainkit.errors import ExplainkitError as ExplainkitError
from explainkit.hookspecs import hookimpl as hookimpl

if TYPE_CHECKING:
    from explainkit.api import (
        explain as explain,
    )
    from explainkit.api import (
        maximize as maximize,
    )
    from explainkit.loading import (
        datasets as datasets,
    )
    from explainkit.loading import (
        load_dataset as load_dataset,
    )
    from explainkit.loading import (
        load_model as load_model,
    )
    from explainkit.loading import (
        maximizers as maximizers,
    )
    from explainkit.loading import (
        methods as methods,
    )
    from explainkit.loading import (
        models as models,
    )
    from explainkit.types import Explanation as Explanation
    from explainkit.visualization import Visualization as Visualization

__version__ = "0.1.0"

_LAZY = {
    "Explanation": "explainkit.types",
    "Visualization": "explainkit.visualization",
    "datasets": "explainkit.loading",
    "explain": "explainkit.api",
    "load_dataset": "explainkit.loading",
    "load_model": "explainkit.loading",
    "maximize": "explainkit.api",
    "maximizers": "explainkit.loading",
    "methods": "explainkit.loading",
    "models": "explainkit.loading",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'explainkit' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
