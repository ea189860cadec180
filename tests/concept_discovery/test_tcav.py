"""TCAV: closed forms, planted and random concepts, and what nothing depends on."""

import pytest
import torch
from attention_toys import images as photos
from attention_toys import vit
from concept_nets import deep
from torch import nn

import explainkit as ek
from explainkit.concept_discovery.cav import RIDGE, accuracy, concept_direction, resampled
from explainkit.concept_discovery.layer import LayerMaps
from explainkit.errors import InputError, ModelError, TargetError
from explainkit.layers import capture
from explainkit.results.statistics import student
from explainkit.results.tcav import TCAV
from explainkit.scores import VALUES


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Colors(nn.Module):
    """A layer whose channels are the mean red, green and blue, and a head with planted weights.

    Class 0 rises with red and falls with blue; class 1 reads nothing. Class 2 rises with green on
    images that are bright in red, and falls on the others.
    """

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        self.layer.weight.data = torch.eye(3)[:, :, None, None]
        self.eval()

    def forward(self, x):
        red, green, blue = self.layer(x).mean((2, 3)).T
        return torch.stack([red - blue, 0 * red + 1, (red - 0.5) * green], 1)


def shades(count, seed, color=None):
    """Uniform noise, in which one color may be brighter."""
    x = torch.rand(count, 3, 5, 4, generator=generator(seed))
    x = x + torch.rand(count, 3, 1, 1, generator=generator(seed + 100)) - 0.5
    if color is not None:
        x[:, color] += 1
    return x


def test_the_direction_is_that_of_ridge_regression():
    one = torch.randn(12, 7, generator=generator(1)).double() + 0.5
    other = torch.randn(12, 7, generator=generator(2)).double()
    direction, middle = concept_direction(one, other)
    values = torch.cat([one, other])
    apart = values - values.mean(0)
    label = torch.tensor([1.0] * 12 + [-1.0] * 12).double()
    penalty = RIDGE * apart.square().sum(1).mean()
    w = torch.linalg.solve(apart.T @ apart + penalty * torch.eye(7).double(), apart.T @ label)
    torch.testing.assert_close(direction, w / w.norm())
    assert middle == pytest.approx(float(direction @ values.mean(0)))


