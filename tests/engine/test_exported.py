"""Scripted and exported models, those of one shape, and int8 models."""

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import ModelError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


def images():
    return torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:.*train mode")
@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "occlusion"])
def test_an_exported_model_of_another_batch_size_is_refused_in_one_line(method):
    x, model = images(), network()
    params = {"window": 3} if method == "occlusion" else {}
    two = torch.export.export(model, (x[:2],)).module()
    for batch in (x, x[:2]):
        try:
            ek.explain(two, batch, 1, method, **params)
        except ModelError as error:
            assert "dynamic_shapes" in str(error)
            assert "\n" not in str(error)
        else:
            assert method == "saliency"
            assert len(batch) == 2
    one = torch.export.export(model, (x[:1],)).module()
    found = ek.explain(one, x, 1, method, batch_size=1, **params).attribution
    torch.testing.assert_close(found, ek.explain(model, x, 1, method, **params).attribution)


@pytest.mark.filterwarnings("ignore:.*train mode", "ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("form", "refused"),
    [
        (torch.jit.script, {"gradcam", "lrp", "deeplift", "guided_backprop"}),
        (torch.fx.symbolic_trace, set()),
        (
            lambda model: torch.export.export(
                model, (images(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            ).module(),
            {"gradcam"},
        ),
    ],
    ids=["script", "fx", "export"],
)
def test_one_network_in_another_form_has_the_same_maps_or_is_refused(form, refused):
    x, model = images(), network()
    other = form(model)
    of_images = ("saliency", "integrated_gradients", "occlusion", "feature_ablation")
    for method in (*of_images, "gradcam", "lrp", "deeplift", "guided_backprop"):
        params = {"occlusion": {"window": 3}, "feature_ablation": {"segments": 3}}.get(method, {})
        if method in refused:
            with pytest.raises(ModelError, match="ScriptModule|layers are modules"):
                ek.explain(other, x, 1, method, **params)
            continue
        found = ek.explain(other, x, 1, method, **params).attribution
        wanted = ek.explain(model, x, 1, method, **params).attribution
        torch.testing.assert_close(found, wanted)


def test_int8_layers_are_named_as_a_reason_for_no_gradient():
    class Int8(nn.Module):
        def forward(self, x):
            return (10 * x).to(torch.int8).float().mean((2, 3))

    for method in ("saliency", "integrated_gradients", "deeplift"):
        with pytest.raises(ek.ExplainkitError, match="int8 layers"):
            ek.explain(Int8().eval(), images(), 1, method)
