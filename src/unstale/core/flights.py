"""Flights: one load per key and node, however many readers wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstale.core.signal import Signal

if TYPE_CHECKING:
    from unstale.core.record import Stamp
    from unstale.core.served import Served


class Flight:
    """A load under way.

    Attributes:
        key: The stored key.
        signal: Fires when it has ended, in whatever way.
        home: The thread that runs it: a blocking reader in that thread cannot wait for it.
        begun: The moment at which its stamp was captured; None while it waits for its turn.
        view_from: The earliest moment that its read view may show (`begun`, less the replica lag).
        stamp: What had been applied by then; None when the node knew no log.
        scopes: The scopes that it is known to depend on: its key first; complete once it has landed.
        served: The result, once there is one.
        error: The exception that it ended with.
        waits_for: The flight that its loader waits for, to find circles.
    """

    __slots__ = ("begun", "error", "home", "key", "scopes", "served", "signal", "stamp", "view_from", "waits_for")

    def __init__(self, key: str, scopes: tuple[str, ...], home: object) -> None:
        self.key = key
        self.scopes = scopes
        self.home = home
        self.signal = Signal()
        self.begun: float | None = None
        self.view_from: float | None = None
        self.stamp: Stamp | None = None
        self.served: Served | None = None
        self.error: Exception | None = None
        self.waits_for: Flight | None = None

    @property
    def has_outcome(self) -> bool:
        """It ended with a result or an exception; without either its leader was cancelled or died."""
        return self.served is not None or self.error is not None

    def circles_back_to(self, flight: Flight | None) -> bool:
        """Say whether waiting for this one, from within `flight`, would wait for ever (H24)."""
        at: Flight | None = self
        while at is not None and flight is not None:
            if at is flight:
                return True
            at = at.waits_for
        return False
