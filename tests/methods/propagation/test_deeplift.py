"""DeepLIFT against closed forms, its axioms, and Captum where Captum is complete."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.testing import check_method, toy_models

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:.*did not already require gradients"),
]


@pytest.mark.parametrize("name", toy_models())
@pytest.mark.parametrize("baseline", [0.0, 0.3])
def test_complete_on_every_architecture(name, baseline):
    model, x = toy_models()[name]
    e = ek.explain(model.eval(), x, 1, "deeplift", baseline=baseline)
    assert e.diagnostics["completeness_gap"].max() < 1e-4
    assert e.coverage["covered"] == e.coverage["total"]
    assert not e.coverage["fallbacks"]


def test_linear_models_have_weight_times_change():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).eval()
    x, b = torch.rand(2, 2, 2, 2), torch.rand(2, 2, 2)
    e = ek.explain(model, x, 2, "deeplift", baseline=b)
    wanted = (x - b) * model[1].weight[2].view(1, 2, 2, 2)
    torch.testing.assert_close(e.attribution, wanted)


def test_two_relus_by_hand():
    """x = (2, 1): relu(x₁ − x₂) = 1, relu(x₂ − x₁) = 0; from the baseline (0, 1): 0 and 1."""

    class Net(nn.Module):
        def forward(self, x):
            a, b = x[:, 0, 0, 0], x[:, 0, 0, 1]
            return torch.stack([3 * F.relu(a - b) + 5 * torch.relu(b - a)], 1)

    x, base = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[0.0, 1.0]]])
    e = ek.explain(Net().eval(), x, 1, "deeplift", baseline=base)
    # Δ(a − b) = 2 with Δrelu = 1; Δ(b − a) = −2 with Δrelu = −1: both multipliers are 1/2
    wanted = torch.tensor([[[[2 * (3 * 0.5 - 5 * 0.5), 0.0]]]])
    torch.testing.assert_close(e.attribution, wanted)


def test_products_share_by_the_average_of_the_other():
    class Gate(nn.Module):
        def forward(self, x):
            return x[:, :1].flatten(1) * x[:, 1:].flatten(1)

    x, b = torch.rand(2, 2, 1, 1) + 1.5, torch.rand(2, 1, 1)
    e = ek.explain(Gate().eval(), x, 1, "deeplift", baseline=b)
    mean = (x + b) / 2
    wanted = (x - b) * mean.flip(1)  # the Shapley values of a product of two
    torch.testing.assert_close(e.attribution, wanted)


class Shifted(nn.Module):
    """Logits of three pixels, to all of which a fourth pixel is added, then a function of them."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        weight = torch.tensor([[2.0, -1, 0.5], [-1, 1, 0], [0.3, 0.2, -2]], dtype=torch.float64)
        self.register_buffer("weight", weight)

    def forward(self, x):
        x = x.flatten(1)
        return self.function(x[:, :3] @ self.weight.T + 3 * x[:, 3:])


@pytest.mark.filterwarnings("ignore:.*returns probabilities")
@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.softmax(1),
        lambda z: z.log_softmax(1),
        lambda z: z.exp() / z.exp().sum(1, keepdim=True),
        lambda z: z.softmax(1) @ torch.tensor([[1.0, 5], [0, 2], [3, -1]]).double(),
    ],
)
def test_what_is_added_to_every_logit_has_no_share_of_a_softmax(function):
    x = torch.tensor([[0.5, -0.2, 0.3, 0.8], [1, 2, 0.1, -0.5]]).double().view(2, 1, 2, 2)
    e = ek.explain(Shifted(function).eval(), x, 0, "deeplift")
    assert e.attribution[..., 1, 1].abs().max() < 1e-12
    assert e.diagnostics["completeness_gap"].max() < 1e-12
    assert e.attribution.abs().amax((1, 2, 3)).min() > 0.01


@pytest.mark.filterwarnings("ignore:.*returns probabilities")
def test_a_softmax_of_two_is_a_sigmoid_of_the_difference():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Softmax(1)).double().eval()
    x = torch.randn(3, 1, 2, 2).double()
    weight = (model[1].weight[0] - model[1].weight[1]).detach().view(1, 2, 2)
    e = ek.explain(model, x, 0, "deeplift")
    with torch.no_grad():
        change = (model(x) - model(0 * x))[:, 0]
    steps = x * weight  # the contributions to the difference
    wanted = change.view(-1, 1, 1, 1) * steps / steps.sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(e.attribution, wanted)


