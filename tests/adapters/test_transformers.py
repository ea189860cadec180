"""Image classifiers of transformers, saved in the test: as their processor and configuration say."""

import numpy as np
import pytest
import torch
from foreign import foreign
from PIL import Image

transformers = foreign("transformers")

from transformers import (
    AutoImageProcessor,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

import explainkit as ek
from explainkit.adapters.preprocessing import Resize
from explainkit.adapters.transformers import known_preprocessing
from explainkit.errors import ModelError
from explainkit.interfaces import spec_of

VIT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
NAMES = {0: "cat", 1: "dog", 2: "crane"}
RESNET = {"embedding_size": 4, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
SQUARE = {"height": 32, "width": 32}

PROCESSORS = {
    "vit": ("ViT", {"size": SQUARE}),
    "vit, not normalized": ("ViT", {"size": SQUARE, "do_normalize": False}),
    "vit, not rescaled": (
        "ViT",
        {"size": SQUARE, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    ),
    "not square": ("ViT", {"size": {"height": 24, "width": 36}, "resample": 3}),
    "shortest edge": (
        "ViT",
        {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": SQUARE},
    ),
    "longest edge": ("ViT", {"size": {"shortest_edge": 40, "longest_edge": 66}}),
    "detr": ("Detr", {"size": {"shortest_edge": 40, "longest_edge": 66}}),
    "deformable detr": ("DeformableDetr", {"size": {"shortest_edge": 61, "longest_edge": 90}}),
    "yolos": ("Yolos", {"size": {"shortest_edge": 40, "longest_edge": 70}}),
    "crop alone": (
        "ViT",
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 33, "width": 28}},
    ),
    "deit": ("DeiT", {"size": {"height": 40, "width": 40}, "crop_size": SQUARE}),
    "beit": ("Beit", {"size": SQUARE, "do_center_crop": False}),
    "convnext": ("ConvNext", {"size": {"shortest_edge": 48}}),
    "convnext, large": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "poolformer": ("PoolFormer", {"size": {"shortest_edge": 48}, "crop_size": SQUARE}),
    "levit": ("Levit", {"size": {"shortest_edge": 56}, "crop_size": SQUARE}),
    "mobilevit": ("MobileViT", {"size": {"shortest_edge": 40}, "crop_size": SQUARE}),
    "efficientnet": ("EfficientNet", {"size": SQUARE}),
    "efficientnet, offset": (
        "EfficientNet",
        {"size": SQUARE, "rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False},
    ),
}


def processor_of(name, backend, options):
    """An image processor on Pillow, or on torchvision if it is installed."""
    if not backend and not transformers.utils.is_torchvision_available():
        pytest.skip("needs torchvision")
    return getattr(transformers, f"{name}ImageProcessor{backend}")(**options)


@pytest.mark.parametrize("form", PROCESSORS)
@pytest.mark.parametrize("backend", ["Pil", ""], ids=["pillow", "torchvision"])
def test_inputs_are_those_of_the_processor(form, backend):
    name, options = PROCESSORS[form]
    processor = processor_of(name, backend, options)
    found = known_preprocessing(processor)
    assert found.known
    for size in ((61, 83), (120, 45)):
        pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
        image = Image.fromarray(pixels)
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        ours, _ = found(image)
        difference = (ours - theirs).abs() * torch.tensor(found.std)[:, None, None]
        assert float(difference.max()) <= 1 / 255 + 1e-6


@pytest.mark.parametrize("step", [1, 16], ids=["detr", "yolos"])
def test_sides_are_those_of_transformers_at_every_aspect_ratio(step):
    from transformers.image_transforms import get_size_with_aspect_ratio

    resize = Resize(800, longest_edge=1333, multiple_of=step)
    for height, width in np.random.default_rng(0).integers(200, 1400, (500, 2)).tolist():
        theirs = get_size_with_aspect_ratio((height, width), 800, 1333)
        assert resize.target((height, width)) == tuple(side - side % step for side in theirs)


def test_rules_that_are_not_known_are_found_by_a_run():
    class Blurred(ViTImageProcessorPil):
        def rescale(self, image, scale, **kwargs):
            return super().rescale(image, scale, **kwargs) ** 2

    processor = Blurred(size=SQUARE)
    with pytest.warns(ek.ExplainkitWarning, match="preprocessing of Blurred is not one"):
        found = known_preprocessing(processor)
    assert not found.known
    assert found.mean is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(**VIT, id2label=NAMES, label2id={v: k for k, v in NAMES.items()})
    ViTForImageClassification(config).save_pretrained(path)
    ViTImageProcessorPil(size=SQUARE).save_pretrained(path)
    return path


def test_a_folder(folder):
    model = ek.load_model(f"transformers:{folder}")
    theirs = ViTForImageClassification.from_pretrained(folder).eval()
    spec = spec_of(model)
    assert spec.class_names == tuple(NAMES.values())
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    photo = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    explanation = ek.explain(model, photo, "dog")
    processor = AutoImageProcessor.from_pretrained(folder)
    inputs = processor(Image.fromarray(photo), return_tensors="pt")["pixel_values"]
    assert torch.allclose(explanation.inputs, inputs, atol=2.1 / 255)  # the std is one half
    assert torch.equal(explanation.logits, theirs(explanation.inputs).logits)
    assert explanation.versions["transformers"] == transformers.__version__


def test_labels_of_several_kinds(folder, tmp_path):
    config = ViTConfig(**VIT, id2label=NAMES, problem_type="multi_label_classification")
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size=SQUARE).save_pretrained(tmp_path)
    assert spec_of(ek.load_model(f"transformers:{tmp_path}")).task == "multilabel"


def test_weights_for_other_classes(folder, tmp_path):
    torch.manual_seed(1)
    theirs = ViTForImageClassification(ViTConfig(**VIT, num_labels=5)).eval()
    state = {f"model.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    model = ek.load_model(
        f"transformers:{folder}", weights=tmp_path / "last.ckpt", allow_pickle=True,
        class_names=list("abcde"),
    )  # fmt: skip
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(model(x).logits, theirs(x).logits)


def test_half_precision_becomes_float32(tmp_path):
    ViTForImageClassification(ViTConfig(**VIT)).half().save_pretrained(tmp_path)
    ViTImageProcessorPil(size=SQUARE).save_pretrained(tmp_path)
    model = ek.load_model(f"transformers:{tmp_path}")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_backbone_without_a_head_is_refused(tmp_path):
    ResNetModel(ResNetConfig(**RESNET)).save_pretrained(tmp_path)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no weights for classifier.*: they would be random"):
        ek.load_model(f"transformers:{tmp_path}")
    random = ek.load_model(f"transformers:{tmp_path}", pretrained=False)
    assert type(random) is ResNetForImageClassification


def test_errors(tmp_path):
    with pytest.raises(ModelError, match="expected a folder with a transformers model, found none"):
        ek.load_model("transformers:./none")
    with pytest.raises(ModelError, match="can't be loaded") as caught:
        ek.load_model(f"transformers:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("Perceiver", {"size": SQUARE}, r"it makes \[3, 32, 32\]"),  # a square crop first
        ("ViT", {"size": {"longest_edge": 40}}, "KeyError: 'height'"),
    ],
)
def test_what_is_not_known_is_said(name, options, why):
    processor = processor_of(name, "Pil", options)
    with pytest.warns(ek.ExplainkitWarning, match=rf"is not one that explainkit knows .*{why}"):
        assert not known_preprocessing(processor).known


def test_a_model_of_timm_in_transformers():
    cfg = foreign("timm").create_model("test_resnet").pretrained_cfg
    processor = transformers.TimmWrapperImageProcessor(cfg, architecture="test_resnet")
    found = known_preprocessing(processor)
    assert found.known
    assert found.mean == cfg["mean"]
