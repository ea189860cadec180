"""Whose score is explained: one of several outputs, the sides of a logit, labels and values."""

import types
from types import SimpleNamespace

import pytest
import torch
from matplotlib.text import Text
from torch import nn

import explainkit as ek
from explainkit.errors import ModelError, TargetError
from explainkit.scores import Outputs

X = torch.rand(4, 3, 12, 10, generator=torch.Generator().manual_seed(0))


def network(outputs, *last, bias=None):
    """A small network; ``bias`` sets that of its last linear layer."""
    torch.manual_seed(0)
    head = nn.Linear(8 * 4 * 3, outputs)
    if bias is not None:
        head.bias.data = torch.tensor(bias)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), head, *last,
    ).eval()  # fmt: skip


def two_sided(model):
    """The same decision with a logit for each side, −z and z."""
    *body, head = model
    both = nn.Linear(head.in_features, 2)
    both.weight.data = torch.cat([-head.weight, head.weight]).detach()
    both.bias.data = torch.cat([-head.bias, head.bias]).detach()
    return nn.Sequential(*body, both).eval()


class Wrapped(nn.Module):
    """Returns what ``wrap`` makes of the logits."""

    def __init__(self, model, wrap):
        super().__init__()
        self.model, self.wrap = model, wrap
        self.eval()

    def forward(self, x):
        return self.wrap(self.model(x))


class TestOneLogit:
    MODEL = network(1)
    MODEL[-1].bias.data -= MODEL(X).median().detach() - 1e-3
    """Its logits have both signs on `X`."""

    def test_the_sign_decides_and_the_predicted_side_is_explained(self):
        z = self.MODEL(X)[:, 0].detach()
        assert bool((z > 0).any() and (z < 0).any())
        e = ek.explain(self.MODEL, X, class_names=("no", "yes"))
        assert e.task == "binary"
        assert torch.equal(e.logits[:, 0], z)
        assert torch.equal(e.predicted, (z > 0).long())
        assert torch.equal(e.target, e.predicted)
        assert torch.equal(e.score, z.abs())
        torch.testing.assert_close(e.probabilities[:, 1], z.sigmoid())
        torch.testing.assert_close(e.probabilities.sum(1), torch.ones(4))
        assert [e.target_name(i) for i in range(4)] == [("no", "yes")[int(s > 0)] for s in z]

    @pytest.mark.parametrize("target", [0, 1, [0, 1, 1, 0]], ids=str)
    @pytest.mark.parametrize(
        "method",
        [
            "saliency", "input_x_gradient", "integrated_gradients", "gradcam", "layercam",
            "finercam", "eigencam", "deeplift", "lrp", "guided_backprop", "deep_taylor",
            "excitation_backprop", "full_gradient", "ablation_cam", "occlusion", "rise",
        ],
    )  # fmt: skip
    def test_every_method_explains_it_like_two_logits(self, method, target):
        """Rules that prefer positive weights too: for class 0, those of −z."""
        params = {"window": 6} if method == "occlusion" else {}
        params = {"samples": 20} if method == "rise" else params
        one = ek.explain(self.MODEL, X, target, method, **params)
        two = ek.explain(two_sided(self.MODEL), X, target, method, **params)
        torch.testing.assert_close(one.attribution, two.attribution, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.score, two.score)

    @pytest.mark.parametrize("wrap", [lambda z: z[:, 0], lambda z: z.squeeze(1)[:, None]])
    def test_its_shape_does_not_matter(self, wrap):
        model = Wrapped(self.MODEL, wrap)
        for method in ("excitation_backprop", "occlusion"):
            found = ek.explain(model, X, method=method)
            wanted = ek.explain(self.MODEL, X, method=method)
            assert torch.equal(found.target, wanted.target)
            torch.testing.assert_close(found.attribution, wanted.attribution)

    def test_names_and_expressions(self):
        names = {"class_names": ("no", "yes")}
        z = self.MODEL(X)[:, 0].detach()
        assert torch.equal(ek.explain(self.MODEL, X, "no", **names).score, -z)
        assert torch.equal(ek.explain(self.MODEL, X, 'logit("yes")', **names).score, z)
        both = ek.explain(self.MODEL, X, targets="all", **names)
        assert [e.target_name(0) for e in both] == ["no", "yes"]
        torch.testing.assert_close(both[0].attribution, -both[1].attribution)
        with pytest.raises(TargetError, match="expected 2 class names for 1 output .* got 1"):
            ek.explain(self.MODEL, X, class_names=["yes"])
        with pytest.raises(TargetError, match=r"from 0 to 1 \(the model has 2 classes\), got 2"):
            ek.explain(self.MODEL, X, 2)

    def test_a_probability_decides_at_one_half(self):
        z = self.MODEL(X)[:, 0].detach()
        for last in (nn.Sigmoid(), nn.Sequential(nn.Sigmoid(), nn.Flatten(0))):
            e = ek.explain(nn.Sequential(self.MODEL, last).eval(), X)
            assert e.squashed
            assert torch.equal(e.target, (z > 0).long())
            torch.testing.assert_close(e.probabilities[:, 1], z.sigmoid())
            torch.testing.assert_close(e.score, z.abs().sigmoid())

    def test_a_regression_explains_the_value(self):
        z = self.MODEL(X)[:, 0].detach()
        e = ek.explain(self.MODEL, X, task="regression")
        assert e.target.tolist() == [0] * 4
        assert torch.equal(e.score, z)
        assert e.probabilities is e.predicted is None
        with pytest.raises(TargetError, match=r"expected target= to choose one of 3 outputs"):
            ek.explain(network(3), X, task="regression")

    def test_binary_means_one_logit(self):
        with pytest.raises(ModelError, match="expected one logit for task='binary', got 3"):
            ek.explain(network(3), X, task="binary")
        with pytest.raises(ModelError, match="task: expected classification, binary, multilabel"):
            ek.explain(self.MODEL, X, task="ranking")

    def test_maximize_has_both_sides(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).eval()
        ask = {"shape": (1, 2, 2), "steps": 3, "maximizer": "pixel"}
        found = ek.maximize(model, "classes()", **ask)
        for image, side, score in zip(found.images, (-1, 1), found.score, strict=True):
            torch.testing.assert_close(score, side * model(image[None])[0, 0])
        value = ek.maximize(model, "logit(0)", task="regression", **ask)
        assert torch.equal(value.images[0], ek.maximize(model, "logit(1)", **ask).images[0]) or (
            float(value.score) > 0
        )


