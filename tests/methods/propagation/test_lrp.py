"""LRP's rules against their formulas, conservation, and gradient identities."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import explainkit as ek
from explainkit.errors import MethodError
from explainkit.testing import check_method, toy_models


def network(*, bias=True, norm=False, positive=False):
    """Two convolutions with ReLUs and a head, in float64."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, bias=bias)]
    if norm:
        layers.append(nn.BatchNorm2d(4))
    layers += [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 2, bias=bias), nn.ReLU(), nn.Flatten()]
    layers.append(nn.Linear(20, 3, bias=bias))
    model = nn.Sequential(*layers).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_()
            module.bias.data.normal_()
    if positive:
        for parameter in model.parameters():
            parameter.data.abs_()
    return model


def images(n=3):
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def by_hand(model, x, target, share):
    """The definition, layer by layer, on relevances: ``share(layer, input, relevance)``."""
    inputs = [x]
    for layer in model:
        inputs.append(layer(inputs[-1]))
    relevance = torch.zeros_like(inputs[-1])
    relevance[:, target] = inputs[-1][:, target]
    for layer, a in reversed(list(zip(model, inputs, strict=False))):
        a = a.detach().requires_grad_()
        if isinstance(layer, nn.Conv2d | nn.Linear):
            relevance = share(layer, a, relevance)
        elif isinstance(layer, nn.MaxPool2d):
            (relevance,) = torch.autograd.grad(layer(a), a, relevance)
        elif isinstance(layer, nn.Flatten):
            relevance = relevance.view(a.shape)
    return relevance.detach()


def run(layer, a, weight, bias):
    if isinstance(layer, nn.Linear):
        return F.linear(a, weight, bias)
    return F.conv2d(a, weight, bias)


def shared(layer, a, relevance, terms, epsilon=1e-6):
    """``Σ_terms a' ∂(f(a')) R / Σ f``: each term an input, a weight and a bias."""
    parts = []
    for value, weight, bias in terms:
        value = value.detach().requires_grad_()
        parts.append((value, run(layer, value, weight, bias)))
    z = sum(out for _, out in parts)
    z = z + torch.where(z < 0, -epsilon, epsilon)
    found = 0
    for value, out in parts:
        (gradient,) = torch.autograd.grad(out, value, (relevance / z).detach())
        found = found + value * gradient
    return found


def epsilon(layer, a, relevance):
    return shared(layer, a, relevance, [(a, layer.weight, layer.bias)])


def signed(layer, a, relevance, positive):
    """The shares of contributions of one sign."""
    plus, minus = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    one, other = (plus, minus) if positive else (minus, plus)
    bias = layer.bias
    if bias is not None:
        bias = bias.clamp(min=0) if positive else bias.clamp(max=0)
    terms = [(a.clamp(min=0), one, bias), (a.clamp(max=0), other, None)]
    return shared(layer, a, relevance, terms)


def z_plus(layer, a, relevance):
    return signed(layer, a, relevance, positive=True)


def alpha2_beta1(layer, a, relevance):
    return 2 * signed(layer, a, relevance, True) - signed(layer, a, relevance, False)


def gamma(layer, a, relevance, g=0.25):
    z = run(layer, a, layer.weight, layer.bias)
    plus, minus = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    found = 0
    for here, one, other, side in ((z >= 0, plus, minus, "min"), (z < 0, minus, plus, "max")):
        w = layer.weight
        b = None if layer.bias is None else layer.bias + g * layer.bias.clamp(**{side: 0})
        terms = [(a.clamp(min=0), w + g * one, b), (a.clamp(max=0), w + g * other, None)]
        found = found + shared(layer, a, relevance * here, terms)
    return found


def mixed(dense, convolution):
    return lambda layer, a, r: (dense if isinstance(layer, nn.Linear) else convolution)(layer, a, r)


RULES = {
    "epsilon": epsilon,
    "gamma": gamma,
    "alpha_beta": alpha2_beta1,
    "epsilon_plus": mixed(epsilon, z_plus),
    "epsilon_alpha2_beta1": mixed(epsilon, alpha2_beta1),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("composite", RULES)
def test_rules_are_their_formulas(composite, bias):
    model, x = network(bias=bias), images()
    ours = ek.explain(model, x, 1, "lrp", composite=composite).attribution
    wanted = by_hand(model, x, 1, RULES[composite])
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-7)


