"""Metrics of saliency maps, and the scorecard that judges them.

Every built-in metric can be imported from here; its module is loaded only then.

Examples:
    >>> import torch
    >>> from explainkit.metrics import gini
    >>> gini(torch.ones(1, 1, 4, 4)).item()
    0.0
"""

import pkgutil
from typing import TYPE_CHECKING

from explainkit.catalog.builtin import explainkit_metrics
from explainkit.catalog.synonyms import metric_hint

if TYPE_CHECKING:
    from explainkit.metrics.agreement import completeness as completeness
    from explainkit.metrics.agreement import faithfulness_correlation as faithfulness_correlation
    from explainkit.metrics.agreement import infidelity as infidelity
    from explainkit.metrics.agreement import single_deletion as single_deletion
    from explainkit.metrics.complexity import entropy as entropy
    from explainkit.metrics.complexity import gini as gini
    from explainkit.metrics.curves import deletion as deletion
    from explainkit.metrics.curves import insertion as insertion
    from explainkit.metrics.curves import road as road
    from explainkit.metrics.curves import srg as srg
    from explainkit.metrics.localization import area_share as area_share
    from explainkit.metrics.localization import auc as auc
    from explainkit.metrics.localization import mass_accuracy as mass_accuracy
    from explainkit.metrics.localization import pointing_game as pointing_game
    from explainkit.metrics.localization import rank_accuracy as rank_accuracy
    from explainkit.metrics.randomization import mprt as mprt
    from explainkit.metrics.randomization import random_logit as random_logit
    from explainkit.metrics.robustness import max_sensitivity as max_sensitivity
    from explainkit.metrics.robustness import relative_output_stability as relative_output_stability


def __getattr__(name: str) -> object:
    paths = explainkit_metrics()
    if name not in paths:
        ours = metric_hint(name)
        hint = f": here it is called {ours}" if ours else ""
        raise AttributeError(f"module 'explainkit.metrics' has no attribute {name!r}{hint}")
    return pkgutil.resolve_name(paths[name])


def __dir__() -> list[str]:
    return sorted(explainkit_metrics())