def test_accuracy_counts_both_kinds_alike():
    one, other = torch.tensor([[2.0], [3.0], [0.0]]), torch.tensor([[0.5], [1.5]])
    found = accuracy(torch.ones(1).double(), torch.tensor(1.0).double(), one, other)
    assert found == pytest.approx((2 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize(("model", "layer"), [(deep(), "1"), (vit(prefix=2), "blocks.0")])
def test_derivatives_are_those_of_the_whole_model(model, layer):
    x = photos(4)
    with capture(model, [layer]) as outputs:
        scores = model(x)
    (whole,) = torch.autograd.grad(scores[:, 2].sum(), outputs[layer])
    with torch.no_grad():
        found = LayerMaps(model, layer, x[:2], VALUES).gradients(x, 2)
    places = found.shape[1] * found.shape[2]
    expected = whole.permute(0, 2, 3, 1) if whole.dim() == 4 else whole[:, -places:]
    torch.testing.assert_close(found, expected.reshape(found.shape))


@pytest.mark.parametrize(("color", "score"), [(0, 1.0), (2, 0.0)])
def test_on_a_linear_head_the_share_is_all_or_nothing(color, score):
    found = ek.tcav(Colors(), shades(8, 1), 0, shades(30, 2, color), shades(60, 3), "layer")
    assert found.scores.tolist() == [score] * 20
    assert found.significant
    assert found.interval == (score, score)
    assert found.accuracy.mean() > 0.9
    assert int(found.direction.argmax()) == color
    assert found.caption().startswith("class 0 rises along the concept on")


def test_the_share_is_that_of_images_with_a_positive_derivative():
    x = shades(40, 1)
    red = x[:, 0].mean((1, 2))
    found = ek.tcav(Colors(), x, 2, shades(30, 2, 1), shades(60, 3), "layer")
    # the derivative along v is v_green (red − ½) + v_red green
    slopes = torch.stack([x[:, 1].mean((1, 2)), red - 0.5, torch.zeros(40)], 1).double()
    share = float((slopes @ found.direction > 0).double().mean())
    assert found.score == pytest.approx(share, abs=0.05)
    assert 0.2 < share < 0.8


def trial(seed, shift):
    """p-value where slopes, concept and random images are drawn; the concept may differ."""
    random = generator(seed)
    slopes, concept, other = (torch.randn(n, 8, generator=random).double() for n in (40, 30, 90))
    slopes[:, 0] += 1
    concept[:, 0] += shift
    found = resampled(slopes, concept, other, 20, seed)
    return TCAV(
        found.scores, found.random_scores, found.accuracy, found.direction, "", "", "", 40, 30, 90,
        seed, {},
    )  # fmt: skip


def test_random_concepts_are_not_significant_and_planted_ones_are():
    by_chance = [trial(seed, 0.0) for seed in range(25)]
    assert sum(one.significant for one in by_chance) <= 2
    assert all("not significant" in one.caption() for one in by_chance if one.p > 0.05)
    assert sum(trial(seed, 2.0).significant for seed in range(10)) >= 9


def test_p_and_interval_by_hand():
    scores, random = torch.tensor([[0.7, 0.9, 0.8, 0.9, 0.8, 0.7], [0.2, 0.6, 0.5, 0.4, 0.7, 0.3]])
    found = TCAV(scores, random, scores, scores, "", "", "", 1, 1, 1, 0, {})
    # the concept's variance is not divided by the number of runs
    own, other = float(scores.var()), float(random.var()) / 6
    t = (0.8 - 0.45) / (own + other) ** 0.5
    freedom = (own + other) ** 2 / ((own**2 + other**2) / 5)
    assert found.p == pytest.approx(student(t, freedom), rel=1e-4)
    reach = 2.5706 * own**0.5  # the 97.5th percentile with 5 degrees of freedom
    assert found.interval == pytest.approx((0.8 - reach, min(0.8 + reach, 1)), rel=1e-4)


def test_the_same_seed_gives_the_same_bits_whatever_the_batch():
    model, x = deep(), photos(24)
    state = torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    one, same = (ek.tcav(model, x[:5], 1, x[5:15], x[10:24], "1", runs=3) for _ in range(2))
    other = ek.tcav(model, x[:5], 1, x[5:15], x[10:24], "1", runs=3, batch_size=2)
    assert torch.equal(one.scores, same.scores)
    assert torch.equal(one.direction, same.direction)
    torch.testing.assert_close(one.direction, other.direction)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())
    assert not any(part._forward_hooks for part in model.modules())


def test_the_concept_is_a_target():
    model = Colors()
    found = ek.tcav(model, shades(8, 1), 0, shades(30, 2, 0), shades(60, 3), "layer")
    x = shades(2, 9)
    score = ek.explain(model, x, found.concept).score
    torch.testing.assert_close(score, x.mean((2, 3)) @ found.direction.float())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"concept": shades(9, 1)}, InputError, "at least 10 images of the concept .* got 9 and 60"),
        ({"random": shades(29, 1)}, InputError, "as many random ones, got 30 and 29"),
        ({"random": torch.rand(60, 3, 5, 5)}, InputError, "of one size"),
        ({"target": 3}, TargetError, "targets from 0 to 2"),
        ({"target": 1}, ModelError, "not all of them 0"),
        ({"runs": 2}, InputError, "runs: expected at least 3"),
        ({"concept": torch.ones(30, 3, 5, 4), "random": torch.ones(60, 3, 5, 4)},
         ModelError, "differ between images"),
    ],
)  # fmt: skip
def test_refused(options, error, message):
    given = {"target": 0, "concept": shades(30, 2, 0), "random": shades(60, 3), **options}
    with pytest.raises(error, match=message):
        ek.tcav(Colors(), shades(8, 1), layer="layer", **given)
