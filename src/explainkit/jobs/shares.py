"""Which part of a job's shards this process computes."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from explainkit.errors import InputError

TORCHRUN = ("RANK", "WORLD_SIZE")
"""A process's number and the number of processes, as torchrun sets them."""

SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
"""As SLURM sets them in the tasks of an array."""

KUBERNETES = "JOB_COMPLETION_INDEX"
"""The number of a pod of an indexed job; Kubernetes does not tell a pod how many there are."""


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
        text: ``"i/n"`` with i from 0 to n - 1; None: as torchrun or SLURM say, or all shards.
        environment: The environment variables.

    Raises:
        InputError: The text or a variable is not of this form, or this is a pod of an indexed job
            of Kubernetes, which knows its number alone.

    Examples:
        >>> share_of("2/4"), share_of(None, {"RANK": "1", "WORLD_SIZE": "2"}), share_of(None, {})
        (Share(index=2, count=4), Share(index=1, count=2), Share(index=0, count=1))
    """
    if text is not None:
        if not (found := re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)):
            raise InputError(f"shard: expected i/n such as 0/4, got {text!r}")
        return _checked("shard", int(found[1]), int(found[2]))
    if TORCHRUN[0] in environment:
        return _checked(", ".join(TORCHRUN), *_numbers(environment, TORCHRUN))
    if SLURM[0] in environment:
        return _of_array(environment)
    if KUBERNETES in environment:
        raise InputError(
            f"{KUBERNETES} is set, but Kubernetes does not tell the number of pods: give it with "
            f"--shard '$({KUBERNETES})/n', where n is the job's completions"
        )
    return Share()


def _of_array(environment: Mapping[str, str]) -> Share:
    """The share of a task of a SLURM array such as 0-63, 1-64 or 0-60:4."""
    task, count = _numbers(environment, SLURM)
    given = [f"SLURM_ARRAY_TASK_{name}" for name in ("MIN", "STEP", "MAX")]
    found = {name: _numbers(environment, [name])[0] for name in given if name in environment}
    first, step = found.get(given[0], 0), max(found.get(given[1], 1), 1)
    last = first + (count - 1) * step
    if found.get(given[2], last) != last or (task - first) % step:
        raise InputError(
            f"SLURM_ARRAY_TASK_ID: expected one of {count} tasks at equal distances, such as "
            f"--array=0-{count - 1}, got task {task} of other ones: give each its --shard i/n"
        )
    return _checked(", ".join(SLURM), (task - first) // step, count)


def _numbers(environment: Mapping[str, str], names: Sequence[str]) -> list[int]:
    """The values of some variables."""
    for name in names:
        if name not in environment:
            raise InputError(
                f"{names[0]} is set without {name}, so that the number of processes is unknown: "
                f"set {name}, or give --shard i/n"
            )
        if not re.fullmatch(r"\d+", environment[name], re.ASCII):
            raise InputError(f"{name}: expected a whole number, got {environment[name]!r}")
    return [int(environment[name]) for name in names]


def _checked(name: str, index: int, count: int) -> Share:
    if not 0 <= index < count:
        raise InputError(
            f"{name}: expected i/n with i from 0 to n - 1, got {index}/{count}"
            + (f": the last one is {count - 1}/{count}" if index == count > 0 else "")
        )
    return Share(index, count)
