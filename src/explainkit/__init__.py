"""Visual explanations of PyTorch image models.

Importing this package imports neither torch nor any plugin; public names are loaded on first use.

Examples:
    >>> import explainkit as ek
    >>> "explainkit/saliency" in ek.list_methods()
    True
"""

from importlib import import_module
from typing import TYPE_CHECKING

from explainkit.catalog.hookspecs import hookimpl
from explainkit.errors import (
    DatasetError,
    ExplainkitError,
    ExplainkitWarning,
    GalleryError,
    InputError,
    MethodError,
    ModelError,
    ModelLookupError,
    PluginError,
    RenderError,
    StorageError,
    TargetError,
    UnknownNameError,
)

if TYPE_CHECKING:
    from explainkit import interop
    from explainkit.adapters.adapt import adapt
    from explainkit.adapters.images import ImageBatch, load_images
    from explainkit.api import explain, maximize
    from explainkit.catalog.factories import (
        list_datasets,
        list_maximizers,
        list_methods,
        list_metrics,
        list_models,
        load_dataset,
    )
    from explainkit.catalog.models import load_model
    from explainkit.concept_discovery.discover import concepts
    from explainkit.concept_discovery.tcav import tcav
    from explainkit.evaluation.evaluate import evaluate
    from explainkit.interfaces import (
        Attribution,
        Dataset,
        DatasetSpec,
        Maximizer,
        Method,
        Metric,
        ModelSpec,
    )
    from explainkit.jobs.batch import batch
    from explainkit.jobs.store import Store
    from explainkit.metrics.scorecard import scorecard
    from explainkit.results.concepts import Concepts
    from explainkit.results.evaluation import Evaluation
    from explainkit.results.explanation import Explanation, Explanations
    from explainkit.results.scorecard import Scorecard
    from explainkit.results.tcav import TCAV
    from explainkit.results.visualization import Visualization

__version__ = "0.1.0"

__all__ = [
    "TCAV",
    "Attribution",
    "Concepts",
    "Dataset",
    "DatasetError",
    "DatasetSpec",
    "Evaluation",
    "ExplainkitError",
    "ExplainkitWarning",
    "Explanation",
    "Explanations",
    "GalleryError",
    "ImageBatch",
    "InputError",
    "Maximizer",
    "Method",
    "MethodError",
    "Metric",
    "ModelError",
    "ModelLookupError",
    "ModelSpec",
    "PluginError",
    "RenderError",
    "Scorecard",
    "StorageError",
    "Store",
    "TargetError",
    "UnknownNameError",
    "Visualization",
    "__version__",
    "adapt",
    "batch",
    "concepts",
    "evaluate",
    "explain",
    "hookimpl",
    "interop",
    "list_datasets",
    "list_maximizers",
    "list_methods",
    "list_metrics",
    "list_models",
    "load_dataset",
    "load_images",
    "load_model",
    "maximize",
    "scorecard",
    "tcav",
]

_LAZY = {
    name: f"explainkit.{module}"
    for module, names in {
        "adapters.adapt": "adapt",
        "adapters.images": "ImageBatch load_images",
        "api": "explain maximize",
        "catalog.factories": "list_datasets list_maximizers list_methods list_metrics list_models "
        "load_dataset",
        "catalog.models": "load_model",
        "concept_discovery.discover": "concepts",
        "concept_discovery.tcav": "tcav",
        "evaluation.evaluate": "evaluate",
        "interfaces": "Attribution Dataset DatasetSpec Maximizer Method Metric ModelSpec",
        "jobs.batch": "batch",
        "jobs.store": "Store",
        "metrics.scorecard": "scorecard",
        "results.concepts": "Concepts",
        "results.evaluation": "Evaluation",
        "results.explanation": "Explanation Explanations",
        "results.scorecard": "Scorecard",
        "results.tcav": "TCAV",
        "results.visualization": "Visualization",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> object:
    if name == "interop":
        return import_module("explainkit.interop")
    if name not in _LAZY:
        from explainkit.catalog.builtin import methods_hint

        raise AttributeError(f"module 'explainkit' has no attribute {name!r}{methods_hint(name)}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
