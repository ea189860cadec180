"""Who works on a store: one process for all of it, or one for each share."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from explainkit.errors import StorageError
from explainkit.files import locked, reason
from explainkit.jobs.shares import Share


@contextmanager
def owning(store: Path, share: Share) -> Iterator[None]:
    """Holds a share of a store while the block runs.

    The system releases the lock of a process that ends, even after a kill, so that a dead owner's
    lock is taken over.

    Args:
        store: The folder of the store.
        share: The part of its shards.

    Raises:
        StorageError: Another process works on this share, or on an overlapping one.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_hold(store, share))
        except BlockingIOError as error:
            raise StorageError(str(error)) from error
        except OSError as error:
            raise StorageError(f"can't lock {store}: {reason(error)}") from error
        yield


@contextmanager
def _hold(store: Path, share: Share) -> Iterator[None]:
    path = store / f".lock-{share.index}-of-{share.count}"
    with ExitStack() as stack:
        # one process at a time looks who else is there
        with locked(store / ".lock", wait=True):
            for other in store.glob(".lock-*-of-*"):
                if other == path or _disjoint(other, share):
                    continue
                _refuse_if_held(other)
            owner = _owner(path)
            try:
                stack.enter_context(locked(path, wait=False))
            except BlockingIOError as error:
                raise BlockingIOError(_held(path, owner)) from error
            path.write_text(json.dumps({"host": platform.node(), "process": os.getpid()}))
        yield


def _refuse_if_held(path: Path) -> None:
    owner = _owner(path)
    try:
        with locked(path, wait=False):
            pass
    except BlockingIOError as error:
        raise BlockingIOError(_held(path, owner)) from error


def _disjoint(path: Path, share: Share) -> bool:
    """Whether a lock is of another share of the same number of shares."""
    return path.name.endswith(f"-of-{share.count}")


def _owner(path: Path) -> str:
    """Host and process that a lock file names."""
    try:
        found = json.loads(path.read_text())
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _held(path: Path, owner: str) -> str:
    return f"{owner} works on {path.parent}: wait until it ends, or give each process its shard i/n"
