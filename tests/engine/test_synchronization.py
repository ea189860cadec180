"""Loops of methods don't wait for the device: the number of values read back is independent of them.

An accelerator runs operators while Python issues the next ones. Each value read back, as by
``.item()``, ``.tolist()`` or ``.nonzero()``, makes Python wait.
"""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import explainkit as ek
from explainkit.testing import toy_models

READING = {
    "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2",
    "unique_dim",
}  # fmt: skip


class _Reads(TorchDispatchMode):
    """Counts operators whose result Python must wait for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        self.count += name in READING and not _in_optimizer()
        return func(*args, **(kwargs or {}))


def _in_optimizer():
    """Adam counts its steps in a tensor on the CPU."""
    frame = sys._getframe()
    while frame is not None:
        if "/torch/optim/" in frame.f_code.co_filename.replace("\\", "/"):
            return True
        frame = frame.f_back
    return False


def reads(monkeypatch, method, images, **params):
    """The number of times that a call reads values back."""
    model, _ = toy_models()["plain"]
    ek.explain(model, images, 1, method, **params)  # what is cached per model is found out
    with monkeypatch.context() as patch, _Reads() as counted:
        patch.setattr(torch.Tensor, "is_cpu", False)  # where methods may read as they like
        for name in ("tolist", "cpu", "numpy"):
            original = getattr(torch.Tensor, name)

            def counting(self, *args, original=original, **kwargs):
                counted.count += 1
                return original(self, *args, **kwargs)

            patch.setattr(torch.Tensor, name, counting)
        ek.explain(model, images, 1, method, **params)
    return counted.count


def images_of(count):
    return toy_models()["plain"][1][:count]


@pytest.mark.filterwarnings("ignore::explainkit.ExplainkitWarning")
@pytest.mark.parametrize(
    ("method", "param", "few", "many"),
    [
        ("smoothgrad", "samples", 130, 260), ("integrated_gradients", "steps", 130, 260),
        ("blur_ig", "steps", 65, 130), ("guided_ig", "steps", 3, 6),
        ("expected_gradients", "samples", 65, 130),
        ("rise", "samples", 128, 256), ("kernel_shap", "samples", 256, 512),
        ("shapley_sampling", "samples", 4, 8), ("sobol", "samples", 4, 8),
        ("hsic", "samples", 64, 128), ("lime", "samples", 128, 256), ("occlusion", "stride", 6, 3),
        ("meaningful_perturbation", "steps", 3, 6), ("extremal_perturbation", "steps", 3, 6),
    ],
)  # fmt: skip
def test_a_longer_loop_reads_no_more_values(method, param, few, many, monkeypatch):
    more = {"window": 6} if method == "occlusion" else {}
    images = images_of(1)
    short = reads(monkeypatch, method, images, **{param: few}, **more)
    assert reads(monkeypatch, method, images, **{param: many}, **more) == short


@pytest.mark.parametrize(
    "method", ["saliency", "gradcam", "ablation_cam", "recipro_cam", "lrp", "deeplift"]
)
def test_more_images_read_no_more_values(method, monkeypatch):
    one = reads(monkeypatch, method, images_of(1))
    assert reads(monkeypatch, method, images_of(4)) == one


def test_reads_are_counted():
    with _Reads() as counted:
        torch.ones(2).sum().item()
        bool(torch.ones(1))
        torch.ones(3).nonzero()
    assert counted.count == 3
