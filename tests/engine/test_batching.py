"""Chunk sizes in closed form."""

import pytest
import torch
from torch import nn

from explainkit.engine import batching
from explainkit.engine.model import ScoreModel


@pytest.mark.parametrize(("cache", "with_backward", "without"), [(2**20, 2, 4), (2 * 1024, 2, 2)])
def test_a_forward_pass_holds_few_activations(cache, with_backward, without, monkeypatch):
    """Ten convolutions save 1 KiB each for the backward pass; without one, four exist at once."""
    model = nn.Sequential(*(nn.Conv2d(1, 1, 1, bias=False) for _ in range(10)))
    image = torch.zeros(1, 16, 16)
    monkeypatch.setattr(batching, "BUDGET", 20 * 1024)
    monkeypatch.setattr(batching, "CACHED", cache)
    monkeypatch.setattr(batching, "FEW", 1)
    assert batching.chunk_size(model, image) == with_backward
    assert batching.chunk_size(model, image, backward=False) == without
    assert batching.chunk_size(ScoreModel(model, batch_size=7), image, backward=False) == 7
