"""FER2013 in all its formats; damaged data gives one-line errors and never a crash."""

import contextlib
import io
import json
import os
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from forms import COUNT, TABLES, table, text, tree, unpack, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import explainkit as ek
from explainkit.errors import DatasetError
from explainkit.interfaces import Dataset
from explainkit_fer_hw3.commands import app
from explainkit_fer_hw3.data import load_fer2013, load_synthetic, read_image
from explainkit_fer_hw3.data.table import read_table


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("packed", [False, True])
def test_tables(images, tmp_path, form, packed):
    data = table(images, form)
    path = tmp_path / "anything.bin"
    path.write_bytes(zipped({"x/whatever.txt": data, "readme": b"hello"}) if packed else data)
    found = load_fer2013(path, "all")
    assert torch.equal(found.pixels[:, 0], torch.from_numpy(images[0]))
    labels = torch.full((COUNT,), -1) if form == "test" else torch.from_numpy(images[1])
    assert torch.equal(found.labels, labels)
    assert found.names[4] == "row 5"
    assert found.indices.tolist() == list(range(COUNT))


@pytest.mark.parametrize("root", ["", "fer2013/", "a/b/"])
@pytest.mark.parametrize("packed", [False, True])
def test_trees(images, tmp_path, root, packed):
    files = {root + name: data for name, data in tree(images).items()}
    files |= {"README.md": b"hello", "__MACOSX/train/happy/._x.png": b"junk"}
    if packed:
        path = tmp_path / "tree"
        path.write_bytes(zipped(files))
    else:
        path = unpack(files, tmp_path / "tree")
    found = load_fer2013(path, "all")
    order = sorted(tree(images))
    rows = [int(name.rpartition("_")[2][:5]) for name in order]
    assert torch.equal(found.pixels[:, 0], torch.from_numpy(images[0][rows]))
    assert torch.equal(found.labels, torch.from_numpy(images[1][rows]))
    assert list(found.names) == [root + name for name in order]


def test_folders_decide_where_names_do_not(images, tmp_path):
    names = [f"{part}/{label}/{i}.png" for part, label, i in [
        ("train/test", "happy", 4),
        ("train", "Anger", 0), ("validation", "3", 1), ("test", "Surprised", 2), ("val", "sad", 3),
    ]]  # fmt: skip
    data = next(iter(tree(images).values()))
    path = unpack(dict.fromkeys(names, data), tmp_path / "t")
    assert load_fer2013(path, "train").labels.tolist() == [0]
    assert load_fer2013(path, "validation").labels.tolist() == [4, 3]
    assert load_fer2013(path, "public_test").labels.tolist() == [5, 3]


