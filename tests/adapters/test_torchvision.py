"""Models of torchvision, without a network: transforms and categories are those of the weights."""

import pytest
import torch
from foreign import foreign

torchvision = foreign("torchvision")

import explainkit as ek
from explainkit.adapters.preprocessing import CenterCrop, Resize
from explainkit.errors import ModelError, UnknownNameError
from explainkit.interfaces import spec_of

NAME = "squeezenet1_1"


def test_a_name_alone():
    spec = spec_of(ek.load_model(f"torchvision:{NAME}", pretrained=False))
    assert spec.preprocessing.steps == (Resize(256), CenterCrop(224))
    assert spec.mean == (0.485, 0.456, 0.406)
    assert spec.class_names[:2] == ("tench", "goldfish")
    assert spec.image_shape is None


def test_weights_by_their_name_have_their_own_transforms():
    default, first = (
        spec_of(ek.load_model(f"torchvision:mobilenet_v2{tag}", pretrained=False))
        for tag in ("", ".IMAGENET1K_V1")
    )
    assert default.preprocessing.steps[0].size == 232
    assert first.preprocessing.steps[0].size == 256


def test_weights_for_other_classes(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(NAME, num_classes=3).eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "w.pth")
    model = ek.load_model(f"torchvision:{NAME}", weights=tmp_path / "w.pth", allow_pickle=True)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(x), theirs(x))
    assert spec_of(model).class_names == ()


def test_a_failed_download_is_one_line(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match="not known.: check the connection, or give its weights"):
        ek.load_model(f"torchvision:{NAME}")


def test_errors():
    with pytest.raises(UnknownNameError, match="torchvision has no model .* 'squeezenet1_1'"):
        ek.load_model("torchvision:squeezenet1_2")
    with pytest.raises(UnknownNameError, match="no weights 'V3' .* it has IMAGENET1K_V1"):
        ek.load_model(f"torchvision:{NAME}.V3")
