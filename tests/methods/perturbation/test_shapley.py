"""Shapley values against brute force, closed forms and Captum's estimator on the same coalitions."""

import math

import pytest
import torch
from games import Game, linear_model, segment_values, shapley, values_of
from hypothesis import given, settings
from hypothesis import strategies as st

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.methods.perturbation.segments import grid, segment
from explainkit.methods.perturbation.shapley import CoalitionPlan, KernelShap, ShapleySampling

LABELS = torch.tensor([[0, 0, 1, 2], [3, 3, 4, 2], [5, 6, 6, 7]])
X = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.fixture(scope="module")
def game():
    return Game(3, 4).double()


def truth(game, x, label, labels=LABELS, baseline=0.0):
    return shapley(values_of(game, x, torch.full_like(x, baseline), labels, label))


class TestKernelShap:
    @pytest.mark.parametrize("features", range(2, 9))
    def test_exact_where_all_coalitions_fit(self, game, features):
        labels = LABELS.clamp(max=features - 1)
        e = ek.explain(
            game, X, 1, KernelShap(segments=labels, samples=2**features - 1, baseline=0.2)
        )
        for i in range(2):
            expected = truth(game, X[i], 1, labels, 0.2)
            torch.testing.assert_close(segment_values(e.attribution[i], labels), expected)
        assert float(e.diagnostics["standard_error"].abs().max()) == 0
        assert e.diagnostics["samples"].tolist() == [2**features - 1] * 2

    @pytest.mark.parametrize("samples", [101, 151, 211])
    def test_values_sum_to_the_change_and_errors_are_honest(self, game, samples):
        expected = truth(game, X[0], 0)
        change = (game(X[:1]) - game(torch.zeros_like(X[:1]))).detach()[0, 0]
        z, errors = [], []
        for seed in range(40):
            method = KernelShap(segments=LABELS, samples=samples)
            e = ek.explain(game, X[:1], 0, method, seed=seed)
            values = segment_values(e.attribution[0], LABELS)
            error = segment_values(e.diagnostics["standard_error"][0], LABELS)
            torch.testing.assert_close(values.sum(), change)
            z.append((values - expected) / error)
            errors.append(values - expected)
        z = torch.stack(z)
        assert float(z.abs().max()) < 5
        assert 0.3 < float(z.square().mean().sqrt()) < 1.2
        bias = torch.stack(errors).mean(0)
        spread = torch.stack(errors).std(0)
        assert bool((bias.abs() < 4 * spread / 40**0.5 + 0.05 * spread).all())

    def test_linear_models_are_exact_however_few_the_samples(self):
        model, weight = linear_model()
        x = torch.randn(2, 3, 8, 8)
        e = ek.explain(model, x, 2, "kernel_shap", segments=5, samples=60, baseline="mean")
        share = ((x - x.mean((2, 3), keepdim=True)) * weight[2]).sum(1)
        labels = grid(5, 8, 8)
        for i in range(2):
            expected = torch.stack([share[i][labels == j].sum() for j in range(25)])
            torch.testing.assert_close(
                segment_values(e.attribution[i], labels), expected.detach(), atol=1e-5, rtol=1e-4
            )
        assert float(e.diagnostics["standard_error"].max()) < 1e-5

    def test_captums_regression_on_the_same_coalitions(self, game):
        """The constrained solution is the limit of Captum's: both ends weighted by a million."""
        from captum._utils.models.linear_model.model import Model
        from captum.attr import LimeBase

        method = KernelShap(segments=LABELS, samples=101, surrogate=False)
        rows = method.draw(8)
        weights = method._plan(8).weights(rows[1::2]).repeat_interleave(2)
        weights = torch.cat([torch.tensor([1e6]), weights, torch.tensor([1e6])])
        coalitions = torch.cat([rows, torch.ones(1, 8)])

        class WeightedLeastSquares(Model):
            def fit(self, data, **_):
                ((x, y, w),) = list(data)
                root = w.double().sqrt()[:, None]
                design = torch.cat([x.double(), torch.ones(len(x), 1)], 1) * root
                self.solution = torch.linalg.lstsq(design, y.double()[:, None] * root).solution

            def representation(self):
                return self.solution[:-1, 0][None]

            def __call__(self, x):
                raise NotImplementedError

        lime = LimeBase(
            game, WeightedLeastSquares(),
            similarity_func=lambda *_, **kwargs: next(kwargs["order"]),
            perturb_func=lambda *_, **kwargs: next(kwargs["masks"])[None],
            perturb_interpretable_space=True,
            from_interp_rep_transform=lambda z, x, **_: x * z[0][LABELS],
            to_interp_rep_transform=None,
        )  # fmt: skip
        oracle = lime.attribute(
            X[:1], target=1, n_samples=len(coalitions), masks=iter(coalitions), order=iter(weights)
        )
        ours = ek.explain(game, X[:1], 1, method)
        torch.testing.assert_close(
            segment_values(ours.attribution[0], LABELS), oracle[0].double(), atol=1e-5, rtol=1e-4
        )

    def test_every_class_comes_from_the_same_forwards(self, game):
        class Counting(Game):
            images = 0

            def forward(self, x):
                self.images += len(x)
                return super().forward(x)

        model = Counting(3, 4).double()
        method = KernelShap(segments=LABELS, samples=101)
        one = ek.explain(model, X, 0, method)
        alone, model.images = model.images, 0
        both = ek.explain(model, X, targets="all", method=method)
        assert model.images <= alone + 2
        assert torch.equal(both[0].attribution, one.attribution)
        assert not torch.equal(both[1].attribution, one.attribution)

    @pytest.mark.parametrize(("features", "samples"), [(25, 52), (9, 18), (3, 5)])
    def test_too_few_samples_are_refused(self, features, samples):
        labels = torch.arange(features)[None]
        model, _ = linear_model((1, 1, features))
        with pytest.raises(MethodError, match=r"samples: expected at least (53|21|7) to determine"):
            ek.explain(
                model,
                torch.rand(1, 1, 1, features),
                0,
                KernelShap(segments=labels, samples=samples),
            )


