"""Colors and short names of verdicts, for bars that can be read in color, in gray and in words."""

SHORT = {
    "supported": "supported",
    "partly supported": "partly",
    "not class-specific": "any class",
    "not supported: edges": "edges",
    "not supported: center": "center",
    "not supported: moved": "moved",
    "cannot be judged": "not judged",
    "low power on this network": "low power",
    "not explained": "not explained",
}
"""Each verdict in a word or two, the best first."""

FILLS = {
    "supported": "#1b7f4b",
    "partly supported": "#5fb586",
    "not class-specific": "#dcaa52",
    "not supported: edges": "#eac084",
    "not supported: center": "#f2d2a8",
    "not supported: moved": "#f8e1da",
    "cannot be judged": "#d9dbe3",
    "low power on this network": "#d9dbe3",
    "not explained": "#eef0f4",
}
"""The color of each verdict's part of a bar: the better, the darker, which also gray shows."""


HATCHED = ("cannot be judged", "low power on this network", "not explained")
"""Verdicts that say nothing about the map, whose parts of a bar are hatched."""


def ink_on(fill: str) -> str:
    """The color of text on a color: white or nearly black, whichever has more contrast.

    Examples:
        >>> ink_on("#1b7f4b"), ink_on("#f8e1da")
        ('#ffffff', '#1c1c28')
    """
    return "#ffffff" if luminance(fill) < 0.18 else "#1c1c28"


def luminance(color: str) -> float:
    """Relative luminance of a color such as ``"#3f8f63"``, from 0 to 1.

    References:
        Web Content Accessibility Guidelines 2.2, https://www.w3.org/TR/WCAG22/.
    """
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
