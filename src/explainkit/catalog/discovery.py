"""Discovery of plugins: a broken one never affects the others.

pluggy's own loader stops at the first entry point that fails, and silently skips a duplicate name.
Here each plugin is loaded, validated and called separately, and a report records the outcome.
"""

import inspect
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import explainkit
from explainkit.catalog import builtin, hookspecs
from explainkit.catalog.hookspecs import PROJECT
from explainkit.catalog.import_time import import_time
from explainkit.catalog.registry import Registry, foreign_code
from explainkit.errors import PluginError, UnknownNameError, clipped, line

KINDS = {
    "methods": "method",
    "models": "model",
    "datasets": "dataset",
    "maximizers": "maximizer",
    "metrics": "metric",
}
"""What plugins can offer, plural to singular; the hook is ``explainkit_<plural>``."""

CLASSES = {"explainkit_methods", "explainkit_maximizers"}
"""Hooks that offer classes, which are instantiated with the caller's parameters."""

GIVEN = ("model", "inputs", "attribution", "target", "mask", "method")
"""What metrics take by position; everything else is an option, by keyword."""

CORE = "explainkit"
"""The core's own plugin id."""

DISTRIBUTION = "explainkit-vision"

SLOW = 1.0
"""A plugin that takes more seconds than this to load is reported as slow."""

EXEMPT = "torch"
"""The time of its import is no plugin's fault: the first plugin that needs it would bear it."""


@dataclass(frozen=True)
class PluginReport:
    """The status of one plugin: ok, slow (it works) or broken (part of it was skipped)."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    status: str = "ok"
    error: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.name!r} ({self.distribution} {self.version})"


class Plugins:
    """All plugins of a process, with their status and what they offer."""

    def __init__(
        self, found: Iterable[EntryPoint] | None = None, strict: bool | None = None
    ) -> None:
        """Finds plugins by their metadata, without importing them.

        ``strict`` makes a broken plugin an error; by default, if ``EXPLAINKIT_STRICT=1`` is set.
        """
        points = entry_points(group=PROJECT) if found is None else found
        self.strict = os.environ.get("EXPLAINKIT_STRICT") == "1" if strict is None else strict
        self._points: dict[str, EntryPoint] = {}
        self._reports: dict[str, PluginReport] = {
            CORE: PluginReport(CORE, DISTRIBUTION, explainkit.__version__)
        }
        self._duplicates: list[PluginReport] = []
        self._offers: dict[str, dict[str, Any]] = {}
        self._registries: dict[str, Registry] = {}
        for point in sorted(points, key=lambda p: (p.name, _distribution(p)[0])):
            report = PluginReport(point.name, *_distribution(point))
            if point.name in self._reports:
                first = self._reports[point.name]
                self._duplicates.append(
                    replace(
                        report,
                        status="broken",
                        error=f"skipped: {first.distribution} already has the id {point.name!r}",
                    )
                )
                continue
            self._points[point.name] = point
            self._reports[point.name] = report

    def names(self) -> list[str]:
        """Ids of all plugins except the core, read from metadata."""
        return sorted(self._points)

    def reports(self) -> list[PluginReport]:
        """Loads every plugin and returns its status."""
        for name in (CORE, *self.names()):
            self._load(name)
        return [self._reports[name] for name in (CORE, *self.names())] + self._duplicates

    def broken(self) -> list[PluginReport]:
        """Reports of the broken plugins among those loaded so far."""
        known = [*self._reports.values(), *self._duplicates]
        return [report for report in known if report.status == "broken"]

    def registry(self, kind: str) -> Registry:
        """The registry of one kind, filled by every plugin that works."""
        if kind not in self._registries:
            registry = Registry(
                KINDS[kind], self._described, self._reason, partial(_is_of_kind, kind)
            )
            for name in (CORE, *self.names()):
                for short, value in self._load(name).get(f"{PROJECT}_{kind}", {}).items():
                    registry.add(name, short, value)
            self._registries[kind] = registry
        self._check_strictly()
        return self._registries[kind]

    def offer(self, name: str, hook: str) -> Any:
        """What one plugin's hook returned."""
        if name not in self._reports:
            known = ", ".join(self.names()) or "none"
            raise UnknownNameError(f"no plugin is named {name!r}; installed: {known}")
        offers = self._load(name)
        self._check_strictly()
        report = self._reports[name]
        if hook in offers:
            return offers[hook]
        reason = report.error or f"it offers no {hook.removeprefix(PROJECT + '_')}"
        raise PluginError(f"plugin {report} can't be used: {reason}")

    def version_of(self, name: str) -> str:
        """Distribution and version of a plugin."""
        report = self._reports[name]
        return f"{report.distribution} {report.version}"

    def package_of(self, name: str) -> str:
        """The top-level package or module that contains a plugin."""
        return CORE if name == CORE else self._points[name].module.partition(".")[0]

    def _reason(self, name: str) -> str:
        report = self._reports.get(name)
        return f"{report} is broken: {report.error}" if report and report.status == "broken" else ""

    def _described(self, name: str) -> str:
        return str(self._reports[name])

    def _load(self, name: str) -> dict[str, Any]:
        """Loads one plugin, once, and returns what its hooks returned."""
        if name not in self._offers:
            start = time.perf_counter()
            with import_time(EXEMPT) as exempt:
                self._offers[name], hooks, errors = self._try(name)
            seconds = time.perf_counter() - start - exempt()
            slow = seconds > SLOW and not errors
            self._reports[name] = replace(
                self._reports[name],
                hooks=tuple(hooks),
                status="broken" if errors else "slow" if slow else "ok",
                error="; ".join(errors) or (f"took {seconds:.1f} s to load" if slow else ""),
                seconds=seconds,
            )
        return self._offers[name]

    def _check_strictly(self) -> None:
        """In strict mode, raises if any plugin is broken."""
        if self.strict and (broken := self.broken()):
            raise PluginError(f"plugin {broken[0]} is broken: {broken[0].error}")

    def _try(self, name: str) -> tuple[dict[str, Any], list[str], list[str]]:
        """What a plugin's hooks return, the hooks that it implements, and its errors."""
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        if not name.replace("-", "_").isidentifier():
            return {}, [], [f"its id {name!r} is not an identifier"]
        # before the import, which may fail on this version with a less helpful error
        if name != CORE and (mismatch := _built_for_another_version(self._points[name])):
            return {}, [], [mismatch]
        try:
            with foreign_code():
                module = builtin if name == CORE else self._points[name].load()
            manager.register(module, name)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            reason = " ".join(str(error).split())
            return {}, [], [clipped(f"built for another version of explainkit: {reason}")]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001
            return {}, [], [line(error)]
        offers, errors = {}, []
        callers = manager.get_hookcallers(module) or []
        for caller in sorted(callers, key=lambda c: c.name):
            for implementation in caller.get_hookimpls():
                try:
                    with foreign_code():
                        result = implementation.function()
                        if isinstance(result, Mapping):
                            result = dict(result)  # iterating runs plugin code too
                        problem = _problem(caller.name, result)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001
                    errors.append(f"{caller.name} raises {line(error)}")
                    continue
                if problem:
                    errors.append(clipped(f"{caller.name} returns {problem}"))
                else:
                    offers[caller.name] = result
        return offers, sorted(caller.name for caller in callers), errors


