"""Parts of file names: readable, valid everywhere, and never the same for two things."""

import hashlib
from collections.abc import Collection, Sequence


def file_name(text: str) -> str:
    """A text as part of a file name; one that loses characters gets a digest, to stay unique.

    Examples:
        >>> file_name("sad"), file_name("sad - fear"), file_name("sad + fear")
        ('sad', 'sad_-_fear_514c9f38', 'sad_fear_2f4e4379')
    """
    words = "".join(c if c.isalnum() or c in "_-" else " " for c in text).split()
    name = "_".join(words)[:40]
    return name if name == text else f"{name}_{_digest(text)}"


def joined(names: Sequence[str], longest: int = 80) -> str:
    """Names as one part of a file name; a list that is cut ends in a digest of the whole list."""
    text = "-".join(names)
    return text if len(text) <= longest else f"{text[: longest - 9]}_{_digest(text)}"


def distinct(names: Sequence[str], endings: Collection[str] = ("",)) -> list[str]:
    """The names, repeated ones numbered.

    Upper and lower case count as the same, as on the file systems of macOS and Windows.

    Args:
        names: One for each thing.
        endings: What is appended to each name; all results differ.

    Examples:
        >>> distinct(["face", "me", "Face"])
        ['face', 'me', 'Face_2']
        >>> distinct(["cat", "cat_lrp"], endings=["", "_lrp"])
        ['cat', 'cat_lrp_2']
    """
    taken: set[str] = set()
    last: dict[str, int] = {}
    found = []
    for name in names:
        unique, number = name, last.get(name, 1)
        while not taken.isdisjoint(made := [(unique + end).casefold() for end in endings]):
            number += 1
            unique = f"{name}_{number}"
        last[name] = number
        taken.update(made)
        found.append(unique)
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
