"""Targets and objectives: a small immutable algebra over a model's outputs and activations.

An expression is one score per image. Its terms are logits, other outputs of the model, activations
of inner layers or the image itself; ``+ - * /`` and numbers combine them. ``str`` gives its text
form, which `parse` reads without evaluating code.

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

from explainkit.expressions import boxes, embeddings, masks, outputs, terms
from explainkit.expressions.algebra import Expression as Expression
from explainkit.expressions.algebra import Rival as Rival
from explainkit.expressions.algebra import evaluate_each as evaluate_each
from explainkit.expressions.scope import Deferred as Deferred
from explainkit.expressions.scope import Scope as Scope
from explainkit.expressions.text import parse as parse

# the names of the terms in expressions, in Python and in text
logit = class_logit = terms.Logit
channel, neuron, direction, layer = terms.Channel, terms.Neuron, terms.Direction, terms.Layer
caricature, diversity = terms.Caricature, terms.Diversity
alpha, norm, tv = terms.Alpha, terms.Norm, terms.Tv
log_odds, all_log_odds = terms.LogOdds, terms.AllLogOdds
channels, classes = terms.Channels, terms.Classes
output, mask = outputs.Output, masks.Mask
box_score, box_coordinate = boxes.BoxScore, boxes.BoxCoordinate
feature, similarity = embeddings.Feature, embeddings.Similarity
