"""The index of a store: thumbnails of many images in one file, written on the way."""

import io
import re
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli.app import app
from explainkit.errors import InputError
from explainkit.jobs.index import report
from explainkit.render.index import THUMBNAIL, Card, Summary, write_index
from explainkit.render.shown_image import shown_images, to_bytes

METHODS = ["saliency", "input_x_gradient"]


@pytest.fixture
def store(images, model, tmp_path):
    (images / "<b>broken.png").write_text("not an image")
    return ek.batch(images, model, METHODS, tmp_path / "out", batch_size=4, shard_size=8)


def cards(text):
    return re.findall(r"<li data-.*?</li>", text, re.S)


def test_every_image_has_a_card(store, tmp_path):
    text = report(store, tmp_path / "index.html").read_text()
    found = cards(text)
    assert len(found) == 21
    assert [re.search(r"<bdi>(.*?)</bdi>", one)[1] for one in found] == [
        item.id.replace("<", "&lt;").replace(">", "&gt;") for item in store.items
    ]
    assert "failed: " in found[0]
    assert "expected an image" in found[0]
    assert [one.count("<img") for one in found] == [0] + [3] * 20
    assert "20 ok · 0 refused · 1 failed" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert store.plan.hash in text


def test_the_thumbnail_is_the_image(store, tmp_path):
    text = report(store, tmp_path / "index.html").read_text()
    data = re.search(r"base64,([^\"]+)", cards(text)[3])[1]
    shown = to_bytes(shown_images(store[3][0], THUMBNAIL)[0].pixels)
    small = np.asarray(Image.open(io.BytesIO(b64decode(data))))
    assert small.shape == shown.shape
    # JPEG of noise; images that are unrelated differ by 85 on average
    assert np.abs(small.astype(float) - shown).mean() < 25


def test_a_limit_is_said_and_spaced_evenly(store, tmp_path):
    text = report(store, tmp_path / "index.html", limit=5).read_text()
    found = cards(text)
    assert len(found) == 6
    assert "5 of 20 images with maps are shown" in text
    kept = [item.id for item in store.items if item.status == "ok"][::4]
    assert all(name in one for name, one in zip(kept, found[1:], strict=True))
    with pytest.raises(InputError, match="limit"):
        report(store, tmp_path / "index.html", limit=0)


def test_parts_of_a_store(store, tmp_path):
    label = next(item.predicted for item in store.items if item.status == "ok")
    part = store.where(predicted=label)
    text = report(part, tmp_path / "index.html").read_text()
    assert len(cards(text)) == len(part)
    out = tmp_path / "other.html"
    arguments = ["report", str(store.path), "--out", str(out), "--predicted", "abc"[label]]
    done = CliRunner().invoke(app, arguments)
    assert done.stdout == f"{out}: {len(part)} images\n", done.output
    assert cards(out.read_text()) == cards(text)
    with pytest.raises(InputError, match="expected images"):
        report(store.where(status="refused"), tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_a_changed_image_is_said_on_its_card(store, images, tmp_path):
    Image.new("RGB", (9, 9)).save(images / "part 0" / "image_000.png")
    found = cards(report(store, tmp_path / "index.html").read_text())
    assert "was changed since it was explained" in found[1]
    assert "<img" not in found[1]


def test_verdicts_can_be_chosen(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 2)).eval()
    images = {str(i): torch.rand(1, 24, 24) for i in range(3)}
    store = ek.batch(images, net, "saliency", tmp_path / "out", scorecard=True)
    text = report(store, tmp_path / "index.html").read_text()
    for verdict in {item.judged[0].verdict for item in store.items}:
        assert f"<option>{verdict}</option>" in text
        assert f'data-verdicts="{verdict}"' in text


def test_cards_are_written_on_the_way(tmp_path):
    sizes = []

    def many():
        for i in range(300):
            draft = next(tmp_path.glob(".index.html-*"), None)
            sizes.append(draft.stat().st_size if draft else 0)
            yield Card(f"image {i}", "ok", images=["data:," + "x" * 10_000])

    summary = Summary("net", ["saliency"], {"ok": 300}, (), {})
    path = write_index(tmp_path / "index.html", summary, many(), ())
    assert path.stat().st_size > 3_000_000
    assert path.stat().st_size - sizes[-1] < 300_000