def networks():
    torch.manual_seed(0)
    pooled = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 5),
    )  # fmt: skip
    toys = toy_models()
    twin = nn.Sequential(*toys["tuple"][0].features, nn.Flatten(), toys["tuple"][0].head)
    return {
        "pooled": pooled, "in_place": toys["in_place"][0], "batch_norm": toys["batch_norm"][0],
        "tanh": twin,
    }  # fmt: skip


@pytest.mark.parametrize("name", networks())
def test_parity_with_captum(name):
    model, x = networks()[name].eval(), toy_models()["plain"][1]
    ours = ek.explain(model, x, 1, "deeplift").attribution
    theirs = captum.attr.DeepLift(model).attribute(x, target=1)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-6)


def test_an_activation_without_a_rule_at_captum_is_incomplete_there():
    model, x = toy_models()["mlp"]
    _, theirs = captum.attr.DeepLift(model).attribute(x, target=1, return_convergence_delta=True)
    assert theirs.abs().max() > 0.01
    ours = ek.explain(model, x, 1, "deeplift")
    assert ours.diagnostics["completeness_gap"].max() < 1e-5


def test_functional_and_module_spellings_agree_where_captum_does_not():
    model, x = toy_models()["functional"]
    twin = nn.Sequential(
        model.first, nn.ReLU(), model.second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        model.head,
    ).eval()  # fmt: skip
    ours, same = (ek.explain(m, x, 1, "deeplift").attribution for m in (model, twin))
    torch.testing.assert_close(ours, same, rtol=1e-5, atol=1e-7)
    theirs = captum.attr.DeepLift(model).attribute(x, target=1)
    assert (theirs - ours).abs().max() > 0.01 * ours.abs().max()


@pytest.mark.parametrize(
    "method", ["deeplift", "guided_backprop", "deconvnet", "lrp", "full_gradient"]
)
def test_spellings_give_the_same_bits(method):
    """Modules, functions, in place, one reused ReLU: one network."""
    torch.manual_seed(0)
    a, b, head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4 * 16, 3)
    shared = nn.ReLU()

    class Spelled(nn.Module):
        def __init__(self, relu):
            super().__init__()
            self.a, self.b, self.head, self.relu = a, b, head, relu

        def forward(self, x):
            return self.head(self.relu(self.b(self.relu(self.a(x)))).flatten(1))

    spellings = [
        Spelled(shared), Spelled(F.relu), Spelled(torch.relu), Spelled(F.relu_),
        Spelled(nn.ReLU(inplace=True)), Spelled(lambda x: x.relu()), Spelled(lambda x: x.relu_()),
        nn.Sequential(a, nn.ReLU(), b, nn.ReLU(inplace=True), nn.Flatten(), head),
        torch.compile(Spelled(F.relu), backend="eager"),
        nn.DataParallel(Spelled(F.relu)),
    ]  # fmt: skip
    x = torch.randn(2, 2, 8, 8)
    maps = [ek.explain(m.eval(), x, 1, method).attribution for m in spellings]
    for other in maps[1:]:
        assert torch.equal(maps[0], other)


def test_a_compiled_model_that_has_run_is_explained():
    model, x = toy_models()["plain"]
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    for method in ("deeplift", "guided_backprop", "lrp"):
        ours = ek.explain(compiled, x, 1, method).attribution
        assert torch.equal(ours, ek.explain(model, x, 1, method).attribution)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*is deprecated")
def test_a_scripted_model_is_refused():
    model, x = toy_models()["plain"]
    scripted = torch.jit.trace(model, x)
    with pytest.raises(ek.ExplainkitError, match="ScriptModule.*use the module"):
        ek.explain(scripted, x, 1, "deeplift")


def test_one_shared_baseline_costs_one_image():
    model, x = toy_models()["plain"]
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    ek.explain(model, x, 1, "deeplift", batch_size=4)
    hook.remove()
    assert seen == [4, 1]


def test_windows_that_fold_into_the_batch_still_have_their_baseline():
    class Windows(nn.Module):
        def forward(self, x):
            b, c, h, w = x.shape
            t = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c * 4)
            return torch.tanh(t).reshape(b, -1) @ torch.ones(c * h * w, 2)

    x = torch.rand(3, 1, 4, 4)
    e = ek.explain(Windows().eval(), x, 0, "deeplift")
    torch.testing.assert_close(e.attribution, torch.tanh(x))


