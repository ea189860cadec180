"""Random weights and other classes: everything is drawn again, and nothing of the caller's."""

import copy

import pytest
import torch
from metric_toys import images, linear, network
from torch import nn

from explainkit.errors import ExplainkitWarning, InputError, ModelError, TargetError
from explainkit.metrics.randomization import mprt, random_logit
from explainkit.metrics.reinitialization import reinitialized, stages
from explainkit.testing import toy_models


class Tokens(nn.Module):
    """Parameters of every kind that no initializer of a submodule draws."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.scale = nn.Parameter(torch.full((8,), 3.0))
        self.norm = nn.BatchNorm1d(5)
        with torch.no_grad():
            self.norm.weight.fill_(2.0)
            self.norm.bias.fill_(2.0)
            self.norm.running_mean.fill_(7.0)
            for bias in (self.attention.in_proj_bias, self.attention.out_proj.bias):
                bias.fill_(1.0)

    def forward(self, x):
        tokens = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2)[:, :, :8]], 1)
        tokens = self.norm((tokens + self.positions[:, : tokens.shape[1]]) * self.scale)
        return self.attention(tokens, tokens, tokens)[0][:, 0, :3]


def test_every_parameter_is_drawn_again():
    model = Tokens()
    made = reinitialized(model, 0)
    for (name, old), new in zip(model.named_parameters(), made.parameters(), strict=True):
        assert (old != new).all(), name
    assert not made.norm.running_mean.any()


@pytest.mark.parametrize("name", toy_models())
def test_no_parameter_of_the_toy_models_keeps_its_values(name):
    model, _ = toy_models()[name]
    made = dict(reinitialized(model, 0).named_parameters())
    drawn = {n: old for n, old in model.named_parameters() if made[n].unique().numel() > 1}
    assert len(drawn) >= 3
    assert not [n for n, old in drawn.items() if torch.equal(old, made[n])]  # the rest: constants


def test_a_model_built_with_the_same_seed_is_drawn_differently():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
    assert not torch.equal(reinitialized(model, 0).weight, model.weight)


def test_drawing_depends_on_the_seed_alone_and_leaves_no_trace():
    model = Tokens()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, again, other = (reinitialized(model, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(first.positions, again.positions)
    assert not torch.equal(first.positions, other.positions)


def test_stages_go_from_the_last_module_to_the_first():
    model = network()
    random = reinitialized(model, 0)
    changed = []
    for stage in stages(model, random):
        pairs = zip(stage.named_parameters(), model.parameters(), strict=True)
        changed.append([name for (name, new), old in pairs if not torch.equal(new, old)])
    assert changed == [
        ["6.weight", "6.bias"],
        ["2.weight", "2.bias", "6.weight", "6.bias"],
        ["0.weight", "0.bias", "2.weight", "2.bias", "6.weight", "6.bias"],
    ]
    last = [new for _, new in stage.named_parameters()]
    assert all(map(torch.equal, last, random.parameters()))


def test_gradients_of_a_linear_model_are_those_of_random_weights():
    model, weight = linear(size=(20, 20))
    found = mprt(model, images(1, size=(20, 20)), "saliency", 0, similarity="pearson")
    other = reinitialized(model, 0)[1].weight[0].detach()
    pair = torch.stack([weight[0].sum(0).flatten(), other.view(2, -1).sum(0)])
    assert found.item() == pytest.approx(torch.corrcoef(pair)[0, 1].item())
    assert abs(found.item()) < 0.2


def test_a_map_of_the_image_alone_does_not_depend_on_weights_or_class():
    from explainkit.interop.quantus import from_quantus

    def brightness(model, inputs, targets):
        return inputs.sum(1)

    method = from_quantus(brightness)
    assert mprt(network(), images(), method).tolist() == pytest.approx([1] * 3)
    assert random_logit(network(), images(), method).tolist() == pytest.approx([1] * 3)


def test_random_logit_of_a_linear_model_is_the_correlation_of_its_weights():
    model, weight = linear(classes=2)
    found = random_logit(model, images(), "saliency", 0, similarity="pearson")
    pair = torch.stack([weight[0].sum(0).flatten(), weight[1].sum(0).flatten()])
    assert found.tolist() == pytest.approx([torch.corrcoef(pair)[0, 1].item()] * 3)


@pytest.mark.parametrize("options", [{}, {"cascading": True}])
def test_mprt_does_not_depend_on_the_batch_and_leaves_the_model(options):
    model, x = network().train(), images(4)
    before = copy.deepcopy(model.state_dict())
    found = mprt(model, x, "saliency", **options)
    torch.testing.assert_close(mprt(model, x[2:3], "saliency", **options), found[2:3])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_layer_given_as_a_module_is_that_of_the_copy():
    from explainkit.methods import GradCAM

    model = network()
    by_module, by_path = (
        mprt(model, images(), GradCAM(layer=layer), 0) for layer in (model[2], "2")
    )
    assert torch.equal(by_module, by_path)


def test_what_is_undefined_is_nan_or_refused():
    model, _ = linear()
    with torch.no_grad():
        model[1].weight.zero_()
    with pytest.warns(ExplainkitWarning, match="a map is constant"):
        assert mprt(model, images(1), "saliency", 0).isnan().all()
    with pytest.raises(ModelError, match="expected a model with parameters"):
        mprt(nn.Flatten(), images(1), "saliency", 0)
    with pytest.raises(TargetError, match="random_logit: expected classes as target"):
        random_logit(network(), images(1), "saliency", "logit(0) - logit(1)")
    with pytest.raises(InputError, match="similarity: expected spearman or pearson, got 'ssim'"):
        mprt(network(), images(1), "saliency", similarity="ssim")
