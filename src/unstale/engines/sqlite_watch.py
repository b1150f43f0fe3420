"""Waiting for the files of the SQLite engine to be written: told by the kernel where it can tell, else by looking.

Linux tells with inotify (see inotify(7)): the write-ahead log is written by `pwrite`, which it reports. It is a hint to
look, and never a proof: a file system may tell nothing of what another machine or container does, so whoever waits goes
on looking, only less often.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
import select
import sys
import threading
from collections.abc import Iterable
from typing import Protocol

IN_MODIFY = 0x2
IN_ATTRIB = 0x4  # the number of its names changed: it was deleted, though it is held open
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
EVENTS = IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF
EVENT_BYTES = 4096
MS = 1000


class Heard(enum.Enum):
    """What ended a moment of waiting."""

    NOTHING = enum.auto()
    WRITTEN = enum.auto()  # to the files, or their names: a commit may be seen in a moment
    WOKEN = enum.auto()  # by another thread of this process


class Ear(Protocol):
    """One thread's way to wait. `keen`: it hears of writes."""

    keen: bool

    def forget(self) -> None:
        """Forget an earlier wake."""

    def wake(self) -> None:
        """End the wait that is under way, or the next one; at most once after each `forget`."""

    def wait(self, seconds: float) -> Heard:
        """Wait for at most so long."""

    def close(self) -> None:
        """Give back what the system lent. Idempotent; harmless in a forked child, for its parent too."""


class Nap:
    """Hears of other threads only. A lock, because no waiting in Python costs less."""

    keen = False

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def forget(self) -> None:
        """See `Ear`."""
        self._lock.acquire(blocking=False)

    def wake(self) -> None:
        """See `Ear`."""
        self._lock.release()

    def wait(self, seconds: float) -> Heard:
        """See `Ear`."""
        return Heard.WOKEN if self._lock.acquire(timeout=seconds) else Heard.NOTHING

    def close(self) -> None:
        """See `Ear`."""


class Watch:
    """Hears of writes to some files as well.

    Raises:
        OSError: The system has none to give, or a file is gone.
    """

    keen = True

    def __init__(self, names: Iterable[str]) -> None:
        self._files = self._wakes = -1
        try:
            self._files = _inotify(names)
            self._wakes = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._files, select.POLLIN)
        self._poll.register(self._wakes, select.POLLIN)

    def forget(self) -> None:
        """See `Ear`."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wakes)

    def wake(self) -> None:
        """See `Ear`."""
        os.eventfd_write(self._wakes, 1)

    def wait(self, seconds: float) -> Heard:
        """See `Ear`."""
        heard = Heard.NOTHING
        for file, _events in self._poll.poll(seconds * MS):
            if file == self._wakes:
                return Heard.WOKEN
            with contextlib.suppress(BlockingIOError):
                os.read(file, EVENT_BYTES)  # what remains ends the next wait; equal events are told once
            heard = Heard.WRITTEN
        return heard

    def close(self) -> None:
        """See `Ear`."""
        for file in (self._files, self._wakes):
            if file >= 0:
                os.close(file)
        self._files = self._wakes = -1

    __del__ = close


def listen(names: Iterable[str]) -> Ear:
    """Give the best ear that there is for some files."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # as a rule: the user's number of inotify instances is used up
            return Watch(names)
    return Nap()


def _inotify(names: Iterable[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    instance = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        for name in names:
            _checked(libc.inotify_add_watch(instance, os.fsencode(name), EVENTS))
    except OSError:
        os.close(instance)
        raise
    return instance


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
