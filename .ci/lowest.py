"""Prints constraints with the lowest version of each dependency that the two pyproject.toml allow.

Everything else has the version of constraints.txt, and so has torch: its oldest allowed release is
on the index only with several gigabytes of libraries for accelerators.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
AS_DEVELOPED = {"torch", "explainkit-vision"}


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lowest(path: Path) -> dict[str, str]:
    """The lower bound of each dependency of a project."""
    found = {}
    for text in tomllib.loads(path.read_text())["project"]["dependencies"]:
        parts = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,<[\w.]+)?", text)
        if parts is None:
            raise SystemExit(f"{path}: expected NAME>=VERSION, got {text!r}")
        found[canonical(parts[1])] = parts[2]
    return found


def main() -> None:
    """Prints the constraints."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if version:
            pins[canonical(name)] = version
    for path in ("pyproject.toml", "plugins/fer_hw3/pyproject.toml"):
        bounds = lowest(ROOT / path)
        pins |= {name: bounds[name] for name in bounds if name not in AS_DEVELOPED}
    for name, version in sorted(pins.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
