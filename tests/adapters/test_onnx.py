"""ONNX files: the maps of the network that they hold, whatever batch and layout they were made for."""

import numpy as np
import pytest
import torch
from foreign import foreign
from safetensors.torch import save_file
from torch import nn

import explainkit as ek
from explainkit.adapters.overrides import covering
from explainkit.errors import ModelError
from explainkit.interfaces import spec_of

foreign("onnxruntime")
onnx = foreign("onnx")

SIDE = 12
torch.manual_seed(0)
NET = nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
)
IMAGES = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def write(path, batch="batch", side=SIDE, *, dtype="FLOAT", last=False, outputs=("scores",)):
    """Writes NET as an ONNX file."""
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes, image = [], "image"
    if dtype != "FLOAT":
        nodes.append(helper.make_node("Cast", [image], ["float"], to=kinds.FLOAT))
        image = "float"
    if last:
        nodes.append(helper.make_node("Transpose", [image], ["first"], perm=[0, 3, 1, 2]))
        image = "first"
    nodes += [
        helper.make_node("Conv", [image, "w", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["features"]),
        helper.make_node("Gemm", ["features", "v", "a"], ["scores"], transB=1),
    ]
    weights = {"w": NET[0].weight, "b": NET[0].bias, "v": NET[4].weight, "a": NET[4].bias}
    shape = [batch, side, side, 3] if last else [batch, 3, side, side]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", getattr(kinds, dtype), shape)],
        [helper.make_tensor_value_info(name, kinds.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(v.detach().numpy(), name) for name, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return f"onnx:{path}"


@pytest.mark.parametrize(
    ("batch", "dtype", "last"),
    [
        ("batch", "FLOAT", False),
        (1, "FLOAT", False),
        (2, "FLOAT", False),
        (1, "DOUBLE", True),
        ("batch", "FLOAT", True),
    ],
)
def test_maps_are_those_of_the_network(batch, dtype, last, tmp_path):
    model = ek.load_model(write(tmp_path / "net.onnx", batch, dtype=dtype, last=last))
    assert torch.allclose(model(IMAGES), NET(IMAGES), atol=1e-5)
    maps = [
        ek.explain(one, IMAGES, 1, "occlusion", window=4, stride=4).attribution
        for one in (model, NET.eval())
    ]
    assert torch.allclose(*maps, atol=1e-5)


def test_what_the_file_says_about_images(tmp_path):
    fixed = spec_of(ek.load_model(write(tmp_path / "fixed.onnx", 1)))
    assert fixed.image_shape == (3, SIDE, SIDE)
    assert fixed.preprocessing.steps == covering((SIDE, SIDE))
    assert not fixed.preprocessing.known
    assert fixed.mean is None
    free = spec_of(ek.load_model(write(tmp_path / "free.onnx", side=None)))
    assert free.image_shape is None
    assert free.preprocessing.steps == ()


def test_an_input_of_bytes_gets_pixels(tmp_path):
    source = write(tmp_path / "net.onnx", 1, dtype="UINT8", last=True)
    model = ek.load_model(source, class_names=["a", "b", "c"])
    photo = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    explanation = ek.explain(model, photo, "b", "occlusion", window=4, stride=4)
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    assert torch.equal(explanation.inputs.round(), pixels)
    assert torch.allclose(explanation.logits, NET(pixels), rtol=1e-4)


def test_several_outputs_are_chosen_by_name(tmp_path):
    source = write(tmp_path / "net.onnx", outputs=("features", "scores"))
    assert ek.explain(ek.load_model(source), IMAGES, method="occlusion").logits.shape == (5, 3)
    model = ek.load_model(source, output="features", task="regression")
    assert ek.explain(model, IMAGES, 3, "occlusion").logits.shape == (5, 4)


def test_methods_that_look_inside_refuse_with_the_reason(tmp_path):
    model = ek.load_model(write(tmp_path / "net.onnx"))
    for method in ("saliency", "gradcam", "lrp"):
        with pytest.raises(ModelError, match="runs outside of torch.*such as occlusion"):
            ek.explain(model, IMAGES, 0, method)


def test_the_result_names_the_file_and_the_runtime(tmp_path):
    source = write(tmp_path / "net.onnx")
    explanation = ek.explain(source, IMAGES, 0, "occlusion")
    assert explanation.model == source
    assert "onnxruntime" in explanation.versions


def test_errors(tmp_path):
    with pytest.raises(ModelError, match="found nothing at"):
        ek.load_model(f"onnx:{tmp_path}/none.onnx")
    path = tmp_path / "net.onnx"
    source = write(path)
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="has its weights inside: omit weights="):
        ek.load_model(source, weights=tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="write 'onnx:"):
        ek.load_model(path)
    model = onnx.load(path)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1, 3])
    )
    onnx.save(model, path)
    with pytest.raises(ModelError, match="one input, the images, got image, mask"):
        ek.load_model(source)
    del model.graph.input[:]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3])
    )
    onnx.save(model, path)
    with pytest.raises(
        ModelError, match=r"expected images .* got tensor\(float\) \[1, 3\]|can't be"
    ):
        ek.load_model(source)
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match="can't be loaded") as caught:
        ek.load_model(source)
    assert "\n" not in str(caught.value)
