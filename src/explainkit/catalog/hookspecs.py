"""The hook specifications for plugins, and the two pluggy markers.

Hooks take no arguments and return a mapping from short names to objects or to
``"module:attribute"`` strings, which are resolved on first use. Strings keep the import of torch
out of ``explainkit --help``.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    import typer

    from explainkit.interfaces import DatasetSpec, Maximizer, Method, Metric, ModelSpec

PROJECT = "explainkit"
"""The pluggy project name and the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def explainkit_methods() -> "Mapping[str, type[Method] | str]":  # type: ignore[empty-body]
    """Saliency methods, e.g. ``{"my_method": "my_package:MyMethod"}``."""


@hookspec
def explainkit_maximizers() -> "Mapping[str, type[Maximizer] | str]":  # type: ignore[empty-body]
    """Maximizers, e.g. ``{"mine": "my_package:MyMaximizer"}``."""


@hookspec
def explainkit_metrics() -> "Mapping[str, Metric | str]":  # type: ignore[empty-body]
    """Measures of saliency maps: functions, e.g. ``{"mine": "my_package:my_metric"}``."""


@hookspec
def explainkit_models() -> "Mapping[str, ModelSpec | str]":  # type: ignore[empty-body]
    """Models, with their weights, e.g. ``{"cnn": "my_package.models:CNN"}``."""


@hookspec
def explainkit_datasets() -> "Mapping[str, DatasetSpec | str]":  # type: ignore[empty-body]
    """Data sets, e.g. ``{"faces": "my_package.data:FACES"}``."""


@hookspec
def explainkit_commands() -> "typer.Typer | str":  # type: ignore[empty-body]
    """A Typer app, mounted at ``explainkit run <plugin>``, e.g. ``"my_package.commands:app"``."""


@hookspec
def explainkit_gallery() -> "Path":  # type: ignore[empty-body]
    """A folder of gallery scripts, e.g. ``Path(__file__).parent / "gallery"``."""
