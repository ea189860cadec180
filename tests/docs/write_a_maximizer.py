"""Snippets of docs/how-to/write-a-maximizer.md; run by tests/test_docs.py."""

# --8<-- [start:whole]
from dataclasses import dataclass

import torch

import explainkit as ek
from explainkit.activation_maximization.problem import OptimizedImages, Problem


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Random search: accepts a change that raises the score. Needs no gradient."""

    steps: int = 256
    size: float = 0.1

    def __call__(self, problem: Problem) -> OptimizedImages:
        images = 0.1 * problem.normal(*problem.shape)
        with torch.no_grad():
            best = first = problem.score(images, images)
            trace = []
            for _ in range(self.steps):
                changed = images + self.size * problem.normal(*problem.shape)
                score = problem.score(changed, changed)
                better = score > best
                images = torch.where(better[:, None, None, None], changed, images)
                best = torch.where(better, score, best)
                trace.append(best)
                problem.progress()
        frames = images.new_zeros(0, *images.shape)
        return OptimizedImages(images, torch.stack(trace), best > first, frames)


# --8<-- [end:whole]

# --8<-- [start:use]
net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 5), torch.nn.ReLU()).eval()
found = ek.maximize(net, 'channels("0")', shape=(1, 12, 12), maximizer=RandomSearch(), steps=64)
found.score  # each unit's objective at its image
# --8<-- [end:use]
assert bool((found.trace[-1] >= found.trace[0]).all())

# --8<-- [start:part]
from explainkit.activation_maximization.optimize import Gradient
from explainkit.activation_maximization.parameterization import Pixels, PixelSpace


@dataclass(frozen=True, kw_only=True)
class Coarse(Gradient):
    """Gradient ascent on an image of half the size, with the usual transforms."""

    def parts(self, problem):
        return _Half(), PixelSpace.of(problem)


class _Half(Pixels):
    def start(self, problem, init_std):
        channels, height, width = problem.shape
        return [init_std * problem.normal(channels, height // 2, width // 2)]

    def raw(self, parameters):
        return torch.nn.functional.interpolate(parameters[0], scale_factor=2.0)


# --8<-- [end:part]
coarse = ek.maximize(net, 'channel("0", 1)', shape=(1, 12, 12), maximizer=Coarse(), steps=16)
assert coarse.images.shape == (1, 1, 12, 12)