def _distribution(point: EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return "unknown distribution", "?"
    return str(point.dist.name), str(point.dist.version)


def _built_for_another_version(point: EntryPoint) -> str | None:
    """Why a plugin's own requirement excludes this version of explainkit, if it does."""
    for text in (point.dist.requires or []) if point.dist else []:
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            continue
        applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if (
            applies
            and canonicalize_name(needed.name) == DISTRIBUTION
            and not needed.specifier.contains(explainkit.__version__, prereleases=True)
        ):
            return (
                f"built for another version of explainkit: it needs {text}, "
                f"this is {explainkit.__version__}"
            )
    return None


def _problem(hook: str, result: object) -> str | None:
    """The problem with a hook's return value, if there is one."""
    if hook == f"{PROJECT}_commands":
        # by name, since importing typer for the comparison would slow down every start
        if isinstance(result, str) or "Typer" in {base.__name__ for base in type(result).__mro__}:
            return None
        return f"{type(result).__name__}, not a typer.Typer or 'module:attribute'"
    if hook == f"{PROJECT}_gallery":
        if not isinstance(result, Path):
            return f"{type(result).__name__}, not a pathlib.Path"
        return None if result.is_dir() else f"{result}, which is not a folder"
    if not isinstance(result, Mapping):
        return f"{type(result).__name__}, not a mapping of names"
    metrics = hook == f"{PROJECT}_metrics"
    for name, value in result.items():
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
            return f"the name {name!r}, which is not an identifier"
        if isinstance(value, str):
            if ":" not in value:
                return f"{value!r} for {name!r}, not 'module:attribute'"
        elif metrics:
            if not is_metric(value):
                return (
                    f"{value!r:.60} for {name!r}, not 'module:attribute' or a function of "
                    f"{', '.join(GIVEN)}, with options by keyword"
                )
        elif not hasattr(value, "__dataclass_fields__") or (
            hook in CLASSES and not isinstance(value, type)
        ):
            return f"{type(value).__name__} for {name!r}, not 'module:attribute' or a dataclass"
    return None


def _is_of_kind(kind: str, value: object) -> bool:
    """Whether an object can be what a plugin offers it as; duck-typed, which needs no torch."""
    if kind == "metrics":
        return is_metric(value)
    needed = {"models": "build", "datasets": "load"}.get(kind, "__call__")
    return hasattr(value, "__dataclass_fields__") and hasattr(value, needed)


def is_metric(value: object) -> bool:
    """Whether this is a function of what metrics are given, with options by keyword.

    Examples:
        >>> is_metric(lambda attribution, mask, *, power=2: 0), is_metric(lambda maps: 0)
        (True, False)
    """
    if isinstance(value, type) or not callable(value):
        return False
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(
        parameter.name in GIVEN
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        else parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
        for parameter in parameters
    )


@cache
def default() -> Plugins:
    """The plugins of this process."""
    return Plugins()


def registry(kind: str) -> Registry:
    """The registry of one kind (`KINDS`), filled by the installed plugins."""
    return default().registry(kind)


def described(kind: str) -> dict[str, str]:
    """Everything of one kind: qualified name to a one-line summary."""
    return {name: _described(kind, name) for name in registry(kind).names()}


def _described(kind: str, name: str) -> str:
    try:
        return summary(registry(kind).get(name))
    except PluginError as error:
        return f"can't be loaded: {line(error.__cause__ or error)}"


def summary(value: object) -> str:
    """One line: the first of a docstring, or the summary of a specification."""
    if isinstance(value, type) or is_metric(value):
        return (value.__doc__ or "").strip().partition("\n")[0]
    return str(getattr(value, "summary", ""))
