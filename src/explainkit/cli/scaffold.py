"""``explainkit new-plugin``: creates a working plugin with a test."""

import keyword
import re
import shutil
import tempfile
from pathlib import Path

import explainkit
from explainkit.catalog import discovery
from explainkit.errors import PluginError, clipped

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "explainkit-{dashed}"
version = "0.1.0"
description = "A saliency method for explainkit"
requires-python = ">=3.11"
dependencies = ["explainkit-vision>={version},<{next_version}"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points.explainkit]
{name} = "explainkit_{name}"

[tool.hatch.build.targets.wheel]
packages = ["src/explainkit_{name}"]
"""

_MODULE = '''\
"""A saliency method for explainkit; named by a string, so that help does not import torch."""

from explainkit import hookimpl


@hookimpl
def explainkit_methods() -> dict[str, str]:
    """Offers the method as ``explainkit.explain(..., method="{name}")``."""
    return {{"{name}": "explainkit_{name}.method:{class_name}"}}
'''

_METHOD = '''\
"""The method, imported on first use."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class {class_name}:
    """Gradient times the deviation of each pixel from the image's mean.

    ``a = (x − mean(x)) · ∂S_c(x) / ∂x``. Replace this with your own method: write its formula
    here, its hyper-parameters as fields, its paper under References.

    Attributes:
        power: Exponent of the deviation's magnitude; 1 leaves it unchanged.
    """

    power: float = 1.0

    def __call__(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        """Returns a map ``[batch, channel, height, width]``, signed, not normalized."""
        score = model(inputs).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, inputs)
        deviation = inputs - inputs.mean((2, 3), keepdim=True)
        return gradient * deviation.sign() * deviation.abs() ** self.power
'''

_TEST = '''\
"""The method honors explainkit's contract and has its closed form on a linear model."""

import explainkit as ek
import torch
from explainkit.testing import check_method
from torch import nn

from explainkit_{name}.method import {class_name}


def test_contract():
    check_method({class_name}())


def test_a_linear_model_gives_weight_times_deviation():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    images = torch.rand(2, 1, 3, 4)
    found = ek.explain(model, images, 1, {class_name}()).attribution
    weight = model[1].weight[1].detach().reshape(1, 1, 3, 4)
    expected = weight * (images - images.mean((2, 3), keepdim=True))
    torch.testing.assert_close(found, expected)
'''

_README = """\
# explainkit-{dashed}

A saliency method for explainkit.

```sh
pip install -e '.[test]'
python -m pytest
explainkit describe {name}
```
"""


LONGEST = 64
"""Characters of a plugin's id, which is part of the names of files."""


class UnusableNameError(PluginError, ValueError):
    """The name can't be that of a new plugin."""


def new_plugin(name: str, parent: Path) -> Path:
    """Creates a package with one method, its entry point and a test.

    Raises:
        UnusableNameError: The name is no identifier, too long or taken, or its folder exists.
        PluginError: The package can't be written.
    """
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
        "version": f"{major}.{minor}",
        "next_version": f"{major}.{int(minor) + 1}",
    }
    texts = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"src/explainkit_{name}/__init__.py": _MODULE,
        f"src/explainkit_{name}/method.py": _METHOD,
        f"tests/test_{name}.py": _TEST,
    }
    try:
        parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".explainkit-", dir=parent))
        try:
            for path, text in texts.items():
                file = draft / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text.format(**words), encoding="utf-8")
            (draft / f"src/explainkit_{name}/py.typed").touch()
            draft.chmod(0o755)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise PluginError(f"can't write {folder}: {error.strerror or error}") from error
    return folder
