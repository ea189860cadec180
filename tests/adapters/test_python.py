"""Models from code: what a file or a module may have, and what stays as it was."""

import importlib
import sys
from textwrap import dedent

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import explainkit as ek
from explainkit.errors import ModelError
from explainkit.interfaces import spec_of

CODE = """
import numpy as np
import torch
from torch import nn
from layers import Double  # a neighbor of this file

class Net(nn.Module):
    def __init__(self, outputs=2):
        super().__init__()
        self.twice, self.last = Double(), nn.Linear(12, outputs)
    def forward(self, x):
        return self.last(self.twice(x).flatten(1))

def make():
    return Net()

def make_with(config):
    return Net()

def scores(images: np.ndarray):
    return np.stack([images.mean((1, 2, 3)), images.max((1, 2, 3))], 1)

def fails():
    raise KeyError("no such file\\nas this one")

def nothing():
    pass

def stops():
    raise SystemExit(3)

model = Net()
constant = 3
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "small.py").write_text(CODE)
    (folder / "layers.py").write_text(
        "from torch import nn\nclass Double(nn.Module):\n    def forward(self, x): return 2 * x\n"
    )
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["make", "Net", "model"])
def test_a_function_a_class_and_a_module(name, project):
    model = ek.load_model(f"nets/small.py:{name}")
    assert type(model).__name__ == "Net"
    assert not any(part.training for part in model.modules())
    assert model(torch.rand(3, 3, 2, 2)).shape == (3, 2)
    explanation = ek.explain(model, torch.rand(1, 3, 2, 2))
    assert explanation.model == f"nets/small.py:{name}"


def test_a_module_by_its_dotted_name_in_the_current_folder(project):
    (project / "__init__.py").write_text("")
    (project / "small.py").write_text(CODE.replace("from layers", "from nets.layers"))
    assert ek.load_model("nets.small:make")(torch.rand(1, 3, 2, 2)).shape == (1, 2)


def test_a_function_on_arrays_is_a_model(project):
    images = torch.rand(2, 3, 4, 4)
    model = ek.load_model("nets/small.py:scores", class_names=["mean", "max"])
    assert torch.allclose(model(images)[:, 0], images.mean((1, 2, 3)))
    explanation = ek.explain(model, images, "mean", "occlusion", window=1, stride=1)
    wanted = images.sum(1, keepdim=True) / images[0].numel()  # hiding a pixel takes its share
    assert torch.allclose(explanation.attribution, wanted, atol=1e-6)


def test_random_weights_are_the_same_in_every_call_and_no_generator_moves(project):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    path = list(sys.path)
    models = [ek.load_model("nets/small.py:make") for _ in range(2)]
    assert torch.equal(models[0].last.weight, models[1].last.weight)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert sys.path == path


def test_a_module_that_exists_is_not_touched(project, monkeypatch):
    monkeypatch.syspath_prepend(project)
    theirs = importlib.import_module("small").model.train()
    before = theirs.last.weight.clone()
    state = {name: value + 1 for name, value in theirs.state_dict().items()}
    save_file(state, project / "w.safetensors")
    model = ek.load_model("small:model", weights=project / "w.safetensors")
    assert torch.equal(model.last.weight, before + 1)
    assert torch.equal(theirs.last.weight, before)
    assert theirs.training
    assert theirs.twice.training
    assert spec_of(theirs) is None


def test_a_project_with_its_own_factory_weights_and_sizes(project):
    torch.manual_seed(1)
    theirs = ek.load_model("nets/small.py:make")
    torch.nn.init.normal_(theirs.last.weight)
    checkpoint = {"state_dict": {f"net.{n}": v for n, v in theirs.state_dict().items()}}
    torch.save(checkpoint | {"epoch": 7}, project / "last.ckpt")
    model = ek.load_model(
        "nets/small.py:make", weights=project / "last.ckpt", allow_pickle=True,
        class_names=["cat", "dog"], mean=0.5, std=(0.25, 0.25, 0.5), size=(2, 2),
    )  # fmt: skip
    photo = np.full((30, 50, 3), 255, np.uint8)
    explanation = ek.explain(model, photo, "dog", "input_x_gradient")
    assert explanation.inputs.shape == (1, 3, 2, 2)
    assert explanation.inputs[0, :, 0, 0].tolist() == [2, 2, 1]
    wanted = explanation.inputs * 2 * theirs.last.weight[1].view(1, 3, 2, 2)
    assert torch.allclose(explanation.attribution, wanted)
    assert explanation.model == "nets/small.py:make (last.ckpt)"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nets/none.py:make", "found nothing at nets/none.py"),
        ("nets/small.py:made", "expected 'made' in nets/small.py, found Net, make, make_with"),
        ("nets/small.py:constant", "got int"),
        ("nets/small.py:nothing", "got a function that returns NoneType"),
        ("nets/small.py:fails", r"small.py:fails fails: KeyError"),
        ("nets/small.py:stops", "SystemExit: 3"),
        ("nets.none:make", "expected a module 'nets.none', found none"),
        ("nets/small.py", "write 'nets/small.py:NAME'"),
    ],
)
def test_errors_are_one_line(source, message, project):
    with pytest.raises(ModelError, match=message) as caught:
        ek.load_model(source)
    assert "\n" not in str(caught.value)


def test_a_factory_with_arguments_is_named(project):
    model = ek.load_model("nets/small.py:make_with")  # could be a function on arrays
    with pytest.raises(ModelError, match="a function that makes a model takes no argument"):
        ek.explain(model, torch.rand(1, 3, 2, 2), 0, "occlusion", window=1)


def test_code_that_fails_leaves_nothing_behind(project):
    (project / "broken.py").write_text(dedent("import missing_package_of_theirs\nx = 1\n"))
    ek.load_model("nets/small.py:make")
    path, modules = list(sys.path), set(sys.modules)
    with pytest.raises(ModelError, match="No module named 'missing_package_of_theirs'"):
        ek.load_model("nets/broken.py:x")
    assert sys.path == path
    assert set(sys.modules) == modules
