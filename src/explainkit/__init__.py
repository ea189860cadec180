"""Visual explanations of PyTorch image models.

Importing this package imports neither torch nor any plugin: public names load on first use.

Examples:
    >>> import explainkit as ek
    >>> "saliency" in [name.rpartition("/")[2] for name in ek.methods()]
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING

from explainkit.catalog.hookspecs import hookimpl as hookimpl
from explainkit.errors import ExplainkitError as ExplainkitError

if TYPE_CHECKING:
    from explainkit.api import (
        explain as explain,
    )
    from explainkit.api import (
        maximize as maximize,
    )
    from explainkit.catalog.factories import (
        datasets as datasets,
    )
    from explainkit.catalog.factories import (
        load_dataset as load_dataset,
    )
    from explainkit.catalog.factories import (
        load_model as load_model,
    )
    from explainkit.catalog.factories import (
        maximizers as maximizers,
    )
    from explainkit.catalog.factories import (
        methods as methods,
    )
    from explainkit.catalog.factories import (
        models as models,
    )
    from explainkit.results.explanation import Explanation as Explanation
    from explainkit.results.visualization import Visualization as Visualization

__version__ = "0.1.0"

_LAZY = {
    "Explanation": "explainkit.results.explanation",
    "Visualization": "explainkit.results.visualization",
    "datasets": "explainkit.catalog.factories",
    "explain": "explainkit.api",
    "load_dataset": "explainkit.catalog.factories",
    "load_model": "explainkit.catalog.factories",
    "maximize": "explainkit.api",
    "maximizers": "explainkit.catalog.factories",
    "methods": "explainkit.catalog.factories",
    "models": "explainkit.catalog.factories",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'explainkit' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