def test_splits_given_by_the_file(images, tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(table(images, "fer2013"))
    assert load_fer2013(path, "public_test").indices.tolist() == [21, 22, 23, 24]
    assert load_fer2013(path, "private_test").indices.tolist() == [25, 26, 27]
    assert load_fer2013(path, "train").indices.tolist() == list(range(21))
    with pytest.raises(DatasetError, match="expected images in split 'validation', found none"):
        load_fer2013(path, "validation")  # a tenth of three of each class
    path.write_bytes(table(images, "train"))
    with pytest.raises(DatasetError, match="no split 'public_test'; it has train, validation, all"):
        load_fer2013(path, "public_test")
    path.write_bytes(table(images, "test"))
    assert len(load_fer2013(path, "public_test")) == COUNT


@given(st.integers(0, 2**32), st.lists(st.integers(0, 6), min_size=1, max_size=300))
@settings(deadline=None, max_examples=50)
def test_the_sampled_validation_split(seed, labels):
    from explainkit_fer_hw3.data.splits import rows_of

    labels, codes = np.array(labels), np.zeros(len(labels), dtype=np.int8)
    train, held = (rows_of(n, labels, codes, seed, "f") for n in ("train", "validation"))
    assert sorted([*train, *held]) == list(range(len(labels)))
    for label in range(7):
        count = int((labels == label).sum())
        assert int((labels[held] == label).sum()) == round(0.1 * count)
    assert np.array_equal(held, rows_of("validation", labels, codes, seed, "f"))


def test_a_data_set(images, tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(table(images, "fer2013"))
    found = ek.load_dataset("fer_hw3/fer2013", path, split="all")
    assert isinstance(found, Dataset)
    image, label = found[3]
    expected = (torch.from_numpy(images[0][3]).float() / 255 - 0.5077) / 0.2550
    torch.testing.assert_close(image[0], expected)
    assert label == int(images[1][3])
    torch.testing.assert_close(found.images[3], image)
    assert found.subset(found.labels == 3).labels.unique().tolist() == [3]
    some = found.subset([5, 2])
    assert some.indices.tolist() == [5, 2]
    assert some.names == ("row 6", "row 3")
    torch.testing.assert_close(some.images, found.images[[5, 2]])


def test_a_sum_keeps_parts_where_both_have_them():
    one, other = load_synthetic(count=3), load_synthetic(split="validation", count=2)
    both = one + other
    assert torch.equal(both.pixels, torch.cat([one.pixels, other.pixels]))
    assert torch.equal(both.labels, torch.cat([one.labels, other.labels]))
    assert torch.equal(both.indices, torch.cat([one.indices, other.indices]))
    assert both.names == one.names + other.names
    assert torch.equal(both.parts, torch.cat([one.parts, other.parts]))
    without = replace(other, parts=None)
    assert (one + without).parts is None
    assert (without + one).parts is None


class TestCache:
    @pytest.fixture
    def path(self, images, tmp_path):
        path = tmp_path / "f.csv"
        path.write_bytes(table(images, "icml"))
        return path

    def test_the_second_read_does_not_parse(self, path, cache_folder, monkeypatch):
        first = load_fer2013(path, "all")
        (kept,) = cache_folder.iterdir()
        monkeypatch.setattr("explainkit_fer_hw3.data.fer2013.read_table", None)
        again = load_fer2013(path, "all")
        assert torch.equal(first.pixels, again.pixels)
        assert (first.names, first.labels.tolist()) == (again.names, again.labels.tolist())
        with pytest.raises(TypeError):
            load_fer2013(path, "all", cache=False)
        assert kept.stat().st_size < 2 * first.pixels.numel() + 10_000

    def test_another_content_is_another_key(self, path, images):
        load_fer2013(path, "all")
        path.write_bytes(table(images, "fer2013").replace(b"Training", b"PublicTest"))
        assert len(load_fer2013(path, "public_test")) == 25

    @pytest.mark.parametrize("damage", ["cut", "flip", "empty", "noise"])
    def test_a_damaged_cache_is_rewritten(self, path, cache_folder, damage):
        first = load_fer2013(path, "all")
        (kept,) = cache_folder.iterdir()
        whole = kept.read_bytes()
        broken = {
            "cut": whole[: len(whole) // 2],
            "flip": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
            "empty": b"",
            "noise": os.urandom(1000),
        }[damage]
        kept.write_bytes(broken)
        assert torch.equal(load_fer2013(path, "all").pixels, first.pixels)
        assert kept.read_bytes() == whole

    def test_a_cache_that_cannot_be_written(self, path, tmp_path, monkeypatch):
        blocked = tmp_path / "file"
        blocked.write_text("")
        monkeypatch.setenv("EXPLAINKIT_CACHE", str(blocked / "below"))
        assert len(load_fer2013(path, "all")) == COUNT


def good(images, row=0):
    return f"3,{text(images[0][row])},Training\n"


def rows(*lines):
    return ("emotion,pixels,Usage\n" + "".join(lines)).encode()


DAMAGED = {
    "empty": (lambda g: b"", "expected a header with a column 'pixels'"),
    "header only": (lambda g: b"emotion,pixels,Usage\n", "expected rows of images"),
    "no pixels": (lambda g: b"emotion,Usage\n1,Training\n", "column 'pixels' or 'feature'"),
    "two labels": (lambda g: b"label,emotion,pixels\n", "one column for label in the header"),
    "binary": (lambda g: bytes(range(256)) * 20, "expected a header"),
    "few values": (lambda g: rows(g, "1,3 4 5,Training\n"), "row 2, pixels: expected 2304 .* got 3"),
    "many values": (lambda g: rows(g.replace("3,", "3,7 ", 1)), "row 1, pixels: .* got 2305"),
    "256": (lambda g: rows(re.sub(r"^3,\d+", "3,256", g)), "row 1, pixels: .* 0 to 255, got 256"),
    "a word": (lambda g: rows(g, "1,abc,Training\n"), "row 2, pixels: expected whole .* 'abc'"),
    "negative": (lambda g: rows(g, "1,-3 4,Training\n"), "row 2, pixels: .* got '-3'"),
    "decimal": (lambda g: rows(g, "1,3.5 4,Training\n"), "row 2, pixels: .* got '3.5'"),
    "huge": (lambda g: rows(re.sub(r"^3,\d+", "3," + "9" * 400, g)), "row 1, pixels: .* 0 to 255"),
    "label 7": (lambda g: rows("7" + g[1:]), "row 1, label: expected 0 to 6, got '7'"),
    "label -1": (lambda g: rows(g, "-1" + g[1:]), "row 2, label: expected 0 to 6, got '-1'"),
    "label word": (lambda g: rows("happy" + g[1:]), "row 1, label: .* got 'happy'"),
    "usage": (lambda g: rows(g.replace("Training", "Holiday")), "row 1, usage: .* got 'Holiday'"),
    "columns": (lambda g: rows(g, "3,1 2\n"), "row 2: expected 3 columns, got 2"),
    "more columns": (lambda g: rows(g.replace("\n", ",x\n")), "row 1: expected 3 columns, got 4"),
    "cut": (lambda g: rows(g, g[:5000]), "row 2: expected 3 columns, got 2"),
    "NUL": (lambda g: rows(g.replace("3,", "3,\0", 1)), r"row 1, pixels: .*x00"),
    "quote": (lambda g: rows(g.replace("3,", '3,"', 1)), "row 1: unclosed quotation mark"),
    "utf-16": (lambda g: rows(g).decode().encode("utf-16"), "expected a header"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_tables(images, tmp_path, make, message, packed):
    data = make(good(images))
    path = tmp_path / "bad.csv"
    if packed:
        path.write_bytes(zipped({"bad.csv": data}))
    else:
        path.write_bytes(data)
    with pytest.raises(DatasetError, match=message) as caught:
        load_fer2013(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + 2 * len(str(path))


def test_an_endless_line_is_refused_before_it_is_read():
    class Endless(io.RawIOBase):
        """A hundred megabytes without a line end."""

        given = 0

        def read(self, size=-1):
            self.given += size
            assert self.given < 4 << 20, "read on after the line was too long"
            return b"1 " * (size // 2)

    with pytest.raises(DatasetError, match="row 0: expected at most 65,536 bytes"):
        read_table(Endless(), "f")


class TestPaths:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(DatasetError, match="expected a file or folder at .*found nothing"):
            load_fer2013(tmp_path / "missing.csv")
        with pytest.raises(DatasetError, match="expected images in folders"):
            load_fer2013(tmp_path)
        with pytest.raises(DatasetError, match="expected the path"):
            load_fer2013(None)

    def test_a_folder_that_is_not_a_class(self, images, tmp_path):
        data = next(iter(tree(images).values()))
        path = unpack({"train/bored/1.png": data}, tmp_path / "t")
        with pytest.raises(
            DatasetError, match=r"train/bored/1\.png: expected a folder named after a class"
        ):
            load_fer2013(path)

    def test_images_of_another_size(self, tmp_path):
        buffer = io.BytesIO()
        Image.new("L", (50, 48)).save(buffer, "PNG")
        path = unpack({"train/happy/1.png": buffer.getvalue()}, tmp_path / "t")
        with pytest.raises(DatasetError, match=r"1\.png: expected 48 × 48 pixels, got 50 × 48"):
            load_fer2013(path)

    @pytest.mark.parametrize(
        ("data", "message"),
        [(b"", "expected an image"), (b"GIF89a" + bytes(50), "expected an image"),
         (b"x" * (1 << 20) + b"xx", "at most 1,048,576 bytes")],
    )  # fmt: skip
    def test_files_that_are_not_images(self, tmp_path, data, message):
        path = unpack({"train/happy/1.jpg": data}, tmp_path / "t")
        with pytest.raises(DatasetError, match=message):
            load_fer2013(path)

    def test_a_truncated_image(self, images, tmp_path):
        buffer = io.BytesIO()
        Image.fromarray(images[0][0]).save(buffer, "JPEG")
        path = unpack({"train/happy/1.jpg": buffer.getvalue()[:-300]}, tmp_path / "t")
        with pytest.raises(DatasetError, match=r"1\.jpg: the image is damaged"):
            load_fer2013(path)

    def test_links_are_not_followed(self, images, tmp_path):
        outside = unpack(tree(images), tmp_path / "outside")
        inside = unpack({"train/happy/1.png": next(iter(tree(images).values()))}, tmp_path / "in")
        (inside / "more").symlink_to(outside)
        (inside / "train/happy/2.png").symlink_to(inside / "train/happy/1.png")
        assert len(load_fer2013(inside, "all")) == 1

    def test_encrypted_members(self, images, tmp_path):
        data = bytearray(zipped({"train/happy/1.png": next(iter(tree(images).values()))}))
        for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(signature) + place] |= 1
        path = tmp_path / "locked.zip"
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=r"1\.png: the member is encrypted"):
            load_fer2013(path)

    def test_a_zip_bomb_stays_small(self, tmp_path):
        path = tmp_path / "bomb.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("train/happy/1.png", bytes(200 << 20))
        with pytest.raises(DatasetError, match="at most 1,048,576 bytes"):
            load_fer2013(path)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("f.csv", b"emotion,pixels\n" + b"1" * (200 << 20))
        with pytest.raises(DatasetError, match="at most 65,536 bytes"):
            load_fer2013(path)

    def test_of_two_tables_in_a_zip_the_one_with_more_columns(self, images, tmp_path):
        path = tmp_path / "two.zip"
        tables = {f"{n}.csv": table(images, n) for n in ("test", "train")}
        path.write_bytes(zipped(tables | {"figure.png": b"x"}))
        assert load_fer2013(path, "all").labels.min() >= 0
        path.write_bytes(zipped(tables | {"z.csv": table(images, "icml")}))
        assert len(load_fer2013(path, "private_test")) == 3

    @pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_decoders_without_a_bound_are_not_used(self, images, tmp_path, how):
        path = tmp_path / "x.zip"
        for name in ("t.csv", "train/happy/1.png"):
            with zipfile.ZipFile(path, "w", how) as archive:
                archive.writestr(name, table(images, "train"))
            with pytest.raises(DatasetError, match="expected a stored or deflated member"):
                load_fer2013(path)

    @pytest.mark.parametrize("large", [False, True])
    def test_a_zip_of_a_million_members(self, tmp_path, large):
        data = bytearray(zipped({"a": b""}))
        place = data.rindex(b"PK\5\6")
        if large:  # the zip64 record that takes over when the plain one is full
            data[place + 12 : place + 16] = b"\xff" * 4
            record = b"PK\6\6" + (44).to_bytes(8, "little") + bytes(28)
            data[place:place] = record + (1 << 30).to_bytes(8, "little") + bytes(8)
        else:
            data[place + 12 : place + 16] = (1 << 30).to_bytes(4, "little")
        (tmp_path / "x.zip").write_bytes(data)
        with pytest.raises(DatasetError, match="fewer members"):
            load_fer2013(tmp_path / "x.zip")

    def test_names_that_would_break_the_line(self, images, tmp_path):
        path = tmp_path / "x.zip"
        path.write_bytes(zipped({"train/bo\nred\x1b[31m/1.png": b"x"}))
        with pytest.raises(DatasetError) as caught:
            load_fer2013(path)
        assert str(caught.value).isprintable()
        path.write_bytes(zipped({f"train/bored/{'x' * 60_000}.png": b"x"}))
        with pytest.raises(DatasetError) as caught:
            load_fer2013(path)
        assert len(str(caught.value)) < 600

    def test_names_from_elsewhere(self, images, tmp_path):
        data = next(iter(tree(images).values()))
        path = tmp_path / "x.zip"
        path.write_bytes(zipped({"train\\happy\\1.png": data, "../train/sad/2.png": data}))
        assert sorted(load_fer2013(path, "all").labels.tolist()) == [3, 4]
        folder = unpack({"train/happy/1.png": data}, tmp_path / "t")
        os.rename(folder / "train/happy/1.png", os.fsencode(folder) + b"/train/happy/\xff.png")
        assert len(load_fer2013(folder, "all")) == 1

    def test_pipes_do_not_block(self, images, tmp_path):
        folder = unpack({"train/happy/1.png": next(iter(tree(images).values()))}, tmp_path / "t")
        os.mkfifo(folder / "train/happy/2.png")
        assert len(load_fer2013(folder, "all")) == 1
        with pytest.raises(DatasetError, match="expected a regular file or a folder"):
            load_fer2013(folder / "train/happy/2.png")
        with pytest.raises(DatasetError, match="expected a regular file"):
            read_image(folder / "train/happy/2.png")

    def test_a_folder_that_holds_a_table(self, images, tmp_path):
        (tmp_path / "fer2013.csv").write_bytes(table(images, "fer2013"))
        with pytest.raises(DatasetError, match=r"found the table fer2013\.csv: pass the path"):
            load_fer2013(tmp_path)

    def test_newlines_without_end(self, tmp_path):
        path = tmp_path / "x.zip"
        path.write_bytes(zipped({"t.csv": b"label,pixels\n" + b"\n" * (30 << 20)}))
        with pytest.raises(DatasetError, match="expected at most 100,000 rows"):
            load_fer2013(path)

    def test_seeds(self, images, tmp_path):
        (tmp_path / "f.csv").write_bytes(table(images, "train"))
        with pytest.raises(DatasetError, match="seed: expected at least 0, got -1"):
            load_fer2013(tmp_path / "f.csv", seed=-1)

    def test_no_home(self, images, tmp_path, monkeypatch):
        for name in ("EXPLAINKIT_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)

        def lost():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr("pathlib.Path.home", lost)
        (tmp_path / "f.csv").write_bytes(table(images, "train"))
        assert len(load_fer2013(tmp_path / "f.csv", "all")) == COUNT


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "delete", "insert", "cut", "repeat", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def mutate(data, mutations):
    data = bytearray(data)
    for kind, start, end, noise in mutations:
        if not data:
            break
        a, b = sorted((int(start * len(data)), int(end * len(data))))
        match kind:
            case "flip":
                data[a] ^= noise[0] or 1
            case "delete":
                del data[a : a + len(noise)]
            case "insert":
                data[a:a] = noise
            case "cut":
                del data[b:]
            case "repeat":
                data[a:a] = data[a : min(b, a + 5000)]
            case "swap":
                data[a : a + 8], data[b : b + 8] = data[b : b + 8], data[a : a + 8]
    return bytes(data)


def attempt(path):
    """Valid data or a DatasetError of one line; anything else fails the test."""
    try:
        found = load_fer2013(path, "all", cache=False)
    except DatasetError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
        return False
    assert found.pixels.shape[1:] == (1, 48, 48)
    assert bool(((found.labels >= -1) & (found.labels < 7)).all())
    return True


FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.mark.parametrize("form", ["fer2013", "icml", "zip of images", "zip of a table"])
def test_damaged_files(images, tmp_path, form):
    whole = {
        "fer2013": lambda: table(images, "fer2013")[:60_000],
        "icml": lambda: table(images, "icml")[:60_000],
        "zip of images": lambda: zipped(dict(list(tree(images).items())[:6])),
        "zip of a table": lambda: zipped({"t.csv": table(images, "train")[:60_000]}),
    }[form]()
    path = tmp_path / "damaged"
    outcomes = []

    @FUZZ
    @given(MUTATIONS)
    def damage(mutations):
        path.write_bytes(mutate(whole, mutations))
        outcomes.append(attempt(path))

    damage()
    assert len(outcomes) >= 150
    assert not all(outcomes)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
def test_damaged_images(images, tmp_path, form):
    """In a folder, no zip checksum protects the decoder from the damage."""
    buffer = io.BytesIO()
    Image.fromarray(images[0][0]).save(buffer, form)
    path = unpack({"train/happy/1.png": b""}, tmp_path / "t")

    @FUZZ
    @given(MUTATIONS)
    def damage(mutations):
        (path / "train/happy/1.png").write_bytes(mutate(buffer.getvalue(), mutations))
        attempt(path)
        with contextlib.suppress(DatasetError):
            read_image(path / "train/happy/1.png")

    damage()


class TestPhotos:
    def photo(self, tmp_path, image, name="p.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    def test_color_and_crop(self, tmp_path):
        image = Image.new("RGB", (200, 100), (255, 0, 0))
        image.paste((0, 0, 255), (50, 0, 150, 100))
        found = read_image(self.photo(tmp_path, image))
        assert found.shape == (1, 48, 48)
        assert found.dtype == torch.uint8
        assert set(found.flatten().tolist()) == {29}  # Rec. 601 luma of blue; the red is cut off

    def test_orientation_is_applied(self, tmp_path):
        image = Image.new("L", (60, 60), 0)
        image.paste(255, (0, 0, 60, 30))
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        found = read_image(self.photo(tmp_path, image, "p.jpg", exif=exif, quality=95))[0].float()
        assert float(found[:20].mean()) < 10
        assert float(found[28:].mean()) > 245

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_transparency_lies_on_gray(self, tmp_path, mode):
        image = Image.new("RGBA", (50, 50), (255, 255, 255, 0)).convert(mode)
        options = {"transparency": image.getpixel((0, 0))} if mode == "P" else {}
        found = read_image(self.photo(tmp_path, image, **options))
        assert int(found.float().mean()) == 128

    def test_resizing_averages(self, tmp_path):
        """Stripes finer than a pixel become their mean; picking pixels would keep stripes."""
        stripes = np.tile(np.array([0, 255], dtype=np.uint8), (480, 240))
        found = read_image(self.photo(tmp_path, Image.fromarray(stripes)))[0]
        assert float((found[4:-4, 4:-4].float() - 127.5).abs().max()) < 12

    def test_images_of_a_tree_are_bounded_by_their_header(self, tmp_path):
        buffer = io.BytesIO()
        Image.new("1", (3000, 3000)).save(buffer, "PNG")
        folder = unpack({"train/happy/1.png": buffer.getvalue()}, tmp_path / "t")
        with pytest.raises(DatasetError, match="expected at most 4,000,000 pixels"):
            load_fer2013(folder)

    def test_sixteen_bits(self, tmp_path):
        image = Image.fromarray(np.full((50, 50), 0x8000, dtype=np.uint16))
        found = read_image(self.photo(tmp_path, image))
        assert set(found.flatten().tolist()) == {128}

    def test_what_cannot_be_read(self, tmp_path):
        (tmp_path / "x.jpg").write_text("no image")
        with pytest.raises(DatasetError, match=r"x\.jpg: expected an image"):
            read_image(tmp_path / "x.jpg")
        with pytest.raises(DatasetError, match="can't be read: No such file"):
            read_image(tmp_path / "missing.jpg")
        with pytest.raises(DatasetError, match="expected a regular file"):
            read_image(tmp_path)

    def test_an_image_that_claims_too_much(self, tmp_path):
        path = self.photo(tmp_path, Image.new("1", (10_000, 10_000)))
        assert path.stat().st_size < 100_000
        with pytest.raises(DatasetError, match="expected at most 64,000,000 pixels"):
            read_image(path)


class TestSynthetic:
    def test_splits_do_not_overlap(self):
        populations = [load_synthetic(None, split, count=50) for split in
                       ("train", "validation", "public_test", "private_test", "all")]  # fmt: skip
        seen = {p.pixels[i].numpy().tobytes() for p in populations for i in range(50)}
        assert len(seen) == 250
        other = load_synthetic(None, "train", seed=1_000_000, count=50)
        assert not seen & {other.pixels[i].numpy().tobytes() for i in range(50)}

    def test_seeds_and_counts(self):
        one, again, other = (load_synthetic(None, "train", seed=s, count=7) for s in (0, 0, 1))
        assert torch.equal(one.pixels, again.pixels)
        assert not torch.equal(one.pixels, other.pixels)
        assert len(ek.load_dataset("fer_hw3/synthetic", split="validation")) == 700
        assert one.subset([3]).parts.shape == (1, 48, 48)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [({"path": "x"}, "leave out the path"), ({"split": "test"}, "split: expected train"),
         ({"count": 0}, "count: expected at least 1"), ({"seed": -1}, "seed: expected 0 to")],
    )  # fmt: skip
    def test_refusals(self, arguments, message):
        with pytest.raises(DatasetError, match=message):
            load_synthetic(**arguments)


def test_the_real_file(fer2013):
    found = load_fer2013(fer2013, "all")
    training = len(load_fer2013(fer2013, "train")) + len(load_fer2013(fer2013, "validation"))
    assert training == 28_709
    public = load_fer2013(fer2013, "public_test")
    assert len(public) == 3_589
    counts = torch.bincount(public.labels, minlength=7).tolist()
    assert counts == [467, 56, 496, 895, 653, 415, 607]
    assert len(found) == 32_298
    assert abs(float(found.images.mean())) < 0.02
    asked = [
        "evaluate",
        "--data",
        str(fer2013),
        "--split",
        "public_test",
        "--model",
        "dnn",
        "--json",
    ]
    shown = json.loads(CliRunner().invoke(app, asked).stdout)
    assert shown["n"] == 3_589
    assert 0.35 < shown["accuracy"] < 0.6
