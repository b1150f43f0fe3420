"""What happens to the SQLite engine's connections when the process forks (H23).

No connection is carried across a fork. SQLite keeps its table of POSIX locks in the process: a child that merely opened
connections of its own would believe that it holds the locks of its parent, which a fork does not inherit.

1. The parent has the file open, and forks. 2. The child opens it, finds its parent's locks in the table, and takes
none. 3. The parent closes; it is the last that holds a lock, so it removes the -wal, or a third process begins a new
-shm. 4. The child writes to files that nobody else reads.

So all connections are closed before the fork, and opened anew by whoever needs them. A fork that runs no hooks is
noticed by its process id, at the next call.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forking(Protocol):
    """What is told of forks."""

    def pause(self) -> None:
        """Before a fork: release everything, and let nobody acquire it again until `resume` or `forked`."""

    def resume(self) -> None:
        """After a fork, in the parent."""

    def forked(self) -> None:
        """After a fork, in the child: threads and the locks that they held are gone."""


_watched: weakref.WeakSet[Forking] = weakref.WeakSet()
_paused: list[Forking] = []
_forking = threading.Lock()


def watch(one: Forking) -> None:
    """Tell something of forks as long as it lives."""
    _watched.add(one)


def _before() -> None:
    _forking.acquire()
    for one in list(_watched):
        _paused.append(one)
        one.pause()


def _after_in_parent() -> None:
    while _paused:
        _paused.pop().resume()
    _forking.release()


def _after_in_child() -> None:
    global _forking  # noqa: PLW0603 - some servers fork without calling what comes before
    _forking = threading.Lock()
    _paused.clear()
    for one in list(_watched):
        one.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
