"""Registries, one per kind: qualified names and the objects that they name."""

import difflib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

from explainkit.catalog.synonyms import method_hint, metric_hint, plain
from explainkit.errors import PluginError, UnknownNameError, line


@contextmanager
def foreign_code() -> Iterator[None]:
    """Runs a plugin's code with stdout redirected to stderr, since stdout may carry JSON."""
    with redirect_stdout(sys.stderr):
        yield


def resolve(path: str, whose: str) -> object:
    """Imports the object that a ``"module:attribute"`` string names."""
    try:
        with foreign_code():
            found: object = pkgutil.resolve_name(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(f"{whose} as {path!r}, which can't be loaded: {line(error)}") from error
    return found


class Registry:
    """Qualified names and their objects.

    Every name is stored as ``plugin/name``. The bare name works if it is unique. Installing
    another package never changes the meaning of a name; it can only make a bare name ambiguous.

    Examples:
        >>> methods = Registry("method")
        >>> methods.add("explainkit", "saliency", "explainkit.methods.gradient:Saliency")
        >>> methods.qualify("saliency")
        'explainkit/saliency'
    """

    def __init__(
        self,
        kind: str,
        describe: Callable[[str], str] = str,
        broken: Callable[[str], str] = lambda _: "",
        accepts: Callable[[object], bool] = lambda _: True,
    ) -> None:
        """Creates an empty registry.

        Errors name its kind, the version of a plugin (``describe``), and why one is ``broken``.
        What a string names is an error unless the registry ``accepts`` it.
        """
        self.kind = kind
        self._describe = describe
        self._broken = broken
        self._accepts = accepts
        self._entries: dict[str, object] = {}

    def add(self, plugin: str, name: str, value: object) -> None:
        """Stores an object, or the ``"module:attribute"`` string that names it."""
        self._entries[f"{plugin}/{name}"] = value

    def names(self) -> list[str]:
        """All qualified names, sorted."""
        return sorted(self._entries)

    def qualify(self, name: str) -> str:
        """The qualified form of a name; case, hyphens and underscores don't matter."""
        candidates = self.candidates(name)
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UnknownNameError(
                f"{self.kind} {name!r} is ambiguous: use {' or '.join(map(repr, candidates))}"
            )
        raise UnknownNameError(
            f"no {self.kind} is named {name!r}: {self.hint(name)} "
            f"'explainkit list {self.kind}s' shows all"
        )

    def candidates(self, name: str) -> list[str]:
        """The qualified names that a name may stand for."""
        if name in self._entries:
            return [name]
        plugin, slash, _ = name.partition("/")
        if slash and (reason := self._broken(plugin)):
            raise PluginError(f"{self.kind} {name!r} can't be used: plugin {reason}")
        exact = [full for full in self.names() if full.partition("/")[2] == name]
        spelled = plain(name)
        return exact or [
            full for full in self.names() if spelled in {plain(full), plain(full.partition("/")[2])}
        ]

    def hint(self, name: str) -> str:
        """What may have been meant by an unknown name, for error messages."""
        known = {"method": method_hint, "metric": metric_hint}.get(self.kind)
        if known and (ours := known(name)):
            return f"here it is called {ours};"
        bare = [full.partition("/")[2] for full in self.names()]
        near = difflib.get_close_matches(name, [*self.names(), *bare], n=3)
        return (
            f"did you mean {' or '.join(map(repr, near))}?" if near else "there is no similar name;"
        )

    def get(self, name: str) -> object:
        """The object that a name stands for; a string is resolved on first use."""
        full = self.qualify(name)
        value = self._entries[full]
        if isinstance(value, str):
            plugin = self._describe(full.partition("/")[0])
            path, whose = value, f"plugin {plugin} offers {self.kind} {full!r}"
            value = resolve(path, whose)
            if not self._accepts(value):
                raise PluginError(f"{whose} as {path!r}, which is not a {self.kind}")
            self._entries[full] = value
        return value

    def name_of(self, value: type) -> str | None:
        """The qualified name of a registered class, or None; imports nothing."""
        path = f"{value.__module__}:{value.__qualname__}"
        return next((name for name, held in self._entries.items() if held in (value, path)), None)
