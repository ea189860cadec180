"""``explainkit doctor``: checks the installation for problems."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path
from typing import Literal

from packaging.version import Version

import explainkit
from explainkit.catalog import discovery
from explainkit.errors import line

IMPORT_SECONDS = 120
"""Time limit for a trial import."""

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """The result of one check; the remedy is empty if it is ok."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Checks versions, devices, plugins, and packages that are known to conflict."""
    parts = (_versions, _torch, _torchvision, _foreign_distribution, _plugins, _writable)
    return [check for part in parts for check in part()]


def _versions() -> Iterator[Check]:
    yield Check(
        "explainkit", "ok", f"{explainkit.__version__} at {Path(explainkit.__file__).parent}"
    )
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _torch() -> Iterator[Check]:
    try:
        import torch
    except Exception as error:  # noqa: BLE001
        remedy = "reinstall torch 2.10 or newer"
        yield Check("torch", "problem", f"can't be imported: {line(error)}", remedy)
        return
    remedy = "install torch 2.10 or newer" if Version(torch.__version__) < Version("2.10") else ""
    yield Check("torch", "problem" if remedy else "ok", torch.__version__, remedy)
    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    yield Check("devices", "ok", ", ".join(devices))


def _torchvision() -> Iterator[Check]:
    """A torchvision built for another torch fails at import, and so does all that uses it."""
    try:
        installed = version("torchvision")
    except PackageNotFoundError:
        return
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import torchvision"],
            capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        reason = f"its import takes more than {IMPORT_SECONDS} s"
    else:
        if tried.returncode == 0:
            yield Check("torchvision", "ok", installed)
            return
        reason = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    yield Check(
        "torchvision",
        "warning",
        f"{installed} does not fit torch {_version('torch')}: {reason}",
        "explainkit does not need it; for models that do, install the torchvision built for this "
        "torch, from the same index",
    )


def _foreign_distribution() -> Iterator[Check]:
    """Another project has the distribution name ``explainkit`` and the same import name."""
    try:
        foreign = distribution("explainkit")
    except PackageNotFoundError:
        owners = packages_distributions().get("explainkit", [])
        if discovery.DISTRIBUTION not in owners and owners:
            yield Check(
                "import name", "problem", f"explainkit belongs to {', '.join(owners)}", _REINSTALL
            )
        return
    yield Check(
        "distribution 'explainkit'",
        "problem",
        f"another project of this name is installed, version {foreign.version}; it has the same "
        "import name and command",
        _REINSTALL,
    )


_REINSTALL = (
    "pip uninstall explainkit, then pip install --force-reinstall --no-deps explainkit-vision"
)


def _plugins() -> Iterator[Check]:
    for report in discovery.default().reports():
        known: dict[str, Status] = {"broken": "problem", "slow": "warning"}
        status = known.get(report.status, "ok")
        found = f"{report.distribution} {report.version}"
        found += f": {report.error}" if report.error else ""
        remedy = "update or uninstall it" if status == "problem" else ""
        yield Check(f"plugin {report.name}", status, found, remedy)


def _writable() -> Iterator[Check]:
    if os.access(Path.cwd(), os.W_OK):
        yield Check("working folder", "ok", f"{Path.cwd()} is writable")
    else:
        yield Check("working folder", "warning", f"{Path.cwd()} is not writable", "use --out")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
