"""Incremental runs of image variants agree with full runs."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import nn
from torch.utils import _pytree as pytree

from explainkit.engine.model import ScoreModel
from explainkit.expressions import parse
from explainkit.graph.incremental import run as running
from explainkit.graph.incremental.cost import worth_tracing
from explainkit.graph.incremental.regions import Boxes, Span
from explainkit.graph.incremental.run import Variants, make_plan
from explainkit.methods.perturbation.ablation import FeatureAblation
from explainkit.methods.perturbation.box_scores import box_scores
from explainkit.methods.perturbation.windows import Windows, score_windows
from explainkit.testing import _state, toy_models

TOYS = sorted(toy_models())


def pasted(image, corners, patches):
    out = image.expand(len(corners), -1, -1, -1).clone()
    height, width = patches.shape[2:]
    for row, (top, left), patch in zip(out, corners.tolist(), patches, strict=True):
        row[:, top : top + height, left : left + width] = patch
    return out


def same(found, expected):
    for one, other in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        assert one.shape == other.shape
        assert other.isfinite().all(), "a comparison with NaN proves nothing"
        rounding = 1e-10 if other.dtype == torch.float64 else 1e-5
        assert (one - other).abs().max() <= rounding * other.abs().max()


def check(model, image, window, count=5, splits=True):
    """Compares every split between boxes and whole maps with the full run.

    Returns the variants and the largest number of steps on boxes.
    """
    height, width = image.shape[1:]
    generator = torch.Generator().manual_seed(1)
    tops = torch.randint(0, height - window[0] + 1, (count,), generator=generator)
    lefts = torch.randint(0, width - window[1] + 1, (count,), generator=generator)
    corners = torch.stack([tops, lefts], 1)
    corners[0] = 0
    corners[-1] = torch.tensor([height - window[0], width - window[1]])
    patches = torch.randn(count, len(image), *window, generator=generator).to(image)
    unchanged = patches.clone()
    before = _state(model, image)
    variants = Variants(model, image)
    with torch.no_grad():
        expected = model(pasted(image, corners, patches))
    same(variants.run(corners, patches), expected)
    longest = 0
    if variants.how != "hooks" and splits:
        network = variants._network
        boxes = Boxes(Span(corners[:, 0], window[0]), Span(corners[:, 1], window[1]))
        plan, longest = make_plan(network, boxes), reachable(network)
        for local in range(longest + 1):
            needed = running._frontier(running._lives(network), local)
            forced = replace(plan, local=local, needed=needed, chunk=2)
            with torch.no_grad():
                parts = [
                    variants._run(network, forced, part, patches[part])
                    for part in running._parts(count, 2)
                ]
            same(pytree.tree_map(running._joined, *parts), expected)
    assert torch.equal(patches, unchanged), "the caller's patches were changed"
    for what, value in _state(model, image).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, before[what]), what
    return variants, longest


def reachable(network):
    """How many steps can run on boxes."""
    local = [step.is_local for step in network.steps]
    return [*local, False].index(False)


@st.composite
def stacks(draw):
    """Any sequence of operators that have rules."""
    integer = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    pair = lambda low, high: (integer(low, high), integer(low, high))  # noqa: E731
    size = pair(9, 17)
    channels = start = integer(1, 3)
    layers, shape = [], torch.zeros(1, channels, *size)
    for _ in range(integer(2, 6)):
        kind = draw(
            st.sampled_from(
                ["conv", "conv", "depthwise", "max", "average", "norm", "act", "pad", "adaptive"]
            )
        )
        if kind in ("conv", "depthwise"):
            groups = channels if kind == "depthwise" else 1
            after = channels if groups > 1 else 2 * integer(1, 3)
            layer = nn.Conv2d(
                channels, after, pair(1, 4), pair(1, 3), pair(0, 2), pair(1, 2), groups,
                bias=draw(st.booleans()),
            )  # fmt: skip
        elif kind == "max":
            kernel = pair(2, 3)
            layer = nn.MaxPool2d(
                kernel, pair(1, 3), (integer(0, kernel[0] // 2), integer(0, kernel[1] // 2)),
                pair(1, 2), ceil_mode=draw(st.booleans()),
            )  # fmt: skip
        elif kind == "average":
            kernel = pair(1, 3)
            layer = nn.AvgPool2d(
                kernel, pair(1, 3), (integer(0, kernel[0] // 2), integer(0, kernel[1] // 2)),
                draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([None, 3])),
            )  # fmt: skip
        elif kind == "norm":
            layer = nn.BatchNorm2d(channels, affine=draw(st.booleans()))
        elif kind == "pad":
            layer = nn.ConstantPad2d((*pair(0, 2), *pair(0, 2)), 0.5)
        elif kind == "adaptive":
            # integer ratios; pooling to one position is a mean, which ends the steps on boxes
            ratios = [d for d in (1, 2, 3) if not any(n % d or n // d < 2 for n in shape.shape[2:])]
            ratio = draw(st.sampled_from(ratios or [0]))
            if not ratio:
                continue
            pool = draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))
            layer = pool((shape.shape[2] // ratio, shape.shape[3] // ratio))
        else:
            layer = draw(
                st.sampled_from(
                    [nn.ReLU(True), nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.PReLU(),
                     nn.Sigmoid(), nn.LeakyReLU(0.1, True), nn.Dropout(), nn.Identity(), nn.Softplus()]
                )
            )  # fmt: skip
        try:
            after = layer.eval()(shape)
        except RuntimeError:  # the map is smaller than the kernel
            continue
        # PyTorch's max pooling gives -inf where a dilated window reads nothing but padding: the
        # layers after it would turn that into NaN, in a full run too
        if after.numel() and after.isfinite().all():
            layers.append(layer)
            shape, channels = after, after.shape[1]
    head = draw(st.sampled_from(["flat", "mean"]))
    last = [nn.Flatten(), nn.Linear(shape[0].numel(), 3)]
    if head == "mean":
        last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    window = integer(1, size[0]), integer(1, size[1])
    return nn.Sequential(*layers, *last).eval(), (start, *size), window, integer(0, 10**6)


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data.normal_(generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.abs_().add_(0.5)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(stacks())
def test_any_stack_at_any_split(case):
    model, shape, window, seed = case
    randomize(model, seed)
    model.double()
    image = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    variants, longest = check(model, image, window)
    assert variants.how == "fx", variants.refusal
    # everything up to the head has a rule
    assert longest >= len(model) - 2


class Wired(nn.Module):
    """Operators of one map, in any order, in the spellings that networks use."""

    KINDS = (
        "residual", "dense", "chunk", "split", "slice", "table", "coordinates", "expanded", "last",
        "shuffle", "gate", "pool", "twice",
    )  # fmt: skip
    HEADS = ("view", "permuted", "flat", "tokens", "mean")

    def __init__(self, kinds, head, channels, size):
        super().__init__()
        self.kinds, self.head, self.size = kinds, head, size
        self.layers, self.tables = nn.ModuleList(), nn.ParameterList()
        for kind in kinds:
            self.layers.append(nn.Conv2d(channels, 4, 3, padding=1))
            if kind in ("residual", "last", "gate", "shuffle"):
                self.layers[-1] = nn.Conv2d(channels, channels, 3, padding=1)
            self.tables.append(torch.randn(1, channels, *self.size))
            channels += {"dense": 4, "coordinates": 1, "table": channels, "slice": -1}.get(kind, 0)
            channels = {"chunk": 2, "split": 4, "twice": 4}.get(kind, channels)
            if kind == "pool":
                self.size = tuple(n // 2 for n in self.size)
        self.width = channels * self.size[0] * self.size[1]
        self.attention = nn.MultiheadAttention(channels, 1, batch_first=True)
        self.linear = nn.Linear(channels if head in ("tokens", "mean") else self.width, 3)

    def forward(self, x):
        for kind, layer, table in zip(self.kinds, self.layers, self.tables, strict=True):
            x = self.step(kind, layer, table, x)
        if self.head == "view":
            x = x.view(-1, self.width)
        elif self.head == "permuted":
            x = x.permute(0, 2, 3, 1).contiguous().view(x.size(0), -1)
        elif self.head == "flat":
            x = x.flatten(1)
        elif self.head == "tokens":
            x = x.view(x.shape[0], x.shape[1], -1).transpose(1, 2)
            x = self.attention(x, x, x)[0].mean(1)
        else:
            x = x.mean((2, 3))
        return self.linear(x)

    def step(self, kind, layer, table, x):
        batch, channels, height, width = x.shape
        match kind:
            case "residual":
                return F.relu(x + layer(x))
            case "dense":
                return torch.cat([x, layer(F.relu(x))], 1)
            case "chunk":
                value, gate = layer(x).chunk(2, dim=1)
                return value * torch.sigmoid(gate)
            case "split":
                first, rest = torch.split(layer(x), [1, 3], 1)
                return torch.cat([torch.tanh(rest), first], 1)
            case "slice":
                return F.relu(x[:, 1:]) + x[:, :-1]
            case "table":
                return torch.cat([table.expand(batch, -1, -1, -1), x], 1)
            case "coordinates":
                ramp = torch.linspace(-1, 1, width, dtype=x.dtype)
                return torch.cat([x, ramp.expand(x.size(0), 1, height, width)], 1)
            case "expanded":
                return x * table.repeat(batch, 1, 1, 1) + table[..., :1]
            case "last":
                y = F.layer_norm(layer(x).permute(0, 2, 3, 1), (channels,))
                return x + F.gelu(y).permute(0, 3, 1, 2)
            case "shuffle":
                y = x.view(batch, channels, 1, height, width).transpose(1, 2)
                return layer(y.reshape(batch, -1, height, width))
            case "gate":
                return x * torch.sigmoid(layer(F.adaptive_avg_pool2d(x, 1)))
            case "pool":
                return F.max_pool2d(x, 2)
        return layer(x) + layer(x.flip(3))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(Wired.KINDS), min_size=1, max_size=4).filter(
        lambda kinds: kinds.count("pool") < 3
    ),
    st.sampled_from(Wired.HEADS),
    st.tuples(st.integers(8, 11), st.integers(8, 11)),
    st.integers(0, 10**6),
)
def test_any_wiring_at_any_split(kinds, head, size, seed):
    torch.manual_seed(seed)
    model = Wired(kinds, head, 3, size).double().eval()
    variants, longest = check(model, torch.randn(3, *size).double(), (3, 2), count=3)
    assert variants.how == "fx", variants.refusal
    # every operator before these has a rule
    ends = [kinds.index(kind) for kind in ("shuffle", "gate", "twice") if kind in kinds]
    assert longest >= min([len(kinds), *ends]), variants._network.steps


@pytest.mark.parametrize("name", TOYS)
def test_toy_models(name):
    model, images = toy_models()[name]
    check(model.eval(), images[0], (3, 4))


class Networks:
    """Residual sums, strided shortcuts, concatenated branches, gates, unusual padding."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.a = nn.Conv2d(4, 6, 3, 2, 1, bias=False)
            self.b = nn.Conv2d(6, 6, 3, padding=1)
            self.short = nn.Conv2d(4, 6, 1, 2)
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            x = F.relu(self.norm(self.stem(x)), inplace=True)
            y = self.b(torch.relu(self.a(x)))
            y = torch.relu_(y + self.short(x))
            y = y * 2 + y - 0.5 * y / 3
            return self.head(y.mean((-1, -2)))

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 5, padding=2)
            self.c = nn.Conv2d(11, 5, 3)
            self.position = nn.Parameter(torch.randn(1, 5, 10, 8))
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            batch = x.size(0)
            pooled = F.max_pool2d(x, 3, 1, 1)
            x = torch.cat([self.a(x), self.b(x), pooled], dim=1)
            x = self.c(x) + self.position
            return {"logits": self.head(x.mean((2, 3)).view(batch, -1)), "map": x}

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())

        def forward(self, x):
            x = self.a(x)
            return self.b(x * self.gate(x)).mean((2, 3))

    class Padded(nn.Sequential):
        def __init__(self):
            super().__init__(
                nn.Conv2d(3, 4, (2, 4), padding="same"), nn.ReLU(),
                nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(),
                nn.ConvTranspose2d(4, 3, 3, 2), nn.Upsample(scale_factor=2), nn.Flatten(),
            )  # fmt: skip

    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.deep = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
            self.norm, self.wide = nn.LayerNorm(6), nn.Linear(6, 8)
            self.narrow = nn.Linear(8, 6, bias=False)
            self.scale = nn.Parameter(torch.rand(6))
            self.position = nn.Parameter(torch.rand(6, 5, 6))
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            x = self.stem(x)
            for _ in range(2):
                y = self.norm(self.deep(x).permute(0, 2, 3, 1))
                y = self.scale * self.narrow(F.gelu(self.wide(y))) + y
                x = x + y.permute(0, -1, 1, 2)
            x = x.permute(0, 2, 3, 1) + self.position
            return self.head(x.mean((1, 2)))


