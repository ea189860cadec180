"""The page of a report: static HTML that shows its images by itself, and data for the script."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from PIL import Image

from explainkit.render.figure import overlay
from explainkit.render.heatmap import DIVERGING, SEQUENTIAL, color, scale
from explainkit.render.report.content import (
    SCALINGS,
    Content,
    ModelPrediction,
    clean,
    explained_class,
    facts,
    limits,
    number,
    per_image,
    scaling_titles,
)
from explainkit.render.report.reproduce import call
from explainkit.render.report.sheets import ROOM, Packed, SheetGrid, data_uri, pack

_FEW = 16
"""Images up to which the index needs no bar to scroll."""

_SMALL = 40_000
"""Pixels up to which the overlays that need no script are exact."""


def page(content: Content, command: str | None) -> str:
    """The whole file."""
    first = content.explanations[0]
    height, width = first.inputs.shape[-2:]
    grid = SheetGrid.of(len(first), width, height)
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    size = sum(maps.size for maps in content.maps) * 4
    packed = [pack(maps, "f4" if size <= ROOM else "i2") for maps in content.maps]
    title = _title(content)
    many = len(first) > 1
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{_text(title)}</title>",
        f"<style>{style}</style></head><body>",
        f"<header><h1>{_text(title)}</h1><p>{_text(_subtitle(content))}</p>",
        *_warnings(content),
        "</header><main>",
        *(_index(content) if many else []),
        *_viewer(content, grid),
        *_record(content, command),
        "</main>",
        "<footer>This file is complete: it loads nothing.</footer>",
        _json("data", _data(content, grid, packed)),
        *(
            f'<script type="text/plain" id="values-{m}">{one.text}</script>'
            for m, one in enumerate(packed)
        ),
        f"<script>{script}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _asset(name: str) -> str:
    return (files("explainkit.render.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A content-security source that admits this text and nothing else."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _text(text: str) -> str:
    """Any text, escaped; what can't be written as UTF-8 or seen is replaced."""
    return escape(clean(text), quote=True)


