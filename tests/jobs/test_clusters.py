"""Clusters of a store's maps: a planted shortcut, numbers by hand, and what is refused."""

import re

import pytest
import torch
from torch import nn
from toys import smooth
from trigger import PATCHES, trained_trigger, triggers

import explainkit as ek
from explainkit.errors import InputError, StorageError, TargetError
from explainkit.results.statistics import wilson

METHOD = "input_x_gradient"
STAMPED = 24


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stamped_images(count=60, size=24):
    """Noise; the first ones have a stamp in one corner, and are named in another order."""
    x = torch.randn(count, 1, size, size, generator=generator(1))
    x[:, :, :4, :4] *= 0.02
    x[:STAMPED, :, :4, :4] += 3
    return {f"{(7 * i) % count:02}": image for i, image in enumerate(x)}


def reader(size=24):
    """A linear network that reads all pixels, and the stamp more than anything else."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(size * size, 2)).eval()
    weight = torch.randn(1, size, size, generator=generator(2)) / size
    weight[:, :4, :4] = 1.0
    net[1].weight.data = torch.cat([weight, -weight]).flatten(1)
    net[1].bias.data = torch.tensor([-10.0, 10.0])  # only the stamp makes it class 0
    return ek.adapt(net, preprocessing=None, class_names=["yes", "no"])


@pytest.fixture(scope="module")
def images():
    return stamped_images()


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clusters") / "maps"
    return ek.batch(images, reader(), METHOD, folder, target=0, shard_size=16, batch_size=16)


@pytest.fixture(scope="module")
def stamped(images):
    return {name: i < STAMPED for i, name in enumerate(images)}


def test_the_planted_short_cut_is_found(store, stamped):
    found = store.clusters()
    assert found.adjusted_rand(stamped) >= 0.9
    assert found.sizes[1] == pytest.approx(STAMPED, abs=1)
    mean = found.means[1] / found.means[1].abs().sum()
    assert mean[:3, :3].abs().sum() > 0.6  # the stamp has 4 of 24 pixels: 2.7 of 16 cells
    assert all(stamped[name] for name in found.closest[1])


def test_the_order_of_items_changes_nothing(store, stamped):
    one, other = store.clusters(), store[::-1].clusters()
    assert other.ids == one.ids[::-1]
    assert torch.equal(other.cluster.flip(0), one.cluster)
    assert other.closest == one.closest


def test_a_class_at_a_time(store, stamped):
    part = store.where(predicted=0)
    assert {item.id for item in part.items} == {name for name, yes in stamped.items() if yes}
    assert part.clusters(1).sizes == [STAMPED]


def test_agreement_with_mistakes(store, stamped):
    labels = dict.fromkeys(stamped, "no")  # every stamped image is a mistake
    found = store.clusters(labels=labels)
    assert found.agreement()["mistakes"] >= 0.9
    assert found.agreement()["true classes"] == 0
    rows = found.table()
    assert rows[1]["label"] == "no"
    assert rows[1]["label_share"] == 1
    assert rows[1]["predicted"] == "yes"
    assert rows[1]["wrong"] == 1
    assert (rows[1]["wrong_low"], rows[1]["wrong_high"]) == wilson(STAMPED, STAMPED)[1:]
    assert rows[0]["wrong"] == 0
    torch.testing.assert_close(found.shares(), torch.tensor([[0.0, 1], [1, 0]]).double())
    torch.testing.assert_close(found.shares("label"), torch.tensor([[0.0, 1], [0, 1]]).double())


def test_labels_by_position_where_some_are_unknown(store):
    labels = [None if i % 2 else 1 for i in range(len(store))]
    found = store.clusters(2, labels=labels)
    assert found.label.tolist() == [-1 if one is None else 1 for one in labels]
    assert "The true classes of 30 of 60 images are known." in found.notes
    assert store.clusters(2).agreement().keys() == {"predicted classes"}


def test_one_cluster_against_all_others(store, stamped):
    found = store.clusters(4)
    inside = [set(found.members(k)) for k in range(4)]
    for k in range(4):
        assert found.adjusted_rand({name: name in inside[k] for name in found.ids}, k) == 1
    best = max(range(4), key=lambda k: found.adjusted_rand(stamped, k))
    assert found.adjusted_rand(stamped, best) > found.adjusted_rand(stamped)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_a_stamp_is_found_in_a_trained_network(tmp_path, seed):
    """The network tells two patches apart wherever they are; some images have one in one corner."""
    x, _ = triggers(100, seed=seed)
    random = generator(seed + 50)
    stamped = 0.5 * smooth(torch.randn(60, 48, 48, generator=random), 9)[:, None]
    stamped += 0.2 * torch.randn(stamped.shape, generator=random)
    stamped[:, 0, 2:10, 2:10] = 1.2 * PATCHES[1]
    images = {f"{i:03}": one for i, one in enumerate(torch.cat([x, stamped]))}
    store = ek.batch(images, trained_trigger(512, 32), "gradcam", tmp_path / "maps")
    truth = {name: int(name) >= 100 for name in images}
    assert store.clusters(2).adjusted_rand(truth) >= 0.9
    found = store.clusters(cells=8)  # patches anywhere are clusters by where they are
    assert max(found.adjusted_rand(truth, k) for k in range(len(found))) >= 0.9


def test_maps_are_those_of_the_store(store):
    found = list(store[5:40:3].maps())
    assert [place for place, _ in found] == list(range(12))
    for place, one in found:
        assert torch.equal(one, store[5:40:3][place].attribution[0])


def test_items_without_maps_are_left_out_and_counted(images, tmp_path):
    broken = {**images, "99": torch.full((1, 24, 24), torch.nan)}
    store = ek.batch(broken, reader(), METHOD, tmp_path / "maps", target=0, batch_size=16)
    found = store.clusters(2)
    assert len(found.ids) == 60
    assert "1 image has no map and is left out." in found.notes


def test_exemplars_come_from_the_store(store, images):
    found = store.clusters(2)
    for name, one in zip(found.closest[0], found.exemplars(0), strict=True):
        assert one.names == (name,)
        assert torch.equal(one.inputs[0], images[name])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, InputError, "n: expected at least 1"),
        ({"method": "gradcam"}, InputError, "method: expected one of explainkit/input_x_gradient"),
        ({"labels": [0]}, InputError, "labels: expected 60"),
        ({"labels": {"00": "maybe"}}, TargetError, "yes, no"),
        ({"neighbors": 59}, InputError, "at least 61 maps"),
    ],
)
def test_refused(store, options, error, message):
    with pytest.raises(error, match=message):
        store.clusters(**options)


def test_no_such_cluster_and_no_such_images(store):
    found = store.clusters(2)
    with pytest.raises(InputError, match="a cluster from 0 to 1, got 2"):
        found.members(2)
    with pytest.raises(InputError, match="at least 2 of the clustered images, got 0"):
        found.adjusted_rand({"x": 1})


def test_the_figure_has_a_row_for_each_cluster(store):
    figure = store.clusters(2).plot()
    texts = [text.get_text() for text in figure.texts]
    assert [text for text in texts if text.startswith("cluster ")] == ["cluster 0", "cluster 1"]
    assert any("24 images, 40 %\npredicted yes: 100 %" in text for text in texts)
    assert len(figure.axes) == 2 * 7 + 1


def test_the_report_is_one_file(store, tmp_path):
    found = store.clusters(2)
    text = found.report(tmp_path / "clusters.html").read_text()
    assert text.count("<section") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert text.count("<img") == 2 * (1 + 2 * 6)
    assert all(f"<bdi>{name}</bdi>" in text for name in found.ids)
    assert store.plan.hash in text


def test_a_changed_store_is_an_error(images, tmp_path):
    store = ek.batch(images, reader(), METHOD, tmp_path / "maps", target=0, batch_size=16)
    path = next((tmp_path / "maps" / "shards").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="sha256"):
        ek.Store(store.path).clusters(2)