@pytest.mark.parametrize("kind", ["Residual", "Branching", "Gated", "Padded", "ChannelsLast"])
@pytest.mark.parametrize("window", [(1, 1), (4, 3), (12, 10)])
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_networks(kind, window):
    torch.manual_seed(0)
    model = getattr(Networks, kind)().double().eval()
    if kind == "Residual":
        randomize(model, 3)
    variants, longest = check(model, torch.randn(3, 12, 10).double(), window)
    assert variants.how == "fx", variants.refusal
    assert (
        longest
        >= {"Residual": 12, "Branching": 6, "Gated": 2, "Padded": 2, "ChannelsLast": 20}[kind]
    )


class Choosing(nn.Module):
    """Has data-dependent control flow."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 40, 3, padding=1)

    def forward(self, x):
        y = self.first(x)
        return (-y if y.mean() > 100 else y).mean((2, 3))


def wide():
    """A network large enough for tracing to pay off."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 40, 3, 2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 3),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("score", [None, parse("logit(2) - logit(0)"), lambda out: out[:, 1] ** 2])
def test_scores_of_any_target(score):
    model, image = wide(), torch.randn(3, 40, 40)
    scorer = ScoreModel(model, score)
    corners, patches = torch.tensor([[0, 3], [36, 35]]), torch.zeros(2, 3, 4, 5)
    score = box_scores(scorer, image, corners.repeat(500, 1), (4, 5))
    with torch.no_grad():
        same(score(corners, patches), scorer(pasted(image, corners, patches)))


