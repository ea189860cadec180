"""What is in the packages: each its own files, all of them, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[1]
PACKAGES = [("explainkit", ROOT, 3), ("explainkit_fer_hw3", ROOT / "plugins/fer_hw3", 30)]

if not (ROOT / "plugins").is_dir():
    pytest.skip("needs the repository, not the package alone", allow_module_level=True)


def files(folder, base):
    """The files below a folder, without what Python and editors leave there."""
    return {
        path.relative_to(base).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and not {"__pycache__", ".hypothesis"} & set(path.parts)
        and not any(part.endswith(".egg-info") for part in path.parts)
    }


@pytest.mark.parametrize(("name", "project", "megabytes"), PACKAGES)
def test_each_package_holds_its_own_files_and_all_of_them(name, project, megabytes, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", tmp_path],
        check=True, capture_output=True, cwd=project,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    (sdist,) = tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        found = {path for path in archive.namelist() if ".dist-info/" not in path}
        metadata = {PurePosixPath(path).name for path in archive.namelist()} & {
            "LICENSE",
            "METADATA",
        }
    assert found == files(project / "src" / name, project / "src")
    assert metadata == {"LICENSE", "METADATA"}
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    own = files(project / "src", project) | files(project / "tests", project)
    added = inside - own
    assert own <= inside
    assert added <= {
        "pyproject.toml", "PKG-INFO", ".gitignore", "README.md", "CHANGELOG.md", "LICENSE",
    }  # fmt: skip
    assert sdist.stat().st_size + wheel.stat().st_size < 2 * megabytes * 1e6


def test_the_lowest_versions_are_those_of_pyproject():
    printed = subprocess.run(
        [sys.executable, ROOT / ".ci/lowest.py"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"rich==15", "typer==0.29", "pillow==12.2"} <= set(printed)
    developed = (ROOT / "constraints.txt").read_text().splitlines()
    assert next(line for line in developed if line.startswith("torch==")) in printed
    assert len({line.partition("==")[0] for line in printed}) == len(printed)
