"""``explainkit new-plugin``: creates a working plugin with its tests."""

import keyword
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import explainkit
from explainkit.catalog import discovery
from explainkit.errors import PluginError, clipped

PARTS = {
    "method": ("src/method.py", "tests/test_method.py"),
    "model": ("src/model.py", "tests/test_model.py"),
    "dataset": ("src/dataset.py", "tests/test_dataset.py"),
    "metric": ("src/metric.py", "tests/test_metric.py"),
    "command": ("src/commands.py", "tests/test_command.py"),
    "gallery": ("src/gallery/first_map.py", "tests/test_gallery.py"),
}
"""What a plugin can provide: the templates of each part."""

LONGEST = 64
"""Characters of a plugin's id, which is part of the names of files."""


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("explainkit.cli", "plugin_template"),
        autoescape=False,  # noqa: S701 - Python, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


class UnusableNameError(PluginError, ValueError):
    """The name can't be that of a new plugin."""


def new_plugin(name: str, parent: Path, parts: Sequence[str] = ("method",)) -> Path:
    """Creates a package with an entry point, and a working example and a test of each part.

    Args:
        name: The plugin's id.
        parent: Where the package's folder is made.
        parts: Keys of `PARTS`.

    Raises:
        UnusableNameError: The name is no identifier, too long or taken, or its folder exists.
        PluginError: There is no such part, or the package can't be written.
    """
    if not parts or not set(parts) <= set(PARTS):
        raise PluginError(
            f"expected some of {', '.join(PARTS)}, got {clipped(', '.join(parts)) or 'nothing'}"
        )
    name = name.replace("-", "_")
    taken = {"vision", discovery.CORE, *discovery.default().names()}
    valid = re.fullmatch(r"[a-z][a-z0-9_]*", name) and not name.endswith("_")
    valid = valid and len(name) <= LONGEST and not keyword.iskeyword(name)
    if not valid or name in {"true", "false", "none"} or name in taken:
        raise UnusableNameError(
            "expected a name of lowercase letters, digits and underscores that starts with a "
            f"letter, has at most {LONGEST} characters and is no installed plugin's, such as "
            f"my_method, got {clipped(repr(name))}"
        )
    dashed = name.strip("_").replace("_", "-")
    folder = parent / f"explainkit-{dashed}"
    if folder.exists():
        raise UnusableNameError(f"{folder} already exists: choose another name or --path")
    major, minor, *_ = explainkit.__version__.split(".")
    words = {
        "name": name,
        "dashed": dashed,
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "parts": [part for part in PARTS if part in parts],
        "version": f"{major}.{minor}",
        "next_version": f"{major}.{int(minor) + 1}",
    }
    templates = ["pyproject.toml", "README.md", "src/__init__.py"]
    templates += [path for part in words["parts"] for path in PARTS[part]]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".explainkit-", dir=parent))
        try:
            for path in templates:
                file = draft / path.replace("src/", f"src/explainkit_{name}/", 1)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(_environment().get_template(f"{path}.jinja").render(words), "utf-8")
            (draft / f"src/explainkit_{name}/py.typed").touch()
            draft.chmod(0o755)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise PluginError(f"can't write {folder}: {error.strerror or error}") from error
    return folder
