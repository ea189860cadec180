"""Files that several processes write: locks, drafts, and what is not a file."""

import os
import threading

import pytest

from explainkit.errors import StorageError
from explainkit.files import (
    _open_locked,
    check_writable,
    locked,
    read_regular,
    reserved,
    write_atomically,
)

posix = pytest.mark.skipif(os.name != "posix", reason="locks, pipes and devices as POSIX has them")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@posix
def test_a_lock_excludes_others_and_leaves_no_file(tmp_path):
    with locked(tmp_path / "lock", wait=False):
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
            pass
        assert names(tmp_path) == ["lock"]
    assert names(tmp_path) == []
    (tmp_path / "lock").touch()  # left by a killed process
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock", wait=False):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@posix
def test_those_who_wait_follow_one_by_one(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(50):
            with locked(tmp_path / "lock", wait=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (200, 1)
    assert names(tmp_path) == []


@posix
def test_a_draft_is_swept_by_the_next_writer_of_its_file_once_its_own_is_gone(tmp_path):
    hexadecimal = "0123456789abcdef"
    living = tmp_path / f".report.html-{hexadecimal}"
    (tmp_path / f".report.html-{hexadecimal[::-1]}").touch()
    (tmp_path / f".other.html-{hexadecimal}").touch()
    with _open_locked(living, "xb", wait=True):
        write_atomically(tmp_path / "report.html", b"new")
        assert names(tmp_path) == [f".other.html-{hexadecimal}", living.name, "report.html"]
    write_atomically(tmp_path / "report.html", b"new")
    assert names(tmp_path) == [f".other.html-{hexadecimal}", "report.html"]


@posix
@pytest.mark.timeout(20)
def test_what_might_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(tmp_path / path)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)


@posix
@pytest.mark.timeout(20)
def test_pipes_in_the_way_of_a_writer(tmp_path):
    os.mkfifo(tmp_path / ".report.html-0123456789abcdef")
    os.mkfifo(tmp_path / "lock")
    write_atomically(tmp_path / "report.html", b"new")
    assert (tmp_path / "report.html").read_bytes() == b"new"
    with pytest.raises(OSError, match=str(tmp_path)), locked(tmp_path / "lock", wait=True):
        pass


def test_a_reserved_folder_that_stays_empty_is_removed(tmp_path):
    lock = tmp_path / "out" / ".a.lock"
    with pytest.raises(KeyError), reserved(lock, StorageError):
        raise KeyError
    assert names(tmp_path) == []
    with reserved(lock, StorageError):
        (tmp_path / "out" / "mine").touch()
    assert names(tmp_path / "out") == ["mine"]
    (tmp_path / "empty").mkdir()
    with reserved(tmp_path / "empty" / "lock", StorageError):
        pass
    assert names(tmp_path) == ["empty", "out"]


def test_folders_that_can_be_written_are_left_as_they_are(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert names(tmp_path) == []


@posix
def test_a_full_disk_is_noticed(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            check_writable(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


@posix
def test_a_link_to_nothing_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "link")
