"""Fake plugins: a distribution is a dist-info folder on the path, so nothing is installed."""

import importlib
from importlib.metadata import distributions
from textwrap import dedent
from uuid import uuid4

import pytest


class FakePlugins:
    """Writes distributions into a folder and returns their entry points."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, name, source, *, distribution=None, version="1.0", requires=(), attribute=""):
        """Adds a plugin with the id ``name`` whose module has the given source."""
        distribution = distribution or f"fake-{name}"
        module = f"fake_{uuid4().hex}"
        (self.folder / f"{module}.py").write_text(dedent(source))
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        lines = [f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(f"[explainkit]\n{name} = {module}{attribute}\n")
        importlib.invalidate_caches()

    def entry_points(self):
        """The entry points of the fake distributions."""
        return [
            point
            for found in distributions(path=[str(self.folder)])
            for point in found.entry_points
            if point.group == "explainkit"
        ]


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A folder of fake plugins on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    return FakePlugins(tmp_path)
