"""Images as they come become a model's inputs, whatever they are."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import explainkit as ek
from explainkit.adapters.images import preprocessing_of
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
from explainkit.errors import ExplainkitWarning, InputError
from explainkit.interfaces import ModelSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def network(channels=3, **spec):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    if spec:
        net.explainkit_spec = ModelSpec(build=lambda: net, **spec)
    return net


KNOWN = Preprocessing((Resize(16), CenterCrop(16)), (0.5,) * 3, (0.25,) * 3)


def load(source, channels=3):
    """The inputs of a model that takes pixel / 255, as pixels."""
    plain = Preprocessing(channels=channels)
    return 255 * ek.load_images(source, network(channels, preprocessing=plain)).inputs


class TestSources:
    def test_paths_pillow_images_and_arrays_give_the_same(self, tmp_path):
        path = tmp_path / "a.png"
        Image.fromarray(PIXELS).save(path)
        sources = [path, str(path), Image.open(path), PIXELS, np.moveaxis(PIXELS, 2, 0)]
        batch = ek.load_images(sources, network(preprocessing=KNOWN))
        assert batch.inputs.shape == (5, 3, 16, 16)
        assert (batch.inputs == batch.inputs[0]).all()
        assert all(np.array_equal(one, PIXELS) for one in batch.originals)
        assert batch.names == ("a.png", "a.png", "a.png", "image 3", "image 4")

    def test_an_array_of_images_is_a_list_of_them(self):
        assert torch.equal(load(np.stack([PIXELS, PIXELS])), load([PIXELS, PIXELS]))

    def test_gray_and_color(self):
        gray = PIXELS[..., 0]
        assert torch.equal(load(gray), load(np.stack([gray] * 3, 2)))
        assert torch.equal(load(gray[..., None]), load(gray[None]))
        luma = np.asarray(Image.fromarray(PIXELS).convert("L"))
        assert np.array_equal(load(PIXELS, channels=1)[0, 0].round().numpy(), luma)

    def test_inputs_have_the_dtype_of_the_model(self):
        net = network(preprocessing=KNOWN).double()
        assert ek.load_images(PIXELS, net).inputs.dtype == torch.float64

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ([], "expected at least one image"),
            (np.zeros((4, 4, 3)), "expected a uint8 array .* got float64"),
            (np.zeros((3, 8, 4), np.uint8), r"got \[3, 8, 4\], which could be either"),
            (np.zeros((8, 8, 5), np.uint8), "has neither 1, 3 nor 4 channels"),
            (np.zeros(8, np.uint8), r"expected an array \[height, width\]"),
            (np.zeros((0, 8, 3), np.uint8), "expected an array"),
            (
                [torch.zeros(3, 8, 8)],
                "expected a path, a Pillow image or a uint8 array, got Tensor",
            ),
            (None, "got NoneType"),
            ("missing.png", "missing.png: can't be read: No such file"),
            (Image.new("F", (8, 8)), "got an image of mode F"),
        ],
    )
    def test_refusals(self, source, message):
        with pytest.raises(InputError, match=message) as error:
            ek.load_images(source, network(preprocessing=KNOWN))
        assert "\n" not in str(error.value)


class TestFiles:
    def write(self, tmp_path, image, name="a.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    def test_orientation(self, tmp_path):
        image = Image.new("RGB", (30, 20))
        image.paste((255, 0, 0), (0, 0, 30, 10))
        exif = Image.Exif()
        exif[0x0112] = 6  # the top is at the right
        path = self.write(tmp_path, image, "a.jpg", exif=exif, quality=95)
        with Image.open(path) as opened:
            turned = load([path, opened])
            assert opened.size == (30, 20), "the caller's image was turned"
        assert turned.shape == (2, 3, 30, 20)
        assert turned[:, 0, :, 12:].min() > 240
        assert turned[:, 0, :, :8].max() < 15

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGBa"])
    def test_transparency_lies_on_gray(self, mode):
        image = Image.new("RGBA", (8, 8), (255, 255, 255, 0)).convert(mode)
        if mode == "P":
            image.info["transparency"] = image.getpixel((0, 0))
        assert load(image).unique().round().tolist() == [128]

    def test_sixteen_bits(self, tmp_path):
        image = Image.fromarray(np.full((8, 8), 0x80FF, np.uint16))
        assert load(self.write(tmp_path, image)).unique().round().tolist() == [128]

    def test_cmyk(self, tmp_path):
        image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
        values = load(self.write(tmp_path, image, "a.jpg", quality=100))
        assert values[0, :, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=4)

    def test_the_first_frame(self, tmp_path):
        frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
        for name in ("a.gif", "a.png", "a.webp"):
            options = {"lossless": True} if name.endswith("webp") else {}
            path = self.write(
                tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options
            )
            assert load(path)[0, :, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=2)

    def test_damaged_and_too_large(self, tmp_path):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).save(buffer, "PNG")
        (tmp_path / "half.png").write_bytes(buffer.getvalue()[:600])
        (tmp_path / "text.jpg").write_text("no image")
        bomb = self.write(tmp_path, Image.new("1", (9000, 9000)), "bomb.png")
        for name, message in [
            ("half.png", "half.png: the image is damaged"),
            ("text.jpg", "text.jpg: expected an image"),
            ("bomb.png", "bomb.png: expected at most 64,000,000 pixels, got 9000 × 9000"),
            ("", f"^{tmp_path}: expected a regular file"),
        ]:
            with pytest.raises(InputError, match=message):
                load([PIXELS, tmp_path / name])
        assert bomb.stat().st_size < 100_000
        with Image.open(tmp_path / "half.png") as half, pytest.raises(InputError, match="damaged"):
            load(half)


class TestWhatIsKnown:
    def test_a_guess_is_a_warning_also_in_the_result(self):
        net = network()
        with pytest.warns(ExplainkitWarning, match="RGB, pixel / 255 at the image's own size"):
            batch = ek.load_images(PIXELS, net)
        assert np.array_equal((255 * batch.inputs[0]).round().permute(1, 2, 0).numpy(), PIXELS)
        with pytest.warns(ExplainkitWarning, match="normalization is not known"):
            found = ek.explain(net, PIXELS)
        assert "normalization is not known" in found.diagnostics["warnings"][0]
        assert (found.mean, found.std) == ((0.0,) * 3, (1.0,) * 3)

    def test_gray_by_the_first_convolution(self):
        assert preprocessing_of(network(1)).channels == 1
        assert preprocessing_of(nn.Linear(2, 2)).channels == 3
        with pytest.raises(InputError, match="got one of 4 channels"):
            ek.load_images(PIXELS, network(4))

    def test_a_shape_and_a_normalization_are_enough(self):
        spec = {"image_shape": (3, 16, 24), "mean": (0.5,) * 3, "std": (0.25,) * 3}
        found = preprocessing_of(network(**spec))
        assert found.known
        values, geometry = found(Image.fromarray(PIXELS))
        assert values.shape == (3, 16, 24)
        assert geometry.seen().all()
        assert not preprocessing_of(network(image_shape=(3, 16, 24))).known

    def test_another_size(self):
        net = network(preprocessing=KNOWN)
        assert ek.load_images(PIXELS, net, (10, 14)).inputs.shape == (1, 3, 10, 14)
        assert ek.load_images(PIXELS, net, 10).preprocessing.mean == KNOWN.mean
        with pytest.raises(InputError, match="size: expected"):
            ek.load_images(PIXELS, net, 0)

    def test_different_sizes_need_one(self):
        net = network(preprocessing=Preprocessing())
        sources = [PIXELS, PIXELS[:, :12]]
        with pytest.raises(InputError, match="got 20 × 30 from image 0 and 20 × 12 from image 1"):
            ek.load_images(sources, net)
        assert len(ek.load_images(sources, net, 8)) == 2

    def test_a_preprocessing_survives_json(self):
        assert Preprocessing.from_dict(json.loads(json.dumps(KNOWN.to_dict()))) == KNOWN
        with pytest.raises(InputError, match="step: expected Resize"):
            Preprocessing.from_dict({"steps": [{"step": "Flip"}]})
        with pytest.raises(InputError, match="Resize: unknown angle"):
            Preprocessing.from_dict({"steps": [{"step": "Resize", "size": 3, "angle": 1}]})


class TestExplain:
    def test_the_map_is_that_of_the_tensor(self):
        net = network(preprocessing=KNOWN, mean=KNOWN.mean, std=KNOWN.std)
        batch = ek.load_images([PIXELS, PIXELS[:15]], net)
        by_tensor = ek.explain(net, batch.inputs, method="input_x_gradient")
        assert (by_tensor.originals, by_tensor.geometries, by_tensor.names) == (None, None, ())
        for found in (
            ek.explain(net, batch, method="input_x_gradient"),
            ek.explain(net, [PIXELS, PIXELS[:15]], method="input_x_gradient"),
        ):
            assert torch.equal(found.attribution, by_tensor.attribution)
            assert (found.mean, found.std) == (KNOWN.mean, KNOWN.std)
            assert found.geometries == batch.geometries
        with pytest.raises(InputError, match="got one of a tensor"):
            by_tensor.on_original()

    def test_on_original_by_hand(self):
        """20 × 30 is resized to 16 × 24, of which the columns 4 to 19 are seen."""
        net = network(preprocessing=KNOWN)
        found = ek.explain(net, PIXELS, method="saliency")
        [values] = found.on_original()
        seen = torch.zeros(20, 30, dtype=torch.bool)
        seen[:, 5:25] = True
        assert torch.equal(~values.isnan(), seen)
        by_torch = nn.functional.interpolate(
            found.heatmap()[:, None], (20, 20), mode="bilinear", align_corners=False
        )
        assert torch.allclose(values[:, 5:25], by_torch[0, 0], atol=1e-6)

    def test_a_slice_keeps_what_belongs_to_it(self):
        net = network(preprocessing=KNOWN)
        found = ek.explain(net, [PIXELS, PIXELS[:15], PIXELS[:, :17]])
        last = found[-1]
        assert last.originals[0].shape == (20, 17, 3)
        assert last.geometries == found.geometries[2:]
        assert last.names == ("image 2",)
        assert [one.shape for one in found[1:].on_original()] == [(15, 30), (20, 17)]

    def test_the_caller_keeps_everything(self):
        net = network(preprocessing=KNOWN)
        image, array = Image.fromarray(PIXELS), PIXELS.copy()
        state = torch.get_rng_state()
        ek.explain(net, [image, array])
        assert np.array_equal(array, PIXELS)
        assert np.array_equal(np.asarray(image), PIXELS)
        assert torch.equal(torch.get_rng_state(), state)
