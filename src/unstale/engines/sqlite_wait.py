"""Waiting for a commit to the file of the SQLite engine, by whatever process: to be told, and to look all the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from unstale.engines.sqlite_open import Life
from unstale.engines.sqlite_watch import Ear, Heard, Nap, listen

# Who waits without being told of writes looks so often whether there was a commit: one of another process is seen half
# of it later, as a rule. What an idle process pays for is being woken up, so after a quiet moment it looks less often.
TICK_S = 0.004
QUIET_TICK_S = 0.009
QUIET_S = 0.25
TOLD_TICK_S = 0.25  # who is told of writes begins with the same tick, and comes to look so seldom in a few steps
SETTLE_S = 0.0003  # from the first write of a commit until it can be seen, as a rule
GAP_S = 0.004  # and who is told of commit after commit looks no more often than so
PLACE_S = 0.05  # whether the file is still the one at its path: whoever polls looks at the end, whatever it is told

Version = tuple[Life, int]


class Waiting:
    """The threads of one process that wait for commits to one file.

    Args:
        version: Gives what stays equal as long as nobody commits to the file; None when there is nothing to compare.
    """

    def __init__(self, version: Callable[[], Version | None]) -> None:
        self.changes = 0
        self.closed = False
        self._version = version
        self._busy_at = 0.0
        self._lock = threading.Lock()
        self._waiting: set[Ear] = set()
        self._ears: dict[Ear, Life] = {}  # all that are open
        self._deaf = False

    def announce(self) -> None:
        """Wake who waits in this process: something was appended."""
        with self._lock:
            self.changes += 1
            for ear in self._waiting:
                ear.wake()
            self._waiting.clear()

    def close(self) -> None:
        """Wake who waits, and let nobody wait any more. Idempotent."""
        with self._lock:
            self.closed = True
            for ear in self._ears.keys() - self._waiting:
                ear.close()
        self.announce()

    def forked(self) -> None:
        """After a fork, in the child: give back what it inherited, whoever held the lock."""
        for ear in list(self._ears):
            ear.close()

    def wait(self, changes: int, version: Version | None, until: float) -> None:
        """Wait until this process has announced a change, or another one has committed, or the file is another.

        Where there was no version to compare with, for a moment only.

        Args:
            changes: What `changes` was before the log was read.
            version: What the version was then.
            until: When to stop waiting, by the monotonic clock.
        """
        with self._lock:
            if self.changes != changes or self.closed:
                return
            ear = self._ear(version)
            ear.forget()
            self._waiting.add(ear)
        try:
            self._listen(ear, version, until)
        finally:
            with self._lock:
                self._waiting.discard(ear)
                if self.closed:
                    ear.close()

    def _ear(self, version: Version | None) -> Ear:
        """Give an ear that nobody else uses, for the files that a version was read from."""
        for ear, life in list(self._ears.items()):
            if ear in self._waiting:
                continue
            if version is not None and life is version[0] and not (ear.keen and self._deaf):
                return ear
            del self._ears[ear]
            ear.close()
        if version is None or self._deaf:
            return Nap()
        ear = listen(version[0].names)
        self._ears[ear] = version[0]
        return ear

    def _listen(self, ear: Ear, version: Version | None, until: float) -> None:
        now = time.monotonic()
        told_s = TICK_S
        while now < until:
            silent_s = TICK_S if now - self._busy_at < QUIET_S else QUIET_TICK_S
            tick_s = told_s if ear.keen else silent_s
            heard = ear.wait(min(until - now, tick_s))
            now = time.monotonic()
            if heard is Heard.WOKEN:
                self._busy_at = now
                return
            told_s = min(4 * told_s, TOLD_TICK_S)
            if heard is Heard.WRITTEN:
                # 1. A writes its commit to the -wal: we are told. 2. We look, and see nothing. 3. A makes it visible,
                # which nobody tells. So looking begins anew with short ticks.
                time.sleep(max(SETTLE_S, min(GAP_S, self._busy_at + GAP_S - now)))
                self._busy_at = now = time.monotonic()
                told_s = TICK_S
            if version is None or self._version() != version:
                if ear.keen and tick_s >= TOLD_TICK_S and Heard.NOTHING is heard is ear.wait(0.0):
                    self._deaf = True  # written to by others, and nobody told: so this file system does not
                self._busy_at = now
                return
            life = version[0]
            if (heard is Heard.WRITTEN or now - life.looked > PLACE_S) and not life.intact():
                return
