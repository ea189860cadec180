"""`explain()`: every kind of model, input and target, and its errors."""

import threading
import types
import warnings

import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.errors import (
    ExplainkitWarning,
    InputError,
    MethodError,
    ModelError,
    RenderError,
    TargetError,
    UnknownNameError,
)
from explainkit.expressions import channel, logit
from explainkit.interfaces import Attribution
from explainkit.methods.gradient import Saliency, SmoothGrad
from explainkit.render.heatmap import over_images
from explainkit.testing import toy_models


@pytest.fixture
def plain():
    return toy_models()["plain"]


class _Output(nn.Module):
    """Returns its linear scores in any container."""

    def __init__(self, wrap, shape=(3, 4, 5)):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(shape[0] * shape[1] * shape[2], 7)
        self.wrap = wrap
        self.eval()

    def forward(self, x):
        return self.wrap(self.head(x.flatten(1)))


class _Container:
    def __init__(self, logits):
        self.logits = logits


OUTPUTS = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y, torch.zeros(len(y), 3, 2)),
    "list": lambda y: [y],
    "tuple whose first is a loss": lambda y: (torch.zeros(()), y),
    "dict of logits": lambda y: {"features": y[:, :2], "logits": y},
    "dict of one": lambda y: {"anything": y},
    "object": _Container,
    "namespace": lambda y: types.SimpleNamespace(logits=y, loss=None),
    "four axes": lambda y: y[:, :, None, None],
}


@pytest.mark.parametrize("wrap", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs(wrap):
    x = torch.rand(2, 3, 4, 5)
    expected = ek.explain(_Output(lambda y: y), x, 4)
    found = ek.explain(_Output(wrap), x, 4)
    assert torch.equal(found.attribution, expected.attribution)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.score, found.logits[:, 4])


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda y: {"out": y[:, :, None, None].expand(-1, -1, 2, 2)},
            r"out float32 \[2, 7, 2, 2\]",
        ),
        (lambda y: y[:, :, None, None].expand(-1, -1, 2, 2), r"float32 \[2, 7, 2, 2\]"),
        (lambda y: y.argmax(1), r"int64 \[2\]"),
        (lambda y: None, "NoneType"),
        (lambda y: y[:1], r"float32 \[1, 7\]"),
    ],
)
def test_outputs_that_are_not_scores(wrap, message):
    with pytest.raises(ModelError, match=rf"expected scores \[batch, classes\].*{message}"):
        ek.explain(_Output(wrap), torch.rand(2, 3, 4, 5), 0)


def test_targets(plain):
    model, x = plain
    rows = torch.tensor([4, 0, 2, 1])
    each = ek.explain(model, x, rows)
    for i, row in enumerate(rows.tolist()):
        one = ek.explain(model, x[i : i + 1], row).attribution
        torch.testing.assert_close(one, each.attribution[i : i + 1])
    predicted = ek.explain(model, x)
    assert torch.equal(predicted.target, model(x).argmax(1))
    assert torch.equal(predicted.logits, model(x))
    as_function = ek.explain(model, x, lambda y: y[torch.arange(4), rows])
    torch.testing.assert_close(as_function.attribution, each.attribution)
    torch.testing.assert_close(as_function.score, each.score)
    assert torch.equal(as_function.logits, each.logits)
    difference = ek.explain(model, x, lambda y: y[:, 1] - y[:, 2]).attribution
    one, two = (ek.explain(model, x, k).attribution for k in (1, 2))
    torch.testing.assert_close(difference, one - two, rtol=1e-4, atol=1e-6)


def test_a_function_gets_the_models_own_output():
    model = _Output(lambda y: {"a": y, "b": 2 * y})
    x = torch.rand(2, 3, 4, 5)
    e = ek.explain(model, x, lambda out: out["b"][:, 3])
    torch.testing.assert_close(e.attribution[0].flatten(), 2 * model.head.weight[3].detach())