def test_when_full_runs_are_used():
    image = torch.randn(3, 40, 40)

    def found(model, count):
        score = box_scores(model, image, torch.zeros(count, 2, dtype=torch.int64), (4, 4))
        return score if isinstance(score, str) else ""

    assert found(wide(), 1000) == ""
    assert found(wide(), 1) == "boxes save no time"
    assert "used as inputs to control flow" in found(Choosing().eval(), 10**5)
    inner = ScoreModel(wide(), parse('channel("0", 3)'))
    assert found(inner, 1000) == "the target reads more than the model's output"
    variants = Variants(Choosing().eval(), image)
    assert variants.how == "hooks"
    assert variants.refusal.count(";") == 1, "two ways were tried"
    assert check(Choosing().eval(), image, (3, 4))[0].how == "hooks"


def test_windows_across_the_border(monkeypatch):
    model, image = wide(), torch.randn(3, 42, 38)
    windows = Windows((42, 38), (9, 7), (4, 5))
    patches = windows.cut(torch.randn(3, 42, 38))
    found, why = score_windows(model, image, windows, patches)
    assert why == ""
    monkeypatch.setattr("explainkit.methods.perturbation.windows.box_scores", lambda *_: "no")
    expected, why = score_windows(model, image, windows, patches)
    assert why == "no"
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not torch.equal(found, expected), "nothing ran on boxes"


