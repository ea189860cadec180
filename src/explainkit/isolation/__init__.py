"""Isolation: restores the caller's model, random generators and modes after every call."""

from explainkit.isolation.model import preserve_generators, preserve_model
from explainkit.isolation.process import (
    preserve_process,
    uncompiled,
    without_autocast,
    without_autocast_warning,
)

__all__ = [
    "preserve_generators",
    "preserve_model",
    "preserve_process",
    "uncompiled",
    "without_autocast",
    "without_autocast_warning",
]