def test_flat_box_and_square_on_the_first_layer():
    model, x = network(), images()
    first = model[0]

    def share_with(rule):
        def share(layer, a, relevance):
            if layer is not first:
                return mixed(epsilon, z_plus)(layer, a, relevance)
            return rule(layer, a, relevance)

        return share

    def flat(layer, a, relevance):
        ones = torch.ones_like(layer.weight)
        z = F.conv2d(torch.ones_like(a), ones)
        return F.conv_transpose2d(relevance / z, ones)

    ours = ek.explain(model, x, 1, "lrp", composite="epsilon_plus_flat").attribution
    wanted = by_hand(model, x, 1, share_with(flat))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-7)

    low, high = -3.0, 4.0
    plus, minus = first.weight.clamp(min=0), first.weight.clamp(max=0)

    def box(layer, a, relevance):
        if layer is not first:
            return mixed(epsilon, gamma)(layer, a, relevance)
        z = (
            F.conv2d(a, layer.weight)
            - F.conv2d(torch.full_like(a, low), plus)
            - F.conv2d(torch.full_like(a, high), minus)
        )
        s = relevance / z
        return (
            a * F.conv_transpose2d(s, layer.weight)
            - low * F.conv_transpose2d(s, plus)
            - high * F.conv_transpose2d(s, minus)
        )

    ours = ek.explain(
        model, x, 1, "lrp", composite="epsilon_gamma_box", low=low, high=high
    ).attribution
    torch.testing.assert_close(ours, by_hand(model, x, 1, box), rtol=1e-4, atol=1e-6)


def test_bounds_are_those_of_the_image_whatever_comes_before_the_first_layer():
    torch.manual_seed(0)
    rest = nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 3)).eval()

    class Normalizing(nn.Module):
        """A negative factor swaps the bounds."""

        def __init__(self):
            super().__init__()
            self.rest = rest

        def forward(self, x):
            return self.rest((x - 0.5) / -0.25)

    x, low, high = torch.rand(2, 2, 4, 4), torch.rand(2, 1, 1) / 9, 1 - torch.rand(2, 1, 1) / 9
    ours = ek.explain(Normalizing().eval(), x, 1, "deep_taylor", low=low, high=high).attribution
    pixels = [((v - 0.5) / -0.25).expand(2, 4, 4).reshape(32, 1, 1) for v in (high, low)]
    inside = ((x - 0.5) / -0.25).reshape(2, 32, 1, 1)
    wanted = ek.explain(rest, inside, 1, "deep_taylor", low=pixels[0], high=pixels[1]).attribution
    torch.testing.assert_close(ours.reshape(2, 32, 1, 1), wanted)


@pytest.mark.parametrize("composite", RULES)
def test_batch_normalization_is_merged(composite):
    """As in the network whose normalization is written into the convolution."""
    model, x = network(norm=True), images()
    norm, plain = model[1], network()
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    plain[0].weight.data = model[0].weight * gain[:, None, None, None]
    plain[0].bias.data = (model[0].bias - norm.running_mean) * gain + norm.bias
    plain[3].load_state_dict(model[4].state_dict())
    plain[6].load_state_dict(model[7].state_dict())
    ours = ek.explain(model, x, 1, "lrp", composite=composite)
    wanted = ek.explain(plain, x, 1, "lrp", composite=composite)
    torch.testing.assert_close(ours.attribution, wanted.attribution, rtol=1e-6, atol=1e-9)
    assert ours.coverage["operators"]["native_batch_norm"] == {"merged": 1}


def test_without_biases_epsilon_is_input_times_gradient_and_conserves():
    model, x = network(bias=False), images()
    e = ek.explain(model, x, 1, "lrp", composite="epsilon", epsilon=1e-12)
    product = ek.explain(model, x, 1, "input_x_gradient")
    torch.testing.assert_close(e.attribution, product.attribution, rtol=1e-6, atol=1e-10)
    assert e.diagnostics["conservation_gap"].max() < 1e-6


@pytest.mark.parametrize("composite", ["epsilon", "gamma", "epsilon_plus", "epsilon_plus_flat"])
def test_conservation_without_biases(composite):
    for model in (network(bias=False), network(bias=False, positive=True)):
        x = images().abs()
        e = ek.explain(model, x, 1, "lrp", composite=composite, epsilon=1e-9)
        assert e.diagnostics["conservation_gap"].max() < 1e-4