@pytest.mark.parametrize("ids", [(0, 1, 2), ("0", "1", "2")])
def test_class_names_of_a_configuration(ids):
    model = _Output(lambda y: _Container(y[:, :3]))
    model.config = types.SimpleNamespace(
        id2label=dict(zip(ids, ("cat", "Dog", "emu"), strict=True))
    )
    e = ek.explain(model, torch.rand(2, 3, 4, 5), "dog")
    assert e.target.tolist() == [1, 1]
    assert e.target_name(0) == "Dog"
    with pytest.raises(TargetError, match="cat, Dog, emu"):
        ek.explain(model, torch.rand(2, 3, 4, 5), "ibex")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "from 0 to 4 .*got 5"),
        (-1, "from 0 to 4 .*got -1"),
        (torch.tensor([0, 1, 2, 9]), "got 9"),
        (torch.tensor([0, 1]), r"one target per image, \[4\], got \[2\]"),
        (torch.tensor([[0], [1], [2], [3]]), r"got \[4, 1\]"),
        (torch.rand(4), "integer targets, got torch.float32"),
        (torch.tensor([True] * 4), "integer targets, got torch.bool"),
        ("sad", "no names"),
        (1.5, "got float"),
        ((0, 1, 2, 3), "got tuple"),
        (lambda y: y, r"one score per image, \[4\], got \(4, 5\)"),
        (lambda y: 3, "got int"),
    ],
)
def test_wrong_targets(plain, target, message):
    with pytest.raises(TargetError, match=message) as caught:
        ek.explain(*plain, target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("size", [(7, 7), (5, 11), (1, 9)])
def test_channels_and_sizes(channels, size):
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()  # fmt: skip
    x = torch.rand(2, channels, *size)
    for method in ("saliency", "integrated_gradients", "smoothgrad"):
        assert ek.explain(model, x, 0, method).attribution.shape == x.shape


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.rand(3, 12, 10), r"inputs\[None\] adds the batch axis"),
        (torch.rand(0, 3, 12, 10), "at least one image"),
        (torch.zeros(1, 3, 12, 10, dtype=torch.uint8), "got uint8: convert and normalize"),
        (torch.zeros(1, 3, 12, 10, dtype=torch.int64), "got int64"),
        (torch.zeros(1, 3, 12, 10, dtype=torch.complex64), "got complex64"),
        (torch.rand(1, 3, 12, 10).double(), "model's dtype torch.float32, got torch.float64"),
        (torch.rand(1, 3, 12, 10, device="meta"), "device cpu, got meta"),
        (torch.rand(1, 3, 12, 10).numpy(), "torch.as_tensor"),
        (None, "got NoneType"),
    ],
)
def test_wrong_inputs(plain, inputs, message):
    with pytest.raises(InputError, match=message) as caught:
        ek.explain(plain[0], inputs, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_pixels_that_are_not_finite_are_located(plain, value):
    x = plain[1].clone()
    x[2, 1, 5, 3] = value
    with pytest.raises(InputError, match=r"got 1 .* image 2, channel 1, row 5, column 3"):
        ek.explain(plain[0], x, 0)


def test_a_model_on_another_device(plain):
    with pytest.raises(InputError, match=r"model's device meta, got cpu: inputs\.to\('meta'\)"):
        ek.explain(plain[0].to("meta"), plain[1], 0)


def test_a_size_that_the_model_rejects(plain):
    with pytest.raises(ModelError, match=r"Sequential failed on images \[2, 3, 9, 9\] float32: "):
        ek.explain(plain[0], torch.rand(2, 3, 9, 9), 0)


def test_a_models_own_error_passes():
    class OwnError(RuntimeError):
        pass

    class Raising(nn.Module):
        def forward(self, x):
            raise OwnError("mine")

    with pytest.raises(OwnError, match="mine"):
        ek.explain(Raising(), torch.rand(1, 1, 2, 2), 0)


def test_outputs_that_are_not_finite():
    model = _Output(lambda y: y / 0)
    with pytest.raises(ModelError, match="NaN or infinity for images 0, 1"):
        ek.explain(model, torch.rand(2, 3, 4, 5), 0)


def test_a_map_that_is_not_finite():
    """The root's derivative at zero is infinite, and zero times infinity is NaN."""
    model = _Output(lambda y: y)
    model.forward = lambda x: x.flatten(1).sqrt().sum(1, keepdim=True)
    with pytest.raises(MethodError, match="expected a finite map, got 60 values"):
        ek.explain(model, torch.zeros(1, 3, 4, 5), 0, "input_x_gradient")


def warnings_of(model, x, target=0):
    """The recorded warnings, which must also be issued."""
    with pytest.warns(ExplainkitWarning) as caught:
        e = ek.explain(model, x, target)
    assert [str(w.message).partition(": ")[2] for w in caught] == e.diagnostics["warnings"]
    return e.diagnostics["warnings"]


class TestWarnings:
    def test_train_mode(self):
        model, x = toy_models()["batch_norm"]
        with pytest.warns(ExplainkitWarning, match="train mode"):
            e = ek.explain(model, x, 0)
        assert "keep_mode=True" in e.diagnostics["warnings"][0]
        assert model.training
        torch.testing.assert_close(e.logits, model.eval()(x))

    def test_keep_mode_is_seeded_and_restores_the_model(self):
        model, x = toy_models()["batch_norm"]
        before = model[1].running_mean.clone()
        one, again, other = (
            ek.explain(model, x, 0, seed=seed, keep_mode=True) for seed in (1, 1, 2)
        )
        assert torch.equal(one.attribution, again.attribution)
        assert not torch.equal(one.attribution, other.attribution)
        assert torch.equal(before, model[1].running_mean)
        assert "warnings" not in one.diagnostics

    def test_a_zero_map(self):
        model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten()).eval()
        nn.init.constant_(model[0].bias, -10)
        (text,) = warnings_of(model, torch.rand(2, 1, 2, 2))
        assert "zero everywhere in images 0, 1" in text
        assert "try another target" in text

    def test_a_constant_map(self):
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        (text,) = warnings_of(model, torch.rand(1, 1, 3, 3) + 2)
        assert "constant in image 0" in text

    @pytest.mark.parametrize("last", [nn.Sigmoid(), nn.Softmax(1)])
    @pytest.mark.parametrize("target", [0, 1])
    def test_a_saturated_output(self, last, target):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), last).eval()
        nn.init.constant_(model[1].weight, 0.1)
        model[1].bias.data = torch.tensor([60.0, -60.0])
        texts = warnings_of(model, torch.rand(1, 1, 2, 2), target)
        assert "saturated in 1 of 1 images" in texts[0]
        assert f"without the final {type(last).__name__}" in texts[0]

    def test_a_saturated_output_without_a_module(self):
        model = _Output(lambda y: torch.sigmoid(y + 40))
        assert "saturated in 2 of 2" in warnings_of(model, torch.rand(2, 3, 4, 5))[0]

    def test_a_layer_is_not_saturated(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
        with torch.no_grad():
            model[2].weight *= 0.01
            model[2].bias.fill_(0.5)
            model[0].bias.fill_(9.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ek.explain(model, torch.rand(1, 1, 4, 4), channel("0", 1))

    def test_probabilities(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1)).eval()
        (text,) = warnings_of(model, torch.rand(1, 1, 2, 2))
        assert "probabilities: explain it without the final Softmax" in text

    def test_logits_in_the_unit_interval_give_no_warning(self):
        model = _Output(lambda y: 0.3 + 0 * y + y.detach() * 0 + 1e-3 * y)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ek.explain(model, torch.rand(1, 3, 4, 5), 0)


class TestMethods:
    def test_names_classes_and_instances(self, plain):
        expected = ek.explain(*plain, 0, "saliency", absolute=True)
        for method in ("explainkit/saliency", Saliency, Saliency()):
            e = ek.explain(*plain, 0, method, absolute=True)
            assert torch.equal(e.attribution, expected.attribution)
            assert (e.method, e.params) == ("explainkit/saliency", {"absolute": True})

    def test_nested_methods_by_name(self, plain):
        e = ek.explain(*plain, 0, "smoothgrad", base="input_x_gradient", samples=2, seed=5)
        assert e.params == {
            "base": {"method": "explainkit/input_x_gradient"},
            "samples": 2,
            "noise": 0.15,
            "relative": True,
            "seed": 5,
        }

    def test_seeds_reach_nested_methods(self, plain):
        nested = SmoothGrad(base=SmoothGrad(samples=2), samples=2)
        e = ek.explain(*plain, 0, nested, seed=9)
        assert e.params["base"]["seed"] == e.params["seed"] == 9

    def test_unknown(self, plain):
        with pytest.raises(UnknownNameError, match="saliency"):
            ek.explain(*plain, 0, "salency")
        with pytest.raises(
            MethodError, match="takes absolute, got 'absolut'; did you mean absolute="
        ):
            ek.explain(*plain, 0, absolut=True)
        with pytest.raises(MethodError, match="expected a method's name"):
            ek.explain(*plain, 0, len)

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (
                lambda x: x[:, :1, :2],
                r"map \[4, 1 or 3, 12, 10\] from the method, got \[4, 1, 2, 10\]",
            ),
            (lambda x: x.sum((2, 3)), r"got \[4, 3\]"),
            (lambda x: None, "got NoneType"),
            (lambda x: x * torch.nan, "expected a finite map"),
            (lambda x: x.to("meta"), "on cpu from the method, got meta"),
        ],
    )
    def test_results_that_are_not_maps(self, plain, result, message):
        with pytest.raises(MethodError, match=message):
            ek.explain(*plain, 0, _make(lambda model, x, target: result(x)))

    def test_everything_a_method_reports(self, plain):
        def call(model, x, target):
            return Attribution(
                x[:, :1],
                x[:, :1].abs(),
                diagnostics={"note": "n", "each": x.sum((1, 2, 3))},
                partial=True,
            )

        e = ek.explain(*plain, 0, _make(call), batch_size=3)
        assert e.diagnostics["note"] == "n"
        assert torch.equal(e.diagnostics["each"], plain[1].sum((1, 2, 3)))
        assert torch.equal(e.diagnostics["standard_error"], plain[1][:, :1])
        assert e.diagnostics["partial"]

    def test_a_method_may_write_into_its_inputs(self, plain):
        def call(model, x, target):
            with torch.no_grad():
                x.zero_()
            return x

        before = plain[1].clone()
        with pytest.warns(ExplainkitWarning):
            e = ek.explain(*plain, 0, _make(call))
        assert torch.equal(plain[1], before)
        assert torch.equal(e.inputs, before)

    def test_black_box_methods_cost_no_second_pass(self, plain):
        model, x = plain
        calls = []
        model.register_forward_hook(lambda *_: calls.append(1))
        ek.explain(model, x[:1], 0)
        assert len(calls) == 1
        ek.explain(model, x[:1], 0, _make(lambda m, x, t: (m(x), x)[1]))
        assert len(calls) == 2


