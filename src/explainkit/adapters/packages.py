"""Packages of models: imported on first use, and their failures as one line with a remedy."""

import difflib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from explainkit.errors import ModelError, UnknownNameError, line

EXTRAS = {
    "onnxruntime": "onnx",
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "transformers",
}
"""Package to the extra of this distribution that installs it."""


UNREACHABLE = (
    "check the connection, or give its weights by weights=FILE; pretrained=False has random ones"
)
"""What to do if weights can't be downloaded."""


def package(name: str) -> Any:
    """Imports an optional package.

    Raises:
        ModelError: It is not installed, or its import fails.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise ModelError(f"{name} needs another package: {line(error)}") from error
        raise ModelError(
            f"expected the package {name}, which is not installed: "
            f"pip install 'explainkit-vision[{EXTRAS[error.name]}]'"
        ) from error
    except Exception as error:
        raise ModelError(
            f"the package {name} is installed, but can't be imported ({line(error)}): install the "
            "release that was built for this version of torch"
        ) from error


def installed_version(name: str) -> str | None:
    """The version of a package; None if it is not installed. Imports nothing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@contextmanager
def loading(what: str, remedy: str) -> Iterator[None]:
    """Turns a package's error into one line with a remedy.

    Packages and the network raise errors of any class while weights are downloaded and read.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{what} can't be loaded ({line(error)}): {remedy}") from error


def unknown(what: str, name: str, known: Sequence[str]) -> UnknownNameError:
    """The error about a name that a package does not have, with similar ones."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {len(known)}"
    return UnknownNameError(f"{what} has no model {name!r}: {hint}")
