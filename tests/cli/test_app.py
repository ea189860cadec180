"""The command line: exit codes, one-line errors, clean stdout."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from explainkit.catalog import discovery
from explainkit.cli import doctor
from explainkit.cli.app import app, main
from explainkit.errors import UnknownNameError


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "explainkit", *arguments],
        capture_output=True, text=True, check=False, env=os.environ | environment,
    )  # fmt: skip


def test_list():
    rows = json.loads(run("list", "--json").stdout)
    assert {"kind", "name", "summary"} == set(rows[0])
    names = [row["name"] for row in rows]
    assert "explainkit/saliency" in names
    assert "fer_hw3/cnn" in names
    assert all(row["summary"] for row in rows)
    only = json.loads(run("list", "models", "--json").stdout)
    assert {row["kind"] for row in only} == {"models"}
    assert "explainkit/vargrad" in run("list", "methods").stdout
    wrong = run("list", "colors")
    assert wrong.exit_code == 2


@pytest.mark.parametrize("name", ["saliency", "explainkit/smoothgrad", "fer_hw3/cnn", "synthetic"])
def test_describe(name):
    found = json.loads(run("describe", name, "--json").stdout)
    assert found["name"].endswith(name.rpartition("/")[2])
    assert found["text"]
    assert run("describe", name).exit_code == 0


def test_describe_shows_formula_fields_and_source():
    found = json.loads(run("describe", "integrated_gradients", "--json").stdout)
    assert "∫₀¹" in found["text"]
    assert "arXiv:1703.01365" in found["text"]
    assert found["fields"]["steps"] == {"type": "int | None", "default": None}
    assert "gausslegendre" in found["fields"]["rule"]["type"]


NET = """
from torch import nn
print("built")
def make():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), nn.ReLU()), head)
def scores(images):
    return images.mean((2, 3))
