"""Attacks on jobs over data sets: kills, interrupts and full disks, at any moment.

``make attack-batch`` runs all; ``--small`` a few of each. Counted after each attack:

- torn: shards that are taken for finished although their bytes are not those of an undisturbed run,
  or that are found damaged;
- lost: shards that were finished before the attack, and are not now;
- twice: items that the store has more than once.

The same call then completes the store, which must be bit for bit that of an undisturbed run. Jobs
are forked from this process, which has imported everything: they start at once, and attacks meet
every part of them. The exit code is 1 if anything is wrong.
"""

import argparse
import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import explainkit as ek
from explainkit.adapters.preprocessing import Preprocessing
from explainkit.errors import StorageError
from explainkit.jobs.plan import PLAN
from explainkit.jobs.shards import check_tensors

IMAGES, SHARD, SIDE = 20, 4, 8
REFUSED, INTERRUPTED = 3, 130
"""Exit codes of a forked job."""


@dataclass
class Counts:
    """What was found after the attacks of one kind."""

    attack: str
    times: int = 0
    torn: int = 0
    lost: int = 0
    twice: int = 0
    differing: int = 0
    other: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        return bool(self.torn or self.lost or self.twice or self.differing or self.other)

    def __str__(self) -> str:
        return (
            f"| {self.attack} | {self.times} | {self.torn} | {self.lost} | {self.twice} "
            f"| {self.differing} |" + "".join(f"\n{text}" for text in self.other)
        )


class Arena:
    """Images, a model, and the store of an undisturbed run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.stores = itertools.count()
        (folder / "images").mkdir()
        pixels = np.random.default_rng(seed)
        for i in range(IMAGES):
            image = Image.fromarray(pixels.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
            image.save(folder / "images" / f"{i:02d}.png")
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        known = Preprocessing((), (0.5,) * 3, (0.25,) * 3)
        self.model = ek.adapt(net.eval(), preprocessing=known)
        whole = self.fresh()
        begin = time.monotonic()
        code = self.ended(self.job(whole))
        assert code == 0, code
        self.seconds = time.monotonic() - begin
        self.expected = finished(whole, Counts(""))
        assert len(self.expected) == IMAGES // SHARD

    def fresh(self) -> Path:
        """A folder for another store."""
        return self.folder / f"store {next(self.stores)}"

    def job(self, out: Path, workers: int = 1, before: Callable[[], object] = int) -> int:
        """Forks a process that runs the job; returns its id.

        Args:
            out: The store.
            workers: Of the job.
            before: Called in the process first.
        """
        sys.stdout.flush()
        if process := os.fork():
            return process
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()
            ek.batch(
                self.folder / "images", self.model, "smoothgrad", out, samples=4, workers=workers,
                threads=1, batch_size=SHARD, shard_size=SHARD,
            )  # fmt: skip
            code = 0
        except StorageError:
            code = REFUSED
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:  # noqa: BLE001 - said, and told by the exit code
            traceback.print_exc()
        finally:
            os._exit(code)

    @staticmethod
    def ended(process: int) -> int:
        """Waits for a process; its exit code, or the negative signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def check(self, out: Path, before: dict[int, str], counts: Counts) -> dict[int, str]:
        """Counts what is wrong with a store after an attack; returns its finished shards."""
        counts.times += 1
        found = finished(out, counts)
        counts.torn += sum(self.expected[number] != found[number] for number in found)
        counts.lost += len(before.keys() - found.keys())
        return found

    def complete(self, out: Path, counts: Counts) -> None:
        """Completes a store, and compares it with that of an undisturbed run."""
        if (code := self.ended(self.job(out))) != 0:
            counts.other.append(f"{out.name} can't be completed: exit code {code}")
        counts.differing += finished(out, counts) != self.expected

    def moment(self) -> float:
        """Seconds after which to attack: all of a run, and a little of what comes after."""
        return self.random.random() * self.seconds * 1.1


def finished(out: Path, counts: Counts) -> dict[int, str]:
    """The number of each finished shard, and the hash of its tensors; counts what is wrong."""
    if not (out / PLAN).exists():
        return {}
    store = ek.Store(out)
    found, ids = {}, Counter()
    for number in range(store.plan.shards):
        try:
            if (shard := store.shard(number)) is None:
                continue
            check_tensors(shard)
        except StorageError as error:
            counts.torn += 1
            counts.other.append(str(error))
            continue
        found[number] = shard.record["tensors_sha256"]
        ids.update(item.id for item in shard.items)
    counts.twice += sum(count > 1 for count in ids.values())
    return found


def kills(arena: Arena, times: int) -> Counts:
    """Kills jobs; each goes on with the store that the last one left, until that is complete."""
    counts = Counts("kill -9 of a job")
    out, before = arena.fresh(), {}
    while counts.times < times:
        process = arena.job(out)
        time.sleep(arena.moment())
        os.kill(process, signal.SIGKILL)
        killed = arena.ended(process) == -signal.SIGKILL
        if killed:
            before = arena.check(out, before, counts)
        if not killed or len(before) == len(arena.expected):
            arena.complete(out, counts)
            out, before = arena.fresh(), {}
    arena.complete(out, counts)
    return counts


