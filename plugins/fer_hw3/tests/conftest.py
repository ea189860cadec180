"""A small FER2013, and the real one if available."""

import os
from pathlib import Path

import numpy as np
import pytest
from forms import COUNT

from explainkit_fer_hw3.faces import draw


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Nothing is cached in the user's own folder."""
    monkeypatch.setenv("EXPLAINKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def images():
    """Pixels uint8 [28, 48, 48] and labels [28]."""
    faces = draw(np.arange(COUNT) % 7, seed=11)
    return faces.pixels[:, 0], faces.labels


@pytest.fixture(scope="session")
def fer2013():
    """The path of the real FER2013."""
    path = os.environ.get("EXPLAINKIT_FER2013")
    if not path:
        pytest.skip("EXPLAINKIT_FER2013 names no images")
    return Path(path)
