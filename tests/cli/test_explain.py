"""`explainkit explain`: files, names, lines, exit codes, and maps on the photos themselves."""

import json
import signal
import warnings

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import explainkit as ek
from explainkit.cli.app import app, main
from explainkit.errors import ModelError, TargetError, UnknownNameError
from explainkit.render.heatmap import color, scale

NETS = """
import signal
import warnings
import torch
from torch import nn

def make():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    return net.eval()

def value():
    return nn.Sequential(make(), nn.Linear(3, 1))

class Stopped(nn.Module):
    calls = 0
    def __init__(self):
        super().__init__()
        self.net = make()
    def forward(self, x):
        Stopped.calls += 1
        if Stopped.calls == Stopped.last:
            signal.raise_signal(signal.SIGINT)
        return self.net(x)

def stopped():
    return Stopped()

class Loud(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make()
    def forward(self, x):
        warnings.warn("an old\\n  spelling", stacklevel=1)
        return self.net(x)

def loud():
    return Loud().eval()

def small(images):
    return images.mean((2, 3))
"""


def photo(height, width, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


def pixels(path):
    """An image as uint8."""
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a factory, class names and photos of odd sizes, one of them broken."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "names.txt").write_text("cat\ndog\nsea otter\n")
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    photo(37, 53, 1).save(photos / "a.png")
    photo(64, 40, 2).save(photos / "b.jpg")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    photo(30, 30, 3).save(photos / "more" / "c.webp")
    photo(30, 30, 4).save(photos / ".hidden.png")
    (photos / "notes.txt").write_text("no image")
    return tmp_path


KNOWN = ["--classes", "names.txt", "--mean", "0.5,0.4,0.3", "--std", "0.25", "--size", "32"]


def run(*arguments, model="nets.py:make", known=KNOWN, code=0, figure=False):
    options = ["--model", model, *known, *([] if figure else ["--no-figure"])]
    done = CliRunner().invoke(app, ["explain", *options, *arguments])
    if isinstance(done.exception, Exception):
        raise done.exception
    assert done.exit_code == code, done.stderr
    return done


def rows_of(*arguments, **options):
    return json.loads(run("--json", *arguments, **options).stdout)["images"]


def test_a_folder(here):
    done = run("photos", code=1, figure=True)
    out = here / "explainkit-out"
    names = ["a", "b", "more-c"]
    made = {f"{name}{end}.png" for name in names for end in ("", "_gradcam")}
    assert {file.name for file in out.iterdir()} == made
    sizes = {"a": (37, 53), "b": (64, 40), "more-c": (30, 30)}
    for name, size in sizes.items():
        assert pixels(out / f"{name}_gradcam.png").shape == (*size, 3)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, file in zip(lines, ("a.png", "b.jpg", "more/c.webp"), strict=True):
        name = file.partition(".")[0].replace("/", "-")
        assert line.startswith(f"photos/{file}: ")
        assert line.endswith(f"%); gradcam: explainkit-out/{name}_gradcam.png")
    assert done.stderr.splitlines()[0].startswith("error: photos/broken.jpg: the image is damaged")
    assert done.stderr.splitlines()[-1] == "1 of 4 images could not be read"


def test_verdicts_stand_under_each_map(here):
    arguments = ["photos/a.png", "--method", "gradcam,saliency", "--scorecard"]
    done = run(*arguments, "--report", figure=True)
    lines = done.stdout.splitlines()
    assert [line[:2] for line in lines] == ["ph", "  ", "ph", "  ", "A "]
    assert "P-values are adjusted for 2 methods (Holm)." in lines[-1]
    assert "power of these tests on this network is unknown" in lines[-1]
    rows = rows_of(*arguments)
    for row, line in zip(rows, lines[1::2], strict=True):
        card = row["scorecard"]
        assert line == f"  {card['verdict']}. {card['sentence']}"
        assert len(card["p"]) == 3
        assert (card["methods"], card["positive_control"]) == (2, None)
    page = (here / "explainkit-out/a.html").read_text()
    for row in rows:
        verdict, sentence = (escape(row["scorecard"][key]) for key in ("verdict", "sentence"))
        assert f"{verdict}</b> {sentence}</p>" in page
    assert "“not supported” is not “wrong”" in page
    assert "scorecard" not in rows_of("photos/a.png")[0]
    assert "leave out --at" in run(*arguments, "--at", "0", code=2).stderr


def test_ten_photos_show_whether_a_network_can_be_tested(here):
    for i in range(10):
        photo(32, 32, i).save(here / f"ten{i}.png")
    (here / "ten4b.png").write_bytes(b"no image")
    patterns = ["ten*.png", "--method", "saliency", "--scorecard"]
    rows = rows_of(*patterns, code=1)
    assert [row["image"] for row in rows] == [f"ten{i}.png" for i in range(10)]
    ((passed, images),) = {tuple(row["scorecard"]["positive_control"]) for row in rows}
    assert images == 10
    weak = images - passed > images / 3
    assert {row["scorecard"]["verdict"] == "low power on this network" for row in rows} == {weak}


def test_networks_of_known_power_have_verdicts_by_default(here):
    rows = rows_of("photos/a.png", "--method", "saliency", model="fer_hw3/dnn", known=[])
    assert rows[0]["scorecard"]["verdict"] == "low power on this network"
    arguments = ["photos/a.png", "--method", "saliency", "--no-scorecard"]
    assert "scorecard" not in rows_of(*arguments, model="fer_hw3/dnn", known=[])[0]


def test_the_overlay_is_the_map_carried_back_to_the_photo(here):
    run("photos/a.png", "--crop", "0.8", "--param", "relu=true")
    original = Image.fromarray(pixels("photos/a.png"))
    # by hand: the shorter side to 40, then the 32 × 32 at the center
    wide, high = int(40 * 53 / 37), 40
    left, top = round((wide - 32) / 2), round((high - 32) / 2)
    crop = original.resize((wide, high), Image.Resampling.BILINEAR)
    crop = crop.crop((left, top, left + 32, top + 32))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.25, 0.25, 0.25])
    x = (torch.from_numpy(np.array(crop)) / 255 - mean) / std
    model = ek.load_model("nets.py:make")
    e = ek.explain(model, x.permute(2, 0, 1)[None], method="gradcam", relu=True)
    strength = scale(e.heatmap(), "percentile").values[0]
    # bilinear between the centers of the input's pixels, at the centers of the photo's
    rows = ((np.arange(37) + 0.5) * 40 / 37 - top - 0.5)[:, None]
    columns = ((np.arange(53) + 0.5) * wide / 53 - left - 0.5)[None]
    seen = ((rows + 0.5 >= 0) & (rows + 0.5 < 32)) & ((columns + 0.5 >= 0) & (columns + 0.5 < 32))
    y, x = np.clip(rows, 0, 31), np.clip(columns, 0, 31)
    y0, x0 = np.clip(np.floor(y), 0, 30).astype(int), np.clip(np.floor(x), 0, 30).astype(int)
    wy, wx = y - y0, x - x0
    placed = (
        strength[y0, x0] * (1 - wy) * (1 - wx) + strength[y0 + 1, x0] * wy * (1 - wx)
        + strength[y0, x0 + 1] * (1 - wy) * wx + strength[y0 + 1, x0 + 1] * wy * wx
    )  # fmt: skip
    gray = (np.array(original) / 255).mean(-1)[..., None]
    opacity = 0.85 * np.abs(placed)[..., None] ** 0.7
    wanted = (1 - opacity) * gray + opacity * color(placed) / 255
    found = pixels("explainkit-out/a_gradcam.png") / 255
    assert 0 < seen.sum() < seen.size
    assert np.abs(found - wanted)[seen].max() < 3 / 255
    hatched = found[~seen]
    assert np.ptp(hatched, axis=-1).max() == 0  # gray, whatever the photo's colors
    assert hatched.max() - hatched.min() > 0.1


