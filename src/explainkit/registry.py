"""One registry per kind: it answers "give me this name"."""

import difflib
import pkgutil
from collections.abc import Callable

from explainkit.errors import PluginError, UnknownNameError


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

    def __init__(self, kind: str, describe: Callable[[str], str] = str) -> None:
        """Makes an empty registry.

        Args:
            kind: What it holds, in the singular, for error messages.
            describe: Gives a plugin's distribution and version, for error messages.
        """
        self.kind = kind
        self._describe = describe
        self._entries: dict[str, object] = {}

    def add(self, plugin: str, name: str, value: object) -> None:
        """Stores an object, or the ``"module:attribute"`` string that leads to it."""
        self._entries[f"{plugin}/{name}"] = value

    def names(self) -> list[str]:
        """All qualified names, sorted."""
        return sorted(self._entries)

    def qualify(self, name: str) -> str:
        """The qualified form of a name.

        Raises:
            UnknownNameError: No such name, or several plugins have it.
        """
        if name in self._entries:
            return name
        candidates = [full for full in self.names() if full.partition("/")[2] == name]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UnknownNameError(
                f"{self.kind} {name!r} is ambiguous: say {' or '.join(map(repr, candidates))}"
            )
        bare = [full.partition("/")[2] for full in self.names()]
        near = difflib.get_close_matches(name, [*self.names(), *bare], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "there is none like it;"
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
            try:
                value = pkgutil.resolve_name(value)
            except Exception as error:
                plugin = full.partition("/")[0]
                reason = str(error).splitlines()[0] if str(error) else ""
                raise PluginError(
                    f"plugin {self._describe(plugin)} offers {self.kind} {full!r} as {value!r}, "
                    f"which can't be loaded: {type(error).__name__}: {reason}"
                ) from error
            self._entries[full] = value
        return value

    def name_of(self, value: type) -> str | None:
        """The qualified name under which a class is registered, without importing the others."""
        path = f"{value.__module__}:{value.__qualname__}"
        return next((name for name, held in self._entries.items() if held in (value, path)), None)