def _make(call):
    """A method from a function."""
    import dataclasses

    return dataclasses.make_dataclass(
        "Made", [], frozen=True, namespace={"__call__": lambda self, *args: call(*args)}
    )()


class TestBatches:
    def test_out_of_memory_halves_the_chunk(self, plain):
        model, x = plain
        sizes = []

        def limited(module, args):
            sizes.append(len(args[0]))
            if len(args[0]) > 1:
                raise torch.OutOfMemoryError("out of memory")

        expected = ek.explain(model, x, 2, "smoothgrad", samples=4)
        model.register_forward_pre_hook(limited)
        found = ek.explain(model, x, 2, "smoothgrad", samples=4)
        torch.testing.assert_close(found.attribution, expected.attribution)
        assert max(sizes) > 1

    def test_out_of_memory_for_a_single_image(self, plain):
        def limited(module, args):
            raise torch.OutOfMemoryError("out of memory")

        plain[0].register_forward_pre_hook(limited)
        text = r"^out of memory in Sequential: explain fewer or smaller images[^\n]+$"
        with pytest.raises(ModelError, match=text) as caught:
            ek.explain(*plain, 2)
        assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)

    def test_large_batches_are_cut_to_the_budget(self, plain, monkeypatch):
        model, x = plain
        sizes = []
        model.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
        monkeypatch.setattr("explainkit.engine.batching.BUDGET", 1)
        ek.explain(model, x, 0)
        assert set(sizes) == {1}

    def test_batch_size(self, plain):
        with pytest.raises(InputError, match="batch_size: expected at least 1, got 0"):
            ek.explain(*plain, 0, batch_size=0)

    def test_models_that_write_into_their_input(self):
        class Normalizing(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(12, 2)

            def forward(self, x):
                return self.head(x.sub_(0.5).relu_().flatten(1))

        x = torch.rand(3, 3, 2, 2)
        before = x.clone()
        e = ek.explain(Normalizing().eval(), x, 1, "integrated_gradients", steps=3)
        assert torch.equal(x, before)
        assert torch.equal(e.inputs, before)

    @pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode])
    def test_inside_the_callers_modes(self, plain, outer):
        expected = ek.explain(*plain, 1).attribution
        with outer():
            x = plain[1] + 0
            assert torch.equal(ek.explain(plain[0], x, 1).attribution, expected)

    def test_the_callers_graph_is_unchanged(self, plain):
        model, x = plain
        leaf = x.clone().requires_grad_()
        half = leaf * 1
        ek.explain(model, half, 0)
        assert leaf.grad is None
        half.sum().backward()
        assert bool((leaf.grad == 1).all())

    def test_threads(self, plain):
        """Several threads in turn explain one model."""
        expected = ek.explain(*plain, 1).attribution
        found = []
        lock = threading.Lock()

        def work():
            with lock:
                found.append(ek.explain(*plain, 1).attribution)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(one, expected) for one in found)


