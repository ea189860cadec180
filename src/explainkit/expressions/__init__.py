"""Targets and objectives: a small immutable algebra over a model's outputs and activations.

An expression is one score per image. Its terms are logits, activations of inner layers or the image
itself; ``+ - * /`` and numbers combine them. ``str`` gives its text form, which `parse` reads
without evaluating code.

Examples:
    >>> from explainkit.expressions import channel, logit, parse, tv
    >>> objective = channel("features.0", 7) - 0.5 * tv()
    >>> str(objective)
    'channel("features.0", 7) - 0.5 * tv()'
    >>> parse(str(objective)) == objective
    True
    >>> sorted(objective.layers), (logit("fear") - logit("sad")).uses_logits
    (['features.0'], True)
"""

from explainkit.expressions.algebra import Deferred, Expression, Scope, evaluate_each
from explainkit.expressions.terms import (
    AllLogOdds,
    Alpha,
    Caricature,
    Channel,
    Channels,
    Classes,
    Direction,
    Diversity,
    Layer,
    Logit,
    LogOdds,
    Neuron,
    Norm,
    Tv,
)
from explainkit.expressions.text import parse

# the names of the terms in expressions, in Python and in text
logit = class_logit = Logit
channel, neuron, direction, layer = Channel, Neuron, Direction, Layer
caricature, diversity = Caricature, Diversity
alpha, norm, tv = Alpha, Norm, Tv
log_odds, all_log_odds = LogOdds, AllLogOdds
channels, classes = Channels, Classes

__all__ = [
    "Deferred",
    "Expression",
    "Scope",
    "all_log_odds",
    "alpha",
    "caricature",
    "channel",
    "channels",
    "class_logit",
    "classes",
    "direction",
    "diversity",
    "evaluate_each",
    "layer",
    "log_odds",
    "logit",
    "neuron",
    "norm",
    "parse",
    "tv",
]  # fmt: skip
