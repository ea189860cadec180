"""Which part of a job's shards this process computes."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from explainkit.errors import InputError

VARIABLES = (
    ("RANK", "WORLD_SIZE", ""),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETION_COUNT", ""),
)
"""Variables that give this process's number, the number of processes, and the first number, as
torchrun, SLURM's job arrays and Kubernetes' indexed jobs set them. Kubernetes sets no count: the
job's specification has to."""


@dataclass(frozen=True)
class Share:
    """Every ``count``-th shard, from shard ``index`` on.

    Examples:
        >>> list(Share(1, 3).shards(8))
        [1, 4, 7]
    """

    index: int = 0
    count: int = 1

    def shards(self, total: int) -> range:
        """The shards of this share."""
        return range(self.index, total, self.count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share_of(text: str | None, environment: Mapping[str, str] = os.environ) -> Share:
    """The share that ``--shard i/n`` names, or else the environment.

    Args:
        text: ``"i/n"`` with i from 0 to n - 1; None: the first complete pair of `VARIABLES`, or
            all shards.
        environment: The environment variables.

    Raises:
        InputError: The text or a variable is not of this form.

    Examples:
        >>> share_of("2/4"), share_of(None, {"RANK": "1", "WORLD_SIZE": "2"}), share_of(None, {})
        (Share(index=2, count=4), Share(index=1, count=2), Share(index=0, count=1))
    """
    if text is not None:
        if not (found := re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)):
            raise InputError(f"shard: expected i/n such as 0/4, got {text!r}")
        return _checked("shard", int(found[1]), int(found[2]))
    for index, count, first in VARIABLES:
        if index not in environment:
            continue
        if count not in environment:
            raise InputError(
                f"{index} is set without {count}, so that the number of processes is unknown: set "
                f"{count}, or give shard i/n"
            )
        numbers = [environment[index], environment[count], environment.get(first, "0")]
        if not all(re.fullmatch(r"\d+", number, re.ASCII) for number in numbers):
            raise InputError(f"{index}, {count}: expected whole numbers, got {', '.join(numbers)}")
        i, n, start = map(int, numbers)
        return _checked(f"{index}, {count}", i - start, n)
    return Share()


def _checked(name: str, index: int, count: int) -> Share:
    if not 0 <= index < count:
        raise InputError(
            f"{name}: expected i/n with i from 0 to n - 1, got {index}/{count}"
            + (f": the last one is {count - 1}/{count}" if index == count > 0 else "")
        )
    return Share(index, count)
