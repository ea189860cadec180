"""What a caller says about inputs, over what is known."""

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.adapters.overrides import changed
from explainkit.adapters.preprocessing import (
    CenterCrop,
    Letterbox,
    Pad,
    Preprocessing,
    Resize,
    ReverseChannels,
)
from explainkit.errors import InputError
from explainkit.interfaces import spec_of

IMAGENET = Preprocessing(
    (Resize(256, interpolation="bicubic"), CenterCrop(224)), (0.4,) * 3, (0.2,) * 3
)


@pytest.mark.parametrize(
    ("steps", "size", "wanted"),
    [
        (IMAGENET.steps, 112, (Resize(128, interpolation="bicubic"), CenterCrop(112))),
        (
            IMAGENET.steps,
            (112, 224),
            (Resize((128, 256), interpolation="bicubic"), CenterCrop((112, 224))),
        ),
        ((Resize((48, 32), "exact"),), 96, (Resize(96, "exact"),)),
        ((Letterbox(640, 30),), (320, 640), (Letterbox((320, 640), 30),)),
        ((Resize(60, "longest"), Pad(64)), 128, (Resize(120, "longest"), Pad(128))),
        ((), 32, (Resize(32), CenterCrop(32))),
        ((Resize(60),), 32, (Resize(32), CenterCrop(32))),  # of no fixed size
        (
            (Resize(60, longest_edge=90), CenterCrop(50)),
            100,
            (Resize(120, longest_edge=180), CenterCrop(100)),
        ),
        ((ReverseChannels(), Resize(60, "exact")), 30, (ReverseChannels(), Resize(30, "exact"))),
    ],
)
def test_a_size_scales_the_steps(steps, size, wanted):
    assert changed(Preprocessing(steps), size=size).steps == wanted


def test_the_size_that_is_there_changes_nothing():
    assert changed(IMAGENET, size=224) == IMAGENET
    assert changed(IMAGENET) is not None
    assert changed(IMAGENET) == IMAGENET


def test_a_crop_resizes_to_size_over_crop():
    assert changed(IMAGENET, crop=0.5).steps == (
        Resize(448, interpolation="bicubic"), CenterCrop(224),
    )  # fmt: skip
    assert changed(Preprocessing(), size=(30, 60), crop=0.9).steps == (
        Resize((33, 66)), CenterCrop((30, 60)),
    )  # fmt: skip


def test_a_normalization():
    found = changed(Preprocessing(known=False), mean=0.5, std=[0.1, 0.2, 0.3])
    assert (found.mean, found.std, found.known) == ((0.5,) * 3, (0.1, 0.2, 0.3), True)
    assert changed(IMAGENET, std=1.0).mean == IMAGENET.mean


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": 0.5}, "expected mean= and std= together"),
        ({"mean": (0.5, 0.5), "std": 1.0}, "expected 3 finite numbers"),
        ({"mean": 0.5, "std": 0.0}, "above 0"),
        ({"size": 0}, "expected pixels or"),
        ({"size": (3, 4, 5)}, "expected pixels or"),
        ({"crop": 0.5}, "crop: expected size= with it"),
        ({"size": 32, "crop": 1.5}, "above 0 and up to 1"),
    ],
)
def test_values_out_of_range(given, message):
    with pytest.raises(InputError, match=message):
        changed(Preprocessing(known=False), **given)


def test_arguments_of_load_model(tmp_path):
    code = tmp_path / "gray.py"
    code.write_text("from torch import nn\nmake = lambda: nn.Conv2d(1, 2, 3)")
    spec = spec_of(ek.load_model(f"{code}:make", mean=0.5, std=0.5, size=8, crop=0.8))
    assert spec.preprocessing == Preprocessing((Resize(10), CenterCrop(8)), (0.5,), (0.5,), 1)
    assert spec.mean == spec.std == (0.5,)
    assert spec_of(ek.load_model(f"{code}:make")).preprocessing is None


def test_a_fixed_shape_follows_the_size():
    spec = spec_of(ek.load_model("fer_hw3/cnn", size=64))
    assert spec.image_shape == (1, 64, 64)
    assert spec.mean == spec_of(ek.load_model("fer_hw3/cnn")).mean


def test_registered_models_without_their_weights_and_with_others(tmp_path):
    own, random = ek.load_model("fer_hw3/dnn"), ek.load_model("fer_hw3/dnn", pretrained=False)
    name = next(iter(own.state_dict()))
    assert not torch.equal(own.state_dict()[name], random.state_dict()[name])
    torch.save(nn.DataParallel(own).state_dict(), tmp_path / "dnn.pth")
    again = ek.load_model("fer_hw3/dnn", weights=tmp_path / "dnn.pth", allow_pickle=True)
    assert all(torch.equal(own.state_dict()[n], v) for n, v in again.state_dict().items())
    assert again.explainkit_name == "fer_hw3/dnn (dnn.pth)"
    with pytest.raises(ek.ModelError, match="got another weights file"):
        ek.load_model("a.safetensors", weights=tmp_path / "dnn.pth", allow_pickle=True)
