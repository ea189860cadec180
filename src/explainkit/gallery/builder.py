"""Building the gallery: each script runs in its own process; unchanged pages are reused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import local
from typing import Any

import explainkit
from explainkit.catalog import discovery
from explainkit.errors import GalleryError
from explainkit.files import read_regular, reason, reserved, write_atomically
from explainkit.gallery.children import Children
from explainkit.gallery.page import index, markdown, notebook, thumbnail
from explainkit.gallery.script import OUT_OF_TIME, OUTPUTS, Script, read

HOOK = "explainkit_gallery"
MANIFEST = "manifest.json"
WEIGHTS = {".safetensors", ".pt", ".pth", ".onnx"}
SCHEMA_VERSION = 1
_WAIT = 20
"""A script may take this many times its CPU limit on the clock, in case it waits forever."""

_worker = local()
"""Of each worker thread, the `Children` of its build."""


@dataclass(frozen=True)
class Built:
    """The outcome of building one page.

    Attributes:
        page: ``plugin/name``.
        seconds: How long its script ran.
        reused: True if none of its dependencies had changed.
        missing: The required plugin that is not installed, or ""; the page was skipped then.
        uninstalled: The required packages that are not; the page was skipped then, too.
    """

    page: str
    seconds: float = 0.0
    reused: bool = False
    missing: str = ""
    uninstalled: tuple[str, ...] = ()


def build(
    out: Path, plugin: str | None = None, *, seed: int = 0, max_seconds: float = 300, jobs: int = 1
) -> Iterator[Built]:
    """Builds the pages, then the index.

    Args:
        out: The output folder. Files of an earlier build that belong to no page now are removed.
        plugin: Build only this plugin's pages and leave the others as they are.
        seed: Seed of the scripts' random generators.
        max_seconds: CPU time that each script may use, all its threads together.
        jobs: How many scripts run at the same time, each in its own process.

    Yields:
        The outcome of each page, in order.

    Raises:
        GalleryError: A script fails or exceeds its limit; nothing of its page is written. Or the
            folder can't be written, or another build is writing into it.
        UnknownNameError: There is no such plugin.
        PluginError: The plugin has no gallery, or is broken.
    """
    with reserved(out / ".gallery.lock", GalleryError, "gallery build"):
        yield from _build(out, plugin, seed, max_seconds, jobs)


def _build(
    out: Path, plugin: str | None, seed: int, max_seconds: float, jobs: int
) -> Iterator[Built]:
    old = _read_manifest(out)
    folders = _folders(plugin)
    entries = {
        name: entry
        for name, entry in old.items()
        if plugin is not None and entry["plugin"] != plugin
    }
    digests = _Digests(folders.values())
    children = Children()
    pool = ThreadPoolExecutor(jobs, initializer=setattr, initargs=(_worker, "children", children))
    results: dict[str, Built | Future[dict[str, Any]]] = {}
    try:
        for owner, folder in folders.items():
            for path in sorted(folder.glob("[!_]*.py")):
                script = read(path)
                page = f"{owner}/{script.name}"
                installed = {discovery.CORE, *discovery.default().names()}
                if absent := [name for name in script.needs if name not in installed]:
                    results[page] = Built(page, missing=absent[0])
                    continue
                if lacking := tuple(name for name in script.packages if not _version(name)):
                    results[page] = Built(page, uninstalled=lacking)
                    continue
                entry = {"plugin": owner, "name": script.name, **digests.of(script, owner, seed)}
                known = old.get(page, {})
                same = all(known.get(key) == value for key, value in entry.items())
                if same and all((out / owner / file).is_file() for file in known["files"]):
                    entries[page] = known
                    results[page] = Built(page, known["seconds"], reused=True)
                    continue
                results[page] = pool.submit(_make, script, entry, out / owner, seed, max_seconds)
        for page, result in results.items():
            if isinstance(result, Built):
                yield result
                continue
            entries[page] = result.result()
            # finished pages stay finished if a later script fails
            _write_manifest(out, old | entries)
            yield Built(page, entries[page]["seconds"])
    finally:
        children.stop()
        pool.shutdown(cancel_futures=True)
    _remove(out, old, entries)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "index.md", index(list(entries.values())).encode())
    _write_manifest(out, entries)


def _folders(plugin: str | None) -> dict[str, Path]:
    """The script folder of each plugin that has one."""
    found = discovery.default()
    if plugin is not None:
        return {plugin: Path(found.offer(plugin, HOOK))}
    with_pages = [report.name for report in found.reports() if HOOK in report.hooks]
    return {name: Path(found.offer(name, HOOK)) for name in with_pages}


class _Digests:
    """Hashes of the dependencies of pages, each computed once.

    A page depends on its script, on the code and the weights of the core and its plugins, and on
    the versions of torch, NumPy, matplotlib and the packages that it names.
    """

    def __init__(self, galleries: Iterable[Path]) -> None:
        self._galleries = [folder.resolve() for folder in galleries]
        self._packages: dict[str, tuple[str, str]] = {}

    def of(self, script: Script, owner: str, seed: int) -> dict[str, Any]:
        """The hashes stored in the manifest."""
        parts = [self._package(name) for name in sorted({discovery.CORE, owner, *script.needs})]
        used = ("torch", "numpy", "matplotlib", *script.packages)
        versions = [f"{name} {version(name)}" for name in used]
        return {
            "script": hashlib.sha256(script.path.read_bytes()).hexdigest(),
            "library": _digest([explainkit.__version__, *versions, *(code for code, _ in parts)]),
            "weights": _digest(weights for _, weights in parts),
            "seed": seed,
        }

    def _package(self, name: str) -> tuple[str, str]:
        if name not in self._packages:
            code, weights = hashlib.sha256(), hashlib.sha256()
            for path in sorted(_files_of(discovery.default().package_of(name))):
                if any(path.is_relative_to(folder) for folder in self._galleries):
                    continue
                kind = weights if path.suffix in WEIGHTS else code
                kind.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
            self._packages[name] = code.hexdigest(), weights.hexdigest()
        return self._packages[name]


def _files_of(package: str) -> Iterator[Path]:
    """The files of an installed package, or the single file of a module."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise GalleryError(f"expected the files of {package}, found none: reinstall the package")
    origin = Path(spec.origin).resolve()
    if origin.name != "__init__.py":
        yield origin
        return
    for path in origin.parent.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            yield path


