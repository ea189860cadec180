"""Models and images that can't be explained as they are: one line that says what to do."""

import copy
import warnings

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import ExplainkitError, InputError, ModelError

X = torch.rand(3, 3, 12, 10, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(320, 3)
    ).eval()


def refusal(*args, error=ModelError, **params):
    with pytest.raises(error) as caught:
        ek.explain(*args, **params)
    text = str(caught.value)
    assert "\n" not in text
    return text


class OneImage(nn.Module):
    """As exported for a phone: it reshapes to a batch of one."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return self.body(x.view(1, 3, 12, 10))


class TestBatchSizes:
    @pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "occlusion"])
    def test_a_model_of_one_image(self, method):
        """Also if only the method's own batch is larger."""
        model = OneImage().eval()
        images = X if method == "saliency" else X[:1]
        assert refusal(model, images, 0, method).endswith("use batch_size=1")
        found = ek.explain(model, images, 0, method, batch_size=1).attribution
        wanted = ek.explain(model.body, images, 0, method).attribution
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)

    @pytest.mark.filterwarnings("ignore:.*train mode")
    def test_exported_models(self):
        four = torch.cat([X, X[:1]])
        model = torch.export.export(network(), (four,)).module()
        text = refusal(model, X, 0)
        assert "use the batch_size= of its example, or export it" in text
        found = ek.explain(model, X, 0, batch_size=4).attribution
        torch.testing.assert_close(found, ek.explain(network(), X, 0).attribution)
        single = torch.export.export(network(), (X[:1],)).module()
        assert refusal(single, X, 0).endswith("use batch_size=1")

    def test_a_failure_of_another_kind_has_no_such_remedy(self):
        assert "batch_size" not in refusal(network(), X[..., :5], 0)


class TestGradients:
    @pytest.mark.parametrize("method", ["saliency", "lrp", "integrated_gradients", "deeplift"])
    def test_weights_of_inference_mode(self, method):
        with torch.inference_mode():
            model = network()
        text = refusal(model, X, 0, method)
        assert "its weights were created in inference mode" in text
        copied = ek.explain(copy.deepcopy(model), X, 0, method).attribution
        assert torch.equal(copied, ek.explain(network(), X, 0, method).attribution)

    @pytest.mark.parametrize("method", ["occlusion", "rise"])
    def test_methods_that_only_run_the_model_need_no_gradients(self, method):
        with torch.inference_mode():
            model = network()
        found = ek.explain(model, X, 0, method).attribution
        torch.testing.assert_close(found, ek.explain(network(), X, 0, method).attribution)
        assert all(p.is_inference() for p in model.parameters())

    @pytest.mark.filterwarnings("ignore")
    def test_quantized_models(self):
        model = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)
        assert "explain the model from before the quantization" in refusal(model, X, 0)
        found = ek.explain(model, X, 0, "occlusion")
        assert torch.equal(found.logits, model(X))

    def test_another_reason_is_left_as_it_is(self):
        model = nn.Sequential(network(), nn.ReLU())
        model.forward = lambda x: model[0](x).detach()
        assert "no gradient reaches them" in refusal(model, X, 0)


class TestModels:
    def test_lazy_layers(self):
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3)).eval()
        assert "run it once, model(inputs)" in refusal(model, X, 0)
        model(X)
        ek.explain(model, X, 0)

    def test_a_model_of_text_and_images(self):
        class Contrastive(nn.Module):
            def forward(self, input_ids=None, pixel_values=None):
                raise AssertionError("not run")

        text = refusal(Contrastive(), X, 0)
        assert "Contrastive takes input_ids first" in text
        assert "{'pixel_values': images, 'input_ids': …}" in text

    def test_a_function(self):
        text = refusal(torch.sin, X, 0)
        assert "got builtin_function_or_method: ek.adapt(function) makes a model" in text


class TestImages:
    @pytest.mark.parametrize(
        "model", [network(), nn.Sequential(nn.Flatten(), nn.Linear(360, 3)).eval()]
    )
    def test_channels_last(self, model):
        text = refusal(model, X.permute(0, 2, 3, 1), 0, error=InputError)
        assert text == (
            "expected images [batch, channel, height, width], got [3, 12, 10, 3], which looks "
            "like [batch, height, width, channel]: inputs.movedim(-1, 1)"
        )
        gray = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval()
        assert "movedim" in refusal(gray, X[:, :1].permute(0, 2, 3, 1), 0, error=InputError)

    @pytest.mark.parametrize("shape", [(3, 12, 3), (13, 12, 3), (3, 3, 3), (64, 9, 7), (4, 7, 4)])
    def test_images_that_only_resemble_them(self, shape):
        """Narrow images, and many channels in the order of the model."""
        model = nn.Sequential(nn.Conv2d(shape[0], 2, 1), nn.Flatten()).eval()
        assert ek.explain(model, torch.rand(1, *shape), 0).attribution.shape == (1, *shape)

    def test_videos_and_integers(self):
        text = refusal(network(), X[:, :, None, None], 0, error=InputError)
        assert "or volumes [batch, channel, depth, height, width], got [3, 3, 1, 1, 12, 10]" in text
        for dtype in (torch.int8, torch.uint8):
            text = refusal(network(), (100 * X).to(dtype), 0, error=ExplainkitError)
            assert "convert and normalize" in text


class TestWarnings:
    """What a model warns of in its forward is shown once a call, not once a pass."""

    class Deprecated(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()
            self.eval()

        def forward(self, x):
            warnings.warn("deprecated indexing", UserWarning, stacklevel=1)
            return self.body(x)

    def test_each_is_shown_once_a_call_under_any_filter(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            show = warnings.showwarning
            for calls in (1, 2):
                ek.explain(self.Deprecated(), X, 0, "occlusion", window=6)
                assert [str(w.message) for w in caught] == ["deprecated indexing"] * calls
            assert warnings.showwarning is show

    def test_the_callers_own_memory_of_warnings_is_kept(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(3):
                ek.explain(self.Deprecated(), X, 0, "smoothgrad", samples=5)
        assert [str(w.message) for w in caught] == ["deprecated indexing"]
