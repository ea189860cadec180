"""Small cooperative games as models, and their values by brute force."""

from itertools import combinations, permutations
from math import factorial

import torch
from torch import nn


class Game(nn.Module):
    """Scores of 2 classes that depend on every pixel together, smooth and far from linear."""

    def __init__(self, height, width, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        pixels = height * width
        self.first = nn.Parameter(torch.randn(pixels, 12, generator=generator) * 1.5 / pixels**0.5)
        self.second = nn.Parameter(torch.randn(12, 2, generator=generator))
        self.eval()

    def forward(self, x):
        x = x.flatten(1) @ self.first
        return (x + x.square()).tanh() @ self.second


def linear_model(shape=(3, 8, 8), classes=3):
    """A linear model, and its weights ``[classes, *shape]``."""
    channels, height, width = shape
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes)).eval()
    return model, model[1].weight.detach().reshape(classes, *shape)


def values_of(model, image, baseline, labels, label):
    """The score of every coalition of segments, by its set."""
    features = int(labels.max()) + 1
    found = {}
    for size in range(features + 1):
        for members in combinations(range(features), size):
            kept = torch.isin(labels, torch.tensor(members, dtype=torch.int64))
            mixed = torch.where(kept, image, baseline)
            found[frozenset(members)] = float(model(mixed[None]).detach()[0, label])
    return found


def shapley(values):
    """Exact Shapley values from the score of every coalition."""
    features = max(map(len, values))
    found = torch.zeros(features, dtype=torch.float64)
    for members, value in values.items():
        for j in range(features):
            if j not in members:
                weight = factorial(len(members)) * factorial(features - len(members) - 1)
                gain = values[members | {j}] - value
                found[j] += weight / factorial(features) * gain
    return found


def owen(values, groups):
    """Mean over the orders in which every (nested) group stands together."""
    features = max(map(len, values))
    found = torch.zeros(features, dtype=torch.float64)
    orders = [
        order
        for order in permutations(range(features))
        if all(
            max(order.index(j) for j in group) - min(order.index(j) for j in group) < len(group)
            for group in groups
        )
    ]
    for order in orders:
        for place, j in enumerate(order):
            before = frozenset(order[:place])
            found[j] += (values[before | {j}] - values[before]) / len(orders)
    return found


def segment_values(attribution, labels):
    """The value of each segment, which all of its pixels must have."""
    flat, numbers = attribution.flatten(), labels.flatten()
    found = torch.stack([flat[numbers == j][0] for j in range(int(labels.max()) + 1)])
    assert torch.equal(found[numbers], flat)
    return found