class TestLabels:
    MODEL = network(3, bias=[3.0, -3.0, 1.0])

    def test_each_label_by_itself(self):
        e = ek.explain(self.MODEL, X, task="multilabel", class_names=("cat", "dog", "hat"))
        logits = self.MODEL(X).detach()
        torch.testing.assert_close(e.probabilities, logits.sigmoid())
        assert torch.equal(e.predicted, logits > 0)
        assert e.predicted_classes(0) == [0, 2]
        assert torch.equal(e.target, logits.argmax(1)), "the most probable label"
        alone = ek.explain(self.MODEL, X, 2, "integrated_gradients", task="multilabel")
        raised = network(3, bias=[30.0, 30.0, 1.0])
        other = ek.explain(raised, X, 2, "integrated_gradients", task="multilabel")
        torch.testing.assert_close(other.attribution, alone.attribution)
        torch.testing.assert_close(other.probabilities[:, 2], alone.probabilities[:, 2])

    def test_sigmoids_in_the_model(self):
        e = ek.explain(nn.Sequential(self.MODEL, nn.Sigmoid()).eval(), X, task="multilabel")
        assert torch.equal(e.probabilities, e.logits)
        assert e.predicted_classes(0) == [0, 2]

    def test_softmax_in_the_model_is_not_applied_twice(self):
        with pytest.warns(ek.errors.ExplainkitWarning, match="returns probabilities"):
            e = ek.explain(nn.Sequential(self.MODEL, nn.Softmax(1)).eval(), X)
        torch.testing.assert_close(e.probabilities, self.MODEL(X).softmax(1).detach())


