"""One registry per kind: it answers "give me this name"."""

import difflib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

from explainkit.catalog.synonyms import method_hint, plain
from explainkit.errors import PluginError, UnknownNameError


def line(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@contextmanager
def foreign_code() -> Iterator[None]:
    """Runs a plugin's code; what it prints goes to stderr, for stdout may be a machine's."""
    with redirect_stdout(sys.stderr):
        yield


def resolve(path: str, whose: str) -> object:
    """What a ``"module:attribute"`` string leads to.

    Raises:
        PluginError: Its module can't be imported or lacks the attribute.
    """
    try:
        with foreign_code():
            found: object = pkgutil.resolve_name(path)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{whose} as {path!r}, which can't be loaded: {line(error)}") from error
    return found


class Registry:
    """Qualified names and what they stand for.

    Every name is stored as ``plugin/name``. The bare name works while it is unique; installing
    another package never changes what a name means, it can only make a bare name ambiguous.

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
    ) -> None:
        """Makes an empty registry.

        Args:
            kind: What it holds, in the singular, for error messages.
            describe: Gives a plugin's distribution and version, for error messages.
            broken: Gives the reason why a plugin is broken, or "".
        """
        self.kind = kind
        self._describe = describe
        self._broken = broken
        self._entries: dict[str, object] = {}

    def add(self, plugin: str, name: str, value: object) -> None:
        """Stores an object, or the ``"module:attribute"`` string that leads to it."""
        self._entries[f"{plugin}/{name}"] = value

    def names(self) -> list[str]:
        """All qualified names, sorted."""
        return sorted(self._entries)

    def qualify(self, name: str) -> str:
        """The qualified form of a name, whatever its capitals, hyphens and underscores.

        Raises:
            UnknownNameError: No such name, or several plugins have it.
            PluginError: The name's plugin is broken.
        """
        if name in self._entries:
            return name
        plugin, slash, _ = name.partition("/")
        if slash and (reason := self._broken(plugin)):
            raise PluginError(f"{self.kind} {name!r} can't be used: plugin {reason}")
        candidates = [full for full in self.names() if full.partition("/")[2] == name]
        if not candidates:
            spelled = plain(name)
            candidates = [
                full
                for full in self.names()
                if spelled in {plain(full), plain(full.partition("/")[2])}
            ]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UnknownNameError(
                f"{self.kind} {name!r} is ambiguous: say {' or '.join(map(repr, candidates))}"
            )
        bare = [full.partition("/")[2] for full in self.names()]
        near = difflib.get_close_matches(name, [*self.names(), *bare], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "there is none like it;"
        if self.kind == "method" and (ours := method_hint(name)):
            hint = f"here it is called {ours};"
        raise UnknownNameError(
            f"no {self.kind} is named {name!r}: {hint} 'explainkit list {self.kind}s' shows all"
        )

    def get(self, name: str) -> object:
        """What a name stands for; a string is resolved at its first use.

        Raises:
            UnknownNameError: No such name, or several plugins have it.
            PluginError: Its module can't be imported or lacks the attribute.
        """
        full = self.qualify(name)
        value = self._entries[full]
        if isinstance(value, str):
            plugin = self._describe(full.partition("/")[0])
            value = resolve(value, f"plugin {plugin} offers {self.kind} {full!r}")
            self._entries[full] = value
        return value

    def name_of(self, value: type) -> str | None:
        """The qualified name under which a class is registered, without importing the others."""
        path = f"{value.__module__}:{value.__qualname__}"
        return next((name for name, held in self._entries.items() if held in (value, path)), None)