class TestExplanation:
    def test_getitem_and_heatmap(self, plain):
        e = ek.explain(*plain, 0, "smoothgrad", samples=3)
        assert len(e) == 4
        one = e[-1]
        assert torch.equal(one.attribution, e.attribution[3:])
        assert torch.equal(one.diagnostics["standard_error"], e.diagnostics["standard_error"][3:])
        with pytest.raises(IndexError):
            e[4]
        a = e.attribution
        assert torch.equal(e.heatmap(), a.sum(1))
        assert torch.equal(e.heatmap("abs_sum"), a.abs().sum(1))
        assert torch.equal(e.heatmap("abs_max"), a.abs().amax(1))
        torch.testing.assert_close(e.heatmap("norm"), a.square().sum(1).sqrt())
        with pytest.raises(ValueError, match="reduce"):
            e.heatmap("mean")

    def test_provenance(self, plain):
        e = ek.explain(*plain, 0, seed=4)
        assert e.model == "torch.nn.modules.container.Sequential"
        assert e.seed == 4
        assert {"python", "torch", "explainkit"} <= e.versions.keys()
        assert "saliency" in repr(e)


class TestInnerLayers:
    @pytest.mark.parametrize(
        ("name", "layer"), [("plain", "1"), ("residual", "stem"), ("reused", "second")]
    )
    def test_at_is_the_gradient_of_the_layers_output(self, name, layer):
        model, x = toy_models()[name]
        outputs = []
        hook = model.get_submodule(layer).register_forward_hook(
            lambda _m, _i, out: outputs.append(out)
        )
        score = model(x)[:, 1].sum()
        hook.remove()
        (wanted,) = torch.autograd.grad(score, outputs[0])
        found = ek.explain(model, x, 1, at=layer)
        assert found.at == layer
        torch.testing.assert_close(found.attribution, wanted, rtol=1e-4, atol=1e-7)

    def test_any_method_and_its_completeness(self):
        model, x = toy_models()["vit"]
        e = ek.explain(model, x, 1, "deeplift", at="blocks.0", baseline=0.1)
        assert e.attribution.shape == (4, 31, 16)
        assert e.diagnostics["completeness_gap"].max() < 1e-4

    def test_results_of_layers_are_saved(self, tmp_path):
        model, x = toy_models()["mlp"]
        e = ek.explain(model, x, 1, "input_x_gradient", at="1")
        back = ek.Explanation.load(e.save(tmp_path / "e"))
        assert torch.equal(back.attribution, e.attribution)
        assert back.at == "1"

    def test_maps_of_spatial_layers_are_upsampled_to_the_images(self):
        model, x = toy_models()["plain"]
        e = ek.explain(model, x, 1, at="4")
        assert over_images(e).shape == (4, 12, 10)
        assert torch.equal(over_images(e)[:, [0, 3, 6, 9]][:, :, [0, 4, 9]], e.heatmap())
        e.plot()
        model, x = toy_models()["mlp"]
        with pytest.raises(RenderError, match="a layer without spatial positions"):
            ek.explain(model, x, 1, at="1").plot()

    def test_an_expression_of_an_inner_unit(self):
        model, x = toy_models()["plain"]
        e = ek.explain(model, x, 'neuron("3", 2, 1, 1)')
        images = x.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(model[:4](images)[:, 2, 1, 1].sum(), images)
        torch.testing.assert_close(e.attribution, wanted)
        assert e.expression == 'neuron("3", 2, 1, 1)'

    def test_errors(self):
        model, x = toy_models()["plain"]
        with pytest.raises(MethodError, match="GradCAM uses a layer"):
            ek.explain(model, x, 1, "gradcam", at="1")
        with pytest.raises(ModelError, match="expected a layer"):
            ek.explain(model, x, 1, at="99")