class TestPlan:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(2, 40), st.integers(1, 400))
    def test_shares_and_enumeration(self, features, pairs):
        plan = CoalitionPlan(features, pairs)
        assert float(plan.shares().sum()) == pytest.approx(1)
        upto, fixed = plan.enumerated(), plan.fixed()
        assert fixed <= pairs
        rows = plan.coalitions(0)
        assert len(rows) == (fixed if plan.exact else pairs)
        both = torch.cat([rows[:fixed], 1 - rows[:fixed]])
        assert len(both.unique(dim=0)) == 2 * fixed
        sizes = both.sum(1)
        for size in range(1, upto + 1):
            assert int((sizes == size).sum()) == math.comb(features, size)
        drawn = rows[fixed:].sum(1)
        if len(drawn):
            assert int(drawn.min()) > upto
            assert int(drawn.max()) <= features // 2
            whole = float(plan.weights(rows).sum())
            assert whole == pytest.approx(1, abs=3 * features / len(drawn))

    def test_all_sizes_are_drawn_alike_and_weighted_by_the_kernel(self):
        plan = CoalitionPlan(30, 3000)
        fixed, upto = plan.fixed(), plan.enumerated()
        rows = plan.coalitions(1)
        sizes, weights = rows[fixed:].sum(1), plan.weights(rows)[fixed:]
        for k in range(upto + 1, 16):
            of_size = sizes == k
            # stratified: far closer than the 1 / √n of independent draws
            assert float(of_size.double().mean()) == pytest.approx(1 / (15 - upto), abs=0.003)
            share = float(plan.shares()[k - 1])
            assert float(weights[of_size].sum()) == pytest.approx(share, rel=0.03)


class TestShapleySampling:
    def test_honest_and_unbiased(self, game):
        expected = truth(game, X[1], 1)
        z = []
        for seed in range(40):
            method = ShapleySampling(segments=LABELS, samples=80)
            e = ek.explain(game, X[1:], 1, method, seed=seed)
            values = segment_values(e.attribution[0], LABELS)
            error = segment_values(e.diagnostics["standard_error"][0], LABELS)
            z.append((values - expected) / error)
        z = torch.stack(z)
        assert float(z.abs().max()) < 4.5
        assert 0.7 < float(z.square().mean().sqrt()) < 1.5
        assert float(z.mean().abs()) < 4 / z.numel() ** 0.5

    def test_all_orders_are_the_shapley_value(self, game):
        """With two features, any pair of orders is all of them."""
        labels = LABELS.clamp(max=1)
        e = ek.explain(game, X, 0, ShapleySampling(segments=labels, samples=4))
        expected = truth(game, X[0], 0, labels)
        torch.testing.assert_close(segment_values(e.attribution[0], labels), expected)
        assert float(e.diagnostics["standard_error"].max()) < 1e-12

    def test_sums_to_the_change(self, game):
        e = ek.explain(game, X, 0, ShapleySampling(segments=LABELS, samples=6))
        change = (game(X) - game(torch.zeros_like(X)))[:, 0]
        sums = torch.stack([segment_values(a, LABELS).sum() for a in e.attribution])
        torch.testing.assert_close(sums, change.detach())
        assert e.diagnostics["samples"].tolist() == [6, 6]

    @pytest.mark.parametrize("samples", [2, 5])
    def test_bad_samples(self, samples):
        with pytest.raises(MethodError, match="samples: expected an even number of at least 4"):
            ShapleySampling(samples=samples)


def test_images_cut_differently_in_one_batch(game):
    labels = torch.stack([LABELS, LABELS.clamp(max=3)])
    e = ek.explain(game, X, 0, KernelShap(segments=labels))
    for i in range(2):
        expected = truth(game, X[i], 0, labels[i])
        torch.testing.assert_close(segment_values(e.attribution[i], labels[i]), expected)


def test_grid_and_masks():
    assert segment(torch.tensor([[5, 9], [9, 5]]), torch.zeros(1, 1, 2, 2)).tolist() == [
        [[0, 1], [1, 0]]
    ]
    for segments, message in [
        (13, "a grid of 1 to 10 cells"), (1, "at least two"), ("felzenszwalb", "'slic'"),
        (torch.zeros(12, 10), r"got float32 \[12, 10\]"), (torch.zeros(3, 3).long(), r"int64 \[3, 3"),
    ]:  # fmt: skip
        with pytest.raises(MethodError, match=message):
            segment(segments, torch.zeros(2, 3, 12, 10))


def test_superpixels():
    pytest.importorskip("skimage")
    x = torch.zeros(1, 3, 30, 30)
    x[0, 0, :, 15:] = 1
    labels = segment("slic:20", x)[0]
    assert 8 <= int(labels.max()) + 1 <= 30
    for j in labels.unique():
        assert len(x[0, 0][labels == j].unique()) == 1, "a superpixel crosses the edge"