def _version(distribution: str) -> str:
    """The version of an installed distribution; empty if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _make(
    script: Script, entry: Mapping[str, Any], out: Path, seed: int, max_seconds: float
) -> dict[str, Any]:
    """Runs a script, writes its page, and returns its completed manifest entry."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, work = Path(temporary) / "out", Path(temporary) / "work"
        folder.mkdir()
        work.mkdir()
        start = time.perf_counter()
        _run(script, folder, work, seed, max_seconds)
        seconds = round(time.perf_counter() - start, 2)
        outputs = json.loads((folder / OUTPUTS).read_text(encoding="utf-8"))
        (folder / OUTPUTS).unlink()
        figures = [o["file"] for shown in outputs for o in shown if o["kind"] == "figure"]
        image = f"{script.name}-thumbnail.png" if figures else ""
        if figures:
            thumbnail(folder / figures[0], folder / image)
        versions = f"explainkit {explainkit.__version__} and torch {version('torch')}"
        command = f"explainkit gallery build --plugin {out.name}"
        foot = (
            f"Download this page [as a script]({script.name}.py) or "
            f"[as a notebook]({script.name}.ipynb). Built by `{command}` in {seconds:.0f} s with "
            f"{versions}."
        )
        page = markdown(script, outputs, foot)
        (folder / f"{script.name}.md").write_text(page, encoding="utf-8")
        book = notebook(script, outputs, folder)
        (folder / f"{script.name}.ipynb").write_text(book, encoding="utf-8")
        shutil.copy(script.path, folder / f"{script.name}.py")
        out.mkdir(parents=True, exist_ok=True)
        files = sorted(path.name for path in folder.iterdir())
        for name in files:
            write_atomically(out / name, (folder / name).read_bytes())
    return dict(entry) | {
        "title": script.title, "summary": script.lead.split("\n\n")[0].replace("\n", " "),
        "topic": script.topic, "order": script.order, "thumbnail": image,
        "files": files, "seconds": seconds,
    }  # fmt: skip


def _run(script: Script, folder: Path, work: Path, seed: int, max_seconds: float) -> None:
    """Runs a script in a fresh process, in its own folder."""
    arguments = map(str, (script.path.resolve(), folder, seed, max_seconds))
    try:
        code, printed = _worker.children.run(
            [sys.executable, "-m", "explainkit.gallery.run", *arguments],
            _WAIT * max_seconds,
            cwd=work,
            env=os.environ | {"PYTHONHASHSEED": "0", "MPLBACKEND": "agg"},
        )
    except subprocess.TimeoutExpired as error:
        raise GalleryError(
            f"{script.path} did not end within {_WAIT * max_seconds:g} s: it seems to wait forever"
        ) from error
    if code == OUT_OF_TIME:
        raise GalleryError(
            f"{script.path} used more than {max_seconds:g} s of CPU time: "
            "make it shorter, or allow more with --max-seconds"
        )
    if code:
        failure = GalleryError(
            f"{script.path} failed: {(printed.strip().splitlines() or ['no reason given'])[-1]}"
        )
        failure.add_note(printed)
        raise failure


def _read_manifest(out: Path) -> dict[str, Any]:
    """The pages of an earlier build; empty without one, or if its schema version differs."""
    try:
        found = json.loads(read_regular(out / MANIFEST).decode())
        pages: dict[str, Any] = found["pages"] if found["schema_version"] == SCHEMA_VERSION else {}
        names = [name for page in pages.values() for name in (page["plugin"], *page["files"])]
        strange = [name for name in names if Path(name).name != name]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise GalleryError(f"can't read {out / MANIFEST}: {reason(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GalleryError(f"{out / MANIFEST} is damaged ({error}): delete the folder") from error
    if strange:  # they would be removed as pages of an earlier build
        raise GalleryError(f"{out / MANIFEST} names {strange[0]!r}, no file: delete the folder")
    return pages


def _write_manifest(out: Path, entries: Mapping[str, Any]) -> None:
    found = {"schema_version": SCHEMA_VERSION, "pages": dict(sorted(entries.items()))}
    write_atomically(out / MANIFEST, (json.dumps(found, indent=2) + "\n").encode())


def _remove(out: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Removes files of an earlier build that no page has any more."""
    kept = {(entry["plugin"], file) for entry in new.values() for file in entry["files"]}
    for entry in old.values():
        for file in entry["files"]:
            if (entry["plugin"], file) not in kept:
                (out / entry["plugin"] / file).unlink(missing_ok=True)
