"""`doctor`: known problems are found, each with a remedy."""

import dataclasses

import pytest

from explainkit.catalog import discovery
from explainkit.cli import doctor


def test_this_installation_is_sound():
    checks = doctor.examine()
    assert {"explainkit", "python", "torch", "devices"} <= {check.name for check in checks}
    assert not [check for check in checks if check.status == "problem"]


def test_the_other_project_of_that_name(fakes, monkeypatch):
    info = fakes.folder / "explainkit-3.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: explainkit\nVersion: 3.2\n")
    (check,) = doctor._foreign_distribution()
    assert check.status == "problem"
    assert "3.2" in check.found
    assert "pip uninstall explainkit" in check.remedy


def test_a_torchvision_that_does_not_fit(fakes, monkeypatch):
    info = fakes.folder / "torchvision-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    package = fakes.folder / "torchvision.py"
    package.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(fakes.folder))
    (check,) = doctor._torchvision()
    assert check.status == "warning"
    assert "0.1 does not fit torch" in check.found
    assert "operator torchvision::nms does not exist" in check.found
    assert check.remedy
    package.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "IMPORT_SECONDS", 1)
    (check,) = doctor._torchvision()
    assert "takes more than 1 s" in check.found
    monkeypatch.undo()
    monkeypatch.syspath_prepend(fakes.folder)
    monkeypatch.setenv("PYTHONPATH", str(fakes.folder))
    package.write_text("")
    (check,) = doctor._torchvision()
    assert check.status == "ok"


def test_broken_plugins_are_problems(fakes, monkeypatch):
    fakes.add("bad", "import no_such_module")
    found = discovery.Plugins(fakes.entry_points(), strict=False)
    monkeypatch.setattr(discovery, "default", lambda: found)
    checks = {check.name: check for check in doctor._plugins()}
    assert checks["plugin bad"].status == "problem"
    assert "no_such_module" in checks["plugin bad"].found
    assert checks["plugin explainkit"].status == "ok"


def test_an_old_torch(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "__version__", "2.4.1")
    check = next(iter(doctor._torch()))
    assert (check.status, check.found) == ("problem", "2.4.1")
    assert "2.10" in check.remedy


def test_checks_are_records():
    with pytest.raises(dataclasses.FrozenInstanceError):
        doctor.Check("a", "ok", "b").name = "c"
