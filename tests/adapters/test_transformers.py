"""Image classifiers of transformers, saved in the test: as their processor and configuration say."""

import numpy as np
import pytest
import torch
from foreign import foreign
from PIL import Image

transformers = foreign("transformers")

from transformers import (
    BeitImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    EfficientNetImageProcessorPil,
    LevitImageProcessorPil,
    MobileViTImageProcessorPil,
    PoolFormerImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

import explainkit as ek
from explainkit.adapters.transformers import checked, preprocessing_of
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
    "vit": lambda: ViTImageProcessorPil(size=SQUARE),
    "vit, not normalized": lambda: ViTImageProcessorPil(size=SQUARE, do_normalize=False),
    "vit, not rescaled": lambda: ViTImageProcessorPil(
        size=SQUARE, do_rescale=False, image_mean=[127.5] * 3, image_std=[127.5] * 3
    ),
    "not square": lambda: ViTImageProcessorPil(size={"height": 24, "width": 36}, resample=3),
    "shortest edge": lambda: ViTImageProcessorPil(
        size={"shortest_edge": 40}, do_center_crop=True, crop_size=SQUARE
    ),
    "crop alone": lambda: ViTImageProcessorPil(
        do_resize=False, do_center_crop=True, crop_size={"height": 33, "width": 28}
    ),
    "deit": lambda: DeiTImageProcessorPil(size={"height": 40, "width": 40}, crop_size=SQUARE),
    "beit": lambda: BeitImageProcessorPil(size=SQUARE, do_center_crop=False),
    "convnext": lambda: ConvNextImageProcessorPil(size={"shortest_edge": 48}),
    "convnext, large": lambda: ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "poolformer": lambda: PoolFormerImageProcessorPil(size={"shortest_edge": 48}, crop_size=SQUARE),
    "levit": lambda: LevitImageProcessorPil(size={"shortest_edge": 56}, crop_size=SQUARE),
    "efficientnet": lambda: EfficientNetImageProcessorPil(size=SQUARE),
    "efficientnet, offset": lambda: EfficientNetImageProcessorPil(
        size=SQUARE, rescale_factor=1 / 127.5, rescale_offset=True, include_top=False
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(61, 83), (120, 45)], ids=str)
def test_inputs_are_those_of_the_processor(name, size):
    processor = PROCESSORS[name]()
    found = checked(preprocessing_of(processor), processor)
    assert found.known
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(pixels)
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours, _ = found(image)
    difference = (ours - theirs).abs() * torch.tensor(found.std)[:, None, None]
    assert float(difference.max()) <= 1 / 255 + 1e-6


def test_rules_that_are_not_known_are_found_by_a_run():
    class Blurred(ViTImageProcessorPil):
        def rescale(self, image, scale, **kwargs):
            return super().rescale(image, scale, **kwargs) ** 2

    processor = Blurred(size=SQUARE)
    with pytest.warns(ek.ExplainkitWarning, match="preprocessing of Blurred is not one"):
        found = checked(preprocessing_of(processor), processor)
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
    processor = ViTImageProcessorPil.from_pretrained(folder)
    inputs = processor(Image.fromarray(photo), return_tensors="pt")["pixel_values"]
    assert torch.allclose(explanation.inputs, inputs, atol=2.1 / 255)
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


def test_a_mirrored_order_of_channels_is_not_taken_for_known():
    processor = MobileViTImageProcessorPil(size={"shortest_edge": 40}, crop_size=SQUARE)
    with pytest.warns(ek.ExplainkitWarning, match="is not one that explainkit knows"):
        assert not checked(preprocessing_of(processor), processor).known
