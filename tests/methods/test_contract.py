"""What a field is for stands in its metadata: per image, a seed, a layer; whatever its name."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import explainkit as ek
from explainkit.errors import MethodError, ModelError
from explainkit.methods import XRAI, GradCAM, IntegratedGradients, LibraGrad, Saliency, SmoothGrad
from explainkit.methods.contract import for_images, looks_at_layers, seed_of, seeded, with_layers
from explainkit.testing import check_method, toy_models


@dataclass(frozen=True)
class Tilted:
    """Gradient, shifted by a number of each image's own; a plugin's field may have any name."""

    tilt: Tensor | float = field(default=0.0, metadata={"per_image": True})
    words: tuple[str, ...] = field(default=(), metadata={"per_image": True})
    start: int = field(default=0, metadata={"seed": True})
    where: object = field(default=None, metadata={"layer": True})

    def __call__(self, model, inputs, target):
        score = model(inputs).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, inputs)
        tilt = self.tilt if isinstance(self.tilt, Tensor) else torch.tensor(float(self.tilt))
        assert not self.words or len(self.words) == len(inputs)
        noise = torch.rand((), generator=torch.Generator().manual_seed(self.start))
        extra = torch.tensor([float(len(word)) for word in self.words] or [0.0])
        return gradient + (tilt + extra + noise).reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class Named:
    """A field of a telling name, without a mark: nothing is done with it."""

    seed: int = 3
    baseline: Tensor | None = None

    def __call__(self, model, inputs, target):
        assert self.seed == 3
        assert self.baseline is None or len(self.baseline) == 4
        return Saliency()(model, inputs, target) + 1


def test_a_field_of_any_name_is_cut_to_the_chunk():
    model, x = toy_models()["plain"]
    tilt, words = torch.arange(4.0), ("", "a", "bb", "ccc")
    plain = ek.explain(model, x, 1, Tilted()).attribution
    for size in (None, 1, 3, 4):
        found = ek.explain(model, x, 1, Tilted(tilt, words), batch_size=size).attribution
        moved = (found - plain).mean((1, 2, 3))
        torch.testing.assert_close(moved, 2 * tilt, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrap", [SmoothGrad, LibraGrad, lambda base: XRAI(base, segments=2)])
def test_inside_wrappers_too(wrap):
    model, x = toy_models()["plain"]
    base = torch.rand_like(x)
    few = {"steps": 4}
    whole = ek.explain(model, x, 1, wrap(IntegratedGradients(base, **few)), batch_size=3)
    for i in range(len(x)):
        alone = ek.explain(model, x[i : i + 1], 1, wrap(IntegratedGradients(base[i], **few)))
        torch.testing.assert_close(
            whole.attribution[i : i + 1], alone.attribution, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", ["feature_ablation", "kernel_shap", "lime"])
def test_segments_per_image_inside_a_wrapper(name):
    model, x = toy_models()["plain"]
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.randperm(4, generator=generator)[:, None, None].expand(4, 3, 10)
                          .reshape(12, 10) for _ in x])  # fmt: skip
    from explainkit.catalog.factories import load_method

    inner = load_method(name, segments=labels)
    whole = ek.explain(model, x, 1, SmoothGrad(inner, samples=2), batch_size=2).attribution
    for i in range(len(x)):
        own = SmoothGrad(load_method(name, segments=labels[i]), samples=2)
        alone = ek.explain(model, x[i : i + 1], 1, own).attribution
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-4, atol=1e-6)


def test_a_square_map_of_segments_is_for_all_images_also_where_there_are_as_many():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    x, labels = torch.rand(4, 1, 4, 4), torch.arange(16).view(4, 4)
    found = ek.explain(model, x, 1, "feature_ablation", segments=labels).attribution
    weight = model[1].weight[1].detach().view(1, 1, 4, 4)
    torch.testing.assert_close(found, x * weight, rtol=1e-4, atol=1e-6)


def test_another_number_of_values_is_refused():
    model, x = toy_models()["plain"]
    for method in (Tilted(torch.zeros(3)), SmoothGrad(Tilted(torch.zeros(3)))):
        with pytest.raises(MethodError, match="tilt: expected one for all images or one per"):
            ek.explain(model, x, 1, method)


def test_a_seed_given_to_the_method_is_kept():
    model, x = toy_models()["plain"]

    def run(method, **options):
        return ek.explain(model, x, 1, method, **options)

    few = {"samples": 3}
    given = run(SmoothGrad(seed=5, **few))
    assert given.seed == 5
    assert given.params["seed"] == 5
    assert torch.equal(given.attribution, run("smoothgrad", seed=5, **few).attribution)
    assert torch.equal(
        run("smoothgrad", **few).attribution, run(SmoothGrad(**few), seed=0).attribution
    )
    assert not torch.equal(given.attribution, run("smoothgrad", **few).attribution)
    # a seed of the call is the seed of everything in it
    nested = SmoothGrad(base=SmoothGrad(seed=8, **few), seed=5, **few)
    assert run(nested, seed=2).params["base"]["seed"] == 2
    assert run(nested).params["base"]["seed"] == 8
    assert run(Tilted(start=4)).seed == 4
    assert run(Named(), seed=9).params["seed"] == 3


def test_check_method_finds_an_unmarked_seed():
    with pytest.raises(AssertionError, match="its field seed is not marked as one"):
        check_method(Named(), {"plain": toy_models()["plain"]})


def test_a_field_without_a_mark_is_left_alone():
    model, x = toy_models()["plain"]
    ek.explain(model, x, 1, Named(baseline=torch.zeros(4)), batch_size=2)


def test_what_a_method_says_of_itself_is_recorded():
    @dataclass(frozen=True)
    class Talking:
        """Says everything that an attribution can say."""

        def __call__(self, model, inputs, target):
            return ek.Attribution(
                Saliency()(model, inputs, target),
                layer="1",
                coverage={"operators": {"relu": {"rule": 1}}},
                warnings=("mind the gap",),
            )

    model, x = toy_models()["plain"]
    with pytest.warns(ek.ExplainkitWarning, match="mind the gap"):
        e = ek.explain(model, x, 1, Talking(), batch_size=3)
    assert (e.layer, e.at, e.coverage) == ("1", None, {"operators": {"relu": {"rule": 1}}})
    assert e.diagnostics == {"warnings": ["mind the gap"]}
    with pytest.warns(ek.ExplainkitWarning, match="mind the gap"):
        wrapped = ek.explain(model, x, 1, SmoothGrad(Talking(), samples=2))
    assert (wrapped.layer, wrapped.diagnostics["warnings"]) == ("1", ["mind the gap"])


def test_layers_are_given_as_paths_or_as_modules():
    model, x = toy_models()["plain"]
    for named, given in (
        ("3", model[3]),
        (("1", "3"), (model[1], model[3])),
        (("1", "3"), ["1", model[3]]),
    ):
        one = ek.explain(model, x, 1, "gradcam", layer=named)
        two = ek.explain(model, x, 1, "gradcam", layer=given)
        assert torch.equal(one.attribution, two.attribution)
        assert one.layer == two.layer
        assert two.params["layer"] == named
    assert ek.explain(model, x, 1, "conductance", layer=model[3]).at == "3"
    assert ek.explain(model, x, 1, at=model[3]).at == "3"
    assert (
        torch.equal(
            GradCAM(layer=model[3])(model, x, torch.ones(4, dtype=torch.int64)).values,
            one.attribution,
        )
        is False
    )
    with pytest.raises(ModelError, match="a ReLU that is not one of its submodules"):
        ek.explain(model, x, 1, "gradcam", layer=nn.ReLU())


def test_the_questions():
    method = SmoothGrad(GradCAM("3"), seed=2)
    assert looks_at_layers(method)
    assert not looks_at_layers(SmoothGrad())
    assert seed_of(method) == 2
    assert seed_of(Saliency()) is None
    assert seeded(method, 7).seed == 7
    assert seeded(Saliency(), 7) == Saliency()
    assert with_layers(method, str) is method
    assert for_images(method, [0, 0], 3) is method
