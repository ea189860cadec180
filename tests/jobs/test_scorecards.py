"""Scorecards of a data set: one verdict for each map, whatever the shards are."""

import copy
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli.app import app
from explainkit.errors import InputError
from explainkit.interfaces import ModelSpec
from explainkit.jobs.outcomes import Judged
from explainkit.results.scorecard import SENTENCES

METHODS = ["input_x_gradient", "saliency"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 3, bias=False)).eval()


@pytest.fixture(scope="module")
def images():
    random = torch.Generator().manual_seed(1)
    return {f"{i:02d}": torch.rand(1, 24, 24, generator=random) for i in range(12)}


@pytest.fixture(scope="module")
def store(net, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("judged") / "out"
    return ek.batch(images, net, METHODS, out, scorecard=True, seed=3, batch_size=4, shard_size=12)


def test_they_are_those_of_explain(store, net, images):
    found = ek.explain(net, torch.stack(list(images.values())), method=METHODS, seed=3)
    cards = found.scorecards(3, power=True)
    for row, item in enumerate(store.items):
        for card, kept in zip(cards, item.judged, strict=True):
            assert kept.p == pytest.approx(card.p[row].tolist(), nan_ok=True)
            assert kept.statistic == pytest.approx(card.statistic[row].tolist(), nan_ok=True)
            assert kept.power == pytest.approx(float(card.power[row]))
            if "low power" not in card.verdict[row]:
                assert kept.verdict == card.verdict[row]


def test_they_do_not_depend_on_shards(store, net, images, tmp_path):
    other = ek.batch(
        images, net, METHODS, tmp_path / "o", scorecard=True, seed=3, batch_size=4, shard_size=4
    )
    assert [item.judged for item in other.items] == [item.judged for item in store.items]


def test_where_and_status(store):
    verdicts = [item.judged[0].verdict for item in store.items]
    assert set(verdicts) <= set(SENTENCES)
    for verdict in {*verdicts, "not supported"}:
        wanted = sum(one == verdict or one.startswith(f"{verdict}:") for one in verdicts)
        assert len(store.where(verdict=verdict, method="input_x_gradient")) == wanted
    progress = store.progress()
    assert {name: sum(n.values()) for name, n in progress.verdicts.items()} == {
        "explainkit/input_x_gradient": 12, "explainkit/saliency": 12,
    }  # fmt: skip
    done = CliRunner().invoke(app, ["status", str(store.path), "--json"])
    assert json.loads(done.stdout)["verdicts"] == progress.verdicts
    text = CliRunner().invoke(app, ["status", str(store.path)]).stdout
    assert f"{verdicts.count(verdicts[0])} {verdicts[0]}" in text
    with pytest.raises(InputError, match="method: expected explainkit/input_x_gradient"):
        store.where(verdict="supported", method="gradcam")


def test_low_power_is_told_for_all_images(store, monkeypatch):
    bad = Judged("supported", (1.0,) * 3, (0.01,) * 3, power=0.9)
    shard = store.shard(0)
    for item in shard.items:
        object.__setattr__(item, "judged", (bad, bad))
    monkeypatch.setattr(type(store), "shard", lambda self, number: shard)
    assert store.progress().low_power == store.methods


def test_a_network_of_known_low_power(net, images, tmp_path):
    known = copy.copy(net)
    known.explainkit_spec = ModelSpec(positive_control=(1, 20))
    store = ek.batch(dict(list(images.items())[:2]), known, "saliency", tmp_path, scorecard=True)
    assert [item.judged[0].verdict for item in store.items] == ["low power on this network"] * 2


def test_stores_without(net, images, tmp_path):
    plain = ek.batch(images, net, "saliency", tmp_path / "plain")
    assert plain.progress().verdicts == {}
    with pytest.raises(InputError, match="scorecard=True"):
        plain.where(verdict="supported")
