"""On an accelerator: conformance, agreement with the CPU, generators, budgets, and memory that runs out.

`make test-gpu` runs these tests; without an accelerator they are skipped. ``EXPLAINKIT_DEVICE=cpu``
runs those that need none on the CPU, to try the tests themselves.
"""

import os
import warnings

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.engine import batching
from explainkit.testing import check_method, toy_models

DEVICE = torch.device(
    os.environ.get("EXPLAINKIT_DEVICE")
    or (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
)
if DEVICE.type != "cpu":
    DEVICE = torch.device(DEVICE.type, DEVICE.index or 0)

pytestmark = [
    pytest.mark.skipif(
        DEVICE.type == "cpu" and "EXPLAINKIT_DEVICE" not in os.environ,
        reason="needs an accelerator",
    ),
    pytest.mark.filterwarnings("ignore::explainkit.ExplainkitWarning"),
]
needs_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs CUDA")

METHODS = {
    "saliency": {}, "input_x_gradient": {}, "smoothgrad": {"samples": 8},
    "integrated_gradients": {"steps": 8}, "expected_gradients": {"samples": 8},
    "gradcam": {}, "hirescam": {}, "eigencam": {}, "ablation_cam": {}, "score_cam": {},
    "guided_backprop": {}, "deeplift": {}, "lrp": {}, "occlusion": {"window": 4},
    "feature_ablation": {}, "rise": {"samples": 64}, "lime": {"samples": 64, "segments": 3},
    "kernel_shap": {"samples": 64, "segments": 3}, "shapley_sampling": {"samples": 8, "segments": 3},
    "meaningful_perturbation": {"steps": 4}, "extremal_perturbation": {"steps": 4},
}  # fmt: skip
ATTENTION = {"attention_rollout": {}, "gradient_rollout": {}, "legrad": {}, "attn_lrp": {}}


@pytest.fixture(autouse=True)
def exact():
    """Convolutions and products in full float32, by the same algorithms in every call."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    deterministic = torch.backends.cudnn.deterministic
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.backends.cudnn.deterministic = deterministic


def on_device(name):
    model, images = toy_models()[name]
    return model.to(DEVICE), images.to(DEVICE)


CASES = [
    pytest.param(network, method, params, id=method)
    for network, methods in (("plain", METHODS), ("vit", ATTENTION))
    for method, params in methods.items()
]


@pytest.mark.parametrize("method", ["saliency", "gradcam", "integrated_gradients", "lrp", "rise"])
def test_the_contract_holds(method):
    check_method(method, {name: on_device(name) for name in ("plain", "batch_norm", "residual")})


@pytest.mark.parametrize(("network", "method", "params"), CASES)
def test_float32_agrees_with_the_cpu(network, method, params):
    model, images = toy_models()[network]
    expected = ek.explain(model, images, 1, method, **params)
    found = ek.explain(*on_device(network), 1, method, **params)
    assert found.attribution.device == DEVICE
    assert found.attribution.dtype == torch.float32
    scale = float(expected.attribution.abs().max())
    difference = float((found.attribution.cpu() - expected.attribution).abs().max())
    assert difference <= 1e-3 * scale
    torch.testing.assert_close(found.score.cpu(), expected.score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["saliency", "gradcam", "integrated_gradients", "rise"])
def test_bfloat16_agrees_with_float32(method):
    model, images = on_device("plain")
    expected = ek.explain(model, images, 1, method, **METHODS[method]).attribution
    found = ek.explain(model.bfloat16(), images.bfloat16(), 1, method, **METHODS[method])
    assert found.attribution.dtype == torch.bfloat16
    pair = torch.stack([expected.flatten(), found.attribution.float().flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.95


def test_generators_of_the_device_are_seeded_and_restored():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
            self.generator = torch.Generator(DEVICE)

        def forward(self, x):
            own = torch.rand(x.shape, device=x.device, generator=self.generator)
            return self.inner(x + torch.rand(x.shape, device=x.device) + own)

    model, images = Noisy().to(DEVICE).eval(), torch.rand(2, 1, 4, 4, device=DEVICE)
    torch.rand(1, device=DEVICE)
    module = torch.get_device_module(DEVICE) if DEVICE.type != "cpu" else torch
    before = module.get_rng_state().clone()
    held = model.generator.get_state()
    first, second = (ek.explain(model, images, 0, seed=3).score for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, module.get_rng_state())
    assert torch.equal(held, model.generator.get_state())


def test_chunks_fit_the_free_memory():
    model, images = on_device("plain")
    size = batching.chunk_size(model, images[0])
    assert size == 1 << (size.bit_length() - 1)
    if DEVICE.type == "cuda":
        free, _ = torch.cuda.mem_get_info(DEVICE)
        assert batching.budget_of(DEVICE) <= free
        assert size == batching.LIMIT_ON_DEVICE


@needs_cuda
def test_chunks_are_halved_when_memory_runs_out():
    """Each image needs 64 MiB for its activations, and 32 of them find room for a few."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).to(DEVICE).eval()  # fmt: skip
    images = torch.rand(32, 3, 512, 512, device=DEVICE)
    sizes = []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    expected = ek.explain(model, images, 1, batch_size=4).attribution
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    room = torch.cuda.memory_reserved(DEVICE) + 1024 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / total, DEVICE)
    sizes.clear()
    try:
        found = ek.explain(model, images, 1, batch_size=32).attribution
        with pytest.raises(ek.ExplainkitError, match="out of memory in Sequential"):
            ek.explain(model, torch.rand(1, 3, 6000, 6000, device=DEVICE), 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    assert sizes[0] == 32
    assert min(sizes) < 32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


@needs_cuda
@pytest.mark.parametrize(
    ("method", "param"), [("smoothgrad", "samples"), ("rise", "samples"), ("blur_ig", "steps")]
)
def test_loops_do_not_wait_for_the_device(method, param):
    model, images = on_device("plain")

    def waits(count):
        ek.explain(model, images[:1], 1, method, batch_size=8, **{param: count})
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                ek.explain(model, images[:1], 1, method, batch_size=8, **{param: count})
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(one.message) for one in caught)

    short, long = waits(64), waits(128)
    # random numbers are drawn on the CPU and copied once a chunk
    assert long - short <= (128 - 64) // 8
