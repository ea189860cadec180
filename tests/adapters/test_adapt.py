"""adapt() tells explainkit about a model and leaves the model alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import explainkit as ek
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
from explainkit.errors import ModelError, TargetError
from explainkit.interfaces import ModelSpec, spec_of

SMALL = Preprocessing((Resize(6), CenterCrop(4)), mean=(0.5,) * 3, std=(0.5,) * 3)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()


def test_the_callers_module_is_unchanged_and_everything_is_shared():
    theirs = net()
    before = dict(vars(theirs))
    model = ek.adapt(theirs, preprocessing=SMALL, class_names=["cat", "dog"])
    assert vars(theirs) == before
    assert spec_of(theirs) is None
    assert type(model) is type(theirs)
    assert all(a is b for a, b in zip(model.parameters(), theirs.parameters(), strict=True))
    assert dict(model.named_modules()).keys() == dict(theirs.named_modules()).keys()
    with torch.no_grad():
        theirs[3].bias += 1
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(model(x), theirs(x))


def test_the_spec_is_used():
    model = ek.adapt(net(), preprocessing=SMALL, class_names=["cat", "dog"])
    photo = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    explanation = ek.explain(model, photo, "dog", "gradcam", layer="0")
    assert explanation.class_names == ("cat", "dog")
    assert explanation.inputs.shape == (1, 3, 4, 4)
    assert explanation.mean == explanation.std == (0.5, 0.5, 0.5)
    assert torch.equal(
        explanation.attribution,
        ek.explain(net(), explanation.inputs, 1, "gradcam", layer="0").attribution,
    )


@pytest.mark.parametrize(
    "form",
    [
        lambda m: torch.jit.trace(m, torch.rand(1, 3, 4, 4), check_trace=False),
        torch.fx.symbolic_trace,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: torch.export.export(m, (torch.rand(2, 3, 4, 4),)).module(),
    ],
    ids=["traced", "fx", "compiled", "exported"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_every_form_of_a_module(form):
    theirs = form(net())
    before = set(vars(theirs))
    model = ek.adapt(theirs, class_names=["cat", "dog"])
    assert set(vars(theirs)) == before
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(model(x), theirs(x))
    assert spec_of(model).class_names == ("cat", "dog")


def test_what_is_not_given_is_kept():
    first = ek.adapt(net(), preprocessing=SMALL, class_names=["cat", "dog"])
    second = ek.adapt(first, task="multilabel")
    assert spec_of(second).class_names == ("cat", "dog")
    assert spec_of(second).preprocessing == SMALL
    assert spec_of(second).task == "multilabel"
    assert spec_of(first).task == "classification"


def test_a_registered_model_keeps_the_rest_of_its_spec():
    model = ek.load_model("fer_hw3/dnn")
    german = ek.adapt(model, class_names=list("abcdefg"))
    assert spec_of(german).class_names == tuple("abcdefg")
    assert spec_of(german).image_shape == spec_of(model).image_shape
    assert spec_of(model).class_names[0] == "angry"


def test_the_configuration_of_transformers_is_known():
    theirs = net()
    theirs.config = SimpleNamespace(
        problem_type="multi_label_classification", id2label={0: "cat", 1: "dog"}
    )
    spec = spec_of(ek.adapt(theirs, preprocessing=SMALL))
    assert (spec.task, spec.class_names) == ("multilabel", ("cat", "dog"))


def test_an_unknown_normalization_stays_unknown():
    guess = Preprocessing((Resize(4, "exact"),), known=False)
    spec = spec_of(ek.adapt(net(), preprocessing=guess))
    assert spec.mean is spec.std is None
    plain = spec_of(ek.adapt(net(), preprocessing=Preprocessing((Resize(4, "exact"),))))
    assert (plain.mean, plain.std) == ((0, 0, 0), (1, 1, 1))


def test_another_output_has_other_classes():
    class Heads(nn.Module):
        def forward(self, x):
            means = x.mean((2, 3))
            return {"kind": means, "age": means[:, :1]}

    first = ek.adapt(Heads(), output="kind", class_names=["r", "g", "b"])
    assert ek.explain(first.eval(), torch.rand(1, 3, 4, 4), "g").output == "kind"
    age = ek.adapt(first, output="age", task="regression")
    assert spec_of(age).class_names == ()
    assert ek.explain(age, torch.rand(1, 3, 4, 4)).task == "regression"


def test_errors():
    with pytest.raises(ModelError, match="expected classification, .* got 'detection'"):
        ek.adapt(net(), task="detection")
    with pytest.raises(ModelError, match=r"torch.nn.Module, or a function .* got 'timm:resnet50'"):
        ek.adapt("timm:resnet50")
    with pytest.raises(ModelError, match="got <class"):
        ek.adapt(nn.Linear)
    model = ek.adapt(net(), class_names=["cat", "dog", "crane"])
    with pytest.raises(TargetError, match="expected 2 class names"):
        ek.explain(model, torch.rand(1, 3, 4, 4))


class TestPartOfASpec:
    """A model of which only some things are known."""

    def test_any_size(self):
        model = net()
        model[3] = nn.Linear(60, 2).eval()
        vars(model)["explainkit_spec"] = ModelSpec(class_names=("cat", "dog"))
        assert ek.explain(model, torch.rand(1, 3, 5, 7), "dog").mean is None

    def test_maximize_asks_for_the_shape_and_does_not_bound_pixels(self):
        model = ek.adapt(net(), class_names=["cat", "dog"])
        with pytest.raises(ek.InputError, match=r"expected shape=\(channel, height, width\)"):
            ek.maximize(model, "logit(1)", steps=1)
        found = ek.maximize(model, "logit(1)", shape=(3, 4, 4), steps=1)
        assert found.mean is None

    def test_maximize_makes_images_of_the_size_of_inputs(self):
        model = ek.adapt(net(), preprocessing=SMALL)
        found = ek.maximize(model, "logit(1)", steps=1)
        assert found.images.shape == (1, 3, 4, 4)
        assert found.mean == (0.5, 0.5, 0.5)
        with pytest.raises(ek.ModelError):  # another size, which this network does not take
            ek.maximize(model, "logit(1)", start=torch.zeros(3, 6, 6), steps=1)

    def test_lrp_without_a_normalization_bounds_pixels_by_the_image(self):
        x = torch.rand(1, 3, 4, 4)
        known, bare = ek.adapt(net(), class_names=["cat", "dog"]), net()
        maps = [ek.explain(one, x, 1, "lrp").attribution for one in (known, bare)]
        assert torch.equal(*maps)
