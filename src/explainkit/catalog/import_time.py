"""How much of the time that a plugin takes to load is the import of a library."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextmanager
def import_time(name: str) -> Iterator[Callable[[], float]]:
    """Measures the import of a top-level module while a block runs.

    Args:
        name: The module.

    Yields:
        A function that returns the seconds; 0 if the module was not imported, or had been before.

    Examples:
        >>> with import_time("sys") as seconds:
        ...     import sys
        >>> seconds()
        0.0
    """
    spent = 0.0

    class Finder(MetaPathFinder):
        def find_spec(
            self,
            fullname: str,
            path: Sequence[str] | None,  # noqa: ARG002 - the signature of importlib
            target: ModuleType | None = None,  # noqa: ARG002
        ) -> ModuleSpec | None:
            if fullname != name:
                return None
            sys.meta_path.remove(finder)
            spec = importlib.util.find_spec(name)
            if spec is None or spec.loader is None:
                return spec
            loader, run = spec.loader, spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                nonlocal spent
                del vars(loader)["exec_module"]
                start = time.perf_counter()
                try:
                    run(module)
                finally:
                    spent = time.perf_counter() - start

            vars(loader)["exec_module"] = exec_module
            return spec

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield lambda: spent
    finally:
        with suppress(ValueError):  # it removes itself when it is asked for the module
            sys.meta_path.remove(finder)