def _json(name: str, data: Any) -> str:
    """Data for the script; no text in it can end the element or begin another."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def short(name: str) -> str:
    """The last part of a qualified name."""
    return name.rpartition("/")[2].rpartition(".")[2]


def _title(content: Content) -> str:
    methods = list(dict.fromkeys(short(one.method) for one in content.explanations))
    models = list(dict.fromkeys(one.model for one in content.explanations))
    shown = ", ".join(methods) if len(methods) < 4 else f"{len(methods)} methods"
    return f"{shown} of {' and '.join(models)}"


def _subtitle(content: Content) -> str:
    height, width = content.maps[0].shape[1:]
    count = len(content.images)
    known = [
        (label, read)
        for label, read in zip(content.labels, content.readings[0].read, strict=True)
        if label is not None
    ]
    parts = [f"{count:,} images"] if count > 1 else []
    parts.append(f"{width} × {height} pixels")
    if len(known) > 1:
        right = sum(label == read for label, read in known)
        parts.append(f"{right:,} of {len(known):,} read rightly")
    return " · ".join([*parts, *([content.remark] if content.remark else [])])


def _warnings(content: Content) -> Iterator[str]:
    found = [
        (short(one.method), text)
        for one in content.explanations
        for text in one.diagnostics.get("warnings", [])
    ]
    if found:
        yield '<ul class="warnings" aria-label="Warnings">'
        for method, text in found:
            yield f"<li><strong>{_text(method)}</strong>: {_text(text)}</li>"
        yield "</ul>"


def _index(content: Content) -> Iterator[str]:
    classes = sorted({c for c in content.labels if c is not None} | set(content.readings[0].read))
    options = "".join(
        f'<option value="{c}">{_text(content.class_name(c))}</option>' for c in classes
    )
    known = any(label is not None for label in content.labels)
    yield '<section id="index" aria-labeledby="index-title"><h2 id="index-title">Images</h2>'
    yield '<form class="filters js">'
    yield (
        '<label>Sort by <select id="sort"><option value="order">order</option>'
        '<option value="sure">surest first</option><option value="unsure">least sure first</option>'
        '<option value="read">class read</option>'
        + ('<option value="true">true class</option>' if known else "")
        + "</select></label>"
    )
    if known:
        yield (
            '<label>ModelPrediction <select id="right"><option value="">any</option>'
            '<option value="right">right</option><option value="wrong">wrong</option>'
            '<option value="unknown">unknown</option></select></label>'
            f'<label>True class <select id="true"><option value="">any</option>{options}</select>'
            "</label>"
        )
    choice = f'<select id="read"><option value="">any</option>{options}</select>'
    yield (
        f"<label>Read as {choice}</label>"
        '<label>Confidence from <input id="least" type="number" min="0" max="1" step="0.05" '
        'value="0"></label><label>to <input id="most" type="number" min="0" max="1" step="0.05" '
        'value="1"></label><output id="found"></output></form>'
    )
    short = ' class="short"' if len(content.images) <= _FEW else ""
    yield f'<ol id="cards"{short} tabindex="0" aria-label="Images">'
    for i in range(len(content.images)):
        words, kind = verdict(content, content.readings[0], i)
        sure = content.readings[0].confidence[i]
        yield (
            f'<li><a href="#image-{i + 1}"><b><bdi>{_text(content.names[i])}</bdi></b>'
            f'<span class="{kind}">{words}</span>'
            f"<small>{'' if sure is None else f'{sure:.2f}'}</small></a></li>"
        )
    yield "</ol></section>"


def verdict(content: Content, reading: ModelPrediction, row: int) -> tuple[str, str]:
    """What an image was read as, in HTML, and whether that is right, wrong or unknown."""
    if reading.confidence[row] is None:
        return "one output", "unknown"
    read, label = reading.read[row], content.labels[row]
    seen = f"<bdi>{_text(content.class_name(read))}</bdi>"
    if label is None:
        return f"read as {seen}", "unknown"
    if label == read:
        return f"{seen}, read rightly", "right"
    return f"<bdi>{_text(content.class_name(label))}</bdi>, read as {seen}", "wrong"


def _viewer(content: Content, grid: SheetGrid) -> Iterator[str]:
    count = len(content.images)
    words, kind = verdict(content, content.readings[0], 0)
    layout = f"{'many' if count > 1 else ''} {'single' if len(content.maps) == 1 else ''}".strip()
    yield f'<section id="viewer" class="{layout}" aria-labeledby="name"><div class="heading">'
    if count > 1:
        yield '<h2 id="name" tabindex="-1"><bdi>All images</bdi></h2><p id="verdict"></p>'
        yield (
            '<p class="turn js"><button type="button" id="back">← Previous</button>'
            '<button type="button" id="next">Next →</button></p>'
        )
    else:
        yield f'<h2 id="name" tabindex="-1"><bdi>{_text(content.names[0])}</bdi></h2>'
        yield f'<p id="verdict" class="{kind}">{words}</p>'
    yield '</div><div class="panels">'
    alt = f"{count} images" if count > 1 else content.names[0]
    yield _panel("image", "Image", "", grid, content.images, f"The image: {alt}", exact=True)
    for m, one in enumerate(content.explanations):
        images = [
            np.rint(255 * overlay(image / 255, torch.from_numpy(values))).astype(np.uint8)
            for image, values in zip(content.images, content.maps[m], strict=True)
        ]
        targets = list(dict.fromkeys(one.target_name(i) for i in range(min(count, 3))))
        explained = f"explains <bdi>{_text(targets[0])}</bdi>" if count == 1 else ""
        name = short(one.method)
        if len({other.model for other in content.explanations}) > 1:
            name += f" of {short(one.model)}"
        yield _panel(
            f"map-{m}", name, explained, grid, images,
            f"{name} over the image, scaled {scaling_titles()[SCALINGS[0]]}: {alt}",
            exact=content.maps[m].size <= _SMALL, bar=_bar(content.maps[m]),
        )  # fmt: skip
    yield "</div>"
    yield from _controls()
    yield '<div class="facts">'
    yield (
        '<section class="js" aria-labeledby="pointer-title"><h3 id="pointer-title">Under the '
        'pointer</h3><table id="pointer"></table>'
        '<p class="hint">Point at an image, or focus one and use the arrow keys.</p>'
        '<p class="unseen" role="status" id="spoken"></p></section>'
    )
    for r, reading in enumerate(content.readings):
        title = "Prediction" if len(content.readings) == 1 else f"Prediction of {reading.model}"
        rows = "".join(_bars(content, reading, 0)) if count == 1 else ""
        hidden = "" if rows else ' class="js"'
        yield (
            f"<section{hidden}><h3>{_text(title)}</h3>"
            f'<table class="bars" id="bars-{r}">{rows}</table></section>'
        )
    yield (
        '<section class="js"><h3>Numbers of this image</h3><table id="numbers"></table></section>'
        "</div></section>"
    )


def _panel(
    name: str, title: str, note: str, grid: SheetGrid, images: Sequence[Any], alt: str, *, exact: bool,
    bar: str = "",
) -> str:  # fmt: skip
    sheets = "".join(
        f'<img class="sheet" alt="{_text(alt)}" width="{sheet.width}" height="{sheet.height}" '
        f'src="{data_uri(sheet, exact=exact)}">'
        for sheet in grid.sheets(images)
    )
    return (
        f'<figure id="{name}"><figcaption><b>{_text(title)}</b> <span class="note">{note}</span>'
        f'</figcaption><div class="stage">{sheets}</div><div class="bar">{bar}</div></figure>'
    )


def _bar(maps: Any) -> str:
    """The color bar that needs no script, for the first of the scalings."""
    ramp = data_uri(Image.fromarray(color(np.linspace(-1, 1, 256)[None], DIVERGING)))
    full = float(scale(torch.from_numpy(maps[:1]), SCALINGS[0]).limits[0])
    ticks = [number(tick) for tick in (-full, 0.0, full)]
    if len(maps) > 1:
        ticks = ["−", "0", f"+, each image {scaling_titles()[SCALINGS[0]]}"]
    return f'<img alt="" src="{ramp}"><div>{"".join(f"<span>{t}</span>" for t in ticks)}</div>'


def _controls() -> Iterator[str]:
    def switch(name: str, title: str, choices: Mapping[str, str]) -> str:
        buttons = "".join(
            f'<label><input type="radio" name="{name}" value="{value}"'
            f"{' checked' if i == 0 else ''}>{words}</label>"
            for i, (value, words) in enumerate(choices.items())
        )
        return f'<fieldset><legend>{title}</legend><div class="switch">{buttons}</div></fieldset>'

    rules = "".join(
        f'<option value="{rule}">{words}</option>' for rule, words in scaling_titles().items()
    )
    yield '<form class="controls js" autocomplete="off" aria-label="How maps are shown">'
    yield switch("view", "Show", {"over": "over the image", "map": "map alone"})
    yield switch(
        "sign", "Sign", {"signed": "signed", "positive": "for only", "absolute": "size only"}
    )
    yield f'<label>Full color <select id="scaling">{rules}</select></label>'
    yield (
        '<label>Opacity <output id="opacity-value">85 %</output><input id="opacity" type="range" '
        'min="0" max="100" value="85"></label>'
        '<label>Threshold <output id="threshold-value">0 %</output><input id="threshold" '
        'type="range" min="0" max="100" value="0"></label></form>'
    )


def _bars(content: Content, reading: ModelPrediction, row: int) -> Iterator[str]:
    """Probabilities of the likeliest classes, as the script writes them too."""
    targets = {explained_class(one, row) for one in content.explanations}
    if not reading.top[row]:
        score = float(content.explanations[0].score[row])
        yield f"<tr><th>score</th><td>{number(score)}</td></tr>"
    for label, share in reading.top[row]:
        kinds = " ".join(
            [
                *(["explained"] if label in targets else []),
                *(["true"] if label == content.labels[row] else []),
            ]
        )
        yield (
            f'<tr class="{kinds}"><th scope="row"><bdi>{_text(content.class_name(label))}</bdi>'
            f'</th><td><svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect width="{100 * share:.2f}" height="8"/></svg></td><td>{share:.3f}</td></tr>'
        )


def _record(content: Content, command: str | None) -> Iterator[str]:
    yield '<section id="record" aria-labeledby="record-title"><h2 id="record-title">'
    yield "How it was made</h2>"
    if command:
        yield f"<p>This command makes it again:</p><pre><code>{_text(command)}</code></pre>"
    for one in content.explanations:
        opened = " open" if len(content.explanations) == 1 else ""
        rows = "".join(
            f'<tr><th scope="row">{_text(name)}</th><td>{_text(text)}</td></tr>'
            for name, text in facts(one).items()
        )
        yield (
            f"<details{opened}><summary>{_text(one.method)} of {_text(one.model)}</summary>"
            f"<table>{rows}</table><p>In Python:</p><pre><code>{_text(call(one))}</code></pre>"
            "</details>"
        )
    yield "</section>"


def _data(content: Content, grid: SheetGrid, packed: Sequence[Packed]) -> dict[str, Any]:
    """What the script needs to know."""
    ramp = np.linspace(0, 1, 256)
    return {
        "count": len(content.images),
        "grid": vars(grid),
        "names": content.names,
        "labels": content.labels,
        "classes": {
            str(c): content.class_name(c)
            for c in sorted(
                {c for reading in content.readings for row in reading.top for c, _ in row}
                | {c for c in content.labels if c is not None}
                | {int(c) for one in content.explanations for c in one.target if not one.expression}
            )
        },
        "readings": [
            {
                "read": reading.read,
                "confidence": [c if c is None else round(c, 4) for c in reading.confidence],
                "top": [[[c, round(share, 6)] for c, share in row] for row in reading.top],
            }
            for reading in content.readings
        ],
        "maps": [
            {
                "name": short(one.method),
                "target": [explained_class(one, i) for i in range(len(one))],
                "expression": one.expression,
                "one": content.readings[content.reading[m]].confidence[0] is None,
                "numbers": per_image(one),
                "limits": limits(content.maps[m]),
                "kind": packed[m].kind,
                "length": packed[m].length,
                "units": packed[m].units,
            }
            for m, one in enumerate(content.explanations)
        ],
        "colors": {
            "signed": _ramp(color(2 * ramp[None] - 1, DIVERGING)),
            "sequential": _ramp(color(ramp[None], SEQUENTIAL)),
        },
    }


def _ramp(rgb: Any) -> str:
    return base64.b64encode(rgb.tobytes()).decode("ascii")
