"""The plugin's hooks. They return strings, so importing this module imports no torch."""

from collections.abc import Mapping
from pathlib import Path

from explainkit import hookimpl


@hookimpl
def explainkit_datasets() -> Mapping[str, str]:
    """FER2013, and generated synthetic faces."""
    return {
        "fer2013": "explainkit_fer_hw3.data:FER2013",
        "synthetic": "explainkit_fer_hw3.data:SYNTHETIC",
    }


@hookimpl
def explainkit_models() -> Mapping[str, str]:
    """The study's two networks."""
    return {"cnn": "explainkit_fer_hw3.models:CNN", "dnn": "explainkit_fer_hw3.models:DNN"}


@hookimpl
def explainkit_commands() -> str:
    """The study's commands, at ``explainkit run fer_hw3``."""
    return "explainkit_fer_hw3.commands:app"


@hookimpl
def explainkit_gallery() -> Path:
    """Pages about the faces, the networks and their attribution maps."""
    return Path(__file__).parent / "gallery"
