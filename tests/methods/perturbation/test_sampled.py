"""RISE, LIME, HSIC, Sobol and feature ablation: closed forms, definitions, honest error bars."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from games import Game, linear_model, segment_values
from torch import nn

import explainkit as ek
from explainkit.catalog.factories import load_method
from explainkit.errors import ExplainkitWarning, MethodError
from explainkit.methods.perturbation.lime import Lime
from explainkit.methods.perturbation.partition import PartitionShap
from explainkit.methods.perturbation.regression import least_squares
from explainkit.methods.perturbation.rise import Rise
from explainkit.methods.perturbation.sampled import bernoulli
from explainkit.methods.perturbation.segments import grid
from explainkit.methods.perturbation.sensitivity import Hsic, Sobol
from explainkit.methods.perturbation.shapley import KernelShap, ShapleySampling
from explainkit.testing import check_method, toy_models

TARGET = torch.tensor([0, 3, 1, 4])


def share_of_segments(model, weight, x, label, cells):
    """On a linear model, what each segment adds to the score."""
    labels = grid(cells, *x.shape[2:])
    share = (x * weight[label]).sum(1).detach()
    return torch.stack([share[:, labels == j].sum(1) for j in range(cells**2)], 1), labels


def z_scores(model, x, method, expected, labels=None, seeds=30, label=0):
    found = []
    for seed in range(seeds):
        e = ek.explain(model, x, label, method, seed=seed)
        values, error = e.attribution[0], e.diagnostics["standard_error"][0]
        if labels is not None:
            values, error = segment_values(values, labels), segment_values(error, labels)
        found.append((values - expected) / error)
    return torch.stack(found)


class TestFeatureAblation:
    @pytest.mark.parametrize("name", sorted(toy_models()))
    def test_captum(self, name):
        model, x = toy_models()[name]
        model.eval()
        forward = (lambda v: model(v)[0]) if name == "tuple" else model
        labels = torch.randint(0, 9, (12, 10), generator=torch.Generator().manual_seed(1))
        ours = ek.explain(
            model, x, TARGET, "feature_ablation", segments=labels, baseline=0.3
        ).attribution
        oracle = captum.attr.FeatureAblation(forward).attribute(
            x, 0.3, TARGET, feature_mask=labels[None, None], perturbations_per_eval=4
        )
        difference = (ours - oracle[:, :1]).abs().max()
        assert float(difference) <= 1e-6 + 1e-5 * float(oracle.abs().max())


class TestRise:
    def test_masks_keep_every_pixel_alike(self):
        masks = Rise(samples=4000, probability=0.3).masks(torch.zeros(1, 1, 13, 17))
        pixels = masks.pixels(0, masks.samples[0])
        assert pixels.shape == (4000, 1, 13, 17)
        deviation = (pixels.mean((0, 1)) - 0.3) / (pixels.std((0, 1)) / 4000**0.5)
        assert float(deviation.abs().max()) < 4.5
        assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1

    def test_masks_are_crops_of_the_upsampled_grid(self):
        masks = Rise(samples=5, cells=4).masks(torch.zeros(1, 1, 12, 10))
        pixels = masks.pixels(0, masks.samples[0])
        for row, found in zip(masks.samples[0], pixels, strict=True):
            large = F.interpolate(
                row[:-2].reshape(1, 1, 4, 4), size=(15, 15), mode="bilinear", align_corners=False
            )
            down, across = (row[-2:] * 3).long().tolist()
            assert torch.equal(found, large[0, :, down : down + 12, across : across + 10])

    @pytest.mark.parametrize("smooth", [True, False])
    @pytest.mark.parametrize("centered", [True, False])
    def test_the_definition(self, smooth, centered):
        model, x = toy_models()["residual"]
        method = Rise(samples=80, probability=0.4, smooth=smooth, centered=centered, baseline=0.5)
        e = ek.explain(model, x, 2, method, seed=3)
        masks = Rise(**{**vars(method), "seed": 3}).masks(x)
        m = masks.pixels(0, masks.samples[0]).double()
        for i in range(4):
            scores = model((m * x[i] + (1 - m) * 0.5).float()).detach()[:, 2].double()
            scores = scores[:, None, None, None]
            expected = (scores * m).mean(0) / 0.4
            if centered:
                expected = ((scores - scores.mean()) * m).sum(0) / 79 / 0.4
            torch.testing.assert_close(
                e.attribution[i].double(), expected, atol=1e-5 * float(expected.abs().max()), rtol=0
            )

    @pytest.mark.parametrize("centered", [True, False])
    def test_linear_closed_form_and_honest_errors(self, centered):
        """Plain cells, f = Σ z_j s_j: a_j = (1 − p) s_j, plus the mean score p Σ s when raw."""
        model, weight = linear_model()
        model[1].bias.data.zero_()
        x = torch.randn(1, 3, 8, 8)
        share, labels = share_of_segments(model, weight, x, 0, 4)
        method = Rise(samples=400, cells=4, probability=0.4, smooth=False, centered=centered)
        expected = 0.6 * share[0] + (0 if centered else 0.4 * share.sum())
        z = z_scores(model, x, method, expected, labels)
        assert float(z.abs().max()) < 4.5
        assert 0.8 < float(z.square().mean().sqrt()) < 1.2
        assert float(z.mean(0).abs().max()) < 4 / 30**0.5


class TestLime:
    @pytest.mark.parametrize("distance", ["segments", "image"])
    def test_linear_models_are_exact(self, distance):
        model, weight = linear_model()
        x = torch.randn(2, 3, 8, 8)
        method = Lime(segments=4, samples=100, ridge=0.0, distance=distance)
        e = ek.explain(model, x, 1, method)
        share, labels = share_of_segments(model, weight, x, 1, 4)
        for i in range(2):
            torch.testing.assert_close(
                segment_values(e.attribution[i], labels), share[i], atol=1e-5, rtol=1e-4
            )
        assert float(e.diagnostics["standard_error"].max()) < 1e-5

    @pytest.mark.parametrize("distance", ["segments", "image"])
    def test_the_normal_equations(self, distance):
        model, x = toy_models()["plain"]
        method = Lime(segments=3, samples=60, ridge=0.7, distance=distance, width=0.4, baseline=0.2)
        e = ek.explain(model, x, 2, method)
        labels, z = grid(3, 12, 10), bernoulli(60, 9, 0.5, 0)
        for i in range(4):
            masked = torch.where(z[:, labels].bool()[:, None], x[i], torch.tensor(0.2))
            y = model(masked).detach()[:, 2].double()
            near = 1 - (z.mean(1).sqrt() if distance == "segments" else F.cosine_similarity(
                masked.flatten(1), x[i].flatten()[None]
            ))  # fmt: skip
            weight = (-near.double().square() / (2 * 0.4**2)).exp()
            design = torch.cat([z, torch.ones(60, 1)], 1).double().requires_grad_()
            beta = torch.cat([segment_values(e.attribution[i], labels).double(), torch.zeros(1)])
            # the intercept is the weighted mean of what the rest leaves
            rest = y - design[:, :-1] @ beta[:-1]
            beta = torch.cat([beta[:-1], ((rest * weight).sum() / weight.sum())[None]]).detach()
            slope = design.detach().T @ (weight * (design.detach() @ beta - y))
            slope[:-1] += 0.7 * beta[:-1]
            assert float(slope.abs().max()) < 1e-5 * float(y.abs().max()) * 60

    def test_honest_errors(self):
        model = Game(6, 6).double()
        x = torch.rand(1, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        labels = grid(3, 6, 6)
        z = torch.tensor([[b >> j & 1 for j in range(9)] for b in range(512)], dtype=torch.float64)
        y = model(z[:, labels][:, None] * x).detach()[:, 0]
        root = (-(1 - z.mean(1).sqrt()).square() / (2 * 0.25**2)).exp().sqrt()[:, None]
        design = torch.cat([z, torch.ones(512, 1)], 1)
        truth = torch.linalg.lstsq(design * root, y[:, None] * root).solution[:-1, 0]
        method = Lime(segments=3, samples=200, ridge=0.0)
        found = z_scores(model, x, method, truth, labels)
        assert float(found.abs().max()) < 4.5
        assert 0.8 < float(found.square().mean().sqrt()) < 1.2

    def test_too_few_samples_are_refused(self):
        model, x = toy_models()["plain"]
        with pytest.raises(MethodError, match="samples: expected at least 51 for 49 segments"):
            ek.explain(model, x, 0, "lime", samples=50)

    def test_masks_that_leave_a_segment_open_are_refused(self):
        twins = torch.rand(20, 1).double().expand(20, 2)
        with pytest.raises(MethodError, match="determine 2 unknowns, got 20 that determine 1"):
            least_squares(twins, torch.rand(20).double(), torch.ones(20).double())

    @pytest.mark.parametrize("share", [0.05, 0.4])
    def test_lasso_meets_its_optimality_conditions(self, share):
        """Of ``Σ π e² / (2 Σ π) + α |β|₁``: ``xⱼᵀ π e / Σ π`` is ``α sign βⱼ``, or within ``± α``."""
        model, x = toy_models()["plain"]
        method = Lime(segments=4, samples=120, ridge=0.0, baseline=0.2)
        labels, z = grid(4, 12, 10), method.draw(16).double()
        kept = z[:, labels].float()[:, None]
        y = model(kept * x[0] + (1 - kept) * 0.2).detach()[:, 1].double()
        weight = (-(1 - z.mean(1).sqrt()).square() / (2 * 0.25**2)).exp()
        weight = weight / weight.sum()

        def slope(rest):
            return z.T @ (weight * (rest - (weight * rest).sum()))

        alpha = share * float(slope(y).abs().max())  # as large as it takes to leave nothing
        e = ek.explain(model, x[:1], 1, method, lasso=alpha)
        beta = segment_values(e.attribution[0], labels).double()
        zero, found = beta == 0, slope(y - z @ beta)
        assert 0 < int(zero.sum()) < 16
        torch.testing.assert_close(
            found[~zero], alpha * beta[~zero].sign(), atol=1e-3 * alpha, rtol=0
        )
        assert float(found[zero].abs().max()) <= alpha
        error = segment_values(e.diagnostics["standard_error"][0], labels)
        assert torch.equal(error == 0, zero)

    def test_a_large_lasso_leaves_nothing(self):
        model, x = toy_models()["plain"]
        with pytest.warns(ExplainkitWarning, match="zero everywhere"):
            e = ek.explain(model, x, 1, "lime", segments=3, ridge=0.0, lasso=1e6)
        assert not e.attribution.any()

    def test_a_kernel_of_ones_own_gives_the_weights(self):
        model, x = toy_models()["plain"]

        def gaussian(distance):
            return (-distance.square() / (2 * 0.4**2)).exp()

        own, same = (
            ek.explain(model, x, 1, "lime", segments=3, samples=60, **one)
            for one in ({"kernel": gaussian}, {"width": 0.4})
        )
        assert torch.equal(own.attribution, same.attribution)
        assert own.params["kernel"] == "function gaussian"

    def test_kernels_that_give_no_weights_are_refused(self):
        model, x = toy_models()["plain"]
        with pytest.raises(
            MethodError, match=r"kernel: expected a weight for each distance, \[60\]"
        ):
            ek.explain(model, x, 1, Lime(segments=3, samples=60, kernel=lambda d: d[:-1]))
        with pytest.raises(MethodError, match="kernel: expected finite weights of at least 0"):
            ek.explain(model, x, 1, Lime(segments=3, samples=60, kernel=lambda d: -1 - d))
        with pytest.raises(MethodError, match="kernel: expected a function of distances"):
            Lime(kernel="exponential")
        with pytest.raises(MethodError, match="width= or kernel=, got both"):
            Lime(kernel=torch.exp, width=0.3)
        with pytest.raises(MethodError, match="lasso: expected at least 0 and below inf"):
            Lime(lasso=-1.0)

    def test_influence_is_what_an_observation_moves(self):
        generator = torch.Generator().manual_seed(1)
        x, y, w = (
            torch.rand(9, *k, dtype=torch.float64, generator=generator) for k in ((3,), (), ())
        )
        solution, influence = least_squares(x, y, w)
        for i in range(9):
            rest = torch.arange(9) != i
            without, _ = least_squares(x[rest], y[rest], w[rest])
            torch.testing.assert_close(solution - without, influence[i])


class TestHsic:
    def test_the_trace(self):
        model, x = toy_models()["plain"]
        e = ek.explain(model, x, 2, Hsic(segments=3, samples=60))
        labels, z = grid(3, 12, 10), bernoulli(60, 9, 0.5, 0)
        center = (torch.eye(60) - 1 / 60).double()
        for i in range(4):
            y = model(z[:, labels][:, None] * x[i]).detach()[:, 2].double()
            apart = (y[:, None] - y).abs()
            upper = apart[torch.ones(60, 60).triu(1).bool()]
            output = (-apart.square() / (2 * upper.median() ** 2)).exp()
            for j in range(9):
                one = z[:, j, None].double()
                kernel = 0.5 - (one - one.T).square()
                expected = torch.trace(kernel @ center @ output @ center) / 59**2
                found = segment_values(e.attribution[i], labels)[j]
                assert float(found) == pytest.approx(float(expected), rel=1e-4)

    def test_the_error_is_the_jackknife(self):
        model, x = toy_models()["plain"]
        e = ek.explain(model, x[:1], 2, Hsic(segments=3, samples=64))
        labels, z = grid(3, 12, 10), bernoulli(64, 9, 0.5, 0).double()
        y = model((z[:, labels][:, None] * x[0]).float()).detach()[:, 2].double()
        apart = (y[:, None] - y).abs()
        output = (-apart.square() / (2 * torch.pdist(y[:, None]).median() ** 2)).exp()
        found = []
        for b in range(16):
            rest = torch.arange(64) % 16 != b
            center = torch.eye(60).double() - 1 / 60
            seen = center @ output[rest][:, rest] @ center
            kernel = [0.5 - (z[rest][:, j, None] - z[rest][:, j]).square() for j in range(9)]
            found.append(torch.stack([torch.trace(k @ seen) for k in kernel]) / 59**2)
        error = (torch.stack(found).var(0, correction=0) * 15).sqrt()
        ours = segment_values(e.diagnostics["standard_error"][0], labels)
        torch.testing.assert_close(ours.double(), error, rtol=1e-4, atol=1e-8)

    def test_finds_the_segments_that_matter_with_honest_errors(self):
        class Two(nn.Module):
            def forward(self, x):
                return (x[:, 0, 0, 0] * 2 + x[:, 0, 3, 3] - 9)[:, None]

        x = torch.ones(1, 1, 4, 4)
        labels = grid(4, 4, 4)
        long = ek.explain(Two().eval(), x, 0, Hsic(segments=4, samples=6000), seed=99)
        truth = segment_values(long.attribution[0], labels)
        assert set(truth.argsort(descending=True)[:2].tolist()) == {0, 15}
        assert float(truth[15]) > 10 * float(truth[1:15].max())
        z = z_scores(Two().eval(), x, Hsic(segments=4, samples=400), truth, labels)
        assert float(z[:, [0, 15]].abs().max()) < 4.5
        assert 0.6 < float(z[:, [0, 15]].square().mean().sqrt()) < 1.5


class TestSobol:
    def test_linear_closed_form_and_honest_errors(self):
        """Uniform masks of f = Σ m_j s_j: the total index is s_j² / Σ s²."""
        model, weight = linear_model()
        x = torch.randn(1, 3, 8, 8)
        share, labels = share_of_segments(model, weight, x, 1, 3)
        expected = share[0].square() / share[0].square().sum()
        z = z_scores(model, x, Sobol(segments=3, samples=128), expected, labels, label=1)
        assert float(z.abs().max()) < 4.5
        assert float(z.square().mean().sqrt()) < 1.1

    def test_interactions_count_for_both(self):
        """f = m₀ m₁ of uniform masks: Var = 7/144, E Var(f | other) = 1/36, index 4/7 each."""

        class Product(nn.Module):
            def forward(self, x):
                return (x[:, 0, 0, 0] * x[:, 0, 0, 1] - 3)[:, None]

        x = torch.ones(1, 1, 2, 2)
        e = ek.explain(Product().eval(), x, 0, Sobol(segments=2, samples=2048))
        expected = torch.tensor([[[4 / 7, 4 / 7], [0.0, 0.0]]])
        torch.testing.assert_close(e.attribution[0], expected, atol=0.03, rtol=0)


METHODS = [
    Rise(samples=2048), Lime(samples=2048, segments=3), Hsic(samples=2048, segments=3),
    Sobol(samples=512, segments=3), KernelShap(samples=2049, segments=4),
    ShapleySampling(samples=200, segments=3),
]  # fmt: skip


class TestBudget:
    @pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
    def test_tolerance_ends_each_image_by_itself(self, method):
        model, x = toy_models()["plain"]
        method = type(method)(**{**vars(method), "tolerance": 0.3})
        e = ek.explain(model, x, TARGET, method)
        error = e.diagnostics["standard_error"].flatten(1).amax(1)
        assert bool((error <= 0.3 * e.attribution.flatten(1).abs().amax(1)).all())
        assert "partial" not in e.diagnostics
        for i in range(4):
            alone = ek.explain(model, x[i : i + 1], TARGET[i : i + 1], method, batch_size=1)
            assert alone.diagnostics["samples"][0] == e.diagnostics["samples"][i]
            torch.testing.assert_close(alone.attribution[0], e.attribution[i], atol=1e-5, rtol=1e-4)

    def test_a_tolerance_out_of_reach_is_a_warning(self):
        model, x = toy_models()["plain"]
        with pytest.warns(ExplainkitWarning, match="after 300 samples, above the tolerance 0.001"):
            ek.explain(model, x, 0, Rise(samples=300, tolerance=0.001))

    def test_time(self):
        model, x = toy_models()["plain"]
        with pytest.warns(ExplainkitWarning, match="stopped after 64 of 5000 samples"):
            e = ek.explain(model, x, 0, Rise(samples=5000, max_seconds=1e-9))
        assert e.diagnostics["partial"]
        assert e.diagnostics["samples"].tolist() == [64] * 4

    @pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
    def test_an_interrupt_leaves_a_result_with_its_error_bars(self, method):
        model, x = toy_models()["plain"]
        calls = []

        def interrupt(*_):
            calls.append(0)
            if len(calls) == 30:
                raise KeyboardInterrupt

        handle = model.register_forward_pre_hook(interrupt)
        with pytest.warns(ExplainkitWarning, match="stopped after"):
            e = ek.explain(model, x, 0, method)
        handle.remove()
        counts = e.diagnostics["samples"].tolist()
        assert e.diagnostics["partial"]
        full = method.samples
        assert all(count < full for count in counts)
        assert bool((e.diagnostics["standard_error"] > 0).any())
        if isinstance(method, Rise | Lime | Hsic):  # a shorter draw is a part of a longer one
            short = type(method)(**{**vars(method), "samples": counts[0]})
            whole = ek.explain(model, x, 0, short).attribution
            torch.testing.assert_close(whole[0], e.attribution[0], atol=1e-5, rtol=1e-4)

    def test_after_an_interrupt_the_rest_is_done_with_the_least(self):
        model, x = toy_models()["plain"]
        calls = []

        def interrupt(*_):
            calls.append(0)
            if len(calls) == 60:
                raise KeyboardInterrupt

        handle = model.register_forward_pre_hook(interrupt)
        with pytest.warns(ExplainkitWarning, match="stopped after"):
            found = ek.explain(
                model, x, 0,
                [Rise(samples=9999), Lime(samples=9999, segments=4), PartitionShap(samples=9999)],
                batch_size=2,
            )  # fmt: skip
        handle.remove()
        assert len(calls) < 400
        for e in found:
            assert e.attribution.shape == (4, 1, 12, 10)
            assert int(e.diagnostics["samples"].max()) < 100

    def test_an_early_interrupt_is_an_interrupt(self):
        class Stop(nn.Module):
            calls = 0

            def forward(self, x):
                self.calls += 1
                if self.calls == 3:
                    raise KeyboardInterrupt
                return x.flatten(1)

        with pytest.raises(KeyboardInterrupt):
            ek.explain(Stop().eval(), torch.rand(2, 1, 8, 8), 0, "rise")


class TestSharing:
    def test_methods_whose_masks_agree_share_their_forwards(self):
        model, x = toy_models()["plain"]
        images = []
        handle = model.register_forward_pre_hook(lambda _, args: images.append(len(args[0])))

        def forwards(methods, target=0):
            images.clear()
            found = ek.explain(model, x, target, methods)
            return sum(images), found

        methods = [
            Rise(samples=320, cells=4, smooth=False), Lime(samples=200, segments=4),
            Hsic(samples=256, segments=4),
        ]  # fmt: skip
        alone = [forwards(method) for method in methods]
        together, found = forwards(methods)
        handle.remove()
        assert together < alone[0][0] + 4 * 64
        for (_, one), both in zip(alone, found, strict=True):
            assert torch.equal(one.attribution, both.attribution)

    def test_the_rows_of_a_longer_draw_begin_with_those_of_a_shorter(self):
        for features in (5, 49, 196):
            long, short = bernoulli(1024, features, 0.5, 3), bernoulli(77, features, 0.5, 3)
            assert torch.equal(long[:77], short)


class _Constant(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2] * 0 + 3


@pytest.mark.parametrize(
    "name", ["rise", "lime", "kernel_shap", "shapley_sampling", "hsic", "sobol"]
)
def test_a_score_that_never_changes_has_a_zero_map_and_says_so(name):
    x = torch.rand(1, 1, 8, 8)
    with pytest.warns(ExplainkitWarning, match="zero everywhere"):
        e = ek.explain(_Constant().eval(), x, 1, name, **CONFORMING[name])
    assert float(e.attribution.abs().max()) == 0
    assert float(e.diagnostics["standard_error"].abs().max()) == 0


CONFORMING = {
    "feature_ablation": {"segments": 4},
    "rise": {"samples": 40},
    "lime": {"samples": 40, "segments": 3},
    "kernel_shap": {"samples": 41, "segments": 3},
    "shapley_sampling": {"samples": 4, "segments": 3},
    "hsic": {"samples": 40, "segments": 3},
    "sobol": {"samples": 8, "segments": 2},
}


@pytest.mark.parametrize("name", CONFORMING)
@pytest.mark.parametrize("kind", ["plain", "batch_norm", "tuple"])
def test_conformance(name, kind):
    check_method(load_method(name, **CONFORMING[name]), {kind: toy_models()[kind]})


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("rise", {"samples": 1}, "samples: expected at least 2"),
        ("rise", {"probability": 1.0}, "probability: expected a number above 0 and below 1"),
        ("rise", {"cells": 1}, "cells: expected at least 2"),
        ("rise", {"tolerance": 0.0}, "tolerance: expected a number above 0"),
        ("lime", {"max_seconds": 0.0}, "max_seconds: expected a number above 0"),
        ("lime", {"width": -1.0}, "width: expected"),
        ("lime", {"ridge": -1.0}, "ridge: expected"),
        ("lime", {"distance": "l2"}, "distance: expected segments or image, got 'l2'"),
        ("hsic", {"samples": 9}, "samples: expected at least 32"),
        ("sobol", {"samples": 2}, "samples: expected at least 4"),
        ("kernel_shap", {"baseline": "black"}, "baseline: expected a number"),
    ],
)
def test_bad_parameters(method, params, message):
    model, images = toy_models()["plain"]
    with pytest.raises(MethodError, match=message):
        ek.explain(model, images, 0, method, **params)
