"""Weights files: what surrounds the weights is removed, and a mismatch is refused."""

import argparse

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from explainkit.adapters.checkpoints import load_state, outputs_in, read_state
from explainkit.errors import ModelError


def net(outputs=3):
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, outputs))


def trained():
    """A network with weights of its own."""
    torch.manual_seed(7)
    return net()


def equal(a, b):
    return all(torch.equal(a.state_dict()[key], value) for key, value in b.state_dict().items())


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


HOLDERS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer": {"lr": 0.1}},
    "model": lambda s: {"model": s, "args": {"lr": 0.1}},
    "DataParallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "Lightning": lambda s: {
        "state_dict": {**prefixed(s, "net."), "criterion.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
        "epoch": 9,
    },
    "all of them": lambda s: {"model": {"state_dict": prefixed(s, "model.module._orig_mod.")}},
    "a name of the project's own": lambda s: prefixed(s, "classifier_network."),
    "weights and their average": lambda s: {
        **prefixed(s, "model."), **prefixed({n: v + 1 for n, v in s.items()}, "average."),
    },
    "without counters": lambda s: {n: v for n, v in s.items() if "num_batches" not in n},
}  # fmt: skip


@pytest.mark.parametrize("form", HOLDERS)
def test_the_weights_are_found(form, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(HOLDERS[form](trained().state_dict()), path)
    model = net()
    load_state(model, read_state(path, allow_pickle=True), "net")
    assert equal(model, trained())


def test_a_compiled_layer_of_the_model_keeps_its_own_name(tmp_path):
    model = net()
    model[0] = torch.compile(model[0], backend="eager")
    load_state(model, trained().state_dict(), "net")
    assert torch.equal(model[0].weight, trained()[0].weight)


def test_safetensors_need_no_permission(tmp_path):
    save_file(prefixed(trained().state_dict(), "module."), tmp_path / "w.safetensors")
    model = net()
    load_state(model, read_state(tmp_path / "w.safetensors"), "net")
    assert equal(model, trained())


def test_half_precision_becomes_the_precision_of_the_model():
    model = net()
    load_state(model, trained().half().state_dict(), "net")
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, trained()[0].weight.half().float())


def test_a_pickle_needs_permission(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(trained().state_dict(), path)
    with pytest.raises(ModelError, match="pickled checkpoints can run code.*allow_pickle=True"):
        read_state(path)


def test_objects_in_a_pickle_are_refused_even_with_permission(tmp_path):
    path = tmp_path / "w.pt"
    hyper = argparse.Namespace(lr=0.1)
    torch.save({"state_dict": trained().state_dict(), "hyper_parameters": hyper}, path)
    with pytest.raises(ModelError, match="tensors and plain values") as caught:
        read_state(path, allow_pickle=True)
    assert "\n" not in str(caught.value)
    torch.save(trained(), path)
    with pytest.raises(ModelError, match="save model.state_dict"):
        read_state(path, allow_pickle=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, "under state_dict, .* got epoch, lr"),
        ([torch.zeros(1)], "expected a dictionary of weights .* got list"),
        ({"state_dict": {"model": 3}}, "expected weights in .* got model"),
    ],
)
def test_files_without_weights(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message):
        read_state(tmp_path / "w.pt", allow_pickle=True)


def test_files_that_cannot_be_read(tmp_path):
    for name in ("w.pt", "w.safetensors"):
        with pytest.raises(ModelError, match="found nothing at"):
            read_state(tmp_path / name, allow_pickle=True)
        (tmp_path / name).write_bytes(b"junk")
        with pytest.raises(ModelError, match="expected a (checkpoint|safetensors file)"):
            read_state(tmp_path / name, allow_pickle=True)


class TestMismatch:
    def refused(self, state):
        model = net()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ModelError) as caught:
            load_state(model, state, "net")
        assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
        return str(caught.value)

    def test_missing_weights(self):
        state = trained().state_dict()
        del state["3.bias"], state["3.weight"]
        text = self.refused(prefixed(state, "module."))
        assert "2 missing: 3.weight, 3.bias" in text
        assert "unexpected" not in text

    def test_weights_left_over(self):
        state = trained().state_dict() | {f"4.{i}": torch.zeros(1) for i in range(5)}
        assert "5 unexpected: 4.0, 4.1, 4.2, …" in self.refused(state)

    def test_weights_left_over_under_the_models_prefix(self):
        state = prefixed(trained().state_dict() | {"head.weight": torch.zeros(1)}, "net.")
        assert "1 unexpected: head.weight" in self.refused(state)

    def test_another_shape(self):
        text = self.refused(net(5).state_dict())
        assert "'3.weight' of net to be [3, 8], got [5, 8]" in text

    def test_two_sets_of_weights(self):
        state = trained().state_dict()
        text = self.refused(prefixed(state, "student.") | prefixed(state, "teacher."))
        assert "under 'student.' and 'teacher.'" in text

    def test_weights_of_something_else(self):
        assert "8 missing" in self.refused({"embedding.weight": torch.zeros(3)})


def test_the_number_of_outputs_is_that_of_the_last_layer():
    assert outputs_in(net(), prefixed(net(5).state_dict(), "module.")) == 5
    assert outputs_in(net(), {"embedding.weight": torch.zeros(3)}) is None
