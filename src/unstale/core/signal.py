"""A one-shot signal that threads, tasks and simulated processes can wait for alike."""

from __future__ import annotations

from collections.abc import Callable


class Signal:
    """Fires once. Callbacks may be called twice, so they must be idempotent; they must not block.

    No lock is needed: `watch` registers before it looks at `fired`, and `fire` sets `fired` before it looks at the
    callbacks, so in every interleaving at least one of the two makes the call.
    """

    __slots__ = ("_callbacks", "fired")

    def __init__(self) -> None:
        self.fired = False
        self._callbacks: list[Callable[[], object]] = []

    def watch(self, callback: Callable[[], object]) -> None:
        """Call back when the signal fires, at once if it has."""
        self._callbacks.append(callback)
        if self.fired:
            callback()

    def unwatch(self, callback: Callable[[], object]) -> None:
        """Forget a callback: its waiter has given up."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def fire(self) -> None:
        """Wake all who wait, now and later."""
        self.fired = True
        for callback in tuple(self._callbacks):
            callback()
