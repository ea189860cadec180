"""The plan: sorted without holding everything, the same for everybody, divided into shares."""

import io
import random
import subprocess
import sys

import pytest

from explainkit.errors import DatasetError, InputError, StorageError
from explainkit.jobs import items
from explainkit.jobs.items import ids_in, read_items, write_items
from explainkit.jobs.locks import owning
from explainkit.jobs.shares import Share, share_of


def ids(count):
    return [f"n{i % 7}/image_{i:05d}.png" for i in range(count)]


def written(names, shard_size=3, **options):
    file = io.BytesIO()
    return write_items([(name, "") for name in names], file, shard_size, **options), file.getvalue()


def test_any_order_gives_the_same_list(monkeypatch):
    names = ids(100)
    known, data = written(sorted(names))
    random.Random(0).shuffle(names)
    assert written(names) == (known, data)
    monkeypatch.setattr(items, "IN_MEMORY", 8)  # sorted in parts, which are merged
    assert written(names) == (known, data)
    assert ids_in(data) == sorted(names)


def test_shards_are_ranges_of_bytes(tmp_path):
    known, data = written(ids(10), 4)
    (tmp_path / "items").write_bytes(data)
    parts = [
        read_items(tmp_path / "items", *known.offsets[i : i + 2])
        for i in range(len(known.offsets) - 1)
    ]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert [one for part in parts for one in part] == sorted(ids(10))


def test_any_name_survives():
    names = [
        "a\nb",
        "tab\there",
        'quo"te',
        "back\\slash",
        "\udcff\udc00",
        "日本語",
        "a",
        " ",
        "\u2028",
    ]
    assert set(ids_in(written(names)[1])) == set(names)


def test_what_is_refused():
    with pytest.raises(DatasetError, match="'a' twice"):
        written(["a", "b", "a"], 1)
    with pytest.raises(DatasetError, match="'a' twice"):
        written(["b", "a", "a"], 9)
    with pytest.raises(DatasetError, match="found none"):
        written([])
    assert written(ids(10), limit=4)[0].count == 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_list():
    # a child, whose peak is its own
    code = (
        "import re\n"
        "from pathlib import Path\n"
        "from explainkit.jobs import items\n"
        "items.IN_MEMORY = 20_000\n"
        "class Sink:\n"
        "    def write(self, data): pass\n"
        "def peak(n):\n"
        "    items.write_items(((f'{i * 7919 % n:09d}', '') for i in range(n)), Sink(), 256)\n"
        # not ru_maxrss, which a child inherits from its parent
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) / 1024\n"
        "first = peak(20_000)\n"
        "print(peak(300_000) - first)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 8  # the ids as a list of strings take 20


def test_shares_cover_every_shard_once():
    for count in (1, 2, 5):
        found = [number for i in range(count) for number in Share(i, count).shards(13)]
        assert sorted(found) == list(range(13))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Share(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Share(3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"}, Share(1, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "1",
            },
            Share(3, 4),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "8",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_MAX": "12",
                "SLURM_ARRAY_TASK_STEP": "4",
            },
            Share(2, 4),
        ),
    ],
)
def test_shares_from_the_environment(environment, expected):
    assert share_of(None, environment) == expected
    assert share_of("1/2", environment) == Share(1, 2)


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("4/4", {}, "the last one is 3/4"),
        ("1", {}, "expected i/n"),
        ("-1/4", {}, "expected i/n"),
        (None, {"JOB_COMPLETION_INDEX": "1"}, r"--shard '\$\(JOB_COMPLETION_INDEX\)/n'"),
        (None, {"SLURM_ARRAY_TASK_ID": "1"}, "set SLURM_ARRAY_TASK_COUNT"),
        (None, {"RANK": "0"}, "set WORLD_SIZE"),
        (
            None,  # --array=1,5,7
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_MAX": "7",
                "SLURM_ARRAY_TASK_STEP": "1",
            },
            "such as --array=0-2",
        ),
        (None, {"RANK": "x", "WORLD_SIZE": "2"}, "whole number"),
        (None, {"RANK": "2", "WORLD_SIZE": "2"}, "0 to n - 1"),
    ],
)
def test_shares_that_are_refused(text, environment, message):
    with pytest.raises(InputError, match=message):
        share_of(text, environment)


def test_shares_of_one_number_work_side_by_side(tmp_path):
    with owning(tmp_path, Share(0, 2)), owning(tmp_path, Share(1, 2)):
        for other in (Share(0, 2), Share(0, 1), Share(0, 3)):
            with (
                pytest.raises(StorageError, match=r"process \d+ on .* works on"),
                owning(tmp_path, other),
            ):
                pass
    with owning(tmp_path, Share()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_dead_owner_is_replaced(tmp_path):
    code = (
        "import os, signal, sys, pathlib\n"
        "from explainkit.jobs.locks import owning\n"
        "from explainkit.jobs.shares import Share\n"
        "with owning(pathlib.Path(sys.argv[1]), Share()):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert (tmp_path / ".lock-0-of-1").exists()
    with owning(tmp_path, Share()):
        pass