"""


def test_describe_a_model_of_code(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(NET)
    done = run("describe", f"{file}:make", "--json")
    found = json.loads(done.stdout)  # what the code prints goes to stderr
    assert (found["kind"], found["name"]) == ("model", f"{file}:make")
    facts = found["model"]
    assert (facts["classes"], facts["class_names"]) == (3, [])
    assert facts["task"] == "classification"
    assert facts["preprocessing"] == "RGB, pixel / 255 (normalization not known)"
    assert facts["input"] == "3 × 256 × 256"
    assert facts["parameters"] == 3 * 5 * 9 + 5 + 5 * 3 + 3
    assert facts["default_layer"] == "0"
    rows = {row["name"]: row for row in facts["layers"]}
    assert list(rows) == ["0", "0.0", "0.1", "1", "1.0", "1.1", "1.2"]
    assert rows["0.0"] == {
        "name": "0.0", "kind": "Conv2d", "output": [5, 127, 127], "parameters": 140,
    }  # fmt: skip
    assert rows["1"]["output"] == [3]
    text = run("describe", f"{file}:make", "--depth", "1").stdout
    assert "classes: 3\n" in text
    assert "default layer: 0\n" in text
    assert "5 × 127 × 127" in text
    assert "0.0" not in text


def test_describe_a_black_box(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(NET)
    facts = json.loads(run("describe", f"{file}:scores", "--json").stdout)["model"]
    assert facts["default_layer"].startswith("none: ")
    assert facts["classes"] == 3
    assert facts["layers"] == []


def test_describe_a_registered_model_lists_its_layers():
    facts = json.loads(run("describe", "fer_hw3/cnn", "--json").stdout)["model"]
    assert facts["classes"] == 7
    assert facts["class_names"][0] == "angry"
    assert facts["preprocessing"].startswith("gray, CenterSquare, Resize 48 (exact, lanczos)")
    assert facts["input"] == "1 × 48 × 48"
    assert facts["default_layer"] in {row["name"] for row in facts["layers"]}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "grad_x_input",
            "nothing is named 'grad_x_input': here it is called input_x_gradient; 'expl",
        ),
        ("zzzz", "nothing is named 'zzzz': there is no similar name; 'explainkit list' shows all"),
    ],
)
def test_describe_hints(name, message):
    with pytest.raises(UnknownNameError, match=message):
        CliRunner().invoke(app, ["describe", name], catch_exceptions=False)


def test_metrics_are_listed_and_described():
    rows = json.loads(run("list", "metrics", "--json").stdout)
    assert {"kind": "metrics", "name": "explainkit/road"}.items() <= rows[-3].items()
    found = json.loads(run("describe", "road", "--json").stdout)
    assert (found["kind"], found["name"]) == ("metric", "explainkit/road")
    assert "arXiv:2202.00449" in found["text"]
    assert found["fields"]["model"]["default"] == "(given)"
    assert found["fields"]["seed"] == {"type": "int", "default": 0}
    assert "shares" in run("describe", "ROAD").stdout
    with pytest.raises(UnknownNameError, match="here it is called deletion, the area"):
        CliRunner().invoke(app, ["describe", "PixelFlipping"], catch_exceptions=False)


def test_describe_accepts_other_spellings():
    assert json.loads(run("describe", "Smooth-Grad", "--json").stdout)["name"].endswith(
        "smoothgrad"
    )


def test_describe_unknown():
    with pytest.raises(UnknownNameError, match="nothing is named 'salincy': did you mean"):
        CliRunner().invoke(app, ["describe", "salincy"], catch_exceptions=False)


def test_plugins():
    rows = json.loads(run("plugins", "--json").stdout)
    assert [row["name"] for row in rows][:1] == ["explainkit"]
    fer = next(row for row in rows if row["name"] == "fer_hw3")
    assert fer["status"] == "ok"
    assert "explainkit_commands" in fer["hooks"]
    assert "fer_hw3" in run("plugins").stdout


def test_version():
    text = run("--version").stdout
    assert "explainkit 0.1" in text
    assert "fer_hw3: explainkit-fer-hw3" in text
    assert "torch 2." in text


def test_run_lists_plugins_and_suggests():
    assert "fer_hw3" in run("run", "--help").stdout
    assert run("run", "nothing").exit_code == 2
    assert "saliency" in run("run", "fer_hw3", "--help").stdout
    assert run("run", "fer_hw3", "salience").exit_code == 2


def test_a_broken_plugin_is_fatal_only_if_used(fakes, monkeypatch):
    fakes.add("bad", "import no_such_module")
    fakes.add(
        "list", "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): return []"
    )
    found = discovery.Plugins(fakes.entry_points(), strict=False)
    monkeypatch.setattr(discovery, "default", lambda: found)
    listed = run("list", "methods", "--json")
    assert listed.exit_code == 0
    assert "explainkit/saliency" in listed.stdout
    json.loads(listed.stdout)
    assert "bad" in run("run", "--help").stdout
    shown = run("plugins").stdout
    assert "broken" in shown
    assert "No module named 'no_such_module'" in " ".join(shown.split())


def test_its_errors_are_one_line(fakes, monkeypatch, capsys):
    fakes.add("bad", "import no_such_module")
    found = discovery.Plugins(fakes.entry_points(), strict=False)
    monkeypatch.setattr(discovery, "default", lambda: found)
    with pytest.raises(SystemExit) as caught:
        main(["run", "bad", "x"])
    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: plugin 'bad' (fake-bad 1.0) can't be used: Module")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code"), [(["describe", "nothing"], 2), (["list", "x"], 2), (["--help"], 0)]
)
def test_exit_codes(arguments, code, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code


def test_traceback_on_request():
    short = process("describe", "nothing")
    assert "Traceback" not in short.stderr
    long = process("--traceback", "describe", "nothing")
    assert "Traceback" in long.stderr
    assert "UnknownNameError" in process("describe", "nothing", "--traceback").stderr


def test_a_real_interrupt(tmp_path):
    (tmp_path / "held.py").write_text(
        "import os, signal, time, explainkit.catalog.discovery as p\n"
        # a shell starts background processes with the signal ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "p.described = lambda kind: (os.kill(os.getpid(), signal.SIGINT), time.sleep(30))\n"
        "from explainkit.cli.app import main\nmain(['list'])\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "held.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "interrupted")


def test_usage_names_the_command():
    assert "Usage: explainkit list" in process("list", "--help").stdout


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("explainkit.cli.app.app", interrupt)
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_markup_in_errors_stays_text():
    done = process("describe", "[red]x[/red]")
    assert "'[red]x[/red]'" in done.stderr


def test_new_plugin(tmp_path):
    result = run("new-plugin", "my_method", "--path", str(tmp_path))
    assert result.exit_code == 0
    assert (tmp_path / "explainkit-my-method/pyproject.toml").is_file()
    assert "pip install -e" in result.stdout


def test_doctor(monkeypatch):
    check = doctor.Check("torch", "warning", "2.4.1", "install another")
    monkeypatch.setattr(doctor, "examine", lambda: [check])
    assert json.loads(run("doctor", "--json").stdout) == [dataclasses.asdict(check)]
    printed = run("doctor").stdout
    assert all(text in printed for text in ("torch", "2.4.1", "install another"))


def test_a_closed_pipe():
    done = subprocess.run(
        f"{sys.executable} -m explainkit --help | true", shell=True, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