def test_json_says_what_was_found(here):
    chosen = ["--method", "gradcam,saliency", "--param", "relu=true"]
    done = run("photos/a.png", "photos/broken.jpg", "--json", *chosen, code=1, figure=True)
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    assert (found["model"], found["complete"]) == ("nets.py:make", True)
    assert [one["image"] for one in found["failed"]] == ["photos/broken.jpg"]
    assert "damaged" in found["failed"][0]["error"]
    rows = found["images"]
    assert [(row["image"], row["method"]) for row in rows[:2]] == [
        ("photos/a.png", "explainkit/gradcam"),
        ("photos/a.png", "explainkit/saliency"),
    ]
    assert len(rows) == 2
    model = ek.load_model(
        "nets.py:make", class_names=["cat", "dog", "sea otter"], mean=(0.5, 0.4, 0.3), std=0.25,
        size=32,
    )  # fmt: skip
    direct = ek.explain(model, "photos/a.png", method="gradcam", relu=True)
    row = rows[0]
    assert row["score"] == pytest.approx(float(direct.score[0]), abs=1e-5)
    best = int(direct.logits[0].argmax())
    assert row["predicted"] == [
        {
            "class": direct.class_names[best],
            "index": best,
            "probability": pytest.approx(float(direct.probabilities[0, best]), abs=1e-5),
        }
    ]
    assert [one["index"] for one in row["most_probable"]] == direct.logits[0].argsort(
        descending=True
    ).tolist()
    assert (row["target"], row["target_index"]) == (direct.class_names[best], best)
    assert row["params"]["relu"] is True
    assert row["layer"] == direct.layer == "4"
    assert row["overlay"] == "explainkit-out/a_gradcam.png"
    assert row["figure"] == rows[1]["figure"] == "explainkit-out/a.png"