def test_residual_sums_conserve():
    """Where hooks on modules lose half of the relevance."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = (
                nn.Conv2d(2, 2, 3, padding=1, bias=False),
                nn.Linear(128, 3, bias=False),
            )

        def forward(self, x):
            return self.b(torch.relu(F.relu(self.a(x)) + x).flatten(1))

    e = ek.explain(Residual().double().eval(), images(), 1, "lrp", composite="epsilon")
    assert e.diagnostics["conservation_gap"].max() < 1e-3


def test_excitation_is_a_probability():
    for name in ("plain", "in_place", "reused", "functional"):
        model, x = toy_models()[name]
        e = ek.explain(model, x, 2, "excitation_backprop")
        assert (e.attribution >= 0).all()
        torch.testing.assert_close(e.attribution.sum((1, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_excitation_by_hand():
    """Two hidden units with 3 and 1; the class is excited by both, 1·3 and 2·1 of 5."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    model[1].weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    model[3].weight.data = torch.tensor([[1.0, 2.0], [5.0, -1.0]])
    x = torch.tensor([[[[2.0, 1.0]]]])
    e = ek.explain(model.eval(), x, 0, "excitation_backprop")
    # unit 0: shares 2/3 and 1/3; unit 1: its only excitatory input is the first pixel
    wanted = torch.tensor([3 / 5 * 2 / 3 + 2 / 5, 3 / 5 / 3])
    torch.testing.assert_close(e.attribution.flatten(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", ["box", "w_square"])
def test_deep_taylor_conserves_and_is_positive(first):
    model, x = network(bias=False, positive=True), images()
    e = ek.explain(model, x, 1, "deep_taylor", first=first, low=-4.0, high=4.0)
    assert (e.attribution >= -1e-9).all()
    assert e.diagnostics["conservation_gap"].max() < 1e-5


def test_an_image_that_bypasses_its_first_layer_is_refused():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return (self.conv(x).relu() + x).flatten(1)[:, :3]

    with pytest.raises(MethodError, match="bypasses them"):
        ek.explain(Around().eval(), images().float(), 1, "lrp", composite="epsilon_plus_flat")


def test_wrong_fields():
    model, x = network(), images()
    for params, message in (
        ({"composite": "best"}, "composite: expected epsilon or gamma"),
        ({"epsilon": 0.0}, "epsilon: expected a number above 0"),
        ({"low": 1.0}, "expected both bounds or none"),
        ({"composite": "epsilon_gamma_box", "low": torch.zeros(7, 1, 1), "high": torch.ones(7, 1, 1)},
         "low, high: expected bounds for"),
    ):  # fmt: skip
        with pytest.raises(MethodError, match=message):
            ek.explain(model, x, 1, "lrp", **params)


@pytest.mark.parametrize("method", ["lrp", "excitation_backprop", "deep_taylor", "full_gradient"])
def test_keeps_the_promises(method):
    names = ("functional", "in_place", "reused", "batch_norm", "tuple", "vit")
    check_method(method, {name: toy_models()[name] for name in names})


@pytest.mark.parametrize(("bias", "warned"), [(0.1, False), (5.0, True)])
def test_relevance_that_biases_absorb_is_warned_of(bias, warned):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).eval()
    nn.init.ones_(model[1].weight)
    nn.init.constant_(model[1].bias, bias)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        e = ek.explain(model, torch.ones(1, 1, 2, 2), 0, "lrp", composite="epsilon")
    said = [str(w.message) for w in caught if "conservation_gap above 0.5" in str(w.message)]
    assert len(said) == warned
    assert float(e.diagnostics["conservation_gap"]) == pytest.approx(bias / (4 + bias), rel=1e-4)


def test_rules_by_layer_are_those_of_the_definition():
    """w² on the first layer by its path, z⁺ and ε on the others by their classes."""
    model, x = network(), images()

    def share(layer, a, relevance):
        if layer is model[0]:
            ones = torch.ones_like(a)
            terms = [(ones, layer.weight.square(), None)]
            return shared(layer, a, relevance, terms, 1e-9)
        if layer is model[3]:
            plus = layer.weight.clamp(min=0)
            return shared(layer, a, relevance, [(a, plus, layer.bias.clamp(min=0))])
        return epsilon(layer, a, relevance)

    e = ek.explain(
        model, x, 1, "lrp", composite="epsilon",
        rules={"0": "w_square", nn.Conv2d: "z_plus", "Linear": "epsilon"},
    )  # fmt: skip
    torch.testing.assert_close(e.attribution, by_hand(model, x, 1, share))
    assert e.coverage["operators"]["convolution"] == {"w_square (first)": 1, "z_plus": 1}
    assert e.params["rules"]["torch.nn.modules.conv.Conv2d"] == "z_plus"


def test_a_longer_path_comes_before_a_shorter_one_and_before_classes():
    inner = network()
    model = nn.Sequential(nn.Sequential(*inner[:6]), inner[6]).eval()
    e = ek.explain(
        model, images(), 1, "lrp", rules={nn.Module: "alpha_beta", "0": "gamma", "0.3": "z_plus"}
    )
    assert e.coverage["operators"]["convolution"] == {"gamma": 1, "z_plus": 1}
    assert e.coverage["operators"]["addmm"] == {"alpha_beta": 1}


def test_a_rule_holds_for_a_part_of_a_weight():
    """Two linear layers whose weights lie in one memory, of which one reads its weight in parts."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            memory = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(2)).double()
            self.one, self.two = nn.Linear(8, 4).double(), nn.Linear(8, 4).double()
            self.one.weight, self.two.weight = map(nn.Parameter, memory)

        def forward(self, x):
            x = x.flatten(1)
            halves = [F.linear(x, part) for part in self.one.weight.split(2)]
            return self.two(torch.cat([*halves, x[:, :4]], 1))

    e = ek.explain(
        Net().eval(), torch.rand(2, 2, 2, 2).double(), 1, "lrp", composite="epsilon",
        rules={"one": "z_plus", "two": "gamma"},
    )  # fmt: skip
    assert e.coverage["operators"]["mm"] == {"z_plus": 2}
    assert e.coverage["operators"]["addmm"] == {"gamma": 1}


def test_weights_whose_layer_is_not_clear_are_refused():
    model, x = network(), images()
    twin = nn.Conv2d(5, 5, 1).double()
    tied = nn.Sequential(*model[:5], twin, twin.__class__(5, 5, 1).double(), *model[5:]).eval()
    tied[6].weight = twin.weight
    with pytest.raises(MethodError, match="one rule for layers '5' and '6', which share a weight"):
        ek.explain(tied, x, 1, "lrp", rules={"5": "gamma", "6": "z_plus"})
    e = ek.explain(tied, x, 1, "lrp", rules={"5": "gamma", "6": "gamma"})
    assert e.coverage["operators"]["convolution"] == {"z_plus": 2, "gamma": 2}
    torch.nn.utils.parametrizations.weight_norm(model[3])
    with pytest.raises(MethodError, match="a weight that layer '3' holds itself .*it is computed"):
        ek.explain(model, x, 1, "lrp", rules={nn.Conv2d: "gamma"})


def test_rules_that_no_layer_takes_are_refused():
    model, x = network(), images()
    with pytest.raises(MethodError, match="rules: expected convolutions.*got '7', 'LSTM'"):
        ek.explain(model, x, 1, "lrp", rules={"7": "gamma", "LSTM": "gamma", "0": "flat"})
    with pytest.raises(MethodError, match="a layer that reads the image for the rule 'flat'"):
        ek.explain(model, x, 1, "lrp", rules={"3": "flat"})
    with pytest.raises(MethodError, match="rules: expected one of epsilon, .*got 'zplus'"):
        ek.explain(model, x, 1, "lrp", rules={"0": "zplus"})
    with pytest.raises(MethodError, match="rules: expected a layer's path or its class, got 3"):
        ek.explain(model, x, 1, "lrp", rules={3: "gamma"})
    with pytest.raises(MethodError, match="rules: expected a mapping"):
        ek.explain(model, x, 1, "lrp", rules="gamma")


@pytest.mark.parametrize("composite", ["epsilon", "gamma", "epsilon_plus"])
def test_without_biases_all_relevance_is_passed_on(composite):
    model, x = network(), images()
    e = ek.explain(model, x, 1, "lrp", composite=composite, bias=False, epsilon=1e-12)
    assert float(e.diagnostics["conservation_gap"].max()) < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual = ek.explain(model, x, 1, "lrp", composite=composite, epsilon=1e-12)
    assert float(usual.diagnostics["conservation_gap"].min()) > 1e-3


def test_without_biases_by_definition():
    model, x = network(), images()

    def share(layer, a, relevance):
        weight = layer.weight.clamp(min=0) if isinstance(layer, nn.Conv2d) else layer.weight
        if layer is model[0]:  # inputs of both signs
            minus = layer.weight.clamp(max=0)
            terms = [(a.clamp(min=0), weight, None), (a.clamp(max=0), minus, None)]
            return shared(layer, a, relevance, terms)
        return shared(layer, a, relevance, [(a, weight, None)])

    e = ek.explain(model, x, 1, "lrp", bias=False)
    torch.testing.assert_close(e.attribution, by_hand(model, x, 1, share))
