"""Models from Python code: ``path/to/file.py:name`` and ``package.module:name``."""

import copy
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from explainkit.adapters.black_box import BlackBox
from explainkit.errors import ModelError, ModelLookupError, line


def is_python(source: str) -> bool:
    """Whether a source is Python code with a name in it.

    Examples:
        >>> [is_python(s) for s in ("nets/small.py:make", "nets.small:make", "fer_hw3/cnn")]
        [True, True, False]
    """
    where, colon, name = source.rpartition(":")
    return bool(colon) and (where.endswith(".py") or _is_dotted(where)) and _is_dotted(name)


def load(source: str) -> nn.Module:
    """The module that a name stands for, or the one that a function without arguments returns.

    A function of one argument is a model itself: images to scores, on numpy arrays. A module that
    exists already is copied, so that it stays as it is. While the code runs, its folder and the
    current one are on the path, as they are for a script and for ``python -m``.

    Raises:
        ModelError: The code can't be run, has no such name, or returns something else.
    """
    where, _, name = source.rpartition(":")
    try:
        with _importable(*([Path(where).parent] if where.endswith(".py") else []), Path()):
            module = _from_file(Path(where)) if where.endswith(".py") else _imported(where)
            found = _attribute(module, name, source)
            if isinstance(found, nn.Module):
                return copy.deepcopy(found)
            made = found() if _takes(found, 0) else found
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{source} fails: {line(error)}") from error
    if isinstance(made, nn.Module):
        return made
    if callable(made) and not isinstance(made, type) and _takes(made, 1):
        return BlackBox(made)
    raise ModelError(
        f"expected from {source} a torch.nn.Module, a function without arguments that returns one, "
        f"or a function from a numpy array of images to scores, got {_described(found, made)}"
    )


def _from_file(path: Path) -> ModuleType:
    """Runs a file as a module of its own."""
    if not path.is_file():
        raise ModelLookupError(f"expected a Python file, found nothing at {path}")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look for a class's module there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModelLookupError(
            f"expected a module {name!r}, found none: run in the folder that has it, or give its "
            f"file, {name.replace('.', '/')}.py:…"
        ) from error


def _attribute(module: ModuleType, name: str, source: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            own = [
                key
                for key, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", None) == module.__name__
            ]
            raise ModelLookupError(
                f"expected {name!r} in {source.rpartition(':')[0]}, found "
                f"{', '.join(own[:8]) or 'no functions or classes'}"
            )
        found = getattr(found, part)
    return found


def _takes(function: Any, count: int) -> bool:
    """Whether something can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _described(found: Any, made: Any) -> str:
    if made is not found:
        return f"a function that returns {type(made).__name__}"
    try:
        return f"{found.__name__}{inspect.signature(found)}"
    except (AttributeError, TypeError, ValueError):
        return type(found).__name__


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """Folders at the head of the path, which is as before afterwards."""
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