def test_the_most_probable_classes(here):
    rows = rows_of("photos/a.png", "photos/b.jpg", "--top", "3", "--method", "gradcam,saliency")
    for i, file in enumerate(("a", "b")):
        for j, name in enumerate(("gradcam", "saliency")):
            three = rows[6 * i + 3 * j :][:3]
            assert [row["target_index"] for row in three] == [
                one["index"] for one in three[0]["most_probable"]
            ]
            assert [row["method"] for row in three] == [f"explainkit/{name}"] * 3
            assert [row["overlay"] for row in three] == [
                f"explainkit-out/{file}_{name}{end}.png" for end in ("", "_2", "_3")
            ]
            direct = rows_of(
                f"photos/{file}.{'png' if file == 'a' else 'jpg'}", "--method", name,
                "--target", str(three[1]["target_index"]),
            )  # fmt: skip
            assert three[1]["score"] == pytest.approx(direct[0]["score"], abs=1e-5)
    with pytest.raises(TargetError, match="--top 4: expected at most 3, all classes"):
        run("photos/a.png", "--top", "4")
    value = ["--size", "32", "--task", "regression"]
    with pytest.raises(TargetError, match="--top 2: expected a model with classes"):
        run("photos/a.png", "--top", "2", model="nets.py:value", known=value)
    run("photos/a.png", "--top", "2", "--target", "dog", code=2)


