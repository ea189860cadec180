"""Fixtures of the tests of methods."""

import pytest
import torch
from torch import nn


@pytest.fixture
def linear():
    """A linear model, two images, and the weights of each class as an image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4 * 5 * 7, 3)).eval()
    return model, torch.randn(2, 4, 5, 7), model[1].weight.detach().reshape(3, 4, 5, 7)