class TestSeveralOutputs:
    SCORES = network(2)

    def rnet(self):
        """Boxes before scores, as in MTCNN."""
        return Wrapped(self.SCORES, lambda y: (y @ torch.ones(2, 4), y))

    def test_they_are_listed_and_not_guessed(self):
        with pytest.raises(ModelError) as caught:
            ek.explain(self.rnet(), X)
        assert str(caught.value) == (
            "expected one output that can be scores [batch, classes], got tuple with "
            "0 float32 [4, 4], 1 float32 [4, 2]: choose one, such as output=0"
        )

    @pytest.mark.parametrize(
        ("wrap", "output"),
        [
            (lambda y: (y @ torch.ones(2, 4), y), 1),
            (lambda y: [-y, y], "1"),
            (lambda y: {"box": -y, "label": y}, "label"),
            (lambda y: {"a.b": y, "a": {"b": -y}}, "a.b"),
            (lambda y: {"heads": (-y, {"age": y})}, "heads.1.age"),
            (lambda y: SimpleNamespace(logits=-y, aux=y), "aux"),
            (lambda y: SimpleNamespace(heads={"age": y}), "heads.age"),
        ],
    )
    def test_output_chooses_one(self, wrap, output, tmp_path):
        model, wanted = Wrapped(self.SCORES, wrap), ek.explain(self.SCORES, X)
        for method in ("saliency", "gradcam", "occlusion", "ablation_cam"):
            found = ek.explain(model, X, method=method, output=output)
            alone = ek.explain(self.SCORES, X, method=method)
            torch.testing.assert_close(found.attribution, alone.attribution)
        assert torch.equal(found.logits, wanted.logits)
        back = ek.Explanation.load(found.save(tmp_path / "e"))
        assert back.output == found.output == output

    @pytest.mark.parametrize(
        ("wrap", "message"),
        [
            (lambda y: {"a": y, "b": y}, "dict with a float32 .*: choose one, such as output='a'"),
            (lambda y: {"a": y, "map": y[:, :, None, None].expand(-1, -1, 2, 2)}, "output='a'"),
            (lambda y: {"out": y, "scores": y}, "choose one, such as output='out'"),
            (lambda y: (y, y[:, :, None, None]), r"1 float32 \[4, 2, 1, 1\]: choose one"),
            (lambda y: (y, y[:, 0]), r"1 float32 \[4\]: choose one"),
        ],
    )
    def test_ambiguous_outputs(self, wrap, message):
        with pytest.raises(ModelError, match=message) as caught:
            ek.explain(Wrapped(self.SCORES, wrap), X)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda y: {"logits": y, "aux": -y, "out": -y},
            lambda y: {"out": y, "aux": -y},
            lambda y: SimpleNamespace(logits=y, aux_logits=-y),
            lambda y: (y, torch.zeros(len(y), 3, 2), torch.zeros(())),
        ],
    )
    def test_well_known_names_are_not_ambiguous(self, wrap):
        found = ek.explain(Wrapped(self.SCORES, wrap), X)
        assert torch.equal(found.attribution, ek.explain(self.SCORES, X).attribution)

    @pytest.mark.parametrize("output", ["b", 3, "a.shape.9", -9])
    def test_no_such_output(self, output):
        model = Wrapped(self.SCORES, lambda y: {"a": y})
        with pytest.raises(ModelError, match=r"expected output=.* in what the model returns, got"):
            ek.explain(model, X, output=output)

    def test_a_tensor_has_no_outputs(self):
        """An index would choose an image."""
        with pytest.raises(ModelError, match="expected output=0 in what the model returns"):
            ek.explain(self.SCORES, X, output=0)

    def test_maximize(self):
        found = ek.maximize(self.rnet(), "logit(1)", shape=(3, 12, 10), steps=2, output=1)
        alone = ek.maximize(self.SCORES, "logit(1)", shape=(3, 12, 10), steps=2)
        assert torch.equal(found.images, alone.images)
        assert found.output == 1
        with pytest.raises(ModelError, match="choose one"):
            ek.maximize(self.rnet(), "logit(1)", shape=(3, 12, 10), steps=2)


def spec(**changes):
    return ek.ModelSpec(
        build=nn.Identity, image_shape=(3, 12, 10), mean=(0.0,) * 3, std=(1.0,) * 3, **changes
    )


def test_a_spec_names_the_task_the_output_and_the_classes():
    model = Wrapped(network(1), lambda z: (z.expand(-1, 3), z))
    model.explainkit_spec = spec(task="binary", output=1, class_names=("no", "yes"))
    e = ek.explain(model, X, "yes")
    assert (e.task, e.output, e.target_name(0)) == ("binary", 1, "yes")
    other = ek.explain(model, X, 2, output=0)
    assert (other.task, other.class_names) == ("classification", ()), "another output"
    assert ek.explain(model, X, task="regression", class_names=["age"]).task == "regression"