def test_only_the_affected_boxes_are_run():
    model, image = wide(), torch.randn(3, 64, 64)
    corners = torch.cartesian_prod(torch.arange(0, 60, 6), torch.arange(0, 60, 6))
    variants = Variants(model, image)
    variants.run(corners, torch.zeros(100, 3, 4, 4))
    plan = variants.plan
    assert plan.boxes[0].area == 16
    # the mean is the last step on boxes
    assert plan.local == 6
    assert plan.seconds < 0.2 * plan.dense


def test_whole_maps_are_used_where_boxes_cost_more():
    model, image = wide(), torch.randn(3, 64, 64)
    variants = Variants(model, image)
    same(
        variants.run(torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 3, 64, 64)),
        model(torch.zeros(4, 3, 64, 64)).detach(),
    )
    assert variants.plan.local == 0


class Sized(nn.Module):
    """Reads the size of a convolution's output before normalizing it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.conv(x)
        scale = x.shape[2] / 10
        x = F.relu(self.norm(x), inplace=True)
        return self.head(scale * x.mean((2, 3)))


@pytest.mark.parametrize("used_twice", [False, True])
def test_normalization_is_folded_if_nothing_else_uses_the_convolution(used_twice):
    model = Sized()
    if used_twice:
        model.norm.forward = lambda x, norm=model.norm: nn.BatchNorm2d.forward(norm, x) + x
    model.eval()
    randomize(model, 3)
    image = torch.randn(3, 14, 12)
    variants, _ = check(model, image, (3, 4))
    left = [
        action.call.operator._schema.name
        for step in variants._network.steps
        for action in step.actions
    ]
    assert any("batch_norm" in name for name in left) == used_twice


def test_a_model_whose_weights_are_used_at_few_pixels_is_not_traced_for_few_runs():
    """The upper bound does not decide; the work of one run, counted once, does."""
    layers = [nn.Conv2d(3, 64, 16, 16), *(nn.Conv2d(64, 64, 1) for _ in range(200))]
    model = nn.Sequential(*layers).eval()
    runs = 0

    def count(*_):
        nonlocal runs
        runs += 1

    model.register_forward_hook(count)
    image = torch.rand(3, 32, 32)
    assert not worth_tracing(model, image, 100)
    assert not worth_tracing(model, image, 200)
    assert worth_tracing(model, image, 10**6)
    assert runs == 1


def test_tracing_is_worth_it_on_a_cpu_only():
    assert worth_tracing(wide(), torch.rand(3, 40, 40), 1000)
    assert not worth_tracing(wide().to("meta"), torch.rand(3, 40, 40, device="meta"), 1000)


def test_plans_are_deterministic():
    image = torch.randn(3, 40, 40)
    corners, patches = torch.randint(0, 30, (50, 2)), torch.randn(50, 3, 6, 6)
    one, other = (Variants(wide(), image).run(corners, patches) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("segments", [6, "shapes"])
def test_feature_ablation_of_segments(segments, monkeypatch):
    monkeypatch.setattr("explainkit.methods.perturbation.box_scores.worth_tracing", lambda *_: True)
    monkeypatch.setattr(running.BoxPlan, "saves", True)
    model, image = wide(), torch.randn(1, 3, 42, 38)
    if segments == "shapes":
        far = torch.hypot(torch.arange(42.0)[:, None] - 9, torch.arange(38.0) - 30)
        segments = (far / 4).long() + 20 * (torch.arange(38) // 10)
    method = FeatureAblation(segments, baseline="blur")
    found = method(model, image, torch.tensor([1]))
    assert found.diagnostics == {"evaluation": "incremental"}
    monkeypatch.setattr("explainkit.methods.perturbation.ablation.box_scores", lambda *_: "no")
    expected = method(model, image, torch.tensor([1]))
    assert expected.diagnostics == {"evaluation": "full runs: no"}
    score = model(image)[0, 1].abs()
    assert (found.values - expected.values).abs().max() <= 1e-5 * score
    assert not torch.equal(found.values, expected.values), "nothing ran on boxes"


class Dynamic(nn.Module):
    """Convolves with weights, and multiplies by numbers, that depend on the image."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.weights, self.head = nn.Linear(4, 36), nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        if self.kind == "weights":
            weight = self.weights(x.mean((2, 3))).view(-1, 1, 3, 3)
            folded = x.reshape(1, -1, *x.shape[2:])
            y = F.conv2d(folded, weight, padding=1, groups=weight.shape[0])
            x = y.view(x.shape)
        elif self.kind == "numbers":
            x = x * x.mean().item()
        elif self.kind == "written":
            x = self.conv(F.pad(x, (1, 1, 1, 1), "circular"))
        else:
            x, where = F.max_pool2d(x, 2, return_indices=True)
            x = F.relu(x) * (where / 100)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("kind", ["weights", "written", "indices"])