def test_shap_is_the_mean_over_baselines():
    model, x = toy_models()["residual"]
    baselines = torch.rand(3, *x.shape[1:])
    e = ek.explain(model, x, 1, "deeplift_shap", baselines=baselines)
    each = [ek.explain(model, x, 1, "deeplift", baseline=b).attribution for b in baselines]
    torch.testing.assert_close(e.attribution, torch.stack(each).mean(0))
    error = torch.stack(each).std(0) / 3**0.5
    torch.testing.assert_close(e.diagnostics["standard_error"], error, rtol=1e-3, atol=1e-7)
    assert e.diagnostics["completeness_gap"].max() < 1e-4


def test_wrong_baselines_and_branches():
    model, x = toy_models()["plain"]
    with pytest.raises(MethodError, match=r"baselines: expected a number or \[n, 3, 12, 10\]"):
        ek.explain(model, x, 1, "deeplift_shap", baselines=torch.zeros(2, 3, 5, 5))
    with pytest.raises(MethodError, match="unsupported: expected"):
        ek.explain(model, x, 1, "deeplift", unsupported="ignore")

    class Branches(nn.Module):
        def forward(self, x):
            y = x.flatten(1)[:, :3]
            return torch.tanh(y) if x.sum() > 1 else torch.sigmoid(y)

    with pytest.raises(MethodError, match="control flow depends on the values"):
        ek.explain(Branches().eval(), x, 1, "deeplift")


@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap"])
def test_keeps_the_promises(method):
    check_method(method)


@pytest.mark.parametrize("name", ["plain", "functional", "reused", "mlp", "residual", "vit"])
def test_reveal_cancel_is_complete_and_another_map(name):
    model, x = toy_models()[name]
    e = ek.explain(model, x, 1, "deeplift", rule="reveal_cancel", baseline=0.3)
    assert e.diagnostics["completeness_gap"].max() < 1e-4
    rules = {rule for how in e.coverage["operators"].values() for rule in how}
    assert "reveal-cancel" in rules
    plain = ek.explain(model, x, 1, "deeplift", baseline=0.3)
    assert (e.attribution - plain.attribution).abs().max() > 1e-3 * e.attribution.abs().max()


def test_reveal_cancel_on_the_minimum_of_two():
    """min(a, b) = a − relu(a − b): the paper's example of what rescale misses."""

    class Minimum(nn.Module):
        def __init__(self):
            super().__init__()
            self.difference = nn.Linear(2, 1, bias=False)
            self.difference.weight.data = torch.tensor([[1.0, -1.0]])

        def forward(self, x):
            a = x.flatten(1)
            return a[:, :1] - torch.relu(self.difference(a))

    x = torch.tensor([[[[6.0, 4.0]]]])
    rescale = ek.explain(Minimum().eval(), x, 1, "deeplift").attribution.flatten()
    cancel = ek.explain(Minimum().eval(), x, 1, "deeplift", rule="reveal_cancel")
    torch.testing.assert_close(rescale, torch.tensor([0.0, 4.0]))
    # up = 6, down = −4: relu's share is ½(6 + 2) = 4 and ½(0 − 4) = −2
    torch.testing.assert_close(cancel.attribution.flatten(), torch.tensor([2.0, 2.0]))


def test_a_map_that_does_not_add_up_is_warned_of():
    """A mask from a comparison has no derivative, so its change has no share."""

    class Masked(nn.Module):
        def forward(self, x):
            return (x * (x > 0)).sum((2, 3))

    x = torch.tensor([2.0, 1.0, -1.0, 0.5]).view(1, 1, 2, 2)
    with pytest.warns(match="completeness_gap above 0.05.* comparisons"):
        ek.explain(Masked().eval(), x, 0, "deeplift", baseline=-3.0)


@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap"])
def test_multipliers_alone_are_those_of_captum(method):
    model, x = networks()["tanh"].eval(), toy_models()["plain"][1]
    bases = torch.rand(3, *x.shape[1:], generator=torch.Generator().manual_seed(6))
    if method == "deeplift":
        given, oracle = {"baseline": bases[0]}, captum.attr.DeepLift(model, False)
        theirs = oracle.attribute(x, bases[:1], 1)
    else:
        given, oracle = {"baselines": bases}, captum.attr.DeepLiftShap(model, False)
        theirs = oracle.attribute(x, bases, 1)
    bare = ek.explain(model, x, 1, method, multiply_by_inputs=False, **given)
    torch.testing.assert_close(bare.attribution, theirs.detach(), rtol=1e-4, atol=1e-6)
    whole = ek.explain(model, x, 1, method, **given)
    gap = "completeness_gap"
    assert torch.equal(bare.diagnostics[gap], whole.diagnostics[gap])
    assert float(bare.diagnostics[gap].max()) < 1e-4