@pytest.mark.parametrize(
    ("problem", "task"),
    [
        ("regression", "regression"),
        ("multi_label_classification", "multilabel"),
        ("single_label_classification", "classification"),
        (None, "classification"),
    ],
)
def test_the_task_of_a_transformers_configuration(problem, task):
    model = network(3)
    model.config = types.SimpleNamespace(problem_type=problem, id2label={0: "a", 1: "b", 2: "c"})
    e = ek.explain(model, X, "b")
    assert (e.task, e.class_names) == (task, ("a", "b", "c"))
    one = network(1)
    one.config = types.SimpleNamespace(problem_type=None, id2label={0: "LABEL_0"})
    assert ek.explain(one, X, 1).class_names == ()


def test_the_last_operator_is_found_behind_views():
    x = torch.rand(2, 1, requires_grad=True)
    for squash in (torch.sigmoid, lambda z: torch.cat([z, z], 1).softmax(1)):
        for view in (lambda y: y, lambda y: y.clone()[:, :1], lambda y: y[..., None].flatten(1)):
            assert Outputs(task="multilabel").resolved(view(squash(x))).squashed
    for other in (x * 2, torch.sigmoid(x) * 2, x.sigmoid().log(), x.detach()):
        assert not Outputs(task="multilabel").resolved(other).squashed


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(Text))


class TestShown:
    """Figures, the notebook and the report say what is predicted, under the task's own rules."""

    def test_a_logit(self, tmp_path):
        model = network(1, bias=[-5.0])
        e = ek.explain(model, X[:1], class_names=("healthy", "ill"))
        p = model(X[:1]).sigmoid().item()
        for shown in (texts(e.plot()), e._repr_html_(), e.report(tmp_path / "r.html").read_text()):
            assert "predicted: " in shown
            assert "healthy" in shown
            assert f"{1 - p:.2f}" in shown
            assert f"{p:.2f}" in shown
        assert "predicted: healthy" in texts(e.plot())
        assert "for ill" in texts(ek.explain(model, X[:1], 1, class_names=("no", "ill")).plot())

    def test_labels(self, tmp_path):
        model = network(3, bias=[3.0, -3.0, 1.0])
        names = ("cat", "dog", "hat")
        e = ek.explain(model, X[:1], task="multilabel", class_names=names)
        chances = [f"{p:.2f}" for p in model(X[:1]).sigmoid()[0].tolist()]
        for shown in (texts(e.plot()), e._repr_html_()):
            assert "predicted: cat, hat" in shown
            assert all(chance in shown for chance in chances)
        assert "cat, hat" in e.report(tmp_path / "r.html", labels=[2]).read_text()
        assert "(correct)" in texts(ek.Explanations([e]).plot(labels=[2]))
        none = ek.explain(network(2, bias=[-9.0, -9.0]), X[:1], task="multilabel")
        assert "predicted: no label" in texts(none.plot())

    def test_values(self, tmp_path):
        e = ek.explain(network(2), X[:1], 1, task="regression")
        shown = texts(e.plot())
        assert "predicted" not in shown
        assert f"score {float(e.score):.3g}" in shown
        e = ek.explain(network(2), X[:1], 1, "input_x_gradient", task="regression")
        assert "against (blue) the explained output" in texts(e.plot())
        assert "predicted: " not in e.report(tmp_path / "r.html").read_text().split("<script")[0]

    def test_a_function_is_not_called_a_class(self):
        def brightness(output):
            return output.sum(1)

        e = ek.explain(network(3), X[:1], brightness, class_names=("a", "b", "c"))
        assert e.target_name(0) == "function brightness"
        assert "function brightness" in e._repr_html_()


def test_saved_results_keep_the_task(tmp_path):
    e = ek.explain(network(1), X, class_names=("no", "yes"))
    back = ek.Explanation.load(e.save(tmp_path / "e"))
    assert (back.task, back.output, back.squashed) == ("binary", None, False)
    assert torch.equal(back.probabilities, e.probabilities)
    assert back[0].predicted.tolist() == e.predicted[:1].tolist()
