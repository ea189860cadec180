"""Where the cells of a layer's map are drawn on the image.

A cell is one spatial position of a layer. Stretching a layer's map over the image, as is usual,
puts each cell where its receptive field is only if the convolutions are padded. Without padding
the outer cells see places well inside of the image, and stretching draws them too far out.

What a layer sees, and which of its cells a score reads, are properties of the network. They are
found once, on fixed random images, so a map never depends on the other images of its batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainkit.engine.batching import BUDGET
from explainkit.engine.model import ScoreModel, unwrapped
from explainkit.errors import ExplainkitError, line
from explainkit.graph.cached import Cached
from explainkit.graph.receptive_field import KEEP, Span, receptive_field
from explainkit.graph.tape import RecordedForward, recording
from explainkit.isolation import preserve_generators
from explainkit.layer_tensors import LayerTensor
from explainkit.layers import Members, capture, get_layer, members_of, single, versions_of
from explainkit.methods.cam.layout import Layout, PatchGrid

Placement = Literal["auto", "receptive_field", "stretch", "layer"]

PROBES = 4
"""Random images: what is dead in one is alive in another."""

SHARED = 16
"""Cells whose receptive fields are averaged where all have the same shape."""

V = TypeVar("V")

State = list[Any]

Draw = Callable[[Tensor], Tensor]
"""Draws maps ``[batch, height, width]`` of cells, ``[batch, image height, image width]``."""


@dataclass(frozen=True, eq=False)
class Sight:
    """What a layer sees of the image.

    Attributes:
        spans: The receptive fields of its rows and of its columns; None if they are unknown, as in
            volumes.
        pixels: The pixels that it depends on, bool ``[image height, image width]``, or of a volume.
        refusal: Why the model did not run on random images, so that this is not known; or "".
    """

    spans: tuple[Span, Span] | None
    pixels: Tensor
    refusal: str = ""

    def off_center(self, patch_grid: PatchGrid) -> bool:
        """Whether a cell's center is more than half a cell away from the stretched cell's."""
        if self.spans is None:
            return False
        sides = zip(self.spans, patch_grid, self.pixels.shape, strict=True)
        return any(
            abs(span.center(i) - even.center(i)) > even.jump / 2
            for span, count, length in sides
            for even in [_evenly(count, length)]
            for i in (0, count - 1)
        )


@dataclass(frozen=True, eq=False)
class LayerView:
    """What a layer sees of the image, and what the scores read of the layer.

    Attributes:
        model: What a method is called with.
        path: Dotted path of the layer.
        layout: How its output covers the image.
        images: ``[batch, channel, height, width]``; only their shape, dtype and device matter.
        state: The state of the model's weights, for which all this is found once.
    """

    model: nn.Module
    path: str
    layout: Layout
    images: Tensor
    state: State

    def sight(self) -> Sight:
        """What the layer sees."""
        return _once(_sights, self._network, self.state, self._key, lambda: _sight(self))

    def read(self) -> Tensor:
        """The cells that the scores depend on, bool ``[height, width]``; all if unknown."""
        return self._reading()[0]

    def refusal(self) -> str:
        """Why the model did not run on random images; "" if it did."""
        return self.sight().refusal or self._reading()[1]

    def _reading(self) -> tuple[Tensor, str]:
        model = self.model
        if isinstance(model, ScoreModel) and model.reads_logits_only:

            def find() -> tuple[Tensor, str]:
                logits = ScoreModel(
                    model.module, outputs=model.outputs, owner=model.owner, members=model.members
                )
                return _read(replace(self, model=logits))

            key = model.outputs.output, self._key
            return _once(_reads, self._network, self.state, key, find)
        # a function of the output lives for one call, and so does what is known of it
        return _once(_reads, model, self.state, self._key, lambda: _read(self))

    def fields(self) -> Draw | None:
        """Draws cells on their receptive fields; None if that would take too much memory."""
        return _once(_draws, self._network, self.state, self._key, lambda: _fields(self))

    @property
    def _network(self) -> nn.Module:
        return self.model.module if isinstance(self.model, ScoreModel) else self.model

    @property
    def _key(self) -> Any:
        images = self.images
        return self.path, self.layout, images.shape[1:], images.dtype, images.device

    def probes(self) -> Iterator[tuple[Tensor, Tensor, RecordedForward]]:
        """Runs the model on random images, one at a time, always the same.

        Yields:
            The layer's output; the same as ``[1, channel, height, width]``; the forward.
        """
        for image in _noise(self.images):
            leaf = image.requires_grad_()
            with torch.enable_grad(), recording(KEEP) as tape:
                with capture(unwrapped(self.model), [self.path], count=1) as calls:
                    scores = self.model(leaf)
                value = single(calls[self.path], self.path)
                cells = self.layout.to_nchw(value)
            yield value, cells, RecordedForward(leaf, scores, tape.records)

    def scores(self, change: Callable[[Tensor], None]) -> Tensor:
        """The scores of a random image after a change in place of the layer's cells."""

        def changed(value: Tensor) -> Tensor:
            value = value.clone()
            change(self.layout.to_nchw(value))  # a view
            return value

        one = LayerTensor.of(self.path)
        hook = one.hook(get_layer(unwrapped(self.model), one.layer), changed, 1)
        try:
            with torch.no_grad():
                found: Tensor = self.model(_noise(self.images)[0])
        finally:
            hook.remove()
        return found

    def output(self, change: Callable[[Tensor], None]) -> Tensor:
        """The layer's output for a random image after a change in place of the image."""
        image = _noise(self.images)[0]
        change(image)
        with torch.no_grad(), capture(unwrapped(self.model), [self.path], count=1) as calls:
            self.model(image)
        return single(calls[self.path], self.path)


