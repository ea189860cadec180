"""Runs only the part of a model after a layer, for many variants of the layer's output at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from explainkit.errors import ModelError
from explainkit.graph.trace import How, TracedModel, recall, trace
from explainkit.isolation import preserve_model, preserve_process
from explainkit.layer_tensors import LayerTensor
from explainkit.layers import capture, get_layer


class Suffix:
    """The part of a model after a layer, made by `suffix`.

    Attributes:
        layer: Dotted path of the layer, or the text of a `LayerTensor`.
        how: How the model was traced, ``"fx"`` or ``"export"``; ``"hooks"`` if each run is a full
            one with the layer's output replaced, which works for every model but saves nothing.
        reasons: Why other ways of tracing failed.
    """

    def __init__(self, traced: TracedModel, layer: str) -> None:
        self.layer = layer
        self.how: How = traced.how
        self.reasons = traced.reasons

    def value(self, images: Tensor, known: Tensor | None = None) -> Tensor:
        """Computes the layer's output for images, and stores whatever else of them `run` needs.

        Args:
            images: ``[batch, channel, height, width]``.
            known: The layer's output, if it is already known: the model then only runs if `run`
                needs more than that.

        Returns:
            The layer's output, ``[batch, …]``; if it is a tuple, its first tensor.

        Raises:
            ModelError: It is no tensor, has no row for each image, or is several tensors of which
                none is named.
        """
        raise NotImplementedError

    def output(self, images: Tensor) -> Tensor:
        """The layer's output for other images, without affecting `run`."""
        saved = dict(vars(self))
        try:
            return self.value(images)
        finally:
            vars(self).update(saved)

    @property
    def self_contained(self) -> bool:
        """Whether `run` needs nothing but the layer's output, for any images."""
        return False

    def run(self, values: Tensor, of: Tensor | None = None) -> Any:
        """The model's output if the layer's output is replaced.

        Args:
            values: Variants of the layer's output, ``[n, …]``; gradients flow through them.
            of: For each variant the index of its image among the images of the last `value`, int64
                ``[n]``. None: one variant per image, in order.

        Returns:
            The model's own output structure, for ``n`` images.
        """
        raise NotImplementedError


class _Partial(Suffix):
    """Runs only the operators that depend on the layer."""

    def __init__(self, traced: TracedModel, layer: str, call: int) -> None:
        super().__init__(traced, layer)
        self._traced = traced
        self._start = start = traced.layers[layer][call]
        changed = traced.dependent([start])
        per_image = traced.dependent([traced.image])
        run, stored = {traced.output}, set()
        for node in reversed(traced.nodes):
            if node in run and node is not start:
                for source in node.all_input_nodes:
                    # sizes are computed again: there may be more variants than images
                    new = source in changed or source not in per_image
                    if new or source not in traced.tensors:
                        run.add(source)
                    else:
                        stored.add(source)
        run.discard(start)
        self._suffix = [node for node in traced.nodes if node in run]
        self._stored = [node for node in traced.nodes if node in stored]
        clean = {start, *stored}
        for node in reversed(traced.nodes):
            if node in clean:
                clean.update(node.all_input_nodes)
        self._prefix = [node for node in traced.nodes if node in clean]
        known = traced.values
        self._values = {node: known[node] for node in (start, *stored) if node in known}
        self._count = len(known[traced.image]) if known else 0

    def value(self, images: Tensor, known: Tensor | None = None) -> Tensor:
        if known is not None and not self._stored and isinstance(self._values[self._start], Tensor):
            self._values, self._count = {self._start: known}, len(images)
            return known
        values: dict[fx.Node, Any] = {self._traced.image: images}
        wanted = {self._start, *self._stored}
        self._values = {}
        for node in self._prefix:
            self._traced.run([node], values)
            if node in wanted:
                # a later in-place operator may overwrite it
                self._values[node] = _copied(values[node]) if self._traced.writes else values[node]
        self._count = len(images)
        return self.first(images)

    @property
    def self_contained(self) -> bool:
        return not self._stored and isinstance(self._values.get(self._start), Tensor)

    def first(self, images: Tensor) -> Tensor:
        """The layer's output for the images of the last `value`."""
        found = pytree.tree_leaves(self._values[self._start])[0]
        if not isinstance(found, Tensor) or not found.dim() or len(found) != self._count:
            with torch.no_grad(), capture(self._traced.model, [self.layer], count=self._count):
                self._traced.model(images.clone())  # names the tensors if there are several
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ModelError(
                f"expected the output of layer {self.layer!r} to be [batch, …] = [{self._count}, …]"
                f", got {shape}: choose another layer"
            )
        return found

    def run(self, values: Tensor, of: Tensor | None = None) -> Any:
        if of is None and len(values) != self._count:
            raise _miscounted(values, self._count)
        whole = self._values[self._start]
        known: dict[fx.Node, Any] = {
            node: _expanded(self._values[node], of, self._count) for node in self._stored
        }
        start = values.clone() if self._traced.writes else values
        if not isinstance(whole, Tensor):
            start = type(whole)((start, *_expanded(whole[1:], of, self._count)))
        known[self._start] = start
        left = {node: len(node.users) for node in self._suffix}
        for node in self._suffix:
            self._traced.run([node], known)
            for source in node.all_input_nodes:
                if source in left:
                    left[source] -= 1
                    if not left[source]:
                        del known[source]
        return self._traced.structured(known[self._traced.output])


