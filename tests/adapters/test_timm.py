"""Models of timm, without a network: preprocessing, classes and weights are what timm says."""

import pytest
import torch
from foreign import foreign
from safetensors.torch import save_file

timm = foreign("timm")

import explainkit as ek
from explainkit.adapters import packages
from explainkit.adapters.preprocessing import CenterCrop, Resize
from explainkit.adapters.timm import preprocessing_of
from explainkit.errors import ModelError, UnknownNameError
from explainkit.interfaces import spec_of

IMAGENET = {
    "input_size": (3, 224, 224), "crop_pct": 0.9, "crop_mode": "center",
    "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({}, (Resize(248, "shortest", "bicubic"), CenterCrop(224))),
        ({"crop_mode": "squash"}, (Resize(248, "exact", "bicubic"), CenterCrop(224))),
        (
            {"crop_mode": "border"},
            (
                Resize(248, "longest", "bicubic", rounding="nearest"),
                CenterCrop(224, (128, 102, 76)),
            ),
        ),
        (
            {"input_size": (3, 90, 180), "interpolation": "bilinear"},
            (Resize((100, 200), "shortest", rounding="nearest"), CenterCrop((90, 180))),
        ),
    ],
    ids=["center", "squash", "border", "not square"],
)
def test_configurations(change, steps):
    found = preprocessing_of(IMAGENET | change)
    assert found.steps == steps
    assert (found.mean, found.std) == (IMAGENET["mean"], IMAGENET["std"])


def test_a_name_alone():
    model = ek.load_model("timm:test_resnet", pretrained=False)
    spec = spec_of(model)
    own = timm.data.resolve_data_config(pretrained_cfg=model.pretrained_cfg)
    assert spec.preprocessing == preprocessing_of(own)
    assert spec.mean == own["mean"]
    assert len(spec.class_names) == 1000
    assert spec.class_names[1] == "goldfish, Carassius auratus"
    assert spec.image_shape is None
    explanation = ek.explain(model, torch.rand(1, 3, 40, 56), method="gradcam")
    assert explanation.model == "timm:test_resnet"
    assert explanation.versions["timm"] == timm.__version__


def test_weights_for_other_classes(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=3).eval()
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 5}, tmp_path / "last.ckpt")
    model = ek.load_model(
        "timm:test_vit", weights=tmp_path / "last.ckpt", allow_pickle=True,
        class_names=["cat", "dog", "crane"],
    )  # fmt: skip
    x = torch.rand(2, 3, 160, 160)
    assert torch.equal(model(x), theirs(x))
    assert ek.explain(model, x, "dog").class_names == ("cat", "dog", "crane")
    bare = ek.load_model("timm:test_vit", weights=tmp_path / "last.ckpt", allow_pickle=True)
    assert spec_of(bare).class_names == ()


def test_another_size_of_a_transformer():
    name = "vit_tiny_patch16_224"
    assert spec_of(ek.load_model(f"timm:{name}", pretrained=False)).image_shape == (3, 224, 224)
    model = ek.load_model(f"timm:{name}", pretrained=False, size=96)
    spec = spec_of(model)
    assert spec.image_shape == (3, 96, 96)
    assert spec.preprocessing.steps[-1] == CenterCrop(96)
    assert model(torch.rand(1, 3, 96, 96)).shape == (1, 1000)


def test_a_folder_with_pretrained_weights_and_labels(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=2).eval()
    config = {"label_names": ["n01", "n02"], "label_descriptions": {"n01": "cat", "n02": "dog"}}
    timm.models.save_for_hf(theirs, tmp_path / "net", model_config=config, safe_serialization=True)
    model = ek.load_model(f"timm:local-dir:{tmp_path / 'net'}")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(x), theirs(x))
    assert spec_of(model).class_names == ("cat", "dog")


def test_a_module_in_hand_knows_the_same():
    theirs = timm.create_model("test_resnet").eval()
    model = ek.adapt(theirs)
    assert spec_of(theirs) is None
    loaded = spec_of(ek.load_model("timm:test_resnet", pretrained=False))
    assert spec_of(model) == loaded


def test_the_patches_of_a_block_that_returns_pixels_too():
    """TNT's blocks return the pixels of each patch, then the patches: the first are no images."""
    torch.manual_seed(0)
    model = timm.models.tnt.TNT(
        img_size=32, patch_size=16, embed_dim=12, inner_dim=4, depth=2, num_heads_inner=2,
        num_heads_outer=2, num_classes=3,
    ).eval()  # fmt: skip
    x = torch.rand(2, 3, 32, 32)
    listed = r"'blocks.0:output.0' \[\d, 16, 4\], 'blocks.0:output.1' \[\d, 5, 12\]"
    for arguments in ({"at": "blocks.0"}, {"method": "gradcam", "layer": "blocks.0"}):
        with pytest.raises(ModelError, match=f"for each image, got several: .* {listed}"):
            ek.explain(model, x, 1, **arguments)
    found = ek.explain(model, x, 1, "input_x_gradient", at="blocks.0:output.1")
    assert found.attribution.shape == (2, 5, 12)
    cam = ek.explain(model, x, 1, "gradcam", layer="blocks.0:output.1")
    assert cam.diagnostics["patch_grid"] == [2, 2]
    # by default the same: the score reads the class token of the last block
    assert torch.equal(ek.explain(model, x, 1, "gradcam").attribution, cam.attribution)


def test_errors(tmp_path):
    with pytest.raises(UnknownNameError, match="timm has no model 'test_resnet9'.*'test_resnet'"):
        ek.load_model("timm:test_resnet9")
    with pytest.raises(UnknownNameError, match="did you mean 'test_resnet.r160_in1k'"):
        ek.load_model("timm:test_resnet.r16_in1k")
    other = timm.create_model("test_efficientnet")
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="expected weights of timm:test_resnet"):
        ek.load_model("timm:test_resnet", weights=tmp_path / "w.safetensors")


def test_a_failed_download_is_one_line(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("no route to host\nafter 5 attempts")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match="OSError: no route to host.: check the connection") as e:
        ek.load_model("timm:test_resnet")
    assert "\n" not in str(e.value)


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(packages.EXTRAS, "timmm", "timm")
    with pytest.raises(ModelError, match=r"pip install 'explainkit-vision\[timm\]'"):
        packages.package("timmm")