_sights, _reads = Cached[Sight](), Cached[tuple[Tensor, str]]()
_draws = Cached[Draw | None]()


def _once(cache: Cached[V], model: nn.Module, state: State, key: Any, find: Callable[[], V]) -> V:
    """A result that is found once while the model is alive and its weights stay."""

    def found() -> V:
        with preserve_generators(model):
            return find()

    return cache.once(model, key, found, state)


def state_of(model: nn.Module) -> State:
    """Differs once a module or a weight has been replaced or written to; read once in a call."""
    if isinstance(model, ScoreModel):
        if state_of not in model.found:
            model.found[state_of] = _state(model.members)
        found: State = model.found[state_of]
        return found
    return _state(members_of(model))


def _state(members: Members) -> State:
    tensors = [*members.parameters, *members.buffers]
    pointers = [tensor.data_ptr() for tensor in tensors if tensor.layout == torch.strided]
    return [[*map(type, members.modules)], pointers, versions_of(tensors)]


def _noise(images: Tensor) -> Tensor:
    """Random images with the spectrum of natural ones, ``[PROBES, 1, channel, height, width]``.

    Their amplitude falls with the frequency f as 1/f (Field, 1987, doi:10.1364/JOSAA.4.002379).
    Mean 0 and standard deviation ½ are those of a single image of low contrast after the usual
    normalization.
    """
    shape = (PROBES, 1, *images.shape[1:])
    white = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    axes = tuple(range(3, len(shape)))
    grid = torch.meshgrid(*map(torch.fft.fftfreq, shape[3:]), indexing="ij")
    frequency = reduce(torch.hypot, grid)
    frequency[(0,) * len(axes)] = torch.inf  # no constant part
    noise = torch.fft.ifftn(torch.fft.fftn(white, dim=axes) / frequency, dim=axes).real
    scale = noise.square().mean(axes, keepdim=True).sqrt().clamp(min=1e-6)
    images_like: Tensor = (noise / scale / 2).to(images)
    return images_like


