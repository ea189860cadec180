"""Explanations made by hand, and hostile texts."""

import torch

from explainkit.results.explanation import Explanation

DESKTOP, PHONE = (1280, 900, 1.0, False), (390, 844, 2.0, True)
"""Width, height, device pixels per CSS pixel, and whether it is a phone."""

HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "]]>", "<!--", "-->",
    "\u2028\u2029", "'\"`&amp;&lt;", "javascript:alert(1)", "{{7*7}}", "${alert(1)}", "\x00\x07",
    "\ud800", "\u202etxt.exe", "<svg/onload=alert(1)>", "&#x3c;b&#x3e;", "\\u003cscript\\u003e",
    "<style>*{display:none}</style>", "<base href=//evil.example>", "<meta http-equiv=refresh>",
    "<iframe src=//evil.example>", "a" * 3000, "\t", " ", "\n", "</title>", "</style>", "</textarea>",
    "<link rel=stylesheet href=//evil.example>", "<!doctype html>", "<a href=//evil.example>x</a>",
]  # fmt: skip
HOSTILE += [f"{first}{second}" for first in HOSTILE[:9] for second in HOSTILE[:8]][
    : 100 - len(HOSTILE)
]


def explained(count=2, side=6, classes=3, channels=1, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    fields = {
        "inputs": torch.rand(count, channels, side, side, generator=generator),
        "attribution": draw(count, channels, side, side),
        "target": torch.arange(count) % classes,
        "score": draw(count),
        "logits": draw(count, classes),
        "method": "explainkit/saliency",
        "params": {"absolute": False},
        "model": "some.Net",
        "versions": {"explainkit": "0.1.0"},
    }
    return Explanation(**fields | changes)