def test_targets_layers_and_places(here):
    (row,) = rows_of("photos/a.png", "--target", "sea otter", "--layer", "0")
    assert (row["target"], row["target_index"], row["layer"]) == ("sea otter", 2, "0")
    assert row["overlay"].startswith("explainkit-out/a_gradcam_as_sea_otter")
    done = run("photos/a.png", "--target", 'logit("cat") - logit("dog")')
    assert "gradcam of logit(" in done.stdout
    (row,) = rows_of("photos/a.png", "--at", "3", "--method", "input_x_gradient")
    assert (row["at"], row["overlay"]) == ("3", "explainkit-out/a_input_x_gradient_at_3.png")
    assert pixels(row["overlay"]).shape == (37, 53, 3)
    several = rows_of("photos/a.png", "--at", "3,0:input", "--method", "saliency", "--top", "2")
    assert [one["at"] for one in several] == ["3", "0:input"] * 2
    assert len({one["target"] for one in several[::2]}) == 2
    assert len({one["overlay"] for one in several}) == 4
    assert all((here / one["overlay"]).is_file() for one in several)
    (row,) = rows_of("photos/a.png", "--dtype", "float64")
    (same,) = rows_of("photos/a.png")
    assert row["score"] == pytest.approx(same["score"], abs=1e-4)
    assert row["score"] != same["score"]
    (row,) = rows_of("photos/a.png", "--method", "occlusion", "--precision", "bfloat16")
    assert (row["precision"], same["precision"]) == ("bfloat16", None)
    assert row["score"] == same["score"]
    assert 0 < row["rank_agreement"] <= 1
    run("photos/a.png", "--method", "occlusion", "--precision", "float16", code=2)


def test_values_have_no_chances(here):
    known = ["--size", "32", "--task", "regression"]
    done = run("photos/a.png", model="nets.py:value", known=known)
    assert done.stdout.startswith("photos/a.png: output 0 = ")
    (row,) = rows_of("photos/a.png", model="nets.py:value", known=known)
    assert row["predicted"] is row["most_probable"] is None


def test_weights_of_ones_own(here):
    state = {name: 2 * value for name, value in ek.load_model("nets.py:make").state_dict().items()}
    save_file(state, "net.safetensors")
    (own,) = rows_of("photos/a.png")
    (given,) = rows_of("photos/a.png", "--weights", "net.safetensors")
    assert given["score"] != pytest.approx(own["score"], abs=1e-3)
    torch.save({"state_dict": {f"model.{name}": v for name, v in state.items()}}, "net.ckpt")
    with pytest.raises(ModelError, match="pickle"):
        run("photos/a.png", "--weights", "net.ckpt")
    (same,) = rows_of("photos/a.png", "--weights", "net.ckpt", "--allow-pickle")
    assert same["score"] == given["score"]


def test_a_function_is_a_black_box(here):
    (row,) = rows_of("photos/a.png", "--method", "occlusion", model="nets.py:small", known=KNOWN)
    assert row["method"] == "explainkit/occlusion"
    assert pixels(row["overlay"]).shape == (37, 53, 3)


def test_sizes_may_differ_without_a_known_size(here):
    rows = rows_of("photos/a.png", "photos/more", "photos/b.jpg", known=[])
    assert {row["image"] for row in rows} == {"photos/a.png", "photos/more/c.webp", "photos/b.jpg"}
    assert all(row["overlay"] for row in rows)


def test_what_is_not_known_is_said_once(here):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = run("photos/a.png", "photos/b.jpg", known=["--size", "32"])
    assert done.stderr.count("warning: gradcam: the model's normalization is not known") == 1


def test_warnings_of_other_packages_are_one_line_each(here):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning
        done = run("photos/a.png", "photos/b.jpg", model="nets.py:loud")
        assert warnings.showwarning is show
    assert done.stderr.count("spelling") == 1
    assert "warning: UserWarning: an old spelling\n" in done.stderr
    assert "nets.py:" not in done.stderr


def test_warnings_name_the_photo(here):
    Image.new("RGB", (40, 40), (128, 102, 76)).save("flat.png")
    done = run("photos/a.png", "flat.png", "--method", "input_x_gradient", "--mean", "0,0,0")
    Image.new("RGB", (40, 40)).save("black.png")
    done = run("photos/a.png", "black.png", "--method", "input_x_gradient", "--mean", "0,0,0")
    assert "the map is zero everywhere in black.png" in done.stderr


def test_files_never_share_a_name(here):
    (here / "same").mkdir()
    for name in ("cat.png", "cat.bmp", "Cat.webp", "cat_gradcam.png"):
        photo(20, 20, len(name)).save(here / "same" / name)
    rows = rows_of("same", "photos/a.png", "./photos/a.png", figure=True)
    files = [row[kind].casefold() for row in rows for kind in ("overlay", "figure")]
    assert len(rows) == 5
    assert len(set(files)) == len(list((here / "explainkit-out").iterdir())) == 10


