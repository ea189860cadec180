"""Packages of models that tests use if they are installed."""

import importlib
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import third_party


def foreign(name):
    """Imports a package, or skips the module with a reason."""
    with suppress(ImportError):
        third_party.library("torchvision")  # others import it where they find it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"needs {name}: {error}", allow_module_level=True)
