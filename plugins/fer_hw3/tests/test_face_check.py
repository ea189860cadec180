"""Faces are within the distance that is usual for faces; other images are not, and get a warning."""

import json

import pytest
import torch
from PIL import Image
from test_commands import run

import explainkit as ek
from explainkit_fer_hw3.data import load_fer2013, load_synthetic
from explainkit_fer_hw3.data.dataset import normalize
from explainkit_fer_hw3.face_check import face_distance
from explainkit_fer_hw3.models import packaged_weights


def test_the_distance_is_the_root_mean_square_of_z_scores():
    images = load_synthetic(split="all", count=3).images
    outputs = []
    model = ek.load_model("fer_hw3/cnn")
    model[9].register_forward_hook(lambda *call: outputs.append(call[2].double()))
    with torch.inference_mode():
        model(images)
    faces = {name: value.double() for name, value in packaged_weights("faces.safetensors").items()}
    z_scores = (outputs[0].mean((2, 3)).sqrt() - faces["mean"]) / faces["std"]
    expected = z_scores.square().mean(1).sqrt() / faces["limit"]
    torch.testing.assert_close(face_distance(images).double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(face_distance(images[1:2]), face_distance(images)[1:2])


def test_synthetic_faces_are_usual():
    distance = face_distance(load_synthetic(split="all", seed=5, count=40).images)
    assert (distance > 1).sum() <= 2


@pytest.mark.slow
def test_faces_are_usual(fer2013):
    chosen = range(0, 3500, 35)
    distance = face_distance(load_fer2013(fer2013, "public_test").subset(chosen).images)
    assert (distance > 1).sum() <= 5  # of 100; 1.5 are expected


def test_what_is_no_face_is_not():
    random = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 255, 48)
    noise = [
        torch.nn.functional.interpolate(
            torch.rand(1, 1, cells, cells, generator=random) * 255, 48, mode="bilinear"
        )[0]
        for cells in (3, 6, 12, 24, 48)
    ]
    stripes = [((torch.arange(48) // width % 2) * 255.0).expand(1, 48, 48) for width in (1, 4, 12)]
    flat = [torch.full((1, 48, 48), value) for value in (0.0, 127.0, 255.0)]
    images = torch.stack([*noise, *stripes, *flat, ramp.expand(1, 48, 48)]).byte()
    assert (face_distance(normalize(images)) > 1).tolist() == [True] * len(images)


def test_a_command_warns_once_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    face = load_synthetic(split="all", count=1).pixels[0, 0].numpy()
    Image.fromarray(face).save("face.png")
    Image.new("RGB", (90, 60), (200, 120, 40)).save("wall.png")
    both = ("--image", "face.png", "--image", "wall.png")
    result = run("saliency", *both, "--model", "dnn", "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["images"]) == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert line.startswith("warning: wall.png may not be a face, or not a cropped one (")
