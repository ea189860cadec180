"""Images in batches: lazily, one at a time, and the same whatever the batches are."""

import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import explainkit as ek
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.errors import InputError, MethodError, TargetError


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4)
    ).eval()  # fmt: skip


X = torch.rand(11, 1, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(11) % 4


@pytest.mark.parametrize("size", [1, 3, 4, 11])
def test_maps_do_not_depend_on_the_batches(net, size):
    whole = ek.explain(net, X, method="smoothgrad", samples=3, seed=7, batch_size=4)
    found = ek.explain(
        net, iter(X.split(size)), method="smoothgrad", samples=3, seed=7, batch_size=4
    )
    maps = [one.attribution for one in found]
    assert [len(one) for one in maps] == [len(part) for part in X.split(size)]
    assert torch.equal(torch.cat(maps), whole.attribution)


def test_labels_are_targets_only_if_asked(net):
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    asked = torch.cat([one.target for one in ek.explain(net, loader, labels=True)])
    assert torch.equal(asked, Y)
    predicted = torch.cat([one.target for one in ek.explain(net, loader)])
    assert torch.equal(predicted, ek.explain(net, X).target)
    assert not torch.equal(predicted, Y)
    one_class = torch.cat([one.target for one in ek.explain(net, loader, 2)])
    assert one_class.tolist() == [2] * 11
    as_lists = [([np.uint8(np.full((6, 6), 9 * i)) for i in range(3)], [2, 1, 0])]
    known = ek.adapt(net, preprocessing=Preprocessing((), (0.5,), (0.5,), channels=1))
    [found] = ek.explain(known, iter(as_lists), labels=True)
    assert found.target.tolist() == [2, 1, 0]
    assert len(found.originals) == 3


def test_several_methods_and_targets_give_lists(net):
    found = ek.explain(net, iter(X.split(6)), method=["saliency", "input_x_gradient"])
    assert [[one.method for one in batch] for batch in found] == [
        ["explainkit/saliency", "explainkit/input_x_gradient"]
    ] * 2
    [batch] = ek.explain(net, iter([X]), targets=[0, 3])
    assert [one.target[0].item() for one in batch] == [0, 3]


def test_nothing_is_read_ahead_or_kept(net):
    read, living = [], []

    def batches():
        for part in X[:6].split(1):
            read.append(len(living))
            yield part

    found = ek.explain(net, batches(), batch_size=1)
    assert read == []
    gc.collect()
    gc.disable()  # memory must not wait for the collector
    try:
        for one in found:
            assert len(one) == 1
            del one
            living.append(sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects()))
    finally:
        gc.enable()
    assert read == list(range(6))
    assert living[2:] == [living[2]] * 4


def test_a_loop_may_end_early_and_leaves_the_model_as_it_was(net):
    net.train()
    random = torch.get_rng_state()
    found = ek.explain(net, iter(X.split(2)))
    with pytest.warns(ek.ExplainkitWarning, match="train mode"):
        next(found)
    assert net.training
    found.close()
    assert torch.equal(torch.get_rng_state(), random)


def test_a_named_model_is_loaded_once_and_again_for_a_scorecard(monkeypatch):
    loaded = []
    from explainkit import api

    load = api.load_model
    monkeypatch.setattr(api, "load_model", lambda *a, **o: loaded.append(a) or load(*a, **o))
    [_, two] = ek.explain("fer_hw3/cnn", iter([torch.zeros(1, 1, 48, 48)] * 2))
    assert len(loaded) == 1
    assert two._origin.model() is not None
    assert len(loaded) == 2


def test_what_can_be_known_before_the_first_batch_is_said_before(net):
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    with pytest.raises(MethodError, match="stepz"):
        ek.explain(net, loader, method="integrated_gradients", stepz=3)
    with pytest.raises(TargetError, match="labels=True takes those"):
        ek.explain(net, loader, Y)
    with pytest.raises(TargetError, match="labels: expected no other target"):
        ek.explain(net, loader, 1, labels=True)
    with pytest.raises(TargetError, match="labels: expected a DataLoader"):
        ek.explain(net, X, labels=True)


def test_batches_of_another_kind_are_errors(net):
    def first(batch, **options):
        return next(iter(ek.explain(net, iter([batch]), **options)))

    with pytest.raises(InputError, match="a mapping with 'pixel_values'"):
        first({"pixel_values": X})
    with pytest.raises(TargetError, match="got images alone"):
        first(X, labels=True)
    with pytest.raises(TargetError, match="class numbers, got float32"):
        first((X, torch.rand(11)), labels=True)
    with pytest.raises(TargetError, match=r"one target per image, \[11\], got \[4\]"):
        first((X, Y[:4]), labels=True)
    with pytest.raises(InputError, match="floating-point images, got uint8"):
        first(torch.zeros(1, 1, 6, 6, dtype=torch.uint8))
