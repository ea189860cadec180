"""With chunks of one size, an image's map is equal to the bit at every place in the batch."""

import pytest
import torch

import explainkit as ek
from explainkit.testing import toy_models

ORDER = [3, 1, 0, 2]


@pytest.mark.filterwarnings("ignore::explainkit.ExplainkitWarning")
@pytest.mark.parametrize(
    "method",
    [
        "saliency", "attention_rollout", "gradient_rollout", "legrad", "attn_lrp", "gradcam",
        "hirescam", "xgradcam", "eigencam", "eigengradcam", "kpca_cam", "smoothgrad", "rise",
    ],
)  # fmt: skip
def test_the_order_of_the_images_changes_no_bit(method):
    """31 tokens: the memory of an image begins at another alignment at each place."""
    model, images = toy_models()["vit"]
    params = {"samples": 8} if method in ("smoothgrad", "rise") else {}
    one = ek.explain(model, images, 1, method, batch_size=4, **params)
    other = ek.explain(model, images[ORDER], 1, method, batch_size=4, **params)
    if not torch.equal(one.logits[ORDER], other.logits):
        pytest.skip("on this processor, the model itself rounds by place")
    assert torch.equal(one.attribution[ORDER], other.attribution)


@pytest.mark.filterwarnings("ignore::explainkit.ExplainkitWarning")
@pytest.mark.parametrize("method", ["xgradcam", "sobol", "attention_rollout"])
def test_batch_sizes_agree(method):
    model, images = toy_models()["vit"]
    params = {"samples": 16, "segments": 3} if method == "sobol" else {}
    maps = [
        ek.explain(model, images, 1, method, batch_size=size, **params).attribution
        for size in (1, 3, 4)
    ]
    for found in maps[1:]:
        assert float((found - maps[0]).abs().max()) <= 1e-5 * float(maps[0].abs().max())
