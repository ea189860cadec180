"""Class activation maps at the layer's own size."""

import pytest
import torch
from cam_toys import pooled
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.cam.gradient import GradCAM, LayerCAM


def images():
    return torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(5))


def test_the_layer_keeps_its_own_size():
    """The class activation map of a pooled head, cell by cell."""
    model, x = pooled(), images()
    model = nn.Sequential(model[0], model[1], nn.MaxPool2d(2), *model[2:]).eval()
    features = model[:3](x).detach()
    e = ek.explain(model, x, 2, "gradcam", layer="2", placement="layer")
    expected = torch.einsum("k,nkhw->nhw", model[5].weight[2].detach(), features) / 30
    torch.testing.assert_close(e.attribution[:, 0], expected)
    assert (e.at, e.layer, e.diagnostics["placement"]) == ("2", "2", "layer")
    smooth = ek.explain(model, x, 2, "smoothgrad", base=GradCAM("2", placement="layer"), noise=0.0)
    torch.testing.assert_close(smooth.attribution, e.attribution)
    assert smooth.at == "2"


def test_refusals():
    with pytest.raises(MethodError, match="placement='layer': expected one layer, got 0, 1"):
        ek.explain(pooled(), images(), 1, LayerCAM(layer=("0", "1"), placement="layer"))
    with pytest.raises(MethodError, match="base: expected a CAM drawn on the image"):
        ek.explain(pooled(), images(), 1, "guided_gradcam", base=GradCAM(placement="layer"))
