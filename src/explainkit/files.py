"""Files that other processes may read or write at the same time."""

import errno
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from explainkit.errors import ExplainkitError

_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What file systems that have no locks answer."""

_ROOM = 1 << 16
"""Bytes that must fit for a folder to count as writable: those of a small figure."""


def read_regular(path: Path) -> bytes:
    """Reads a file; a pipe or a device, which might never end, is refused.

    Raises:
        OSError: As raised by the system, or because it is not a regular file.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def write_file(path: str | Path, data: bytes, error: type[ExplainkitError]) -> Path:
    """Writes a file atomically, in a folder that is created if needed; returns its path.

    Raises:
        ExplainkitError: Of the given class, with the system's reason.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except (OSError, ValueError) as refused:  # ValueError: a path with a null character
        raise error(f"can't write {path}: {reason(refused)}") from refused
    return path


def check_writable(folder: Path) -> None:
    """Checks that files can be written into a folder, which need not exist; leaves nothing behind.

    Raises:
        OSError: A part of the path is a file, the folder can't be written, or there is no room.
        ValueError: The path has a null character.
    """
    place = folder
    while True:
        try:
            os.lstat(place)
            break
        except FileNotFoundError:
            if place == place.parent:
                raise
            place = place.parent
    if not stat.S_ISDIR(place.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{place} is not a folder", str(place))
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(_ROOM))
        file.flush()
        os.fsync(file.fileno())


def reason(error: OSError | ValueError) -> str:
    """Why the system refused a file, without the number and the path."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file atomically, as `replacing` does.

    Raises:
        OSError: As raised by the system; no partial file is left.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yields a new file that takes the place of another when the block ends, atomically.

    Other processes see the whole new file or the old one. Of several writers the last one wins.
    Drafts of this file that killed writers have left are removed.

    Raises:
        OSError: As raised by the system; no partial file is left.
    """
    # not tempfile, which ignores the umask and makes files private
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with _open_locked(draft, "xb", wait=True) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # which renames no open file
                draft.replace(path)
        if sys.platform == "win32":
            draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    remove_drafts(path.parent, lambda name: name == path.name)


def remove_drafts(folder: Path, of: Callable[[str], bool]) -> None:
    """Removes the drafts that killed writers have left; a living writer holds a lock on its own.

    Args:
        folder: Where the files are.
        of: Whether drafts of the file with this name are meant.
    """
    for path in folder.iterdir():
        found = re.fullmatch(r"\.(.+)-\w+", path.name)
        if not found or not of(found[1]) or path.is_symlink() or not path.is_file():
            continue
        # written right now, removed by another process, or another user's
        with suppress(BlockingIOError, FileNotFoundError, PermissionError):
            if sys.platform == "win32":  # which removes no open file
                path.unlink()
                continue
            with path.open("r+b") as file:
                if _lock(file, wait=False):
                    path.unlink()


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds a lock file while the block runs, and removes it.

    The system releases the lock when the process ends, even after a kill; the file that is left
    then locks nothing. There are no locks on Windows.

    Raises:
        BlockingIOError: Another process or thread holds the lock, and ``wait`` is False.
        OSError: The lock file can't be created.
    """
    with _open_locked(path, "ab", wait=wait):
        try:
            yield
        finally:
            if sys.platform != "win32":
                path.unlink(missing_ok=True)


@contextmanager
def reserved(lock: Path, error: type[ExplainkitError], what: str = "command") -> Iterator[None]:
    """Creates a lock file's folder if needed, and holds the lock while the block runs.

    A folder that it created is removed again if nothing was written into it.

    Raises:
        ExplainkitError: Of the given class: another ``what`` holds the lock, or the folder can't be
            written.
    """
    with ExitStack() as held:
        try:
            if not lock.parent.exists():
                lock.parent.mkdir(parents=True, exist_ok=True)
                held.callback(_remove_if_empty, lock.parent)
            held.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise error(
                f"{lock.parent} is in use by another {what}: wait for it to end, or choose "
                "another --out"
            ) from None
        except (OSError, ValueError) as refused:
            raise error(f"can't write into {lock.parent}: {reason(refused)}") from refused
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds files, or another process has removed it
        folder.rmdir()


def _open_locked(path: Path, mode: str, *, wait: bool) -> IO[bytes]:
    """Opens a file and locks it; its previous owner may remove it in between."""
    while True:
        file = open(path, mode, opener=_without_waiting)  # noqa: SIM115
        try:
            _lock(file, wait=wait)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Locks an open file; False where there are no locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return False
    return True


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file as `open` does, but never waits for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