def test_everything_that_depends_on_the_image_is_followed(kind):
    torch.manual_seed(0)
    variants, _ = check(Dynamic(kind).double().eval(), torch.randn(3, 9, 8).double(), (3, 2))
    assert variants.how != "hooks", variants.refusal


def test_numbers_read_from_a_tensor_are_refused():
    variants = Variants(Dynamic("numbers").eval(), torch.randn(3, 9, 8))
    assert variants.refusal == "fx: item reads numbers from a tensor"


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_full_runs_replace_boxes_that_disagree(fault, monkeypatch):
    """No fault of a rule reaches the caller."""

    def broken(self, sources, boxes, **_):
        if fault == "raises":
            raise IndexError("no such box")
        return 1.01 * self.apply(*(source.read(boxes) for source in sources))

    monkeypatch.setattr("explainkit.graph.incremental.operators.Elementwise.run", broken)
    model, image = wide(), torch.randn(3, 42, 38)
    windows = Windows((42, 38), (9, 7), (4, 5))
    patches = windows.cut(torch.zeros(3, 42, 38))
    monkeypatch.setattr("explainkit.methods.perturbation.box_scores.worth_tracing", lambda *_: True)
    monkeypatch.setattr(running.BoxPlan, "saves", True)
    found, why = score_windows(model, image, windows, patches)
    raised = {"raises": "fx: no such box", "wrong": "fx: its output differs from the model's own"}
    assert why == raised[fault]
    images = pasted(image, *inside(windows, image))
    assert (found - model(images).detach()).abs().max() <= 1e-5 * found.abs().max()


def inside(windows, image):
    """Corners and zero patches of windows, cropped at the border by keeping the image there."""
    height, width = windows.window
    corners, patches = [], []
    for top, left, bottom, right in windows.boxes():
        above, before = min(top, 42 - height), min(left, 38 - width)
        patch = image[:, above : above + height, before : before + width].clone()
        patch[:, top - above : bottom - above, left - before : right - before] = 0
        corners.append((above, before))
        patches.append(patch)
    return torch.tensor(corners), torch.stack(patches)
