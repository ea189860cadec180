"""Tensors of a layer by text: which one is meant, and how it is exchanged."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from explainkit.errors import ModelError, ModelLookupError
from explainkit.layer_tensors import LayerTensor
from explainkit.layers import capture

Pair = namedtuple("Pair", "one other")
A, B, C = torch.zeros(2, 3), torch.ones(8, 3), torch.full((2, 5), 2.0)


@pytest.mark.parametrize(
    "text", ["", "blocks.3", "a:input", "a.b:input.mask", "a:output.1", "a:output.hidden.0"]
)
def test_texts_are_read_and_written(text):
    assert str(LayerTensor.of(text)) == text


def test_unknown_texts_are_refused():
    for text in ("a:", "a:inputs", "a:1", "a:output1"):
        with pytest.raises(ModelLookupError, match=f"'a:input' or 'a:output.1', got '{text}'"):
            LayerTensor.of(text)


@pytest.mark.parametrize(
    ("value", "part", "expected"),
    [
        (A, "", lambda new: new),
        ((A,), "", lambda new: (new,)),
        ((A, B), "", lambda new: (new, B)),
        ((A, B), "1", lambda new: (A, new)),
        ((None, 3, A), "", lambda new: (None, 3, new)),
        ((A, (B, C)), "1.0", lambda new: (A, (new, C))),
        ([A, B], "1", lambda new: [A, new]),
        (Pair(A, B), "1", lambda new: Pair(A, new)),
        (OrderedDict(p2=A, p3=B), "p3", lambda new: OrderedDict(p2=A, p3=new)),
        ({"maps": [A, {"x.y": B}]}, "maps.1.x.y", lambda new: {"maps": [A, {"x.y": new}]}),
    ],
)
def test_one_tensor_is_exchanged(value, part, expected):
    seen = []
    new = torch.full((1,), 9.0)
    found = LayerTensor("a", "output", part).exchanged(
        value, lambda one: seen.append(one) or new, count=2
    )
    wanted = expected(new)
    assert type(found) is type(wanted)
    assert _flat(found) == _flat(wanted)
    before = {id(one) for one in (A, B, C)}
    assert [id(one) in before for one in seen] == [True]
    assert id(new) not in _flat(value)  # the layer's own value is as it was


def _flat(value):
    """Structure and identities."""
    if isinstance(value, dict):
        return [x for key, one in value.items() for x in (key, *_flat(one))]
    if isinstance(value, tuple | list):
        return [x for one in value for x in (type(value), *_flat(one))]
    return [id(value)]


class Attention(nn.Module):
    """Called by position and by name; returns what ``output`` says."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, query, key=None, *, mask=None):
        return self.output(query, key, mask)


def test_arguments_by_position_and_by_name():
    layer = Attention(lambda query, key, mask: query + 10 * key + 100 * mask)
    one = torch.ones(2, 3)
    for text, total in (("a:input.0", 112), ("a:input.key", 121), ("a:input.mask", 211)):
        hook = LayerTensor.of(text).hook(layer, lambda value: value + 1)
        assert torch.equal(layer(one, key=one, mask=one), torch.full((2, 3), float(total)))
        hook.remove()
    hook = LayerTensor.of("a:input").hook(layer, lambda value: value + 1, 2)  # the first
    assert torch.equal(layer(one, one, mask=one), torch.full((2, 3), 112.0))
    hook.remove()
    listed = r"given to layer 'a' .*'a:input.query' \[2, 3\]"
    with LayerTensor.of("a:input").hook(layer, lambda value: value, 2):  # noqa: SIM117
        with pytest.raises(ModelError, match=listed):
            layer(query=one, key=one, mask=one)
    assert not layer._forward_pre_hooks
    assert not layer._forward_pre_hooks_with_kwargs


@pytest.mark.parametrize(
    ("output", "listed"),
    [
        ((B, A), r"'0:output.0' \[8, 3\], '0:output.1' \[2, 3\]"),
        ({"a": A, "b": C}, r"'0:output.a' \[2, 3\], '0:output.b' \[2, 5\]"),
        ([A, C], r"'0:output.0' \[2, 3\], '0:output.1' \[2, 5\]"),
        ((None, (A, C)), r"'0:output.1.0' \[2, 3\], '0:output.1.1' \[2, 5\]"),
    ],
)
def test_several_tensors_of_which_none_is_named_are_listed(output, listed):
    """The first of a tuple is meant only if it has a row for each image."""
    model = nn.Sequential(Attention(lambda *_: output))
    several = f"for each image, got several: name one of {listed}"
    with pytest.raises(ModelError, match=several), capture(model, ["0"], count=2):
        model(A)
    assert not model[0]._forward_hooks
    missing = f"from layer '0': {listed}; got '0:output.7'"
    with pytest.raises(ModelLookupError, match=missing), capture(model, ["0:output.7"], count=2):
        model(A)


def test_a_layer_without_tensors_is_refused():
    model = nn.Sequential(Attention(lambda *_: (None, 3)))
    message = "a tensor from layer '0', got tuple; name a layer inside it"
    with pytest.raises(ModelError, match=message), capture(model, ["0"]):
        model(A)
