"""Packages of models that tests use if they are installed."""

import importlib
import sys
import warnings
from pathlib import Path

import pytest
import torch

FOLDER = Path(sys.prefix) / "networks"
"""Where `make networks` installs timm and torchvision, apart from what tests see otherwise."""


def foreign(name):
    """Imports a package, or skips the module with a reason."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _declare_boxes()
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"needs {name}: {error}", allow_module_level=True)


def _declare_boxes():
    """Declares two operators of torchvision, without which its wheel for another torch fails."""
    if hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        for module in [key for key in sys.modules if key.startswith("torchvision")]:
            del sys.modules[module]
        boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", boxes)