def _sight(view: LayerView) -> Sight:
    everything = torch.ones_like(view.images[0, 0], dtype=torch.bool)
    seen, spans = ~everything, None
    try:
        for number, (_, cells, forward) in enumerate(view.probes()):
            if not cells.requires_grad:
                return Sight(None, everything)
            if not number and cells.dim() == 4:
                spans = receptive_field(cells, (2, 3), forward)
            seen |= _reached(cells, forward.inputs)[0].any(0)
            if seen.all():
                return Sight(spans, everything)
        seen |= ~_inert(~seen, view.output)
        # a dead layer sees nothing, and is shown where it would
        return Sight(spans, seen if seen.any() else everything)
    except Exception as error:  # noqa: BLE001 - a model may refuse noise in any way
        return Sight(None, everything, _why(error))


def _read(view: LayerView) -> tuple[Tensor, str]:
    """The cells that the scores depend on, and why that is not known, or ""."""
    everything = torch.ones(view.layout.patch_grid, dtype=torch.bool, device=view.images.device)
    read = ~everything
    try:
        for value, _, forward in view.probes():
            if not (value.requires_grad and forward.scores.requires_grad):
                return everything, ""
            read |= view.layout.to_nchw(_reached(forward.scores, value))[0].any(0)
            if read.all():
                return everything, ""
        read |= ~_inert(~read, view.scores)
        # a layer aside, which no score reads, is shown for itself
        return (read if read.any() else everything), ""
    except Exception as error:  # noqa: BLE001 - a model may refuse noise in any way
        return everything, _why(error)


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ExplainkitError) else line(error)


