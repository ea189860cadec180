"""Memory: what is held at once follows the budget, and nothing stays behind."""

import gc
import weakref

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.engine import batching
from explainkit.methods.perturbation.rise import ShiftedMasks


def _network(i=0):
    last = (nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ReLU, nn.GELU)[i % 5]()
    return nn.Sequential(nn.Conv2d(1, 2, 3), last, nn.Flatten(), nn.Linear(32, 2)).eval()


@pytest.mark.filterwarnings("ignore::explainkit.ExplainkitWarning")
def test_networks_leave_no_tensor_behind():
    methods = ["saliency", "gradcam", "rise", "lrp", "integrated_gradients", "occlusion"]
    options = {"rise": {"samples": 4}, "occlusion": {"window": 3}}
    images = torch.rand(2, 1, 6, 6)
    parameters = []

    def explain(i):
        net, method = _network(i), methods[i % len(methods)]
        parameters.extend(map(weakref.ref, net.parameters()))
        ek.explain(net, images, 0, method, **options.get(method, {}))

    def living():
        gc.collect()
        return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())

    for i in range(6):  # constants of the library are made once
        explain(i)
    before = living()
    for i in range(18):
        explain(i)
    assert living() <= before
    assert not any(one() is not None for one in parameters)


def test_rise_estimates_with_as_many_masks_at_once_as_fit_the_budget(monkeypatch):
    net, images = _network(), torch.rand(1, 1, 6, 6)
    made = []
    features = ShiftedMasks.features

    def watched(self, image, samples):
        made.append(len(samples))
        return features(self, image, samples)

    monkeypatch.setattr(ShiftedMasks, "features", watched)
    expected = ek.explain(net, images, 0, "rise", samples=50)
    assert made == [50]
    made.clear()
    monkeypatch.setattr(batching, "BUDGET", 7 * 36 * 32)
    found = ek.explain(net, images, 0, "rise", samples=50)
    assert max(made) == 7
    assert sum(made) == 50
    torch.testing.assert_close(found.attribution, expected.attribution, rtol=0, atol=1e-6)


def test_a_chunk_of_images_fits_the_budget_even_if_the_model_saves_nothing(monkeypatch):
    """A linear model keeps no activations, but the images themselves need memory."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).requires_grad_(False).eval()
    image = torch.rand(1, 6, 6)
    monkeypatch.setattr(batching, "BUDGET", 2 * batching.HELD * image.nbytes)
    assert batching.chunk_size(net, image, backward=False) == 2
    assert batching.chunk_size(net, image) == 2


def test_a_model_that_has_no_memory_for_gradients_runs_one_image_at_once():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = _network()

        def forward(self, x):
            if torch.is_grad_enabled():
                raise torch.OutOfMemoryError("out of memory")
            return self.inner(x)

    assert batching.chunk_size(Large(), torch.rand(1, 6, 6)) == 1


@pytest.mark.filterwarnings("ignore::explainkit.ExplainkitWarning")
@pytest.mark.parametrize(
    "method", ["saliency", "smoothgrad", "gradcam", "ablation_cam", "occlusion", "recipro_cam"]
)
def test_what_is_found_out_once_draws_no_random_number_of_a_call(method):
    """The first call measures and traces the model, the second one does not."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner = nn.Conv2d(1, 1, 1), _network()
            self.generator = torch.Generator()

        def forward(self, x):
            noise = torch.rand(x.shape) + torch.rand(x.shape, generator=self.generator)
            return self.inner(self.first(x) + noise)

    params = {"smoothgrad": {"samples": 2}, "occlusion": {"window": 3}}.get(method, {})
    net, images = Noisy().eval(), torch.rand(3, 1, 6, 6)
    first, second = (ek.explain(net, images, 0, method, **params) for _ in range(2))
    assert torch.equal(first.score, second.score)
    assert torch.equal(first.attribution, second.attribution)


def test_the_budget_of_an_accelerator_is_a_share_of_its_free_memory(monkeypatch):
    class Accelerator:
        calls = 0

        @classmethod
        def mem_get_info(cls, device):
            cls.calls += 1
            return 100 * 2**30 + 12345, 139 * 2**30

    monkeypatch.setattr(torch, "get_device_module", lambda device: Accelerator)
    batching._free.cache_clear()
    device = torch.device("cuda", 0)
    assert [batching.budget_of(device) for _ in range(2)] == [16 * 2**30] * 2
    assert Accelerator.calls == 1
    assert batching.budget_of(torch.device("cpu")) == batching.BUDGET
    batching._free.cache_clear()