class TestSeveral:
    def test_lists_are_the_single_calls(self):
        model, x = toy_models()["plain"]
        methods = ["saliency", "deeplift", "gradcam"]
        together = ek.explain(model, x, targets=[0, 2], method=methods)
        assert [(e.method.rpartition("/")[2], int(e.target[0])) for e in together] == [
            (method, target) for method in methods for target in (0, 2)
        ]
        for e in together:
            alone = ek.explain(model, x, int(e.target[0]), e.method)
            torch.testing.assert_close(e.attribution, alone.attribution, rtol=1e-5, atol=1e-8)

    def test_all_classes(self):
        model, x = toy_models()["functional"]
        assert [int(e.target[0]) for e in ek.explain(model, x, targets="all")] == [0, 1, 2, 3, 4]

    def test_classes_share_one_forward(self):
        model, x = toy_models()["plain"]
        calls = []
        ek.explain(model, x, 0, batch_size=4)
        hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
        methods = ["saliency", "input_x_gradient"]
        ek.explain(model, x, targets=[0, 1, 2], method=methods, batch_size=4)
        hook.remove()
        assert len(calls) == 1

    def test_get_finds_one_by_method_and_target(self):
        model, x = toy_models()["plain"]
        ask = {"method": ["saliency", "gradcam"], "targets": [1, "logit(2) - logit(0)", None]}
        found = ek.explain(model, x, **ask)
        assert found.get(method="GradCAM", target=1) is found[3]
        text = "logit(2) - logit(0)"
        assert found.get(method="explainkit/saliency", target=text) is found[1]
        assert found.get(method="saliency", target=logit(2) - logit(0)) is found[1]
        with pytest.raises(UnknownNameError, match="got 3 matches: saliency of 1, 1"):
            found.get(method="saliency")
        with pytest.raises(UnknownNameError, match="got 0 matches: available: saliency of 1"):
            found.get(method="rise")
        with pytest.raises(UnknownNameError, match="got 0 matches: available: none"):
            ek.Explanations().get()

    def test_target_is_one_and_targets_are_several(self):
        model, x = toy_models()["plain"]
        one = ek.explain(model, x, [3, 0, 1, 2])
        assert one.target.tolist() == [3, 0, 1, 2]
        two = ek.explain(model, x, targets=[[3, 0, 1, 2], 2])
        assert torch.equal(two[0].attribution, one.attribution)
        assert two[1].target.tolist() == [2] * 4
        for wrong in ([0, 1], ["logit(0)", 1, 2, 3], [lambda out: out, 1, 2, 3], [True, 1, 2, 3]):
            with pytest.raises(TargetError, match=r"class name|targets=\[…\]"):
                ek.explain(model, x, wrong)
        with pytest.raises(TargetError, match="targets='all' explains every class"):
            ek.explain(model, x, "all")
        with pytest.raises(TargetError, match="got both"):
            ek.explain(model, x, 1, targets=[1, 2])

    @pytest.mark.parametrize(
        ("arguments", "params", "message"),
        [
            ((1, "saliency"), {"layer": "3"}, "did you mean at="),
            ((1, "integrated_gradients"), {"n_steps": 50}, "did you mean steps="),
            ((1, "integrated_gradients"), {"baselines": 0}, "did you mean baseline="),
            ((1, "expected_gradients"), {"n_samples": 5}, "did you mean samples="),
            ((1, "gradcam"), {"target_layers": ["3"]}, "did you mean layer="),
            ((1, "smoothgrad"), {"nt_samples": 5}, "did you mean samples="),
            ((1, "occlusion"), {"sliding_window_shapes": (3, 3, 3)}, "did you mean window="),
            ((1, "feature_ablation"), {"perturbations_per_eval": 4}, "did you mean batch_size="),
            ((1, "saliency"), {"as_is": True}, "did you mean keep_mode="),
            ((1, ["saliency", "gradcam"]), {"n_steps": 5}, "none has it"),
            ((1, ["rise", "gradcam"]), {"n_samples": 5}, "did you mean samples="),
            ((1, "ig"), {}, "here it is called integrated_gradients"),
            ((1, "shap"), {}, "kernel_shap, deeplift_shap"),
            ((1, "NoiseTunnel"), {}, "here it is called smoothgrad"),
            (("gradcam", 1), {}, "use method='gradcam'"),
            (("GradCAM",), {}, "use method='GradCAM'"),
            ((Saliency, 1), {}, "use method=Saliency"),
            ((Saliency(), 1), {}, r"use method=Saliency\(\)"),
        ],
    )
    def test_names_from_other_libraries_give_hints(self, arguments, params, message):
        model, x = toy_models()["plain"]
        with pytest.raises(ek.ExplainkitError, match=message):
            ek.explain(model, x, *arguments, **params)

    @pytest.mark.parametrize(
        ("spelled", "name"),
        [
            ("GradCAM", "gradcam"), ("grad-cam", "gradcam"), ("grad_cam++", "gradcam_plus_plus"),
            ("GradCAMPlusPlus", "gradcam_plus_plus"), ("DeepLift", "deeplift"),
            ("IntegratedGradients", "integrated_gradients"), ("Layer-CAM", "layercam"),
            ("explainkit/Guided-Backprop", "guided_backprop"),
        ],
    )  # fmt: skip
    def test_spellings_do_not_matter(self, spelled, name):
        model, x = toy_models()["plain"]
        assert ek.explain(model, x, 1, spelled).method == f"explainkit/{name}"

    def test_parameters_go_to_the_methods_that_have_them(self):
        model, x = toy_models()["plain"]
        first, second = ek.explain(model, x, 0, ["saliency", "smoothgrad"], samples=3)
        assert second.params["samples"] == 3
        assert "samples" not in first.params
        with pytest.raises(MethodError, match="got 'depth': none has it"):
            ek.explain(model, x, 0, ["saliency", "smoothgrad"], depth=3)

    def test_a_baseline_per_image_follows_its_image_into_chunks(self):
        model, x = toy_models()["plain"]
        baseline = torch.rand_like(x)
        for method in ("integrated_gradients", "deeplift", "occlusion"):
            found = ek.explain(model, x, 1, method, baseline=baseline, batch_size=3)
            alone = ek.explain(model, x[3:], 1, method, baseline=baseline[3])
            torch.testing.assert_close(
                found.attribution[3:], alone.attribution, rtol=1e-4, atol=1e-7
            )
        with pytest.raises(MethodError, match="baseline: expected one for all images or one per"):
            ek.explain(model, x, 1, "deeplift", baseline=baseline[:3])