def _reached(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Which inputs have a gradient, of the shape of the inputs; NaN counts as one."""
    # not constant weights: probabilities always sum to one
    weights = torch.arange(outputs.numel(), device=outputs.device).cos().view(outputs.shape)
    (slope,) = torch.autograd.grad(outputs, inputs, weights.to(outputs), allow_unused=True)
    return torch.zeros_like(inputs, dtype=torch.bool) if slope is None else slope != 0


def _inert(suspects: Tensor, result: Callable[[Callable[[Tensor], None]], Tensor]) -> Tensor:
    """The suspects that have no effect: all of them, else whole rows, columns and slices.

    No gradient is not enough: a maximum has one at a single position.

    Args:
        suspects: bool ``[height, width]``, or of a volume.
        result: What depends on them, after a change in place of ``[1, channel, height, width]``.
    """

    def changed(where: Tensor) -> list[Tensor]:
        def change(values: Tensor, sign: float) -> None:
            noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
            values += sign * 10 * values.abs().max() * noise.to(values) * where

        return [result(partial(change, sign=sign)) for sign in (1, -1)]

    clean = changed(torch.zeros_like(suspects))

    def inert(where: Tensor) -> bool:
        return all(map(torch.equal, changed(where), clean))

    if inert(suspects):
        return suspects
    found = torch.zeros_like(suspects)
    for axis, length in enumerate(suspects.shape):
        for i in range(length):
            line = torch.zeros_like(suspects)
            line.select(axis, i).copy_(suspects.select(axis, i))
            if line.any() and inert(line):
                found |= line
    return found


def _fields(view: LayerView) -> Draw | None:
    spans = view.sight().spans
    if spans is not None and all(float(v).is_integer() for s in spans for v in (s.jump, s.first)):
        inside = [
            [i for i in range(count) if span.first + span.jump * i >= 0
             and span.last + span.jump * i < length]
            for span, count, length in zip(
                spans, view.layout.patch_grid, view.images.shape[2:], strict=True
            )
        ]  # fmt: skip
        if all(inside):
            return _shared_field(view, spans, *inside)
    if view.layout.patch_grid[0] * view.layout.patch_grid[1] * view.images[0, 0].nbytes > BUDGET:
        return None
    return _own_fields(view, spans)


def _shared_field(
    view: LayerView, spans: tuple[Span, Span], rows: Sequence[int], columns: Sequence[int]
) -> Draw:
    """Draws every cell on the same field, shifted: the mean of those inside of the image.

    The field of a cell at the border is cut there and scaled to 1 again.
    """
    pixels = view.sight().pixels
    (top, left), (high, wide), jumps = (
        tuple(int(getattr(span, name)) for span in spans) for name in ("first", "last", "jump")
    )
    size = high - top + 1, wide - left + 1
    cells = [(i, j) for i in rows for j in columns]
    chosen = cells[:: -(-len(cells) // SHARED)]
    field = sum(
        weights[top + i * jumps[0] :, left + j * jumps[1] :][: size[0], : size[1]]
        for (i, j), weights in _slopes(view, chosen)
    )
    assert isinstance(field, Tensor)
    field = _normalized(field[None], torch.ones_like(field[None]))[None]
    # the fields of all cells together lie this far beyond the image
    grid = view.layout.patch_grid
    ends = [
        (-first, first + jump * (count - 1) + extent - length)
        for first, jump, count, extent, length in zip(
            (top, left), jumps, grid, size, pixels.shape, strict=True
        )
    ]
    beyond = [*ends[1], *ends[0]]
    within = [-side for side in beyond]
    share = F.conv2d(F.pad(pixels[None, None].to(field), beyond), field, stride=jumps)

    def draw(maps: Tensor) -> Tensor:
        scaled = torch.where(share > 0, maps[:, None] / share.to(maps), 0)
        drawn = F.pad(F.conv_transpose2d(scaled, field.to(maps), stride=jumps), within)
        return torch.where(pixels, drawn[:, 0], 0)

    return draw


def _own_fields(view: LayerView, spans: tuple[Span, Span] | None) -> Draw:
    """Draws each cell on a field of its own."""
    pixels, grid = view.sight().pixels, view.layout.patch_grid
    cells = [(i, j) for i in range(grid[0]) for j in range(grid[1])]
    fields = torch.zeros(len(cells), *pixels.shape, device=pixels.device)
    for (i, j), weights in _slopes(view, cells):
        fields[i * grid[1] + j] += weights
    sides = zip(spans or map(_evenly, grid, pixels.shape), grid, pixels.shape, strict=True)
    rows, columns = (_covered(span, count, length).to(fields) for span, count, length in sides)
    boxes = torch.einsum("iy,jx->ijyx", rows, columns).flatten(0, 1)
    fields = _normalized(fields * pixels, boxes * pixels).flatten(1)

    def draw(maps: Tensor) -> Tensor:
        return (maps.flatten(1) @ fields.to(maps)).view(len(maps), *pixels.shape)

    return draw


def _slopes(
    view: LayerView, cells: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """``Σ_c |∂ Σ_k A_k[cell] / ∂x_c|`` of each cell, ``[height, width]``, for every probe."""
    for _, values, forward in view.probes():
        sums = values[0].sum(0)
        for cell in cells:
            (slope,) = torch.autograd.grad(sums[cell], forward.inputs, retain_graph=True)
            slope = slope if slope.dtype == torch.float64 else slope.float()
            yield cell, slope[0].abs().sum(0).nan_to_num(0, 0, 0)


def _normalized(fields: Tensor, boxes: Tensor) -> Tensor:
    """Fields ``[n, height, width]`` that sum to 1; where the gradient is zero, boxes that do."""
    fields = torch.where(fields.sum((1, 2), keepdim=True) > 0, fields, boxes)
    total = fields.sum((1, 2), keepdim=True)
    return fields / torch.where(total > 0, total, 1)


def _evenly(count: int, length: int) -> Span:
    """Where stretching puts ``count`` cells on ``length`` pixels."""
    return Span(length / count, 0, length / count - 1)


def _covered(span: Span, count: int, length: int) -> Tensor:
    """Which of ``length`` pixels each of ``count`` cells covers, bool ``[count, length]``."""
    starts = span.first + span.jump * torch.arange(count)[:, None]
    pixels = torch.arange(length)
    return (pixels > starts - 1) & (pixels < starts + span.last - span.first + 1)