def kills_of_workers(arena: Arena, times: int) -> Counts:
    """Kills workers of jobs with two of them; the job goes on by itself."""
    counts = Counts("kill -9 of a worker")
    while counts.times < times:
        out, before = arena.fresh(), {}
        process = arena.job(out, workers=2)
        attacked: set[int] = set()
        while os.waitpid(process, os.WNOHANG) == (0, 0):
            fresh = [one for one in workers_of(process) if one not in attacked]
            if not fresh or counts.times >= times:
                time.sleep(0.01)
                continue
            time.sleep(arena.random.random() * 4)  # imports torch, loads, computes, writes
            victim = arena.random.choice(fresh)
            attacked.add(victim)
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            before = arena.check(out, before, counts)
        arena.complete(out, counts)
    return counts


def workers_of(process: int) -> list[int]:
    """The ids of a job's workers."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [
            int(one)
            for one in children
            if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()
        ]
    except OSError:  # it has ended
        return []


def interrupts(arena: Arena, times: int) -> Counts:
    """Interrupts jobs, some of them twice."""
    counts = Counts("SIGINT, a third of them twice")
    out, before = arena.fresh(), {}
    while counts.times < times:
        process = arena.job(out)
        time.sleep(arena.moment())
        os.kill(process, signal.SIGINT)
        if arena.random.random() < 1 / 3:
            time.sleep(0.01)
            os.kill(process, signal.SIGINT)  # a process that has ended is not gone before a wait
        code = arena.ended(process)
        if code == INTERRUPTED:
            before = arena.check(out, before, counts)
            if left := list(out.glob("**/.part-*")):
                counts.other.append(f"{len(left)} drafts left")
        elif code not in {0, -signal.SIGINT}:  # the latter: before the job has begun
            counts.other.append(f"exit code {code} after SIGINT")
        if code == 0 or len(before) == len(arena.expected):
            arena.complete(out, counts)
            out, before = arena.fresh(), {}
    arena.complete(out, counts)
    return counts


def refused_calls(arena: Arena, step: int) -> Counts:
    """Lets each flush and each rename of a job fail in turn, as on a full disk."""
    counts = Counts("no space left, at each flush and rename in turn")
    for number in itertools.count(0, step):
        out = arena.fresh()
        code = arena.ended(arena.job(out, before=lambda number=number: fail_at(number)))
        if code == 0:  # it has fewer calls
            return counts
        if code != REFUSED:
            counts.other.append(f"exit code {code} when call {number} failed")
        arena.check(out, {}, counts)
        arena.complete(out, counts)
    raise AssertionError


def fail_at(number: int) -> None:
    """Lets one call of this process fail: flushes and renames, counted together."""
    left = itertools.count()

    def failing(call: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object) -> object:
            if next(left) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments)

        return instead

    os.fsync, Path.replace = failing(os.fsync), failing(Path.replace)


def full_disks(arena: Arena, times: int) -> Counts:
    """Runs jobs on disks that are too small, then gives them room."""
    counts = Counts("a disk that is full")
    whole = sum(path.stat().st_size for path in arena.fresh().parent.glob("store 0/**/*"))
    for _ in range(times):
        size = arena.random.randint(70_000, whole + 70_000)  # checks that 64 kB are free first
        with disk(arena.folder / "disk", size) as folder:
            out = folder / "store"
            code = arena.ended(arena.job(out))
            if code not in {0, REFUSED}:
                counts.other.append(f"exit code {code} on a disk of {size} bytes")
            arena.check(out, {}, counts)
            subprocess.run(["mount", "-o", "remount,size=16m", str(folder)], check=True)
            arena.complete(out, counts)
    return counts


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of some bytes."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may make disks."""
    try:
        with disk(folder / "disk", 1 << 16):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few of each, without workers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = options.small
    folder = Path(tempfile.mkdtemp())
    wrong = False
    try:
        arena = Arena(folder, options.seed)
        print("| attack | times | torn | lost | twice | other bits |\n| --- |" + " ---: |" * 5)
        series: list[Callable[[], Counts]] = [
            lambda: kills(arena, 4 if small else 100),
            lambda: interrupts(arena, 2 if small else 20),
            lambda: refused_calls(arena, 11 if small else 1),
        ]
        if not small:
            if can_mount(folder):
                series.append(lambda: full_disks(arena, 20))
            else:
                print("| a disk that is full: not tried, mount is not allowed | | | | | |")
            series.append(lambda: kills_of_workers(arena, 30))
        for attack in series:
            found = attack()
            wrong |= found.wrong
            print(found, flush=True)
    finally:
        shutil.rmtree(folder)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
