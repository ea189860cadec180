"""Jobs of models with several inputs: the store has the map of each that is explained."""

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli import batch as command
from explainkit.cli.app import app
from explainkit.errors import InputError
from explainkit.jobs.export import export
from explainkit.jobs.opening import source_of
from explainkit.jobs.receipts import verify
from explainkit.jobs.store import Store

METHODS = ["input_x_gradient", "occlusion"]
NAMES = ("explainkit/input_x_gradient rgb", "explainkit/input_x_gradient depth",
         "explainkit/occlusion rgb", "explainkit/occlusion depth")  # fmt: skip
OPTIONS = {"target": 1, "window": 4, "stride": 4, "shard_size": 3}


class Fusion(nn.Module):
    """Of an image, its depth and what a number says matters of it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)
        self.words = nn.Embedding(4, 5)

    def forward(self, rgb, depth, word):
        found = self.first(torch.cat([rgb, depth], 1)).relu().mean((2, 3))
        return self.head(found * self.words(word))


class Scenes:
    """A data set of ``(inputs, label)``."""

    def __init__(self, kind=dict, count=5):
        random = torch.Generator().manual_seed(1)
        self.rows = [
            {
                "rgb": torch.rand(3, 8, 12, generator=random),
                "depth": torch.rand(1, 8, 12, generator=random),
                "word": torch.tensor(i % 4),
            }
            for i in range(count)
        ]
        self.kind = kind

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        return (row if self.kind is dict else tuple(row.values())), i % 3


def test_maps_are_those_of_explain(tmp_path):
    model, data = Fusion().eval(), Scenes()
    store = ek.batch(data, model, METHODS, tmp_path / "out", **OPTIONS)
    assert store.methods == NAMES
    assert store.plan.explained == ("rgb", "depth")
    assert store.progress().ok == 5
    for i, row in enumerate(data.rows):
        one = {name: value[None] for name, value in row.items()}
        direct = ek.explain(model, one, 1, METHODS, window=4, stride=4)
        for stored, found in zip(store[i], direct, strict=True):
            assert (stored.method, stored.input) == (found.method, found.input)
            assert torch.equal(stored.inputs, found.inputs)
            assert torch.equal(stored.attribution, found.attribution)
        assert store[str(i)].get(method="occlusion", input="depth").mean is None
    maps = [one for _, one in store.maps("occlusion depth")]
    assert [one.shape for one in maps] == [(1, 8, 12)] * 5
    assert store.clusters(1, method="input_x_gradient rgb", neighbors=2, cells=4).sizes == [5]
    with pytest.raises(InputError, match="occlusion depth, got 'occlusion'"):
        next(store.maps("occlusion"))


def test_dicts_tuples_and_interruptions_give_the_same_maps(tmp_path):
    model = Fusion().eval()
    dicts = ek.batch(Scenes(), model, "saliency", tmp_path / "dicts", shard_size=2)
    tuples = ek.batch(
        Scenes(tuple), model, "saliency", tmp_path / "tuples", shard="0/2", shard_size=2
    )
    tuples = ek.batch(
        Scenes(tuple), model, "saliency", tmp_path / "tuples", shard="1/2", shard_size=2
    )
    for one, other in zip(dicts, tuples, strict=True):
        assert [part.input for part in one] == ["rgb", "depth"]
        assert all(
            torch.equal(a.attribution, b.attribution) for a, b in zip(one, other, strict=True)
        )
    again = Store(tmp_path / "dicts")
    assert again.methods == ("explainkit/saliency rgb", "explainkit/saliency depth")


def test_one_of_them_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_source", lambda *_: source_of(Scenes()))
    monkeypatch.setattr(
        "explainkit.jobs.batch.load_model", lambda *_args, **_options: Fusion().eval()
    )
    words = ["batch", "scenes", "--model", "fusion", "--method", "saliency", "--out", "out"]
    done = CliRunner().invoke(app, [*words, "--wrt", "depth"])
    assert done.exit_code == 0, done.output
    store = Store("out")
    assert store.methods == ("explainkit/saliency depth",)
    [found] = store.explanations(0)
    assert (found.input, found.attribution.shape) == ("depth", (1, 1, 8, 12))
    checks = verify("out", Fusion().eval(), recompute=1)
    assert [check.verdict for check in checks] == ["ok", "ok", "ok", "ok", "not checked"]
    other = CliRunner().invoke(app, [*words, "--wrt", "rgb"])
    assert "explained inputs" in str(other.exception)


def test_exports_name_the_input(tmp_path):
    store = ek.batch(Scenes(), Fusion().eval(), METHODS, tmp_path / "out", **OPTIONS)
    paths = export(store, "npz", tmp_path / "npz")
    assert {name: np.load(paths[0])[name].shape for name in NAMES} == {
        NAMES[0]: (3, 3, 8, 12), NAMES[1]: (3, 1, 8, 12),
        NAMES[2]: (3, 1, 8, 12), NAMES[3]: (3, 1, 8, 12),
    }  # fmt: skip
    files = {path.name for path in export(store, "png", tmp_path / "png")}
    assert "00000004_4_occlusion_depth.png" in files
    assert len(files) == 20


def test_what_is_refused(tmp_path):
    model, out = Fusion().eval(), tmp_path / "out"
    with pytest.raises(InputError, match="scorecard: expected items that are images"):
        ek.batch(Scenes(), model, "saliency", out, scorecard=True)
    with pytest.raises(InputError, match="wrt: expected names among rgb, depth, word, got 'text'"):
        ek.batch(Scenes(), model, "saliency", out, wrt="text")
    with pytest.raises(InputError, match="wrt: expected several inputs"):
        ek.batch({"a": torch.rand(3, 8, 12)}, nn.Flatten(), "saliency", out, wrt="rgb")
    with pytest.raises(InputError, match="scale: expected a tensor for an input, got float"):
        ek.batch({"a": {"rgb": torch.rand(3, 8, 12), "scale": 2.0}}, model, "saliency", out)
    data = Scenes()
    del data.rows[3]["word"]
    store = ek.batch(data, model, "saliency", out)
    [failure] = store.progress().failures
    assert (failure.id, failure.status) == ("3", "failed")
    assert "'word'; a model of several inputs takes a tuple or dict of them" in failure.reason