class _Whole(Suffix):
    """Runs the whole model with the layer's output replaced by a hook."""

    def __init__(self, traced: TracedModel, layer: str, call: int, images: Tensor) -> None:
        super().__init__(traced, layer)
        self._model = traced.model
        self._call = call
        self._images = images

    def value(self, images: Tensor, known: Tensor | None = None) -> Tensor:
        self._images = images
        if known is not None:
            return known
        found: list[Tensor] = []

        def keep(first: Tensor) -> Tensor:
            found.append(first)
            return first.clone()

        self._hooked(images, keep)
        return found[0]

    def run(self, values: Tensor, of: Tensor | None = None) -> Any:
        if of is None and len(values) != len(self._images):
            raise _miscounted(values, len(self._images))
        images = self._images if of is None else self._images[of]
        return self._hooked(images, lambda _first: values.clone())

    def _hooked(self, images: Tensor, change: Callable[[Tensor], Tensor]) -> Any:
        calls = 0

        def replace(value: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return change(value) if calls - 1 == self._call else value

        one = LayerTensor.of(self.layer)
        hook = one.hook(get_layer(self._model, one.layer), replace, len(images))
        try:
            return self._model(images.clone())
        finally:
            hook.remove()


def _miscounted(values: Tensor, count: int) -> ModelError:
    return ModelError(
        f"expected {count} values, one for each image, got {len(values)}: pass the index of each "
        "value's image as `of`"
    )


def _copied(value: Any) -> Any:
    return pytree.tree_map_only(Tensor, Tensor.clone, value)


def _expanded(value: Any, of: Tensor | None, count: int) -> Any:
    """Expands values of the images to values of the variants."""

    def expand(tensor: Tensor) -> Tensor:
        if of is None:
            return tensor.clone()
        if len(tensor) == count:
            return tensor[of]
        # several rows per image, such as attention windows
        return tensor.reshape(count, -1, *tensor.shape[1:])[of].flatten(0, 1)

    return pytree.tree_map_only(Tensor, expand, value)


def suffix(model: nn.Module, layer: str, example: Tensor, *, call: int | None = None) -> Suffix:
    """The part of a model after a layer, to be run on many variants of the layer's output.

    Its output is compared with the model's on the example. If no partial run agrees, each run is a
    full one with the layer's output replaced.

    Args:
        model: Any module, in eval mode; a compiled one is run uncompiled.
        layer: Dotted path of the layer, or the text of a `LayerTensor`.
        example: Images ``[batch, channel, height, width]``; two are enough.
        call: The call of a layer that runs several times, from 0.

    Returns:
        The suffix. What it needs of the images besides the layer's output comes from the last
        `Suffix.value`.

    Raises:
        ModelError: There is no such layer, it does not run, it runs several times and ``call`` is
            not given, or its output has no batch axis.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> x = torch.rand(2, 1, 8, 8)
        >>> after = suffix(net.eval(), "1", x)
        >>> values = after.value(x)
        >>> without_channel_0 = values[[1, 1]].clone()
        >>> without_channel_0[:, 0] = 0
        >>> after.run(without_channel_0, torch.tensor([1, 1])).shape
        torch.Size([2, 2])
    """
    model = getattr(model, "_orig_mod", model)
    layer = str(LayerTensor.of(layer.removeprefix("_orig_mod.")))
    get_layer(model, LayerTensor.of(layer).layer)
    images = example[:2].detach()
    traced = recall(model, images, layer)
    if traced is not None and traced.how != "hooks":
        again = _partial(traced, layer, call, images[:1])
        if isinstance(again, _Partial):
            return again
    traced = trace(model, images, layer=layer, keep=True)
    if traced.how == "hooks":
        return _Whole(traced, layer, _which(_calls(model, layer, images), layer, call), images)
    return _partial(traced, layer, call, images)


def _partial(traced: TracedModel, layer: str, call: int | None, images: Tensor) -> Suffix:
    """The suffix of a traced model; runs the whole model if a partial run doesn't agree with it."""
    model = traced.model
    index = _which(len(traced.layers[layer]), layer, call)
    partial = _Partial(traced, layer, index)
    of = torch.tensor([len(images) - 1, 0, len(images) - 1], device=images.device)
    with preserve_process(0), preserve_model(model, keep_mode=True), torch.no_grad():
        if traced.values:
            expected, values = traced.values[traced.output], partial.first(images)
            traced.values, traced.calls = {}, {}
        else:
            expected, values = pytree.tree_leaves(model(images.clone())), partial.value(images)
        try:
            found = pytree.tree_leaves(partial.run(values[of], of))
            traced.compare(found, _expanded(expected, of, len(images)))
        except Exception as error:  # noqa: BLE001 - whatever fails, full runs are correct
            traced.refuse(error)
            return _Whole(traced, layer, index, images)
    return partial


def _which(count: int, layer: str, call: int | None) -> int:
    """The index of the requested call of a layer that ran ``count`` times."""
    if call is None and count == 1:
        return 0
    if call is not None and 0 <= call < count:
        return call
    what = f"ran {count} times" if count else "did not run"
    raise ModelError(
        f"expected one call of layer {layer!r}, but it {what}"
        + (": call=0 selects the first" if count and call is None else f", got call={call}")
    )


def _calls(model: nn.Module, layer: str, images: Tensor) -> int:
    """How often a layer runs."""
    count = 0

    def hit(*_: Any) -> None:
        nonlocal count
        count += 1

    with preserve_process(0), preserve_model(model, keep_mode=True), torch.no_grad():
        get_layer(model, LayerTensor.of(layer).layer).register_forward_hook(hit)
        model(images.clone())
    return count
