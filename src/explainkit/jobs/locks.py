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
    path = store / f".lock-{share.index}-of-{share.count}"
    with ExitStack() as stack:
        try:
            # one process at a time looks who else is there
            with locked(store / ".lock", wait=True), ExitStack() as meanwhile:
                for other in store.glob(".lock-*-of-*"):
                    # of the same number of shares, others are disjoint
                    if not other.name.endswith(f"-of-{share.count}"):
                        _hold(other, meanwhile)
                _hold(path, stack)
                path.write_text(json.dumps({"host": platform.node(), "process": os.getpid()}))
        except OSError as error:
            raise StorageError(f"can't lock {store}: {reason(error)}") from error
        yield


def _hold(path: Path, stack: ExitStack) -> None:
    """Locks a file until a stack ends.

    Raises:
        StorageError: Another process holds it.
    """
    owner = _owner(path)
    try:
        stack.enter_context(locked(path, wait=False))
    except BlockingIOError as error:
        raise StorageError(
            f"{owner} works on {path.parent}: wait until it ends, or give each process its shard "
            "i/n"
        ) from error


def _owner(path: Path) -> str:
    """Host and process that a lock file names."""
    try:
        found = json.loads(path.read_text())
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
