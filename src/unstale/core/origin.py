"""The bound on concurrent loads of one origin: what keeps a database alive when many entries end at once (H25, H26)."""

from __future__ import annotations

from collections import deque

from unstale.core.durations import Duration, seconds
from unstale.core.ops import Wait
from unstale.core.signal import Signal
from unstale.errors import OriginBusyError, PolicyError


class Origin:
    """A source of truth that bears only so many loads at a time from this process.

    Args:
        limit: Loads at a time.
        wait: How long a load may wait for its turn, in the order of arrival.
        name: For messages.

    Raises:
        PolicyError: A limit that is no number, or below 1; a name that is no text.
        DurationError: A wait that cannot be read.
    """

    __slots__ = ("_places", "_queue", "limit", "name", "wait_s")

    def __init__(self, limit: int, *, wait: Duration = "10s", name: str = "origin") -> None:
        if type(limit) is not int:
            raise PolicyError(f"limit is a whole number, not {limit!r}", hint="write Origin(limit=20)")
        if limit < 1:
            msg = f"an origin with limit={limit!r} could never be asked"
            raise PolicyError(msg, hint="write Origin(limit=20)")
        if not isinstance(name, str):
            raise PolicyError(f"name is a text, not {name!r}", hint='write Origin(limit=20, name="orders")')
        self.limit = limit
        self.wait_s = seconds(wait, "wait")
        self.name = name
        self._places: deque[None] = deque([None] * limit)
        self._queue: deque[Signal] = deque()

    @property
    def waiting(self) -> int:
        """Loads that wait for their turn."""
        return len(self._queue)

    async def enter(self) -> None:
        """Take a place, waiting for one in the order of arrival.

        Raises:
            OriginBusyError: None became free in time.
        """
        turn = Signal()
        self._queue.append(turn)
        self._admit()
        try:
            admitted = await Wait(turn, self.wait_s)
        except BaseException:
            if not self._withdraw(turn):
                self.leave()  # the place came at the very moment at which the caller was cancelled
            raise
        if not admitted and self._withdraw(turn):
            msg = f"{self.limit} loads of {self.name} were under way for {self.wait_s:g} s"
            raise OriginBusyError(
                msg, hint="raise Origin(limit=...) if the database can bear it, or give the policy a grace"
            )

    def leave(self) -> None:
        """Give the place to the next."""
        self._places.append(None)
        self._admit()

    def _withdraw(self, turn: Signal) -> bool:
        """Leave the queue; False when the turn has come meanwhile."""
        try:
            self._queue.remove(turn)
        except ValueError:
            return False
        return True

    def _admit(self) -> None:
        # Without a lock: operations of a deque are atomic. Whoever took a place and then found no one waiting puts it
        # back and looks again, so that one who came in between, and found no place, is not forgotten.
        while self._queue:
            try:
                self._places.pop()
            except IndexError:
                return
            try:
                turn = self._queue.popleft()
            except IndexError:
                self._places.append(None)
                continue
            turn.fire()