def test_an_earlier_output_is_no_input(here):
    first = {row["image"] for row in rows_of(".", code=1)}
    assert first == {"photos/a.png", "photos/b.jpg", "photos/more/c.webp"}
    assert {row["image"] for row in rows_of(".", code=1)} == first


def test_patterns(here):
    assert [row["image"] for row in rows_of("photos/*.png")] == ["photos/a.png"]
    found = {row["image"] for row in rows_of("photos/**/*.[pw]*")}
    assert found == {"photos/a.png", "photos/more/c.webp"}
    photo(20, 20).save("odd[1].png")
    assert [row["image"] for row in rows_of("odd[1].png")] == ["odd[1].png"]
    done = run("photos/*.tiff", code=2)
    assert "found none in photos/*.tiff" in " ".join(done.stderr.split())
    missing = run("nothing.png", code=1)
    assert "nothing.png: can't be read: No such file" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "big"], "--size: expected 224 or height x width"),
        (["--mean", "a"], "--mean: expected numbers separated by commas"),
        (["--device", "toaster"], "--device toaster"),
        (["--batch-size", "0"], "batch-size"),
    ],
)
def test_wrong_options_are_usage_errors(here, arguments, message):
    done = run("photos/a.png", *arguments, code=2)
    text = " ".join(done.stderr.replace("│", " ").split())
    assert message in text


def test_unknown_names_are_errors_before_the_model_loads(here):
    with pytest.raises(UnknownNameError, match="gradcamm"):
        run("photos/a.png", "--method", "gradcamm", model="missing.py:make")


def test_maps_depend_on_the_seed_and_not_on_other_photos(here):
    chosen = ["--method", "smoothgrad", "--param", "samples=3", "--batch-size", "2"]
    (alone,) = rows_of("photos/b.jpg", *chosen)
    before = (here / alone["overlay"]).read_bytes()
    together = rows_of("photos/a.png", "photos/b.jpg", "photos/more", *chosen)
    assert together[1]["score"] == alone["score"]
    assert (here / alone["overlay"]).read_bytes() == before
    rows_of("photos/b.jpg", *chosen, "--seed", "5")
    assert (here / alone["overlay"]).read_bytes() != before


def test_a_report(here):
    row, other = rows_of("photos/a.png", "--report", "--method", "gradcam,saliency")
    text = (here / row["report"]).read_text()
    assert row["report"] == other["report"] == "explainkit-out/a.html"
    assert "explainkit explain photos/a.png --model nets.py:make" in text
    assert "figure" not in row


@pytest.mark.parametrize("method", ["gradcam", "rise"])
def test_an_interrupt_keeps_what_is_done(here, method, monkeypatch, capsys):
    chosen = ["--method", method, *(["--param", "samples=64"] if method == "rise" else [])]
    base = [
        "explain", "photos/a.png", "photos/b.jpg", "--model", "nets.py:stopped", *KNOWN, *chosen,
        "--batch-size", "1", "--json", "--no-figure",
    ]  # fmt: skip
    load = ek.load_model
    made = []

    def counting(*args, **options):
        made.append(load(*args, **options))
        kind = type(made[-1])
        kind.calls, kind.last = 0, last
        return made[-1]

    monkeypatch.setattr("explainkit.catalog.models.load_model", counting)
    last = -1
    with pytest.raises(SystemExit) as ended:
        main(base)
    assert ended.value.code == 0
    calls = type(made[-1]).calls
    capsys.readouterr()
    for file in (here / "explainkit-out").iterdir():
        file.unlink()
    last = calls  # in the last forward of the second photo
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        main(base)
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["complete"] is False
    assert [row["image"] for row in found["images"]] == ["photos/a.png"]
    assert {file.name for file in (here / "explainkit-out").iterdir()} == {f"a_{method}.png"}
    assert "interrupted" in captured.err
